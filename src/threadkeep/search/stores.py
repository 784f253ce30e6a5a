"""The verbs of vector stores: what is made searchable, in which stores, and for how long.

    file of a store:  in_progress ──ingested──▶ completed | failed        batch cancelled ──▶ cancelled
    store:            expires so many days after it was last used; then it is empty, and stays so

Whatever a verb leaves to be done is due work that it makes in the same transaction, see `search.ingest`. What is begun
elsewhere it stops by removing the work: whoever holds that can't write any more. Rows are locked in one order: work on
contents, work on files, stores; several of a kind by their keys.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, Literal, NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from threadkeep.contract.errors import InvalidRequest, NotFound, not_found
from threadkeep.contract.ids import created_at, new_id
from threadkeep.contract.metadata import Attributes, Metadata
from threadkeep.contract.paging import Page
from threadkeep.contract.tools import (
    AUTO_CHUNK_TOKENS,
    AUTO_OVERLAP_TOKENS,
    AutoChunkingStrategy,
    ChunkingStrategy,
    CodeInterpreterResources,
    NewVectorStore,
    StaticChunking,
    StaticChunkingStrategy,
    ToolResources,
)
from threadkeep.contract.vector_stores import (
    CreateVectorStoreFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    FileContentPart,
    FileCounts,
    ListVectorStoreFilesQuery,
    UpdateVectorStoreRequest,
    VectorStore,
    VectorStoreExpirationAfter,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreFileContent,
    VectorStoreFileError,
)
from threadkeep.search.formats import check_supported, parser_of
from threadkeep.storage.contents import Passage
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.vector_store_files import StoredFile

# Due work: a file of a store is to be ingested; its key says which, see `ingest_key`.
INGEST: Final = "ingest"
# Due work: a content is to be read, or to go since no file points to it any more; the key is its number.
CONTENT: Final = "content"
# Due work: a store expires, or what a deleted one held is to go.
STORE: Final = "vector_store"
# Due work: what files that were taken out of a store left in its index is to go.
TIDY: Final = "tidy"

MAX_FILES: Final = 10_000
# What helpers make (of messages' attachments, and together with a thread) goes so long after its last use.
HELPERS_EXPIRE: Final = VectorStoreExpirationAfter(anchor="last_active_at", days=7)
_DAY_S: Final = 24 * 3600
# How exactly a store knows when it was last used: a search alone need not write each time.
_ACTIVE_S: Final = 60
_PAGE: Final = 200


class NewFile(NamedTuple):
    """A file that is to be searchable, and how."""

    file_id: str
    attributes: Attributes | None = None
    chunking: ChunkingStrategy | None = None


# ── stores ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def create(tx: Transaction, request: CreateVectorStoreRequest) -> VectorStore:
    """``createVectorStore``."""
    store = _insert(
        tx,
        name=request.name or "",
        description=request.description,
        expires_after=request.expires_after,
        metadata=request.metadata or {},
    )
    return _with_files(tx, store, request.file_ids or (), request.chunking_strategy)


def create_for_tool(
    tx: Transaction,
    request: NewVectorStore,
    *,
    expires_after: VectorStoreExpirationAfter | None,
    param: str = "file_ids",
) -> VectorStore:
    """The store that a request's ``tool_resources.file_search.vector_stores`` asks for; ``param`` names its files."""
    store = _insert(tx, expires_after=expires_after, metadata=request.metadata or {})
    return _with_files(tx, store, request.file_ids or (), request.chunking_strategy, param=param)


def modify(tx: Transaction, store_id: str, request: UpdateVectorStoreRequest) -> VectorStore:
    """``modifyVectorStore``."""
    store = tx.vector_stores.lock(store_id)
    if request.expires_after is not UNSET:
        if store.status == "expired":
            raise _expired(store_id)
        after = request.expires_after
        expires_at = None if after is None else _expires_at(after, store.last_active_at or store.created_at)
        store = replace(store, expires_after=UNSET if after is None else after, expires_at=expires_at)
        tx.work.remove(STORE, store_id)
        if expires_at is not None:
            tx.work.insert(STORE, store_id, due_at_ms=expires_at * 1000)
    store = replace(
        store,
        name=store.name if request.name is UNSET else request.name or "",
        metadata=store.metadata if request.metadata is UNSET else request.metadata or {},
    )
    tx.vector_stores.replace(store)
    return tx.vector_stores.get(store_id)


def delete(tx: Transaction, store_id: str) -> None:
    """``deleteVectorStore``: from now on nobody sees it; what it held goes as due work."""
    tx.vector_stores.get(store_id)
    tx.work.remove_under(INGEST, f"{store_id}/")
    tx.vector_stores.delete(store_id)
    tx.work.ensure(STORE, store_id)


def get_unexpired(tx: Transaction, store_id: str) -> VectorStore:
    """The store, unless its time is over."""
    store = tx.vector_stores.get(store_id)
    if store.status == "expired":
        raise _expired(store_id)
    return store


def use(tx: Transaction, store_id: str) -> None:
    """The store is used now, so that it expires later."""
    now = created_at()
    store = get_unexpired(tx, store_id)
    if now - (store.last_active_at or 0) >= _ACTIVE_S:
        tx.vector_stores.touch(store_id, now)


def is_used_lately(store: VectorStore) -> bool:
    """Whether ``use`` would write nothing."""
    return created_at() - (store.last_active_at or 0) < _ACTIVE_S


def use_if_there(tx: Transaction, store_id: str) -> None:
    """As ``use``, of a store that may have gone or expired."""
    store = tx.vector_stores.find(store_id)
    if store is not None and store.status != "expired":
        use(tx, store_id)


# ── files of a store ────────────────────────────────────────────────────────────────────────────────────────────────


def attach(tx: Transaction, store_id: str, request: CreateVectorStoreFileRequest) -> VectorStoreFile:
    """``createVectorStoreFile``. A file that is there already, cut in the same way, is not ingested again."""
    new = NewFile(request.file_id, request.attributes or {}, request.chunking_strategy)
    stored = tx.vector_store_files.find(store_id, new.file_id)
    if stored is not None and stored.file.status in ("in_progress", "completed"):
        get_unexpired(tx, store_id)
        if stored.file.chunking_strategy == chunking_of(new.chunking):
            if new.attributes and new.attributes != stored.file.attributes:
                return tx.vector_store_files.set_attributes(store_id, new.file_id, new.attributes)
            return stored.file
    add(tx, store_id, [new])
    return tx.vector_store_files.get(store_id, new.file_id).file


def attach_batch(tx: Transaction, store_id: str, request: CreateVectorStoreFileBatchRequest) -> VectorStoreFileBatch:
    """``createVectorStoreFileBatch``. A file that is in the store already is ingested anew, with this batch."""
    batch = VectorStoreFileBatch(
        id=new_id("vsfb"),
        created_at=created_at(),
        vector_store_id=store_id,
        status="in_progress",
        file_counts=FileCounts(in_progress=0, completed=0, failed=0, cancelled=0, total=0),
    )
    if request.files is not None:
        new = [NewFile(each.file_id, each.attributes or {}, each.chunking_strategy) for each in request.files]
    else:
        shared = request.attributes or {}
        new = [NewFile(file_id, shared, request.chunking_strategy) for file_id in request.file_ids or ()]
    add(tx, store_id, new, batch=batch)
    return tx.vector_store_batches.get(store_id, batch.id)


def cancel_batch(tx: Transaction, store_id: str, batch_id: str) -> VectorStoreFileBatch:
    """``cancelVectorStoreFileBatch``: what is completed stays, the rest is stopped at once."""
    batch_of(tx, store_id, batch_id)
    file_ids = tx.vector_store_files.in_progress(store_id, batch_id, limit=MAX_FILES)
    stopped = _stop(tx, [(store_id, file_id) for file_id in file_ids])
    # Ahead of its files: once they have ended, so has the batch.
    tx.vector_store_batches.cancel(store_id, batch_id)
    for file_id in file_ids:
        end(tx, store_id, file_id, "cancelled", loosened=stopped)
    return tx.vector_store_batches.get(store_id, batch_id)


def batch_of(tx: Transaction, store_id: str, batch_id: str) -> VectorStoreFileBatch:
    """``getVectorStoreFileBatch``."""
    if (batch := tx.vector_store_batches.find(store_id, batch_id)) is None:
        store_of(tx, store_id)
        raise not_found("file batch", batch_id)
    return batch


def add(
    tx: Transaction,
    store_id: str,
    new: Sequence[NewFile],
    *,
    batch: VectorStoreFileBatch | None = None,
    param: str = "file_ids",
) -> None:
    """Puts files into the store, each once, to be ingested. Refused as a whole when one of them can't be."""
    store = get_unexpired(tx, store_id)
    by_id = {each.file_id: each for each in reversed(new)}
    ordered = sorted(by_id)
    check_supported([tx.files.get(file_id).filename for file_id in ordered], param=param)
    stopped = _stop(tx, [(store_id, file_id) for file_id in ordered])
    if batch is not None:
        tx.vector_store_batches.insert(batch)
    there = sum(_take_out(tx, store_id, file_id, loosened=stopped) for file_id in ordered)
    if (total := store.file_counts.total - there + len(ordered)) > MAX_FILES:
        raise InvalidRequest(
            f"A vector store holds at most {MAX_FILES} files, but with these it would hold {total}.",
            param=param,
            code="array_above_max_length",
        )
    now = created_at()
    files = [
        VectorStoreFile(
            id=file_id,
            usage_bytes=0,
            created_at=now,
            vector_store_id=store_id,
            status="in_progress",
            last_error=None,
            chunking_strategy=chunking_of(by_id[file_id].chunking),
            attributes=by_id[file_id].attributes or {},
        )
        for file_id in ordered
    ]
    tx.vector_store_files.insert(store_id, files, None if batch is None else batch.id)
    for file_id in ordered:
        tx.work.insert(INGEST, ingest_key(store_id, file_id))
    tx.vector_stores.touch(store_id, now)


def add_missing(tx: Transaction, store_id: str, file_ids: Sequence[str], *, param: str = "file_ids") -> None:
    """As ``add``, those of the files that are not there, or that failed."""
    missing = [
        NewFile(file_id)
        for file_id in file_ids
        if (stored := tx.vector_store_files.find(store_id, file_id)) is None
        or stored.file.status in ("failed", "cancelled")
    ]
    if missing:
        add(tx, store_id, missing, param=param)


def file_of(tx: Transaction, store_id: str, file_id: str) -> VectorStoreFile:
    """``getVectorStoreFile``."""
    if (stored := tx.vector_store_files.find(store_id, file_id)) is None:
        store_of(tx, store_id)
        raise no_such_file(store_id, file_id)
    return stored.file


def set_attributes(tx: Transaction, store_id: str, file_id: str, attributes: Attributes) -> VectorStoreFile:
    """``updateVectorStoreFileAttributes``."""
    file_of(tx, store_id, file_id)
    return tx.vector_store_files.set_attributes(store_id, file_id, attributes)


def detach(tx: Transaction, store_id: str, file_id: str) -> None:
    """``deleteVectorStoreFile``."""
    file_of(tx, store_id, file_id)
    _take_out(tx, store_id, file_id, loosened=_stop(tx, [(store_id, file_id)]))


def forget(tx: Transaction, file_id: str, *, most: int) -> bool:
    """Takes a file that was deleted out of so many stores; whether it is in none any more. See `files.FORGET`."""
    found = tx.vector_store_files.stores_of(file_id, most + 1)
    store_ids = sorted(found[:most])
    stopped = _stop(tx, [(store_id, file_id) for store_id in store_ids])
    for store_id in store_ids:
        _take_out(tx, store_id, file_id, loosened=stopped)
    return len(found) <= most


def forget_in_assistant(tx: Transaction, assistant_id: str, file_id: str) -> None:
    """Takes a file that was deleted off the list of the assistant's code interpreter."""
    with suppress(NotFound):
        assistant = tx.assistants.lock(assistant_id)
        tx.assistants.replace(replace(assistant, tool_resources=_without(assistant.tool_resources, file_id)))


def forget_in_thread(tx: Transaction, thread_id: str, file_id: str) -> None:
    """As ``forget_in_assistant``, of a thread."""
    with suppress(NotFound):
        thread = tx.threads.lock(thread_id)
        tx.threads.replace(replace(thread, tool_resources=_without(thread.tool_resources, file_id)))


def _without(resources: ToolResources, file_id: str) -> ToolResources:
    if resources.code_interpreter is UNSET:
        return resources
    left = [each for each in resources.code_interpreter.file_ids if each != file_id]
    return replace(resources, code_interpreter=CodeInterpreterResources(file_ids=left))


def empty(tx: Transaction, store_id: str, *, most: int) -> bool:
    """Takes so many files out of a store whose time is over; whether none is left."""
    page = tx.vector_store_files.list(store_id, ListVectorStoreFilesQuery(limit=most, order="asc"))
    file_ids = [file.id for file in page.data]
    stopped = _stop(tx, [(store_id, file_id) for file_id in file_ids])
    for file_id in file_ids:
        _take_out(tx, store_id, file_id, loosened=stopped)
    return not page.has_more


def end(
    tx: Transaction,
    store_id: str,
    file_id: str,
    status: Literal["failed", "cancelled"],
    *,
    last_error: VectorStoreFileError | None = None,
    loosened: Collection[int] = (),
) -> None:
    """The file is not going to be searchable. ``loosened`` are contents whose work the transaction holds already."""
    stored = tx.vector_store_files.find(store_id, file_id)
    if stored is not None and tx.vector_store_files.end(store_id, file_id, status, last_error=last_error):
        _leave(tx, store_id, stored, loosened)


async def content_of(store: Store, project: str, store_id: str, file_id: str) -> VectorStoreFileContent:
    """``retrieveVectorStoreFileContent``: the text as passages hold it, so far as the file is ingested."""

    def begin(tx: Transaction) -> int | None:
        file_of(tx, store_id, file_id)
        stored = tx.vector_store_files.find(store_id, file_id)
        return None if stored is None or stored.file.status != "completed" else stored.content

    number = await store.read(project, begin)
    parts: list[list[str]] = []
    end, position = -1, 0
    while number is not None:
        # A page at a time: nobody else waits for all of a long file.
        passages = await store.read(project, lambda tx, number=number, first=position: _page(tx, number, first))
        for passage in passages:
            if passage.start > end:
                # White space lies between, or nothing.
                parts.append([])
            parts[-1].append(passage.text[max(end - passage.start, 0) if parts[-1] else 0 :])
            end = max(end, passage.end)
        position += len(passages)
        if len(passages) < _PAGE:
            break
    return VectorStoreFileContent(
        data=[FileContentPart(text="".join(part)) for part in parts], has_more=False, next_page=None
    )


def store_of(tx: Transaction, store_id: str) -> VectorStore:
    """The store, which must be there: what a client is told first when something in it is not."""
    return tx.vector_stores.get(store_id)


def files_of(
    tx: Transaction, store_id: str, query: ListVectorStoreFilesQuery, batch_id: str | None = None
) -> Page[VectorStoreFile]:
    """``listVectorStoreFiles``, ``listFilesInVectorStoreBatch``."""
    page = tx.vector_store_files.list(store_id, query, batch_id)
    if not page.data:
        store_of(tx, store_id)
        if batch_id is not None:
            batch_of(tx, store_id, batch_id)
    return page


def ingest_key(store_id: str, file_id: str) -> str:
    return f"{store_id}/{file_id}"


def chunking_of(asked: ChunkingStrategy | None) -> StaticChunkingStrategy:
    """What the request comes to."""
    match asked:
        case None | AutoChunkingStrategy():
            return StaticChunkingStrategy(
                static=StaticChunking(max_chunk_size_tokens=AUTO_CHUNK_TOKENS, chunk_overlap_tokens=AUTO_OVERLAP_TOKENS)
            )
        case StaticChunkingStrategy():
            return asked


def static_chunking(file: VectorStoreFile) -> StaticChunking:
    """How a file of a store is cut."""
    match file.chunking_strategy:
        case StaticChunkingStrategy(static=static):
            return static
        case _:
            return chunking_of(None).static


def is_searchable(filename: str) -> bool:
    return parser_of(filename) is not None


def no_such_file(store_id: str, file_id: str) -> NotFound:
    return NotFound(f"No file found with id '{file_id}' in vector store '{store_id}'.")


def _insert(
    tx: Transaction,
    *,
    name: str = "",
    description: str | None = None,
    expires_after: VectorStoreExpirationAfter | None,
    metadata: Metadata,
) -> VectorStore:
    now = created_at()
    store = VectorStore(
        id=new_id("vs"),
        created_at=now,
        name=name,
        description=UNSET if description is None else description,
        usage_bytes=0,
        file_counts=FileCounts(in_progress=0, completed=0, failed=0, cancelled=0, total=0),
        status="completed",
        expires_after=UNSET if expires_after is None else expires_after,
        expires_at=None if expires_after is None else _expires_at(expires_after, now),
        last_active_at=now,
        metadata=metadata,
    )
    tx.vector_stores.insert(store)
    if store.expires_at is not None:
        tx.work.insert(STORE, store.id, due_at_ms=store.expires_at * 1000)
    return store


def _with_files(
    tx: Transaction,
    store: VectorStore,
    file_ids: Sequence[str],
    chunking: ChunkingStrategy | None,
    *,
    param: str = "file_ids",
) -> VectorStore:
    if file_ids:
        add(tx, store.id, [NewFile(file_id, chunking=chunking) for file_id in file_ids], param=param)
    return tx.vector_stores.get(store.id)


def _stop(tx: Transaction, files: Sequence[tuple[str, str]]) -> set[int]:
    """Nobody ingests these files of stores any more, from the commit on. The contents of which they were the last to
    hold may go: their numbers, so far as they are known.
    """
    found = [tx.vector_store_files.find(store_id, file_id) for store_id, file_id in files]
    contents = {stored.content for stored in found if stored is not None and stored.content is not None}
    for number in sorted(contents):
        tx.work.ensure(CONTENT, str(number))
    for store_id, file_id in sorted(files):
        tx.work.remove(INGEST, ingest_key(store_id, file_id))
    return contents


def _take_out(tx: Transaction, store_id: str, file_id: str, *, loosened: Collection[int]) -> bool:
    """Whether the file was in the store. Work on it is removed already."""
    if (stored := tx.vector_store_files.delete(store_id, file_id)) is None:
        return False
    _leave(tx, store_id, stored, loosened)
    return True


def _leave(tx: Transaction, store_id: str, stored: StoredFile, loosened: Collection[int]) -> None:
    """What the file, which is not in the index any more, leaves to be done."""
    if stored.content is not None and stored.content not in loosened:
        tx.work.ensure(CONTENT, str(stored.content))
    if stored.indexed:
        tx.work.ensure(TIDY, store_id)


def _page(tx: Transaction, content: int, first: int) -> list[Passage]:
    return tx.contents.passages(content, first, _PAGE)


def _expires_at(after: VectorStoreExpirationAfter, active_at: int) -> int:
    return active_at + after.days * _DAY_S


def _expired(store_id: str) -> InvalidRequest:
    return InvalidRequest(f"The vector store '{store_id}' has expired. Create a new one.", code="vector_store_expired")
