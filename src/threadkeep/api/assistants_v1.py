"""The first beta, ``OpenAI-Beta: assistants=v1``: the one place that knows of it.

A request is read as the first beta had it and upgraded to the second's; what is answered or streamed is downgraded.
Between the two everything is version 2:

    file_ids of an assistant  ⇄  tool_resources.code_interpreter.file_ids, and a vector store if it has "retrieval"
    file_ids of a message     ⇄  attachments, for both hosted tools
    file_ids of a run         ←  tool_resources.code_interpreter.file_ids
    tool and call "retrieval" ⇄  "file_search"

What the first beta has no word for is left out, or told in the nearest word it has. At the end stand the operations
that it alone had: the files of assistants and of messages.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from threadkeep.api.call import Call, Version
from threadkeep.api.threads import in_thread
from threadkeep.contract import assistants, messages, run_steps, runs, threads, tools
from threadkeep.contract.assistants import Assistant, Description, Instructions, Name, Temperature, TopP
from threadkeep.contract.errors import InvalidRequest, NotFound, ThreadkeepError
from threadkeep.contract.events import Event, EventName
from threadkeep.contract.messages import Message
from threadkeep.contract.metadata import CarriesMetadata, Metadata, ModifiesMetadata
from threadkeep.contract.models import Deleted
from threadkeep.contract.paging import ListQuery, Page, page_of
from threadkeep.contract.reading import MAX_ID_LENGTH, check_id, read_json
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.tools import TruncationStrategy
from threadkeep.contract.wire import Object, Request, absent_if_null
from threadkeep.runs import resources
from threadkeep.storage.store import Transaction

T = TypeVar("T")
S = TypeVar("S", bound=Struct)

MAX_ASSISTANT_FILES: Final = 20
MAX_MESSAGE_FILES: Final = 10

AssistantFileIds = Annotated[list[str], Meta(max_length=MAX_ASSISTANT_FILES)]
MessageFileIds = Annotated[list[str], Meta(max_length=MAX_MESSAGE_FILES)]


def _made(kind: type[S], of: Struct, **changes: Any) -> S:
    """A ``kind`` with the fields that it shares with ``of``, but for ``changes``."""
    shared = {name: getattr(of, name) for name in kind.__struct_fields__ if name in of.__struct_fields__}
    return kind(**{**shared, **changes})


# ── tools and formats, which requests and objects share ─────────────────────────────────────────────────────────────


class RetrievalTool(Request, tag_field="type", tag="retrieval"):
    """``AssistantToolsRetrieval``."""


class FunctionV1(Request):
    """``FunctionObject``, before it could be strict."""

    name: tools.FunctionIdentifier
    description: str | UnsetType | None = UNSET
    parameters: dict[str, Any] | UnsetType | None = UNSET

    def __post_init__(self) -> None:
        absent_if_null(self, "description", "parameters")


class FunctionToolV1(Request, tag_field="type", tag="function"):
    """``AssistantToolsFunction``."""

    function: FunctionV1


ToolV1 = tools.CodeInterpreterTool | RetrievalTool | FunctionToolV1


def _upgraded_tools(given: list[ToolV1] | UnsetType | None) -> list[tools.Tool] | UnsetType | None:
    return given if given is None or given is UNSET else [_upgraded_tool(tool) for tool in given]


def _upgraded_tool(tool: ToolV1) -> tools.Tool:
    match tool:
        case RetrievalTool():
            return tools.FileSearchTool()
        case FunctionToolV1(function=function):
            return tools.FunctionTool(function=_made(tools.FunctionDefinition, function))
        case tools.CodeInterpreterTool():
            return tool


def _downgraded_tool(tool: tools.Tool) -> ToolV1:
    match tool:
        case tools.FileSearchTool():
            return RetrievalTool()
        case tools.FunctionTool(function=function):
            return FunctionToolV1(function=_made(FunctionV1, function))
        case tools.CodeInterpreterTool():
            return tool


class NamedToolChoiceV1(Request):
    """``AssistantsApiNamedToolChoice``."""

    type: Literal["function", "code_interpreter", "retrieval"]
    function: tools.FunctionName | UnsetType | None = UNSET

    # The same rule as in the second beta.
    __post_init__ = tools.NamedToolChoice.__post_init__


ToolChoiceV1 = Literal["none", "auto"] | NamedToolChoiceV1


def _upgraded_choice(choice: ToolChoiceV1 | None) -> tools.ToolChoice | None:
    if not isinstance(choice, NamedToolChoiceV1):
        return choice
    kind = "file_search" if choice.type == "retrieval" else choice.type
    return tools.NamedToolChoice(type=kind, function=choice.function)


def _downgraded_choice(choice: tools.ToolChoice) -> ToolChoiceV1:
    if isinstance(choice, tools.NamedToolChoice):
        kind = "retrieval" if choice.type == "file_search" else choice.type
        return NamedToolChoiceV1(type=kind, function=choice.function)
    return "auto" if choice == "required" else choice


class ResponseFormatObjectV1(Request):
    """``AssistantsApiResponseFormat``."""

    type: Literal["text", "json_object"] = "text"


# "none" says no more than "auto" does.
ResponseFormatV1 = Literal["none", "auto"] | ResponseFormatObjectV1


def _upgraded_format(given: ResponseFormatV1 | UnsetType | None) -> tools.ResponseFormat | UnsetType | None:
    match given:
        case None | UnsetType():
            return given
        case ResponseFormatObjectV1(type="text"):
            return tools.TextFormat()
        case ResponseFormatObjectV1():
            return tools.JsonObjectFormat()
        case _:
            return "auto"


def _downgraded_format(given: tools.ResponseFormat) -> ResponseFormatV1:
    match given:
        case "auto":
            return given
        case tools.TextFormat():
            return ResponseFormatObjectV1(type="text")
        case tools.JsonObjectFormat() | tools.JsonSchemaFormat():
            return ResponseFormatObjectV1(type="json_object")


# ── requests, and their upgrades ────────────────────────────────────────────────────────────────────────────────────


class CreateAssistantV1(CarriesMetadata):
    model: str
    name: Name | None = None
    description: Description | None = None
    instructions: Instructions | None = None
    tools: Annotated[list[ToolV1], Meta(max_length=128)] | None = None
    file_ids: AssistantFileIds | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    response_format: ResponseFormatV1 | None = None


class ModifyAssistantV1(ModifiesMetadata):
    model: str | UnsetType | None = UNSET
    name: Name | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET
    instructions: Instructions | UnsetType | None = UNSET
    tools: Annotated[list[ToolV1], Meta(max_length=128)] | UnsetType | None = UNSET
    file_ids: AssistantFileIds | UnsetType | None = UNSET
    temperature: Temperature | UnsetType | None = UNSET
    top_p: TopP | UnsetType | None = UNSET
    response_format: ResponseFormatV1 | UnsetType | None = UNSET


class CreateMessageV1(CarriesMetadata):
    role: messages.Role
    # Parts were for answers only.
    content: Annotated[str, Meta(min_length=1, max_length=messages.MAX_TEXT_LENGTH)]
    file_ids: MessageFileIds | None = None


class AddMessageV1(CreateMessageV1):
    if_active: messages.IfActive | None = None


class CreateThreadV1(CarriesMetadata):
    messages: list[CreateMessageV1] | None = None


class ModifyThreadV1(ModifiesMetadata):
    """Only the metadata of a thread could change."""


class RunOverridesV1(CarriesMetadata):
    assistant_id: str
    model: str | None = None
    instructions: Instructions | None = None
    tools: Annotated[list[ToolV1], Meta(max_length=20)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    stream: bool | None = None
    max_prompt_tokens: runs.TokenLimit | None = None
    max_completion_tokens: runs.TokenLimit | None = None
    truncation_strategy: TruncationStrategy | None = None
    tool_choice: ToolChoiceV1 | None = None
    response_format: ResponseFormatV1 | None = None


class CreateRunV1(RunOverridesV1):
    additional_instructions: Instructions | None = None
    additional_messages: list[CreateMessageV1] | None = None
    if_active: messages.IfActive | None = None


class CreateThreadAndRunV1(RunOverridesV1):
    thread: CreateThreadV1 | None = None


def _upgraded_create_assistant(given: CreateAssistantV1) -> assistants.CreateAssistantRequest:
    code = tools.SharedFileResources(file_ids=given.file_ids)
    return _made(
        assistants.CreateAssistantRequest,
        given,
        tools=_upgraded_tools(given.tools),
        tool_resources=tools.CreateToolResources(code_interpreter=code) if given.file_ids else None,
        response_format=_upgraded_format(given.response_format),
    )


def _upgraded_modify_assistant(given: ModifyAssistantV1) -> assistants.ModifyAssistantRequest:
    return _made(
        assistants.ModifyAssistantRequest,
        given,
        tools=_upgraded_tools(given.tools),
        tool_resources=_upgraded_resources(given),
        response_format=_upgraded_format(given.response_format),
    )


def _upgraded_resources(given: ModifyAssistantV1) -> tools.ModifyToolResources | UnsetType:
    """The tools decide too what becomes of the files."""
    if given.file_ids is UNSET and given.tools is UNSET:
        return UNSET
    return _only_files(None if given.file_ids is UNSET else given.file_ids)


def _only_files(file_ids: list[str] | None) -> tools.ModifyToolResources:
    """The assistant has these files, for all its tools; None: those that it has."""
    return tools.ModifyToolResources(code_interpreter=tools.SharedFileResources(file_ids=file_ids))


def _upgraded_message(given: CreateMessageV1) -> messages.CreateMessageRequest:
    return _made(messages.CreateMessageRequest, given, attachments=_upgraded_files(given))


def _upgraded_added_message(given: AddMessageV1) -> messages.AddMessageRequest:
    return _made(messages.AddMessageRequest, given, attachments=_upgraded_files(given))


def _upgraded_files(given: CreateMessageV1) -> list[messages.SharedAttachment] | None:
    both: list[tools.AttachmentTool] = [tools.CodeInterpreterTool(), tools.FileSearchToolTypeOnly()]
    return [messages.SharedAttachment(file_id=file_id, tools=both) for file_id in given.file_ids or ()] or None


def _upgraded_messages(given: list[CreateMessageV1] | None) -> list[messages.CreateMessageRequest] | None:
    return None if given is None else [_upgraded_message(message) for message in given]


def _upgraded_create_thread(given: CreateThreadV1) -> threads.CreateThreadRequest:
    return _made(threads.CreateThreadRequest, given, messages=_upgraded_messages(given.messages))


def _upgraded_modify_thread(given: ModifyThreadV1) -> threads.ModifyThreadRequest:
    return _made(threads.ModifyThreadRequest, given)


def _upgraded_create_run(given: CreateRunV1) -> runs.CreateRunRequest:
    return _made(
        runs.CreateRunRequest,
        given,
        additional_messages=_upgraded_messages(given.additional_messages),
        **_upgraded_overrides(given),
    )


def _upgraded_create_thread_and_run(given: CreateThreadAndRunV1) -> runs.CreateThreadAndRunRequest:
    return _made(
        runs.CreateThreadAndRunRequest,
        given,
        thread=None if given.thread is None else _upgraded_create_thread(given.thread),
        **_upgraded_overrides(given),
    )


def _upgraded_overrides(given: RunOverridesV1) -> dict[str, object]:
    return {
        "tools": _upgraded_tools(given.tools),
        "tool_choice": _upgraded_choice(given.tool_choice),
        "response_format": _upgraded_format(given.response_format),
    }


class Upgrade(NamedTuple):
    """How a request of the second beta comes from one of the first."""

    reads: type[Request]
    upgraded: Callable[[Any], Request]


# Requests that are not here were the same in both.
UPGRADES: Final[dict[type, Upgrade]] = {
    assistants.CreateAssistantRequest: Upgrade(CreateAssistantV1, _upgraded_create_assistant),
    assistants.ModifyAssistantRequest: Upgrade(ModifyAssistantV1, _upgraded_modify_assistant),
    messages.AddMessageRequest: Upgrade(AddMessageV1, _upgraded_added_message),
    threads.CreateThreadRequest: Upgrade(CreateThreadV1, _upgraded_create_thread),
    threads.ModifyThreadRequest: Upgrade(ModifyThreadV1, _upgraded_modify_thread),
    runs.CreateRunRequest: Upgrade(CreateRunV1, _upgraded_create_run),
    runs.CreateThreadAndRunRequest: Upgrade(CreateThreadAndRunV1, _upgraded_create_thread_and_run),
}


class Misread(InvalidRequest):
    """The request breaks the first beta's contract: the refusal names things as the client did."""


def read(kind: type[T], raw: bytes) -> T:
    """The request in ``raw``, in the first beta's words, as the second beta's ``kind``."""
    upgrade = UPGRADES.get(kind)
    try:
        if upgrade is None:
            return read_json(kind, raw)
        given = read_json(upgrade.reads, raw)
    except InvalidRequest as refused:
        raise Misread(refused.message, param=refused.param, code=refused.code) from None
    return cast("T", upgrade.upgraded(given))


# ── objects, and their downgrades ───────────────────────────────────────────────────────────────────────────────────


class AssistantV1(Object):
    """``AssistantObject``: what it was given for sampling and format it did not show."""

    id: str
    object: Literal["assistant"] = "assistant"
    created_at: int
    name: str | None
    description: str | None
    model: str
    instructions: str | None
    tools: list[ToolV1]
    file_ids: list[str]
    metadata: Metadata


class ThreadV1(Object):
    """``ThreadObject``."""

    id: str
    object: Literal["thread"] = "thread"
    created_at: int
    metadata: Metadata


class ImageFileV1(Object):
    file_id: str


class ImageFileContentV1(Object, tag_field="type", tag="image_file"):
    """``MessageContentImageFileObject``."""

    image_file: ImageFileV1


ContentV1 = messages.TextContent | ImageFileContentV1


class MessageV1(Object):
    """``MessageObject``."""

    id: str
    object: Literal["thread.message"] = "thread.message"
    created_at: int
    thread_id: str
    status: messages.MessageStatus
    incomplete_details: messages.MessageIncompleteDetails | None
    completed_at: int | None
    incomplete_at: int | None
    role: messages.Role
    content: list[ContentV1]
    assistant_id: str | None
    run_id: str | None
    file_ids: list[str]
    metadata: Metadata


class ImageFileContentDeltaV1(Object, tag_field="type", tag="image_file"):
    """``MessageDeltaContentImageFileObject``."""

    index: int
    image_file: ImageFileV1


ContentDeltaV1 = messages.TextContentDelta | ImageFileContentDeltaV1


class MessageDeltaContentV1(Object):
    role: messages.Role | UnsetType = UNSET
    content: list[ContentDeltaV1]


class MessageDeltaV1(Object):
    """``MessageDeltaObject``."""

    id: str
    object: Literal["thread.message.delta"] = "thread.message.delta"
    delta: MessageDeltaContentV1


class UsageV1(Object):
    """``RunCompletionUsage`` and ``RunStepCompletionUsage``."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


# Without "incomplete": a run that met a token limit was a completed one with `incomplete_details`.
RunStatusV1 = Literal[
    "queued", "in_progress", "requires_action", "cancelling", "cancelled", "failed", "completed", "expired"
]


class RunV1(Object):
    """``RunObject``."""

    id: str
    object: Literal["thread.run"] = "thread.run"
    created_at: int
    thread_id: str
    assistant_id: str
    status: RunStatusV1
    required_action: runs.RequiredAction | None
    last_error: runs.LastError | None
    expires_at: int | None
    started_at: int | None
    cancelled_at: int | None
    failed_at: int | None
    completed_at: int | None
    incomplete_details: runs.RunIncompleteDetails | None
    model: str
    instructions: str
    tools: list[ToolV1]
    file_ids: list[str]
    metadata: Metadata
    usage: UsageV1 | None
    temperature: float | None
    top_p: float | None
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    truncation_strategy: TruncationStrategy
    tool_choice: ToolChoiceV1
    response_format: ResponseFormatV1


class RetrievalCall(Object):
    """It never told what it found."""


class RetrievalToolCall(Object, tag_field="type", tag="retrieval"):
    """``RunStepDetailsToolCallsRetrievalObject``."""

    id: str
    retrieval: RetrievalCall = RetrievalCall()


ToolCallV1 = run_steps.CodeInterpreterToolCall | RetrievalToolCall | run_steps.FunctionToolCall


class ToolCallsDetailsV1(Object, tag_field="type", tag="tool_calls"):
    """``RunStepDetailsToolCallsObject``."""

    tool_calls: list[ToolCallV1]


class RunStepV1(Object):
    """``RunStepObject``."""

    id: str
    object: Literal["thread.run.step"] = "thread.run.step"
    created_at: int
    assistant_id: str
    thread_id: str
    run_id: str
    type: run_steps.StepType
    status: run_steps.StepStatus
    step_details: run_steps.MessageCreationDetails | ToolCallsDetailsV1
    last_error: runs.LastError | None
    expired_at: int | None
    cancelled_at: int | None
    failed_at: int | None
    completed_at: int | None
    metadata: Metadata
    usage: UsageV1 | None


class RetrievalToolCallDelta(Object, tag_field="type", tag="retrieval"):
    """``RunStepDeltaStepDetailsToolCallsRetrievalObject``."""

    index: int
    id: str | UnsetType = UNSET
    retrieval: RetrievalCall = RetrievalCall()


ToolCallDeltaV1 = run_steps.CodeInterpreterToolCallDelta | RetrievalToolCallDelta | run_steps.FunctionToolCallDelta


class ToolCallsDeltaV1(Object):
    type: Literal["tool_calls"] = "tool_calls"
    tool_calls: list[ToolCallDeltaV1]


class RunStepDeltaDetailsV1(Object):
    step_details: ToolCallsDeltaV1


class RunStepDeltaV1(Object):
    """``RunStepDeltaObject``."""

    id: str
    object: Literal["thread.run.step.delta"] = "thread.run.step.delta"
    delta: RunStepDeltaDetailsV1


def _downgraded_assistant(assistant: Assistant) -> AssistantV1:
    return _made(
        AssistantV1,
        assistant,
        tools=[_downgraded_tool(tool) for tool in assistant.tools],
        file_ids=_file_ids(assistant.tool_resources),
    )


def _file_ids(given: tools.ToolResources) -> list[str]:
    return [] if given.code_interpreter is UNSET else list(dict.fromkeys(given.code_interpreter.file_ids))


def _downgraded_thread(thread: threads.Thread) -> ThreadV1:
    return _made(ThreadV1, thread)


def _downgraded_message(message: Message) -> MessageV1:
    return _made(
        MessageV1,
        message,
        content=[_downgraded_part(part) for part in message.content],
        file_ids=_attached(message),
    )


def _attached(message: Message) -> list[str]:
    return list(dict.fromkeys(attachment.file_id for attachment in message.attachments))


def _downgraded_part(part: messages.Content) -> ContentV1:
    match part:
        case messages.TextContent():
            return part
        case messages.ImageFileContent(image_file=image):
            return ImageFileContentV1(image_file=ImageFileV1(file_id=image.file_id))
        # The two that came later, as what a person would have written instead.
        case messages.ImageUrlContent(image_url=image):
            return messages.TextContent(text=messages.Text(value=image.url))
        case messages.RefusalContent(refusal=refusal):
            return messages.TextContent(text=messages.Text(value=refusal))


def _downgraded_message_delta(told: messages.MessageDelta) -> MessageDeltaV1:
    content = [_downgraded_part_delta(part) for part in told.delta.content]
    return MessageDeltaV1(id=told.id, delta=MessageDeltaContentV1(role=told.delta.role, content=content))


def _downgraded_part_delta(part: messages.ContentDelta) -> ContentDeltaV1:
    match part:
        case messages.TextContentDelta():
            return part
        case messages.ImageFileContentDelta(image_file=image):
            return ImageFileContentDeltaV1(index=part.index, image_file=ImageFileV1(file_id=image.file_id))
        case messages.ImageUrlContentDelta(image_url=image):
            return messages.TextContentDelta(index=part.index, text=messages.TextDelta(value=image.url))
        case messages.RefusalContentDelta(refusal=refusal):
            return messages.TextContentDelta(index=part.index, text=messages.TextDelta(value=refusal))


def _downgraded_run(run: runs.Run) -> RunV1:
    return _made(
        RunV1,
        run,
        status=_downgraded_status(run.status),
        tools=[_downgraded_tool(tool) for tool in run.tools],
        file_ids=_file_ids(run.tool_resources),
        usage=_downgraded_usage(run.usage),
        tool_choice=_downgraded_choice(run.tool_choice),
        response_format=_downgraded_format(run.response_format),
    )


def _downgraded_status(status: RunStatus) -> RunStatusV1:
    return "completed" if status == "incomplete" else status


def _downgraded_usage(usage: runs.Usage | None) -> UsageV1 | None:
    return None if usage is None else _made(UsageV1, usage)


def _downgraded_step(step: run_steps.RunStep) -> RunStepV1:
    details = step.step_details
    if isinstance(details, run_steps.ToolCallsDetails):
        details = ToolCallsDetailsV1(tool_calls=[_downgraded_call(call) for call in details.tool_calls])
    return _made(RunStepV1, step, step_details=details, usage=_downgraded_usage(step.usage))


def _downgraded_call(call: run_steps.ToolCall) -> ToolCallV1:
    return RetrievalToolCall(id=call.id) if isinstance(call, run_steps.FileSearchToolCall) else call


def _downgraded_step_delta(told: run_steps.RunStepDelta) -> RunStepDeltaV1:
    calls = [
        RetrievalToolCallDelta(index=call.index, id=call.id)
        if isinstance(call, run_steps.FileSearchToolCallDelta)
        else call
        for call in told.delta.step_details.tool_calls
    ]
    return RunStepDeltaV1(id=told.id, delta=RunStepDeltaDetailsV1(step_details=ToolCallsDeltaV1(tool_calls=calls)))


# Objects that are not here were the same in both.
DOWNGRADES: Final[dict[type[Object], Callable[[Any], Object]]] = {
    Assistant: _downgraded_assistant,
    threads.Thread: _downgraded_thread,
    Message: _downgraded_message,
    messages.MessageDelta: _downgraded_message_delta,
    runs.Run: _downgraded_run,
    run_steps.RunStep: _downgraded_step,
    run_steps.RunStepDelta: _downgraded_step_delta,
}


def shown(answered: Object) -> Object:
    """The object as the first beta shows it."""
    if isinstance(answered, Page):
        page = cast("Page[Object]", answered)
        return msgspec.structs.replace(page, data=[shown(item) for item in page.data])
    downgrade = DOWNGRADES.get(type(answered))
    return answered if downgrade is None else downgrade(answered)


def told(event: Event) -> tuple[EventName, Object]:
    """The event as the first beta tells it."""
    name = event.name if event.name != "thread.run.incomplete" else "thread.run.completed"
    return name, shown(event.object)


# What a refusal from below names, in the first beta's words.
_NAMES: Final = (
    (re.compile(r"\battachments\[([0-9]+)\](?:\.file_id)?"), r"file_ids[\1]"),
    (re.compile(r"\battachments\b"), "file_ids"),
    (re.compile(r"\btool_resources\.code_interpreter\.file_ids\b"), "file_ids"),
    (re.compile(r"'file_search'"), "'retrieval'"),
)


def blamed(error: ThreadkeepError) -> ThreadkeepError:
    """The refusal, naming what a client of the first beta can have sent."""
    if not isinstance(error, InvalidRequest | NotFound) or isinstance(error, Misread):
        return error
    message, param = _renamed(error.message), error.param and _renamed(error.param)
    if (message, param) == (error.message, error.param):
        return error
    return type(error)(message, param=param, code=error.code)


def _renamed(text: str) -> str:
    for name, other in _NAMES:
        text = name.sub(other, text)
    return text


V1: Final = Version(name="v1", read=read, shown=shown, told=told, blamed=blamed)


# ── the files of assistants and messages, as objects of their own ───────────────────────────────────────────────────


class AssistantFile(Object):
    """``AssistantFileObject``: that a file belongs to an assistant; its id is the file's."""

    id: str
    object: Literal["assistant.file"] = "assistant.file"
    # Nobody writes down when they came together: when both were there at the earliest.
    created_at: int
    assistant_id: str


class MessageFile(Object):
    """``MessageFileObject``: that a file came with a message; its id is the file's."""

    id: str
    object: Literal["thread.message.file"] = "thread.message.file"
    created_at: int
    message_id: str


F = TypeVar("F", AssistantFile, MessageFile)


class CreateAssistantFileRequest(Request):
    file_id: str


async def create_assistant_file(call: Call) -> AssistantFile:
    assistant_id = call.path["assistant_id"]
    request = await call.body(CreateAssistantFileRequest)
    check_id("file_id", request.file_id, "file")

    def attach(tx: Transaction) -> AssistantFile:
        assistant = tx.assistants.lock(assistant_id)
        file_ids = _file_ids(assistant.tool_resources)
        if request.file_id not in file_ids:
            if len(file_ids) >= MAX_ASSISTANT_FILES:
                raise InvalidRequest(
                    f"Assistant {assistant_id} has {len(file_ids)} files already; more than {MAX_ASSISTANT_FILES} are "
                    "not allowed.",
                    param="file_id",
                    code="array_above_max_length",
                )
            _keep(tx, assistant, [*file_ids, request.file_id])
        return _assistant_file(tx, assistant, request.file_id)

    return await call.write_once(AssistantFile, attach)


async def list_assistant_files(call: Call) -> Page[AssistantFile]:
    assistant_id = call.path["assistant_id"]
    query = call.page(ListQuery, "file")

    def read(tx: Transaction) -> Page[AssistantFile]:
        assistant = tx.assistants.get(assistant_id)
        return _page(_file_ids(assistant.tool_resources), query, lambda id_: _assistant_file(tx, assistant, id_))

    return await call.read(read)


async def get_assistant_file(call: Call) -> AssistantFile:
    assistant_id, file_id = call.path["assistant_id"], call.path["file_id"]

    def read(tx: Transaction) -> AssistantFile:
        assistant = tx.assistants.get(assistant_id)
        _expect(file_id, _file_ids(assistant.tool_resources), f"assistant '{assistant_id}'")
        return _assistant_file(tx, assistant, file_id)

    return await call.read(read)


async def delete_assistant_file(call: Call) -> Deleted:
    """The file itself stays."""
    assistant_id, file_id = call.path["assistant_id"], call.path["file_id"]

    def detach(tx: Transaction) -> None:
        assistant = tx.assistants.lock(assistant_id)
        file_ids = _file_ids(assistant.tool_resources)
        _expect(file_id, file_ids, f"assistant '{assistant_id}'")
        _keep(tx, assistant, [one for one in file_ids if one != file_id])

    await call.write(detach)
    return Deleted(id=file_id, object="assistant.file.deleted")


async def list_message_files(call: Call) -> Page[MessageFile]:
    query = call.page(ListQuery, "file")
    message = await _message(call)
    return _page(_attached(message), query, lambda file_id: _message_file(message, file_id))


async def get_message_file(call: Call) -> MessageFile:
    message, file_id = await _message(call), call.path["file_id"]
    _expect(file_id, _attached(message), f"message '{message.id}'")
    return _message_file(message, file_id)


async def _message(call: Call) -> Message:
    thread_id, message_id = call.path["thread_id"], call.path["message_id"]
    return await call.read(lambda tx: in_thread(tx, thread_id, lambda: tx.messages.get(thread_id, message_id)))


def _keep(tx: Transaction, assistant: Assistant, file_ids: list[str]) -> None:
    kept = resources.modified(tx, assistant.tool_resources, _only_files(file_ids), tools=assistant.tools)
    tx.assistants.replace(msgspec.structs.replace(assistant, tool_resources=kept))


def _assistant_file(tx: Transaction, assistant: Assistant, file_id: str) -> AssistantFile:
    file = tx.files.find(file_id)
    earliest = max(assistant.created_at, file.created_at) if file else assistant.created_at
    return AssistantFile(id=file_id, created_at=earliest, assistant_id=assistant.id)


def _message_file(message: Message, file_id: str) -> MessageFile:
    return MessageFile(id=file_id, created_at=message.created_at, message_id=message.id)


def _expect(file_id: str, file_ids: Sequence[str], owner: str) -> None:
    if file_id not in file_ids:
        raise NotFound(f"No file found with id '{file_id[:MAX_ID_LENGTH]}' in {owner}.")


def _page(file_ids: list[str], query: ListQuery, object_of: Callable[[str], F]) -> Page[F]:
    """A page of so short a list that it is never read but whole. Files stand in the order in which they were given."""
    ordered = file_ids if query.order == "asc" else file_ids[::-1]
    for name, cursor in (("after", query.after), ("before", query.before)):
        if cursor is not None and cursor not in ordered:
            raise InvalidRequest(
                f"Invalid '{name}': there is no file '{cursor}' in this list.", param=name, code="invalid_value"
            )
    first = 0 if query.after is None else ordered.index(query.after) + 1
    end = len(ordered) if query.before is None else ordered.index(query.before)
    between = ordered[first:end]
    # With `before` alone the page is the one that ends at the cursor.
    backwards = query.before is not None and query.after is None
    cut = between[-query.limit :] if backwards else between[: query.limit]
    return page_of([object_of(id_) for id_ in cut], lambda file: file.id, has_more=len(between) > len(cut))
