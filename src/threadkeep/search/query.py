"""What is found in vector stores for a question."""

import asyncio
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from threadkeep.contract.metadata import Attributes
from threadkeep.contract.vector_stores import Filter
from threadkeep.search.terms import query_terms
from threadkeep.storage.filters import check_filters
from threadkeep.storage.passages import Hit
from threadkeep.storage.store import Store, Transaction

Ranker = Literal["none", "auto", "default-2024-11-15", "default_2024_08_21"]

_CANDIDATES: Final = 50


class Found(NamedTuple):
    """A place in a file that answers."""

    file_id: str
    filename: str
    # From 0 to 1; comparable within one answer.
    score: float
    attributes: Attributes
    # Pieces of text in the order of the file.
    passages: list[str]


class Search:
    """Searches the vector stores of one database."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
    ) -> list[Found]:
        """The best places for all ``queries`` together, best first; `InvalidRequest` for filters that are too large."""
        if filters is not None:
            check_filters(filters)
        terms = await asyncio.to_thread(lambda: [query_terms(query) for query in queries])

        def find(tx: Transaction) -> list[Found]:
            best: dict[tuple[str, int], Hit] = {}
            for asked in terms:
                for hit in tx.passages.search(store_ids, asked, filters, _CANDIDATES):
                    place = hit.file_id, hit.position
                    if place not in best or best[place].score < hit.score:
                        best[place] = hit
            hits = sorted(best.values(), key=lambda hit: -hit.score)[:max_num_results]
            highest = hits[0].score if hits else 1.0
            return [
                found
                for hit in hits
                if (score := hit.score / highest) >= score_threshold and (found := _found(tx, hit, score)) is not None
            ]

        return await self._store.read(project, find)


def _found(tx: Transaction, hit: Hit, score: float) -> Found | None:
    """None: it went between two statements."""
    stored, file = tx.vector_store_files.find(hit.store_id, hit.file_id), tx.files.find(hit.file_id)
    passages = tx.contents.read([(hit.content, hit.position)])
    if stored is None or file is None or not passages:
        return None
    return Found(hit.file_id, file.filename, score, stored.file.attributes or {}, [passages[0].text])
