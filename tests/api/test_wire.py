"""The protocol itself, against clients that break it: an answer in the envelope or a closed connection, never a 5xx,
and nobody else notices."""

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import msgspec
import pytest

from tests.support.server import RunningServer, serving
from threadkeep import app
from threadkeep import serving as connections
from threadkeep.settings import Settings
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import Gate, Raw, Say, ScriptedUpstream

PATIENCE_S = 60.0
# How long the test's server waits for heads, bodies and readers.
SHORT_S = 0.5
HOST = b"host: x\r\n"


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Wire:
    """One connection to the server, with a key."""

    def __init__(self, server: RunningServer) -> None:
        self.key = f"authorization: Bearer {server.new_key()}\r\n".encode()
        self._socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE_S)
        self._read = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def get(self, path: bytes, version: bytes = b"HTTP/1.1", more: bytes = b"") -> Answered:
        self.send(b"GET %b %b\r\n%b%b%b\r\n" % (path, version, HOST, self.key, more))
        return self.answer()

    def post(self, headers: bytes, body: bytes, path: bytes = b"/v1/threads") -> Answered:
        self.send(b"POST %b HTTP/1.1\r\n%b%b%b\r\n%b" % (path, HOST, self.key, headers, body))
        return self.answer()

    def answer(self, *, has_body: bool = True) -> Answered:
        """The next answer on the connection; its body has a length."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        status = int(first.split(" ")[1])
        if status == 100:
            return self.answer(has_body=has_body)
        length = int(headers.get("content-length", "0")) if has_body else 0
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Answered(status, headers, body)

    def refusal(self) -> int:
        """The status of an answer in the envelope, at which the connection ends."""
        answered = self.answer()
        assert error_of(answered)
        assert answered.headers["connection"] == "close"
        assert self.rest() == b""
        return answered.status

    def rest(self) -> bytes:
        """What comes until the connection ends."""
        with contextlib.suppress(ConnectionError):
            while piece := self._socket.recv(65536):
                self._read += piece
        rest, self._read = self._read, b""
        return rest

    def wait_for_reset(self) -> None:
        """Reads nothing until the server has given the connection up, which only shows when something is sent."""
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                self._socket.send(b"\r\n")
                time.sleep(0.05)
        assert time.monotonic() < deadline, "the server keeps the connection"

    def _more(self) -> None:
        piece = self._socket.recv(65536)
        assert piece, f"the connection ended after {self._read!r}"
        self._read += piece

    def close(self) -> None:
        self._socket.close()


def error_of(answered: Answered) -> dict[str, object]:
    body = msgspec.json.decode(answered.body)
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["x-request-id"].startswith("req_")
    return body["error"]


@pytest.fixture
def wire(sqlite_server: RunningServer) -> Iterator[Wire]:
    with contextlib.closing(Wire(sqlite_server)) as wire:
        yield wire


@pytest.fixture
def healthy(sqlite_server: RunningServer) -> Iterator[httpx2.Client]:
    with sqlite_server.client() as client:
        yield client


# Requests that are none


CHUNKED = b"transfer-encoding: chunked\r\n"
NO_REQUESTS = {
    "garbage": b"\x00\xff" * 500 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET /v1/threads HTTP/1.2\r\n" + HOST + b"\r\n",
    "no such method": b"G@T /v1/threads HTTP/1.1\r\n" + HOST + b"\r\n",
    "endless method": b"A" * 10_000,
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path without a slash": b"GET v1/threads HTTP/1.1\r\n" + HOST + b"\r\n",
    "a port that is none": b"GET http://x:99999/v1/threads HTTP/1.1\r\n" + HOST + b"\r\n",
    "a path of raw bytes": b"GET /v1/threads/\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "bare line feeds": b"GET /v1/threads HTTP/1.1\nhost: x\n\n",
    "folded header": b"GET /v1/threads HTTP/1.1\r\nx: a\r\n b\r\n\r\n",
    "NUL in a header": b"GET /v1/threads HTTP/1.1\r\nx: a\x00b\r\n\r\n",
    "header without a colon": b"GET /v1/threads HTTP/1.1\r\nxyz\r\n\r\n",
    "header without a name": b"GET /v1/threads HTTP/1.1\r\n: y\r\n\r\n",
    "space before a colon": b"POST /v1/threads HTTP/1.1\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
}
# How long a body is must be said once, in one way: else a proxy in front may see other requests than we do.
SMUGGLED = {
    "length and chunks": b"content-length: 2\r\n" + CHUNKED,
    "chunks and length": CHUNKED + b"content-length: 2\r\n",
    "two lengths": b"content-length: 2\r\ncontent-length: 3\r\n",
    "the same length twice": b"content-length: 2\r\ncontent-length: 2\r\n",
    "a list of lengths": b"content-length: 2, 2\r\n",
    "a length with a sign": b"content-length: +2\r\n",
    "a negative length": b"content-length: -2\r\n",
    "a length in hexadecimal": b"content-length: 0x2\r\n",
    "an endless length": b"content-length: 99999999999999999999999\r\n",
    "an unknown coding": b"transfer-encoding: xchunked\r\n",
    "chunks that are not last": b"transfer-encoding: chunked, identity\r\n",
    "identity and length": b"transfer-encoding: identity\r\ncontent-length: 2\r\n",
}
BROKEN_CHUNKS = {
    "no size": b"zz\r\n{}\r\n0\r\n\r\n",
    "an endless size": b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n{}\r\n0\r\n\r\n",
    "too little data": b"1\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_is_refused(wire: Wire, sent: bytes) -> None:
    wire.send(sent)

    assert wire.refusal() == 400


@pytest.mark.parametrize("headers", SMUGGLED.values(), ids=SMUGGLED)
def test_a_body_of_doubtful_length_is_refused_with_all_that_follows(wire: Wire, headers: bytes) -> None:
    follows = b"GET /v1/threads HTTP/1.1\r\n" + HOST + wire.key + b"\r\n"
    wire.send(b"POST /v1/threads HTTP/1.1\r\n" + HOST + wire.key + headers + b"\r\n0\r\n\r\n" + follows)

    assert wire.refusal() == 400


@pytest.mark.parametrize("body", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_broken_chunks_are_refused(wire: Wire, body: bytes) -> None:
    wire.send(b"POST /v1/threads HTTP/1.1\r\n" + HOST + wire.key + CHUNKED + b"\r\n" + body)

    assert wire.refusal() == 400


def test_what_breaks_the_protocol_amid_an_answer_is_not_answered_into_it(
    passing: tuple[RunningServer, ScriptedUpstream],
) -> None:
    server, upstream = passing
    upstream.extend([Say("a"), Gate()])
    body = b'{"model":"m","messages":[],"stream":true}'
    with contextlib.closing(Wire(server)) as wire:
        head = wire.post(b"content-length: %d\r\n" % len(body), body, b"/v1/chat/completions")
        assert head.headers["transfer-encoding"] == "chunked"

        wire.send(b"\x00garbage\r\n\r\n")

        assert b"HTTP/1.1 400" not in wire.rest()


# Requests of uncommon form


def test_the_absolute_form_is_understood(wire: Wire) -> None:
    assert wire.get(b"http://elsewhere.example/v1/threads").status == 200


@pytest.mark.parametrize("more", [b"", b"connection: keep-alive\r\n"])
def test_http_1_0_is_answered_and_the_connection_ends(wire: Wire, more: bytes) -> None:
    assert wire.get(b"/v1/threads", b"HTTP/1.0", more).status == 200
    assert wire.rest() == b""


def test_requests_may_follow_one_another_unasked(wire: Wire) -> None:
    one = b"GET /v1/threads HTTP/1.1\r\n" + HOST + wire.key + b"\r\n"
    other = b"POST /v1/threads HTTP/1.1\r\n" + HOST + wire.key + b"content-length: 2\r\n\r\n{}"
    wire.send((one + other) * 100)

    answers = [wire.answer() for _ in range(200)]

    assert {answer.status for answer in answers} == {200}
    assert [b"thread_" in answer.body for answer in answers[:4]] == [False, True, True, True]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 200


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_another_protocol_is_not_spoken(wire: Wire, upgrade: bytes) -> None:
    more = b"connection: upgrade\r\nupgrade: %b\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n" % upgrade

    assert wire.get(b"/v1/threads", more=more).status == 200


def test_who_asks_before_sending_a_body_is_told_to_go_on(wire: Wire) -> None:
    assert wire.post(b"expect: 100-continue\r\ncontent-length: 2\r\n", b"{}").status == 200


def test_chunks_may_be_of_one_byte_and_say_more_than_they_hold(wire: Wire) -> None:
    spaces = b"1;name=value\r\n \r\n" * 20_000

    assert wire.post(CHUNKED, b"1\r\n{\r\n" + spaces + b"1\r\n}\r\n0\r\n\r\n").status == 200


def test_what_follows_the_chunks_is_no_header(wire: Wire) -> None:
    key, wire.key = wire.key, b""

    answered = wire.post(CHUNKED, b"2\r\n{}\r\n0\r\n" + key + b"x: y\r\n" * 20_000 + b"\r\n")

    assert answered.status == 401


# Paths, queries and ids


@pytest.mark.parametrize(
    "path", [b"/v1/threads/", b"//v1/threads", b"/v1/../health/live", b"/V1/threads", b"/v1/threads;x=1", b"/%2e%2e/x"]
)
def test_paths_that_are_nearly_right_are_wrong(wire: Wire, path: bytes) -> None:
    assert error_of(wire.get(path))["message"] == "Not found"


@pytest.mark.parametrize(
    "thread_id",
    [
        b"%zz%2",
        b"thread_%",
        b"thread_%00",
        b"thread_%ff%fe",
        b"thread_%c3%28",
        b"thread_%0d%0aset-cookie:%20a=b",
        b"%F0",
    ],
)
def test_an_id_of_any_bytes_is_refused_and_stays_in_the_body(wire: Wire, thread_id: bytes) -> None:
    answered = wire.get(b"/v1/threads/" + thread_id)

    assert answered.status == 400
    assert error_of(answered)["param"] == "thread_id"
    assert "set-cookie" not in answered.headers


@pytest.mark.parametrize(
    "header",
    [b'openai-beta: "<x>\xff=v1\r\n', b"api-key: \xff\xfe\r\n", b"idempotency-key: \xff\r\n", b"origin: \xff\r\n"],
)
def test_headers_of_any_bytes_do_no_harm(wire: Wire, header: bytes) -> None:
    assert wire.get(b"/v1/threads", more=header).status < 500


@pytest.mark.parametrize(
    "query", [b"&".join(b"a=%d" % n for n in range(5_000)), b"limit=%zz", b"%ff=%fe&=&&", b"a" * 60_000]
)
def test_queries_of_any_form_are_answered(wire: Wire, query: bytes) -> None:
    answered = wire.get(b"/v1/threads?" + query)

    assert answered.status in (200, 400)
    if answered.status == 400:
        assert error_of(answered)


@pytest.mark.parametrize(
    "head",
    [b"GET /v1/threads HTTP/1.1\r\nx: " + b"a" * 100_000, b"GET /v1/threads?" + b"a" * 100_000],
    ids=["header", "path"],
)
def test_a_head_without_end_is_refused(wire: Wire, head: bytes) -> None:
    wire.send(head)

    assert wire.refusal() == 431


@pytest.mark.parametrize("method", [b"TRACE", b"PROPFIND", b"PATCH"])
def test_other_methods_are_told_which_there_are(wire: Wire, method: bytes) -> None:
    wire.send(method + b" /v1/threads HTTP/1.1\r\n" + HOST + wire.key + b"\r\n")

    answered = wire.answer()

    assert answered.status == 405
    assert answered.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    assert error_of(answered)


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (b"/v1/threads", True, 200),
        (b"/v1/threads", False, 401),
        (b"/nowhere", True, 404),
        (b"/health/live", False, 200),
    ],
)
def test_head_is_answered_without_a_body(wire: Wire, path: bytes, key: bool, status: int) -> None:
    wire.send(b"HEAD " + path + b" HTTP/1.1\r\n" + HOST + (wire.key if key else b"") + b"\r\n")
    answered = wire.answer(has_body=False)

    assert answered.status == status
    assert int(answered.headers["content-length"]) > 0
    # Nothing is left on the connection that the next answer would begin with.
    assert wire.get(b"/v1/threads").status == 200


def test_options_needs_no_key_and_has_no_body(wire: Wire) -> None:
    wire.send(b"OPTIONS /v1/threads/thread_x/messages HTTP/1.1\r\n" + HOST + b"\r\n")
    answered = wire.answer(has_body=False)

    assert (answered.status, answered.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    wire.send(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
    assert wire.answer().status == 404


# Clients that take their time


@pytest.fixture(scope="module")
def passing(
    migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[RunningServer, ScriptedUpstream]]:
    """A server that waits for nobody very long, and what is behind it."""
    folder = tmp_path_factory.mktemp("impatient")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with pytest.MonkeyPatch.context() as patch, ScriptedUpstream() as upstream:
        patch.setattr(connections, "HEAD_S", SHORT_S)
        patch.setattr(connections, "LINGER_S", SHORT_S)
        patch.setattr(connections, "TAKES_NOTHING_S", SHORT_S)
        patch.setattr(app.api, "Limits", partial(app.api.Limits, body_s=SHORT_S))
        settings = Settings(data_dir=folder, upstreams=(UpstreamConfig(name="m", url=upstream.url),))
        with serving(settings) as server:
            yield server, upstream


@pytest.fixture
def impatient(passing: tuple[RunningServer, ScriptedUpstream]) -> Iterator[Wire]:
    with contextlib.closing(Wire(passing[0])) as wire:
        yield wire


@pytest.mark.parametrize("head", [b"", b"G", b"GET /v1/threads HTTP/1.1\r\nx: y\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(impatient: Wire, head: bytes) -> None:
    if head:
        impatient.send(head)

    assert impatient.rest() == b""


def test_a_head_that_drips_is_not_waited_for(impatient: Wire) -> None:
    began = time.monotonic()

    with contextlib.suppress(ConnectionError):
        for byte in b"GET /v1/threads HTTP/1.1\r\n" + b"x: y\r\n" * 10_000:
            impatient.send(bytes([byte]))
            time.sleep(SHORT_S / 20)

    assert time.monotonic() - began < PATIENCE_S


@pytest.mark.parametrize("headers", [b"content-length: 1000\r\n", CHUNKED], ids=["length", "chunks"])
def test_a_body_that_does_not_come_is_told_so(impatient: Wire, headers: bytes) -> None:
    answered = impatient.post(headers, b"")

    assert answered.status == 408
    assert error_of(answered)
    assert impatient.rest() == b""


def test_chunks_that_hold_nothing_are_not_taken_for_ever(impatient: Wire) -> None:
    impatient.send(b"POST /v1/threads HTTP/1.1\r\n" + HOST + impatient.key + CHUNKED + b"\r\n1;")

    with contextlib.suppress(ConnectionError):
        for _ in range(100_000):
            impatient.send(b"a" * 1000)
            time.sleep(SHORT_S / 100)

    assert b"HTTP/1.1 408 " in impatient.rest()


def test_the_rest_of_a_body_that_was_refused_is_not_taken_for_ever(impatient: Wire) -> None:
    impatient.key = b""
    impatient.send(b"POST /v1/threads HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n")
    assert impatient.answer().status == 401
    began = time.monotonic()

    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < PATIENCE_S:
            impatient.send(b"1\r\n \r\n")
            time.sleep(SHORT_S / 20)

    assert time.monotonic() - began < PATIENCE_S


def test_a_client_that_takes_nothing_of_an_upstreams_answer_ends_it(
    passing: tuple[RunningServer, ScriptedUpstream],
) -> None:
    server, upstream = passing
    upstream.extend([Raw(b"x" * 1_000_000)] * 64)
    before = len(upstream.requests)
    body = b'{"model":"m","messages":[],"stream":true}'
    with contextlib.closing(Wire(server)) as wire:
        head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + wire.key
        wire.send(head + b"content-length: %d\r\n\r\n" % len(body) + body)

        [*_, request] = upstream.wait_for_requests(before + 1)
        request.wait_ended(PATIENCE_S)

        assert request.aborted


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system's kernel gives up nobody for it")
def test_a_client_that_takes_nothing_is_given_up(passing: tuple[RunningServer, ScriptedUpstream]) -> None:
    with contextlib.closing(Wire(passing[0])) as wire:
        message = msgspec.json.encode({"role": "user", "content": "x" * 256_000})
        thread = msgspec.json.decode(wire.post(b"content-length: 2\r\n", b"{}").body)["id"].encode()
        path = b"/v1/threads/%b/messages" % thread
        for _ in range(50):
            assert wire.post(b"content-length: %d\r\n" % len(message), message, path).status == 200

        wire.send(b"GET %b?limit=100 HTTP/1.1\r\n%b%b\r\n" % (path, HOST, wire.key))

        wire.wait_for_reset()


def test_healthy_clients_are_served_meanwhile(sqlite_server: RunningServer, healthy: httpx2.Client) -> None:
    slow = [Wire(sqlite_server) for _ in range(300)]
    for number, wire in enumerate(slow):
        head = b"POST /v1/threads HTTP/1.1\r\n" + HOST + wire.key
        wire.send(head if number % 2 else head + b"content-length: 1000\r\n\r\n{")
    is_over = threading.Event()

    def disturb() -> None:
        while not is_over.is_set():
            for sent in NO_REQUESTS.values():
                with contextlib.suppress(OSError), contextlib.closing(Wire(sqlite_server)) as wire:
                    wire.send(sent)
                    wire.rest()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        answers = [healthy.post("/threads", json={}) for _ in range(100)]
    finally:
        is_over.set()
        disturbing.join(PATIENCE_S)
        for wire in slow:
            wire.close()

    assert {answer.status_code for answer in answers} == {200}
    assert max(answer.elapsed.total_seconds() for answer in answers) < PATIENCE_S / 2
