"""Chunks as servers write them, and what a consumer is handed."""

import json
from typing import Any

import pytest

from tests.upstream.answers import Answer, gather
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream.answer import AnswerReader
from threadkeep.upstream.failures import Place

PLACE = Place("local", "127.0.0.1:11434", "llama", frozenset({"topsecret"}))


def event(**chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(finish: Any = None, **fields: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": fields, "finish_reason": finish}])


def call(name: str | None = None, arguments: Any = None, **fields: Any) -> bytes:
    function = {k: v for k, v in {"name": name, "arguments": arguments}.items() if v is not None}
    return delta(tool_calls=[{**fields, "type": "function", "function": function}])


STOP = delta("stop")
DONE = b"data: [DONE]\n\n"


def read(*events: bytes, taken_ids: tuple[str, ...] = ()) -> Answer:
    answer = AnswerReader(PLACE, taken_ids=taken_ids)
    reads = [answer.take(e) for e in events]
    if answer.failure is not None:
        raise answer.failure
    return gather([*reads, answer.end()])


# ---------------------------------------------------------------- oddities


@pytest.mark.parametrize(
    "odd",
    [
        event(choices=[{"delta": {"content": "a"}, "index": None, "finish_reason": ""}]),
        event(choices=[{"delta": {"content": "a", "role": "assistant", "audio": {}, "tool_calls": None}}], more=[1]),
        event(choices=[{"delta": {"content": [{"type": "text", "text": "a"}]}}]),
        event(choices=[{"delta": {"content": "a", "refusal": False, "tool_calls": []}}]),
        event(choices=[{"text": "a"}]),
        event(id=None, choices=[{"message": {"content": "a"}}]),
        event(usage={"prompt_tokens": None}, choices=[{"delta": {"content": "a"}}]),
        b'data: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
        b'event: completion\nid: 3\ndata: {"choices":\ndata: [{"delta":{"content":"a"}}]}\n\n',
    ],
)
def test_a_loosely_written_chunk_is_understood(odd: bytes) -> None:
    assert read(odd, STOP, DONE).text == "a"


@pytest.mark.parametrize(
    "silent", [event(), event(choices=None), event(choices=[]), event(choices=[{}]), b"data: \n\n"]
)
def test_a_chunk_that_says_nothing_is_passed_over(silent: bytes) -> None:
    answer = read(silent, delta(content="a"), silent, STOP, DONE)
    assert (answer.text, answer.finish, answer.finishes) == ("a", "stop", 1)


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("end_turn", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("model_length", "length"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
    ],
)
def test_every_finish_reason_becomes_one_of_four(reason: str, meaning: str) -> None:
    assert read(delta(content="a"), delta(reason), DONE).finish == meaning


def test_only_the_first_choice_is_answered() -> None:
    both = [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]
    second = event(choices=[{"index": 1, "delta": {"content": "b"}}])
    assert read(event(choices=both), second, STOP, DONE).text == "a"


def test_a_finish_reason_that_is_repeated_counts_once() -> None:
    assert read(delta(content="a"), STOP, STOP, DONE).finishes == 1


def test_done_without_a_finish_reason_is_a_normal_end() -> None:
    answer = read(delta(content="a"), DONE)
    assert (answer.finish, answer.finishes) == ("stop", 1)


def test_a_finish_reason_without_done_is_a_normal_end() -> None:
    assert read(delta(content="a"), STOP).finish == "stop"


def test_nothing_after_done_counts() -> None:
    assert read(delta(content="a"), STOP, DONE + delta(content="b")).text == "a"


def test_usage_is_read_with_its_details() -> None:
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    found = read(delta(content="a"), STOP, event(choices=[], usage=usage), DONE).usage
    assert found is not None
    assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (9, 4, 13)
    assert found.prompt_tokens_details is not None
    assert found.prompt_tokens_details.cached_tokens == 3
    assert found.completion_tokens_details is not None
    assert found.completion_tokens_details.reasoning_tokens == 2


def test_usage_in_groqs_own_place_is_found() -> None:
    end = event(choices=[{"delta": {}, "finish_reason": "stop"}], x_groq={"usage": {"prompt_tokens": 5}})
    usage = read(delta(content="a"), end, DONE).usage
    assert usage is not None
    assert usage.prompt_tokens == 5


def test_missing_usage_stays_missing() -> None:
    assert read(delta(content="a"), STOP, DONE).usage is None


def test_a_refusal_is_not_text() -> None:
    answer = read(delta(refusal="I "), delta(refusal="can't"), STOP, DONE)
    assert (answer.text, answer.refusal) == ("", "I can't")


# ---------------------------------------------------------------- thoughts


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_beside_the_text_are_not_text(name: str) -> None:
    answer = read(delta(**{name: "hmm"}), delta(content="yes"), STOP, DONE)
    assert (answer.text, answer.thoughts) == ("yes", "hmm")


def test_thoughts_in_tags_at_the_beginning_are_not_text_however_they_are_cut() -> None:
    whole = "\n<think>Is 2 < 3? </thin no</think>\n\nYes, <think> is a tag."
    for size in (1, 2, 3, 5, 8, 100):
        pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
        answer = read(*(delta(content=p) for p in pieces), STOP, DONE)
        assert answer.thoughts == "Is 2 < 3? </thin no", size
        assert answer.text == "Yes, <think> is a tag.", size


@pytest.mark.parametrize("text", ["<", "<thin", " <b>bold</b>", "a <think>b</think>", "\n", "<<think>"])
def test_text_that_only_looks_like_thoughts_is_text(text: str) -> None:
    assert read(*(delta(content=c) for c in text), STOP, DONE).text == text


# ---------------------------------------------------------------- tool calls


def test_a_call_in_fragments_keeps_its_id_and_name_once() -> None:
    answer = read(
        call("f", "", id="call_1", index=0),
        call(None, '{"a"', index=0),
        call(None, ":1}", index=0),
        delta("tool_calls"),
    )
    assert answer.calls == [("call_1", "f", '{"a":1}')]
    assert answer.finish == "tool_calls"


def test_parallel_calls_may_be_interleaved() -> None:
    answer = read(
        call("f", "{", id="a", index=0),
        call("g", "{", id="b", index=1),
        call(None, "}", index=0),
        call(None, "}", index=1),
        delta("tool_calls"),
    )
    assert answer.calls == [("a", "f", "{}"), ("b", "g", "{}")]


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids() -> None:
    answer = read(call("f", '{"a":1}', id="x", index=0), call("f", '{"a":2}', id="y", index=0), delta("tool_calls"))
    assert answer.calls == [("x", "f", '{"a":1}'), ("y", "f", '{"a":2}')]


def test_calls_without_arguments_that_all_have_index_0_are_told_apart() -> None:
    assert read(call("f", "", id="x", index=0), call("g", "", id="y", index=0), STOP).calls == [
        ("x", "f", "{}"),
        ("y", "g", "{}"),
    ]


def test_calls_that_all_have_index_0_and_no_ids_are_told_apart_when_the_first_is_whole() -> None:
    answer = read(call("f", '{"a":1}', index=0), call("f", '{"a":2}', index=0), delta("stop"))
    assert [(name, arguments) for _, name, arguments in answer.calls] == [("f", '{"a":1}'), ("f", '{"a":2}')]


def test_calls_without_an_index_are_numbered() -> None:
    both = [
        {"id": "x", "function": {"name": "f", "arguments": "{}"}},
        {"id": "y", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert read(delta(tool_calls=both), delta("tool_calls")).calls == [("x", "f", "{}"), ("y", "g", "{}")]


def test_fragments_without_an_index_go_to_the_last_call() -> None:
    answer = read(call("f", '{"a":', id="x"), call(None, "1}"), call("g", "{}", id="y"), delta("tool_calls"))
    assert answer.calls == [("x", "f", '{"a":1}'), ("y", "g", "{}")]


def test_a_name_that_comes_after_the_id_or_after_arguments_loses_nothing() -> None:
    late = [call(None, id="x", index=0), call("f", '{"a"', index=0), call(None, ":1}", index=0)]
    later = [call("", '{"a"', id="x"), call("f", ":1}")]
    crossed = [
        call(None, '{"a"', id="x", index=0),
        call("g", "{}", id="y", index=1),
        call("f", ":1", index=0),
        call(None, "}", index=0),
    ]

    assert read(*late, STOP).calls == [("x", "f", '{"a":1}')]
    assert read(*later, STOP).calls == [("x", "f", '{"a":1}')]
    assert read(*crossed, STOP).calls == [("y", "g", "{}"), ("x", "f", '{"a":1}')]


def test_a_call_that_never_gets_a_name_is_none() -> None:
    answer = read(delta(content="Well"), call(None, "{}", id="x", index=0), delta("tool_calls"))

    assert (answer.calls, answer.finish) == ([], "stop")


def test_an_id_and_a_name_on_every_fragment_make_one_call() -> None:
    answer = read(
        call("f", '{"a"', id="x", index=0), call("f", ":1", id="x", index=0), call("f", "}", id="x", index=0), STOP
    )
    assert answer.calls == [("x", "f", '{"a":1}')]


def test_a_fresh_id_on_every_fragment_makes_one_call() -> None:
    answer = read(
        call("f", "{", id="x1", index=0), call(None, '"a":1', id="x2", index=0), call("", "}", id="x3", index=0), STOP
    )
    assert answer.calls == [("x1", "f", '{"a":1}')]


@pytest.mark.parametrize("identifier", [{}, {"id": None}, {"id": ""}])
def test_calls_without_ids_get_some(identifier: dict[str, Any]) -> None:
    answer = read(call("f", "{}", index=0, **identifier), call("g", "{}", index=1, **identifier), delta("tool_calls"))
    first, second = (c[0] for c in answer.calls)
    assert first.startswith("call_")
    assert first != second


def test_an_id_that_the_conversation_has_used_is_replaced() -> None:
    answer = read(call("f", "{}", id="call_0", index=0), delta("tool_calls"), taken_ids=("call_0",))
    assert answer.calls[0][0] != "call_0"


def test_arguments_as_an_object_become_text() -> None:
    answer = read(call("f", {"a": [1, None]}, id="x", index=0), delta("tool_calls"))
    assert json.loads(answer.calls[0][2]) == {"a": [1, None]}


def test_a_call_without_arguments_has_an_empty_object() -> None:
    assert read(call("f", id="x", index=0), delta("tool_calls")).calls == [("x", "f", "{}")]


def test_stop_after_a_call_means_tool_calls() -> None:
    assert read(call("f", "{}", id="x", index=0), STOP).finish == "tool_calls"


def test_length_after_a_call_stays_length() -> None:
    assert read(call("f", '{"a', id="x", index=0), delta("length")).finish == "length"


def test_the_older_function_call_is_a_tool_call() -> None:
    whole = json.dumps(
        {
            "choices": [
                {"message": {"function_call": {"name": "f", "arguments": "{}"}}, "finish_reason": "function_call"}
            ]
        }
    )
    answer = gather([AnswerReader(PLACE).take_whole(whole.encode())])
    assert [(name, arguments) for _, name, arguments in answer.calls] == [("f", "{}")]
    assert answer.finish == "tool_calls"


# ---------------------------------------------------------------- failures in the stream


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (event(error={"message": "boom", "type": "server_error"}), "server_error", "boom"),
        (event(error="boom"), "server_error", "boom"),
        (event(object="error", message="boom", code=400, type="BadRequestError"), "invalid_prompt", "boom"),
        (event(error={"message": "slow down", "code": 429}), "rate_limit_exceeded", "slow down"),
        (event(error={"message": "x", "code": "rate_limit_exceeded"}), "rate_limit_exceeded", "Rate limit"),
        (event(error={"message": "x"}, choices=[{"delta": {}, "finish_reason": "error"}]), "server_error", "x"),
        (b"data: {broken\n\n", "server_error", "not JSON"),
        (b"data: [1, 2]\n\n", "server_error", "JSON object"),
        (b'error: {"code":500,"message":"boom"}\n\n', "server_error", "boom"),
        (event(error={"message": "your key topsecret is bad"}), "server_error", "your key ***"),
    ],
)
def test_an_error_in_the_stream_ends_it(body: bytes, code: str, words: str) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        read(delta(content="a"), body, STOP, DONE)
    assert failed.value.code == code
    assert words in failed.value.message
    assert "topsecret" not in failed.value.message


def test_what_came_before_an_error_in_the_same_read_is_handed_on() -> None:
    answer = AnswerReader(PLACE)
    chunks = answer.take(delta(content="a") + event(error="boom"))
    assert gather([chunks]).text == "a"
    assert answer.failure is not None


def test_an_answer_that_is_cut_is_a_failure() -> None:
    with pytest.raises(UpstreamFailed, match="before its answer was complete"):
        read(delta(content="a"))


def test_an_answer_cut_within_a_chunk_is_a_failure() -> None:
    with pytest.raises(UpstreamFailed, match="before its answer was complete"):
        read(delta(content="a"), STOP[:40])


def test_an_answer_without_any_choice_is_a_failure() -> None:
    with pytest.raises(UpstreamFailed, match="empty answer"):
        read(DONE)
