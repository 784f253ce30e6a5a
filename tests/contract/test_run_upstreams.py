"""Every kind of bad model server, as the client of a run sees it: streamed and polled."""

import json
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.support.databases import Database
from tests.support.server import RunningServer, serving
from tests.support.stories import FUNCTION, ScriptedModels, Story, Stream, call_ids
from threadkeep.settings import Settings
from threadkeep.upstream import breaker as breakers
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import (
    Call,
    Chunk,
    Cut,
    Entry,
    Finish,
    Hang,
    LineEnds,
    NoDone,
    NoUsage,
    Pause,
    Raw,
    Say,
    Status,
    Step,
    Think,
    Usage,
    Whole,
)

HI = [{"role": "user", "content": "Hi"}]
SOON = {"retry-after-ms": "1"}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory, scripted_models: ScriptedModels) -> Iterator[RunningServer]:
    """A node that waits for a server as long as it must, which is not long here."""
    upstream = UpstreamConfig(
        name="scripted",
        url=scripted_models.url,
        models=("scripted-*",),
        quirks="openai",
        first_byte_timeout_s=3,
        idle_timeout_s=3,
        max_retries=2,
    )
    settings = Settings(data_dir=tmp_path_factory.mktemp("impatient"), upstreams=(upstream,), grace_seconds=0)
    with serving(settings) as server:
        yield server


@pytest.fixture
def told(impatient: RunningServer, scripted_models: ScriptedModels) -> Iterator[Story]:
    with Story(impatient, scripted_models) as story:
        yield story


class Seen(NamedTuple):
    """A run that has ended, as it was told and as it is stored."""

    run: Any
    messages: list[Any]
    stream: Stream


def both(story: Story, *entries: Entry, **assistant: object) -> Seen:
    """The run once streamed, once polled: the outcome must be the same."""
    story.assistant(**assistant)
    story.model.says(*entries, *entries)
    polled = story.run_to_end(story.thread("Hi"))

    thread = story.thread("Hi")
    stream = story.stream_run(thread)

    assert stream.names()[-1] == "done"
    stored = story.get(stream.run_path)
    assert stream.run == stored
    for key in ("status", "incomplete_details", "last_error"):
        assert polled[key] == stored[key], key
    messages = [message for message in story.messages(thread) if message["role"] == "assistant"]
    assert stream.text == "".join(message["content"][0]["text"]["value"] for message in messages)
    # The thread is free.
    story.post(f"{thread}/messages", HI[0])
    return Seen(stored, messages, stream)


# ---------------------------------------------------------------- what makes no difference


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode()


LINES = b'data: {"choices": [{"index": 0,\ndata: "delta": {"content": "Hello"}, "finish_reason": "stop"}]}\n\n'

PASSING: dict[str, list[Entry]] = {
    "429, then an answer": [Status(429, headers=SOON), Say("Hello")],
    "429 with seconds": [Status(429, headers={"retry-after": "1"}), Say("Hello")],
    "500 and 503, then an answer": [Status(500, headers=SOON), Status(503, headers=SOON), Say("Hello")],
    "closed without an answer": [Cut(), Say("Hello")],
    "cut before its first word": [[Think("hm"), Cut()], Say("Hello")],
    "an error instead of the first chunk": [Chunk({"error": {"message": "Busy", "code": 503}}), Say("Hello")],
    "an error for an answer": [Status(200, {"error": {"message": "Busy", "code": 503}}), Say("Hello")],
    "CRLF": [[LineEnds("\r\n"), Say("Hel", "lo")]],
    "CR": [[LineEnds("\r"), Say("Hel", "lo")]],
    "data on several lines": [[Raw(LINES)]],
    "comments": [[Raw(b": ping\n\n"), Say("Hel"), Raw(b":\n\n: ping\n\n"), Say("lo")]],
    "no [DONE]": [[Say("Hello"), NoDone()]],
    "no usage": [[Say("Hello"), NoUsage()]],
    "no finish reason": [[Say("Hello"), Finish(None)]],
    "empty choices": [[Chunk({"choices": []}), Say("Hel"), Chunk({"choices": [], "usage": None}), Say("lo")]],
    "null choices": [[Chunk({"choices": None}), Say("Hello")]],
    "another content type": [Status(200, b"data: " + event({"content": "Hello"}, "stop") + b"\n\n", {}, "text/plain")],
    "an answer in one piece": [Whole("Hello")],
}


@pytest.mark.parametrize("entries", PASSING.values(), ids=PASSING.keys())
def test_what_makes_no_difference(told: Story, entries: list[Entry]) -> None:
    seen = both(told, *entries)

    assert (seen.run["status"], seen.run["last_error"]) == ("completed", None)
    assert [message["content"][0]["text"]["value"] for message in seen.messages] == ["Hello"]
    assert seen.run["usage"]["total_tokens"] > 0


# ---------------------------------------------------------------- what fails ahead of the answer

AGAIN = 3
FAILING: dict[str, tuple[list[Entry], str, str]] = {
    "429 for longer than a run waits": (
        [Status(429, headers={"retry-after": "3600"})],
        "rate_limit_exceeded",
        "try again in 3600 seconds",
    ),
    "429 again and again": ([Status(429, headers=SOON)] * AGAIN, "rate_limit_exceeded", "Rate limit reached for"),
    "an empty account": (
        [Status(429, {"error": {"message": "You exceeded your quota.", "code": "insufficient_quota"}})],
        "rate_limit_exceeded",
        "You exceeded your quota.",
    ),
    "5xx again and again": ([Status(502, headers=SOON)] * AGAIN, "server_error", "answered 502"),
    "501": ([Status(501)], "server_error", "answered 501"),
    "a refusal": ([Status(400, {"error": {"message": "Bad schema."}})], "invalid_prompt", "Bad schema."),
    "silence": ([Hang()], "server_error", "sent no answer within 3 seconds"),
    "silence after the head": ([[Raw(b""), Hang()]], "server_error", "sent no answer within 3 seconds"),
    "closed again and again": ([Cut()] * AGAIN, "server_error", "closed the connection without an answer"),
    "cut before its first word again and again": (
        [[Think("hm"), Cut()]] * AGAIN,
        "server_error",
        "closed the connection before its answer was complete",
    ),
    "nothing": ([Raw(b"data: [DONE]\n\n")], "server_error", "sent an empty answer"),
    "broken JSON": ([Raw(b'data: {"choices": [{"delta"\n\n')], "server_error", "sent something that is not JSON"),
    "a web page": (
        [Status(200, "<html><title>Welcome</title></html>", {}, "text/html")],
        "server_error",
        "sent something that is not JSON: <html>",
    ),
    "a picture": ([Status(200, b"\x89PNG\r\n\x1a\n\0\0\0", {}, "image/png")], "server_error", "sent an empty answer"),
    "an event without end": (
        [Status(200, b"data: " + b"x" * (17 * 1024 * 1024), {}, "text/event-stream")],
        "server_error",
        "sent an event of more than 16,777,216 bytes",
    ),
}


@pytest.mark.parametrize(("entries", "code", "words"), FAILING.values(), ids=FAILING.keys())
def test_what_fails_ahead_of_the_answer(told: Story, entries: list[Entry], code: str, words: str) -> None:
    seen = both(told, *entries)

    assert (seen.run["status"], seen.run["last_error"]["code"]) == ("failed", code)
    assert words in seen.run["last_error"]["message"]
    assert seen.messages == []
    # The script was played to its end, and no further.
    assert len(told.model.requests) == 2 * len(entries)


# ---------------------------------------------------------------- what fails in the midst of the answer

BROKEN: dict[str, tuple[list[Step], str]] = {
    "cut": ([Cut()], "closed the connection before its answer was complete"),
    "silence": ([Hang()], "sent nothing more of its answer within 3 seconds"),
    "broken JSON": ([Raw(b"data: {oops}\n\n")], "sent something that is not JSON: {oops}"),
    "an error": ([Chunk({"error": {"message": "Overloaded.", "code": 529}})], "Overloaded."),
    "the end, too soon": ([Finish(None), NoDone()], "closed the connection before its answer was complete"),
}


@pytest.mark.parametrize(("steps", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_fails_in_the_midst_of_the_answer(told: Story, steps: list[Step], words: str) -> None:
    # The pause: what was said is on its way before the connection is gone.
    seen = both(told, [Say("Hel", "lo"), Pause(0.2), *steps])

    assert (seen.run["status"], seen.run["last_error"]["code"]) == ("failed", "server_error")
    assert words in seen.run["last_error"]["message"]
    [message] = seen.messages
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "run_failed"})
    assert message["content"][0]["text"]["value"] == "Hello"
    assert len(told.model.requests) == 2


def test_a_chunk_of_ten_megabytes_is_an_answer(told: Story) -> None:
    text = "x" * 10_000_000

    seen = both(told, Say(text))

    assert seen.run["status"] == "completed"
    assert seen.messages[0]["content"][0]["text"]["value"] == text


def test_an_answer_of_a_hundred_thousand_pieces_arrives_whole(told: Story) -> None:
    pieces = [str(number % 10) for number in range(100_000)]
    raw = b"".join(b"data: " + event({"content": piece}) + b"\n\n" for piece in pieces)

    seen = both(told, [Raw(raw), Finish("stop")])

    assert seen.run["status"] == "completed"
    assert seen.messages[0]["content"][0]["text"]["value"] == "".join(pieces)


@pytest.mark.parametrize(
    "raw",
    [
        (b"data: " + event({"content": "x" * 1_000_000}) + b"\n\n") * 18,
        (b"data: " + event({"content": "x"}) + b"\n\n") * (256 * 1024 + 1),
    ],
    ids=["in large pieces", "in small pieces"],
)
def test_an_answer_without_end_is_stopped(told: Story, raw: bytes) -> None:
    told.model.says([Raw(raw), Hang()])

    run = told.run_to_end(told.thread("Hi"))

    assert run["status"] == "failed"
    assert "did not end" in run["last_error"]["message"]


# ---------------------------------------------------------------- calls


def test_a_call_of_a_function_that_nobody_named_is_the_clients(told: Story) -> None:
    told.assistant(tools=[FUNCTION])
    told.model.says(Call("fly_to_the_moon", {"when": "now"}), Say("I can't."))

    asked = told.stream_run(told.thread("Fly!"))

    assert asked.run["status"] == "requires_action"
    [call] = asked.run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("fly_to_the_moon", {"when": "now"})
    outputs = dict.fromkeys(call_ids(asked.run), "There is no such function.")
    assert told.stream_outputs(asked.run_path, outputs).text == "I can't."


@pytest.mark.parametrize("arguments", ['{"city": "Os', "Oslo", '{"city": "Oslo"}}', '["Oslo"]'])
def test_arguments_that_are_no_json_object_are_the_clients_as_they_are(told: Story, arguments: str) -> None:
    told.assistant(tools=[FUNCTION])
    told.model.says(Call("get_weather", arguments), Say("Sunny."))
    asked = told.stream_run(told.thread("Weather?"))

    [call] = asked.run["required_action"]["submit_tool_outputs"]["tool_calls"]
    assert call["function"]["arguments"] == arguments
    assert told.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun")).text == "Sunny."


@pytest.mark.parametrize("arguments", ["{}", '{"queries": 7}', '{"queries": ["', "[]"])
def test_a_search_without_a_query_is_the_models_to_correct(told: Story, arguments: str) -> None:
    told.assistant(tools=[{"type": "file_search"}])
    told.model.says(Call("file_search", arguments), Say("Sorry."))

    run = told.run_to_end(told.thread("Look"))

    assert run["status"] == "completed"
    said = told.model.requests[1]["messages"][-1]
    assert (said["role"], said["content"]) == (
        "tool",
        'The call had no query. Send {"queries": ["what to look for"]}.',
    )


def test_a_model_that_calls_tools_for_ever_is_stopped_and_what_it_cost_is_booked(told: Story) -> None:
    told.assistant(tools=[{"type": "file_search"}])
    told.model.says(*[[Call("file_search", {"queries": ["more"]}), Usage(5, 2)]] * 120)

    run = told.run_to_end(told.thread("Look"))

    assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
    assert "called tools 100 times and came to no answer" in run["last_error"]["message"]
    assert len(told.model.requests) == 100
    assert run["usage"]["total_tokens"] == 700


def test_a_model_that_calls_tools_for_ever_is_stopped_by_the_tokens_that_the_run_may_use(told: Story) -> None:
    told.assistant(tools=[{"type": "file_search"}])
    told.model.says(*[[Call("file_search", {"queries": ["more"]}), Usage(5, 100)]] * 20)

    run = told.run_to_end(told.thread("Look"), max_completion_tokens=256)

    assert (run["status"], run["incomplete_details"]) == ("incomplete", {"reason": "max_completion_tokens"})
    assert len(told.model.requests) == 3


def test_more_calls_in_one_answer_than_any_model_makes_are_an_answer_without_end(told: Story) -> None:
    told.assistant(tools=[FUNCTION])
    told.model.says([Call("get_weather", {}, fragments=1)] * 1100)

    run = told.run_to_end(told.thread("Weather?"))

    assert run["status"] == "failed"
    assert "did not end" in run["last_error"]["message"]


# ---------------------------------------------------------------- a server that is away


def test_a_server_that_refuses_connections_is_named_with_its_address(
    tmp_path: Path, scripted_models: ScriptedModels
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    upstream = UpstreamConfig(name="away", url=f"http://127.0.0.1:{port}/v1", max_retries=1)
    settings = Settings(data_dir=tmp_path, upstreams=(upstream,), grace_seconds=0)
    with serving(settings) as server, Story(server, scripted_models) as story:
        run = story.run_to_end(story.thread("Hi"))

    assert (run["status"], run["last_error"]["code"]) == ("failed", "server_error")
    assert (
        f"the upstream 'away' at 127.0.0.1:{port} could not be reached (connection refused)"
        in (run["last_error"]["message"])
    )


def test_a_run_whose_server_wants_to_be_left_alone_for_a_while_is_cancelled_at_once(told: Story) -> None:
    told.model.says(Status(429, headers={"retry-after": "50"}))
    thread = told.thread("Hi")
    run = told.create_run(thread)
    told.model.book.wait_for_requests(1)
    began = time.monotonic()

    told.post(f"{thread}/runs/{run['id']}/cancel")

    assert told.until(f"{thread}/runs/{run['id']}")["status"] == "cancelled"
    assert time.monotonic() - began < 30


def test_a_run_does_not_wait_for_a_server_beyond_its_own_time(tmp_path: Path, scripted_models: ScriptedModels) -> None:
    upstream = UpstreamConfig(name="scripted", url=scripted_models.url)
    settings = Settings(data_dir=tmp_path, upstreams=(upstream,), grace_seconds=0, run_expires_seconds=20)
    with serving(settings) as server, Story(server, scripted_models) as story:
        story.model.says(Status(429, headers={"retry-after": "40"}))

        run = story.run_to_end(story.thread("Hi"))

    assert (run["status"], run["last_error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert "Please try again in 40 seconds." in run["last_error"]["message"]


@contextmanager
def deaf() -> Generator[str, None, None]:
    """The URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def test_a_server_that_is_away_fails_runs_at_once_and_keeps_no_other_from_answering(
    database: Database, scripted_models: ScriptedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakers, "OPENS_AFTER_S", 0.0)
    with deaf() as url:
        settings = Settings(
            data_dir=database.data_dir,
            database_url=database.url,
            grace_seconds=0,
            max_concurrent_runs=8,
            upstreams=(
                UpstreamConfig(name="deaf", url=url, models=("deaf",), first_byte_timeout_s=1, max_retries=0),
                UpstreamConfig(name="well", url=scripted_models.url, models=("scripted-*",), quirks="openai"),
            ),
        )
        with serving(settings) as server, Story(server, scripted_models) as story:
            story.assistant(model="deaf")
            threads = [story.thread("Hi") for _ in range(breakers.OPENS_AFTER)]
            begun = [f"{thread}/runs/{story.create_run(thread)['id']}" for thread in threads]
            for path in begun:
                assert "sent no answer within 1 seconds" in story.until(path)["last_error"]["message"]

            run = story.run_to_end(story.thread("Hi"))

            assert run["last_error"]["code"] == "server_error"
            assert "the server had an error processing your request" in run["last_error"]["message"].lower()
            assert "is left alone for the moment. Please try again in" in run["last_error"]["message"]
            assert run["failed_at"] - run["started_at"] <= 1
            ready = httpx2.get(f"{server.url}/health/ready", trust_env=False)
            part = ready.json()["parts"]["upstreams"]
            assert (ready.status_code, part["status"]) == (200, "off")
            assert part["reason"].startswith("'deaf' has failed for 'deaf' for ")
            metrics = httpx2.get(f"{server.url}/metrics", trust_env=False).text
            assert 'threadkeep_upstream_left_alone{upstream="deaf"} 1\n' in metrics
            assert 'threadkeep_upstream_left_alone{upstream="well"} 0\n' in metrics
            assert 'threadkeep_upstream_attempts_total{upstream="deaf",outcome="silent"} 5\n' in metrics
            assert 'threadkeep_upstream_attempts_total{upstream="deaf",outcome="spared"} 1\n' in metrics
            story.model.says(Say("Hello"))
            story.assistant(model=story.model.name)
            assert story.stream_run(story.thread("Hi")).text == "Hello"
