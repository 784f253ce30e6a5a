"""Files of vector stores, and the batches in which they came.

Every change locks the store first: so counts are right, and two changes never wait for each other crosswise.
"""

import builtins
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import not_found
from threadkeep.contract.metadata import Attributes
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.vector_stores import (
    FileCounts,
    IndexingStatus,
    ListVectorStoreFilesQuery,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreFileError,
)
from threadkeep.storage.filters import columns_of
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.passages import Passages
from threadkeep.storage.statements import PROJECT, Bound, Row, Statement, Upsert, number, text
from threadkeep.storage.tables import vector_store_attributes, vector_store_batches, vector_store_files, vector_stores
from threadkeep.storage.vector_stores import STORE, VectorStores

_decoder = msgspec.json.Decoder(VectorStoreFile)
_c = vector_store_files.c
_b = vector_store_batches.c
_zero = sa.literal_column("0", sa.Integer)
_in_store = (_c.project_id == PROJECT, _c.store == STORE)
_one = (*_in_store, _c.file_id == text("file"))
_file = sa.select(_c.object, _c.batch_id, _c.content, _c.indexed)
_in_progress = _c.status == text("in_progress")

INSERT = Statement(
    postgresql.insert(vector_store_files)
    .values(
        store=STORE,
        file_id=text("file"),
        project_id=PROJECT,
        batch_id=text("batch"),
        status=text("status"),
        object=text("json"),
        usage_bytes=_zero,
        indexed=_zero,
    )
    .on_conflict_do_nothing(index_elements=["store", "file_id"])
    .inline()
)
STORE_NUMBER = Statement(
    sa.select(vector_stores.c.number).where(
        vector_stores.c.project_id == PROJECT,
        vector_stores.c.id == text("store"),
        vector_stores.c.deleted_at.is_(None),
    )
)
INSERT_ATTRIBUTES = Upsert(vector_store_attributes)
DELETE_ATTRIBUTES = Statement(
    sa.delete(vector_store_attributes).where(
        vector_store_attributes.c.store == STORE, vector_store_attributes.c.file_id == text("file")
    )
)
GET = Statement(_file.where(*_one))
REPLACE = Statement(sa.update(vector_store_files).where(*_one).values(object=text("json")))
SET_CONTENT = Statement(
    sa.update(vector_store_files).where(*_one, _in_progress).values(content=number("content"), indexed=_zero)
)
END = Statement(
    sa.update(vector_store_files)
    .where(*_one, _in_progress)
    .values(status=text("status"), object=text("json"), usage_bytes=number("usage_bytes"))
)
LEAVE = Statement(sa.update(vector_store_files).where(*_one).values(content=sa.null(), indexed=_zero))
DELETE = Statement(sa.delete(vector_store_files).where(*_one))
STORES_OF = Statement(
    sa.select(vector_stores.c.id)
    .join(vector_store_files, _c.store == vector_stores.c.number)
    .where(
        vector_stores.c.project_id == PROJECT,
        vector_stores.c.deleted_at.is_(None),
        _c.project_id == PROJECT,
        _c.file_id == text("file"),
    )
    .limit(number("limit"))
)
IN_PROGRESS = Statement(
    sa.select(_c.file_id).where(*_in_store, _in_progress).order_by(_c.file_id).limit(number("limit"))
)
IN_PROGRESS_OF_BATCH = Statement(
    sa.select(_c.file_id)
    .where(*_in_store, _in_progress, _c.batch_id == text("batch"))
    .order_by(_c.file_id)
    .limit(number("limit"))
)
WAITING = Statement(
    sa.select(vector_stores.c.id, _c.file_id)
    .join(vector_store_files, _c.store == vector_stores.c.number)
    .where(
        vector_stores.c.project_id == PROJECT,
        vector_stores.c.deleted_at.is_(None),
        _c.project_id == PROJECT,
        _c.content == number("content"),
        _in_progress,
    )
    .limit(number("limit"))
)


def _listing(*, has_status: bool, has_batch: bool) -> Listing[VectorStoreFile]:
    select = sa.select(_c.object).where(*_in_store)
    if has_status:
        select = select.where(_c.status == text("status"))
    if has_batch:
        select = select.where(_c.batch_id == text("batch"))
    return Listing(select, _c.file_id, _decoder)


LIST = _listing(has_status=False, has_batch=False)
LIST_OF_STATUS = _listing(has_status=True, has_batch=False)
LIST_OF_BATCH = _listing(has_status=False, has_batch=True)
LIST_OF_BATCH_AND_STATUS = _listing(has_status=True, has_batch=True)

_batch_decoder = msgspec.json.Decoder(VectorStoreFileBatch)
_one_batch = (_b.project_id == PROJECT, _b.store == STORE, _b.id == text("batch"))

INSERT_BATCH = Statement(
    sa.insert(vector_store_batches)
    .values(
        store=STORE,
        id=text("batch"),
        project_id=PROJECT,
        object=text("json"),
        in_progress=_zero,
        completed=_zero,
        failed=_zero,
        cancelled=_zero,
    )
    .inline()
)
GET_BATCH = Statement(sa.select(_b.object, _b.in_progress, _b.completed, _b.failed, _b.cancelled).where(*_one_batch))
REPLACE_BATCH = Statement(sa.update(vector_store_batches).where(*_one_batch).values(object=text("json")))
COUNT_BATCH = Statement(
    sa.update(vector_store_batches)
    .where(*_one_batch)
    .values({name: _b[name] + number(name) for name in ("in_progress", "completed", "failed", "cancelled")})
)


CONTENTS = Statement(
    sa.select(_c.content)
    .where(*_in_store, _c.content > number("after"))
    .group_by(_c.content)
    .order_by(_c.content)
    .limit(number("limit"))
)


class StoredFile(NamedTuple):
    file: VectorStoreFile
    # None: it came alone.
    batch_id: str | None
    # None: nobody has looked at yet what the file holds.
    content: int | None
    # How many of the content's passages are in the index.
    indexed: int


class VectorStoreFiles:
    __slots__ = ("_bound", "_stores")

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._stores = VectorStores(bound)

    def insert(
        self, store_id: str, files: Sequence[VectorStoreFile], batch_id: str | None = None
    ) -> builtins.list[str]:
        """The ids of those that are new to the store; a file that is there already stays as it is."""
        self._stores.lock(store_id)
        new = [
            file
            for file in files
            if self._bound.run(
                INSERT, store=store_id, file=file.id, batch=batch_id, status=file.status, json=encode(file)
            )
        ]
        self._insert_attributes(store_id, new)
        changes: dict[IndexingStatus, int] = {}
        for file in new:
            changes[file.status] = changes.get(file.status, 0) + 1
        self._count(store_id, batch_id, changes)
        return [file.id for file in new]

    def find(self, store_id: str, file_id: str) -> StoredFile | None:
        row = self._bound.row(GET, store=store_id, file=file_id)
        return None if row is None else StoredFile(_decoder.decode(row[0]), *row[1:])

    def get(self, store_id: str, file_id: str) -> StoredFile:
        if (stored := self.find(store_id, file_id)) is None:
            raise not_found("file", file_id)
        return stored

    def set_attributes(self, store_id: str, file_id: str, attributes: Attributes) -> VectorStoreFile:
        """Replaces them all."""
        self._stores.lock(store_id)
        file = replace(self.get(store_id, file_id).file, attributes=attributes)
        self._bound.run(REPLACE, store=store_id, file=file_id, json=encode(file))
        self._bound.run(DELETE_ATTRIBUTES, store=store_id, file=file_id)
        self._insert_attributes(store_id, [file])
        return file

    def set_content(self, store_id: str, file_id: str, content: int) -> bool:
        """What the file holds is this, of which nothing is indexed yet; whether the file still was in progress."""
        self._stores.lock(store_id)
        values = {"in_progress": "in_progress", "content": content}
        return self._bound.run(SET_CONTENT, store=store_id, file=file_id, **values) > 0

    def end(
        self,
        store_id: str,
        file_id: str,
        status: IndexingStatus,
        *,
        usage_bytes: int = 0,
        last_error: VectorStoreFileError | None = None,
    ) -> bool:
        """Whether the file was in progress until now. Unless it is completed, it is not found any more."""
        self._stores.lock(store_id)
        if (stored := self.find(store_id, file_id)) is None or stored.file.status != "in_progress":
            return False
        file = replace(stored.file, status=status, usage_bytes=usage_bytes, last_error=last_error)
        self._bound.run(
            END,
            store=store_id,
            file=file_id,
            in_progress="in_progress",
            status=status,
            usage_bytes=usage_bytes,
            json=encode(file),
        )
        if status != "completed":
            Passages(self._bound).remove(store_id, file_id)
            # Nobody needs what was read of it so far.
            self._bound.run(LEAVE, store=store_id, file=file_id)
        self._count(store_id, stored.batch_id, {"in_progress": -1, status: 1}, usage_bytes)
        return True

    def delete(self, store_id: str, file_id: str) -> StoredFile | None:
        """Takes the file out of the store; None if it was not in it. The file itself stays."""
        self._stores.lock(store_id)
        if (stored := self.find(store_id, file_id)) is None:
            return None
        Passages(self._bound).remove(store_id, file_id)
        self._bound.run(DELETE, store=store_id, file=file_id)
        status = stored.file.status
        self._stores.count(store_id, {status: -1}, -stored.file.usage_bytes)
        if stored.batch_id is not None and status == "in_progress":
            # Whoever waits for the batch must see it end.
            self._count_batch(store_id, stored.batch_id, {"in_progress": -1, "cancelled": 1})
        return stored

    def list(
        self, store_id: str, query: ListVectorStoreFilesQuery, batch_id: str | None = None
    ) -> Page[VectorStoreFile]:
        plain = ListQuery(limit=query.limit, order=query.order, after=query.after, before=query.before)
        match query.filter, batch_id:
            case None, None:
                return LIST.page(self._bound, plain, store=store_id)
            case status, None:
                return LIST_OF_STATUS.page(self._bound, plain, store=store_id, status=status)
            case None, batch:
                return LIST_OF_BATCH.page(self._bound, plain, store=store_id, batch=batch)
            case status, batch:
                return LIST_OF_BATCH_AND_STATUS.page(self._bound, plain, store=store_id, batch=batch, status=status)

    def stores_of(self, file_id: str, limit: int) -> builtins.list[str]:
        """Stores that the file is in."""
        return [row[0] for row in self._bound.rows(STORES_OF, file=file_id, limit=limit)]

    def in_progress(self, store_id: str, batch_id: str | None = None, limit: int = 100) -> builtins.list[str]:
        """The first files that are in progress, of the store or of one batch."""
        if batch_id is None:
            rows = self._bound.rows(IN_PROGRESS, store=store_id, in_progress="in_progress", limit=limit)
        else:
            rows = self._bound.rows(
                IN_PROGRESS_OF_BATCH, store=store_id, in_progress="in_progress", batch=batch_id, limit=limit
            )
        return [row[0] for row in rows]

    def contents_of(self, store_id: str, after: int = -1, limit: int = 100) -> builtins.list[int]:
        """What the files of the store hold, each content once, in order, behind ``after``."""
        return [row[0] for row in self._bound.rows(CONTENTS, store=store_id, after=after, limit=limit)]

    def waiting_for(self, content: int, limit: int = 100) -> builtins.list[tuple[str, str]]:
        """Files in progress that hold this content, each with its store."""
        rows = self._bound.rows(WAITING, content=content, in_progress="in_progress", limit=limit)
        return [(store_id, file_id) for store_id, file_id in rows]

    def _insert_attributes(self, store_id: str, files: builtins.list[VectorStoreFile]) -> None:
        pairs = [(file.id, key, *columns_of(value)) for file in files for key, value in (file.attributes or {}).items()]
        if not pairs or (row := self._bound.row(STORE_NUMBER, store=store_id)) is None:
            return
        self._bound.upsert(
            INSERT_ATTRIBUTES,
            {
                "store": [row[0]] * len(pairs),
                "file_id": [pair[0] for pair in pairs],
                "key": [pair[1] for pair in pairs],
                "kind": [pair[2] for pair in pairs],
                "number": [pair[3] for pair in pairs],
                "text": [pair[4] for pair in pairs],
            },
        )

    def _count(
        self, store_id: str, batch_id: str | None, changes: dict[IndexingStatus, int], usage_bytes: int = 0
    ) -> None:
        self._stores.count(store_id, changes, usage_bytes)
        if batch_id is not None:
            self._count_batch(store_id, batch_id, changes)

    def _count_batch(self, store_id: str, batch_id: str, changes: dict[IndexingStatus, int]) -> None:
        self._bound.run(
            COUNT_BATCH,
            store=store_id,
            batch=batch_id,
            in_progress=changes.get("in_progress", 0),
            completed=changes.get("completed", 0),
            failed=changes.get("failed", 0),
            cancelled=changes.get("cancelled", 0),
        )


class VectorStoreBatches:
    __slots__ = ("_bound", "_stores")

    def __init__(self, bound: Bound) -> None:
        self._bound = bound
        self._stores = VectorStores(bound)

    def insert(self, batch: VectorStoreFileBatch) -> None:
        """A batch without files; `VectorStoreFiles.insert` gives it some, in the same transaction."""
        self._stores.lock(batch.vector_store_id)
        self._bound.run(INSERT_BATCH, store=batch.vector_store_id, batch=batch.id, json=encode(batch))

    def find(self, store_id: str, batch_id: str) -> VectorStoreFileBatch | None:
        row = self._bound.row(GET_BATCH, store=store_id, batch=batch_id)
        return None if row is None else _read_batch(row)

    def get(self, store_id: str, batch_id: str) -> VectorStoreFileBatch:
        if (batch := self.find(store_id, batch_id)) is None:
            raise not_found("file batch", batch_id)
        return batch

    def cancel(self, store_id: str, batch_id: str) -> VectorStoreFileBatch:
        """The batch is cancelled, if it has not ended; its files that are in progress are the caller's to end."""
        self._stores.lock(store_id)
        batch = self.get(store_id, batch_id)
        if batch.status == "in_progress":
            batch = replace(batch, status="cancelled")
            self._bound.run(REPLACE_BATCH, store=store_id, batch=batch_id, json=encode(batch))
        return batch


def _read_batch(row: Row) -> VectorStoreFileBatch:
    json, in_progress, completed, failed, cancelled = row
    batch = _batch_decoder.decode(json)
    total = in_progress + completed + failed + cancelled
    if batch.status == "cancelled":
        status: IndexingStatus = "cancelled"
    elif in_progress:
        status = "in_progress"
    else:
        status = "failed" if total and failed == total else "completed"
    counts = FileCounts(in_progress=in_progress, completed=completed, failed=failed, cancelled=cancelled, total=total)
    return replace(batch, status=status, file_counts=counts)
