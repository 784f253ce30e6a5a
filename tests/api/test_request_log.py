"""What the log says of a request: one line with its id, and nothing of what was asked or said."""

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.server import RunningServer
from threadkeep import logs
from threadkeep.api.edge import MAX_REFUSAL_LINES, Refusals

PATIENCE_S = 60


class Lines(logging.Handler):
    """Lines as they are written, in the context that they are written in."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._came = threading.Condition()
        self.setFormatter(logs._Json())

    def emit(self, record: logging.LogRecord) -> None:
        with self._came:
            self.texts.append(self.format(record))
            self._came.notify_all()

    def of(self, answer: httpx2.Response) -> list[dict[str, Any]]:
        """The lines that carry the id of the request that was answered so."""
        request_id = answer.headers["x-request-id"]
        return [line for line in map(json.loads, self.texts) if line.get("request_id") == request_id]

    def request(self, answer: httpx2.Response) -> dict[str, Any]:
        """The one line that tells of the request itself. It is written once the answer is sent."""
        with self._came:
            self._came.wait_for(lambda: any(line["action"] == "request" for line in self.of(answer)), PATIENCE_S)
        [line] = [line for line in self.of(answer) if line["action"] == "request"]
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("threadkeep")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)


def test_a_request_is_one_line(server: RunningServer, client: httpx2.Client, lines: Lines) -> None:
    answer = client.post("/threads")

    line = lines.request(answer)
    assert line["level"] == "info"
    assert line["ms"] > 0
    expected = {"method": "POST", "route": "/threads", "operation": "createThread", "status": 200}
    assert {name: line[name] for name in expected} == expected
    assert line["project"] == server.project_of(client)


def test_reading_is_not_worth_a_line_unless_asked_for_or_refused(client: httpx2.Client, lines: Lines) -> None:
    assert lines.request(client.get("/threads"))["level"] == "debug"
    assert lines.request(client.get("/threads/thread_x"))["level"] == "info"


def test_a_line_has_the_route_and_not_what_was_asked_or_said(client: httpx2.Client, lines: Lines) -> None:
    said = {"role": "user", "content": "a secret", "metadata": {"k": "a secret"}}
    created = client.post("/threads", json={"messages": [said]})
    answers = [
        created,
        client.get("/threads", params={"q": "secret"}),
        client.get("/threads", params={"secret": "x"}),
        client.get("/threads/secret"),
        client.post(f"/threads/{created.json()['id']}/messages", json={"role": "secret", "content": "x"}),
    ]

    key = client.headers["authorization"].removeprefix("Bearer ")
    assert all(lines.request(answer)["route"].startswith("/threads") for answer in answers)
    assert not [text for text in lines.texts if "secret" in text or key in text]


def test_a_path_that_leads_nowhere_is_shown(client: httpx2.Client, lines: Lines) -> None:
    assert lines.request(client.get("/chat/completion"))["route"] == "/v1/chat/completion (no route)"
    assert len(lines.request(client.get(f"/{'x' * 5000}"))["route"]) < 300


def test_a_run_keeps_the_id_of_the_request_that_started_it(client: httpx2.Client, lines: Lines) -> None:
    assistant = client.post("/assistants", json={"model": "offline"}).json()["id"]
    thread = client.post("/threads", json={"messages": [{"role": "user", "content": "hi"}]}).json()["id"]

    answer = client.post(f"/threads/{thread}/runs", json={"assistant_id": assistant, "stream": True})

    line = lines.request(answer)
    assert (line["operation"], line["status"]) == ("createRun", 200)
    assert {line.get("thread_id") for line in lines.of(answer)} <= {None, thread}


def test_of_a_flood_of_refused_requests_a_part_is_logged_and_the_rest_counted(lines: Lines) -> None:
    now = 100.0
    refusals = Refusals(lambda: now)

    first = [refusals.is_worth_a_line() for _ in range(MAX_REFUSAL_LINES + 50)]
    now += 1
    later = refusals.is_worth_a_line()

    assert first == [True] * MAX_REFUSAL_LINES + [False] * 50
    assert later
    [line] = [json.loads(text) for text in lines.texts]
    assert (line["action"], line["count"]) == ("requests_not_logged", 50)


def test_a_flood_of_refused_requests_does_not_hide_what_succeeds(client: httpx2.Client, lines: Lines) -> None:
    for _ in range(2 * MAX_REFUSAL_LINES):
        assert client.get("/nothing").status_code == 404

    assert lines.request(client.post("/threads"))["status"] == 200
