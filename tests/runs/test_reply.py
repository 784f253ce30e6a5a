"""Fragments in, what is new out: the reply of a model and the draft of a message."""

from threadkeep.contract.messages import (
    RefusalContent,
    RefusalContentDelta,
    Text,
    TextContent,
    TextContentDelta,
    TextDelta,
)
from threadkeep.runs.reply import ArgumentsAdded, CallStarted, Draft, RefusalAdded, Reply, TextAdded
from threadkeep.upstream.chat import ChatChunk, Choice, ChoiceDelta, FunctionDelta, ToolCallDelta, Usage


def chunk(**delta: object) -> ChatChunk:
    return ChatChunk(choices=[Choice(delta=ChoiceDelta(**delta))])  # pyright: ignore[reportArgumentType]


def call(index: int, name: str | None, arguments: str | None) -> ToolCallDelta:
    return ToolCallDelta(index=index, function=FunctionDelta(name, arguments))


def test_text_and_refusal_are_told_apart() -> None:
    reply = Reply()

    assert reply.feed(chunk(content="Hi")) == [TextAdded("Hi")]
    assert reply.feed(chunk(refusal="No")) == [RefusalAdded("No")]


def test_an_empty_delta_adds_nothing() -> None:
    assert Reply().feed(chunk(content="")) == []
    assert Reply().feed(ChatChunk()) == []


def test_thoughts_add_nothing() -> None:
    assert Reply().feed(chunk(reasoning_content="Hm", reasoning="Hm")) == []


def test_a_call_starts_once_and_its_arguments_grow() -> None:
    reply = Reply()

    assert reply.feed(chunk(tool_calls=[call(0, "f", "")])) == [CallStarted(0, "f")]
    assert reply.feed(chunk(tool_calls=[call(0, None, '{"a"')])) == [ArgumentsAdded(0, '{"a"')]
    assert reply.feed(chunk(tool_calls=[call(0, None, ":1}")])) == [ArgumentsAdded(0, ":1}")]
    assert reply.calls == 1


def test_calls_may_come_in_one_chunk() -> None:
    reply = Reply()

    added = reply.feed(chunk(tool_calls=[call(0, "f", "{}"), call(1, "g", "{}")]))

    assert added == [CallStarted(0, "f"), ArgumentsAdded(0, "{}"), CallStarted(1, "g"), ArgumentsAdded(1, "{}")]
    assert reply.calls == 2


def test_arguments_of_no_call_are_dropped() -> None:
    reply = Reply()

    assert reply.feed(chunk(tool_calls=[call(3, None, "{}")])) == []
    assert reply.calls == 0


def test_other_choices_do_not_exist() -> None:
    reply = Reply()

    assert reply.feed(ChatChunk(choices=[Choice(delta=ChoiceDelta(content="Hi"), index=1)])) == []


def test_the_last_count_of_usage_holds() -> None:
    reply = Reply()

    reply.feed(ChatChunk(usage=Usage(1, 1, 2)))
    reply.feed(ChatChunk(usage=Usage(5, 6, 11)))

    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (5, 6, 11)


def test_the_finish_reason_is_kept() -> None:
    reply = Reply()

    reply.feed(ChatChunk(choices=[Choice(delta=ChoiceDelta(), finish_reason="length")]))

    assert reply.finish_reason == "length"


def test_only_the_first_delta_of_a_part_has_annotations() -> None:
    draft = Draft()
    added = [TextAdded("a"), TextAdded("b"), RefusalAdded("c"), TextAdded("d")]

    assert [delta for more in added for delta in draft.add(more)] == [
        TextContentDelta(index=0, text=TextDelta(value="a", annotations=[])),
        TextContentDelta(index=0, text=TextDelta(value="b")),
        RefusalContentDelta(index=1, refusal="c"),
        TextContentDelta(index=2, text=TextDelta(value="d", annotations=[])),
    ]
    assert draft.end() == []
    assert draft.content() == [
        TextContent(text=Text(value="ab")),
        RefusalContent(refusal="c"),
        TextContent(text=Text(value="d")),
    ]
