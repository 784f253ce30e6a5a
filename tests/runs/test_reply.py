"""Fragments in, what is new out: the reply of a model and the draft of a message."""

from hypothesis import given
from hypothesis import strategies as st

from threadkeep.contract.messages import RefusalContent, Text, TextContent, TextContentDelta
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
    assert "".join(reply.calls[0].arguments) == '{"a":1}'


def test_calls_may_come_in_one_chunk() -> None:
    reply = Reply()

    added = reply.feed(chunk(tool_calls=[call(0, "f", "{}"), call(1, "g", "{}")]))

    assert added == [CallStarted(0, "f"), ArgumentsAdded(0, "{}"), CallStarted(1, "g"), ArgumentsAdded(1, "{}")]
    assert [made.name for made in reply.calls] == ["f", "g"]


def test_arguments_of_no_call_are_dropped() -> None:
    reply = Reply()

    assert reply.feed(chunk(tool_calls=[call(3, None, "{}")])) == []
    assert reply.calls == []


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


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=5)), max_size=30))
def test_deltas_add_up_to_the_content(fragments: list[tuple[bool, str]]) -> None:
    draft = Draft()
    texts: dict[int, str] = {}
    for is_refusal, text in fragments:
        delta = draft.add(RefusalAdded(text) if is_refusal else TextAdded(text))
        new = (delta.text.value or "") if isinstance(delta, TextContentDelta) else getattr(delta, "refusal")  # noqa: B009
        texts[delta.index] = texts.get(delta.index, "") + new

    said = [part.text.value if isinstance(part, TextContent) else getattr(part, "refusal") for part in draft.content()]  # noqa: B009
    assert said == [texts[index] for index in range(len(texts))]


def test_only_the_first_delta_of_a_part_has_annotations() -> None:
    draft = Draft()

    first, second, _, fourth = (
        draft.add(TextAdded("a")),
        draft.add(TextAdded("b")),
        draft.add(RefusalAdded("c")),
        draft.add(TextAdded("d")),
    )

    assert isinstance(first, TextContentDelta)
    assert isinstance(second, TextContentDelta)
    assert isinstance(fourth, TextContentDelta)
    assert (first.text.annotations, fourth.text.annotations) == ([], [])
    assert not second.text.annotations
    assert (first.index, second.index, fourth.index) == (0, 0, 2)
    assert draft.content() == [
        TextContent(text=Text(value="ab")),
        RefusalContent(refusal="c"),
        TextContent(text=Text(value="d")),
    ]
