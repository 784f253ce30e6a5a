"""How a server stops, as load balancers, clients and operators see it: a process that is sent signals."""

import json
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.support.process import Program, serving

PATIENCE_S = 60
KEY = {"authorization": "Bearer any"}
# Longer than any of these tests: what ends before has not waited for it.
LONG_S = "600"


class Kept:
    """One connection, kept for as long as the server keeps it."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._read = b""

    def get(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.send(path)
        return self.answer()

    def send(self, path: str) -> None:
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer any\r\n\r\n".encode())

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        while len(self._read) < int(fields["content-length"]):
            self._more()
        body, self._read = self._read[: int(fields["content-length"])], self._read[int(fields["content-length"]) :]
        return int(lines[0].split()[1]), fields, body

    def is_closed(self) -> bool:
        """Waits for what comes next: nothing more, ever."""
        return self.socket.recv(65536) == b""

    def _more(self) -> None:
        piece = self.socket.recv(65536)
        assert piece, "closed without an answer"
        self._read += piece


@contextmanager
def kept(server: Program) -> Generator[Kept, None, None]:
    connection = Kept(server.url)
    with connection.socket:
        yield connection


def until_stopping(server: Program) -> None:
    """Waits until the server has taken notice of the signal."""
    deadline = time.monotonic() + PATIENCE_S
    while '"draining"' not in server.errors:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begin_slow_run(http: httpx2.Client) -> tuple[str, str]:
    """A thread and its run, which takes long."""
    assistant = http.post("/assistants", json={"model": "offline-slow"}).json()["id"]
    thread = http.post("/threads", json={"messages": [{"role": "user", "content": "count to 100000"}]}).json()["id"]
    return thread, http.post(f"/threads/{thread}/runs", json={"assistant_id": assistant}).json()["id"]


@contextmanager
def client(server: Program) -> Generator[httpx2.Client, None, None]:
    with httpx2.Client(base_url=f"{server.url}/v1", headers=KEY, timeout=PATIENCE_S, trust_env=False) as http:
        yield http


def test_within_the_drain_delay_it_is_not_ready_and_answers_all_the_same(tmp_path: Path) -> None:
    with serving("--drain-delay-seconds", LONG_S, folder=tmp_path) as server:
        server.terminate()
        until_stopping(server)
        with kept(server) as new:
            status, _, body = new.get("/health/ready")
        with kept(server) as new:
            answered, fields, _ = new.get("/v1/assistants")
            closed = new.is_closed()
        with kept(server) as new:
            live, _, _ = new.get("/health/live")

    assert status == 503
    assert json.loads(body)["parts"]["accepting"] == {"status": "failed", "reason": "The server is stopping."}
    assert (answered, fields["connection"], closed) == (200, "close", True)
    assert live == 200


def test_a_connection_that_was_kept_is_told_with_its_next_answer_that_it_is_the_last(tmp_path: Path) -> None:
    with serving("--drain-delay-seconds", LONG_S, folder=tmp_path) as server, kept(server) as old:
        before = old.get("/v1/assistants")
        server.terminate()
        until_stopping(server)
        after = old.get("/v1/assistants")
        closed = old.is_closed()

    assert (before[0], "connection" in before[1]) == (200, False)
    assert (after[0], after[1]["connection"], closed) == (200, "close", True)


def test_a_connection_that_nobody_uses_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with serving(folder=tmp_path) as server, kept(server) as idle, kept(server) as used:
        used.get("/v1/assistants")
        server.terminate()
        assert (idle.is_closed(), used.is_closed(), server.wait()) == (True, True, 0)


def test_after_the_drain_delay_it_ends_with_success(tmp_path: Path) -> None:
    with serving("--drain-delay-seconds", "0.3", folder=tmp_path) as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began >= 0.3


def test_at_a_terminal_nobody_waits_for_a_load_balancer(tmp_path: Path) -> None:
    with serving("--drain-delay-seconds", LONG_S, folder=tmp_path) as server:
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0


def test_a_second_signal_hands_over_at_once(tmp_path: Path) -> None:
    with serving("--grace-seconds", LONG_S, "--code-interpreter", "off", folder=tmp_path) as server:
        with client(server) as http:
            thread, run = begin_slow_run(http)
        server.terminate()
        until_stopping(server)
        server.terminate()
        assert server.wait() == 0
        actions = [json.loads(line)["action"] for line in server.errors.splitlines()]
    with serving(folder=tmp_path) as server, client(server) as http:
        status = http.get(f"/threads/{thread}/runs/{run}").json()["status"]

    assert actions[-2:] == ["draining", "stopping_at_once"]
    assert status in ("queued", "in_progress")


def test_a_second_signal_cuts_the_drain_delay(tmp_path: Path) -> None:
    with serving("--drain-delay-seconds", LONG_S, folder=tmp_path) as server:
        server.terminate()
        until_stopping(server)
        server.terminate()
        assert server.wait() == 0


def test_a_request_whose_body_is_on_its_way_is_answered_before_the_end(tmp_path: Path) -> None:
    body = b'{"metadata": {"is": "whole"}}'
    with serving(folder=tmp_path) as server, kept(server) as slow:
        head = (
            b"POST /v1/threads HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer any\r\ncontent-length: %d\r\n\r\n"
        )
        slow.socket.sendall(head % len(body) + body[:5])
        with kept(server) as other:
            # By now the server has seen the first half.
            other.get("/v1/assistants")
        server.terminate()
        until_stopping(server)
        slow.socket.sendall(body[5:])
        status, fields, answer = slow.answer()
        assert server.wait() == 0

    assert (status, fields["connection"]) == (200, "close")
    assert json.loads(answer)["metadata"] == {"is": "whole"}


def test_more_connections_than_there_may_be_are_told_so(tmp_path: Path) -> None:
    with serving("--max-connections", "2", folder=tmp_path) as server:
        with kept(server) as first, kept(server) as second:
            assert (first.get("/health/live")[0], second.get("/health/live")[0]) == (200, 200)
            with kept(server) as third:
                status, fields, body = third.get("/v1/assistants")
                closed = third.is_closed()
            with kept(server) as fourth:
                ready = fourth.get("/health/ready")[0]
            still = first.get("/v1/assistants")[0]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with kept(server) as later:
                if later.get("/v1/assistants")[0] == 200:
                    break
            assert time.monotonic() < deadline

    assert (status, fields["retry-after"], fields["connection"], closed) == (503, "1", "close", True)
    error = json.loads(body)["error"]
    assert (error["type"], "too many connections" in error["message"]) == ("server_error", True)
    assert (ready, still) == (200, 200)
    assert server.errors.count("connections_refused") == 1
