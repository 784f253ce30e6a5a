"""The offline model as a Chat Completions server: streamed and not, so that the first minute works without a model.

It reads requests loosely, as real servers do: what it does not know it ignores.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from threadkeep.contract.errors import InvalidRequest, RateLimited, UpstreamFailed
from threadkeep.contract.reading import read_json
from threadkeep.upstream.chat import (
    AssistantMessage,
    ChatChunk,
    ChatMessage,
    ChatRequest,
    ChatTool,
    Choice,
    ChoiceDelta,
    ContentPart,
    FinishReason,
    ImagePart,
    ImageUrl,
    ResponseFormat,
    StreamOptions,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    ToolMessage,
    Usage,
    UserMessage,
)
from threadkeep.upstream.offline import OfflineUpstream
from threadkeep.upstream.relay import Headers, Relayed, Whole

# A client that is told to come back should not come back at once.
_RETRY_AFTER_S: Final = 1.0
_encode: Final = msgspec.json.Encoder().encode
_STREAMED: Final[Headers] = ((b"content-type", b"text/event-stream; charset=utf-8"),)
_JSON: Final[Headers] = ((b"content-type", b"application/json"),)


# ---------------------------------------------------------------- the request


class _Part(Struct):
    type: str
    text: str | None = None
    image_url: ImageUrl | None = None


class _Message(Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class _TextFormat(Struct, tag_field="type", tag="text"):
    pass


class _Request(Struct):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    tools: list[ChatTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    response_format: ResponseFormat | _TextFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


def _message(message: _Message) -> ChatMessage:
    match message.role:
        case "system" | "developer":
            return SystemMessage(_text(message.content))
        case "user":
            return UserMessage(_parts(message.content))
        case "assistant":
            return AssistantMessage(_text(message.content), message.tool_calls or msgspec.UNSET)
        case "tool" | "function":
            return ToolMessage(message.tool_call_id or "", _text(message.content))


def _text(content: str | list[_Part] | None) -> str:
    return content if isinstance(content, str) else "\n".join(part.text or "" for part in content or ())


def _parts(content: str | list[_Part] | None) -> str | list[ContentPart]:
    if not isinstance(content, list):
        return content or ""
    return [TextPart(part.text or "") if part.image_url is None else ImagePart(part.image_url) for part in content]


# ---------------------------------------------------------------- the answer


class _Frame(Struct):
    id: str
    object: Literal["chat.completion", "chat.completion.chunk"]
    created: int
    model: str
    choices: Sequence[dict[str, Any]]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET


async def answer(offline: OfflineUpstream, model: str, body: bytes) -> Relayed:
    """What the offline model has to say to the body of a request to ``/chat/completions``."""
    asked = read_json(_Request, body)
    wanted = asked.response_format
    limit = asked.max_completion_tokens
    request = ChatRequest(
        model=model,
        messages=[_message(message) for message in asked.messages],
        tools=asked.tools,
        tool_choice=asked.tool_choice,
        parallel_tool_calls=asked.parallel_tool_calls,
        max_completion_tokens=asked.max_tokens if limit is None else limit,
        response_format=None if isinstance(wanted, _TextFormat) else wanted,
    )
    # The same conversation gives the same id, as it gives the same everything.
    frame = _Frame(
        id=f"chatcmpl-{hashlib.sha256(_encode(request)).hexdigest()[:24]}",
        object="chat.completion",
        created=int(time.time()),
        model=model,
        choices=(),
    )
    chunks = offline.stream(request)
    try:
        # Failures come ahead of the first chunk.
        first = await anext(chunks)
    except UpstreamFailed as failure:
        raise _as_refusal(failure) from None
    if asked.stream:
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _Stream(_events(first, chunks, frame, with_usage))
    async with aclosing(chunks):
        rest = [chunk async for several in chunks for chunk in several]
    return Whole(200, _JSON, _encode(_completion([*first, *rest], frame)))


def _as_refusal(failure: UpstreamFailed) -> Exception:
    """A failure that was asked for, as a model server would answer it."""
    match failure.code:
        case "rate_limit_exceeded":
            return RateLimited(failure.message, retry_after_s=_RETRY_AFTER_S)
        case "invalid_prompt":
            return InvalidRequest(failure.message, code="invalid_prompt")
        case "server_error":
            return failure


async def _events(
    first: list[ChatChunk], chunks: AsyncGenerator[list[ChatChunk], None], frame: _Frame, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    frame.object = "chat.completion.chunk"
    if with_usage:
        # Null until the last chunk.
        frame.usage = None
    async with aclosing(chunks):
        yield _event(frame, {"role": "assistant", "content": ""})
        for chunk in first:
            yield _chunk_event(frame, chunk, with_usage)
        async for several in chunks:
            if events := b"".join(_chunk_event(frame, chunk, with_usage) for chunk in several):
                yield events
    yield b"data: [DONE]\n\n"


def _chunk_event(frame: _Frame, chunk: ChatChunk, with_usage: bool) -> bytes:
    for choice in chunk.choices:
        return _event(frame, _delta(choice.delta), choice.finish_reason)
    if not with_usage:
        return b""
    return b"data: %b\n\n" % _encode(msgspec.structs.replace(frame, choices=(), usage=chunk.usage))


def _event(frame: _Frame, delta: dict[str, Any], finish_reason: FinishReason | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return b"data: %b\n\n" % _encode(msgspec.structs.replace(frame, choices=(choice,)))


def _delta(delta: ChoiceDelta) -> dict[str, Any]:
    said: dict[str, Any] = {}
    if delta.content is not None:
        said["content"] = delta.content
    if delta.refusal is not None:
        said["refusal"] = delta.refusal
    if delta.tool_calls:
        said["tool_calls"] = [_call(call) for call in delta.tool_calls]
    return said


def _call(call: ToolCallDelta) -> dict[str, Any]:
    function = {"arguments": call.function.arguments or ""}
    if call.id is None:
        return {"index": call.index, "function": function}
    named = {"name": call.function.name, **function}
    return {"index": call.index, "id": call.id, "type": "function", "function": named}


def _completion(chunks: list[ChatChunk], frame: _Frame) -> _Frame:
    choices: list[Choice] = [choice for chunk in chunks for choice in chunk.choices]
    deltas = [choice.delta for choice in choices]
    content = [delta.content for delta in deltas if delta.content is not None]
    refusal = [delta.refusal for delta in deltas if delta.refusal is not None]
    calls: dict[int, dict[str, Any]] = {}
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        function = calls.setdefault(call.index or 0, _begun(call))["function"]
        function["arguments"] += call.function.arguments or ""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(content) if content else None,
        "refusal": "".join(refusal) or None,
        "annotations": [],
    }
    if calls:
        message["tool_calls"] = list(calls.values())
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": choices[-1].finish_reason}
    frame.choices = (choice,)
    frame.usage = chunks[-1].usage
    return frame


def _begun(call: ToolCallDelta) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.function.name, "arguments": ""}}


class _Stream:
    """See ``Relayed``."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self.status = 200
        self.headers: Headers = _STREAMED
        self._events = events

    async def read(self) -> bytes:
        return await anext(self._events, b"")

    async def close(self) -> None:
        await self._events.aclose()
