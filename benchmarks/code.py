"""What the code interpreter adds to a run, beyond the time of the model and of the code itself.

    .venv/bin/python benchmarks/code.py                     with the environment of this checkout (./test makes it)
    .venv/bin/python benchmarks/code.py --environment DIR   with another

The model is scripted and answers at once. What is measured is the time from its reply, which calls the tool, to its
next request, which has the outcome: files in, the code, its output and files out, and what is stored of them. What the
code itself takes is printed by the code and taken off. Wall times: server, boxes and model share the machine's cores.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from threadkeep.upstream.scripted import Call, Pause, Received, Say, ScriptedUpstream, Step  # noqa: E402

MIB = 1024**2
SESSIONS = 16
DELTAS = 300
DELTA_S = 0.01
TIMED = "import time\nbegan = time.perf_counter()\n{}\nprint('took', time.perf_counter() - began)"
FIGURE = "import matplotlib.pyplot as plt\nplt.plot(range(100))\nplt.show()"
TEN_MIB = "open('/mnt/data/out.bin', 'wb').write(bytes(10 * 1024 * 1024))"
BUSY = "import time\nuntil = time.time() + {}\nwhile time.time() < until: pass"


class Model(ScriptedUpstream):
    """Calls the tool with the newest question as its code, then answers; or talks, when it is told to.

    ``asked`` is when each request about a question came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[str, list[float]] = {}
        self.said: dict[str, str] = {}

    def entry_for(self, request: Received) -> list[Step]:
        messages: list[dict[str, Any]] = request.body["messages"]
        question = next(message["content"] for message in reversed(messages) if message["role"] == "user")
        self.asked.setdefault(question, []).append(time.perf_counter())
        if question.startswith("talk"):
            return [step for _ in range(DELTAS) for step in (Say("word "), Pause(DELTA_S))]
        if messages[-1]["role"] == "tool":
            self.said[question] = messages[-1]["content"]
            return [Say("done")]
        return [Call("code_interpreter", {"code": question.partition("\n")[2]})]


class Client:
    def __init__(self, url: str, model: Model) -> None:
        self.http = httpx2.Client(base_url=f"{url}/v1", headers={"authorization": "Bearer any"}, timeout=300)
        self.model = model
        self.number = 0
        body = {"model": "scripted", "tools": [{"type": "code_interpreter"}]}
        self.assistant: str = self.http.post("/assistants", json=body).json()["id"]

    def thread(self) -> str:
        return self.http.post("/threads", json={}).json()["id"]

    def run(self, thread: str, code: str) -> float:
        """How long the call took in seconds, without what its code says that it took."""
        self.number += 1
        question = f"# {self.number} in {thread}\n{code}"
        self._stream(thread, question)
        first, second = self.model.asked[question]
        took = re.search(r"^took ([\d.e-]+)", self.model.said[question], re.MULTILINE)
        assert took or "took" not in code, self.model.said[question]
        return second - first - (float(took[1]) if took else 0.0)

    def gaps(self) -> list[float]:
        """Between the words of a stream without code, in seconds."""
        self.number += 1
        at = self._stream(self.thread(), f"talk {self.number}")
        return [later - earlier for earlier, later in pairwise(at)]

    def _stream(self, thread: str, question: str) -> list[float]:
        self.http.post(f"/threads/{thread}/messages", json={"role": "user", "content": question})
        at: list[float] = []
        body = {"assistant_id": self.assistant, "stream": True}
        with self.http.stream("POST", f"/threads/{thread}/runs", json=body) as response:
            last = ""
            for line in response.iter_lines():
                if line == "event: thread.message.delta":
                    at.append(time.perf_counter())
                elif line.startswith("event: thread.run."):
                    last = line
        assert last == "event: thread.run.completed", last
        return at


def below(pid: int) -> set[int]:
    found: set[int] = set()
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        children = {int(child) for child in tasks.read_text().split()}
        found |= children.union(*map(below, children))
    return found


def pss_bytes(pids: set[int]) -> int:
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) * 1024 if found else 0
    return total


@contextmanager
def serving(model: Model, environment: Path, pool: int) -> Generator[tuple[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", folder]
        command += ["--upstream-url", model.url, "--code-interpreter", "on", "--sandbox-environment", str(environment)]
        command += ["--sandbox-pool", str(pool), "--sandbox-sessions", str(SESSIONS + 8)]
        command += ["--max-concurrent-runs", "64", "--log-level", "error"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith("listening on "):
                    threading.Thread(target=server.stdout.read, daemon=True).start()
                    yield line.split()[-1], server.pid
                    return
            raise SystemExit("the server did not start")
        finally:
            server.terminate()
            server.wait(30)


def until_warm(pid: int, boxes: int) -> None:
    """Until so many boxes wait, their imports done: the server's children use no more time."""
    deadline = time.monotonic() + 120
    before = -1.0
    while time.monotonic() < deadline:
        pids = below(pid)
        used = sum(cpu_s(each) for each in pids)
        roots = [each for each in pids if parent_of(each) == pid]
        if len(roots) >= boxes and used == before:
            return
        before = used
        time.sleep(0.5)
    raise SystemExit("the pool did not fill")


def cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def report(what: str, times: list[float], asked_ms: float | None) -> None:
    ms = sorted(1000 * each for each in times)
    asked = "" if asked_ms is None else f"   asked <= {asked_ms:g}"
    print(f"{what:<58} p50 {statistics.median(ms):7.1f}  max {ms[-1]:7.1f} ms{asked}", flush=True)


def p99(times: list[float]) -> float:
    return sorted(times)[int(len(times) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=ROOT / ".sandbox")
    parser.add_argument("--pool", type=int, default=2)
    arguments = parser.parse_args()
    with Model() as model, serving(model, arguments.environment.absolute(), arguments.pool) as (url, pid):
        client = Client(url, model)
        until_warm(pid, arguments.pool)
        warm = pss_bytes(below(pid)) / MIB / arguments.pool
        print(f"idle: server {pss_bytes({pid}) / MIB:.0f} MB PSS, {warm:.0f} MB a warm box")
        first: list[float] = []
        for _ in range(5):
            until_warm(pid, arguments.pool)
            first.append(client.run(client.thread(), "1 + 1"))
        report("first 1+1 of a session, from the pool", first, 40)
        thread = client.thread()
        client.run(thread, "1 + 1")
        report("later 1+1", [client.run(thread, "1 + 1") for _ in range(50)], 10)
        ten = [client.run(thread, TIMED.format(TEN_MIB)) for _ in range(10)]
        report("a file of 10 MiB out", ten, 60)
        client.run(thread, FIGURE)
        report("a figure, drawn and stored", [client.run(thread, FIGURE) for _ in range(5)], 500)

        def one_plus_one(thread: str) -> float:
            return client.run(thread, "1 + 1")

        with ThreadPoolExecutor(SESSIONS) as others:
            threads = [client.thread() for _ in range(SESSIONS)]
            list(others.map(one_plus_one, threads))
            inside = below(pid)
            boxes = sum(parent_of(each) == pid for each in inside)
            print(f"{boxes} boxes, {SESSIONS} of them in use: {pss_bytes(inside) / MIB / boxes:.0f} MB PSS each")
            at_once = [took for _ in range(5) for took in others.map(one_plus_one, threads)]
            report(f"1+1 in {SESSIONS} sessions at once", at_once, 150)
            busy = [others.submit(client.run, each, BUSY.format(6)) for each in threads[: SESSIONS - 1]]
            time.sleep(1)
            beside = [client.run(threads[-1], "1 + 1") for _ in range(20)]
            report(f"1+1 beside {SESSIONS - 1} sessions that compute", beside, 150)
            for each in busy:
                each.result()
            quiet = client.gaps()
            busy = [others.submit(client.run, each, BUSY.format(6)) for each in threads[:4]]
            time.sleep(1)
            loud = client.gaps()
            for each in busy:
                each.result()
            ratio = p99(loud) / p99(quiet)
            print(
                f"gap between words of another run, every {DELTA_S * 1000:g} ms: p99 {p99(quiet) * 1000:.1f} ms alone, "
                f"{p99(loud) * 1000:.1f} ms beside 4 sessions that compute: {ratio:.1f}x   asked <= 2"
            )
    print(json.dumps({"cores": os.cpu_count(), "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
