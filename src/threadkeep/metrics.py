"""What is counted for `GET /metrics`, in Prometheus' text format.

What happens is counted where it happens, by a `Counter` of this process. What is so at a moment is asked when somebody
wants to know it: a `Gauge`, which `app` makes. Labels have few values, none of which a client can choose: no project,
no id, no model.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

Values = Mapping[tuple[str, ...], float]

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
# A gauge that cannot be read soon is left out: whoever asks wants to know of the others all the same.
READ_S: Final = 2.0
_STARTED_AT: Final = time.time()


class Counter:
    """A number that only rises, for each combination of its labels' values. Used on the event loop."""

    __slots__ = ("labels", "meaning", "name", "values")

    def __init__(self, name: str, meaning: str, labels: tuple[str, ...] = ()) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels
        # Without labels it is there from the beginning; with them its values are not known before they come.
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0}

    def add(self, *values: str) -> None:
        self.values[values] = self.values.get(values, 0) + 1


class Level:
    """A number of things that are there at the moment."""

    __slots__ = ("now",)

    def __init__(self) -> None:
        self.now = 0


class Gauge(NamedTuple):
    """What is so when it is asked."""

    name: str
    meaning: str
    read: Callable[[], Values | float | Awaitable[float]]
    labels: tuple[str, ...] = ()
    # counter: a gauge in form only, of something that somebody else counts.
    kind: str = "gauge"


STREAMS = Level()
REQUESTS = Counter(
    "threadkeep_http_requests_total", "Requests that were answered, by the status of the answer.", ("status",)
)
RUNS = Counter(
    "threadkeep_runs_settled_total",
    "Runs that came to rest on this node, by their status then; requires_action goes on when the client answers.",
    ("status",),
)
UPSTREAM_CALLS = Counter(
    "threadkeep_upstream_calls_total",
    "Turns that models were asked for by runs: answered, stopped (the run was cancelled, expired or handed over), or "
    "the code of the failure.",
    ("upstream", "outcome"),
)
DATABASE_CALLS = Counter("threadkeep_database_calls_total", "Transactions, by kind: read or write.", ("kind",))
DATABASE_ERRORS = Counter(
    "threadkeep_database_errors_total", "Transactions that failed because the database was away or too slow.", ("kind",)
)

COUNTERS: Final = (REQUESTS, RUNS, UPSTREAM_CALLS, DATABASE_CALLS, DATABASE_ERRORS)


class Lag:
    """How late the event loop comes to what is due: what a busy process feels like from within."""

    EVERY_S = 0.25
    WINDOW_S = 15.0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst = self._worst_before = 0.0
        self._window_ends = self._loop.time() + self.WINDOW_S
        self._look_at(self._loop.time() + self.EVERY_S)

    @property
    def worst(self) -> float:
        """In the last 15 to 30 seconds."""
        return max(self._worst, self._worst_before)

    def close(self) -> None:
        self._timer.cancel()

    def _look_at(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._look, when)

    def _look(self, due: float) -> None:
        now = self._loop.time()
        self._worst = max(self._worst, now - due)
        if now >= self._window_ends:
            self._worst_before, self._worst, self._window_ends = self._worst, 0.0, now + self.WINDOW_S
        self._look_at(now + self.EVERY_S)


async def text(gauges: Iterable[Gauge]) -> bytes:
    """The whole answer."""
    lines: list[str] = []
    for counter in COUNTERS:
        _write(lines, counter.name, counter.meaning, "counter", counter.labels, counter.values)
    for gauge in gauges:
        try:
            read = gauge.read()
            if isinstance(read, Awaitable):
                async with asyncio.timeout(READ_S):
                    read = await read
        except Exception:
            continue
        values = read if isinstance(read, Mapping) else {(): read}
        _write(lines, gauge.name, gauge.meaning, gauge.kind, gauge.labels, values)
    return "".join(lines).encode()


def _write(lines: list[str], name: str, meaning: str, kind: str, labels: tuple[str, ...], values: Values) -> None:
    lines.append(f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n")
    for of, value in values.items():
        pairs = ",".join(f'{label}="{_escaped(each)}"' for label, each in zip(labels, of, strict=True))
        lines.append(f"{name}{'{' + pairs + '}' if pairs else ''} {value:.10g}\n")


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


# --- the process, under the names that Prometheus' own clients use


def of_process() -> list[Gauge]:
    gauges = [
        Gauge(
            "process_cpu_seconds_total", "Processor time of the server's process.", time.process_time, kind="counter"
        ),
        Gauge("process_start_time_seconds", "When it started, in unix seconds.", lambda: _STARTED_AT),
        Gauge(
            "process_max_fds",
            "How many descriptors it may have open.",
            lambda: float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        ),
    ]
    if sys.platform == "linux":
        gauges += [
            Gauge("process_resident_memory_bytes", "Memory that it occupies.", lambda: _pages(1)),
            Gauge("process_virtual_memory_bytes", "Memory that it has mapped.", lambda: _pages(0)),
            Gauge("process_open_fds", "Descriptors that it has open.", _descriptors),
        ]
    return gauges


def _descriptors() -> float:
    with os.scandir("/proc/self/fd") as descriptors:
        # Less the one that is open to see them.
        return float(sum(1 for _ in descriptors) - 1)


def _pages(column: int) -> float:
    return float(Path("/proc/self/statm").read_text("ascii").split()[column]) * resource.getpagesize()
