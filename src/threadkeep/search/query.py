"""What is found in vector stores for a question.

    each query ──▶ 50 passages by words ┬─▶ fused by their ranks ──▶ put in order by a model, if one is set ──▶ the best
               └─▶ 50 by meaning, ──────┘
                   if a model is set

The order is that of the ranks (reciprocal rank fusion): scores of words and of vectors can't be compared. The scores
that are shown can: of words it is the share of what a passage could get for the query, of vectors the cosine; of a
passage the better of the two, smoothed along the order.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from typing import Final, Literal, NamedTuple

from threadkeep.contract.errors import NotFound
from threadkeep.contract.metadata import Attributes
from threadkeep.contract.vector_stores import Filter
from threadkeep.search.embed import Embedder
from threadkeep.search.rerank import Reranker
from threadkeep.search.terms import query_terms
from threadkeep.storage.contents import Passage
from threadkeep.storage.filters import check_filters
from threadkeep.storage.passages import Hit
from threadkeep.storage.store import Store, Transaction

# "none": no second look by a model. All others are one.
Ranker = Literal["none", "auto", "default-2024-11-15", "default_2024_08_21"]

# Of each half, for each query.
_CANDIDATES: Final = 50
# Reciprocal rank fusion's only constant, as its authors have it.
_K: Final = 60
# Characters. What is longer is no question in a few words; and the patterns below take the square of it.
_MAX_QUESTION: Final = 1_000
# So many are shown to the model that puts them in order.
_RERANKED: Final = 50

# What people say around what they ask. Only at the edges, and only whole phrases: what is between stays as it is.
_POLITE: Final = re.compile(
    r"^(?:(?:hi|hello|hey|please|ok|okay|so|well|thanks|thank you)\b[\s,.!:-]*"
    r"|(?:can|could|would|will) (?:you|i|we) (?:please |kindly )?(?=\w)"
    r"|i(?:'d| would) like (?:you )?to (?:know|ask|find out|see|learn)\b[\s,:]*(?:about )?"
    r"|i(?:'m| am) (?:looking for|interested in|wondering|trying to (?:find|understand|learn|figure out))\b[\s,]*"
    r"|i (?:want|need|wish) to (?:know|find(?: out)?|understand|see|learn)\b[\s,]*(?:about )?"
    r"|(?:tell|show|give|find|help|explain to|remind) (?:me|us)\b[\s,:]*"
    r"(?:about |(?:to )?(?:find|understand) |everything about |more about )?"
    r"|(?:explain|describe|summari[sz]e|search for|look up|look for|find) "
    r"|do you (?:know|have (?:any )?(?:information|details|idea)s? (?:on|about))\b[\s,]*"
    r"|(?:(?:any|some) )?(?:information|details|documents?|passages?) (?:about|on) )",
    re.IGNORECASE,
)
_QUESTION: Final = re.compile(
    r"^(?:(?:what|which|who|whom|whose|where|when|why|how)(?:'s|'re)?"
    r"(?: (?:is|are|was|were|do|does|did|can|could|should|would|will|has|have|had)\b)?"
    r"|(?:is|are|was|were|do|does|did) there(?: any)?\b"
    r"|(?:is|are|was|were|do|does|did|can|could|should|would|will|has|have|had)"
    r" (?=(?:the|an?|any|it|i|you|we|they|this|that|these|those|my|your|our)\b))\s*",
    re.IGNORECASE,
)
_ARTICLE: Final = re.compile(r"^(?:(?:the|an?|any|it|that|if|whether|about|you|i|we)\b\s+)+", re.IGNORECASE)
_TAIL: Final = re.compile(r"(?:[\s,]*\b(?:please|thanks|thank you|for me|if possible)|[\s?!.,;:]+)$", re.IGNORECASE)


class Found(NamedTuple):
    """A place in a file that answers."""

    file_id: str
    filename: str
    # From 0 to 1; comparable within one answer.
    score: float
    attributes: Attributes
    text: str


class Search:
    """Searches the vector stores of one database."""

    def __init__(self, store: Store, embedder: Embedder | None = None, reranker: Reranker | None = None) -> None:
        self._store = store
        self._embedder = embedder
        self._reranker = reranker

    async def search(
        self,
        project: str,
        store_ids: Sequence[str],
        queries: Sequence[str],
        *,
        max_num_results: int,
        ranker: Ranker = "auto",
        score_threshold: float = 0.0,
        filters: Filter | None = None,
        joins: bool = False,
    ) -> list[Found]:
        """The best places for all ``queries`` together, best first; `InvalidRequest` for filters that are too large.

        Stores that are not there have nothing. ``joins``: of the best passages, those that overlap or follow each
        other in a file become one place.
        """
        if filters is not None:
            check_filters(filters)
        asked = _Asked(
            terms=await asyncio.to_thread(lambda: [query_terms(query) for query in queries]),
            vectors=await self._vectors(project, store_ids, queries),
        )
        reranker = None if ranker == "none" else self._reranker
        most = max_num_results if reranker is None else max(max_num_results, _RERANKED)
        places = await self._store.read(project, lambda tx: _find(tx, store_ids, asked, filters, most))
        if reranker is not None and len(places) > 1:
            places = await _reranked(reranker, " ".join(queries), places)
        places = [place for place in places[:max_num_results] if place.found.score >= score_threshold]
        return [place.found for place in (_joined(places) if joins else places)]

    async def _vectors(
        self, project: str, store_ids: Sequence[str], queries: Sequence[str]
    ) -> Mapping[str, tuple[list[str], list[list[float]]]]:
        """For each model: the stores that are searched by it, and its vectors of the queries."""
        if (embedder := self._embedder) is None:
            return {}

        def look(tx: Transaction) -> dict[str, list[str]]:
            by_model: dict[str, list[str]] = {}
            if tx.vectors.is_available():
                for store_id in dict.fromkeys(store_ids):
                    model: str | None = None
                    with suppress(NotFound):
                        model = tx.vector_stores.model(store_id)
                    if model is not None:
                        by_model.setdefault(model, []).append(store_id)
            return by_model

        by_model = await self._store.read(project, look)
        several = await asyncio.gather(*(embedder.of_queries(model, queries) for model in by_model))
        return {
            model: (stores, vectors)
            for (model, stores), vectors in zip(by_model.items(), several, strict=True)
            if vectors is not None
        }


def rewritten(query: str) -> str:
    """The query without what is said around it: courtesies, question words, what ends a sentence. English only; what
    else there is stays as it is, and so does a query that is too long for a question or of which nothing would be left.
    """
    if len(query) > _MAX_QUESTION:
        return query
    left = " ".join(query.split())
    while shorter := _POLITE.sub("", left, count=1):
        if shorter == left:
            break
        left = shorter
    left = _ARTICLE.sub("", _QUESTION.sub("", left, count=1), count=1)
    while (shorter := _TAIL.sub("", left, count=1)) != left:
        left = shorter
    return left if query_terms(left) else query


class _Asked(NamedTuple):
    terms: Sequence[Sequence[str]]
    # See `Search._vectors`.
    vectors: Mapping[str, tuple[list[str], list[list[float]]]]


class _Place(NamedTuple):
    found: Found
    passage: Passage
    # The same passage may be in two stores, under two files.
    store_id: str


def _find(tx: Transaction, store_ids: Sequence[str], asked: _Asked, filters: Filter | None, most: int) -> list[_Place]:
    rankings = [tx.passages.search(store_ids, terms, filters, _CANDIDATES) for terms in asked.terms]
    for model, (stores, vectors) in asked.vectors.items():
        rankings += [tx.vectors.search(stores, model, vector, filters, _CANDIDATES) for vector in vectors]
    places: list[_Place] = []
    files: dict[tuple[str, str], tuple[str, Attributes] | None] = {}
    for hit in fused(rankings)[:most]:
        key = hit.store_id, hit.file_id
        if key not in files:
            stored, file = tx.vector_store_files.find(*key), tx.files.find(hit.file_id)
            files[key] = None if stored is None or file is None else (file.filename, stored.file.attributes or {})
        passages = tx.contents.read([(hit.content, hit.position)])
        if (named := files[key]) is not None and passages:
            # Else it went between two statements.
            found = Found(hit.file_id, named[0], hit.score, named[1], passages[0].text)
            places.append(_Place(found, passages[0], hit.store_id))
    return places


def fused(rankings: Sequence[Sequence[Hit]]) -> list[Hit]:
    """All the hits, each once, in the order of their ranks, with scores that fall along it."""
    worth: dict[tuple[str, int, int], float] = {}
    best: dict[tuple[str, int, int], Hit] = {}
    for ranking in rankings:
        ranked: set[tuple[str, int, int]] = set()
        for rank, hit in enumerate(ranking, 1):
            # A file may be in two of the stores: it is one file.
            key = hit.file_id, hit.content, hit.position
            if key not in ranked:
                ranked.add(key)
                worth[key] = worth.get(key, 0.0) + 1 / (_K + rank)
            if key not in best or best[key].score < hit.score:
                best[key] = hit
    # Of equal worth: the higher score, then whatever is always the same.
    order = sorted(best, key=lambda key: (-worth[key], -best[key].score, key))
    scores = _falling([min(max(best[key].score, 0.0), 1.0) for key in order])
    return [best[key]._replace(score=score) for key, score in zip(order, scores, strict=True)]


def _falling(scores: Sequence[float]) -> list[float]:
    """The nearest scores that never rise: where some do, all of them get their mean."""
    pools: list[tuple[float, int]] = []
    for score in scores:
        total, count = score, 1
        while pools and pools[-1][0] / pools[-1][1] < total / count:
            more, others = pools.pop()
            total, count = total + more, count + others
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


async def _reranked(reranker: Reranker, query: str, places: Sequence[_Place]) -> list[_Place]:
    scores = await reranker.scores(query, [place.found.text for place in places])
    if scores is None:
        return list(places)
    scored = [
        place._replace(found=place.found._replace(score=score)) for place, score in zip(places, scores, strict=True)
    ]
    return sorted(scored, key=lambda place: -place.found.score)


def _joined(places: Sequence[_Place]) -> list[_Place]:
    """Those that overlap or follow each other in a file as one, with the score of the best of them."""

    def file_of(place: _Place) -> tuple[str, str]:
        return place.store_id, place.found.file_id

    joined: list[_Place] = []
    ordered = sorted(places, key=lambda place: (*file_of(place), place.passage.position))
    for _, several in groupby(ordered, key=file_of):
        last: _Place | None = None
        for place in several:
            if last is not None and _adjoin(last.passage, place.passage):
                joined.pop()
                place = _together(last, place)  # noqa: PLW2901 - it takes the place of both
            joined.append(place)
            last = place
    return sorted(joined, key=lambda place: -place.found.score)


def _adjoin(one: Passage, next_: Passage) -> bool:
    return next_.position == one.position + 1 or next_.start <= one.end


def _together(one: _Place, next_: _Place) -> _Place:
    overlap = one.passage.end - next_.passage.start
    # Where they only follow each other there was white space between, or nothing.
    text = one.found.text + (next_.found.text[overlap:] if overlap >= 0 else "\n" + next_.found.text)
    end = max(one.passage.end, next_.passage.end)
    return next_._replace(
        found=next_.found._replace(score=max(one.found.score, next_.found.score), text=text),
        passage=next_.passage._replace(start=one.passage.start, end=end),
    )
