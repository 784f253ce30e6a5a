"""A client that says anything: it puts bytes on a socket, and judges what comes back."""

import http.client
import json
import re
import socket
from typing import Any, NamedTuple

import httpx2

from tests.fuzz.hostile import HostileRequest

PATIENCE_S = 60.0


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def ask(self, method: bytes, sent: bytes) -> Reply | None:
        """The answer; None if the connection ended without one."""
        for is_last in (False, True):
            fresh = self._socket is None
            connection = self._socket or socket.create_connection(("127.0.0.1", self._port), PATIENCE_S)
            self._socket = connection
            try:
                reply = self._ask(connection, method, sent)
            except (http.client.HTTPException, ConnectionError):
                self.close()
                # A kept connection may have been closed meanwhile.
                if fresh or is_last:
                    return None
            else:
                return reply
        return None

    def _ask(self, connection: socket.socket, method: bytes, sent: bytes) -> Reply:
        try:
            connection.sendall(sent)
        except (BrokenPipeError, ConnectionResetError):
            # Refused before it was all sent; the answer may be there all the same.
            pass
        response = http.client.HTTPResponse(connection, method=method.decode())
        response.begin()
        reply = Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
        if response.will_close:
            self.close()
        response.close()
        return reply

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def complaint(request: HostileRequest, reply: Reply | None) -> str | None:
    """What is wrong with the answer, if anything is."""
    if reply is None:
        return "no answer"
    if reply.status >= 500:
        return f"{reply.status}: {reply.body[:300]!r}"
    if not re.fullmatch(r"req_[0-9a-f]{32}", reply.headers.get("x-request-id", "")):
        return f"x-request-id is {reply.headers.get('x-request-id')}"
    if reply.status < 400 or request.method == b"HEAD":
        return None
    if reply.headers.get("content-type") != "application/json":
        return f"{reply.status} of type {reply.headers.get('content-type')}"
    try:
        told: Any = json.loads(reply.body)
    except ValueError:
        return f"{reply.status} with {reply.body[:300]!r}"
    if list(told) != ["error"] or sorted(told["error"]) != ["code", "message", "param", "type"]:
        return f"{reply.status} not in the envelope: {reply.body[:300]!r}"
    error = told["error"]
    if not (isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str)):
        return f"{reply.status} says nothing: {reply.body[:300]!r}"
    if not all(error[key] is None or isinstance(error[key], str) for key in ("param", "code")):
        return f"{reply.status} with a strange param or code: {reply.body[:300]!r}"
    return None


def objects(http: httpx2.Client) -> dict[str, str]:
    """One of each kind of object, by the name that paths have for its id."""

    def post(path: str, **body: Any) -> Any:
        answer = http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    form = {"purpose": "assistants"}
    file = http.post("/files", files={"file": ("a.txt", b"hello")}, data=form).json()
    weather = {"type": "function", "function": {"name": "get_weather"}}
    assistant = post("/assistants", model="offline", tools=[weather])
    said = [{"role": "user", "content": "call get_weather"}]
    thread = post("/threads", messages=said)
    message = http.get(f"/threads/{thread['id']}/messages").json()["data"][0]
    run = post(f"/threads/{thread['id']}/runs", assistant_id=assistant["id"], stream=False)
    upload = post("/uploads", filename="a", purpose="assistants", bytes=5, mime_type="text/plain")
    store = post("/vector_stores", name="a")
    batch = post(f"/vector_stores/{store['id']}/file_batches", file_ids=[file["id"]])
    steps: list[Any] = []
    while not steps:
        steps = http.get(f"/threads/{thread['id']}/runs/{run['id']}/steps").json()["data"]
    return {
        "assistant_id": assistant["id"],
        "thread_id": thread["id"],
        "message_id": message["id"],
        "run_id": run["id"],
        "step_id": steps[0]["id"],
        "file_id": file["id"],
        "upload_id": upload["id"],
        "vector_store_id": store["id"],
        "batch_id": batch["id"],
    }
