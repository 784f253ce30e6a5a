"""Assistants: a model, its instructions and its tools under one id."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from threadkeep.contract.metadata import CarriesMetadata, Metadata, ModifiesMetadata
from threadkeep.contract.tools import (
    CreateToolResources,
    ModifyToolResources,
    ReasoningEffort,
    ResponseFormat,
    Tool,
    ToolResources,
)
from threadkeep.contract.wire import Object

Name = Annotated[str, Meta(max_length=256)]
Description = Annotated[str, Meta(max_length=512)]
Instructions = Annotated[str, Meta(max_length=256_000)]
Tools = Annotated[list[Tool], Meta(max_length=128)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]


class Assistant(Object):
    """``AssistantObject``."""

    id: str
    object: Literal["assistant"] = "assistant"
    created_at: int
    name: str | None
    description: str | None
    model: str
    instructions: str | None
    tools: list[Tool]
    tool_resources: ToolResources
    metadata: Metadata
    temperature: float | None
    top_p: float | None
    response_format: ResponseFormat
    # Shown when it was given: clients of models without reasoning never see it.
    reasoning_effort: ReasoningEffort | UnsetType = UNSET


class CreateAssistantRequest(CarriesMetadata):
    model: str
    name: Name | None = None
    description: Description | None = None
    instructions: Instructions | None = None
    reasoning_effort: ReasoningEffort | None = None
    tools: Tools | None = None
    tool_resources: CreateToolResources | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: ResponseFormat | None = None


class ModifyAssistantRequest(ModifiesMetadata):
    model: str | UnsetType | None = UNSET
    name: Name | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    instructions: Instructions | UnsetType | None = UNSET
    reasoning_effort: ReasoningEffort | UnsetType | None = UNSET
    tools: Tools | UnsetType | None = UNSET
    tool_resources: ModifyToolResources | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    response_format: ResponseFormat | UnsetType | None = UNSET
