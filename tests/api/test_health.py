"""GET /health/live and /health/ready."""

import httpx2

from tests.support.refusals import refused
from tests.support.server import RunningServer
from threadkeep import __version__


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
