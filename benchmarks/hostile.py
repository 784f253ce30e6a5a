"""What healthy clients feel while somebody sends the server everything that it should not be sent.

    .venv/bin/python benchmarks/hostile.py                     20,000 hostile requests, SQLite
    .venv/bin/python benchmarks/hostile.py --database-url URL  the same on a PostgreSQL of yours (an empty one)
    .venv/bin/python benchmarks/hostile.py --large 0           without bodies of megabytes

The server runs as a process of its own, healthy clients in another; this process is the hostile one. By turns the
healthy clients have the server for themselves and share it, so that what else the machine does falls on both. It fails
if any answer is a fault of the server or not in the envelope, if one is missing, or if the healthy clients' p99 is more
than three times that of the quiet.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import httpx2
from hypothesis import HealthCheck, Phase, given, seed, settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from tests.fuzz.hostile import HostileRequest, large_requests, requests  # noqa: E402 - found by the line above
from tests.fuzz.wire import Wire, complaint, objects  # noqa: E402

TURNS = 10
HEALTHY = 4
HEALTHY_PAUSE_S = 0.02
MOST = 3.0
# A life of the objects that hostile requests are about: some delete them.
LIVES = 250


# --- hostile


def made(count: int, number: int) -> list[HostileRequest]:
    found: list[HostileRequest] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(requests())
    def make(request: HostileRequest) -> None:
        found.append(request)

    make()
    return found


class Hostile:
    """So many connections, each sending its share at its pace."""

    def __init__(self, url: str, key: str, rate: float, connections: int) -> None:
        self._url = url
        self._port = int(url.rpartition(":")[2])
        self._key = key
        self._interval_s = connections / rate
        self._connections = connections
        self._lock = threading.Lock()
        self._ids: dict[str, str] = {}
        self.statuses: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.slowest: dict[str, float] = {}

    def send(self, all_: list[HostileRequest]) -> float:
        """How long it took."""
        began = time.perf_counter()
        threads = [
            threading.Thread(target=self._send, args=(all_[number :: self._connections],))
            for number in range(self._connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    def _send(self, share: list[HostileRequest]) -> None:
        wire = Wire(self._port)
        due = time.perf_counter()
        ids: dict[str, str] = {}
        with client(self._url, self._key) as http:
            for number, request in enumerate(share):
                if number % LIVES == 0:
                    ids = objects(http)
                time.sleep(max(0.0, due - time.perf_counter()))
                # What was late is not made up for: the server would get it all at once.
                due = max(due + self._interval_s, time.perf_counter())
                began = time.perf_counter()
                reply = wire.ask(request.method, request.sent(self._key, ids))
                took = time.perf_counter() - began
                told = complaint(request, reply)
                with self._lock:
                    self.statuses["none" if reply is None else f"{reply.status}"] += 1
                    self.slowest[request.operation] = max(self.slowest.get(request.operation, 0), took)
                    if told is not None:
                        self.complaints.append(f"{request.operation}: {told}: {request!r:.600}")
        wire.close()


# --- healthy


def client(url: str, key: str) -> httpx2.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx2.Client(base_url=f"{url}/v1", headers=headers, timeout=60, trust_env=False)


def healthy(url: str, key: str, hostile_begins: Event, stop: Event, told: Any) -> None:
    """Clients that do what clients do, each at its pace, until they are stopped; tells their waits."""
    waits: tuple[list[float], list[float]] = ([], [])
    failures: list[str] = []

    def go_on() -> None:
        with client(url, key) as http:

            def timed(method: str, path: str, body: Any = None) -> Any:
                time.sleep(HEALTHY_PAUSE_S)
                is_hostile = hostile_begins.is_set()
                began = time.perf_counter()
                answer = http.request(method, path, json=body)
                waits[is_hostile].append(time.perf_counter() - began)
                if answer.status_code != 200:
                    failures.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return answer.json()

            while not stop.is_set():
                thread = timed("POST", "/threads", {"messages": [{"role": "user", "content": "Hello"}]})
                path = f"/threads/{thread['id']}"
                for _ in range(5):
                    timed("POST", f"{path}/messages", {"role": "user", "content": "Hello again"})
                    timed("GET", f"{path}/messages?limit=20")
                    timed("GET", path)

    threads = [threading.Thread(target=go_on) for _ in range(HEALTHY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.put((waits, failures))


def percentile(waits: list[float], share: float) -> float:
    """In milliseconds."""
    return sorted(waits)[int(len(waits) * share)] * 1000


# --- both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000, help="hostile requests (default: 20,000)")
    parser.add_argument("--rate", type=float, default=200, help="hostile requests a second (default: 200)")
    parser.add_argument("--connections", type=int, default=8, help="of the hostile client (default: 8)")
    parser.add_argument("--large", type=float, default=8, help="megabytes of the largest bodies (default: 8)")
    parser.add_argument("--large-every", type=int, default=200, help="one large body among so many (default: 200)")
    parser.add_argument("--quiet", type=float, default=60, help="seconds of quiet (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of what is sent (default: 1)")
    parser.add_argument("--database-url", metavar="URL", help="an empty PostgreSQL database to use instead of SQLite")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    given_ = parser.parse_args()
    count = int(given_.requests)
    with multiprocessing.Pool(2) as pool:
        halves = pool.starmap(made, [(count // 2, given_.seed), (count - count // 2, given_.seed + 1)])
    all_ = [request for half in halves for request in half]
    if given_.large:
        worst = large_requests(given_.large)
        # One more than asked for, so that the turns get their shares.
        for number, at in enumerate(range(given_.large_every // 2, len(all_), given_.large_every + 1)):
            all_[at] = worst[number % len(worst)]
    print(f"{len(all_):,} hostile requests made")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", folder]
        command += ["--log-level", "warning"]
        if given_.database_url:
            command += ["--database-url", given_.database_url]
        with (Path(folder) / "log.txt").open("wb") as log:
            server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
            try:
                assert server.stdout is not None
                url = next(line.split()[-1] for line in server.stdout if line.startswith("listening on "))
                figures = measured(url, all_, given_)
                assert server.poll() is None, "the server ended"
            finally:
                server.terminate()
                server.wait()
    if given_.json:
        given_.json.write_text(json.dumps(figures, indent=1))
    for name, value in figures.items():
        print(f"{name:<42} {value}")
    sys.exit(0 if figures["held"] else 1)


def measured(url: str, all_: list[HostileRequest], given_: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    begins, stop, told = context.Event(), context.Event(), context.Queue()
    beside = context.Process(target=healthy, args=(url, "healthy", begins, stop, told))
    beside.start()
    # The hostile client's own work must not be what the others wait for.
    os.nice(10)
    hostile = Hostile(url, "hostile", given_.rate, given_.connections)
    took = 0.0
    for turn in range(TURNS):
        time.sleep(given_.quiet / TURNS)
        begins.set()
        took += hostile.send(all_[turn::TURNS])
        begins.clear()
    stop.set()
    (quiet, loud), failures = told.get()
    beside.join()
    for line in (hostile.complaints + failures)[:20]:
        print(line)
    p99 = percentile(quiet, 0.99), percentile(loud, 0.99)
    faults = sum(number for status, number in hostile.statuses.items() if status >= "5")
    return {
        "hostile requests": sum(hostile.statuses.values()),
        "hostile requests a second": round(len(all_) / took, 1),
        "answers by status": dict(sorted(hostile.statuses.items())),
        "answers of 5xx, and none at all": faults,
        "answers that were complained of": len(hostile.complaints),
        "healthy requests, quiet and not": (len(quiet), len(loud)),
        "healthy requests that failed": len(failures),
        "healthy p50 ms, quiet and not": (round(percentile(quiet, 0.5), 2), round(percentile(loud, 0.5), 2)),
        "healthy p99 ms, quiet and not": (round(p99[0], 2), round(p99[1], 2)),
        "times": round(p99[1] / p99[0], 2),
        "slowest hostile ms": {
            name: round(wait * 1000) for name, wait in sorted(hostile.slowest.items(), key=lambda each: -each[1])[:8]
        },
        "held": not hostile.complaints and not failures and p99[1] <= MOST * p99[0],
    }


if __name__ == "__main__":
    main()
