"""How a thread comes to be and grows by what clients write. Runs write the assistant's messages themselves."""

from collections.abc import Sequence

import msgspec

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.ids import created_at, new_id
from threadkeep.contract.messages import (
    Content,
    CreateMessageRequest,
    Message,
    MessageAttachment,
    Text,
    TextContent,
    TextRequestContent,
)
from threadkeep.contract.threads import CreateThreadRequest, ModifyThreadRequest, Thread
from threadkeep.runs import resources
from threadkeep.runs.line import Spot, created_before
from threadkeep.search.stores import HELPERS_EXPIRE
from threadkeep.storage.store import Transaction


def create_thread(tx: Transaction, request: CreateThreadRequest) -> Thread:
    """``createThread``."""
    thread = Thread(
        id=new_id("thread"),
        created_at=created_at(),
        metadata=request.metadata or {},
        tool_resources=resources.created(tx, request.tool_resources, stores_expire=HELPERS_EXPIRE),
    )
    tx.threads.insert(thread)
    thread, _ = append_messages(tx, thread, request.messages or ())
    return thread


def modify_thread(tx: Transaction, thread_id: str, request: ModifyThreadRequest) -> Thread:
    """``modifyThread``. Not held up by an active run."""
    thread = tx.threads.lock(thread_id)
    thread = msgspec.structs.replace(
        thread,
        metadata=thread.metadata if request.metadata is msgspec.UNSET else request.metadata or {},
        tool_resources=resources.modified(tx, thread.tool_resources, request.tool_resources),
    )
    tx.threads.replace(thread)
    return thread


def add_message(tx: Transaction, thread_id: str, request: CreateMessageRequest) -> Message:
    """``createMessage``: refused while a run is active on the thread. See `lifecycle` for what else may be asked."""
    thread = tx.threads.lock(thread_id)
    if (active := tx.runs.active(thread_id)) is not None:
        raise InvalidRequest(f"Can't add messages to {thread_id} while a run {active.id} is active.")
    _, [message] = append_messages(tx, thread, [request])
    return message


def append_messages(
    tx: Transaction, thread: Thread, requests: Sequence[CreateMessageRequest], spot: Spot | None = None
) -> tuple[Thread, list[Message]]:
    """Adds messages in the order given, at the end unless a ``spot`` is given. The caller holds the thread's lock, or
    has just made the thread.

    The thread comes back changed where files were attached for its tools.
    """
    if not requests:
        return thread, []
    spot = spot or Spot(tx, thread.id)
    messages: list[Message] = []
    for request, message_id in zip(requests, spot.ids(), strict=False):
        now = created_at()
        message = Message(
            id=message_id,
            created_at=created_before(spot.before, now),
            thread_id=thread.id,
            status="completed",
            incomplete_details=None,
            completed_at=now,
            incomplete_at=None,
            role=request.role,
            content=_content(request),
            assistant_id=None,
            run_id=None,
            attachments=[
                MessageAttachment(file_id=attachment.file_id, tools=attachment.tools or [])
                for attachment in request.attachments or ()
            ],
            metadata=request.metadata or {},
        )
        tx.messages.insert(message)
        messages.append(message)
    attached = [attachment for request in requests for attachment in request.attachments or ()]
    tools = resources.with_attached(tx, thread.tool_resources, attached)
    if tools is not thread.tool_resources:
        thread = msgspec.structs.replace(thread, tool_resources=tools)
        tx.threads.replace(thread)
    return thread, messages


def _content(request: CreateMessageRequest) -> list[Content]:
    if isinstance(request.content, str):
        return [TextContent(text=Text(value=request.content))]
    return [
        TextContent(text=Text(value=part.text)) if isinstance(part, TextRequestContent) else part
        for part in request.content
    ]
