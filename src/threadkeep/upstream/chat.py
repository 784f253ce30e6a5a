"""Chat Completions as we send it and as we read it.

What we send leaves absent fields out, because a server that does not know a field may refuse a ``null`` of it.
What we read is typed tightly for the common case (one C call per chunk); a chunk that does not fit is read again
leniently (``read_chunk``), so no server's oddity costs the others anything.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec
from msgspec import Struct

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]

# ---------------------------------------------------------------- what we send


class TextPart(Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class ImageUrl(Struct, frozen=True, omit_defaults=True):
    """``url`` is http(s) or a ``data:`` URL."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Struct, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


ContentPart = TextPart | ImagePart


class SystemMessage(Struct, frozen=True, tag_field="role", tag="system"):
    content: str


class DeveloperMessage(Struct, frozen=True, tag_field="role", tag="developer"):
    """What some upstreams want a system message to be called. Write ``SystemMessage``: a quirk turns it into this."""

    content: str


class UserMessage(Struct, frozen=True, tag_field="role", tag="user"):
    content: str | list[ContentPart]


class CalledFunction(Struct, frozen=True):
    """``arguments`` is JSON text, as the model wrote it."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True, tag_field="type", tag="function"):
    id: str
    function: CalledFunction


class AssistantMessage(Struct, frozen=True, tag_field="role", tag="assistant"):
    # Written even when null: several servers refuse an assistant message without the key.
    content: str | None
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ToolMessage(Struct, frozen=True, tag_field="role", tag="tool"):
    tool_call_id: str
    content: str


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class ToolFunction(Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    # A JSON Schema.
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(Struct, frozen=True, tag_field="type", tag="function"):
    function: ToolFunction


class FunctionName(Struct, frozen=True):
    name: str


class NamedTool(Struct, frozen=True, tag_field="type", tag="function"):
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class JsonObjectFormat(Struct, frozen=True, tag_field="type", tag="json_object"):
    pass


class JsonSchema(Struct, frozen=True, omit_defaults=True):
    name: str
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: JsonSchema


# Plain text is the absence of a format.
ResponseFormat = JsonObjectFormat | JsonSchemaFormat


class StreamOptions(Struct, frozen=True):
    include_usage: bool = True


class ChatRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a model. Quirks turn it into what the upstream at hand understands; callers write it plainly."""

    model: str
    messages: list[ChatMessage]
    tools: list[ChatTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_completion_tokens: int | None = None
    # Filled by a quirk where the upstream knows only this older name; callers leave it alone.
    max_tokens: int | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None
    # Filled by the client, which always streams.
    stream: bool = False
    stream_options: StreamOptions | None = None


# ---------------------------------------------------------------- what we read


class FunctionDelta(Struct, frozen=True, gc=False):
    name: str | None = None
    # The next piece of JSON text.
    arguments: str | None = None


class ToolCallDelta(Struct, frozen=True):
    """As ``Upstream.stream`` yields them: ``index`` is always set and counts from 0 within the answer; ``id`` and
    ``function.name`` come exactly once per call, in its first delta; the arguments of a finished call are never
    empty."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta = FunctionDelta()


class ChoiceDelta(Struct, frozen=True):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    # The model's thinking, never part of its answer. Servers disagree on the name.
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(Struct, frozen=True):
    # Required: a choice that has `message` or `text` instead must take the slow road.
    delta: ChoiceDelta
    finish_reason: FinishReason | None = None
    index: int = 0


class PromptTokensDetails(Struct, frozen=True, gc=False):
    cached_tokens: int | None = None


class CompletionTokensDetails(Struct, frozen=True, gc=False):
    reasoning_tokens: int | None = None


class Usage(Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class GroqExtra(Struct, frozen=True):
    usage: Usage | None = None


class ChatChunk(Struct, frozen=True):
    choices: list[Choice] = []
    usage: Usage | None = None
    # Groq's place for the usage when nobody asked for it; moved to `usage` before anybody sees it.
    x_groq: GroqExtra | None = None
    # An error object in the midst of a stream; ``Upstream.stream`` raises it and never yields it.
    error: msgspec.Raw = msgspec.Raw()


_chunk = msgspec.json.Decoder(ChatChunk)
decode_chunk = _chunk.decode  # the fast path: raises msgspec.MsgspecError where `read_chunk` would still understand


def read_chunk(payload: bytes) -> ChatChunk:
    """Reads a chunk, or a whole ``chat.completion``, however loosely written.

    Raises ``msgspec.DecodeError`` when it is no JSON at all.
    """
    found: object = msgspec.json.decode(payload)
    if isinstance(found, list):  # Gemini wraps its errors into an array
        parts = cast("list[object]", found)
        found = parts[0] if parts else None
    if not isinstance(found, dict):
        return ChatChunk(error=_raw(f"expected a JSON object, got: {payload[:200].decode(errors='replace')}"))
    chunk = cast("dict[str, object]", found)
    error = chunk.get("error")
    if not error and "choices" not in chunk and "message" in chunk:
        error = chunk  # older vLLM and llama.cpp: the error object itself, without a wrapping key
    choices = [_choice(c) for c in _objects(chunk.get("choices"))]
    return ChatChunk(
        choices=choices,
        usage=_usage(chunk),
        error=_raw(error) if error else msgspec.Raw(),
    )


_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_length": "length",
    "safety": "content_filter",
    "recitation": "content_filter",
    "refusal": "content_filter",
}


def _choice(raw: dict[str, object]) -> Choice:
    # `message` is what an answer that is not streamed has in place of `delta`.
    delta = _object(raw.get("delta")) or _object(raw.get("message")) or {}
    calls = _objects(delta.get("tool_calls"))
    legacy = _object(delta.get("function_call"))
    if legacy and not calls:
        calls.append({"index": 0, "function": legacy})
    text, thoughts = _content(delta.get("content"))
    if text is None and isinstance(raw.get("text"), str):
        text = cast("str", raw["text"])
    reason = raw.get("finish_reason")
    index = raw.get("index")
    return Choice(
        delta=ChoiceDelta(
            content=text,
            refusal=_text(delta.get("refusal")),
            tool_calls=[_call(c) for c in calls] or None,
            reasoning_content=_text(delta.get("reasoning_content")) or thoughts,
            reasoning=_text(delta.get("reasoning")),
        ),
        # An unknown reason is a normal end ("eos", "end_turn", "COMPLETE", …): the answer did come to its end.
        finish_reason=_FINISH_REASONS.get(reason.lower(), "stop") if isinstance(reason, str) and reason else None,
        index=index if isinstance(index, int) else 0,
    )


def _content(raw: object) -> tuple[str | None, str | None]:
    """Text and thoughts; Mistral's reasoning models write ``content`` as a list of parts."""
    if raw is None or isinstance(raw, str):
        return raw, None
    if not isinstance(raw, list):
        return (msgspec.json.encode(raw).decode() if isinstance(raw, dict) else str(raw)), None
    said: list[str] = []
    thought: list[str] = []
    for part in cast("list[object]", raw):
        if isinstance(part, str):
            said.append(part)
        elif (piece := _object(part)) is not None:
            if piece.get("type") == "thinking":
                thought.append(_content(piece.get("thinking"))[0] or "")
            elif isinstance(text := piece.get("text"), str):
                said.append(text)
    return "".join(said) or None, "".join(thought) or None


def _call(raw: dict[str, object]) -> ToolCallDelta:
    function = _object(raw.get("function")) or {}
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        arguments = msgspec.json.encode(arguments).decode()
    index, identifier = raw.get("index"), raw.get("id")
    return ToolCallDelta(
        index=index if isinstance(index, int) else None,
        id=str(identifier) if identifier is not None else None,
        function=FunctionDelta(name=_text(function.get("name")), arguments=arguments),
    )


def _usage(chunk: dict[str, object]) -> Usage | None:
    raw = _object(chunk.get("usage"))
    if not raw and (groq := _object(chunk.get("x_groq"))):
        raw = _object(groq.get("usage"))
    if not raw:
        return None
    prompt, completion = _count(raw.get("prompt_tokens")), _count(raw.get("completion_tokens"))
    cached = _object(raw.get("prompt_tokens_details"))
    reasoning = _object(raw.get("completion_tokens_details"))
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(raw.get("total_tokens")) or prompt + completion,
        prompt_tokens_details=PromptTokensDetails(_count(cached.get("cached_tokens"))) if cached else None,
        completion_tokens_details=CompletionTokensDetails(_count(reasoning.get("reasoning_tokens")))
        if reasoning
        else None,
    )


def _count(raw: object) -> int:
    return int(raw) if isinstance(raw, (int, float)) and raw > 0 else 0


def _text(raw: object) -> str | None:
    return raw if isinstance(raw, str) and raw else None


def _object(raw: object) -> dict[str, object] | None:
    return cast("dict[str, object]", raw) if isinstance(raw, dict) else None


def _objects(raw: object) -> list[dict[str, object]]:
    return [o for o in map(_object, cast("list[object]", raw)) if o is not None] if isinstance(raw, list) else []


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
