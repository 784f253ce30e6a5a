"""Runs: one execution of an assistant on a thread. The moves of ``status`` are in ``run_status``."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from threadkeep.contract.assistants import Instructions, Temperature, TopP
from threadkeep.contract.messages import CreateMessageRequest, IfActive
from threadkeep.contract.metadata import CarriesMetadata, Metadata, ModifiesMetadata
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.threads import CreateThreadRequest
from threadkeep.contract.tools import (
    ModifyToolResources,
    ReasoningEffort,
    ResponseFormat,
    Tool,
    ToolChoice,
    ToolResources,
    TruncationStrategy,
)
from threadkeep.contract.wire import MAX_INTEGER, Object, Request

ErrorCode = Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
RunTools = Annotated[list[Tool], Meta(max_length=20)]
TokenLimit = Annotated[int, Meta(ge=256, le=MAX_INTEGER)]


class FunctionCall(Object):
    name: str
    # A JSON text, exactly as the model wrote it: it may be broken.
    arguments: str


class RunToolCall(Object):
    """``RunToolCallObject``: a function the client must call."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class SubmitToolOutputsAction(Object):
    tool_calls: list[RunToolCall]


class RequiredAction(Object):
    type: Literal["submit_tool_outputs"] = "submit_tool_outputs"
    submit_tool_outputs: SubmitToolOutputsAction


class LastError(Object):
    code: ErrorCode
    message: str


class RunIncompleteDetails(Object):
    reason: Literal["max_completion_tokens", "max_prompt_tokens"]


class PromptTokenDetails(Object):
    cached_tokens: int = 0


class CompletionTokensDetails(Object):
    reasoning_tokens: int = 0


class Usage(Object):
    """``RunCompletionUsage`` and ``RunStepCompletionUsage``, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    # "prompt_token_details" is spelt so on the wire.
    prompt_token_details: PromptTokenDetails = PromptTokenDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()


class Run(Object):
    """``RunObject``: echoes the effective settings, those of the assistant where the request named none."""

    id: str
    object: Literal["thread.run"] = "thread.run"
    created_at: int
    assistant_id: str
    thread_id: str
    status: RunStatus
    # Null except in `requires_action`.
    required_action: RequiredAction | None
    last_error: LastError | None
    # Null once the run has ended; not moved on when tool outputs arrive.
    expires_at: int | None
    # Null while first queued; set again whenever the run goes on.
    started_at: int | None
    cancelled_at: int | None
    failed_at: int | None
    completed_at: int | None
    incomplete_details: RunIncompleteDetails | None
    model: str
    instructions: str
    tools: list[Tool]
    tool_resources: ToolResources
    metadata: Metadata
    # Null until the run has ended.
    usage: Usage | None
    temperature: float | None
    top_p: float | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    truncation_strategy: TruncationStrategy
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    response_format: ResponseFormat
    reasoning_effort: ReasoningEffort | UnsetType = UNSET


class RunOverrides(CarriesMetadata):
    """What both ways to create a run may say of it; null and absent mean the assistant's own setting."""

    assistant_id: str
    # In place of the assistant's own; so are the next ones.
    model: str | None = None
    instructions: Instructions | None = None
    tools: RunTools | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    # Whether to answer with the run's events as they happen, instead of the run as it begins.
    stream: bool | None = None
    # Of all calls of the model together; the run that needs more ends `incomplete`.
    max_prompt_tokens: TokenLimit | None = None
    # Likewise, of what the model writes.
    max_completion_tokens: TokenLimit | None = None
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: ToolChoice | None = None
    # Whether the model may call several tools at once.
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    # The schema has it for create run only.
    reasoning_effort: ReasoningEffort | None = None


class CreateRunRequest(RunOverrides):
    # Appended to the instructions.
    additional_instructions: Instructions | None = None
    # Added to the thread ahead of the run.
    additional_messages: list[CreateMessageRequest] | None = None
    # Beyond the contract: what to do while another run is active. "reject", unless given; "enqueue" begins the run when
    # those before it are over; "interrupt" cancels the active run and begins this one next.
    if_active: IfActive | None = None


class CreateThreadAndRunRequest(RunOverrides):
    thread: CreateThreadRequest | None = None
    tool_resources: ModifyToolResources | None = None


class ModifyRunRequest(ModifiesMetadata):
    """Only the metadata of a run can change."""


class ToolOutput(Request):
    tool_call_id: str | None = None
    output: str | None = None


class SubmitToolOutputsRequest(Request):
    """``SubmitToolOutputsRunRequest``: the outputs of all required calls at once."""

    tool_outputs: list[ToolOutput]
    stream: bool | None = None
