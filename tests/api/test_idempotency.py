# pyright: reportDeprecated=false
"""`Idempotency-Key`: a request that is made again is carried out once, and answered as it was the first time."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from tests.support.refusals import refused
from tests.support.server import RunningServer
from tests.support.stories import FUNCTION, Story, call_ids
from threadkeep.contract.threads import Thread
from threadkeep.storage import Once, do_once
from threadkeep.storage.outcomes import KEPT_S, OUTCOME
from threadkeep.upstream.scripted import Call, Gate, Say

KEY = {"idempotency-key": "stainless-python-retry-3f0e0c5a"}


def threads(client: httpx2.Client) -> list[Any]:
    return client.get("/threads").json()["data"]


# Once


def test_a_request_that_is_made_again_is_answered_as_before(client: httpx2.Client) -> None:
    body = {"metadata": {"a": "b"}, "messages": [{"role": "user", "content": "Hi"}]}

    first = client.post("/threads", json=body, headers=KEY)
    second = client.post("/threads", json=body, headers=KEY)

    assert (second.status_code, second.content) == (first.status_code, first.content) == (200, first.content)
    assert len(threads(client)) == 1


def test_without_a_key_it_is_another_request(client: httpx2.Client) -> None:
    for headers in ({}, {"idempotency-key": ""}):
        assert client.post("/threads", headers=headers).json() != client.post("/threads", headers=headers).json()


def test_the_answer_is_that_of_the_first_time_whatever_happened_since(client: httpx2.Client) -> None:
    first = client.post("/threads", json={"metadata": {"a": "1"}}, headers=KEY).json()
    client.post(f"/threads/{first['id']}", json={"metadata": {"a": "2"}})

    assert client.post("/threads", json={"metadata": {"a": "1"}}, headers=KEY).json() == first

    client.delete(f"/threads/{first['id']}")
    assert client.post("/threads", json={"metadata": {"a": "1"}}, headers=KEY).json() == first
    assert threads(client) == []


def test_many_at_once_are_carried_out_once(client: httpx2.Client) -> None:
    def post(_: int) -> httpx2.Response:
        return client.post("/threads", json={}, headers=KEY)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(24)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(threads(client)) == 1


# Not this one


def test_a_key_is_for_one_request(client: httpx2.Client) -> None:
    thread = client.post("/threads", json={"metadata": {"a": "1"}}, headers=KEY).json()["id"]

    others = [
        client.post("/threads", json={"metadata": {"a": "2"}}, headers=KEY),
        client.post(f"/threads/{thread}", json={"metadata": {"a": "1"}}, headers=KEY),
        client.post("/threads", json={"metadata": {"a": "1"}}, headers=KEY | {"openai-beta": "assistants=v1"}),
    ]

    for other in others:
        error = refused(other, 400)
        assert (error["type"], error["code"]) == ("invalid_request_error", "idempotency_key_reused")
    assert client.get(f"/threads/{thread}").json()["metadata"] == {"a": "1"}


def test_projects_have_keys_of_their_own(server: RunningServer) -> None:
    with server.client() as one, server.client() as other:
        assert one.post("/threads", headers=KEY).json()["id"] != other.post("/threads", headers=KEY).json()["id"]


def test_a_request_that_failed_may_be_made_again(client: httpx2.Client) -> None:
    thread = client.post("/threads").json()["id"]
    path, body = f"/threads/{thread}/messages", {"role": "user", "content": "Hi"}
    client.delete(f"/threads/{thread}")
    refused(client.post(path, json=body, headers=KEY), 404)

    # As for any other request, then: it is free.
    assert client.post("/threads", headers=KEY).status_code == 200


def test_a_key_has_its_limit(client: httpx2.Client) -> None:
    assert client.post("/threads", headers={"idempotency-key": "k" * 255}).status_code == 200
    refused(client.post("/threads", headers={"idempotency-key": "k" * 256}), 400)


# Every operation


Prepare = Callable[[Story], tuple[str, dict[str, Any]]]


def in_thread(path: str, body: dict[str, Any]) -> Prepare:
    return lambda story: (story.thread("Hi") + path, body)


OPERATIONS: dict[str, Prepare] = {
    "createAssistant": lambda story: ("/assistants", {"model": "m"}),
    "modifyAssistant": lambda story: (f"/assistants/{story.assistant()}", {"name": "x"}),
    "createThread": lambda story: ("/threads", {}),
    "modifyThread": in_thread("", {"metadata": {"a": "b"}}),
    "createMessage": in_thread("/messages", {"role": "user", "content": "x"}),
    "modifyMessage": lambda story: (_message(story), {"metadata": {"a": "b"}}),
    "createRun": lambda story: (f"{story.thread('Hi')}/runs", {"assistant_id": story.assistant()}),
    "createThreadAndRun": lambda story: ("/threads/runs", {"assistant_id": story.assistant()}),
}


def _message(story: Story) -> str:
    thread = story.thread("Hi")
    return f"{thread}/messages/{story.get(f'{thread}/messages')['first_id']}"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_keeps_its_word(story: Story, operation: str) -> None:
    story.model.says([Say("Hello")])
    path, body = OPERATIONS[operation](story)

    first = story.http.post(path, json=body, headers=KEY)
    second = story.http.post(path, json=body, headers=KEY)

    assert first.status_code == 200, first.text
    assert second.content == first.content


def test_a_run_is_begun_once(story: Story) -> None:
    story.model.says([Say("Hello")])
    thread, body = story.thread("Hi"), {"assistant_id": story.assistant()}

    first = story.http.post(f"{thread}/runs", json=body, headers=KEY).json()
    story.until(f"{thread}/runs/{first['id']}", "completed")
    again = story.http.post(f"{thread}/runs", json=body, headers=KEY).json()

    assert again == first
    assert again["status"] == "queued"
    assert len(story.get(f"{thread}/runs")["data"]) == len(story.model.requests) == 1


def test_a_run_that_goes_on_refuses_no_repetition_of_its_own_beginning(story: Story) -> None:
    story.model.says([gate := Gate(), Say("Hello")])
    thread, body = story.thread("Hi"), {"assistant_id": story.assistant()}
    first = story.http.post(f"{thread}/runs", json=body, headers=KEY).json()
    gate.wait_reached()

    assert story.http.post(f"{thread}/runs", json=body, headers=KEY).json() == first
    gate.release()
    assert story.until(f"{thread}/runs/{first['id']}")["status"] == "completed"


def test_a_cancel_that_is_made_again(story: Story) -> None:
    story.model.says([gate := Gate(), Say("Hello")])
    thread = story.thread("Hi")
    run = f"{thread}/runs/{story.create_run(thread)['id']}"
    gate.wait_reached()

    first = story.http.post(f"{run}/cancel", headers=KEY)
    story.until(run, "cancelled")

    assert first.json()["status"] == "cancelling"
    assert story.http.post(f"{run}/cancel", headers=KEY).content == first.content
    refused(story.http.post(f"{run}/cancel"), 400)


def test_outputs_that_are_submitted_again(story: Story) -> None:
    story.model.says([Call("get_weather", {"city": "Oslo"})], [Say("Snow.")])
    story.assistant(tools=[FUNCTION])
    thread = story.thread("Hi")
    waiting = story.run_to_end(thread)
    run = f"{thread}/runs/{waiting['id']}"
    body = {"tool_outputs": [{"tool_call_id": call_ids(waiting)[0], "output": "snow"}]}

    first = story.http.post(f"{run}/submit_tool_outputs", json=body, headers=KEY)
    story.until(run, "completed")

    assert first.status_code == 200
    assert story.http.post(f"{run}/submit_tool_outputs", json=body, headers=KEY).content == first.content
    assert len(story.model.requests) == 2


def test_a_stream_has_no_such_promise(story: Story) -> None:
    story.model.says([Say("Hello")], [Say("Hello again")])
    thread, body = story.thread("Hi"), {"assistant_id": story.assistant(), "stream": True}

    for _ in range(2):
        story.http.post(f"{thread}/runs", json=body, headers=KEY)

    assert len(story.model.requests) == 2


def test_an_upload_is_begun_once(client: httpx2.Client) -> None:
    body = {"bytes": 1, "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"}

    first = client.post("/uploads", json=body, headers=KEY)

    assert first.status_code == 200
    assert client.post("/uploads", json=body, headers=KEY).content == first.content


def test_an_upload_is_cancelled_once(client: httpx2.Client) -> None:
    body = {"bytes": 1, "filename": "a.txt", "mime_type": "text/plain", "purpose": "assistants"}
    path = f"/uploads/{client.post('/uploads', json=body).json()['id']}/cancel"

    first = client.post(path, headers=KEY)

    assert first.json()["status"] == "cancelled"
    assert client.post(path, headers=KEY).content == first.content
    refused(client.post(path), 400)


def test_the_first_beta_gets_its_own_form_again(client: httpx2.Client) -> None:
    headers = KEY | {"openai-beta": "assistants=v1"}
    body = {"model": "m", "tools": [{"type": "retrieval"}]}

    first = client.post("/assistants", json=body, headers=headers)

    assert first.json()["file_ids"] == []
    assert client.post("/assistants", json=body, headers=headers).content == first.content


# The SDK


class Forgetful(httpx2.HTTPTransport):
    """Loses the first answer after the server has sent it."""

    lost = 0

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        answer = super().handle_request(request)
        if request.method == "POST" and not self.lost:
            self.lost += 1
            answer.read()
            raise httpx2.ReadTimeout("lost", request=request)
        return answer


@pytest.mark.filterwarnings("ignore:The Assistants API is deprecated")
def test_the_sdks_own_retries_are_covered_by_a_key_of_the_callers(server: RunningServer) -> None:
    key = server.new_key()
    http = httpx2.Client(transport=Forgetful())
    with openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=2, http_client=http) as sdk:
        thread = sdk.beta.threads.create(metadata={"a": "b"}, extra_headers=KEY)

    with server.client(key) as client:
        assert [found["id"] for found in threads(client)] == [thread.id]


# In the store


def test_what_fails_half_way_leaves_nothing(server: RunningServer, client: httpx2.Client) -> None:
    project = server.project_of(client)

    def do() -> Thread:
        raise ValueError("half-way")

    with pytest.raises(ValueError, match="half-way"):
        server.write(project, lambda tx: do_once(tx, Once("key", "request"), Thread, do))

    assert server.read(project, lambda tx: tx.outcomes.find("key")) is None


def test_an_outcome_is_forgotten_when_its_time_is_over(server: RunningServer, client: httpx2.Client) -> None:
    project = server.project_of(client)
    outcome = hashlib.sha256(KEY["idempotency-key"].encode()).hexdigest()
    first = client.post("/threads", headers=KEY).json()
    assert server.read(project, lambda tx: tx.outcomes.find(outcome)) is not None
    assert KEPT_S == 24 * 3600

    server.write(None, lambda tx: tx.work.touch(OUTCOME, f"{project}/{outcome}"))

    deadline = time.monotonic() + 60
    while server.read(project, lambda tx: tx.outcomes.find(outcome)) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.post("/threads", headers=KEY).json() != first
