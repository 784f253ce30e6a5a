"""The semantic half: vectors of passages and of queries, by the model that this server is set to.

    content read ──▶ vectors of all passages ──▶ indexed: found by words and by meaning
    the model was changed: each store is due to be embedded anew; until that is done its old vectors are searched

Which model's vectors a store is searched by stands with the store, see `VectorStores.model`. Where vectors can't be
had, because their server is away or PostgreSQL lacks pgvector, words still find what there is.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from threadkeep.contract.errors import NotFound, ThreadkeepError, UpstreamFailed
from threadkeep.logs import Log
from threadkeep.storage.store import Store, Transaction
from threadkeep.upstream.retrieval import MOST_TEXTS, EmbeddingServer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = Log(__name__)

T = TypeVar("T")

# Due work: what a store holds, or one file of it (the key is then `ingest_key`), is to have vectors of the model.
EMBED: Final = "embed"

# Requests for vectors of passages that this node has under way at once.
_AT_ONCE: Final = 4
# For a request and all its repetitions. Somebody waits for those of queries.
_PASSAGES_S: Final = 300.0
_QUERY_S: Final = 10.0
_KEPT_QUERIES: Final = 1000
_PAGE: Final = 100
_AGAIN_S: Final = 5.0


class Write(Protocol):
    async def __call__(self, fn: Callable[[Transaction], T], /) -> T: ...


class Embedder:
    """``name`` is what the model's vectors are stored under."""

    def __init__(self, store: Store, server: EmbeddingServer, model: str, *, dimensions: int | None = None) -> None:
        # Vectors that were cut to another length are those of another model.
        self.name = model if dimensions is None else f"{model}#{dimensions}"
        self._store = store
        self._server = server
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._queries: OrderedDict[tuple[str, str], list[float]] = OrderedDict()
        self._has_complained = False
        self._looking: asyncio.Task[None] | None = None

    # ── queries ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def of_queries(self, name: str, queries: Sequence[str]) -> list[list[float]] | None:
        """A vector for each query, of the model that vectors are stored under ``name`` of. None: they can't be had."""
        if missing := [query for query in dict.fromkeys(queries) if (name, query) not in self._queries]:
            model, dimensions = _read(name)
            try:
                vectors = await self._server.vectors(
                    model, missing, deadline=time.monotonic() + _QUERY_S, dimensions=dimensions
                )
            except UpstreamFailed as error:
                log.warning("query_not_embedded", error=error, model=name)
                return None
            found = dict(zip(missing, vectors, strict=True))
        else:
            found: dict[str, list[float]] = {}
        vectors = [found[query] if query in found else self._queries[name, query] for query in queries]
        for query, vector in zip(queries, vectors, strict=True):
            self._queries[name, query] = vector
            self._queries.move_to_end((name, query))
        while len(self._queries) > _KEPT_QUERIES:
            self._queries.popitem(last=False)
        return vectors

    # ── passages ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def __call__(self, project: str, content: int, write: Write) -> None:
        """See `ingest.Embed`."""
        if not await self._is_available(project):
            return
        name = self.name
        first = await self._store.read(project, lambda tx: tx.vectors.covered(content, name))
        # In the order of the passages, as they must be stored: where it is interrupted, it goes on.
        under_way: deque[tuple[int, asyncio.Task[NDArray[np.float32]]]] = deque()
        is_more = True
        try:
            while is_more or under_way:
                while is_more and len(under_way) < _AT_ONCE:
                    passages = await self._store.read(
                        project, lambda tx, first=first: tx.contents.passages(content, first, MOST_TEXTS)
                    )
                    is_more = len(passages) == MOST_TEXTS
                    if passages:
                        texts = [passage.text for passage in passages]
                        under_way.append((first, asyncio.create_task(self._of_passages(texts))))
                        first += len(passages)
                if under_way:
                    position, task = under_way.popleft()
                    try:
                        vectors = await task
                    finally:
                        task.cancel()
                    await write(
                        lambda tx, position=position, vectors=vectors: tx.vectors.put(content, name, position, vectors)
                    )
        finally:
            for _, task in under_way:
                task.cancel()
            await asyncio.gather(*(task for _, task in under_way), return_exceptions=True)

    def has_all(self, tx: Transaction, content: int, passages: int) -> bool:
        """Whether there is nothing to be done for the content."""
        return not tx.vectors.is_available() or tx.vectors.covered(content, self.name) >= passages

    async def _of_passages(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        import numpy as np  # noqa: PLC0415 - loads a lot

        model, dimensions = _read(self.name)
        async with self._at_once:
            deadline = time.monotonic() + _PASSAGES_S
            vectors = await self._server.vectors(model, texts, deadline=deadline, dimensions=dimensions)
        return await asyncio.to_thread(np.asarray, vectors, np.float32)

    async def _is_available(self, project: str) -> bool:
        is_available = await self._store.read(project, lambda tx: tx.vectors.is_available())
        if not is_available and not self._has_complained:
            self._has_complained = True
            why = "PostgreSQL has no pgvector 0.7 or newer: files are searched by their words only"
            log.warning("vectors_unavailable", reason=why)
        return is_available

    # ── stores whose vectors are another model's, or none ───────────────────────────────────────────────────────────

    async def renew(self, project: str, store_id: str, file_id: str | None, write: Write) -> None:
        """Gives the passages of a store, or of one file of it, vectors of the model, and lets the store be searched by
        them once all have one. `UpstreamFailed`: it is called again later, and goes on."""
        if not await self._is_available(project):
            return
        with suppress(NotFound):  # deleted meanwhile
            if file_id is not None:
                stored = await self._store.read(project, lambda tx: tx.vector_store_files.find(store_id, file_id))
                if stored is not None and stored.content is not None:
                    await self(project, stored.content, write)
                    # What was indexed before it had vectors is now looked at again.
                    await write(lambda tx: tx.vector_stores.set_model(store_id, tx.vector_stores.model(store_id)))
                return
            await self._for_all(project, store_id, lambda content: self(project, content, write))
            await write(lambda tx: tx.vector_stores.set_model(store_id, self.name))
            log.info("vector_store_embedded", vector_store_id=store_id, model=self.name)
            name = self.name
            await self._for_all(
                project,
                store_id,
                lambda content: write(lambda tx: tx.vectors.forget_unsearched(content, name)),
            )

    async def _for_all(self, project: str, store_id: str, do: Callable[[int], Awaitable[None]]) -> None:
        after = -1
        while contents := await self._store.read(
            project, lambda tx, after=after: tx.vector_store_files.contents_of(store_id, after, _PAGE)
        ):
            for content in contents:
                with suppress(NotFound):
                    await do(content)
            after = contents[-1]

    def start(self, wake: Callable[[], object]) -> None:
        """Looks once for stores that were embedded by another model, and makes them due; ``wake`` tells the worker."""
        self._looking = asyncio.create_task(self._look(wake))

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self, wake: Callable[[], object]) -> None:
        while True:
            try:
                for project in await self._store.read(None, lambda tx: tx.projects.ids()):
                    await self._look_in(project)
                wake()
                return
            except ThreadkeepError as error:
                log.warning("stores_not_looked_at", error=error)
                await asyncio.sleep(_AGAIN_S)

    async def _look_in(self, project: str) -> None:
        if not await self._is_available(project):
            return
        after = ""
        while stale := await self._store.read(
            project, lambda tx, after=after: tx.vector_stores.stale(self.name, after, _PAGE)
        ):

            def make_due(tx: Transaction, stale: Sequence[str] = stale) -> None:
                for store_id in stale:
                    tx.work.insert_absent(EMBED, store_id)

            await self._store.write(project, make_due)
            after = stale[-1]


def _read(name: str) -> tuple[str, int | None]:
    """The model, and to which length its vectors are cut."""
    model, mark, dimensions = name.rpartition("#")
    return (model, int(dimensions)) if mark and dimensions.isdecimal() else (name, None)
