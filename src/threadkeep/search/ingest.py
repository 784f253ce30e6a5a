"""Ingestion: files of vector stores become passages that are found. All of it is due work, on any node.

    ingest   a file of a store:  what does it hold? ──▶ wait for the content ──▶ index its passages ──▶ completed
    content  what files hold:    read, cut, embed ──▶ ready: whoever waits goes on          nobody wants it ──▶ gone
    embed    a store whose vectors are another model's than this server's, or a file that came without
    vector_store, tidy, forget:  what expired, deleted and detached things leave behind

A content is known by the hash of its bytes and by how it was read and cut: files that hold the same share it, in all
stores of a project, and it is read once. Every transaction here begins with the fence of its lease and is small, and
what it stores says where to go on: a node that dies loses nothing, and whoever takes the work over repeats no more than
reading the file. Work that is removed (a batch cancelled, a file detached) stops at its next transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

import msgspec

from threadkeep.contract.errors import LeaseLost, ThreadkeepError, Unavailable, UpstreamFailed
from threadkeep.contract.tools import MAX_FILE_TOKENS, StaticChunking
from threadkeep.contract.vector_stores import VectorStoreFileError
from threadkeep.files.contents import Contents
from threadkeep.files.files import FORGET
from threadkeep.logs import Log, bound
from threadkeep.search import stores
from threadkeep.search.embed import EMBED
from threadkeep.search.formats import Parser, parser_of
from threadkeep.search.parse import ParseFailed, Parsers
from threadkeep.search.stores import CONTENT, INGEST, STORE, TIDY, ingest_key
from threadkeep.search.terms import count_terms
from threadkeep.storage.blobs import Blob, BlobMissing
from threadkeep.storage.contents import Content, NewPassage, Passage
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.vector_store_files import StoredFile
from threadkeep.storage.work import Lease, LeaseTerms, WorkItem

if TYPE_CHECKING:
    from threadkeep.search.chunk import Chunk, Chunker

log = Log(__name__)

T = TypeVar("T")

# Counted up when reading or cutting comes to other passages than before: what was read earlier is then not shared.
_EDITION: Final = 1
# Passages to a transaction. Runs write between two of them.
_BATCH: Final = 32
# A file that is no longer is kept in memory between hashing and reading it; a longer one is fetched twice.
_KEPT_BYTES: Final = 4 * 1024**2
# Work in whose hands so many nodes have died is not tried again: it may be what kills them.
_MAX_DEATHS: Final = 3
# How long a file waits for its content before it looks by itself. It is woken: this is for what nobody thought of.
_WAIT_S: Final = 300
_AGAIN_S: Final = 2.0
# How often whoever reads a content looks whether anybody still wants it.
_LOOK_S: Final = 0.5
# Embedding is tried for about a quarter of an hour, with pauses that double.
_MAX_TRIES: Final = 10
_LONGEST_PAUSE_S: Final = 300.0
# Vectors of a new model are tried for as long as it takes: meanwhile there are the old ones.
_RENEW_AGAIN_S: Final = 30.0
# How many are taken out of a store, or stores a file out of, in one transaction.
_FEW: Final = 20
_ALL: Final = 1_000_000

_BROKE: Final = VectorStoreFileError(code="server_error", message="An internal error occurred.")
_MISSING: Final = VectorStoreFileError(code="server_error", message="The content of the file is missing.")
_TEXTLESS: Final = VectorStoreFileError(code="invalid_file", message="The file contains no text.")


class Held(Protocol):
    """An item of due work in the hands of a handler here; ``settled`` once its lease is finished or given back."""

    lease: Lease
    prepared: object
    settled: bool


class Leases(Protocol):
    """The worker, as far as it concerns ingestion."""

    def insist(self) -> LeaseTerms | None: ...

    def adopt(self, lease: Lease, prepared: object) -> None: ...

    def decline(self, terms: LeaseTerms | None) -> None: ...

    def wake(self) -> None: ...


Write = Callable[[Callable[[Transaction], T]], Awaitable[T]]


class Embed(Protocol):
    """Makes vectors of passages by the model that the server is set to, whose ``name`` is stored with them."""

    @property
    def name(self) -> str: ...

    async def __call__(self, project: str, content: int, write: Fenced) -> None:
        """Gives every passage of the content that has none a vector.

        What it stores it stores through ``write``, a few passages at a time, and goes on where an earlier call ended.
        `UpstreamFailed` and `Unavailable`: it is called again later.
        """
        ...

    def has_all(self, tx: Transaction, content: int, passages: int) -> bool:
        """Whether the content's ``passages`` have vectors, or can't have any."""
        ...

    async def renew(self, project: str, store_id: str, file_id: str | None, write: Fenced) -> None:
        """The same for all that a store holds, or one file of it, which is found by it from then on."""
        ...


class Fenced:
    """Writes for whoever holds a lease, as long as it is held."""

    def __init__(self, store: Store, held: Held, lease_s: float) -> None:
        self._store = store
        self._held = held
        self._lease_s = lease_s

    async def __call__(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns; `LeaseLost` if the work is another's by now, or was removed."""
        item, token = self._held.lease.item, self._held.lease.token

        def write(tx: Transaction) -> T:
            tx.work.fence(item.kind, item.key, token, self._lease_s)
            return fn(tx)

        return await self._store.write(item.project, write)


class _Tried(msgspec.Struct):
    """What is noted of a content whose passages are all there and wait for their vectors."""

    tries: int


class _Found(NamedTuple):
    """A file of a store as it is when somebody comes to it."""

    stored: StoredFile
    content: Content | None
    # None: the file was deleted.
    filename: str | None
    blobs: Sequence[Blob]


class Ingestion:
    """The handlers, on one store and one worker of their own: that nothing here ever takes the place of a run."""

    def __init__(
        self,
        store: Store,
        contents: Contents,
        parsers: Parsers,
        *,
        lease_s: float,
        max_file_tokens: int = MAX_FILE_TOKENS,
        embed: Embed | None = None,
    ) -> None:
        self._store = store
        self._contents = contents
        self._parsers = parsers
        self._max_file_tokens = max_file_tokens
        self._lease_s = lease_s
        self._embed = embed
        self._leases: Leases | None = None

    @property
    def handlers(self) -> Mapping[str, Callable[[Held], Awaitable[None]]]:
        """By kind of due work."""
        return {
            INGEST: self._settling(self._ingest),
            CONTENT: self._settling(self._read_content),
            STORE: self._settling(self._clear_store),
            TIDY: self._settling(self._tidy),
            FORGET: self._settling(self._forget),
            EMBED: self._settling(self._renew_vectors),
        }

    def use(self, leases: Leases) -> None:
        """Whose handlers these are."""
        self._leases = leases

    def wake(self) -> None:
        """There may be something to do."""
        if self._leases is not None:
            self._leases.wake()

    def _settling(self, handle: Callable[[Held, Fenced], Awaitable[None]]) -> Callable[[Held], Awaitable[None]]:
        """``handle``, with what all handlers do alike when they are stopped or can't go on now."""

        async def settle(held: Held) -> None:
            item = held.lease.item
            with bound(kind=item.kind, key=item.key):
                try:
                    await handle(held, Fenced(self._store, held, self._lease_s))
                except asyncio.CancelledError:
                    # The server stops, or the lease is gone.
                    if not held.settled:
                        await self._give_back(held, due_in_s=0.0)
                    raise
                except LeaseLost:
                    held.settled = True
                    log.info("ingestion_stopped")
                except Unavailable as error:
                    log.warning("ingestion_delayed", error=error)
                    await self._give_back(held, due_in_s=_AGAIN_S)

        return settle

    async def _give_back(self, held: Held, *, due_in_s: float) -> None:
        item, token = held.lease.item, held.lease.token
        due_at_ms = _ms_from_now(due_in_s)
        held.settled = True
        try:
            await self._store.write(None, lambda tx: tx.work.release(item.kind, item.key, token, due_at_ms=due_at_ms))
        except ThreadkeepError as error:
            # Then the lease runs out.
            log.info("lease_not_given_back", error=error)

    # ── a file of a store ───────────────────────────────────────────────────────────────────────────────────────────

    async def _ingest(self, held: Held, write: Fenced) -> None:
        item = held.lease.item
        store_id, _, file_id = item.key.partition("/")

        def look(tx: Transaction) -> _Found | None:
            stored = tx.vector_store_files.find(store_id, file_id)
            if stored is None or stored.file.status != "in_progress":
                return None
            content = None if stored.content is None else tx.contents.find(stored.content)
            file = tx.files.content(file_id)
            return _Found(stored, content, *((None, ()) if file is None else (file[0].filename, file[1])))

        found = await self._store.read(item.project, look)
        if found is None:
            await self._finish(held, write)
        elif held.lease.attempts >= _MAX_DEATHS:
            log.error("file_given_up", attempts=held.lease.attempts)
            await self._fail(held, write, _BROKE)
        elif found.content is None:
            await self._find_content(held, write, found)
        else:
            await self._go_on(held, write, found.stored, found.content)

    async def _find_content(self, held: Held, write: Fenced, found: _Found) -> None:
        """Finds out what the file holds, and begins to read that unless somebody has."""
        item = held.lease.item
        store_id, _, file_id = item.key.partition("/")
        parser = None if found.filename is None else parser_of(found.filename)
        if parser is None:
            # Deleted a moment ago: whoever forgets it takes it out of the store.
            await self._fail(held, write, _MISSING)
            return
        try:
            digest, body = await self._digest(found.blobs)
        except BlobMissing:
            await self._fail(held, write, _MISSING)
            return
        key = content_key(digest, parser, stores.static_chunking(found.stored.file))
        terms = None if self._leases is None else self._leases.insist()

        def begin(tx: Transaction) -> tuple[Content, bool]:
            content = tx.contents.ensure(key)
            if not tx.vector_store_files.set_content(store_id, file_id, content.number):
                raise LeaseLost(item.kind, item.key)
            is_new = content.status == "in_progress" and tx.work.insert_absent(
                CONTENT, str(content.number), lease=terms
            )
            if content.status == "in_progress":
                tx.work.release(item.kind, item.key, held.lease.token, due_at_ms=_ms_from_now(_WAIT_S))
            return content, is_new

        content, _ = await self._handing_over(
            item, terms, lambda: write(begin), lambda made: (CONTENT, str(made[0].number)) if made[1] else None, body
        )
        if content.status == "in_progress":
            held.settled = True
        else:
            await self._go_on(held, write, found.stored._replace(indexed=0), content)

    async def _handing_over(
        self,
        item: WorkItem,
        terms: LeaseTerms | None,
        commit: Callable[[], Awaitable[T]],
        leased: Callable[[T], tuple[str, str] | None],
        prepared: object,
    ) -> T:
        """What ``commit`` returns; the item that it has leased under ``terms``, if any, is begun here at once."""

        async def both() -> T:
            try:
                made = await commit()
            except BaseException:
                if self._leases is not None:
                    self._leases.decline(terms)
                raise
            if self._leases is not None and terms is not None and (named := leased(made)) is not None:
                begun = WorkItem(*named, project=item.project, thread=None)
                self._leases.adopt(Lease(begun, terms.token, 0, 0, interrupted=False), prepared)
            elif self._leases is not None:
                self._leases.decline(terms)
                self._leases.wake()
            return made

        # Shielded: between the commit and the start of the work lies no point at which anybody may give up.
        return await asyncio.shield(asyncio.create_task(both()))

    async def _go_on(self, held: Held, write: Fenced, stored: StoredFile, content: Content) -> None:
        item = held.lease.item
        match content.status:
            case "ready":
                await self._index(held, write, stored, content)
            case "failed":
                await self._fail(held, write, content.error or _BROKE)
            case "in_progress":

                def wait(tx: Transaction) -> None:
                    tx.work.insert_absent(CONTENT, str(content.number))
                    tx.work.release(item.kind, item.key, held.lease.token, due_at_ms=_ms_from_now(_WAIT_S))

                await write(wait)
                held.settled = True
                self.wake()
            case "dropped":
                raise LeaseLost(item.kind, item.key)

    async def _index(self, held: Held, write: Fenced, stored: StoredFile, content: Content) -> None:
        """Makes the passages findable in the store, and with the last of them the file is completed."""
        item = held.lease.item
        store_id, _, file_id = item.key.partition("/")
        position = stored.indexed
        while True:
            passages = await self._store.read(
                item.project, lambda tx, first=position: tx.contents.passages(content.number, first, _BATCH)
            )
            terms = await asyncio.to_thread(_counted, passages)
            is_last = position + len(passages) >= content.passages or not passages

            def add(tx: Transaction, position: int = position, is_last: bool = is_last, terms: _Terms = terms) -> None:
                tx.passages.index(store_id, file_id, position, terms)
                if is_last:
                    self._note_vectors(tx, store_id, file_id, content)
                    tx.vector_store_files.end(store_id, file_id, "completed", usage_bytes=content.bytes)
                    tx.work.finish(item.kind, item.key, held.lease.token)

            await write(add)
            position += len(passages)
            if is_last:
                held.settled = True
                log.info("file_ingested", passages=position, bytes=content.bytes)
                return

    def _note_vectors(self, tx: Transaction, store_id: str, file_id: str, content: Content) -> None:
        """Before the file is completed: by whose vectors it is found from now on."""
        if self._embed is None:
            if tx.vector_stores.model(store_id) is not None:
                # What it holds is embedded when a server with a model comes across it.
                tx.vector_stores.set_model(store_id, None)
            return
        tx.vector_stores.adopt_model(store_id, self._embed.name)
        if not self._embed.has_all(tx, content.number, content.passages):
            # It was read by a server with another model, or none.
            tx.work.insert_absent(EMBED, ingest_key(store_id, file_id))

    async def _fail(self, held: Held, write: Fenced, error: VectorStoreFileError) -> None:
        item = held.lease.item
        store_id, _, file_id = item.key.partition("/")

        def fail(tx: Transaction) -> None:
            tx.work.finish(item.kind, item.key, held.lease.token)
            stores.end(tx, store_id, file_id, "failed", last_error=error)

        await write(fail)
        held.settled = True
        log.info("file_not_ingested", code=error.code)

    async def _finish(self, held: Held, write: Fenced) -> None:
        item, token = held.lease.item, held.lease.token
        await write(lambda tx: tx.work.finish(item.kind, item.key, token))
        held.settled = True

    async def _digest(self, blobs: Sequence[Blob]) -> tuple[str, bytes | None]:
        """SHA-256 of the bytes; and the bytes, unless they are many."""
        digest = hashlib.sha256()
        kept: list[bytes] | None = [] if sum(blob.size for blob in blobs) <= _KEPT_BYTES else None
        async with aclosing(self._contents.read(blobs)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(digest.update, piece)
                if kept is not None:
                    kept.append(piece)
        return digest.hexdigest(), None if kept is None else b"".join(kept)

    # ── a content ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read_content(self, held: Held, write: Fenced) -> None:
        item, number = held.lease.item, int(held.lease.item.key)

        def look(tx: Transaction) -> tuple[Content | None, list[tuple[str, str]]]:
            return tx.contents.find(number), tx.vector_store_files.waiting_for(number, _FEW)

        content, waiting = await self._store.read(item.project, look)
        if content is None or not waiting:
            await self._drop(held, write)
        elif content.status == "ready":
            await self._end_content(held, write)
        elif content.status == "failed":
            await self._fail_content(held, write, content.error or _BROKE)
        elif held.lease.attempts >= _MAX_DEATHS:
            log.error("content_given_up", attempts=held.lease.attempts)
            await self._fail_content(held, write, _BROKE)
        else:
            try:
                await self._while_wanted(item.project, number, self._make_ready(held, write, content, waiting))
            except ParseFailed as failure:
                await self._fail_content(held, write, VectorStoreFileError(code=failure.code, message=failure.message))
            except BlobMissing:
                await self._fail_content(held, write, _MISSING)
            except _Unwanted:
                await self._drop(held, write)

    async def _make_ready(
        self, held: Held, write: Fenced, content: Content, waiting: Sequence[tuple[str, str]]
    ) -> None:
        if content.progress is None:
            await self._read_passages(held, write, content, waiting)
            content = await self._store.read(held.lease.item.project, lambda tx: tx.contents.get(content.number))
        if not content.passages:
            await self._fail_content(held, write, _TEXTLESS)
        elif await self._embedded(held, write, content):
            await self._end_content(held, write)

    async def _while_wanted(self, project: str, number: int, work: Coroutine[Any, Any, None]) -> None:
        """Does ``work`` on a content; `_Unwanted` soon after nobody waits for it any more, however long that takes."""
        task = asyncio.create_task(work)
        try:
            while not (await asyncio.wait((task,), timeout=_LOOK_S))[0]:
                try:
                    waiting = await self._store.read(project, lambda tx: tx.vector_store_files.waiting_for(number, 1))
                except Unavailable:
                    continue
                if not waiting and not task.done():
                    raise _Unwanted
            await task
        finally:
            task.cancel()
            # What it had begun to write may still be written: the content is gone then, or its lease.
            await asyncio.gather(task, return_exceptions=True)

    async def _read_passages(
        self, held: Held, write: Fenced, content: Content, waiting: Sequence[tuple[str, str]]
    ) -> None:
        """Stores the passages from where an earlier reader ended; when it returns they are all there."""
        source = await self._store.read(held.lease.item.project, lambda tx: _source(tx, waiting))
        if source is None:
            raise _Unwanted
        body = held.prepared if isinstance(held.prepared, bytes) else None
        pieces = self._contents.read(source.blobs) if body is None else _once(body)
        chunker = await asyncio.to_thread(_chunker, source.chunking, self._max_file_tokens)
        position = content.passages
        # Cut again a file comes to the same passages: those that are there are passed over.
        to_skip = content.passages
        cut: list[Chunk] = []

        async def store(chunks: Sequence[Chunk], *, least: int) -> None:
            nonlocal position, to_skip
            cut.extend(chunks[to_skip:])
            to_skip = max(to_skip - len(chunks), 0)
            while len(cut) >= least:
                some = [NewPassage(*chunk) for chunk in cut[:_BATCH]]
                del cut[:_BATCH]

                def append(tx: Transaction, first: int = position, some: list[NewPassage] = some) -> None:
                    if not tx.vector_store_files.waiting_for(content.number, 1):
                        raise _Unwanted
                    tx.contents.append(content.number, first, some, None)

                await write(append)
                position += len(some)

        async with aclosing(pieces), aclosing(self._parsers.parse(pieces, source.parser)) as texts:
            async for text in texts:
                await store(await asyncio.to_thread(chunker.feed, text), least=_BATCH)
        await store(await asyncio.to_thread(chunker.finish), least=1)

    async def _embedded(self, held: Held, write: Fenced, content: Content) -> bool:
        """Whether all passages that are to have vectors have them. If not, they are tried again later, or it fails."""
        if self._embed is None:
            return True
        item = held.lease.item
        tried = 0 if content.progress is None else msgspec.json.decode(content.progress, type=_Tried).tries
        try:
            await self._embed(item.project, content.number, write)
        except UpstreamFailed as error:
            log.warning("embedding_failed", error=error, tries=tried + 1)
            if tried + 1 >= _MAX_TRIES:
                message = f"The embedding model failed: {error.message}"
                await self._fail_content(held, write, VectorStoreFileError(code="server_error", message=message))
                return False
            progress = msgspec.json.encode(_Tried(tried + 1)).decode()
            due_at_ms = _ms_from_now(min(_AGAIN_S * 2**tried, _LONGEST_PAUSE_S))

            def later(tx: Transaction) -> None:
                tx.contents.append(content.number, content.passages, [], progress)
                tx.work.release(item.kind, item.key, held.lease.token, due_at_ms=due_at_ms)

            await write(later)
            held.settled = True
            return False
        return True

    async def _end_content(self, held: Held, write: Fenced) -> None:
        """The content is ready. Whoever waits for it goes on; the first of them here and now."""
        item, number = held.lease.item, int(held.lease.item.key)
        terms = None if self._leases is None else self._leases.insist()

        def finish(tx: Transaction) -> str | None:
            content = tx.contents.get(number)
            if content.status == "in_progress":
                tx.contents.finish(number)
            waiting = sorted(tx.vector_store_files.waiting_for(number, _ALL))
            if not waiting:
                raise _Unwanted
            first: str | None = None
            for store_id, file_id in waiting:
                key = ingest_key(store_id, file_id)
                if tx.work.touch(INGEST, key, lease=None if first is not None else terms):
                    first = key
            tx.work.finish(item.kind, item.key, held.lease.token)
            return first

        await self._handing_over(
            item, terms, lambda: write(finish), lambda key: None if key is None else (INGEST, key), None
        )
        held.settled = True

    async def _fail_content(self, held: Held, write: Fenced, error: VectorStoreFileError) -> None:
        """Nobody will find what these files hold: those that wait fail as well, and the content goes."""
        number = int(held.lease.item.key)

        def fail(tx: Transaction) -> bool:
            if (content := tx.contents.find(number)) is not None and content.status == "in_progress":
                tx.contents.fail(number, error)
            waiting = sorted(tx.vector_store_files.waiting_for(number, _FEW))
            for store_id, file_id in waiting:
                tx.work.remove(INGEST, ingest_key(store_id, file_id))
            for store_id, file_id in waiting:
                stores.end(tx, store_id, file_id, "failed", last_error=error, loosened=(number,))
            return not waiting

        while not await write(fail):
            pass
        log.info("content_not_read", code=error.code)
        await self._drop(held, write)

    async def _drop(self, held: Held, write: Fenced) -> None:
        """The content goes, unless somebody has come to want it; then the work is theirs."""
        item, number = held.lease.item, int(held.lease.item.key)

        def drop(tx: Transaction) -> bool:
            if not tx.contents.drop(number):
                return False
            if tx.vector_store_files.waiting_for(number, 1):
                # Began to wait while this was decided, and relies on this item.
                tx.work.release(item.kind, item.key, held.lease.token)
            else:
                tx.work.finish(item.kind, item.key, held.lease.token)
            return True

        while not await write(drop):
            pass
        held.settled = True

    # ── what is left behind ─────────────────────────────────────────────────────────────────────────────────────────

    async def _clear_store(self, held: Held, write: Fenced) -> None:
        """A store whose time is over is emptied; of one that was deleted everything goes."""
        item = held.lease.item
        store = await self._store.read(item.project, lambda tx: tx.vector_stores.find(item.key))
        if store is None:
            while not await write(lambda tx: tx.vector_stores.clear(item.key)):
                pass
            while unused := await self._store.read(item.project, lambda tx: tx.contents.unused()):
                for number in unused:
                    while not await write(lambda tx, number=number: tx.contents.drop(number)):
                        pass
            await self._finish(held, write)
            log.info("vector_store_cleared")
        elif store.status == "expired":
            while not await write(lambda tx: stores.empty(tx, item.key, most=_FEW)):
                pass
            await self._finish(held, write)
            log.info("vector_store_expired")
        else:

            def later(tx: Transaction) -> None:
                # As it is by now.
                store = tx.vector_stores.find(item.key)
                if store is not None and store.expires_at is None:
                    tx.work.finish(item.kind, item.key, held.lease.token)
                else:
                    due_at_ms = None if store is None or store.expires_at is None else store.expires_at * 1000
                    tx.work.release(item.kind, item.key, held.lease.token, due_at_ms=due_at_ms)

            await write(later)
            held.settled = True

    async def _tidy(self, held: Held, write: Fenced) -> None:
        item = held.lease.item

        def tidy(tx: Transaction) -> bool:
            if is_tidy := tx.passages.tidy(item.key):
                tx.work.finish(item.kind, item.key, held.lease.token)
            return is_tidy

        while not await write(tidy):
            pass
        held.settled = True

    async def _renew_vectors(self, held: Held, write: Fenced) -> None:
        item = held.lease.item
        store_id, _, file_id = item.key.partition("/")
        if self._embed is not None:
            try:
                await self._embed.renew(item.project, store_id, file_id or None, write)
            except UpstreamFailed as error:
                log.warning("embedding_failed", error=error)
                await self._give_back(held, due_in_s=_RENEW_AGAIN_S)
                return
        await self._finish(held, write)

    async def _forget(self, held: Held, write: Fenced) -> None:
        item = held.lease.item

        while not await write(lambda tx: stores.forget(tx, item.key, most=_FEW)):
            pass
        after = ""
        while ids := await self._store.read(
            item.project, lambda tx, low=after: tx.assistants.naming(item.key, after=low)
        ):
            for after in ids:
                await write(lambda tx, id_=after: stores.forget_in_assistant(tx, id_, item.key))
        after = ""
        while ids := await self._store.read(item.project, lambda tx, low=after: tx.threads.naming(item.key, after=low)):
            for after in ids:
                await write(lambda tx, id_=after: stores.forget_in_thread(tx, id_, item.key))
        await self._finish(held, write)


_Terms = Sequence[Mapping[str, int]]


class _Unwanted(Exception):
    """No file waits for the content any more."""


class _Source(NamedTuple):
    """Where a content can be read."""

    blobs: Sequence[Blob]
    parser: Parser
    chunking: StaticChunking


def _counted(passages: Sequence[Passage]) -> _Terms:
    return [count_terms(passage.text) for passage in passages]


def _source(tx: Transaction, waiting: Sequence[tuple[str, str]]) -> _Source | None:
    for store_id, file_id in waiting:
        stored, file = tx.vector_store_files.find(store_id, file_id), tx.files.content(file_id)
        if stored is not None and file is not None and (parser := parser_of(file[0].filename)) is not None:
            return _Source(file[1], parser, stores.static_chunking(stored.file))
    return None


def content_key(digest: str, parser: Parser, chunking: StaticChunking) -> str:
    """What passages depend on: equal keys have equal passages."""
    cut = f"{chunking.max_chunk_size_tokens}/{chunking.chunk_overlap_tokens}"
    return f"{digest} {parser} {cut} {_EDITION}"


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _ms_from_now(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)


def _chunker(chunking: StaticChunking, max_file_tokens: int) -> Chunker:
    """Not for an event loop: what counts tokens takes a while to load."""
    from threadkeep.search.chunk import Chunker  # noqa: PLC0415 - a server that ingests nothing does without

    return Chunker(chunking.max_chunk_size_tokens, chunking.chunk_overlap_tokens, max_file_tokens=max_file_tokens)
