"""Run steps: what a run did, in order: a message it wrote, or tools it called."""

from collections.abc import Iterable
from typing import Annotated, Literal

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from threadkeep.contract.metadata import Metadata
from threadkeep.contract.runs import LastError, Usage
from threadkeep.contract.tools import Ranker
from threadkeep.contract.wire import KEPT, Object

StepType = Literal["message_creation", "tool_calls"]
StepStatus = Literal["in_progress", "cancelled", "failed", "completed", "expired"]


class MessageCreation(Object):
    message_id: str


class MessageCreationDetails(Object, tag_field="type", tag="message_creation"):
    """``RunStepDetailsMessageCreationObject``."""

    message_creation: MessageCreation


class CalledFunction(Object):
    name: str
    arguments: str
    # Null until the client has submitted it.
    output: str | None


class FunctionToolCall(Object, tag_field="type", tag="function"):
    """``RunStepDetailsToolCallsFunctionObject``."""

    id: str
    function: CalledFunction


class CodeOutputLogs(Object, tag_field="type", tag="logs"):
    logs: str


class OutputImage(Object):
    file_id: str


class CodeOutputImage(Object, tag_field="type", tag="image"):
    image: OutputImage


CodeOutput = CodeOutputLogs | CodeOutputImage


class CodeInterpreterCall(Object):
    input: str
    outputs: list[CodeOutput]


class CodeInterpreterToolCall(Object, tag_field="type", tag="code_interpreter"):
    """``RunStepDetailsToolCallsCodeObject``."""

    id: str
    code_interpreter: CodeInterpreterCall


class FoundText(Object):
    type: Literal["text"] = "text"
    text: str


class FileSearchResult(Object):
    file_id: str
    file_name: str
    # From 0 to 1.
    score: float
    # Only with `include[]=step_details.tool_calls[*].file_search.results[*].content`.
    content: list[FoundText] | UnsetType = UNSET


class UsedRankingOptions(Object):
    ranker: Ranker
    score_threshold: float


class FileSearchCall(Object, omit_defaults=True):
    ranking_options: UsedRankingOptions | UnsetType = UNSET
    results: list[FileSearchResult] | UnsetType = UNSET
    # Not of the contract: what the model asked, and the number that its marks bear.
    queries: Annotated[list[str] | UnsetType, KEPT] = UNSET
    number: Annotated[int | UnsetType, KEPT] = UNSET


class FileSearchToolCall(Object, tag_field="type", tag="file_search"):
    """``RunStepDetailsToolCallsFileSearchObject``."""

    id: str
    file_search: FileSearchCall


ToolCall = FunctionToolCall | CodeInterpreterToolCall | FileSearchToolCall


class ToolCallsDetails(Object, tag_field="type", tag="tool_calls"):
    """``RunStepDetailsToolCallsObject``: parallel calls stand in one step."""

    tool_calls: list[ToolCall]


StepDetails = MessageCreationDetails | ToolCallsDetails


class RunStep(Object):
    """``RunStepObject``, with ``expires_at``, which the service really answered."""

    id: str
    object: Literal["thread.run.step"] = "thread.run.step"
    created_at: int
    run_id: str
    assistant_id: str
    thread_id: str
    type: StepType
    status: StepStatus
    cancelled_at: int | None
    completed_at: int | None
    expires_at: int | None
    expired_at: int | None
    failed_at: int | None
    last_error: LastError | None
    step_details: StepDetails
    metadata: Metadata
    # Null while in progress.
    usage: Usage | None


class FunctionCallDelta(Object, omit_defaults=True):
    name: str | UnsetType = UNSET
    arguments: str | UnsetType = UNSET
    output: str | UnsetType | None = UNSET


class FunctionToolCallDelta(Object, tag_field="type", tag="function", omit_defaults=True):
    """``id`` and ``name`` come once: clients concatenate strings."""

    index: int
    id: str | UnsetType = UNSET
    function: FunctionCallDelta


class CodeOutputLogsDelta(Object, tag_field="type", tag="logs"):
    index: int
    logs: str


class CodeOutputImageDelta(Object, tag_field="type", tag="image"):
    index: int
    image: OutputImage


CodeOutputDelta = CodeOutputLogsDelta | CodeOutputImageDelta


class CodeInterpreterCallDelta(Object, omit_defaults=True):
    input: str | UnsetType = UNSET
    outputs: list[CodeOutputDelta] | UnsetType = UNSET


class CodeInterpreterToolCallDelta(Object, tag_field="type", tag="code_interpreter", omit_defaults=True):
    index: int
    id: str | UnsetType = UNSET
    code_interpreter: CodeInterpreterCallDelta


class FileSearchToolCallDelta(Object, tag_field="type", tag="file_search", omit_defaults=True):
    index: int
    id: str | UnsetType = UNSET
    file_search: FileSearchCall


ToolCallDelta = FunctionToolCallDelta | CodeInterpreterToolCallDelta | FileSearchToolCallDelta


class ToolCallsDelta(Object):
    type: Literal["tool_calls"] = "tool_calls"
    tool_calls: list[ToolCallDelta]


class RunStepDeltaDetails(Object):
    # Never ``RunStepDeltaStepDetailsMessageCreationObject``: a message is known by its id when its step begins, and
    # what grows then is the message.
    step_details: ToolCallsDelta


class RunStepDelta(Object):
    """``RunStepDeltaObject``."""

    id: str
    object: Literal["thread.run.step.delta"] = "thread.run.step.delta"
    delta: RunStepDeltaDetails


def whole(index: int, call: ToolCall) -> ToolCallDelta:
    """What deltas say of ``call``, which stands at ``index`` of its step, in one. A function's output and what a search
    found come with the step's end.
    """
    match call:
        case FunctionToolCall(function=function):
            begun = FunctionCallDelta(name=function.name, arguments=function.arguments, output=None)
            return FunctionToolCallDelta(index=index, id=call.id, function=begun)
        case CodeInterpreterToolCall(code_interpreter=code):
            outputs: list[CodeOutputDelta] = [
                CodeOutputLogsDelta(index=number, logs=output.logs)
                if isinstance(output, CodeOutputLogs)
                else CodeOutputImageDelta(index=number, image=output.image)
                for number, output in enumerate(code.outputs)
            ]
            run = CodeInterpreterCallDelta(input=code.input, outputs=outputs)
            return CodeInterpreterToolCallDelta(index=index, id=call.id, code_interpreter=run)
        case FileSearchToolCall():
            return FileSearchToolCallDelta(index=index, id=call.id, file_search=FileSearchCall())


def grown(call: ToolCall, deltas: Iterable[ToolCallDelta]) -> ToolCall:
    """``call`` with the outputs that ``deltas`` tell of it."""
    if not isinstance(call, CodeInterpreterToolCall):
        return call
    outputs: dict[int, list[str] | OutputImage] = {}
    for delta in deltas:
        if isinstance(delta, CodeInterpreterToolCallDelta) and delta.code_interpreter.outputs is not UNSET:
            for output in delta.code_interpreter.outputs:
                if isinstance(output, CodeOutputImageDelta):
                    outputs[output.index] = output.image
                elif isinstance(logs := outputs.setdefault(output.index, []), list):
                    logs.append(output.logs)
    made = [
        CodeOutputLogs(logs="".join(output)) if isinstance(output, list) else CodeOutputImage(image=output)
        for _, output in sorted(outputs.items())
    ]
    return replace(call, code_interpreter=CodeInterpreterCall(input=call.code_interpreter.input, outputs=[*made]))


# Values of the query parameter `include[]`.
Include = Literal["step_details.tool_calls[*].file_search.results[*].content"]
