"""Where the bytes of files lie: one small interface, a folder and S3 behind it.

A blob is written once, under a key that we made up, and never changes: names of strangers are no paths here. Whoever
writes one has noted its key in the database first (see `files.contents`), so nothing here ever needs to be listed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from threadkeep.contract.errors import ThreadkeepError, Unavailable
from threadkeep.storage.errors import UnusableBlobs

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

# Bytes go to and from the disk, and to whoever reads, in pieces of this size.
PIECE_BYTES: Final = 1024**2
# macOS: fsync alone stops at the drive's cache.
_FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)


class Blob(NamedTuple):
    """A written blob."""

    key: str
    size: int


class BlobMissing(ThreadkeepError):
    """There is no such blob: it was deleted a moment ago, or the store has lost it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"The blob {key} is missing.")


class Blobs(Protocol):
    """A blob store. Its troubles are `Unavailable`."""

    # How a person calls the place; holds no secret.
    place: str

    async def write(self, key: str, pieces: AsyncIterable[bytes]) -> Blob:
        """Stores all ``pieces`` under ``key``, which is new; durable when it returns.

        What ``pieces`` raise is raised; what was written so far is gone then, or is once ``delete`` was called.
        """
        ...

    def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` to before ``end``, in pieces; `BlobMissing` if there is no such blob."""
        ...

    async def delete(self, key: str) -> None:
        """The blob is gone for good when this returns, whether there was one or not."""
        ...

    async def check(self) -> None:
        """Returns when the store can be written."""
        ...

    async def close(self) -> None: ...


def new_key() -> str:
    return secrets.token_hex(16)


async def open_blobs(blobs_url: str | None, data_dir: Path) -> Blobs:
    """The store that the setting names: without one, a folder in the data folder."""
    parts = urlsplit(blobs_url or "")
    match parts.scheme:
        case "s3":
            return S3Blobs(parts.netloc, parts.path.strip("/"))
        case "file" | "":
            return await asyncio.to_thread(FolderBlobs, blobs_folder(blobs_url, data_dir))
        case scheme:
            raise UnusableBlobs(f"{scheme}:", "expected file:///folder or s3://bucket/prefix")


def blobs_folder(blobs_url: str | None, data_dir: Path) -> Path:
    """The folder that a ``file:`` URL, or no URL, stands for."""
    return Path(unquote(urlsplit(blobs_url).path)) if blobs_url else data_dir / "blobs"


class FolderBlobs:
    """Blobs as files, by the first two letters of their keys in 256 folders.

    A blob is synced, and its folder, before ``write`` returns. There is no temporary name: nobody looks for a key
    before the row that names it is committed.
    """

    def __init__(self, folder: Path) -> None:
        """Makes the folders; blocks."""
        self.place = str(folder)
        self._folder = folder
        try:
            _make_folders(folder)
        except OSError as error:
            raise UnusableBlobs(self.place, error.strerror or str(error)) from error
        # Their own: waiting for a disk must not hold up what else is done in threads.
        self._threads = ThreadPoolExecutor(8, "blobs")

    async def write(self, key: str, pieces: AsyncIterable[bytes]) -> Blob:
        path = self._path(key)
        descriptor = await self._run(lambda: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        size = 0
        try:
            waiting = bytearray()
            async for piece in pieces:
                waiting += piece
                if len(waiting) >= PIECE_BYTES:
                    full, waiting = waiting, bytearray()
                    size += len(full)
                    await self._run(lambda full=full: _write_all(descriptor, full))
            size += len(waiting)
            await self._run(lambda: _finish(descriptor, waiting, path.parent))
        except BaseException:
            # Where even that fails, due work deletes it later.
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return Blob(key, size)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        path = self._path(key)
        descriptor = await self._run(lambda: _open_to_read(path))
        if descriptor is None:
            raise BlobMissing(key)
        try:
            while start < end:
                piece = await self._run(lambda start=start: os.pread(descriptor, min(PIECE_BYTES, end - start), start))
                if not piece:
                    raise BlobMissing(key)
                start += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def delete(self, key: str) -> None:
        path = self._path(key)

        def unlink() -> None:
            path.unlink(missing_ok=True)
            # Else a power cut brings back a file that no row knows of.
            _sync(path.parent)

        await self._run(unlink)

    async def check(self) -> None:
        probe = self._folder / f"check-{secrets.token_hex(8)}"

        def write() -> None:
            try:
                probe.write_bytes(b"threadkeep")
            finally:
                probe.unlink(missing_ok=True)

        await self._run(write)

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / key

    async def _run(self, do: Callable[[], T]) -> T:
        """``do`` in a thread. Whoever is cancelled waits for it first: its descriptor must not be closed under it."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, do)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        except OSError as error:
            raise _away(error) from error


class S3Blobs:
    """Blobs in a bucket. Credentials, region and endpoint are those of the usual ``AWS_…`` variables."""

    # S3 takes parts from 5 MiB on, 10,000 of them. Two are under way while the next one fills.
    _PART_BYTES = 5 * 1024**2
    _PARTS_AT_ONCE = 2
    # How much is asked for at once: each request costs the way there and back.
    _READ_BYTES = 4 * 1024**2

    def __init__(self, bucket: str, prefix: str) -> None:
        # Loads 30 MB of library, which the embedded shape does without.
        from obstore.store import S3Store  # noqa: PLC0415

        self.place = f"s3://{bucket}/{prefix}".rstrip("/")
        try:
            self._store: S3Store = S3Store(
                bucket,
                prefix=prefix or None,
                # Plain http only where the endpoint's own URL says so.
                client_options={"allow_http": True, "connect_timeout": "5s", "timeout": "60s"},
                retry_config={"max_retries": 4, "retry_timeout": timedelta(seconds=30)},
            )
        except Exception as error:
            raise UnusableBlobs(self.place, str(error).partition("\n")[0]) from error

    async def write(self, key: str, pieces: AsyncIterable[bytes]) -> Blob:
        import obstore  # noqa: PLC0415

        size = 0
        source = aiter(pieces)

        async def gathered(least: int) -> bytes:
            """So many bytes, and a piece more at most; fewer where they end."""
            nonlocal size
            some = bytearray()
            async for piece in source:
                some += piece
                if len(some) >= least:
                    break
            size += len(some)
            return bytes(some)

        first = await gathered(self._PART_BYTES)
        if size < self._PART_BYTES:
            # One request instead of three.
            await self._asked(key, obstore.put_async(self._store, key, first), is_write=True)
            return Blob(key, size)

        async def parts() -> AsyncGenerator[bytes, None]:
            nonlocal first
            piece, first = first, b""
            while piece:
                yield piece
                piece = await gathered(PIECE_BYTES)

        # What ``pieces`` raise ends the upload at the store too, and comes out here as it is.
        await self._asked(
            key,
            obstore.put_async(
                self._store, key, parts(), chunk_size=self._PART_BYTES, max_concurrency=self._PARTS_AT_ONCE
            ),
            is_write=True,
        )
        return Blob(key, size)

    async def read(self, key: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        import obstore  # noqa: PLC0415

        while start < end:
            upto = min(start + self._READ_BYTES, end)
            # Ranges instead of one long answer: a reader may take hours, and each request may be tried again.
            got = await self._asked(key, obstore.get_range_async(self._store, key, start=start, end=upto))
            whole = memoryview(got)
            if len(whole) != upto - start:
                raise BlobMissing(key)
            for at in range(0, len(whole), PIECE_BYTES):
                yield bytes(whole[at : at + PIECE_BYTES])
            start = upto

    async def delete(self, key: str) -> None:
        import obstore  # noqa: PLC0415

        try:
            await self._asked(key, obstore.delete_async(self._store, key))
        except BlobMissing:
            return

    async def check(self) -> None:
        import obstore  # noqa: PLC0415

        # Looking for a blob would find no fault with a bucket that is not there.
        probe = f"check-{secrets.token_hex(8)}"
        await self._asked(probe, obstore.put_async(self._store, probe, b"threadkeep"), is_write=True)
        await self._asked(probe, obstore.delete_async(self._store, probe))

    async def close(self) -> None:
        """Connections are closed when nobody refers to the store any more."""

    async def _asked(self, key: str, request: Awaitable[T], *, is_write: bool = False) -> T:
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            return await request
        except FileNotFoundError as error:
            if not is_write:
                raise BlobMissing(key) from None
            raise _away() from error
        except BaseError as error:
            raise _away() from error


def _away(error: OSError | None = None) -> Unavailable:
    match error and error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            trouble = "is full"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            trouble = "cannot be written"
        case _:
            trouble = "is away at the moment"
    return Unavailable(f"The server's file storage {trouble}. Please try again later.")


def _make_folders(folder: Path) -> None:
    is_new = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = {path.name for path in folder.iterdir()}
    for number in range(256):
        if (name := f"{number:02x}") not in there:
            (folder / name).mkdir(mode=0o700, exist_ok=True)
    _sync(folder)
    if is_new:
        _sync(folder.parent)
    if not os.access(folder / "00", os.W_OK | os.X_OK):
        raise PermissionError(13, "Permission denied")


def _write_all(descriptor: int, piece: bytes | bytearray) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(descriptor, left) :]


def _finish(descriptor: int, last: bytes | bytearray, folder: Path) -> None:
    _write_all(descriptor, last)
    _sync_descriptor(descriptor)
    _sync(folder)


def _open_to_read(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        # Without its folder it is not the blob that is missing.
        path.parent.stat()
        return None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _sync_descriptor(descriptor: int) -> None:
    if _FULL_SYNC is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, _FULL_SYNC)
