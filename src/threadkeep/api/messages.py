"""Messages of a thread: create, list, retrieve, modify (metadata only), delete."""

import msgspec
from msgspec import UNSET

from threadkeep.api.call import Call
from threadkeep.api.threads import in_thread, page_in_thread
from threadkeep.contract.errors import not_found
from threadkeep.contract.messages import AddMessageRequest, Message, ModifyMessageRequest
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.reading import check_id
from threadkeep.runs import conversation
from threadkeep.storage.store import Transaction


class ListMessagesQuery(ListQuery):
    """``listMessages``; ``run_id`` leaves only what the run wrote."""

    run_id: str | None = None


async def create_message(call: Call) -> Message:
    thread_id = call.path["thread_id"]
    request = await call.body(AddMessageRequest)
    if request.if_active not in (None, "reject"):
        return await call.context.runs.add_message(call.project, thread_id, request, once=await call.once())
    return await call.write_once(Message, lambda tx: conversation.add_message(tx, thread_id, request))


async def list_messages(call: Call) -> Page[Message]:
    thread_id = call.path["thread_id"]
    query = call.page(ListMessagesQuery, "msg")
    if query.run_id is not None:
        check_id("run_id", query.run_id, "run")
    return await call.read(lambda tx: page_in_thread(tx, thread_id, tx.messages.list(thread_id, query, query.run_id)))


async def get_message(call: Call) -> Message:
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]
    return await call.read(lambda tx: in_thread(tx, thread_id, lambda: tx.messages.get(thread_id, message_id)))


async def modify_message(call: Call) -> Message:
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]
    request = await call.body(ModifyMessageRequest)

    def modify(tx: Transaction) -> Message:
        message = in_thread(tx, thread_id, lambda: tx.messages.lock(thread_id, message_id))
        if request.metadata is not UNSET:
            message = msgspec.structs.replace(message, metadata=request.metadata or {})
            tx.messages.replace(message)
        return message

    return await call.write_once(Message, modify)


async def delete_message(call: Call) -> Deleted:
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]

    def delete(tx: Transaction) -> None:
        if not tx.messages.delete(thread_id, message_id):
            tx.threads.get(thread_id)
            raise not_found("message", message_id)

    await call.write(delete)
    return Deleted(id=message_id, object="thread.message.deleted")
