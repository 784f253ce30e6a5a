"""Lines of the log: what stands in one, and what a stream that nobody reads costs."""

import json
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from threadkeep import logs
from threadkeep.logs import Log, bound

log = Log("threadkeep.test")


@pytest.fixture(autouse=True)
def restored() -> Generator[None, None, None]:
    root, own = logging.getLogger(), logging.getLogger("threadkeep")
    before = (list(root.handlers), root.level, own.level, logging.raiseExceptions)
    yield
    root.handlers[:], raising = before[0], before[3]
    root.setLevel(before[1])
    own.setLevel(before[2])
    logging.captureWarnings(False)
    logging.raiseExceptions = raising


@pytest.fixture
def file(tmp_path: Path) -> Generator[tuple[int, Path], None, None]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    yield descriptor, path
    os.close(descriptor)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_carries_its_action_its_fields_and_those_of_the_request(file: tuple[int, Path]) -> None:
    logs.configure("info", "json", fd=file[0])

    with bound(request_id="req_1"):
        log.info("run_created", run_id="run_1", count=2)
    log.info("idle")

    first, second = events(file[1])
    assert (first["action"], first["level"], first["logger"]) == ("run_created", "info", "threadkeep.test")
    assert (first["request_id"], first["run_id"], first["count"]) == ("req_1", "run_1", 2)
    assert "request_id" not in second


def test_below_the_level_nothing_is_written(file: tuple[int, Path]) -> None:
    logs.configure("warning", "json", fd=file[0])

    log.info("run_created")

    assert events(file[1]) == []


def test_an_error_brings_its_traceback_and_a_warning_does_not(file: tuple[int, Path]) -> None:
    logs.configure("info", "json", fd=file[0])
    try:
        raise LookupError("gone")
    except LookupError as error:
        log.error("broken", error=error)
        log.warning("odd", error=error)

    broken, odd = events(file[1])
    assert broken["error"] == odd["error"] == "LookupError: gone"
    assert "test_logs.py" in broken["traceback"]
    assert "traceback" not in odd


def test_a_secret_is_struck_out_of_whatever_line_it_got_into(file: tuple[int, Path]) -> None:
    logs.configure("info", "json", secrets=["sk-very-secret"], fd=file[0])

    log.info("upstream_asked", url="https://host/?key=sk-very-secret")

    assert "sk-very-secret" not in file[1].read_text(encoding="utf-8")
    assert events(file[1])[0]["url"] == "https://host/?key=***"


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_value_with_line_ends_makes_no_second_line(file: tuple[int, Path], form: logs.Format) -> None:
    logs.configure("info", form, fd=file[0])

    log.info("request", path="/x\n00:00:00 error forged \x1b[31m")

    assert len(file[1].read_text(encoding="utf-8").splitlines()) == 1
    assert "\x1b" not in file[1].read_text(encoding="utf-8")


def test_a_line_has_a_bounded_length_and_stays_json(file: tuple[int, Path]) -> None:
    logs.configure("info", "json", fd=file[0])

    log.info("request", path="x" * 1_000_000)
    many: dict[str, Any] = {f"field{number}": "x" * 900 for number in range(100)}
    log.info("request", **many)

    lengths = [len(line) for line in file[1].read_text(encoding="utf-8").splitlines()]
    assert max(lengths) <= logs.MAX_LINE_BYTES
    assert [event["action"] for event in events(file[1])] == ["request", "request"]


def test_libraries_speak_through_the_same_lines(file: tuple[int, Path]) -> None:
    logs.configure("info", "json", fd=file[0])

    logging.getLogger("uvicorn.error").warning("Invalid HTTP request %s", "received.")
    logging.getLogger("threadkeep.test").warning("tells", extra={"action": "upstream_away", "upstream": "a"})

    library, own = events(file[1])
    assert (library["action"], library["message"]) == ("uvicorn.error", "Invalid HTTP request received.")
    assert (own["action"], own["upstream"]) == ("upstream_away", "a")


def test_writing_to_a_closed_stream_does_no_harm() -> None:
    read, write = os.pipe()
    logs.configure("info", "json", fd=write)
    os.close(read)
    os.close(write)

    log.info("nobody_hears")


def test_a_pipe_that_nobody_reads_holds_nothing_up_and_what_it_cost_is_told() -> None:
    read, write = os.pipe()
    try:
        logs.configure("info", "json", fd=write)
        lines = logs.MAX_WAITING_LINES + 2_000
        for number in range(lines):
            log.info("written", number=number)

        received = b""
        while b"log_lines_dropped" not in received:
            received += os.read(read, 65536)
            log.info("after")

        heard = [json.loads(line) for line in received.splitlines() if line.endswith(b"}")]
        dropped = next(event["count"] for event in heard if event["action"] == "log_lines_dropped")
        assert dropped + sum(event["action"] == "written" for event in heard) == lines
    finally:
        os.close(read)
        os.close(write)
