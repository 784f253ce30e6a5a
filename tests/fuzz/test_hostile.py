"""Whatever is sent: never a fault of ours, always the envelope, and the server goes on serving.

`THREADKEEP_FUZZ_REQUESTS=20000` makes it longer; `benchmarks/hostile.py` also measures what others feel meanwhile.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.hostile import HostileRequest, large_requests, requests
from tests.fuzz.wire import Reply, Wire, complaint, objects
from tests.support.server import RunningServer

REQUESTS = int(os.environ.get("THREADKEEP_FUZZ_REQUESTS", "600"))
# Anew now and then: some requests delete what they find.
LIVES = 100


class Target:
    """A server, and one of each kind of object on it."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._key = server.new_key()
        self._wire = Wire(server.port)
        self._ids: dict[str, str] = {}
        self._asked = 0

    def ask(self, request: HostileRequest) -> Reply | None:
        if self._asked % LIVES == 0:
            with self._server.client(self._key) as http:
                self._ids = objects(http)
        self._asked += 1
        return self._wire.ask(request.method, request.sent(self._key, self._ids))

    def close(self) -> None:
        self._wire.close()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    target = Target(request.getfixturevalue(f"{request.param}_server"))
    yield target
    target.close()


@pytest.mark.timeout(7200)
@settings(
    max_examples=REQUESTS,
    deadline=None,
    database=None,
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example),
)
@given(request=requests())
def test_whatever_is_sent_is_answered_properly(target: Target, request: HostileRequest) -> None:
    assert complaint(request, target.ask(request)) is None


@pytest.mark.parametrize("request_", large_requests(1), ids=lambda request: request.operation)
def test_what_is_large_and_broken_is_answered_properly(target: Target, request_: HostileRequest) -> None:
    reply = target.ask(request_)
    assert complaint(request_, reply) is None
    assert reply is not None
    assert reply.status == 400


# --- that it can fail


ENVELOPE = b'{"error":{"message":"m","type":"t","param":null,"code":null}}'
HEADERS = {"x-request-id": "req_" + "0" * 32, "content-type": "application/json"}


@pytest.mark.parametrize(
    "reply",
    [
        None,
        Reply(500, HEADERS, ENVELOPE),
        Reply(503, HEADERS, ENVELOPE),
        Reply(200, {}, b"{}"),
        Reply(400, {**HEADERS, "content-type": "text/plain"}, ENVELOPE),
        Reply(400, HEADERS, b""),
        Reply(404, HEADERS, b'{"detail":"Not Found"}'),
        Reply(400, HEADERS, ENVELOPE.replace(b',"code":null', b"")),
        Reply(400, HEADERS, ENVELOPE.replace(b'"m"', b'""')),
        Reply(400, HEADERS, ENVELOPE.replace(b'"param":null', b'"param":1')),
    ],
)
def test_an_improper_answer_is_complained_of(reply: Reply | None) -> None:
    request = HostileRequest("createThread", b"POST", b"/v1/threads", (), b"{}")
    assert complaint(request, reply) is not None
    assert complaint(request, Reply(400, HEADERS, ENVELOPE)) is None
