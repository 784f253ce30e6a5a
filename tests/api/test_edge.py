"""What every answer has, whatever was asked: envelope, ids, headers, methods, limits."""

import asyncio
import re
import socket

import httpx2
import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.support.refusals import invalid, refused
from tests.support.server import RunningServer
from threadkeep import api
from threadkeep.api.edge import Edge
from threadkeep.api.errors import TABLE
from threadkeep.api.routes import OPERATIONS
from threadkeep.contract import errors
from threadkeep.storage import DEFAULT_PROJECT_ID

REQUEST_ID = re.compile(r"req_[0-9a-f]{32}")


def raising(error: Exception) -> httpx2.AsyncClient:
    """A client of an application that can only raise."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return through(Edge(app))


def through(app: ASGIApp) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://server")


def raw(server: RunningServer, request: bytes) -> bytes:
    """All that is answered before the connection ends or 5 seconds pass."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


# Headers


def test_every_answer_has_an_id_of_its_own(client: httpx2.Client) -> None:
    answers = [client.get("/threads"), client.get("/threads/thread_x"), client.get("/nowhere"), client.post("/threads")]

    found = [answer.headers["x-request-id"] for answer in answers]
    assert all(REQUEST_ID.fullmatch(request_id) for request_id in found)
    assert len(set(found)) == len(found)


def test_every_answer_has_the_contracts_headers(client: httpx2.Client) -> None:
    for answer in (client.get("/threads"), client.get("/nowhere")):
        assert answer.headers["openai-version"] == "2020-10-01"
        assert int(answer.headers["openai-processing-ms"]) >= 0
        assert answer.headers["content-type"] == "application/json"


# Routes and methods


@pytest.mark.parametrize("path", ["/v1/nowhere", "/v1", "/", "/v1/threads/", "/v1/threads//messages", "/v2/threads"])
def test_an_unknown_path(server: RunningServer, client: httpx2.Client, path: str) -> None:
    assert refused(client.get(f"{server.url}{path}"), 404) == invalid("Not found")


def test_an_unknown_path_needs_no_key(server: RunningServer) -> None:
    assert refused(httpx2.get(f"{server.base_url}/nowhere"), 404) == invalid("Not found")


def test_a_method_that_the_path_has_not(client: httpx2.Client) -> None:
    answer = client.put("/threads/thread_x")

    assert refused(answer, 405)["type"] == "invalid_request_error"
    assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, POST"


def test_runs_is_no_threads_id(client: httpx2.Client) -> None:
    answer = client.get("/threads/runs")

    refused(answer, 405)
    assert answer.headers["allow"] == "OPTIONS, POST"


def test_head_answers_as_get_does_without_the_body(client: httpx2.Client) -> None:
    thread = client.post("/threads").json()["id"]
    got = client.get(f"/threads/{thread}")

    headed = client.head(f"/threads/{thread}")

    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert client.head("/threads/thread_x").status_code == 404


def test_options_says_what_is_allowed_and_admits_no_other_origin(client: httpx2.Client) -> None:
    answer = client.options("/threads", headers={"origin": "http://evil.example"})

    assert answer.status_code == 204
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_operations_are_named_once() -> None:
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


# Bodies


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"\xff", b'{"a":', b'{"metadata":"\\ud800"}'])
def test_a_body_that_is_no_object_is_refused(client: httpx2.Client, body: bytes) -> None:
    assert refused(client.post("/threads", content=body), 400)["type"] == "invalid_request_error"


def test_a_body_needs_no_content_type(client: httpx2.Client) -> None:
    answer = client.post("/threads", content=b'{"metadata":{"a":"b"}}', headers={"content-type": "text/plain"})

    assert answer.json()["metadata"] == {"a": "b"}


def test_a_body_may_come_in_chunks(client: httpx2.Client) -> None:
    pieces = iter([b'{"metadata":', b"", b'{"a":"b"}', b"}"])

    assert client.post("/threads", content=pieces).json()["metadata"] == {"a": "b"}


def test_a_body_announced_too_large_is_refused_unread(server: RunningServer) -> None:
    length = server.settings.max_request_bytes + 1
    head = (
        f"POST /v1/threads HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.new_key()}\r\n"
        f"content-length: {length}\r\nconnection: close\r\n\r\n"
    )

    answer = raw(server, head.encode())

    assert answer.startswith(b"HTTP/1.1 413 ")
    error = msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["error"]
    assert str(server.settings.max_request_bytes) in error["message"]


def test_a_body_that_grows_too_large_is_refused(server: RunningServer, client: httpx2.Client) -> None:
    piece = b" " * 65536
    pieces = (piece for _ in range(server.settings.max_request_bytes // len(piece) + 2))

    assert refused(client.post("/threads", content=pieces), 413)["type"] == "invalid_request_error"


def test_a_key_is_asked_for_before_the_body_is_read(server: RunningServer) -> None:
    head = b"POST /v1/threads HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nconnection: close\r\n\r\n"

    assert raw(server, head).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_does_not_come_is_not_waited_for(server: RunningServer) -> None:
    limits = api.Limits(body_s=0.05)
    context = api.Context(
        store=server.parts.store,
        runs=server.parts.runs,
        contents=server.parts.contents,
        uploads=server.parts.uploads,
        ingestion=server.parts.ingestion,
        search=server.parts.search,
        upstreams=server.parts.upstreams,
        authenticate=_anybody,
        version="x",
        limits=limits,
    )
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return await asyncio.get_running_loop().create_future()

    server.call(lambda: api.build(context)(_request("POST", "/v1/threads"), receive, send))

    assert sent[0]["status"] == 408


# Errors

OURS = [
    (errors.InvalidRequest("x", param="p", code="c"), 400, "invalid_request_error"),
    (errors.IllegalMove("run_x", "completed", "queued"), 400, "invalid_request_error"),
    (errors.Unauthenticated("x"), 401, "invalid_request_error"),
    (errors.PermissionDenied("x"), 403, "invalid_request_error"),
    (errors.NotFound("x"), 404, "invalid_request_error"),
    (errors.TooLarge("x"), 413, "invalid_request_error"),
    (errors.RateLimited("x", retry_after_s=2.5), 429, "requests"),
    (errors.UpstreamFailed("server_error", "x"), 502, "server_error"),
    (errors.ToolFailed("off"), 503, "server_error"),
    (errors.Unavailable("x"), 503, "server_error"),
    (errors.LeaseLost("run", "x"), 503, "server_error"),
]


@pytest.mark.parametrize(("error", "status", "type_"), OURS, ids=lambda value: type(value).__name__)
async def test_every_error_of_ours_has_its_status(error: errors.ThreadkeepError, status: int, type_: str) -> None:
    async with raising(error) as client:
        answer = await client.get("/")

    assert refused(answer, status)["type"] == type_
    assert refused(answer, status)["message"] == error.message
    assert REQUEST_ID.fullmatch(answer.headers["x-request-id"])


def test_no_class_of_error_is_forgotten() -> None:
    """Add a new class of contract/errors.py to the table in api/errors.py, and here."""
    declared = {kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__}

    assert declared - {errors.ThreadkeepError} == {type(error) for error, _, _ in OURS}
    assert {type(error) for error, _, _ in OURS} <= set(TABLE)


@pytest.mark.parametrize(
    ("error", "seconds", "milliseconds"),
    [
        (errors.Unavailable(retry_after_s=0.2), "1", "200"),
        (errors.RateLimited("x", retry_after_s=2.5), "3", "2500"),
    ],
    ids=["Unavailable", "RateLimited"],
)
async def test_who_must_wait_is_told_how_long(error: Exception, seconds: str, milliseconds: str) -> None:
    async with raising(error) as client:
        answer = await client.get("/")

    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == (seconds, milliseconds)


async def test_a_bug_is_answered_without_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    async with raising(ValueError("a secret")) as client:
        answer = await client.get("/")

    error = refused(answer, 500)
    assert error["type"] == "server_error"
    assert answer.headers["x-request-id"] in error["message"]
    # Clients look for these words before they try again.
    assert "the server had an error processing your request" in error["message"].lower()
    assert "secret" not in answer.text
    [record] = [record for record in caplog.records if record.__dict__.get("action") == "request_failed"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_a_bug_amid_an_answer_does_not_start_a_second_one() -> None:
    sent: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError

    await Edge(app)(_request("GET", "/"), _nothing, _noting(sent))

    assert sent == ["http.response.start"]


# Clients that leave


async def test_a_client_that_leaves_amid_its_request_gets_no_answer(server: RunningServer) -> None:
    sent: list[str] = []
    key = server.new_key()
    scope = _request("POST", "/v1/threads", (b"authorization", f"Bearer {key}".encode()))

    server.call(lambda: server.parts.app(scope, _nothing, _noting(sent)))

    assert sent == []


def _request(method: str, path: str, *headers: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
    }


async def _anybody(key: str | None, _host: str | None) -> str:
    return DEFAULT_PROJECT_ID


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def _noting(sent: list[str]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message["type"])

    return send
