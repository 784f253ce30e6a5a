"""The index of the words of passages, store by store: where each word is, and how well a passage answers a query.

    store ── numbers 0, 1, 2 … one for each passage of its files, in the order in which they came; never given twice
      ├── spans      number → file, content and position; runs of numbers, so a file has one or a few
      ├── blocks     512 numbers each: how many words every passage has, 0 when there is none
      └── postings   by block and word: which of the 512 have it, and how often

A search reads the blocks of its stores and the postings of its words in them, and nothing of any other store. What it
counts (how many passages there are, how many have a word) is the store's own and exact, and the score is computed here:
both databases rank alike. SQLite's FTS5 and PostgreSQL's tsvector would count all stores together, and give each
passage of a common word to be looked at one by one.

Adding a passage touches one block only, whose rows lie together. Taking one away sets its length to 0, from which
moment nobody finds it; `tidy` clears the postings later, a block at a time.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from threadkeep.contract.errors import NotFound, not_found
from threadkeep.contract.vector_stores import Filter
from threadkeep.storage.filters import Compiled, Shape, compiled, condition
from threadkeep.storage.statements import PROJECT, Bound, Row, Statement, Upsert, number, text
from threadkeep.storage.tables import (
    vector_store_blocks,
    vector_store_files,
    vector_store_postings,
    vector_store_spans,
    vector_stores,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Lengths = NDArray[np.uint16]

# How many numbers a block has. A posting has 16 bits: 9 for the number in the block, 7 for how often.
BLOCK = 512
_COUNT_BITS = 7
_MOST_OFTEN = (1 << _COUNT_BITS) - 1
_LONGEST = (1 << 16) - 1
# BM25, with the values that Anserini takes for passages.
_K1 = 0.9
_B = 0.4
# More words are no question any more. Bounds the work of one search.
MAX_TERMS = 256

_encoder = msgspec.json.Encoder()
_s = vector_stores.c
_files = vector_store_files.c
_spans = vector_store_spans.c
_blocks = vector_store_blocks.c
_postings = vector_store_postings.c
_store = number("store_number")
_one_store = (_s.project_id == PROJECT, _s.id == text("store"), _s.deleted_at.is_(None))
_one_file = (_files.project_id == PROJECT, _files.store == _store, _files.file_id == text("file"))
_one_block = (_blocks.store == _store, _blocks.block == number("block"))
_in_block = (_postings.store == _store, _postings.block == number("block"))

# Whoever changes the index locks the store; whoever searches does not.
NUMBER = Statement(sa.select(_s.number, _s.next_number, _s.vectors_version).where(*_one_store))
LOCK = Statement(sa.select(_s.number, _s.next_number).where(*_one_store).with_for_update(key_share=True))
ADVANCE = Statement(sa.update(vector_stores).where(*_one_store).values(next_number=number("next")))
INDEXED = Statement(
    sa.update(vector_store_files)
    .where(*_one_file, _files.status == text("in_progress"), _files.indexed == number("position"))
    .values(indexed=_files.indexed + number("count"))
    .returning(_files.content)
)
INSERT_SPAN = Statement(
    sa.insert(vector_store_spans)
    .values(
        store=_store,
        first=number("first"),
        count=number("count"),
        file_id=text("file"),
        content=number("content"),
        position=number("position"),
    )
    .inline()
)
EXTEND_SPAN = Statement(
    sa.update(vector_store_spans)
    .where(
        _spans.store == _store,
        _spans.file_id == text("file"),
        _spans.content == number("content"),
        _spans.first + _spans.count == number("first"),
        _spans.position + _spans.count == number("position"),
    )
    .values(count=_spans.count + number("count"))
)
SPANS = Statement(sa.select(_spans.first, _spans.count).where(_spans.store == _store, _spans.file_id == text("file")))
DELETE_SPANS = Statement(sa.delete(vector_store_spans).where(_spans.store == _store, _spans.file_id == text("file")))
FIND_SPAN = Statement(
    sa.select(_spans.first, _spans.count, _spans.file_id, _spans.content, _spans.position)
    .where(_spans.store == _store, _spans.first <= number("number"))
    .order_by(_spans.first.desc())
    .limit(sa.literal_column("1"))
)
BLOCKS = Statement(sa.select(_blocks.block, _blocks.lengths).where(_blocks.store == _store).order_by(_blocks.block))
GET_BLOCK = Statement(sa.select(_blocks.lengths, _blocks.dead).where(*_one_block))
UPSERT_BLOCK = Upsert(vector_store_blocks, {"lengths": "excluded.lengths", "dead": "excluded.dead"})
UNTIDY = Statement(
    sa.select(_blocks.block, _blocks.lengths)
    .where(_blocks.store == _store, _blocks.dead > sa.literal_column("0"))
    .order_by(_blocks.block)
    .limit(number("limit"))
)
TIDIED = Statement(sa.update(vector_store_blocks).where(*_one_block).values(dead=sa.literal_column("0")))
DELETE_BLOCK = Statement(sa.delete(vector_store_blocks).where(*_one_block))
POSTINGS_OF_BLOCK = Statement(sa.select(_postings.term, _postings.packed).where(*_in_block))
DELETE_POSTINGS_OF_BLOCK = Statement(sa.delete(vector_store_postings).where(*_in_block))
ADD_POSTINGS = Upsert(
    vector_store_postings,
    # SQLite joins two blobs to a text of the same bytes.
    {"packed": "CAST(vector_store_postings.packed || excluded.packed AS BLOB)"},
    {"packed": "vector_store_postings.packed || excluded.packed"},
)


def _postings_of(terms: sa.FromClause) -> sa.Select[*tuple[Any, ...]]:
    # Block by block and word by word, each one look into the tree. As a subquery it can be nothing else: given a join,
    # both databases read all postings of the block for the few that are wanted.
    packed = (
        sa.select(_postings.packed)
        .where(_postings.store == _store, _postings.block == _blocks.block, _postings.term == terms.c.value)
        .correlate(vector_store_blocks, terms)
        .scalar_subquery()
    )
    return (
        sa.select(_blocks.block, terms.c.value, packed)
        .select_from(vector_store_blocks)
        .join(terms, sa.true())
        .where(_blocks.store == _store)
    )


POSTINGS = Statement(
    _postings_of(sa.func.json_each(text("terms")).table_valued(sa.column("value", sa.Text)).alias("asked")),
    _postings_of(
        sa.func.jsonb_array_elements_text(sa.cast(text("terms"), JSONB))
        .table_valued(sa.column("value", sa.Text))
        .alias("asked")
    ),
)


@lru_cache(maxsize=256)
def spans_of(shape: Shape) -> Statement:
    """The spans of files that a filter of this shape lets through."""
    return Statement(
        sa.select(_spans.first, _spans.count).where(_spans.store == _store, condition(shape, _store, _spans.file_id))
    )


class Hit(NamedTuple):
    store_id: str
    file_id: str
    content: int
    position: int
    score: float


class Place(NamedTuple):
    """A passage of a store by its number."""

    store_id: str
    store: int
    number: int
    score: float


class StoreNumbers(NamedTuple):
    store: int
    # What the next passage gets: all numbers are below.
    next: int
    vectors_version: int


class Passages:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def index(self, store_id: str, file_id: str, position: int, terms: Sequence[Mapping[str, int]]) -> None:
        """Adds the next passages of the file's content: how often each has which words.

        ``position`` is how many of the file's were added before; `NotFound` if it is not so, or the file is not in
        progress any more. Each passage is found as soon as the transaction is committed.
        """
        if not terms:
            return
        store, first = self._lock(store_id)
        row = self._bound.row(
            INDEXED,
            store_number=store,
            file=file_id,
            in_progress="in_progress",
            position=position,
            count=len(terms),
        )
        if row is None or row[0] is None:
            raise not_found("file", file_id)
        self._bound.run(ADVANCE, store=store_id, next=first + len(terms))
        span = {"file": file_id, "content": row[0], "position": position, "first": first, "count": len(terms)}
        if not (position and self._bound.run(EXTEND_SPAN, store_number=store, **span)):
            self._bound.run(INSERT_SPAN, store_number=store, **span)
        done = 0
        while done < len(terms):
            block, offset = divmod(first + done, BLOCK)
            part = terms[done : done + BLOCK - offset]
            self._add_to_block(store, block, offset, part)
            done += len(part)

    def remove(self, store_id: str, file_id: str) -> None:
        """Nothing of the file is found any more. See `tidy`."""
        import numpy as np  # noqa: PLC0415 - loads a lot

        store, _ = self._lock(store_id)
        by_block: dict[int, list[slice]] = {}
        for first, count in self._bound.rows(SPANS, store_number=store, file=file_id):
            while count:
                block, offset = divmod(first, BLOCK)
                here = min(count, BLOCK - offset)
                by_block.setdefault(block, []).append(slice(offset, offset + here))
                first, count = first + here, count - here  # noqa: PLW2901 - the span is used up
        self._bound.run(DELETE_SPANS, store_number=store, file=file_id)
        changed: list[tuple[int, bytes, int]] = []
        for block, slices in sorted(by_block.items()):
            if (row := self._bound.row(GET_BLOCK, store_number=store, block=block)) is None:
                continue
            lengths = np.frombuffer(row[0], np.uint16).copy()
            dead = row[1]
            for part in slices:
                dead += int(np.count_nonzero(lengths[part]))
                lengths[part] = 0
            changed.append((block, lengths.tobytes(), dead))
        if changed:
            self._bound.upsert(
                UPSERT_BLOCK,
                {
                    "store": [store] * len(changed),
                    "block": [block for block, _, _ in changed],
                    "lengths": [lengths for _, lengths, _ in changed],
                    "dead": [dead for _, _, dead in changed],
                },
            )

    def tidy(self, store_id: str, most_blocks: int = 4) -> bool:
        """Clears what removed passages left in so many blocks; whether that was all."""
        import numpy as np  # noqa: PLC0415 - loads a lot

        try:
            store, _ = self._lock(store_id)
        except NotFound:
            return True
        rows = self._bound.rows(UNTIDY, store_number=store, limit=most_blocks + 1)
        for block, packed_lengths in rows[:most_blocks]:
            is_there = np.frombuffer(packed_lengths, np.uint16) > 0
            if is_there.any():
                self._rewrite(store, block, is_there)
                self._bound.run(TIDIED, store_number=store, block=block)
            else:
                self._bound.run(DELETE_POSTINGS_OF_BLOCK, store_number=store, block=block)
                self._bound.run(DELETE_BLOCK, store_number=store, block=block)
        return len(rows) <= most_blocks

    def search(self, stores: Sequence[str], terms: Sequence[str], filters: Filter | None, limit: int) -> list[Hit]:
        """The passages that answer best, best first, out of all these stores together.

        Scores are BM25 as a share, above 0 and below 1, of the most that any passage could get for these words.
        A word that is there twice counts twice. Stores that are not there have nothing.
        """
        wanted = Counter(terms[:MAX_TERMS])
        through = None if filters is None else compiled(filters)
        indexes = [
            index for store_id in dict.fromkeys(stores) if (index := self._read(store_id, wanted, through)) is not None
        ]
        if not wanted or not indexes:
            return []
        return self.hits(_best(indexes, wanted, limit))

    def numbers(self, store_id: str) -> StoreNumbers | None:
        """What the index knows the store by."""
        row = self._bound.row(NUMBER, store=store_id)
        return None if row is None else StoreNumbers(*row)

    def alive(self, store_id: str, through: Compiled | None) -> Index | None:
        """Which numbers of the store have a passage, and one that a filter lets through."""
        return self._read(store_id, {}, through)

    def hits(self, places: Sequence[Place]) -> list[Hit]:
        """Whose passages these are; what was removed meanwhile is left out."""
        hits: list[Hit] = []
        for store_id, store, place, score in places:
            row = self._bound.row(FIND_SPAN, store_number=store, number=place)
            if row is not None and place < row[0] + row[1]:
                hits.append(Hit(store_id, row[2], row[3], row[4] + place - row[0], score))
        return hits

    def _lock(self, store_id: str) -> tuple[int, int]:
        if (row := self._bound.row(LOCK, store=store_id)) is None:
            raise not_found("vector store", store_id)
        return row[0], row[1]

    def _add_to_block(self, store: int, block: int, offset: int, terms: Sequence[Mapping[str, int]]) -> None:
        postings: dict[str, list[int]] = {}
        for place, counted in enumerate(terms, offset):
            high = place << _COUNT_BITS
            for term, count in counted.items():
                posting = high | min(count, _MOST_OFTEN)
                if (found := postings.get(term)) is None:
                    postings[term] = [posting]
                else:
                    found.append(posting)
        # In the order of the tree.
        names = sorted(postings)
        self._bound.upsert(
            ADD_POSTINGS,
            {
                "store": [store] * len(names),
                "block": [block] * len(names),
                "term": names,
                "packed": [_pack(postings[name]) for name in names],
            },
        )
        row = self._bound.row(GET_BLOCK, store_number=store, block=block)
        lengths, dead = (bytearray(2 * BLOCK), 0) if row is None else (bytearray(row[0]), row[1])
        # A passage without a word has a length too: it is there.
        new = _pack([min(_LONGEST, max(1, sum(counted.values()))) for counted in terms])
        lengths[2 * offset : 2 * offset + len(new)] = new
        self._bound.upsert(
            UPSERT_BLOCK, {"store": [store], "block": [block], "lengths": [bytes(lengths)], "dead": [dead]}
        )

    def _rewrite(self, store: int, block: int, is_there: NDArray[np.bool_]) -> None:
        """The postings of a block without those of passages that are not there."""
        import numpy as np  # noqa: PLC0415 - loads a lot

        rows = self._bound.rows(POSTINGS_OF_BLOCK, store_number=store, block=block)
        self._bound.run(DELETE_POSTINGS_OF_BLOCK, store_number=store, block=block)
        names: list[str] = []
        kept: list[bytes] = []
        for term, old in rows:
            postings = np.frombuffer(old, np.uint16)
            left = postings[is_there[postings >> _COUNT_BITS]]
            if left.size:
                names.append(term)
                kept.append(left.tobytes())
        self._bound.upsert(
            ADD_POSTINGS,
            {"store": [store] * len(names), "block": [block] * len(names), "term": names, "packed": kept},
        )

    def _read(self, store_id: str, wanted: Mapping[str, int], through: Compiled | None) -> Index | None:
        if (numbers := self.numbers(store_id)) is None:
            return None
        store = numbers.store
        blocks = self._bound.rows(BLOCKS, store_number=store)
        if not blocks:
            return None
        postings = (
            self._bound.rows(POSTINGS, store_number=store, terms=_encoder.encode(list(wanted)).decode())
            if wanted
            else []
        )
        spans = None
        if through is not None:
            spans = self._bound.rows(spans_of(through.shape), store_number=store, **through.values)
        return Index(store_id, store, blocks, postings, spans)


class Index:
    """What of a store's index a search needs."""

    def __init__(
        self,
        store_id: str,
        store: int,
        blocks: Sequence[Row],
        postings: Sequence[Row],
        spans: Sequence[Row] | None,
    ) -> None:
        import numpy as np  # noqa: PLC0415 - loads a lot

        self.store_id = store_id
        self.store = store
        self.blocks = np.array([block for block, _ in blocks], np.int64)
        self.lengths: Lengths = np.frombuffer(b"".join([lengths for _, lengths in blocks]), np.uint16)
        # Not all blocks that there were are still there: places are counted in those that are.
        self._places = {block: place for place, (block, _) in enumerate(blocks)}
        self._postings: dict[str, tuple[list[int], list[bytes]]] = {}
        for block, term, some in postings:
            if some is not None and (place := self._places.get(block)) is not None:
                places, blobs = self._postings.setdefault(term, ([], []))
                places.append(place)
                blobs.append(some)
        # None: all.
        self.allowed: NDArray[np.bool_] | None = None
        if spans is not None:
            self.allowed = self._mask(spans)

    def of(self, term: str) -> tuple[NDArray[np.int64], Floats] | None:
        """Where the term is, and how often; None: nowhere."""
        import numpy as np  # noqa: PLC0415 - loads a lot

        if (found := self._postings.get(term)) is None:
            return None
        places, blobs = found
        postings = np.frombuffer(b"".join(blobs), np.uint16)
        starts = np.repeat(np.array(places, np.int64) * BLOCK, [len(blob) // 2 for blob in blobs])
        where = starts + (postings >> _COUNT_BITS)
        is_there = self.lengths[where] > 0
        return where[is_there], (postings[is_there] & _MOST_OFTEN).astype(np.float32)

    def has(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these numbers have a passage that may be found."""
        import numpy as np  # noqa: PLC0415 - loads a lot

        at = np.searchsorted(self.blocks, numbers // BLOCK)
        is_known = at < len(self.blocks)
        at[~is_known] = 0
        is_known &= self.blocks[at] == numbers // BLOCK
        places = at * BLOCK + numbers % BLOCK
        is_there = self.lengths > 0 if self.allowed is None else (self.lengths > 0) & self.allowed
        return is_known & is_there[places]

    def number(self, place: int) -> int:
        return int(self.blocks[place // BLOCK]) * BLOCK + place % BLOCK

    def _mask(self, spans: Sequence[Row]) -> NDArray[np.bool_]:
        import numpy as np  # noqa: PLC0415 - loads a lot

        mask = np.zeros(len(self.lengths), np.bool_)
        for first, count in spans:
            number, left = first, count
            while left > 0:
                block, offset = divmod(number, BLOCK)
                here = min(left, BLOCK - offset)
                if (place := self._places.get(block)) is not None:
                    mask[place * BLOCK + offset : place * BLOCK + offset + here] = True
                number, left = number + here, left - here
        return mask


def _best(indexes: Sequence[Index], wanted: Mapping[str, int], limit: int) -> list[Place]:
    """BM25 over all the stores as if they were one; see `Passages.search`."""
    import numpy as np  # noqa: PLC0415 - loads a lot

    count = sum(int(np.count_nonzero(index.lengths)) for index in indexes)
    if not count:
        return []
    mean = sum(int(index.lengths.sum(dtype=np.int64)) for index in indexes) / count
    scores = [np.zeros(len(index.lengths), np.float32) for index in indexes]
    # What a passage's length does to how much a word counts.
    most = 0.0
    weights = [_K1 * (1 - _B + _B * index.lengths.astype(np.float32) / mean) for index in indexes]
    for term, times in wanted.items():
        found = [index.of(term) for index in indexes]
        having = sum(len(one[0]) for one in found if one is not None)
        rarity = times * float(np.log1p((count - having + 0.5) / (having + 0.5)))
        most += rarity * (_K1 + 1)
        for one, sums, weight in zip(found, scores, weights, strict=True):
            if one is not None:
                where, often = one
                # A passage has one posting of a word at most, so none is added to twice.
                sums[where] += rarity * (_K1 + 1) * often / (often + weight[where])
    places: list[Place] = []
    for index, sums in zip(indexes, scores, strict=True):
        if index.allowed is not None:
            sums[~index.allowed] = 0
        places += [
            Place(index.store_id, index.store, index.number(place), float(sums[place]) / most)
            for place in highest(sums, limit)
            if sums[place] > 0
        ]
    places.sort(key=lambda place: -place.score)
    return places[:limit]


def highest(scores: Floats, limit: int) -> list[int]:
    """Where the highest scores are, the highest first; of equal ones the earlier first."""
    import numpy as np  # noqa: PLC0415 - loads a lot

    if len(scores) > limit:
        least = np.partition(scores, len(scores) - limit)[len(scores) - limit]
        # Not argpartition: of equal scores at the edge it would take any.
        above = np.flatnonzero(scores > least)
        at = np.flatnonzero(scores == least)[: limit - len(above)]
        chosen = np.concatenate((above, at))
    else:
        chosen = np.arange(len(scores))
    return [int(place) for place in chosen[np.lexsort((chosen, -scores[chosen]))]]


def _pack(values: Sequence[int]) -> bytes:
    return array("H", values).tobytes()
