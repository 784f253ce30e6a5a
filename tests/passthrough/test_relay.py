"""What goes through to an upstream, and what comes back: byte for byte, and without anybody's key."""

import json
import socket
from typing import Any

import httpx2
import openai
import pytest

from tests.passthrough.conftest import IDLE_S, OUR_KEY, Desk
from tests.support.refusals import invalid, refused
from threadkeep.upstream.scripted import Cut, Gate, Hang, Pause, Raw, Received, Say, ScriptedUpstream, Status

CHAT = "/chat/completions"
HI: Any = [{"role": "user", "content": "Hi"}]


def chat(desk: Desk, **fields: object) -> httpx2.Response:
    return desk.http.post(CHAT, json={"model": desk.model.name, "messages": HI, **fields})


def received(desk: Desk) -> Received:
    [request] = desk.model.book.requests
    return request


# There


def test_the_body_goes_through_byte_for_byte(desk: Desk) -> None:
    body = (
        f'{{ "weird":1.10, "messages":[],\n "model" : "{desk.model.name}", "x":"\\u00e4\\u0000", "y":[[]] }}'.encode()
    )
    desk.model.says(Status(200, {}))

    assert desk.http.post(CHAT, content=body).status_code == 200

    assert received(desk).raw == body
    assert received(desk).path == "/v1/chat/completions"


def test_a_model_with_another_name_there_is_renamed_and_nothing_else_is(desk: Desk) -> None:
    desk.models.adopt("renamed", desk.model)
    desk.model.says(Status(200, {}))

    desk.http.post(CHAT, content=b'{"x":1.10,"model":"known-as-a","n": {"b":"\\u00e4",  "a":1e5}}')

    assert received(desk).raw == b'{"x":1.10,"model":"renamed","n":{"b":"\\u00e4",  "a":1e5}}'


def test_the_clients_key_stays_here_and_ours_goes_there(desk: Desk) -> None:
    desk.model.says(Status(200, {}))
    headers = {
        "api-key": "the-clients",
        "x-api-key": "the-clients",
        "cookie": "the-clients",
        "proxy-authorization": "Basic the-clients",
        "openai-organization": "the-clients",
        "x-stainless-lang": "the-clients",
    }

    desk.http.post(CHAT, json={"model": desk.model.name}, headers=headers)

    there = received(desk).headers
    assert there["authorization"] == f"Bearer {OUR_KEY}"
    assert "the-clients" not in str(there)
    assert desk.http.headers["authorization"] not in there.values()


def test_headers_about_the_request_itself_go_along(desk: Desk) -> None:
    desk.model.says(Status(200, {}))
    passed = {
        "idempotency-key": "once",
        "traceparent": "00-ab-cd-01",
        "openai-beta": "x=v1",
        "x-client-request-id": "q",
    }

    desk.http.post(CHAT, json={"model": desk.model.name}, headers=passed)

    assert {name: received(desk).headers[name] for name in passed} == passed


@pytest.mark.parametrize("operation", ["completions", "embeddings", "moderations"])
def test_the_other_operations_go_through_too(desk: Desk, operation: str) -> None:
    desk.model.says(Status(200, {"object": "list", "data": []}))

    answer = desk.http.post(f"/{operation}", json={"model": desk.model.name, "input": "x"})

    assert answer.json() == {"object": "list", "data": []}
    assert received(desk).path == f"/v1/{operation}"


def test_an_upstream_in_azures_form_is_asked_in_its_form(desk: Desk) -> None:
    desk.models.adopt("azure-one", desk.model)
    desk.model.says(Status(200, {}), Status(200, {}))

    desk.http.post(CHAT, json={"model": "azure-one"})
    desk.http.post("/embeddings", json={"model": "azure-one"})

    first, second = desk.model.book.requests
    assert first.path == "/v1/openai/deployments/azure-one/chat/completions"
    assert second.path == "/v1/openai/deployments/azure-one/embeddings"
    assert "api-version" in first.query
    assert first.headers["api-key"] == OUR_KEY
    assert "authorization" not in first.headers


def test_a_model_is_no_way_to_another_path(desk: Desk) -> None:
    answer = desk.http.post(CHAT, json={"model": "azure-../../admin"})

    assert "not found" in refused(answer, 502)["message"]


# In Azure's form: the path names the model


def test_the_path_names_the_model(desk: Desk) -> None:
    desk.model.says(Status(200, {}), Status(200, {}), Status(200, {}))
    deployment = f"/deployments/{desk.model.name}"

    desk.http.post(f"{deployment}/chat/completions?api-version=2024-10-21", content=b'{"messages":[]}')
    desk.http.post(f"{deployment}/embeddings", json={"model": "whatever", "input": "x"})
    desk.http.post(f"{deployment}/completions", json={"model": desk.model.name, "prompt": "x"})

    chat, embedding, completion = desk.model.book.requests
    assert chat.raw == b'{"messages":[],"model":"%s"}' % desk.model.name.encode()
    assert embedding.body == {"model": desk.model.name, "input": "x"}
    assert (chat.path, embedding.path) == ("/v1/chat/completions", "/v1/embeddings")
    assert completion.path == "/v1/completions"


# Back


def test_a_whole_answer_comes_back_byte_for_byte(desk: Desk) -> None:
    body = '{ "id" : "x",\n "n":1.10}'
    headers = {
        "x-ratelimit-remaining-requests": "7",
        "x-ratelimit-reset-tokens": "6m0s",
        "set-cookie": "secret=1",
        "openai-processing-ms": "123456",
        "x-request-id": "theirs",
        "server": "theirs",
    }
    desk.model.says(Status(200, body, headers=headers, content_type="application/json; charset=utf-8"))

    answer = chat(desk)

    assert answer.text == body
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["content-length"] == str(len(body))
    assert answer.headers["x-ratelimit-remaining-requests"] == "7"
    assert answer.headers["x-ratelimit-reset-tokens"] == "6m0s"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-processing-ms"] != "123456"
    assert not {"set-cookie", "server"} & set(answer.headers)


def test_a_stream_comes_back_byte_for_byte(desk: Desk) -> None:
    pieces = [b": ping\r\n\r\n", b'data: {"a":\xff}\n', b"\n", b"data: [DONE]\n\n"]
    desk.model.says([*map(Raw, pieces[:-1])])

    with desk.http.stream("POST", CHAT, json={"model": desk.model.name, "stream": True}) as answer:
        got = answer.read()

    direct = ScriptedUpstream([[*map(Raw, pieces[:-1])]])
    with direct:
        assert got.startswith(b"".join(pieces[:-1]))
        expected = httpx2.post(f"{direct.url}{CHAT}", json={"model": desk.model.name}).content
    assert _without_times(got) == _without_times(expected)
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"


def _without_times(stream: bytes) -> list[bytes]:
    return [line for line in stream.split(b"\n") if b'"created"' not in line]


def test_a_piece_is_passed_on_when_it_comes(desk: Desk) -> None:
    gate = Gate()
    desk.model.says([Say("a"), gate, Say("b")])

    with desk.http.stream("POST", CHAT, json={"model": desk.model.name, "stream": True}) as answer:
        lines = answer.iter_lines()
        assert '"content": "a"' in next(lines)
        assert not received(desk).has_ended
        gate.release()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_the_sdk_streams_through_it(desk: Desk) -> None:
    desk.model.says([Say("Hel", "lo")])
    sdk = openai.OpenAI(base_url=desk.server.base_url, api_key=desk.server.new_key(), max_retries=0)

    with sdk, sdk.chat.completions.stream(model=desk.model.name, messages=HI) as stream:
        completion = stream.get_final_completion()

    assert completion.choices[0].message.content == "Hello"


# Clients that leave


def test_a_client_that_leaves_ends_the_request_at_the_upstream(desk: Desk) -> None:
    desk.model.says([Say("a"), Gate(), Say("b")])

    with desk.http.stream("POST", CHAT, json={"model": desk.model.name, "stream": True}) as answer:
        next(answer.iter_lines())

    received(desk).wait_ended()
    assert received(desk).aborted


def test_a_client_that_leaves_before_the_first_byte_does_too(desk: Desk) -> None:
    desk.model.says(Hang())
    body = json.dumps({"model": desk.model.name}).encode()
    head = f"POST /v1{CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: {desk.http.headers['authorization']}\r\n"

    with socket.create_connection(("127.0.0.1", desk.server.port)) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        desk.model.book.wait_for_requests(1)

    received(desk).wait_ended()
    assert received(desk).aborted


# Upstreams that fail


def test_an_upstream_that_is_away(desk: Desk) -> None:
    error = refused(desk.http.post(CHAT, json={"model": "away-x"}), 502)

    assert error["type"] == "server_error"
    assert "could not be reached" in error["message"]


@pytest.mark.parametrize("script", [[Cut()], [Raw(b""), Cut()]], ids=["at once", "after the head"])
def test_an_upstream_that_hangs_up_before_it_answers(desk: Desk, script: Any) -> None:
    desk.model.says(script, script)

    refused(chat(desk), 502)


def test_an_upstream_that_does_not_answer_in_time(desk: Desk) -> None:
    desk.models.adopt("hasty-a", desk.model)
    desk.model.says(Hang())

    assert "sent no answer within" in refused(desk.http.post(CHAT, json={"model": "hasty-a"}), 502)["message"]
    received(desk).wait_ended()


@pytest.mark.parametrize("end", [Cut(), Hang()], ids=["cut", "silence"])
def test_an_answer_that_breaks_off_is_seen_to_be_broken(desk: Desk, end: Cut | Hang) -> None:
    desk.models.adopt("hasty-b", desk.model)
    desk.model.says([Say("a"), end])

    with desk.http.stream("POST", CHAT, json={"model": "hasty-b"}) as answer, pytest.raises(httpx2.RemoteProtocolError):
        answer.read()


def test_a_slow_stream_is_no_silence(desk: Desk) -> None:
    desk.models.adopt("hasty-c", desk.model)
    desk.model.says([step for _ in range(4) for step in (Say("a"), Pause(IDLE_S / 2))])

    assert desk.http.post(CHAT, json={"model": "hasty-c"}).text.endswith("data: [DONE]\n\n")


def test_a_refusal_in_the_envelope_comes_back_as_it_is(desk: Desk) -> None:
    body = '{"error" : {"message":"Slow down", "type":"tokens","param":null,"code":"rate_limit_exceeded"}}'
    headers = {"retry-after": "7", "x-ratelimit-reset-requests": "1s", "x-should-retry": "false"}
    desk.model.says(Status(429, body, headers=headers))

    answer = chat(desk)

    assert (answer.status_code, answer.text) == (429, body)
    assert {name: answer.headers[name] for name in headers} == headers


def test_a_refusal_in_another_form_gets_the_envelope(desk: Desk) -> None:
    desk.model.says(
        Status(422, {"detail": "no such field"}),
        Status(503, "<html><title>Bad day</title></html>", content_type="text/html"),
        Status(404, {"detail": "Not Found"}),
    )

    assert refused(chat(desk), 422) == invalid("no such field")
    assert refused(chat(desk), 503)["message"] == "Bad day"
    lacking = refused(desk.http.post("/moderations", json={"model": desk.model.name}), 404)
    assert "does not answer /moderations" in lacking["message"]


def test_a_refusal_does_not_tell_our_key(desk: Desk) -> None:
    desk.model.says(
        Status(400, {"error": {"message": f"bad key {OUR_KEY}"}}),
        Status(500, f"bad key {OUR_KEY}"),
        Status(401, {"error": {"message": f"Incorrect API key provided: {OUR_KEY}"}}),
    )

    answers = [chat(desk), chat(desk), chat(desk)]

    assert all(OUR_KEY not in answer.text for answer in answers)
    # The client's own key is good: 401 would send it looking in the wrong place.
    assert [answer.status_code for answer in answers] == [400, 500, 502]


def test_a_redirect_is_not_followed(desk: Desk) -> None:
    desk.model.says(Status(307, {}, headers={"location": "http://127.0.0.1:9/elsewhere"}))

    answer = chat(desk)

    assert "redirect" in refused(answer, 502)["message"]
    assert "location" not in answer.headers


# Requests that go nowhere


NO_MODEL = invalid("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")


def wrong_type(found: str) -> object:
    message = f"Invalid type for 'model': expected a string, but got {found} instead."
    return invalid(message, param="model", code="invalid_type")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", NO_MODEL),
        (b'{"messages":[]}', NO_MODEL),
        (b'{"model":7}', wrong_type("an integer")),
        (b'{"model":null}', wrong_type("null")),
    ],
)
def test_a_body_without_a_model_is_refused_in_the_contracts_words(desk: Desk, body: bytes, error: object) -> None:
    assert refused(desk.http.post(CHAT, content=body), 400) == error


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b'{"model":"scripted-x"', b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(desk: Desk, body: bytes) -> None:
    assert refused(desk.http.post(CHAT, content=body), 400)["type"] == "invalid_request_error"


def test_a_model_that_nobody_answers(desk: Desk) -> None:
    error = refused(desk.http.post(CHAT, json={"model": "nobody's"}), 404)

    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_body_over_the_limit_goes_nowhere(desk: Desk) -> None:
    body = json.dumps({"model": desk.model.name, "x": "y" * desk.server.settings.max_request_bytes}).encode()

    refused(desk.http.post(CHAT, content=body), 413)
    assert desk.model.book.requests == []


def test_a_key_is_needed(desk: Desk) -> None:
    refused(httpx2.post(f"{desk.server.base_url}{CHAT}", json={"model": desk.model.name}), 401)
    refused(httpx2.post(f"{desk.server.base_url}/deployments/x/embeddings", json={}), 401)
    assert desk.model.book.requests == []


def test_a_moderation_may_leave_the_model_out(desk: Desk) -> None:
    # None of these upstreams has OpenAI's default model; with OpenAI behind it, it would have gone through.
    assert "omni-moderation-latest" in refused(desk.http.post("/moderations", json={"input": "x"}), 404)["message"]


def test_azures_client_reaches_its_deployments(desk: Desk) -> None:
    embedding = {"object": "embedding", "index": 0, "embedding": [0.5]}
    desk.model.says([Say("Hel", "lo")], Status(200, {"object": "list", "model": "m", "data": [embedding]}))
    azure = openai.AzureOpenAI(
        azure_endpoint=desk.server.url, api_key=desk.server.new_key(), api_version="2024-10-21", max_retries=0
    )

    with azure:
        chunks = list(azure.chat.completions.create(model=desk.model.name, messages=HI, stream=True))
        azure.embeddings.create(model=desk.model.name, input="x")

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert [request.path for request in desk.model.book.requests] == ["/v1/chat/completions", "/v1/embeddings"]
