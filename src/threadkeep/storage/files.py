"""Files of a project: what is known of them, and in which blobs their contents lie. An expired file is not there."""

import builtins

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import no_such
from threadkeep.contract.files import File, ListFilesQuery
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.storage.blobs import Blob
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, NowMs, Statement, number, text
from threadkeep.storage.tables import files

_decoder = msgspec.json.Decoder(File)
_blobs_decoder = msgspec.json.Decoder(list[Blob])
_encoder = msgspec.json.Encoder()
_one = (files.c.project_id == PROJECT, files.c.id == text("id_"))
_expiry_ms = files.c.expires_at * sa.literal_column("1000", sa.BigInteger)
_is_there = sa.or_(files.c.expires_at.is_(None), _expiry_ms > NowMs())
_listed = sa.select(files.c.object).where(files.c.project_id == PROJECT, _is_there)

INSERT = Statement(
    sa.insert(files).values(
        project_id=PROJECT,
        id=text("id_"),
        purpose=text("purpose"),
        expires_at=number("expires_at"),
        object=text("json"),
        blobs=text("blobs"),
    )
)
GET = Statement(sa.select(files.c.object).where(*_one, _is_there))
CONTENT = Statement(sa.select(files.c.object, files.c.blobs).where(*_one, _is_there))
DELETE = Statement(sa.delete(files).where(*_one, _is_there).returning(files.c.blobs))
DELETE_EXPIRED = Statement(sa.delete(files).where(*_one, _expiry_ms <= NowMs()).returning(files.c.blobs))
LIST = Listing(_listed, files.c.id, _decoder)
LIST_OF_PURPOSE = Listing(_listed.where(files.c.purpose == text("purpose")), files.c.id, _decoder)


class Files:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, file: File, blobs: builtins.list[Blob]) -> None:
        self._bound.run(
            INSERT,
            id_=file.id,
            purpose=file.purpose,
            expires_at=None if file.expires_at is msgspec.UNSET else file.expires_at,
            json=encode(file),
            blobs=_encoder.encode(blobs).decode(),
        )

    def find(self, file_id: str) -> File | None:
        row = self._bound.row(GET, id_=file_id)
        return None if row is None else _decoder.decode(row[0])

    def get(self, file_id: str) -> File:
        if (file := self.find(file_id)) is None:
            raise no_such("File", file_id)
        return file

    def content(self, file_id: str) -> tuple[File, builtins.list[Blob]] | None:
        """The file and the blobs that hold its bytes, in order."""
        row = self._bound.row(CONTENT, id_=file_id)
        return None if row is None else (_decoder.decode(row[0]), _blobs_decoder.decode(row[1]))

    def delete(self, file_id: str) -> builtins.list[Blob] | None:
        """The blobs that the file leaves behind; None if there was no such file."""
        return self._left_by(DELETE, file_id)

    def delete_expired(self, file_id: str) -> builtins.list[Blob] | None:
        """As ``delete``, for a file whose time has come; None if it has not, or there is no such file."""
        return self._left_by(DELETE_EXPIRED, file_id)

    def list(self, query: ListFilesQuery) -> Page[File]:
        plain = ListQuery(limit=query.limit, order=query.order, after=query.after)
        if query.purpose is None:
            return LIST.page(self._bound, plain)
        return LIST_OF_PURPOSE.page(self._bound, plain, purpose=query.purpose)

    def _left_by(self, statement: Statement, file_id: str) -> builtins.list[Blob] | None:
        rows = self._bound.rows(statement, id_=file_id)
        return _blobs_decoder.decode(rows[0][0]) if rows else None
