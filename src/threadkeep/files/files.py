"""The verbs of files: a file comes to be when its contents are durable, and goes when asked to or when its time is up.

What searches a file or gives it to code forgets it when it goes, as due work. Messages go on referring to it; whoever
uses the reference then fails and says so.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import UNSET

from threadkeep.contract.errors import no_such
from threadkeep.contract.files import AnyFilePurpose, File
from threadkeep.contract.ids import created_at, new_id
from threadkeep.files.contents import HeldItem, drop
from threadkeep.logs import Log
from threadkeep.storage.blobs import Blob
from threadkeep.storage.store import Store, Transaction

log = Log(__name__)

# Due work: the file's time is over.
FILE: Final = "file"
# Due work: a file went, and vector stores and lists of files are to forget it; see `search.ingest`. The key is its id.
FORGET: Final = "forget"
# The contract's (``FileExpirationAfter``): files of other purposes stay.
_BATCH_EXPIRES_S: Final = 30 * 24 * 3600


def create_file(
    tx: Transaction,
    *,
    filename: str,
    purpose: AnyFilePurpose,
    blobs: Sequence[Blob],
    expires_s: int | None = None,
) -> File:
    """A file that consists of ``blobs``; ``expires_s`` is how long it stays, where that is not for good."""
    now = created_at()
    if expires_s is None and purpose == "batch":
        expires_s = _BATCH_EXPIRES_S
    expires_at = None if expires_s is None else now + expires_s
    file = File(
        id=new_id("file"),
        bytes=sum(blob.size for blob in blobs),
        created_at=now,
        expires_at=UNSET if expires_at is None else expires_at,
        filename=filename,
        purpose=purpose,
        status="processed",
    )
    tx.files.insert(file, list(blobs))
    if expires_at is not None:
        tx.work.insert(FILE, file.id, due_at_ms=expires_at * 1000)
    return file


def delete_file(tx: Transaction, file_id: str) -> None:
    """``deleteFile``."""
    if (blobs := tx.files.delete(file_id)) is None:
        raise no_such("File", file_id)
    drop(tx, blobs)
    tx.work.ensure(FORGET, file_id)
    # Held by a worker at this moment, it finds nothing to do.
    tx.work.withdraw(FILE, file_id)


class Expiry:
    """Takes files away whose time is over; the handler of due work of kind ``file``."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def handle(self, held: HeldItem) -> None:
        item, token = held.lease.item, held.lease.token

        def expire(tx: Transaction) -> bool:
            tx.work.finish(FILE, item.key, token)
            if (blobs := tx.files.delete_expired(item.key)) is not None:
                drop(tx, blobs)
                tx.work.ensure(FORGET, item.key)
            return blobs is not None

        held.settled = True
        if await self._store.write(item.project, expire):
            log.info("file_expired", file_id=item.key)
