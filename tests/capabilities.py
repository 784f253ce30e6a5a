"""Tests that this machine cannot run: each says what is missing and the command that brings it.

The end of a run names them once more, grouped. Where nothing may be skipped (THREADKEEP_TEST_STRICT=1, which
./test --strict and CI=true set) every skip is a failure: a test that silently does not run guards nothing.
"""

import os
import re
from collections import Counter
from collections.abc import Generator
from typing import NoReturn, cast

import pytest

_REASON = re.compile(r"this machine has no (?P<what>.+); to have it: (?P<fix>[^\n]+)")


def missing(what: str, *, fix: str) -> NoReturn:
    """Ends the test that asks. `fix` is the exact command that brings what is missing."""
    pytest.skip(f"this machine has no {what}; to have it: {fix}")


def is_strict() -> bool:
    return os.environ.get("THREADKEEP_TEST_STRICT", "") not in ("", "0")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    # An expected failure reports itself as skipped too, but it did run.
    if not hasattr(report, "wasxfail"):
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if is_strict() and report.skipped:
        report.longrepr = f"{_words_of(report)}\n(and nothing may be skipped here: THREADKEEP_TEST_STRICT is set)"
        report.outcome = "failed"


def _words_of(report: object) -> str:
    """A skip's cause is a file, a line and a text; a failure's is an object that prints itself."""
    cause = getattr(report, "longrepr", None)
    return str(cast("tuple[str, int, str]", cause)[2] if isinstance(cause, tuple) else cause)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None, None, None]:
    yield
    stopped: Counter[tuple[str, str]] = Counter()
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if reason := _REASON.search(_words_of(report)):
                stopped[reason["what"], reason["fix"]] += 1
    if stopped:
        terminalreporter.section("what this machine could not run")
        for (what, fix), count in sorted(stopped.items()):
            terminalreporter.line(f"no {what}: {count} {'test' if count == 1 else 'tests'}. To have it: {fix}")
