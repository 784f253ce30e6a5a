"""The client against a server over real HTTP, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import aclosing
from email.utils import formatdate
from typing import Any

import pytest

from tests.upstream.answers import ask, asking, connected
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream.chat import (
    AssistantMessage,
    CalledFunction,
    ChatRequest,
    ChatTool,
    ImagePart,
    ImageUrl,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolFunction,
    ToolMessage,
    UserMessage,
)
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import (
    Call,
    Chunk,
    Cut,
    Entry,
    Finish,
    Gate,
    Hang,
    LineEnds,
    NoDone,
    NoUsage,
    Pause,
    Raw,
    Refuse,
    Say,
    ScriptedUpstream,
    Status,
    Step,
    Think,
    Usage,
    Whole,
)
from threadkeep.upstream.upstreams import Upstreams

SOON = {"retry-after-ms": "1"}
BUSY = Status(503, headers=SOON)


async def failure(scripted: Sequence[Entry], request: ChatRequest | None = None, **settings: Any) -> UpstreamFailed:
    async with ScriptedUpstream(scripted) as server, connected(server, **settings) as upstream:
        with pytest.raises(UpstreamFailed) as failed:
            await ask(upstream, request)
    return failed.value


# ---------------------------------------------------------------- a good answer


async def test_text_arrives_in_pieces_with_usage_and_a_finish_reason() -> None:
    async with ScriptedUpstream([[Say("Hel", "lo"), Usage(7, 2, cached_tokens=3)]]) as server, connected(server) as up:
        answer = await ask(up)
    assert (answer.text, answer.finish, answer.finishes) == ("Hello", "stop", 1)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 2)


async def test_a_piece_is_handed_on_before_the_next_one_exists() -> None:
    gate = Gate()
    async with (
        ScriptedUpstream([[Say("first"), gate, Say("second")]]) as server,
        connected(server) as up,
        aclosing(up.stream(asking())) as stream,
    ):
        chunks = await anext(stream)
        assert chunks[0].choices[0].delta.content == "first"
        gate.release()
        assert [c async for c in stream]


async def test_the_request_says_what_was_asked_and_nothing_else() -> None:
    request = ChatRequest(
        model="m",
        messages=[
            SystemMessage("Be brief."),
            UserMessage("Hi"),
            AssistantMessage(None, [ToolCall("call_1", CalledFunction("f", "{}"))]),
            ToolMessage("call_1", "42"),
            UserMessage([TextPart("What is this?"), ImagePart(ImageUrl("data:image/png;base64,AA=="))]),
        ],
        tools=[ChatTool(ToolFunction(name="f", parameters={"type": "object"}))],
        tool_choice="auto",
        max_completion_tokens=99,
        temperature=0.0,
    )
    async with ScriptedUpstream([Say("ok")]) as server, connected(server) as up:
        await ask(up, request)
    assert server.requests[0].body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "id": "call_1", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                ],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "temperature": 0.0,
        "max_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_the_key_goes_into_the_header() -> None:
    settings = {"api_key": "sk-1", "extra_headers": {"X-Team": "blue"}}
    async with ScriptedUpstream([Say("ok")]) as server, connected(server, **settings) as up:
        await ask(up)
    assert server.requests[0].headers["authorization"] == "Bearer sk-1"
    assert server.requests[0].headers["x-team"] == "blue"


async def test_the_models_name_there_is_sent() -> None:
    renames = {"gpt-4*": "llama3.1:8b"}
    async with ScriptedUpstream([Say("ok")]) as server, connected(server, model_rename=renames) as up:
        await ask(up, asking(model="gpt-4o"))
    assert server.requests[0].body["model"] == "llama3.1:8b"


async def test_connections_are_used_again() -> None:
    async with ScriptedUpstream([Say("a"), Status(400, "no"), Whole("b"), Say("c")]) as server, connected(server) as up:
        await ask(up)
        with pytest.raises(UpstreamFailed):
            await ask(up)
        await ask(up)
        await ask(up)
        assert server.connections == 1


async def test_many_answers_at_once_stay_apart() -> None:
    def echo(request: Any) -> Say:
        return Say(*request.body["messages"][0]["content"])

    async with ScriptedUpstream([echo], repeat=True) as server, connected(server) as up:
        answers = await asyncio.gather(*(ask(up, asking(f"text number {n} " * 20)) for n in range(64)))
    assert [a.text for a in answers] == [f"text number {n} " * 20 for n in range(64)]


# ---------------------------------------------------------------- odd but understood


@pytest.mark.parametrize(
    "steps",
    [
        [LineEnds("\r\n"), Say("a", "b")],
        [LineEnds("\r"), Say("a", "b")],
        [Raw(b": OPENROUTER PROCESSING\n\n"), Say("a"), Raw(b": ping\n\n"), Say("b")],
        [Say("a", "b"), NoDone()],
        [Say("a", "b"), NoUsage()],
        [Say("a", "b"), Finish(None)],
        [Raw(b"\xef\xbb\xbf"), Say("a", "b")],
        [Chunk({"id": None, "choices": []}), Say("a"), Chunk({}), Say("b")],
        [
            Say("a"),
            Pause(0.01),
            Raw(b"data: "),
            Pause(0.01),
            Raw(b'{"choices":[{"delta":{"content":"b"}}]}\n'),
            Raw(b"\n"),
        ],
        Whole("ab"),
        Status(
            200, b'data: {"choices":[{"delta":{"content":"ab"},"finish_reason":"stop"}]}\n\n', content_type="text/plain"
        ),
        [Think("why"), Say("a", "b")],
        [Say("<think>why</th", "ink>\n\na", "b")],
    ],
)
async def test_an_unusual_stream_is_understood(steps: Entry) -> None:
    async with ScriptedUpstream([steps]) as server, connected(server) as up:
        answer = await ask(up)
    assert (answer.text, answer.finish, answer.finishes) == ("ab", "stop", 1)


async def test_a_complete_answer_counts_even_when_the_connection_is_cut_right_after_it() -> None:
    done = Raw(b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
    async with ScriptedUpstream([[Say("a"), done, Cut()]], repeat=True) as server, connected(server) as up:
        answers = await asyncio.gather(*(ask(up) for _ in range(20)))
    assert {(a.text, a.finish) for a in answers} == {("a", "stop")}


async def test_a_huge_chunk_is_read() -> None:
    text = "x" * 3_000_000
    async with ScriptedUpstream([Say(text)]) as server, connected(server) as up:
        assert (await ask(up)).text == text


async def test_a_refusal_and_a_filtered_answer_are_told() -> None:
    async with (
        ScriptedUpstream([Refuse("no"), [Say("a"), Finish("content_filter")]]) as server,
        connected(server) as up,
    ):
        assert (await ask(up)).refusal == "no"
        assert (await ask(up)).finish == "content_filter"


async def test_missing_usage_is_none() -> None:
    async with ScriptedUpstream([[Say("a"), NoUsage()]]) as server, connected(server) as up:
        assert (await ask(up)).usage is None


@pytest.mark.parametrize(
    "call",
    [
        Call("f", {"a": 1}),
        Call("f", {"a": 1}, fragments=1),
        Call("f", {"a": 1}, index=None),
        Call("f", {"a": 1}, repeats_id=True),
        Call("f", {"a": 1}, as_object=True),
        Call("f", {"a": 1}, id=None),
        Call("f", {"a": 1}, id=None, index=None, fragments=1),
    ],
)
async def test_two_tool_calls_are_two_whatever_their_form(call: Call) -> None:
    async with ScriptedUpstream([[call, call]]) as server, connected(server) as up:
        answer = await ask(up)
    assert [(name, arguments.replace(" ", "")) for _, name, arguments in answer.calls] == [("f", '{"a":1}')] * 2
    assert len({identifier for identifier, _, _ in answer.calls}) == 2
    assert answer.finish == "tool_calls"


async def test_tool_calls_of_an_answer_that_is_not_streamed_are_found() -> None:
    calls = [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    async with ScriptedUpstream([Whole(tool_calls=calls)]) as server, connected(server) as up:
        assert (await ask(up)).calls == [("x", "f", "{}")]


# ---------------------------------------------------------------- tried again


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_a_failure_that_may_pass_is_tried_again(status: int) -> None:
    script = [Status(status, headers=SOON), Status(status, headers=SOON), Say("ok")]
    async with ScriptedUpstream(script) as server, connected(server) as up:
        assert (await ask(up)).text == "ok"
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 501])
async def test_a_failure_that_will_not_pass_is_not_tried_again(status: int) -> None:
    async with ScriptedUpstream([Status(status), Say("ok")]) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed):
            await ask(up)
        assert len(server.requests) == 1


async def test_a_connection_closed_before_the_answer_is_tried_again() -> None:
    async with ScriptedUpstream([Cut(), Cut(), Say("ok")]) as server, connected(server) as up:
        assert (await ask(up)).text == "ok"


async def test_a_kept_connection_that_the_server_closed_is_replaced_at_once() -> None:
    async with ScriptedUpstream([Say("a"), Cut(), Say("b")]) as server, connected(server, max_retries=1) as up:
        await ask(up)
        # The shortest pause between two attempts would end after this.
        assert (await ask(up, deadline=time.monotonic() + 0.24)).text == "b"


async def test_attempts_are_bounded() -> None:
    async with ScriptedUpstream([BUSY], repeat=True) as server, connected(server, max_retries=2) as up:
        with pytest.raises(UpstreamFailed):
            await ask(up)
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    "unseen",
    [
        [Raw(b": busy\n\n")],
        [Chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})],
        [Think("hm")],
        [Say("<think>hm")],
    ],
)
async def test_an_answer_that_is_cut_before_any_of_it_could_be_shown_is_asked_for_again(unseen: list[Step]) -> None:
    async with ScriptedUpstream([[*unseen, Cut()], [Say("ok")]]) as server, connected(server) as up:
        assert (await ask(up)).text == "ok"


@pytest.mark.parametrize("code", [429, 502])
async def test_an_error_instead_of_the_first_chunk_is_tried_again_if_it_may_pass(code: int) -> None:
    error = Chunk({"error": {"message": "Provider returned error", "code": code}})
    async with ScriptedUpstream([error, Say("ok")]) as server, connected(server) as up:
        assert (await ask(up)).text == "ok"


@pytest.mark.parametrize("code", [401, 404, "invalid_request_error", "insufficient_quota"])
async def test_an_error_instead_of_the_first_chunk_that_will_not_pass_is_not_tried_again(code: int | str) -> None:
    error = Chunk({"error": {"message": "No.", "code": code}})
    async with ScriptedUpstream([error, Say("ok")]) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed):
            await ask(up)
        assert len(server.requests) == 1


async def test_answers_that_are_cut_again_and_again_are_given_up() -> None:
    cut: Entry = [Think("hm"), Cut()]
    async with ScriptedUpstream([cut], repeat=True) as server, connected(server, max_retries=1) as up:
        with pytest.raises(UpstreamFailed, match="before its answer was complete"):
            await ask(up)
        assert len(server.requests) == 2


async def test_an_answer_that_is_cut_behind_its_finish_reason_is_whole() -> None:
    finish = Chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    async with ScriptedUpstream([[Say("a"), finish, Cut()]]) as server, connected(server) as up:
        answer = await ask(up)
    assert (answer.text, answer.finish, answer.finishes) == ("a", "stop", 1)


async def test_nothing_is_tried_again_once_something_was_shown() -> None:
    async with ScriptedUpstream([[Say("a"), Cut()], Say("b")]) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed, match="before its answer was complete"):
            await ask(up)
        assert len(server.requests) == 1


@pytest.mark.parametrize("headers", [{"retry-after": "1"}, {"retry-after-ms": "1000"}])
async def test_retry_after_is_waited_for(headers: dict[str, str]) -> None:
    async with ScriptedUpstream([Status(429, headers=headers), Say("ok")]) as server, connected(server) as up:
        began = time.monotonic()
        await ask(up)
        assert time.monotonic() - began >= 0.95


async def test_retry_after_may_be_a_date() -> None:
    script = [Status(503, headers={"retry-after": formatdate(time.time() + 3, usegmt=True)}), Say("ok")]
    async with ScriptedUpstream(script) as server, connected(server) as up:
        began = time.monotonic()
        await ask(up)
        assert time.monotonic() - began >= 1


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "-3", "", "Wed, 99 Nov 2026 25:00:00 GMT"])
async def test_a_retry_after_that_makes_no_sense_is_none(value: str) -> None:
    script = [Status(503, headers={"retry-after": value, "retry-after-ms": value}), Say("ok")]
    async with ScriptedUpstream(script) as server, connected(server) as up:
        assert (await ask(up)).text == "ok"


async def test_a_wait_beyond_the_total_is_not_begun_and_is_told() -> None:
    failed = await failure([Status(429, headers={"retry-after": "120"})])
    assert failed.code == "rate_limit_exceeded"
    assert "try again in 120 second" in failed.message


async def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    async with ScriptedUpstream([Status(503, headers={"retry-after": "30"})]) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed):
            await ask(up, deadline=time.monotonic() + 5)


async def test_an_empty_account_is_not_tried_again() -> None:
    body = {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    async with ScriptedUpstream([Status(429, body, SOON)], repeat=True) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed) as failed:
            await ask(up)
        assert failed.value.code == "rate_limit_exceeded"
        assert "quota" in failed.value.message
        assert len(server.requests) == 1


# ---------------------------------------------------------------- what a failure is called


async def test_a_rate_limit_is_called_so_with_what_the_server_said() -> None:
    body = {"error": {"message": "Limit 3, Used 3. Please try again in 20s.", "code": "rate_limit_exceeded"}}
    failed = await failure([Status(429, body, SOON)], max_retries=0)
    assert failed.code == "rate_limit_exceeded"
    assert failed.message == "Rate limit reached for m: Limit 3, Used 3. Please try again in 20s."


async def test_a_server_error_has_the_words_that_clients_retry_on() -> None:
    failed = await failure([Status(500, {"error": {"message": "CUDA out of memory"}})], max_retries=0)
    assert failed.code == "server_error"
    assert "The server had an error processing your request" in failed.message
    assert "CUDA out of memory" in failed.message


async def test_a_refused_prompt_is_an_invalid_prompt() -> None:
    failed = await failure([Status(400, {"error": {"message": "Invalid image."}})])
    assert failed.code == "invalid_prompt"
    assert "Invalid image." in failed.message
    assert not failed.context_exceeded


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_name_the_setting_and_not_the_key(status: int) -> None:
    body = {"error": {"message": "Incorrect API key provided: secret-key-123. Bearer secret-key-123"}}
    failed = await failure([Status(status, body)], api_key="secret-key-123")
    assert failed.code == "server_error"
    assert "--upstream-api-key" in failed.message
    assert "secret-key-123" not in failed.message


async def test_an_unknown_model_is_named_with_its_place() -> None:
    failed = await failure([Status(404, {"error": {"message": "model 'm' not found, try pulling it first"}})])
    assert failed.code == "server_error"
    assert "The model 'm' was not found at the upstream 'scripted' at 127.0.0.1:" in failed.message
    assert "try pulling it first" in failed.message


async def test_a_server_that_is_not_there_is_named_with_its_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    upstreams = Upstreams([UpstreamConfig(name="gone", url=f"http://127.0.0.1:{port}/v1", max_retries=0)])
    with pytest.raises(UpstreamFailed) as failed:
        await ask(upstreams.for_model("m"))
    await upstreams.close()
    assert failed.value.code == "server_error"
    assert f"127.0.0.1:{port} could not be reached" in failed.value.message
    assert "The server had an error processing your request" in failed.value.message


async def test_a_server_that_comes_back_between_attempts_is_found() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    upstreams = Upstreams([UpstreamConfig(name="late", url=f"http://127.0.0.1:{port}/v1")])
    asked = asyncio.create_task(ask(upstreams.for_model("m")))
    await asyncio.sleep(0)  # the first attempt finds nobody
    async with ScriptedUpstream([Say("ok")], port=port):
        assert (await asked).text == "ok"
    await upstreams.close()


async def test_a_redirect_is_not_followed() -> None:
    async with ScriptedUpstream([Say("stolen")]) as other:
        failed = await failure([Status(307, "", {"location": f"{other.url}/chat/completions"})])
        assert other.requests == []
    assert failed.code == "server_error"
    assert "redirect" in failed.message


async def test_an_endless_error_body_is_read_up_to_a_limit() -> None:
    async with ScriptedUpstream([Status(400, "word " * 5_000_000)]) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed) as failed:
            await ask(up)
        await server.requests[0].ended()
        assert server.requests[0].aborted
    assert failed.value.code == "invalid_prompt"
    assert len(failed.value.message) < 1000


async def test_a_web_page_instead_of_an_answer_is_a_failure() -> None:
    page = "<html><title>Welcome</title></html>"
    failed = await failure([Status(200, page, content_type="text/html")])
    assert failed.code == "server_error"
    assert "not JSON" in failed.message


async def test_a_proxys_error_page_is_shortened_to_its_title() -> None:
    page = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
    failed = await failure([Status(502, page, content_type="text/html")], max_retries=0)
    assert failed.message.endswith("502: 502 Bad Gateway")


async def test_an_empty_stream_is_a_failure() -> None:
    failed = await failure([[Raw(b"data: [DONE]\n\n"), Finish(None), NoUsage()]])
    assert "empty answer" in failed.message


async def test_broken_json_in_the_stream_is_a_failure() -> None:
    failed = await failure([[Say("a"), Raw(b'data: {"choices": [{]}\n\n'), Say("b")]])
    assert failed.code == "server_error"


async def test_an_event_beyond_all_bounds_is_a_failure() -> None:
    failed = await failure([[Raw(b"data: "), *[Raw(b"x" * 1_000_000)] * 18]])
    assert "more than 16,777,216 bytes" in failed.message


# ---------------------------------------------------------------- clocks


async def test_silence_before_the_first_byte_is_bounded() -> None:
    failed = await failure([Hang()], first_byte_timeout_s=0.3)
    assert failed.code == "server_error"
    assert "no answer within 0.3 seconds" in failed.message


async def test_silence_after_the_head_counts_as_before_the_first_byte() -> None:
    failed = await failure([[Raw(b""), Hang()]], first_byte_timeout_s=0.3)
    assert failed.code == "server_error"


async def test_silence_in_the_midst_of_an_answer_is_bounded() -> None:
    async with ScriptedUpstream([[Say("a"), Hang()]]) as server, connected(server, idle_timeout_s=0.3) as up:
        with pytest.raises(UpstreamFailed, match=r"within 0\.3 seconds"):
            await ask(up)
        await server.requests[0].ended()
        assert server.requests[0].aborted


async def test_an_answer_may_take_longer_than_the_longest_silence() -> None:
    slow = [step for word in "abcdefgh" for step in (Say(word), Pause(0.15))]
    async with ScriptedUpstream([slow]) as server, connected(server, idle_timeout_s=0.6) as up:
        assert (await ask(up)).text == "abcdefgh"


async def test_a_slow_reader_is_not_the_upstreams_silence() -> None:
    second, third = Gate(), Gate()
    async with (
        ScriptedUpstream([[Say("a"), second, Say("b"), third, Say("c")]]) as server,
        connected(server, idle_timeout_s=0.3) as up,
        aclosing(up.stream(asking())) as stream,
    ):
        await anext(stream)
        second.release()
        await anext(stream)
        await asyncio.sleep(0.8)
        third.release()
        assert (await anext(stream))[0].choices[0].delta.content == "c"


# ---------------------------------------------------------------- leaving


async def test_closing_the_iterator_ends_the_request_at_once() -> None:
    async with ScriptedUpstream([[Say("a"), Hang()]]) as server, connected(server) as up:
        async with aclosing(up.stream(asking())) as stream:
            await anext(stream)
        await server.requests[0].ended()
        assert server.requests[0].aborted


@pytest.mark.parametrize("steps", [[Hang()], [Say("a"), Hang()]])
async def test_cancelling_who_waits_ends_the_request_at_once(steps: Entry) -> None:
    async with ScriptedUpstream([steps]) as server, connected(server) as up:
        asked = asyncio.create_task(ask(up))
        await server.received(1)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await server.requests[0].ended()
        assert server.requests[0].aborted


async def test_an_answer_read_to_its_end_is_not_aborted() -> None:
    async with ScriptedUpstream([Say("a")]) as server, connected(server) as up:
        await ask(up)
        await server.requests[0].ended()
        assert not server.requests[0].aborted
