"""Vector stores of a project. Counts and sizes are columns, and move in the transaction that moves what they count.

A store that was deleted is seen by nobody from that moment; what it held goes piece by piece, see `VectorStores.clear`.
"""

import builtins
from collections.abc import Mapping

import msgspec
import sqlalchemy as sa
from msgspec.structs import replace

from threadkeep.contract.errors import not_found
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.vector_stores import FileCounts, IndexingStatus, VectorStore
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, NowMs, Row, Statement, number, text
from threadkeep.storage.tables import (
    vector_store_batches,
    vector_store_blocks,
    vector_store_files,
    vector_store_postings,
    vector_store_spans,
    vector_stores,
)

_decoder = msgspec.json.Decoder(VectorStore)
_c = vector_stores.c
_zero = sa.literal_column("0", sa.Integer)
_in_project = (_c.project_id == PROJECT, _c.deleted_at.is_(None))
_one = (*_in_project, _c.id == text("store"))
_deleted = (_c.project_id == PROJECT, _c.id == text("store"), _c.deleted_at.is_not(None))

# The number of the store that the parameter `store` names: what other tables know it by.
STORE = sa.select(_c.number).where(*_one).scalar_subquery()
_CLEARED = sa.select(_c.number).where(*_deleted).scalar_subquery()

_is_expired = _c.expires_at * sa.literal_column("1000", sa.BigInteger) <= NowMs()
_columns = sa.select(
    _c.object,
    _c.in_progress,
    _c.completed,
    _c.failed,
    _c.cancelled,
    _c.usage_bytes,
    _c.last_active_at,
    _c.expires_at,
    sa.func.coalesce(_is_expired, sa.false()),
)

INSERT = Statement(
    sa.insert(vector_stores)
    .values(
        project_id=PROJECT,
        id=text("store"),
        object=text("json"),
        in_progress=_zero,
        completed=_zero,
        failed=_zero,
        cancelled=_zero,
        usage_bytes=_zero,
        last_active_at=number("last_active_at"),
        expires_at=number("expires_at"),
        next_number=_zero,
        vectors_version=_zero,
    )
    .inline()
)
GET = Statement(_columns.where(*_one))
LOCK = Statement(_columns.where(*_one).with_for_update(key_share=True))
REPLACE = Statement(
    sa.update(vector_stores)
    .where(*_one)
    .values(object=text("json"), last_active_at=number("last_active_at"), expires_at=number("expires_at"))
)
TOUCH = Statement(
    sa.update(vector_stores)
    .where(*_one)
    .values(last_active_at=number("last_active_at"), expires_at=number("expires_at"))
)
COUNT = Statement(
    sa.update(vector_stores)
    .where(*_one)
    .values(
        {name: _c[name] + number(name) for name in ("in_progress", "completed", "failed", "cancelled", "usage_bytes")}
    )
)
HIDE = Statement(sa.update(vector_stores).where(*_one).values(deleted_at=NowMs()))
MODEL = Statement(sa.select(_c.model).where(*_one))
SET_MODEL = Statement(
    sa.update(vector_stores)
    .where(*_one)
    .values(model=text("model"), vectors_version=_c.vectors_version + sa.literal_column("1", sa.Integer))
)
# A store in which nothing is yet: its first file is about to be completed.
ADOPT_MODEL = Statement(
    sa.update(vector_stores).where(*_one, _c.model.is_(None), _c.completed == _zero).values(model=text("model"))
)
STALE = Statement(
    sa.select(_c.id)
    .where(*_in_project, _c.id > text("after"), _c.completed > _zero, _c.model.is_distinct_from(text("model")))
    .order_by(_c.id)
    .limit(number("limit"))
)

# What a deleted store leaves, in the order in which it goes.
FIRST_BLOCK = Statement(
    sa.select(vector_store_blocks.c.block)
    .where(vector_store_blocks.c.store == _CLEARED)
    .order_by(vector_store_blocks.c.block)
    .limit(1)
)
CLEAR_POSTINGS = Statement(
    sa.delete(vector_store_postings).where(
        vector_store_postings.c.store == _CLEARED, vector_store_postings.c.block == number("block")
    )
)
CLEAR_BLOCK = Statement(
    sa.delete(vector_store_blocks).where(
        vector_store_blocks.c.store == _CLEARED, vector_store_blocks.c.block == number("block")
    )
)
CLEAR_SPANS = Statement(
    sa.delete(vector_store_spans).where(
        vector_store_spans.c.store == _CLEARED,
        vector_store_spans.c.first.in_(
            sa.select(vector_store_spans.c.first).where(vector_store_spans.c.store == _CLEARED).limit(number("most"))
        ),
    )
)
CLEAR_FILES = Statement(
    sa.delete(vector_store_files).where(
        vector_store_files.c.project_id == PROJECT,
        vector_store_files.c.store == _CLEARED,
        vector_store_files.c.file_id.in_(
            sa.select(vector_store_files.c.file_id)
            .where(vector_store_files.c.project_id == PROJECT, vector_store_files.c.store == _CLEARED)
            .limit(number("most"))
        ),
    )
)
CLEAR_BATCHES = Statement(
    sa.delete(vector_store_batches).where(
        vector_store_batches.c.project_id == PROJECT, vector_store_batches.c.store == _CLEARED
    )
)
CLEAR_STORE = Statement(sa.delete(vector_stores).where(*_deleted))


def _read(row: Row) -> VectorStore:
    json, in_progress, completed, failed, cancelled, usage_bytes, last_active_at, expires_at, is_expired = row
    return replace(
        _decoder.decode(json),
        usage_bytes=int(usage_bytes),
        file_counts=FileCounts(
            in_progress=in_progress,
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            total=in_progress + completed + failed + cancelled,
        ),
        status="expired" if is_expired else "in_progress" if in_progress else "completed",
        last_active_at=last_active_at,
        expires_at=expires_at,
    )


LIST = Listing(_columns.where(*_in_project), _c.id, read=_read)


class VectorStores:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, store: VectorStore) -> None:
        """An empty store, whatever its counts say."""
        self._bound.run(
            INSERT,
            store=store.id,
            json=encode(store),
            last_active_at=store.created_at if store.last_active_at is None else store.last_active_at,
            expires_at=store.expires_at,
        )

    def find(self, store_id: str) -> VectorStore | None:
        row = self._bound.row(GET, store=store_id)
        return None if row is None else _read(row)

    def get(self, store_id: str) -> VectorStore:
        if (store := self.find(store_id)) is None:
            raise not_found("vector store", store_id)
        return store

    def lock(self, store_id: str) -> VectorStore:
        """The store as it is, and until the transaction ends nobody else changes it, its files or its index.

        Everything that changes one of these locks the store first.
        """
        if (row := self._bound.row(LOCK, store=store_id)) is None:
            raise not_found("vector store", store_id)
        return _read(row)

    def replace(self, store: VectorStore) -> None:
        """Writes what the client may change, and the times; counts stay what they are."""
        if not self._bound.run(
            REPLACE,
            store=store.id,
            json=encode(store),
            last_active_at=store.created_at if store.last_active_at is None else store.last_active_at,
            expires_at=store.expires_at,
        ):
            raise not_found("vector store", store.id)

    def touch(self, store_id: str, now_s: int) -> int | None:
        """The store was used: when it expires now, if it does. One that has expired stays so."""
        store = self.lock(store_id)
        if store.status == "expired":
            return store.expires_at
        after = store.expires_after
        expires_at = None if after is msgspec.UNSET else now_s + after.days * 24 * 3600
        self._bound.run(TOUCH, store=store_id, last_active_at=now_s, expires_at=expires_at)
        return expires_at

    def list(self, query: ListQuery) -> Page[VectorStore]:
        return LIST.page(self._bound, query)

    def count(self, store_id: str, changes: Mapping[IndexingStatus, int], usage_bytes: int = 0) -> None:
        """Moves the counts by ``changes``; for whoever changes the files, in the same transaction."""
        self._bound.run(
            COUNT,
            store=store_id,
            in_progress=changes.get("in_progress", 0),
            completed=changes.get("completed", 0),
            failed=changes.get("failed", 0),
            cancelled=changes.get("cancelled", 0),
            usage_bytes=usage_bytes,
        )

    def model(self, store_id: str) -> str | None:
        """Whose vectors the store is searched by; None: by words only."""
        if (row := self._bound.row(MODEL, store=store_id)) is None:
            raise not_found("vector store", store_id)
        return row[0]

    def set_model(self, store_id: str, model: str | None) -> None:
        """From now on the store is searched by this model's vectors: those that are there when this is called."""
        if not self._bound.run(SET_MODEL, store=store_id, model=model):
            raise not_found("vector store", store_id)

    def adopt_model(self, store_id: str, model: str) -> None:
        """A store without a completed file is searched by this model's vectors, unless by another's already."""
        self._bound.run(ADOPT_MODEL, store=store_id, model=model)

    def stale(self, model: str, after: str = "", limit: int = 100) -> builtins.list[str]:
        """Stores with completed files that are not searched by this model's vectors, in order, behind ``after``."""
        return [row[0] for row in self._bound.rows(STALE, model=model, after=after, limit=limit)]

    def delete(self, store_id: str) -> bool:
        """Whether there was such a store. Nobody sees it from now on; `clear` takes away what it held."""
        return self._bound.run(HIDE, store=store_id) > 0

    def clear(self, store_id: str, most: int = 20_000) -> bool:
        """Takes away about so many rows of a deleted store; whether nothing of it is left.

        Called again and again, in a transaction each. The contents that its files had may be nobody's then: see
        `Contents.unused`.
        """
        gone = 0
        while gone < most:
            if (row := self._bound.row(FIRST_BLOCK, store=store_id)) is None:
                break
            gone += self._bound.run(CLEAR_POSTINGS, store=store_id, block=row[0])
            gone += self._bound.run(CLEAR_BLOCK, store=store_id, block=row[0])
        for statement in (CLEAR_SPANS, CLEAR_FILES):
            if gone < most:
                # A file takes its attributes along, up to sixteen.
                gone += 5 * self._bound.run(statement, store=store_id, most=(most - gone) // 5 + 1)
        if gone >= most:
            return False
        self._bound.run(CLEAR_BATCHES, store=store_id)
        self._bound.run(CLEAR_STORE, store=store_id)
        return True
