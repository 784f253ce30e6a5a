"""What the model is sent: instructions, as much of the thread as fits, and what this run did so far.

The thread is read backwards until the budget is full, so a long thread costs no more than its newest part. Tokens are
estimated, never counted: every model has a tokenizer of its own, and none may be fetched.
"""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import UNSET

from threadkeep.contract.errors import NotFound, ThreadkeepError, UpstreamFailed
from threadkeep.contract.messages import (
    FileCitationAnnotation,
    ImageFileContent,
    ImageUrlContent,
    Message,
    RefusalContent,
    TextContent,
)
from threadkeep.contract.run_steps import FunctionToolCall, MessageCreationDetails, RunStep
from threadkeep.contract.runs import Run
from threadkeep.contract.tools import (
    FunctionDefinition,
    JsonObjectFormat,
    JsonSchemaFormat,
    NamedToolChoice,
    ResponseFormat,
)
from threadkeep.runs import pictures
from threadkeep.runs.pictures import Pictures
from threadkeep.storage.store import Transaction
from threadkeep.tools.toolbox import Toolbox
from threadkeep.upstream import chat

# What a message costs beside its text, and an image of unknown size.
_MESSAGE_TOKENS: Final = 4
_IMAGE_TOKENS: Final = 800
# What the run did so far may fill one part in so many of the prompt; then the oldest answers of our tools are cut to
# their beginning and their end.
_OWN_SHARE: Final = 2
_KEPT_CHARACTERS: Final = 500


class TokenLimitReached(ThreadkeepError):
    """The run may use no more tokens: it ends incomplete."""

    def __init__(self, limit: Literal["max_prompt_tokens", "max_completion_tokens"]) -> None:
        super().__init__(f"The run reached its {limit}.")
        self.limit: Literal["max_prompt_tokens", "max_completion_tokens"] = limit


def estimate_tokens(text: str) -> int:
    """About four ASCII characters a token, one of any other script."""
    if text.isascii():
        return len(text) // 4 + 1
    plain = len(text.encode("ascii", "ignore"))
    return plain // 4 + len(text) - plain + 1


class Prompt:
    """The messages of one model call, with their estimated size."""

    def __init__(
        self,
        messages: list[chat.ChatMessage],
        tokens: int,
        *,
        shown: dict[int, Pictures],
        dropped: bool,
        droppable: bool,
    ) -> None:
        self.messages = messages
        # The uploaded images, by the place of their message: their parts stand empty until `pictures.filled_in`.
        self.shown = shown
        self.tokens = tokens
        # Older messages were left out to fit the budget.
        self.dropped = dropped
        # There are messages left that a smaller budget could leave out.
        self.droppable = droppable

    @property
    def has_images(self) -> bool:
        return any(
            isinstance(part, chat.ImagePart)
            for message in self.messages
            if isinstance(message, chat.UserMessage) and isinstance(message.content, list)
            for part in message.content
        )


def build(
    tx: Transaction, run: Run, steps: Sequence[RunStep], toolbox: Toolbox, *, budget: int, hard_limit: bool
) -> Prompt:
    """The prompt for the next model call of ``run``, within ``budget`` tokens.

    The newest message always stays. When even the rest exceeds the budget, ``hard_limit`` decides: raise
    ``TokenLimitReached``, or send it and let the upstream judge.
    """
    head: list[chat.ChatMessage] = [chat.SystemMessage(run.instructions)] if run.instructions else []
    tail = _own_steps(tx, run, steps, toolbox)
    _shorten(tail, _made_here(steps), budget // _OWN_SHARE)
    fixed = sum(map(_tokens, head)) + sum(map(_tokens, tail))
    most = run.truncation_strategy.last_messages
    history: list[chat.ChatMessage] = []
    shown: list[Pictures] = []
    spent, bytes_shown, dropped = fixed, 0, False
    for message in tx.messages.seen_by(run.thread_id, run.id):
        if message.run_id == run.id or message.status == "in_progress":
            continue
        if most is not None and len(history) >= most:
            break
        said = _said(message)
        if said is None:
            continue
        cost = _tokens(said)
        if history and spent + cost > budget:
            dropped = True
            break
        # Only what fits is looked for: an image that is gone spoils no prompt that would leave it out.
        seen = pictures.shown_in(tx, message)
        bytes_shown += pictures.size_of(seen)
        if bytes_shown > pictures.MAX_PROMPT_BYTES:
            if not history:
                raise UpstreamFailed("invalid_prompt", f"The images of message {message.id} are too large together.")
            dropped = True
            break
        history.append(said)
        shown.append(seen)
        spent += cost
    if hard_limit and spent > budget:
        raise TokenLimitReached("max_prompt_tokens")
    history.reverse()
    shown.reverse()
    return Prompt(
        head + history + tail,
        spent,
        shown={place: seen for place, seen in enumerate(shown, len(head)) if seen},
        dropped=dropped,
        droppable=len(history) > 1 and most is None,
    )


def request(
    run: Run,
    prompt: Prompt,
    messages: list[chat.ChatMessage],
    toolbox: Toolbox,
    *,
    max_completion_tokens: int | None,
) -> chat.ChatRequest:
    """The model call itself, with the settings the run echoes. Settings at their defaults are left out.

    ``messages`` are those of the prompt with its images filled in.
    """
    tools = [chat.ChatTool(_function(definition)) for definition in toolbox.definitions] or None
    called_before = any(isinstance(message, chat.ToolMessage) for message in prompt.messages)
    return chat.ChatRequest(
        model=run.model,
        messages=messages,
        tools=tools,
        tool_choice=_tool_choice(run, toolbox, called_before=called_before) if tools else None,
        parallel_tool_calls=False if tools and not run.parallel_tool_calls else None,
        temperature=None if run.temperature == 1 else run.temperature,
        top_p=None if run.top_p == 1 else run.top_p,
        max_completion_tokens=max_completion_tokens,
        response_format=_response_format(run.response_format),
        reasoning_effort=None if run.reasoning_effort is UNSET else run.reasoning_effort,
    )


def _own_steps(tx: Transaction, run: Run, steps: Sequence[RunStep], toolbox: Toolbox) -> list[chat.ChatMessage]:
    """What this run said and called so far, in order. A step that was never finished says nothing."""
    messages: list[chat.ChatMessage] = []
    for step in steps:
        if step.status != "completed":
            continue
        if isinstance(step.step_details, MessageCreationDetails):
            try:
                said = _said(tx.messages.get(run.thread_id, step.step_details.message_creation.message_id))
            except NotFound:
                # Its client has deleted it meanwhile.
                continue
            if said is not None:
                messages.append(said)
            continue
        calls = step.step_details.tool_calls
        made = [chat.ToolCall(call.id, chat.CalledFunction(toolbox.name(call), toolbox.asked(call))) for call in calls]
        # What it said ahead of the calls is part of the same reply, and only so some upstreams take it.
        ahead: str | None = None
        if messages and isinstance(spoken := messages[-1], chat.AssistantMessage):
            ahead = spoken.content
            messages.pop()
        messages.append(chat.AssistantMessage(ahead, made))
        messages.extend(chat.ToolMessage(call.id, toolbox.said(call)) for call in calls)
    return messages


def _made_here(steps: Sequence[RunStep]) -> set[str]:
    """The ids of calls of tools that run here."""
    called = [step.step_details for step in steps if not isinstance(step.step_details, MessageCreationDetails)]
    return {call.id for details in called for call in details.tool_calls if not isinstance(call, FunctionToolCall)}


def _shorten(messages: list[chat.ChatMessage], calls: set[str], budget: int) -> None:
    """Cuts the answers to ``calls``, the oldest first, until the run's own part fits: a run that calls many goes on."""
    over = sum(map(_tokens, messages)) - budget
    for place, message in enumerate(messages):
        if over <= 0:
            return
        if not isinstance(message, chat.ToolMessage) or message.tool_call_id not in calls:
            continue
        if len(message.content) > 2 * _KEPT_CHARACTERS:
            kept = f"{message.content[:_KEPT_CHARACTERS]}\n[…]\n{message.content[-_KEPT_CHARACTERS:]}"
            messages[place] = chat.ToolMessage(message.tool_call_id, kept)
            over -= _tokens(message) - _tokens(messages[place])


def _said(message: Message) -> chat.ChatMessage | None:
    """The message as the model reads it, or None when there is nothing to read."""
    if message.role == "assistant":
        # Models take no images back; what the assistant showed is left out of what it said.
        text = "\n".join(filter(None, map(_without_citations, message.content)))
        return chat.AssistantMessage(text) if text else None
    parts: list[chat.ContentPart] = []
    for part in message.content:
        match part:
            case ImageUrlContent(image_url=image):
                parts.append(chat.ImagePart(chat.ImageUrl(image.url, image.detail)))
            case ImageFileContent(image_file=image):
                # Filled in when the transaction is over.
                parts.append(chat.ImagePart(chat.ImageUrl("", image.detail)))
            case _:
                parts.append(chat.TextPart(_text(part) or ""))
    match parts:
        case [chat.TextPart(text=text)]:
            return chat.UserMessage(text)
        case _:
            return chat.UserMessage(parts)


def _without_citations(part: object) -> str | None:
    """What the part says. Marks of an earlier run's search would mean something else in this one."""
    text = _text(part)
    if isinstance(part, TextContent) and text:
        for annotation in part.text.annotations:
            if isinstance(annotation, FileCitationAnnotation):
                text = text.replace(annotation.text, "")
    return text


def _text(part: object) -> str | None:
    match part:
        case TextContent(text=text):
            return text.value
        case RefusalContent(refusal=refusal):
            return refusal
        case _:
            return None


def _tokens(message: chat.ChatMessage) -> int:
    match message:
        case chat.UserMessage(content=list() as parts):
            text = sum(
                estimate_tokens(part.text) if isinstance(part, chat.TextPart) else _IMAGE_TOKENS for part in parts
            )
        case chat.AssistantMessage(content=content, tool_calls=calls):
            text = estimate_tokens(content or "")
            if calls is not UNSET:
                text += sum(estimate_tokens(call.function.arguments) + _MESSAGE_TOKENS for call in calls)
        case _:
            text = estimate_tokens(str(message.content))
    return text + _MESSAGE_TOKENS


def _function(definition: FunctionDefinition) -> chat.ToolFunction:
    return chat.ToolFunction(
        name=definition.name,
        description=definition.description or None,
        parameters=definition.parameters or None,
        strict=definition.strict or None,
    )


def _tool_choice(run: Run, toolbox: Toolbox, *, called_before: bool) -> chat.ToolChoice | None:
    """Null stands for "auto". A call that was required is required once: else the run would never answer."""
    choice = run.tool_choice
    if choice == "none":
        return "none"
    if choice == "auto" or called_before:
        return None
    if isinstance(choice, NamedToolChoice):
        return chat.NamedTool(chat.FunctionName(toolbox.chosen(choice)))
    return "required"


def _response_format(chosen: ResponseFormat) -> chat.ResponseFormat | None:
    match chosen:
        case JsonObjectFormat():
            return chat.JsonObjectFormat()
        case JsonSchemaFormat(json_schema=schema):
            return chat.JsonSchemaFormat(
                chat.JsonSchema(
                    name=schema.name,
                    description=schema.description or None,
                    schema=None if schema.schema is UNSET else schema.schema,
                    strict=schema.strict or None,
                )
            )
        case _:
            return None
