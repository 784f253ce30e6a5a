"""Short ways to ask an upstream and to look at what it answered."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

from threadkeep.upstream.chat import ChatChunk, ChatRequest, FinishReason, ToolCallDelta, Usage, UserMessage
from threadkeep.upstream.client import ChatCompletionsUpstream
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import ScriptedUpstream
from threadkeep.upstream.upstreams import Upstream, Upstreams


class Answer(msgspec.Struct, kw_only=True):
    """An answer put together as a consumer would."""

    text: str = ""
    refusal: str = ""
    thoughts: str = ""
    # (id, name, arguments) in order.
    calls: list[tuple[str, str, str]] = []
    finish: FinishReason | None = None
    finishes: int = 0
    usage: Usage | None = None
    reads: list[list[ChatChunk]] = []


def gather(reads: Sequence[list[ChatChunk]]) -> Answer:
    """Puts an answer together, and checks on the way what ``ToolCallDelta`` promises."""
    answer = Answer(reads=list(reads))
    calls: list[tuple[str, str, str]] = []
    for chunk in (c for chunks in reads for c in chunks):
        answer.usage = chunk.usage or answer.usage
        for choice in chunk.choices:
            answer.text += choice.delta.content or ""
            answer.refusal += choice.delta.refusal or ""
            answer.thoughts += (choice.delta.reasoning_content or "") + (choice.delta.reasoning or "")
            for delta in choice.delta.tool_calls or ():
                _add(calls, delta)
            if choice.finish_reason is not None:
                answer.finish = choice.finish_reason
                answer.finishes += 1
    answer.calls = calls
    return answer


def _add(calls: list[tuple[str, str, str]], delta: ToolCallDelta) -> None:
    assert delta.index is not None
    if delta.index == len(calls):
        assert delta.id
        assert delta.function.name
        calls.append((delta.id, delta.function.name, delta.function.arguments or ""))
    else:
        assert delta.id is None
        assert delta.function.name is None
        identifier, name, arguments = calls[delta.index]
        calls[delta.index] = (identifier, name, arguments + (delta.function.arguments or ""))


def asking(text: str = "Hi", *, model: str = "m", **fields: Any) -> ChatRequest:
    return ChatRequest(model=model, messages=[UserMessage(text)], **fields)


async def ask(upstream: Upstream, request: ChatRequest | None = None, *, deadline: float | None = None) -> Answer:
    async with aclosing(upstream.stream(request or asking(), deadline=deadline)) as stream:
        return gather([chunks async for chunks in stream])


@asynccontextmanager
async def connected(scripted: ScriptedUpstream, **settings: Any) -> AsyncGenerator[ChatCompletionsUpstream]:
    """The scripted server as a configured upstream."""
    every: dict[str, Any] = {"name": "scripted", "url": scripted.url, **settings}
    config = UpstreamConfig(**every)
    upstreams = Upstreams([config])
    try:
        yield upstreams.configured[0]
    finally:
        await upstreams.close()
