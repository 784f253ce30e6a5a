"""Threads: the conversation that messages and runs belong to."""

from typing import Literal

from msgspec import UNSET, UnsetType

from threadkeep.contract.messages import CreateMessageRequest
from threadkeep.contract.metadata import CarriesMetadata, Metadata, ModifiesMetadata
from threadkeep.contract.tools import CreateToolResources, ModifyToolResources, ToolResources
from threadkeep.contract.wire import Object


class Thread(Object):
    """``ThreadObject``."""

    id: str
    object: Literal["thread"] = "thread"
    created_at: int
    metadata: Metadata
    tool_resources: ToolResources


class CreateThreadRequest(CarriesMetadata):
    messages: list[CreateMessageRequest] | None = None
    tool_resources: CreateToolResources | None = None


class ModifyThreadRequest(ModifiesMetadata):
    tool_resources: ModifyToolResources | UnsetType | None = UNSET
