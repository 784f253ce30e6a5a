"""Assistants: create, list, retrieve, modify, delete."""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from threadkeep.api.call import Call
from threadkeep.contract.assistants import Assistant, CreateAssistantRequest, ModifyAssistantRequest
from threadkeep.contract.errors import InvalidRequest, not_found
from threadkeep.contract.ids import created_at, new_id
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.runs import resources
from threadkeep.storage.store import Transaction

T = TypeVar("T")

# What is echoed when a request names none, and what null resets to.
TEMPERATURE = 1.0
TOP_P = 1.0
RESPONSE_FORMAT = "auto"


async def create_assistant(call: Call) -> Assistant:
    request = await call.body(CreateAssistantRequest)

    def create(tx: Transaction) -> Assistant:
        assistant = Assistant(
            id=new_id("asst"),
            created_at=created_at(),
            name=request.name,
            description=request.description,
            model=request.model,
            instructions=request.instructions,
            tools=request.tools or [],
            tool_resources=resources.created(tx, request.tool_resources, tools=request.tools or []),
            metadata=request.metadata or {},
            temperature=TEMPERATURE if request.temperature is None else request.temperature,
            top_p=TOP_P if request.top_p is None else request.top_p,
            response_format=RESPONSE_FORMAT if request.response_format is None else request.response_format,
            reasoning_effort=UNSET if request.reasoning_effort is None else request.reasoning_effort,
        )
        tx.assistants.insert(assistant)
        return assistant

    return await call.write_once(Assistant, create)


async def list_assistants(call: Call) -> Page[Assistant]:
    query = call.page(ListQuery, "asst")
    return await call.read(lambda tx: tx.assistants.list(query))


async def get_assistant(call: Call) -> Assistant:
    assistant_id = call.path["assistant_id"]
    return await call.read(lambda tx: tx.assistants.get(assistant_id))


async def modify_assistant(call: Call) -> Assistant:
    assistant_id = call.path["assistant_id"]
    request = await call.body(ModifyAssistantRequest)
    if request.model is None:
        raise InvalidRequest(
            "Invalid type for 'model': expected a string, but got null instead.", param="model", code="invalid_type"
        )

    def modify(tx: Transaction) -> Assistant:
        assistant = modified(tx, tx.assistants.lock(assistant_id), request)
        tx.assistants.replace(assistant)
        return assistant

    return await call.write_once(Assistant, modify)


async def delete_assistant(call: Call) -> Deleted:
    assistant_id = call.path["assistant_id"]
    if not await call.write(lambda tx: tx.assistants.delete(assistant_id)):
        raise not_found("assistant", assistant_id)
    return Deleted(id=assistant_id, object="assistant.deleted")


def modified(tx: Transaction, assistant: Assistant, request: ModifyAssistantRequest) -> Assistant:
    """``assistant`` with what the request names: a value replaces, null resets, absence leaves."""
    tools = _given(request.tools, assistant.tools) or []
    return msgspec.structs.replace(
        assistant,
        model=_given(request.model, assistant.model) or assistant.model,
        name=_given(request.name, assistant.name),
        description=_given(request.description, assistant.description),
        instructions=_given(request.instructions, assistant.instructions),
        tools=tools,
        tool_resources=resources.modified(tx, assistant.tool_resources, request.tool_resources, tools=tools),
        metadata=_given(request.metadata, assistant.metadata) or {},
        temperature=TEMPERATURE if request.temperature is None else _given(request.temperature, assistant.temperature),
        top_p=TOP_P if request.top_p is None else _given(request.top_p, assistant.top_p),
        response_format=_given(request.response_format, assistant.response_format) or RESPONSE_FORMAT,
        reasoning_effort=UNSET
        if request.reasoning_effort is None
        else _given(request.reasoning_effort, assistant.reasoning_effort),
    )


def _given(asked: T | UnsetType, current: T) -> T:
    return current if asked is UNSET else asked
