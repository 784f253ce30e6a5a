"""Threads: the conversation that messages and runs belong to."""

from typing import Literal

from msgspec import UNSET, UnsetType

from .messages import CreateMessageRequest
from .metadata import CarriesMetadata, Metadata, ModifiesMetadata
from .tools import CreateToolResources, ModifyToolResources, ToolResources
from .wire import Object


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
    tool_resources: ModifyToolResources | None | UnsetType = UNSET
