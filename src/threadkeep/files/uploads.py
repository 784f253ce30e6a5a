"""The verbs of uploads: parts gather in any order, and completing makes a file of those that are named, in that order.

    pending ──complete──▶ completed      the parts' blobs become the file's: no byte is copied
       ├──────cancel────▶ cancelled
       └── an hour later ▶ expired

A move is made under the row's lock, so of two clients that move at once one wins and the other is told. An upload that
moved is forgotten a day after it would have expired.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.ids import created_at, new_id
from threadkeep.contract.uploads import MAX_PARTS, CompleteUploadRequest, CreateUploadRequest, Upload, UploadPart
from threadkeep.files.contents import Contents, HeldItem, drop
from threadkeep.files.files import create_file
from threadkeep.logs import Log
from threadkeep.storage.blobs import Blob
from threadkeep.storage.outcomes import Once, do_once
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.uploads import StoredUpload

log = Log(__name__)

# Due work: the upload's time is over, or it can be forgotten.
UPLOAD: Final = "upload"
EXPIRES_S: Final = 3600
_REMEMBERED_S: Final = 24 * 3600


class Uploads:
    """The verbs, on one store and the contents of its files."""

    def __init__(self, store: Store, contents: Contents) -> None:
        self._store = store
        self._contents = contents

    async def create(self, project: str, request: CreateUploadRequest, *, once: Once | None = None) -> Upload:
        """``createUpload``; with ``once``, again and again for one upload."""
        now = created_at()
        upload = Upload(
            id=new_id("upload"),
            created_at=now,
            filename=request.filename,
            bytes=request.bytes,
            purpose=request.purpose,
            status="pending",
            expires_at=now + EXPIRES_S,
            file=None,
        )
        expires_s = None if request.expires_after is None else request.expires_after.seconds

        def write(tx: Transaction) -> Upload:
            tx.uploads.insert(upload, file_expires_s=expires_s)
            tx.work.insert(UPLOAD, upload.id, due_at_ms=upload.expires_at * 1000)
            return upload

        created, _ = await self._store.write(project, lambda tx: do_once(tx, once, Upload, lambda: write(tx)))
        return created

    async def room(self, project: str, upload_id: str) -> int:
        """How many bytes the upload still takes; refused unless it takes parts."""

        def read(tx: Transaction) -> int:
            upload = _pending(tx.uploads.get(upload_id), "accept parts")
            return upload.bytes - tx.uploads.received(upload_id).size

        return await self._store.read(project, read)

    async def add_part(self, project: str, upload_id: str, blob: Blob) -> UploadPart:
        """``addUploadPart``, of bytes that `Contents` has written."""
        part = UploadPart(id=new_id("part"), created_at=created_at(), upload_id=upload_id)

        def write(tx: Transaction) -> None:
            # Locked: parts that come at once are counted one after the other.
            upload = _pending(tx.uploads.lock(upload_id), "accept parts")
            received = tx.uploads.received(upload_id)
            if received.size + blob.size > upload.bytes:
                raise too_many_bytes()
            if received.parts >= MAX_PARTS:
                raise InvalidRequest(f"An upload takes at most {MAX_PARTS} parts.", param="data")
            tx.uploads.insert_part(upload_id, part.id, blob)

        await self._contents.commit(project, blob, write)
        return part

    async def complete(self, project: str, upload_id: str, request: CompleteUploadRequest) -> Upload:
        """``completeUpload``. Asked again for the same, it answers the same."""
        part_ids = request.part_ids
        if request.md5 is not None:
            blobs = await self._store.read(project, lambda tx: _chosen(tx, tx.uploads.get(upload_id), part_ids))
            # None: it is completed already, and was checked then.
            if blobs is not None and await self._md5(blobs) != request.md5.lower():
                raise InvalidRequest(
                    "The MD5 checksum does not match the uploaded bytes.", param="md5", code="invalid_value"
                )

        def write(tx: Transaction) -> Upload:
            stored = tx.uploads.lock(upload_id)
            chosen = _chosen(tx, stored, part_ids)
            if chosen is None:
                return stored.upload
            named = set(part_ids)
            drop(tx, [blob for part_id, blob in tx.uploads.parts(upload_id).items() if part_id not in named])
            tx.uploads.delete_parts(upload_id)
            file = create_file(
                tx,
                filename=stored.upload.filename,
                purpose=stored.upload.purpose,
                blobs=chosen,
                expires_s=stored.file_expires_s,
            )
            upload = replace(stored.upload, status="completed", file=file)
            tx.uploads.replace(upload, completed_from=part_ids)
            return upload

        return await self._store.write(project, write)

    async def cancel(self, project: str, upload_id: str, *, once: Once | None = None) -> Upload:
        """``cancelUpload``."""

        def write(tx: Transaction) -> Upload:
            upload = _pending(tx.uploads.lock(upload_id), "be cancelled")
            return _end(tx, replace(upload, status="cancelled"))

        cancelled, _ = await self._store.write(project, lambda tx: do_once(tx, once, Upload, lambda: write(tx)))
        return cancelled

    async def handle(self, held: HeldItem) -> None:
        """Expires a pending upload, and a day later forgets it; the handler of due work of kind ``upload``."""
        item, token = held.lease.item, held.lease.token

        def expire(tx: Transaction) -> bool:
            stored = tx.uploads.find(item.key)
            if stored is None or created_at() >= stored.upload.expires_at + _REMEMBERED_S:
                tx.work.finish(UPLOAD, item.key, token)
                drop(tx, tx.uploads.parts(item.key).values())
                tx.uploads.delete(item.key)
                return False
            tx.work.release(UPLOAD, item.key, token, due_at_ms=(stored.upload.expires_at + _REMEMBERED_S) * 1000)
            upload = tx.uploads.lock(item.key).upload
            if upload.status != "pending":
                return False
            _end(tx, replace(upload, status="expired"))
            return True

        held.settled = True
        if await self._store.write(item.project, expire):
            log.info("upload_expired", upload_id=item.key)

    async def _md5(self, blobs: Sequence[Blob]) -> str:
        """Of the bytes as they are read back: this checks the store along with the client."""
        digest = hashlib.md5(usedforsecurity=False)
        async for piece in self._contents.read(blobs):
            await asyncio.to_thread(digest.update, piece)
        return digest.hexdigest()


def too_many_bytes() -> InvalidRequest:
    return InvalidRequest(
        "The parts are larger than the upload: together they may hold the bytes that it was created for.",
        param="data",
        code="invalid_value",
    )


def _pending(stored: StoredUpload, about_to: str) -> Upload:
    upload = stored.upload
    # Past its time an upload is expired, even where the worker has not come round to it yet.
    is_late = upload.status == "pending" and created_at() >= upload.expires_at
    status = "expired" if is_late else upload.status
    if status != "pending":
        raise InvalidRequest(f"Upload {upload.id} has status '{status}' and can no longer {about_to}.")
    return upload


def _chosen(tx: Transaction, stored: StoredUpload, part_ids: list[str]) -> list[Blob] | None:
    """The blobs of the parts that are to make the file, or None when exactly these have made it already."""
    if stored.completed_from == part_ids:
        return None
    upload = _pending(stored, "be completed")
    parts = tx.uploads.parts(upload.id)
    seen: set[str] = set()
    for index, part_id in enumerate(part_ids):
        param = f"part_ids[{index}]"
        if part_id not in parts:
            raise InvalidRequest(f"No such Part object: {part_id}", param=param, code="invalid_value")
        if part_id in seen:
            raise InvalidRequest(f"The part {part_id} is named twice.", param=param, code="invalid_value")
        seen.add(part_id)
    blobs = [parts[part_id] for part_id in part_ids]
    size = sum(blob.size for blob in blobs)
    if size != upload.bytes:
        raise InvalidRequest(
            f"The parts hold {size} bytes, but the upload was created for {upload.bytes} bytes.",
            param="part_ids",
            code="invalid_value",
        )
    return blobs


def _end(tx: Transaction, upload: Upload) -> Upload:
    """Writes an upload that will never be a file."""
    drop(tx, tx.uploads.parts(upload.id).values())
    tx.uploads.delete_parts(upload.id)
    tx.uploads.replace(upload)
    return upload
