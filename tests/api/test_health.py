"""GET /health/live and /health/ready."""

import httpx2
import pytest

from tests.support.refusals import refused
from tests.support.server import RunningServer
from threadkeep import __version__, api


def test_the_process_lives(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.url}/health/live")

    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "version": __version__}


def test_the_server_is_ready_with_all_its_parts(server: RunningServer) -> None:
    answer = httpx2.get(f"{server.url}/health/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["parts"]["database"] == {"status": "ok", "reason": None}


def test_health_can_only_be_read(server: RunningServer) -> None:
    assert httpx2.head(f"{server.url}/health/live").status_code == 200
    assert httpx2.options(f"{server.url}/health/live").headers["allow"] == "GET, HEAD, OPTIONS"
    refused(httpx2.post(f"{server.url}/health/live"), 405)


async def test_a_part_that_fails_is_named_and_its_cause_is_the_logs(
    server: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ConnectionError("the password was refused")

    async def succeed() -> None:
        pass

    context = api.Context(
        store=server.parts.store,
        runs=server.parts.runs,
        contents=server.parts.contents,
        uploads=server.parts.uploads,
        ingestion=server.parts.ingestion,
        search=server.parts.search,
        upstreams=server.parts.upstreams,
        authenticate=api.Authenticator(server.parts.store),
        version="x",
        health=[api.HealthPart("database", fail), api.HealthPart("other", succeed)],
    )
    transport = httpx2.ASGITransport(app=api.build(context))

    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as client:
        answer = await client.get("/health/ready")

    assert answer.status_code == 503
    assert answer.json() == {
        "status": "failed",
        "version": "x",
        "parts": {
            "database": {"status": "failed", "reason": "ConnectionError"},
            "other": {"status": "ok", "reason": None},
        },
    }
    assert [record for record in caplog.records if record.__dict__.get("action") == "health_check_failed"]
