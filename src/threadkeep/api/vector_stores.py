"""Vector stores: the stores, their files, batches of these, and the search."""

import re
from typing import Final

from threadkeep.api.call import Call
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.vector_stores import (
    CreateVectorStoreFileBatchRequest,
    CreateVectorStoreFileRequest,
    CreateVectorStoreRequest,
    ListVectorStoreFilesQuery,
    SearchResult,
    SearchResultContent,
    SearchResultsPage,
    UpdateVectorStoreFileAttributesRequest,
    UpdateVectorStoreRequest,
    VectorStore,
    VectorStoreFile,
    VectorStoreFileBatch,
    VectorStoreFileContent,
    VectorStoreSearchRequest,
)
from threadkeep.search import stores
from threadkeep.search.query import rewritten

_FILE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# What `max_num_results` is when the request names none.
_RESULTS: Final = 10


async def create_vector_store(call: Call) -> VectorStore:
    request = await call.body(CreateVectorStoreRequest)
    made = await call.write_once(VectorStore, lambda tx: stores.create(tx, request))
    call.context.ingestion.wake()
    return made


async def list_vector_stores(call: Call) -> Page[VectorStore]:
    query = call.page(ListQuery, "vs")
    return await call.read(lambda tx: tx.vector_stores.list(query))


async def get_vector_store(call: Call) -> VectorStore:
    store_id = call.path["vector_store_id"]
    return await call.read(lambda tx: tx.vector_stores.get(store_id))


async def modify_vector_store(call: Call) -> VectorStore:
    store_id = call.path["vector_store_id"]
    request = await call.body(UpdateVectorStoreRequest)
    return await call.write_once(VectorStore, lambda tx: stores.modify(tx, store_id, request))


async def delete_vector_store(call: Call) -> Deleted:
    store_id = call.path["vector_store_id"]
    await call.write(lambda tx: stores.delete(tx, store_id))
    call.context.ingestion.wake()
    return Deleted(id=store_id, object="vector_store.deleted")


async def search_vector_store(call: Call) -> SearchResultsPage:
    store_id = call.path["vector_store_id"]
    request = await call.body(VectorStoreSearchRequest)
    queries = [request.query] if isinstance(request.query, str) else request.query
    if request.rewrite_query:
        queries = [rewritten(query) for query in queries]
    options = request.ranking_options
    if not stores.is_used_lately(await call.read(lambda tx: stores.get_unexpired(tx, store_id))):
        await call.write(lambda tx: stores.use(tx, store_id))
    found = await call.context.search.search(
        call.project,
        [store_id],
        queries,
        max_num_results=request.max_num_results or _RESULTS,
        ranker=(options and options.ranker) or "auto",
        score_threshold=(options and options.score_threshold) or 0.0,
        filters=request.filters,
    )
    return SearchResultsPage(
        search_query=queries,
        data=[
            SearchResult(
                file_id=each.file_id,
                filename=each.filename,
                score=each.score,
                attributes=each.attributes,
                content=[SearchResultContent(text=each.text)],
            )
            for each in found
        ],
        has_more=False,
        next_page=None,
    )


# ── files of a store ────────────────────────────────────────────────────────────────────────────────────────────────


async def create_vector_store_file(call: Call) -> VectorStoreFile:
    store_id = call.path["vector_store_id"]
    request = await call.body(CreateVectorStoreFileRequest)
    made = await call.write_once(VectorStoreFile, lambda tx: stores.attach(tx, store_id, request))
    call.context.ingestion.wake()
    return made


async def list_vector_store_files(call: Call) -> Page[VectorStoreFile]:
    store_id = call.path["vector_store_id"]
    query = call.page(ListVectorStoreFilesQuery, "file")
    return await call.read(lambda tx: stores.files_of(tx, store_id, query))


async def get_vector_store_file(call: Call) -> VectorStoreFile:
    store_id, file_id = _store_and_file(call)
    return await call.read(lambda tx: stores.file_of(tx, store_id, file_id))


async def update_vector_store_file_attributes(call: Call) -> VectorStoreFile:
    store_id, file_id = _store_and_file(call)
    request = await call.body(UpdateVectorStoreFileAttributesRequest)
    attributes = request.attributes or {}
    return await call.write_once(VectorStoreFile, lambda tx: stores.set_attributes(tx, store_id, file_id, attributes))


async def delete_vector_store_file(call: Call) -> Deleted:
    """The file itself stays."""
    store_id, file_id = _store_and_file(call)
    await call.write(lambda tx: stores.detach(tx, store_id, file_id))
    call.context.ingestion.wake()
    return Deleted(id=file_id, object="vector_store.file.deleted")


async def retrieve_vector_store_file_content(call: Call) -> VectorStoreFileContent:
    store_id, file_id = _store_and_file(call)
    return await stores.content_of(call.context.store, call.project, store_id, file_id)


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def create_vector_store_file_batch(call: Call) -> VectorStoreFileBatch:
    store_id = call.path["vector_store_id"]
    request = await call.body(CreateVectorStoreFileBatchRequest)
    made = await call.write_once(VectorStoreFileBatch, lambda tx: stores.attach_batch(tx, store_id, request))
    call.context.ingestion.wake()
    return made


async def get_vector_store_file_batch(call: Call) -> VectorStoreFileBatch:
    store_id, batch_id = call.path["vector_store_id"], call.path["batch_id"]
    return await call.read(lambda tx: stores.batch_of(tx, store_id, batch_id))


async def cancel_vector_store_file_batch(call: Call) -> VectorStoreFileBatch:
    store_id, batch_id = call.path["vector_store_id"], call.path["batch_id"]
    cancelled = await call.write_once(VectorStoreFileBatch, lambda tx: stores.cancel_batch(tx, store_id, batch_id))
    call.context.ingestion.wake()
    return cancelled


async def list_files_in_vector_store_batch(call: Call) -> Page[VectorStoreFile]:
    store_id, batch_id = call.path["vector_store_id"], call.path["batch_id"]
    query = call.page(ListVectorStoreFilesQuery, "file")
    return await call.read(lambda tx: stores.files_of(tx, store_id, query, batch_id))


def _store_and_file(call: Call) -> tuple[str, str]:
    """The ids in the path. A file id that cannot be one is just not found, as elsewhere."""
    store_id, file_id = call.path["vector_store_id"], call.path["file_id"]
    if _FILE_ID.fullmatch(file_id) is None:
        raise stores.no_such_file(store_id, file_id[:64].replace("\0", ""))
    return store_id, file_id
