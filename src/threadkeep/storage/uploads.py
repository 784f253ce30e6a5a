"""Uploads of a project, and the parts of those that are not completed."""

from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import no_such
from threadkeep.contract.uploads import Upload
from threadkeep.storage.blobs import Blob
from threadkeep.storage.paging import encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import upload_parts, uploads

_decoder = msgspec.json.Decoder(Upload)
_ids_decoder = msgspec.json.Decoder(list[str])
_encoder = msgspec.json.Encoder()
_one = (uploads.c.project_id == PROJECT, uploads.c.id == text("id_"))
_upload = sa.select(uploads.c.object, uploads.c.file_expires_s, uploads.c.completed_from)
_parts = (upload_parts.c.project_id == PROJECT, upload_parts.c.upload_id == text("upload"))

INSERT = Statement(
    sa.insert(uploads).values(
        project_id=PROJECT,
        id=text("id_"),
        status=text("status"),
        object=text("json"),
        file_expires_s=number("file_expires_s"),
    )
)
GET = Statement(_upload.where(*_one))
LOCK = Statement(_upload.where(*_one).with_for_update(key_share=True))
REPLACE = Statement(
    sa.update(uploads)
    .where(*_one)
    .values(status=text("status"), object=text("json"), completed_from=text("completed_from"))
)
DELETE = Statement(sa.delete(uploads).where(*_one))
INSERT_PART = Statement(
    sa.insert(upload_parts).values(
        project_id=PROJECT, upload_id=text("upload"), id=text("id_"), blob=text("blob"), bytes=number("bytes_")
    )
)
PARTS = Statement(sa.select(upload_parts.c.id, upload_parts.c.blob, upload_parts.c.bytes).where(*_parts))
RECEIVED = Statement(
    sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(upload_parts.c.bytes), sa.literal_column("0"))).where(
        *_parts
    )
)
DELETE_PARTS = Statement(sa.delete(upload_parts).where(*_parts))


class StoredUpload(NamedTuple):
    upload: Upload
    # How long the file is to stay; None for good.
    file_expires_s: int | None
    # The ids of the parts that completed it, in order; None until then.
    completed_from: list[str] | None


class Received(NamedTuple):
    """What has come of an upload so far."""

    parts: int
    size: int


class Uploads:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, upload: Upload, *, file_expires_s: int | None = None) -> None:
        self._bound.run(INSERT, id_=upload.id, status=upload.status, json=encode(upload), file_expires_s=file_expires_s)

    def find(self, upload_id: str) -> StoredUpload | None:
        return self._stored(GET, upload_id)

    def get(self, upload_id: str) -> StoredUpload:
        if (stored := self.find(upload_id)) is None:
            raise no_such("Upload", upload_id)
        return stored

    def lock(self, upload_id: str) -> StoredUpload:
        """The upload as it is, and it stays so until the transaction ends. Whoever adds parts or moves it locks it."""
        if (stored := self._stored(LOCK, upload_id)) is None:
            raise no_such("Upload", upload_id)
        return stored

    def replace(self, upload: Upload, completed_from: list[str] | None = None) -> None:
        came_from = None if completed_from is None else _encoder.encode(completed_from).decode()
        if not self._bound.run(
            REPLACE, id_=upload.id, status=upload.status, json=encode(upload), completed_from=came_from
        ):
            raise no_such("Upload", upload.id)

    def delete(self, upload_id: str) -> bool:
        """Whether there was such an upload. Its parts go with it; their blobs are the caller's to drop."""
        return self._bound.run(DELETE, id_=upload_id) > 0

    def insert_part(self, upload_id: str, part_id: str, blob: Blob) -> None:
        self._bound.run(INSERT_PART, upload=upload_id, id_=part_id, blob=blob.key, bytes_=blob.size)

    def parts(self, upload_id: str) -> dict[str, Blob]:
        """The blobs of the parts, by part id."""
        rows = self._bound.rows(PARTS, upload=upload_id)
        return {part_id: Blob(key, size) for part_id, key, size in rows}

    def received(self, upload_id: str) -> Received:
        row = self._bound.row(RECEIVED, upload=upload_id)
        return Received(0, 0) if row is None else Received(int(row[0]), int(row[1]))

    def delete_parts(self, upload_id: str) -> None:
        """Forgets the parts; their blobs are the caller's to drop or to keep."""
        self._bound.run(DELETE_PARTS, upload=upload_id)

    def _stored(self, statement: Statement, upload_id: str) -> StoredUpload | None:
        row = self._bound.row(statement, id_=upload_id)
        if row is None:
            return None
        json, file_expires_s, completed_from = row
        came_from = None if completed_from is None else _ids_decoder.decode(completed_from)
        return StoredUpload(_decoder.decode(json), file_expires_s, came_from)
