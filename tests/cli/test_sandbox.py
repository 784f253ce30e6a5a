"""What a person is told of the code interpreter: by the server at its start, by its health, by the commands."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.support.process import PATIENCE_S, Program, run, serving
from tests.support.sandbox import PLACE
from threadkeep.sandbox.environment import Environment

THERE = ("--sandbox-environment", str(PLACE))


def health(server: Program) -> tuple[int, dict[str, Any]]:
    """The status of /health/ready, and what it says of the code interpreter."""
    try:
        with urlopen(f"{server.url}/health/ready", timeout=60) as answer:
            status, body = answer.status, answer.read()
    except HTTPError as refusal:
        with refusal:
            status, body = refusal.code, refusal.read()
    return status, json.loads(body)["parts"]["code_interpreter"]


def heard(server: Program, text: str) -> None:
    """Waits until the server said it, on its screen or later."""
    deadline = time.monotonic() + PATIENCE_S
    while text not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.02)


@pytest.mark.usefixtures("isolation")
def test_where_code_can_be_isolated_the_server_says_that_it_is_on(tmp_path: Path) -> None:
    with serving(*THERE, folder=tmp_path) as server:
        heard(server, " on, isolated by bubblewrap, with ")
        state = health(server)
        assert server.stop() == 0

    assert state == (200, {"status": "ok", "reason": None})


@pytest.mark.usefixtures("isolation")
def test_a_server_that_needs_it_waits_until_it_is_on(tmp_path: Path) -> None:
    with serving("--code-interpreter", "on", *THERE, folder=tmp_path) as server:
        rows = [line for line in server.lines if line.startswith("  code ")]
        state = health(server)

    assert rows[0].startswith("  code     on, isolated by bubblewrap")
    assert state == (200, {"status": "ok", "reason": None})


def test_without_an_environment_the_server_serves_and_names_the_command(tmp_path: Path) -> None:
    command = f"threadkeep sandbox install --data-dir {tmp_path / 'data'}"
    with serving(folder=tmp_path) as server:
        heard(server, f" off: its Python environment is not installed. Run: {command}")
        state = health(server)

    assert state == (
        200,
        {
            "status": "off",
            "reason": "its Python environment is not installed",
            "mend": "Run: threadkeep sandbox install",
        },
    )


def test_without_bubblewrap_the_server_serves_and_names_the_package(
    sandbox_environment: Environment, tmp_path: Path
) -> None:
    with serving(*THERE, folder=tmp_path, environment={"PATH": str(tmp_path)}) as server:
        heard(server, " off: bubblewrap cannot be started: bubblewrap (bwrap) is not installed. ")
        status, part = health(server)

    assert (status, part["status"]) == (200, "off")
    assert "bwrap" in part["reason"]


def test_switched_off_it_is_not_even_looked_at(tmp_path: Path) -> None:
    with serving("--code-interpreter", "off", *THERE, folder=tmp_path) as server:
        status, part = health(server)
        assert server.stop() == 0

    assert "  code     off: it is switched off. Start the server with --code-interpreter auto." in server.lines
    assert (status, part["status"]) == (200, "off")
    assert "sandbox" not in server.errors


def test_a_server_that_needs_it_does_not_start_without(tmp_path: Path) -> None:
    refused = run("serve", "--port", "0", "--data-dir", "data", "--code-interpreter", "on", folder=tmp_path)

    assert refused.status == 1
    assert refused.errors.splitlines()[-1] == (
        "threadkeep: --code-interpreter is 'on', and the code interpreter is off: its Python environment is not "
        "installed. Run: threadkeep sandbox install --data-dir data"
    )
    assert "listening" not in refused.output


def test_a_server_that_installs_goes_on_when_that_fails_and_says_why(tmp_path: Path) -> None:
    nowhere = {"UV_NO_INDEX": "1", "UV_OFFLINE": "1", "UV_CACHE_DIR": str(tmp_path / "cache"), "UV_NO_CONFIG": "1"}
    nowhere |= {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"}
    with serving("--sandbox-install", folder=tmp_path, environment=nowhere) as server:
        heard(server, " off: its Python environment is being installed (")
        heard(server, "code interpreter: off: its Python environment could not be installed: ")
        status, part = health(server)

    assert (status, part["status"]) == (200, "off")
    assert "could not install the packages" in part["reason"]


def test_status_says_what_is_missing(tmp_path: Path) -> None:
    told = run("sandbox", "status", "--sandbox-environment", "place", folder=tmp_path, environment={"PATH": "."})

    assert told.status == 1
    assert f"Run: threadkeep sandbox install --sandbox-environment {tmp_path / 'place'}" in told.output
    assert "bubblewrap (bwrap) is not installed" in told.output
