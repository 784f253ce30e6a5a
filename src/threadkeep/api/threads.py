"""Threads: create, retrieve, modify, delete; and, beyond the contract, list and search."""

from collections.abc import Callable
from typing import Annotated, TypeVar

from msgspec import Meta

from threadkeep.api.call import Call
from threadkeep.contract.errors import NotFound, not_found
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest, Thread
from threadkeep.runs import conversation
from threadkeep.storage.store import Transaction

T = TypeVar("T")


class ListThreadsQuery(ListQuery):
    """``GET /threads``, an extension: threads that carry all of the metadata and have a message with all the words."""

    # Pairs that a thread's metadata must have, all of them.
    metadata: dict[str, str] | None = None
    # Words that one message of the thread must have, all of them.
    q: Annotated[str, Meta(max_length=1_000)] | None = None


async def create_thread(call: Call) -> Thread:
    request = await call.body(CreateThreadRequest)
    return await call.write_once(Thread, lambda tx: conversation.create_thread(tx, request))


async def list_threads(call: Call) -> Page[Thread]:
    query = call.page(ListThreadsQuery, "thread")
    return await call.read(lambda tx: tx.threads.list(query, query.metadata or {}, query.q))


async def get_thread(call: Call) -> Thread:
    thread_id = call.path["thread_id"]
    return await call.read(lambda tx: tx.threads.get(thread_id))


async def modify_thread(call: Call) -> Thread:
    thread_id = call.path["thread_id"]
    request = await call.body(ModifyThreadRequest)
    return await call.write_once(Thread, lambda tx: conversation.modify_thread(tx, thread_id, request))


async def delete_thread(call: Call) -> Deleted:
    thread_id = call.path["thread_id"]
    if not await call.write(lambda tx: tx.threads.delete(thread_id)):
        raise not_found("thread", thread_id)
    call.context.on_thread_deleted(call.project, thread_id)
    return Deleted(id=thread_id, object="thread.deleted")


def in_thread(tx: Transaction, thread_id: str, get: Callable[[], T]) -> T:
    """What ``get`` finds in the thread. Only when it finds nothing is it asked whether the thread is there at all:
    that is what the caller is told first.
    """
    try:
        return get()
    except NotFound:
        tx.threads.get(thread_id)
        raise


def page_in_thread(tx: Transaction, thread_id: str, page: Page[T]) -> Page[T]:
    """``page`` of something in the thread, which must be there when the page is empty."""
    if not page.data:
        tx.threads.get(thread_id)
    return page
