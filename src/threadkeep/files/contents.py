"""What files contain: bytes written ahead of the row that names them, and deleted after it.

    write:  work item "blob" committed ─▶ blob durable ─▶ in one transaction: row, and the item withdrawn
    drop:   in one transaction: row deleted, item "blob" made ─▶ blob deleted ─▶ item finished

So every blob is named by a row or by an item of due work, whatever dies when; nothing is found by listing the store,
which may hold what is not ours. An item that nobody withdraws comes due a day later and takes the blob away.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Final, Protocol, TypeVar

from threadkeep.contract.errors import Unavailable
from threadkeep.logs import Log
from threadkeep.storage.blobs import Blob, Blobs, new_key
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.work import Lease

log = Log(__name__)

T = TypeVar("T")

BLOB: Final = "blob"
# Longer than writing any blob may take, see `api.call.Limits`.
_WRITE_S: Final = 24 * 3600
# How long a blob that could not be deleted is left alone.
_AGAIN_S: Final = 60


class HeldItem(Protocol):
    """An item of due work in the hands of a handler; ``settled`` once its lease is finished or given back."""

    lease: Lease
    settled: bool


class Contents:
    """The contents of all files, in one blob store."""

    def __init__(self, store: Store, blobs: Blobs) -> None:
        self._store = store
        self._blobs = blobs

    async def write(self, project: str, pieces: AsyncIterable[bytes]) -> Blob:
        """A durable blob of ``pieces``. It goes again unless a row comes to name it: see ``commit``."""
        key = new_key()
        due_at_ms = round((time.time() + _WRITE_S) * 1000)
        await self._store.write(project, lambda tx: tx.work.insert(BLOB, key, due_at_ms=due_at_ms))
        try:
            return await self._blobs.write(key, pieces)
        except Exception:
            await self.discard(key)
            raise

    async def commit(self, project: str, blob: Blob, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns once it has written, durably, the row that names the blob. If it can't, the blob goes."""

        def write(tx: Transaction) -> T:
            keep(tx, [blob])
            return fn(tx)

        try:
            return await self._store.write(project, write)
        except Unavailable:
            # Nothing could be noted now, and whoever waits has waited long: a day later, if no row names it.
            raise
        except Exception:
            await self.discard(blob.key)
            raise

    async def discard(self, key: str) -> None:
        """The blob was written for nothing: it is deleted soon."""
        try:
            await self._store.write(None, lambda tx: tx.work.touch(BLOB, key))
        except Unavailable:
            # Then a day later.
            log.warning("discard_failed", blob=key)

    async def read(self, blobs: Sequence[Blob], start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` to before ``end`` of the blobs in a row; `BlobMissing` if one is gone."""
        left = sum(blob.size for blob in blobs) if end is None else end
        for blob in blobs:
            if left <= 0:
                return
            if start < blob.size:
                async with aclosing(self._blobs.read(blob.key, start, min(left, blob.size))) as pieces:
                    async for piece in pieces:
                        yield piece
            start, left = max(start - blob.size, 0), left - blob.size

    async def check(self) -> None:
        """Returns when blobs can be written."""
        await self._blobs.check()

    async def handle(self, held: HeldItem) -> None:
        """Deletes a blob that no row names; the handler of due work of kind ``blob``."""
        item, token = held.lease.item, held.lease.token
        try:
            await self._blobs.delete(item.key)
        except Unavailable as error:
            log.warning("blob_not_deleted", error=error, blob=item.key)
            again_ms = round((time.time() + _AGAIN_S) * 1000)
            held.settled = True
            await self._store.write(None, lambda tx: tx.work.release(BLOB, item.key, token, due_at_ms=again_ms))
            return
        held.settled = True
        await self._store.write(None, lambda tx: tx.work.finish(BLOB, item.key, token))


def keep(tx: Transaction, blobs: Iterable[Blob]) -> None:
    """The row that names the blobs is written in this transaction, after this."""
    for blob in blobs:
        # A blob whose time to be named has run out is being deleted.
        if not tx.work.withdraw(BLOB, blob.key):
            raise Unavailable("The file took too long to arrive. Please send it again.")


def drop(tx: Transaction, blobs: Iterable[Blob]) -> None:
    """The row that named the blobs goes in this transaction; they go after it."""
    for blob in blobs:
        tx.work.insert(BLOB, blob.key)
