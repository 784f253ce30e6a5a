"""An answer that is a file's content, streamed from its blobs: whole, or one range of it.

Whatever the file claims to be, no browser opens it: it is an attachment, of exactly the type its name says, and may run
nothing.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from email.utils import formatdate
from mimetypes import MimeTypes
from typing import Final
from urllib.parse import quote

from starlette.types import Receive, Send

from threadkeep.api.call import ClientGone
from threadkeep.api.errors import RangeNotSatisfiable
from threadkeep.contract.errors import no_such
from threadkeep.contract.files import File
from threadkeep.files.contents import Contents
from threadkeep.storage.blobs import Blob, BlobMissing

# Of Python's own table, not of the machine's.
_TYPES: Final = MimeTypes(filenames=())
for _extension, _type in {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".webp": "image/webp",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}.items():
    _TYPES.add_type(_type, _extension)
_RANGE: Final = re.compile(rb"\s*bytes\s*=\s*([0-9]{0,18})-([0-9]{0,18})\s*")
_NOT_PLAIN: Final = re.compile(r"[^A-Za-z0-9._ ()-]")
# How much of a name is told: a client would not store a longer one.
_MAX_TOLD: Final = 255


class Download:
    """What ``file`` contains, as far as ``headers`` ask for it."""

    def __init__(
        self,
        contents: Contents,
        file: File,
        blobs: Sequence[Blob],
        headers: dict[bytes, bytes],
        *,
        is_there: Callable[[], Awaitable[bool]],
        stall_s: float,
    ) -> None:
        self._contents = contents
        # Whether there still is such a file.
        self._is_there = is_there
        self._file = file
        self._blobs = blobs
        # A client that takes no byte for so long is given up.
        self._stall_s = stall_s
        self._etag = f'"{file.id}"'.encode()
        self._modified = formatdate(file.created_at, usegmt=True).encode()
        self._range = self._asked_range(headers)

    async def answer(self, receive: Receive, send: Send, *, is_head: bool) -> None:
        try:
            await self._send(receive, send, is_head=is_head)
        except BlobMissing:
            # Of a file that is deleted while it is read the content goes too; of one that is there it was lost.
            if await self._is_there():
                raise
            raise no_such("File", self._file.id) from None

    async def _send(self, receive: Receive, send: Send, *, is_head: bool) -> None:
        size = self._file.bytes
        start, end = self._range or (0, size)
        headers = [
            (b"content-type", _type_of(self._file.filename)),
            (b"content-length", b"%d" % (end - start)),
            (b"content-disposition", _disposition(self._file.filename)),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", b"default-src 'none'; sandbox"),
            (b"accept-ranges", b"bytes"),
            (b"etag", self._etag),
            (b"last-modified", self._modified),
            (b"cache-control", b"private, no-transform"),
        ]
        if self._range is not None:
            headers.append((b"content-range", b"bytes %d-%d/%d" % (start, end - 1, size)))
        async with aclosing(self._contents.read(self._blobs, start, end)) as pieces:
            # Ahead of the status: what can go wrong mostly does so here.
            piece = None if is_head else await anext(pieces, None)
            await send(
                {
                    "type": "http.response.start",
                    "status": 200 if self._range is None else 206,
                    "headers": headers,
                }
            )
            gone = asyncio.create_task(_left(receive))
            try:
                while piece is not None:
                    if gone.done():
                        # Whatever is sent now is thrown away.
                        raise ClientGone
                    try:
                        async with asyncio.timeout(self._stall_s):
                            await send({"type": "http.response.body", "body": piece, "more_body": True})
                    except TimeoutError:
                        raise ClientGone from None
                    piece = await anext(pieces, None)
                await send({"type": "http.response.body", "body": b""})
            finally:
                gone.cancel()

    def _asked_range(self, headers: dict[bytes, bytes]) -> tuple[int, int] | None:
        """From and before which byte; None for all. Several ranges at once, or other units, may be answered whole."""
        asked = _RANGE.fullmatch(headers.get(b"range", b""))
        unless_changed = headers.get(b"if-range")
        if asked is None or (unless_changed is not None and unless_changed not in (self._etag, self._modified)):
            return None
        first, last = asked.groups()
        size = self._file.bytes
        if first:
            start, end = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return None
        elif last:
            start, end = max(size - int(last), 0), size
        else:
            return None
        if start >= end:
            raise RangeNotSatisfiable(size)
        return start, end


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _type_of(filename: str) -> bytes:
    kind, encoding = _TYPES.guess_type(f"_/{filename.rpartition('/')[2]}", strict=False)
    return (kind if kind is not None and encoding is None else "application/octet-stream").encode()


def _disposition(filename: str) -> bytes:
    """``filename`` for old clients, ``filename*`` (RFC 5987) for all others."""
    told = filename[:_MAX_TOLD]
    plain = _NOT_PLAIN.sub("_", told)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(told, safe='')}".encode()
