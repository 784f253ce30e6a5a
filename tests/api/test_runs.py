"""What is HTTP's own about runs: ids, streams, when to ask again. How runs go is told in the stories of runs."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused
from tests.support.server import RunningServer
from threadkeep.api.run_steps import GetRunStepQuery
from threadkeep.contract.reading import read_query
from threadkeep.contract.run_steps import (
    FileSearchCall,
    FileSearchResult,
    FileSearchToolCall,
    FoundText,
    RunStep,
    ToolCallsDetails,
)

CONTENT = "step_details.tool_calls[*].file_search.results[*].content"


@pytest.fixture
def thread(client: httpx2.Client) -> str:
    """The path of a thread with a message."""
    created = client.post("/threads", json={"messages": [{"role": "user", "content": "hello"}]})
    return f"/threads/{created.json()['id']}"


@pytest.fixture
def assistant_id(client: httpx2.Client) -> str:
    return client.post("/assistants", json={"model": "offline"}).json()["id"]


def ended(client: httpx2.Client, path: str) -> dict[str, Any]:
    """The run once it is over, asked for as often as the server says."""
    while True:
        answer = client.get(path)
        if "openai-poll-after-ms" not in answer.headers:
            return answer.json()


def test_a_run_that_goes_on_says_when_to_ask_again(client: httpx2.Client, thread: str, assistant_id: str) -> None:
    answer = client.post(f"{thread}/runs", json={"assistant_id": assistant_id})

    assert answer.json()["status"] == "queued"
    assert 10 <= int(answer.headers["openai-poll-after-ms"]) <= 500
    assert ended(client, f"{thread}/runs/{answer.json()['id']}")["status"] == "completed"


@pytest.mark.parametrize("path", ["{thread}/runs", "/threads/runs"])
def test_a_run_is_streamed_when_asked(client: httpx2.Client, thread: str, assistant_id: str, path: str) -> None:
    body = {"assistant_id": assistant_id, "stream": True}

    answer = client.post(path.format(thread=thread), json=body)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-request-id"].startswith("req_")
    first = "thread.run.created" if "{thread}" in path else "thread.created"
    assert answer.text.startswith(f"id: 1\nevent: {first}\ndata: {{")
    assert answer.text.endswith("event: done\ndata: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_before_the_stream_is_a_plain_error(
    client: httpx2.Client, thread: str, assistant_id: str, stream: bool
) -> None:
    def create(path: str, assistant: str) -> httpx2.Response:
        return client.post(f"{path}/runs", json={"assistant_id": assistant, "stream": stream})

    assert refused(create(thread, "asst_x"), 404) == invalid("No assistant found with id 'asst_x'.")
    assert refused(create("/threads/thread_x", assistant_id), 404) == invalid("No thread found with id 'thread_x'.")
    assert refused(create(thread, "undefined"), 400) == invalid(
        "Invalid 'assistant_id': 'undefined'. Expected an ID that begins with 'asst'.",
        param="assistant_id",
        code="invalid_value",
    )


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("POST", ""),
        ("POST", "/cancel"),
        ("POST", "/submit_tool_outputs"),
        ("GET", "/steps"),
        ("GET", "/steps/step_x"),
    ],
)
def test_the_outermost_that_is_missing_is_named(client: httpx2.Client, thread: str, method: str, path: str) -> None:
    def ask(thread: str) -> httpx2.Response:
        body: dict[str, Any] | None = {"tool_outputs": []} if path == "/submit_tool_outputs" else None
        return client.request(method, f"{thread}/runs/run_x{path}", json=body)

    assert refused(ask("/threads/thread_x"), 404) == invalid("No thread found with id 'thread_x'.")
    assert refused(ask(thread), 404) == invalid("No run found with id 'run_x'.")


def test_runs_are_listed_newest_first(client: httpx2.Client, thread: str, assistant_id: str) -> None:
    made: list[str] = []
    for _ in range(2):
        made.append(client.post(f"{thread}/runs", json={"assistant_id": assistant_id}).json()["id"])
        ended(client, f"{thread}/runs/{made[-1]}")

    page = client.get(f"{thread}/runs").json()

    assert [run["id"] for run in page["data"]] == made[::-1]
    assert refused(client.get("/threads/thread_x/runs"), 404) == invalid("No thread found with id 'thread_x'.")


def test_a_run_and_its_steps_belong_to_their_thread_only(client: httpx2.Client, thread: str, assistant_id: str) -> None:
    run_id = client.post(f"{thread}/runs", json={"assistant_id": assistant_id}).json()["id"]
    ended(client, f"{thread}/runs/{run_id}")
    [step] = client.get(f"{thread}/runs/{run_id}/steps").json()["data"]
    other = f"/threads/{client.post('/threads').json()['id']}"

    no_run = invalid(f"No run found with id '{run_id}'.")
    assert refused(client.get(f"{other}/runs/{run_id}"), 404) == no_run
    assert refused(client.get(f"{other}/runs/{run_id}/steps"), 404) == no_run
    assert refused(client.get(f"{other}/runs/{run_id}/steps/{step['id']}"), 404) == no_run
    assert client.get(f"{thread}/runs/{run_id}/steps/{step['id']}").json() == step


def test_what_a_search_found_is_shown_to_those_who_ask(
    server: RunningServer, client: httpx2.Client, thread: str, assistant_id: str
) -> None:
    run_id = client.post(f"{thread}/runs", json={"assistant_id": assistant_id}).json()["id"]
    run = ended(client, f"{thread}/runs/{run_id}")
    step = _searched(run)
    server.write(server.project_of(client), lambda tx: tx.steps.insert(step))
    path = f"{thread}/runs/{run_id}/steps"

    def results(answer: httpx2.Response) -> list[dict[str, Any]]:
        body = answer.json()
        found = body if "id" in body else next(each for each in body["data"] if each["id"] == step.id)
        return found["step_details"]["tool_calls"][0]["file_search"]["results"]

    for place in (path, f"{path}/{step.id}"):
        without = {"file_id": "file-a", "file_name": "a.txt", "score": 0.5}
        assert results(client.get(place)) == [without]
        assert results(client.get(place, params={"include[]": CONTENT})) == [
            {**without, "content": [{"type": "text", "text": "found"}]}
        ]


def test_only_what_the_contract_knows_can_be_included(client: httpx2.Client, thread: str) -> None:
    error = refused(client.get(f"{thread}/runs/run_x/steps?include[]=everything"), 400)

    assert error["code"] == "invalid_value"
    assert read_query(GetRunStepQuery, [("include[]", CONTENT)]).include == [CONTENT]


def _searched(run: dict[str, Any]) -> RunStep:
    found = FileSearchResult(file_id="file-a", file_name="a.txt", score=0.5, content=[FoundText(text="found")])
    call = FileSearchToolCall(id="call_a", file_search=FileSearchCall(results=[found]))
    return RunStep(
        id="step_a",
        created_at=run["created_at"],
        run_id=run["id"],
        assistant_id=run["assistant_id"],
        thread_id=run["thread_id"],
        type="tool_calls",
        status="completed",
        cancelled_at=None,
        completed_at=run["created_at"],
        expires_at=None,
        expired_at=None,
        failed_at=None,
        last_error=None,
        step_details=ToolCallsDetails(tool_calls=[call]),
        metadata={},
        usage=None,
    )
