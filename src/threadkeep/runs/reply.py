"""Assembles what the model sends, fragment by fragment, into the parts of one reply.

Pure: fragments in, what is new out. It never sees the store or the stream.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from threadkeep.contract.messages import (
    Content,
    ContentDelta,
    RefusalContent,
    RefusalContentDelta,
    Text,
    TextContent,
    TextContentDelta,
    TextDelta,
)
from threadkeep.contract.runs import CompletionTokensDetails, PromptTokenDetails, Usage
from threadkeep.upstream.chat import ChatChunk, FinishReason
from threadkeep.upstream.chat import Usage as ChatUsage


class TextAdded(NamedTuple):
    """More of the answer's text."""

    text: str


class RefusalAdded(NamedTuple):
    """More of the text in which the model declines to answer."""

    refusal: str


class CallStarted(NamedTuple):
    """The model begins to call a function; ``number`` counts the calls of this reply from 0."""

    number: int
    name: str


class ArgumentsAdded(NamedTuple):
    """More of a call's JSON arguments."""

    number: int
    arguments: str


Addition = TextAdded | RefusalAdded | CallStarted | ArgumentsAdded


@dataclass
class AssembledCall:
    name: str
    arguments: list[str] = field(default_factory=list[str])


class Reply:
    """One answer of the model while it arrives."""

    def __init__(self) -> None:
        self.calls: list[AssembledCall] = []
        self.finish_reason: FinishReason | None = None
        # What the upstream counted; None when it counts nothing.
        self.usage: Usage | None = None
        # Characters so far, to estimate usage where the upstream does not count.
        self.length = 0

    def feed(self, chunk: ChatChunk) -> list[Addition]:
        """What ``chunk`` adds. Only the first choice exists for a run."""
        added: list[Addition] = []
        if chunk.usage is not None:
            self.usage = _usage(chunk.usage)
        for choice in chunk.choices:
            if choice.index:
                continue
            delta = choice.delta
            if delta.content:
                self.length += len(delta.content)
                added.append(TextAdded(delta.content))
            if delta.refusal:
                self.length += len(delta.refusal)
                added.append(RefusalAdded(delta.refusal))
            if delta.tool_calls:
                for call in delta.tool_calls:
                    index = call.index or 0
                    if call.function.name is not None:
                        index = len(self.calls)
                        self.calls.append(AssembledCall(call.function.name))
                        added.append(CallStarted(index, call.function.name))
                    if call.function.arguments and index < len(self.calls):
                        self.length += len(call.function.arguments)
                        self.calls[index].arguments.append(call.function.arguments)
                        added.append(ArgumentsAdded(index, call.function.arguments))
            if choice.finish_reason is not None:
                self.finish_reason = choice.finish_reason
        return added


class Draft:
    """A message while it is written: fragments in, deltas out, the whole content whenever it is needed."""

    def __init__(self) -> None:
        self._parts: list[tuple[type[TextAdded | RefusalAdded], list[str]]] = []

    def add(self, added: TextAdded | RefusalAdded) -> ContentDelta:
        """Appends and says what is new. Text and refusal are parts of their own."""
        opens = not self._parts or self._parts[-1][0] is not type(added)
        if opens:
            self._parts.append((type(added), []))
        index = len(self._parts) - 1
        if isinstance(added, RefusalAdded):
            self._parts[index][1].append(added.refusal)
            return RefusalContentDelta(index=index, refusal=added.refusal)
        self._parts[index][1].append(added.text)
        if opens:
            return TextContentDelta(index=index, text=TextDelta(value=added.text, annotations=[]))
        return TextContentDelta(index=index, text=TextDelta(value=added.text))

    def content(self) -> list[Content]:
        """Everything so far; equal to what the deltas add up to."""
        return [
            TextContent(text=Text(value="".join(fragments)))
            if kind is TextAdded
            else RefusalContent(refusal="".join(fragments))
            for kind, fragments in self._parts
        ]


def _usage(counted: ChatUsage) -> Usage:
    cached = counted.prompt_tokens_details
    reasoning = counted.completion_tokens_details
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.total_tokens,
        prompt_token_details=PromptTokenDetails(cached_tokens=(cached and cached.cached_tokens) or 0),
        completion_tokens_details=CompletionTokensDetails(
            reasoning_tokens=(reasoning and reasoning.reasoning_tokens) or 0
        ),
    )
