"""Vectors of passages, by the model that made them, and the search for the nearest.

SQLite: in rows of up to 256, scanned by numpy. What was read of a store stays in memory, up to a bound; numbers of
passages are never given twice, so only what came since is read again. PostgreSQL: pgvector, one row for each passage.
Where that is not installed there are no vectors: see `Vectors.is_available`.

All have length 1 and are kept in 16 bits: the product of two is their cosine.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from threadkeep.contract.errors import not_found
from threadkeep.contract.vector_stores import Filter
from threadkeep.storage.contents import CONTENT, GET
from threadkeep.storage.filters import Compiled, Shape, compiled, condition
from threadkeep.storage.passages import Hit, Passages, Place, highest
from threadkeep.storage.statements import PROJECT, Bound, Statement, Upsert, number, text
from threadkeep.storage.tables import (
    HalfVector,
    passage_vectors,
    vector_store_files,
    vector_store_spans,
    vector_stores,
    vectors,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Halves = NDArray[np.float16]
    Numbers = NDArray[np.int64]

# What is put at once. Bounds a row: 256 vectors of 3,072 dimensions are 1.5 MB.
MOST_AT_ONCE = 256
# How much of SQLite's vectors stays in memory.
CACHED_BYTES = 128 << 20
# So many rows are read at a time.
_ROWS = 32
# So many vectors are widened to 32 bits and compared at a time: what stays in the processor's cache meanwhile. With
# 4,096 the same takes four times as long.
_STEP = 512
# Pieces in memory are smaller than this only at the end.
_PIECE = 4096

_c = vectors.c
_p = passage_vectors.c
_spans = vector_store_spans.c
_store = number("store_number")
_model = text("model")
_once = sa.literal_column("1", sa.Integer)

PUT = Upsert(vectors, {"count": "excluded.count", "packed": "excluded.packed"})
PUT_IN_POSTGRES = Upsert(passage_vectors, {"embedding": "excluded.embedding"})
COVERED = Statement(
    sa.select(_c.position, _c.count).where(_c.content == CONTENT, _c.model == _model).order_by(_c.position),
    sa.select(_p.position, _once).where(_p.content == CONTENT, _p.model == _model).order_by(_p.position),
)
FORGET = Statement(
    sa.delete(vectors).where(_c.content == CONTENT, _c.model == _model),
    sa.delete(passage_vectors).where(_p.content == CONTENT, _p.model == _model),
)
_of_a_store = (
    sa.select(vector_stores.c.number)
    .join(vector_store_files, vector_store_files.c.store == vector_stores.c.number)
    .where(
        vector_stores.c.project_id == PROJECT,
        vector_store_files.c.project_id == PROJECT,
        vector_store_files.c.content == number("content"),
    )
)
FORGET_UNSEARCHED = Statement(
    sa.delete(vectors).where(
        _c.content == CONTENT, _c.model != _model, ~_of_a_store.where(vector_stores.c.model == _c.model).exists()
    ),
    sa.delete(passage_vectors).where(
        _p.content == CONTENT, _p.model != _model, ~_of_a_store.where(vector_stores.c.model == _p.model).exists()
    ),
)
IS_AVAILABLE = Statement(
    sa.select(_once),
    sa.select(sa.func.to_regclass(sa.literal_column("'passage_vectors'"))),
)
# The vectors of a store's passages, from a number and a position on.
LOAD = Statement(
    sa.select(_spans.first, _spans.count, _spans.position, _c.position, _c.count, _c.packed)
    .join(vectors, sa.and_(_c.content == _spans.content, _c.model == _model))
    .where(
        _spans.store == _store,
        _spans.first + _spans.count > number("from_number"),
        _c.position < _spans.position + _spans.count,
        _c.position + _c.count > _spans.position,
        sa.tuple_(_spans.first, _c.position) > sa.tuple_(number("after_first"), number("after_position")),
    )
    .order_by(_spans.first, _c.position)
    .limit(number("limit"))
)


@lru_cache(maxsize=256)
def nearest(shape: Shape | None) -> Statement:
    """PostgreSQL's search in one store, in the files that a filter of this shape lets through."""
    # As a subquery it is read once, not for every row.
    asked = sa.select(sa.cast(text("vector"), HalfVector)).scalar_subquery()
    product = sa.type_coerce(_p.embedding.op("<#>")(asked), sa.Double)
    spans = sa.select(_spans.first, _spans.count, _spans.content, _spans.position).where(_spans.store == _store)
    if shape is not None:
        spans = spans.where(condition(shape, _store, _spans.file_id))
    # By itself, and first: PostgreSQL can't guess how few files a filter lets through.
    chosen = spans.cte("chosen").prefix_with("MATERIALIZED", dialect="postgresql").c
    return Statement(
        sa.select(chosen.first + _p.position - chosen.position, -product)
        .join(
            passage_vectors,
            sa.and_(
                _p.content == chosen.content,
                _p.position >= chosen.position,
                _p.position < chosen.position + chosen.count,
                _p.model == _model,
            ),
        )
        .order_by(product)
        .limit(number("limit"))
    )


class Piece(NamedTuple):
    """Vectors of a store, with the numbers of their passages."""

    numbers: Numbers
    halves: Halves


class Vectors:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def is_available(self) -> bool:
        """Whether the database can keep vectors: PostgreSQL can with pgvector 0.7 or newer."""
        row = self._bound.row(IS_AVAILABLE)
        return row is not None and row[0] is not None

    def put(self, content: int, model: str, position: int, new: Sequence[Sequence[float]] | Floats) -> None:
        """The model's vectors of the passages from ``position`` on, at most `MOST_AT_ONCE`.

        A store whose passages were indexed before sees them after `VectorStores.set_model`.
        """
        halves = _normal(new)
        if self._bound.row(GET, content=content) is None:
            raise not_found("content", str(content))
        count = len(halves)
        if self._bound.is_sqlite:
            self._bound.upsert(
                PUT,
                {
                    "content": [content],
                    "model": [model],
                    "position": [position],
                    "count": [count],
                    "packed": [halves.tobytes()],
                },
            )
        else:
            self._bound.upsert(
                PUT_IN_POSTGRES,
                {
                    "content": [content] * count,
                    "position": list(range(position, position + count)),
                    "model": [model] * count,
                    "embedding": [_literal(half) for half in halves],
                },
            )

    def covered(self, content: int, model: str) -> int:
        """How many of the content's first passages have a vector of the model: where to go on."""
        end = 0
        for position, count in self._bound.rows(COVERED, content=content, model=model):
            if position > end:
                break
            end = max(end, position + count)
        return end

    def forget(self, content: int, model: str) -> None:
        self._bound.run(FORGET, content=content, model=model)

    def forget_unsearched(self, content: int, model: str) -> None:
        """Forgets the vectors of all models but this by which no store that has the content is searched."""
        self._bound.run(FORGET_UNSEARCHED, content=content, model=model)

    def search(
        self, stores: Sequence[str], model: str, vector: Sequence[float], filters: Filter | None, limit: int
    ) -> list[Hit]:
        """The passages nearest to ``vector``, best first, out of all these stores; scores are cosines.

        Passages without a vector of the model are not found.
        """
        through = None if filters is None else compiled(filters)
        passages = Passages(self._bound)
        places: list[Place] = []
        for store_id in dict.fromkeys(stores):
            if self._bound.is_sqlite:
                places += self._scan(passages, store_id, model, vector, through, limit)
            elif (numbers := passages.numbers(store_id)) is not None:
                rows = self._bound.rows(
                    nearest(None if through is None else through.shape),
                    store_number=numbers.store,
                    model=model,
                    vector=_literal(_normal([vector])[0]),
                    limit=limit,
                    **({} if through is None else through.values),
                )
                places += [Place(store_id, numbers.store, place, score) for place, score in rows]
        places.sort(key=lambda place: -place.score)
        return passages.hits(places[:limit])

    def _scan(
        self,
        passages: Passages,
        store_id: str,
        model: str,
        vector: Sequence[float],
        through: Compiled | None,
        limit: int,
    ) -> list[Place]:
        import numpy as np  # noqa: PLC0415 - loads a lot

        index = passages.alive(store_id, through)
        if index is None:
            return []
        asked = _normal([vector])[0].astype(np.float32)
        best: list[Place] = []
        for numbers, halves in self._pieces(passages, store_id, model, len(asked)):
            scores = _products(halves, asked)
            scores[~index.has(numbers)] = -np.inf
            best += [
                Place(store_id, index.store, int(numbers[place]), float(scores[place]))
                for place in highest(scores, limit)
                if np.isfinite(scores[place])
            ]
            best.sort(key=lambda place: (-place.score, place.number))
            del best[limit:]
        return best

    def _pieces(self, passages: Passages, store_id: str, model: str, dimensions: int) -> Iterator[Piece]:
        if (numbers := passages.numbers(store_id)) is None:
            return
        key = (store_id, numbers.store, model, dimensions, numbers.vectors_version)
        kept = _cache.get(key)
        if kept is not None:
            yield from kept.pieces
        fresh: list[Piece] | None = []
        size = 0
        for piece in self._load(numbers.store, model, dimensions, 0 if kept is None else kept.end):
            yield piece
            if fresh is not None:
                fresh.append(piece)
                size += piece.halves.nbytes + piece.numbers.nbytes
                if size > CACHED_BYTES:
                    # Too much to keep: it is read for each search.
                    fresh = None
        # What came while it was read may be in it or not, and is read again.
        if fresh is not None and (kept is None or kept.end < numbers.next):
            _cache.keep(key, kept, fresh, numbers.next)

    def _load(self, store: int, model: str, dimensions: int, start: int) -> Iterator[Piece]:
        import numpy as np  # noqa: PLC0415 - loads a lot

        after = (-1, -1)
        while True:
            rows = self._bound.rows(
                LOAD,
                store_number=store,
                model=model,
                from_number=start,
                after_first=after[0],
                after_position=after[1],
                limit=_ROWS,
            )
            numbers: list[Numbers] = []
            halves: list[Halves] = []
            for first, count, span_position, position, held, packed in rows:
                after = (first, position)
                if len(packed) != 2 * held * dimensions:
                    # Another model of this name made them.
                    continue
                low = max(position, span_position + max(0, start - first))
                high = min(position + held, span_position + count)
                if low < high:
                    numbers.append(np.arange(low, high, dtype=np.int64) + (first - span_position))
                    halves.append(
                        np.frombuffer(packed, np.float16).reshape(held, dimensions)[low - position : high - position]
                    )
            if numbers:
                yield Piece(np.concatenate(numbers), np.concatenate(halves))
            if len(rows) < _ROWS:
                return


class _Kept(NamedTuple):
    pieces: list[Piece]
    # The vectors of all numbers below are in it.
    end: int
    size: int


_Key = tuple[str, int, str, int, int]


class _Cache:
    """Vectors of the stores that were searched last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._size = 0

    def get(self, key: _Key) -> _Kept | None:
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
            return kept

    def keep(self, key: _Key, before: _Kept | None, fresh: list[Piece], end: int) -> None:
        import numpy as np  # noqa: PLC0415 - loads a lot

        pieces = [piece for piece in fresh if len(piece.numbers)]
        small = list(pieces)
        old: list[Piece] = [] if before is None else list(before.pieces)
        # Pieces grow: the small ones at the end become one, so that there are never many.
        while old and len(old[-1].numbers) < _PIECE:
            small.insert(0, old.pop())
        whole = old
        if small:
            # Only what is below the end: more may have been read, of a passage that came meanwhile.
            numbers = np.concatenate([piece.numbers for piece in small])
            halves = np.concatenate([piece.halves for piece in small])
            is_below = numbers < end
            whole = [*old, Piece(numbers[is_below], halves[is_below])]
        size = sum(piece.numbers.nbytes + piece.halves.nbytes for piece in whole)
        with self._lock:
            if (there := self._kept.pop(key, None)) is not None:
                self._size -= there.size
            if size > CACHED_BYTES:
                return
            self._kept[key] = _Kept(whole, end, size)
            self._size += size
            while self._size > CACHED_BYTES:
                _, gone = self._kept.popitem(last=False)
                self._size -= gone.size


_cache = _Cache()


def _products(halves: Halves, asked: Floats) -> Floats:
    import numpy as np  # noqa: PLC0415 - loads a lot

    scores = np.empty(len(halves), np.float32)
    wide = np.empty((_STEP, len(asked)), np.float32)
    for start in range(0, len(halves), _STEP):
        part = halves[start : start + _STEP]
        np.copyto(wide[: len(part)], part)
        np.matmul(wide[: len(part)], asked, out=scores[start : start + len(part)])
    return scores


def _normal(new: Sequence[Sequence[float]] | Floats) -> Halves:
    """The vectors at length 1; one of length 0 stays, and is near to nothing."""
    import numpy as np  # noqa: PLC0415 - loads a lot

    floats = np.asarray(new, np.float32)
    lengths = np.linalg.norm(floats, axis=1, keepdims=True)
    return (floats / np.where(lengths > 0, lengths, 1)).astype(np.float16)


def _literal(half: Halves) -> str:
    """As pgvector reads it."""
    return "[" + ",".join(map(repr, half.astype(float).tolist())) + "]"
