"""The first minute: with no upstream, the offline model answers chat completions, as the SDK expects them."""

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.support.refusals import refused
from tests.support.server import RunningServer

TOOL: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def sdk(offline_server: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=offline_server.base_url, api_key=offline_server.new_key(), max_retries=0) as sdk:
        yield sdk


def user(text: str) -> Any:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def test_any_model_answers_when_there_is_no_upstream(sdk: openai.OpenAI) -> None:
    completion = sdk.chat.completions.create(model="gpt-4o", messages=user("say: Hello there"))

    assert completion.model == "gpt-4o"
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == "Hello there"
    assert completion.choices[0].message.refusal is None
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 2


def test_it_streams(sdk: openai.OpenAI) -> None:
    chunks = list(sdk.chat.completions.create(model="offline", messages=user("count to 3"), stream=True))

    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "1", " 2", " 3", None]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)


def test_it_reports_usage_when_asked(sdk: openai.OpenAI) -> None:
    chunks = list(
        sdk.chat.completions.create(
            model="offline", messages=user("count to 3"), stream=True, stream_options={"include_usage": True}
        )
    )

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


@pytest.mark.parametrize("asked", [None, False])
def test_usage_that_is_not_asked_for_is_not_reported(offline_server: RunningServer, asked: bool | None) -> None:
    options = None if asked is None else {"include_usage": asked}
    body = {"model": "offline", "messages": user("say: x"), "stream": True, "stream_options": options}

    with offline_server.client() as client:
        assert "usage" not in client.post("/chat/completions", json=body).text


def test_the_streams_helper_of_the_sdk_understands_it(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="offline", messages=user('call f {"a": 1}'), tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message

    assert message.tool_calls is not None
    assert message.tool_calls[0].function.arguments == '{"a": 1}'


def test_calls_and_their_results(sdk: openai.OpenAI) -> None:
    asked: Any = user("call f\ncall f")
    first = sdk.chat.completions.create(model="offline", messages=asked, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.tool_calls is not None
    calls = first.message.tool_calls
    assert len({call.id for call in calls}) == 2

    results: Any = [{"role": "tool", "tool_call_id": call.id, "content": f"result {n}"} for n, call in enumerate(calls)]
    answered: Any = [*asked, first.message.model_dump(exclude_none=True), *results]
    second = sdk.chat.completions.create(model="offline", messages=answered, tools=[TOOL])

    assert second.choices[0].message.content == "f answered: result 0\nf answered: result 1"


def test_a_refusal(sdk: openai.OpenAI) -> None:
    message = sdk.chat.completions.create(model="offline", messages=user("refuse: No.")).choices[0].message

    assert (message.content, message.refusal) == (None, "No.")


def test_loosely_written_requests_are_understood(offline_server: RunningServer) -> None:
    body = {
        "model": "offline",
        "messages": [
            {"role": "developer", "name": "x", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "say: Hi"}, {"type": "input_audio", "z": 1}]},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "x"},
            {"role": "user", "content": [{"type": "text", "text": "say: there"}]},
        ],
        "temperature": 7,
        "response_format": {"type": "text"},
        "unknown": [],
        "max_tokens": 5,
    }

    with offline_server.client() as client:
        answer = client.post("/chat/completions", json=body)

    assert answer.json()["choices"][0]["message"]["content"] == "there"


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("fail: rate_limit_exceeded Slow down.", openai.RateLimitError),
        ("fail: invalid_prompt Too long.", openai.BadRequestError),
        ("fail: server_error Oh no.", openai.InternalServerError),
    ],
)
def test_it_fails_when_asked_to(sdk: openai.OpenAI, line: str, failure: type[openai.APIStatusError]) -> None:
    with pytest.raises(failure) as failed:
        sdk.chat.completions.create(model="offline", messages=user(line), stream=True)

    assert failed.value.body is not None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "offline"}, "messages"),
        ({"model": "offline", "messages": []}, "messages"),
        ({"model": "offline", "messages": [{"role": "alien", "content": ""}]}, "messages[0].role"),
    ],
)
def test_what_it_cannot_read_is_refused(offline_server: RunningServer, body: object, param: str) -> None:
    with offline_server.client() as client:
        assert refused(client.post("/chat/completions", json=body), 400)["param"] == param


@pytest.mark.parametrize("operation", ["embeddings", "completions", "moderations"])
def test_what_it_cannot_do_it_says(offline_server: RunningServer, operation: str) -> None:
    with offline_server.client() as client:
        error = refused(client.post(f"/{operation}", json={"model": "m", "input": "x"}), 404)

    assert "--upstream-url" in error["message"]
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_client_may_leave_it(offline_server: RunningServer) -> None:
    body = {"model": "offline-slow", "messages": user("count to 1000"), "stream": True}

    with offline_server.client() as client:
        with client.stream("POST", "/chat/completions", json=body) as answer:
            assert next(answer.iter_lines())
        # The server goes on as if nothing had been.
        assert client.get("/models").status_code == 200


def test_in_azures_form_too(offline_server: RunningServer) -> None:
    with offline_server.client() as client:
        answer: httpx2.Response = client.post(
            "/deployments/gpt-4o/chat/completions", json={"messages": user("say: Hi")}, params={"api-version": "x"}
        )

    assert answer.json()["choices"][0]["message"]["content"] == "Hi"
