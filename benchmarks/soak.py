"""Whether anything grows while the server works: memory, files it has open, threads.

    .venv/bin/python benchmarks/soak.py                     ten minutes at 64 streams, SQLite
    .venv/bin/python benchmarks/soak.py --postgres          the same on a PostgreSQL started for it
    .venv/bin/python benchmarks/soak.py --minutes 60

So many clients hold conversations, each turn a streamed run of 200 words, of which every word is checked. Beside them
others are unpleasant: they leave in the midst of a stream, cancel, ask for what is not there, send what is refused.
What the server has is looked at every second. The last minute is held against the one after the warm-up; it fails when
memory or the number of open files has grown by more than 5 %, or when any answer was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.bench import (  # noqa: E402 - found by the line above
    HELLO,
    WORDS,
    Connection,
    Watched,
    WrongAnswer,
    check_stream,
    databases,
    model_server,
    threadkeep,
)

MOST_GROWTH = 0.05
# Of one conversation; then it is deleted and another begins.
TURNS = 10
SHOWN_EVERY_S = 30


class Sample(NamedTuple):
    at: float
    rss_mb: float
    files: int
    threads: int


def look(process: int) -> Sample:
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    rss_mb = int(status["VmRSS"].split()[0]) * 1024 / 1e6
    return Sample(time.monotonic(), rss_mb, len(list((folder / "fd").iterdir())), int(status["Threads"]))


class Soak:
    def __init__(self, url: str, process: int, *, streams: int, unpleasant: int, pause_ms: int) -> None:
        self._url = url
        self._process = process
        self._streams = streams
        self._unpleasant = unpleasant
        self._model = f"words-{WORDS}-{pause_ms}ms"
        self._stop = asyncio.Event()
        self.samples: list[Sample] = []
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []

    async def run(self, seconds: float) -> None:
        async with Connection(self._url) as connection:
            assistant = (await connection.call("POST", "/assistants", {"model": self._model}))["id"]
        clients = [asyncio.create_task(self._client(number, assistant)) for number in range(self._streams)]
        clients += [asyncio.create_task(self._nuisance(assistant)) for _ in range(self._unpleasant)]
        began = shown = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            self.samples.append(look(self._process))
            if now - shown >= SHOWN_EVERY_S:
                shown = now
                self._show(now - began)
            await asyncio.sleep(1)
        self._stop.set()
        await asyncio.gather(*clients)
        self._show(time.monotonic() - began)

    def _show(self, passed_s: float) -> None:
        last = self.samples[-1]
        print(
            f"  {passed_s:5.0f} s  {last.rss_mb:6.1f} MB  {last.files:4} files  {last.threads:3} threads  "
            f"{self.counts['runs']:7,} runs  {len(self.errors)} errors",
            flush=True,
        )

    async def _client(self, number: int, assistant: str) -> None:
        # Not all at the same moment, as in life.
        await asyncio.sleep(number / self._streams)
        async with Connection(self._url) as connection:
            while not self._stop.is_set():
                try:
                    await self._conversation(connection, assistant)
                except Exception as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    return

    async def _conversation(self, connection: Connection, assistant: str) -> None:
        thread = (await connection.call("POST", "/threads", {}))["id"]
        for turn in range(TURNS):
            if self._stop.is_set():
                return
            await connection.call("POST", f"/threads/{thread}/messages", HELLO)
            body = {"assistant_id": assistant, "stream": True}
            check_stream(await connection.stream(f"/threads/{thread}/runs", body))
            self.counts["runs"] += 1
            listed = await connection.call("GET", f"/threads/{thread}/messages?limit=100")
            if len(listed["data"]) != 2 * (turn + 1):
                raise WrongAnswer(f"{len(listed['data'])} messages after {turn + 1} turns")
        await connection.call("DELETE", f"/threads/{thread}")

    async def _nuisance(self, assistant: str) -> None:
        """Each time on a connection of its own, which it does not close well."""
        while not self._stop.is_set():
            try:
                async with Connection(self._url) as connection:
                    thread = (await connection.call("POST", "/threads", {"messages": [HELLO]}))["id"]
                    run = await connection.call("POST", f"/threads/{thread}/runs", {"assistant_id": assistant})
                    await connection.call("POST", f"/threads/{thread}/runs/{run['id']}/cancel", {})
                    self.counts["cancelled"] += 1
                    for path in ("/threads/thread_none", "/nothing", f"/threads/{thread}/runs?limit=x"):
                        await self._refused(connection, path)
                async with Connection(self._url) as connection:
                    thread = (await connection.call("POST", "/threads", {"messages": [HELLO]}))["id"]
                    await connection.leave(f"/threads/{thread}/runs", {"assistant_id": assistant, "stream": True}, 0.3)
                    self.counts["left"] += 1
            except Exception as error:
                self.errors.append(f"unpleasant: {type(error).__name__}: {error}")
                return
            await asyncio.sleep(0.2)

    async def _refused(self, connection: Connection, path: str) -> None:
        try:
            await connection.call("GET", path)
        except WrongAnswer as refusal:
            if " 40" not in str(refusal):
                raise
            self.counts["refused"] += 1
        else:
            raise WrongAnswer(f"GET {path} was not refused")


def verdict(samples: list[Sample], warm_up_s: float, window_s: float) -> tuple[dict[str, float], list[str]]:
    """What was found, and what is wrong with it."""
    began, ended = samples[0].at, samples[-1].at
    first = [sample for sample in samples if warm_up_s <= sample.at - began <= warm_up_s + window_s]
    last = [sample for sample in samples if ended - sample.at <= window_s]
    found = {
        f"{name}_{when}": statistics.median(getattr(sample, name) for sample in some)
        for name in ("rss_mb", "files", "threads")
        for when, some in (("first", first), ("last", last))
    }
    found["growth"] = found["rss_mb_last"] / found["rss_mb_first"] - 1
    wrong: list[str] = []
    if found["growth"] > MOST_GROWTH:
        wrong.append(f"memory grew by {found['growth']:.1%}")
    # Connections come and go, of clients and to the model server; what is lost stays.
    if found["files_last"] > found["files_first"] * (1 + MOST_GROWTH) + 2:
        wrong.append(f"{found['files_last'] - found['files_first']:.0f} more files are open")
    if found["threads_last"] > found["threads_first"] + 2:
        wrong.append(f"{found['threads_last'] - found['threads_first']:.0f} more threads run")
    return found, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="start a PostgreSQL from the development tools")
    parser.add_argument("--database-url", metavar="URL", help="an empty PostgreSQL database to use instead of SQLite")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--unpleasant", type=int, default=4)
    parser.add_argument("--pause-ms", type=int, default=20, help="between the words of an answer")
    parser.add_argument("--json", type=Path, help="write the samples to this file")
    arguments = parser.parse_args()
    seconds = arguments.minutes * 60
    # What is kept for a while has been kept for that long by then, or is bounded and full.
    warm_up_s, window_s = seconds * 0.2, min(60.0, seconds * 0.1)
    print(f"{arguments.minutes:g} minutes at {arguments.streams} streams", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="threadkeep-soak-") as folder,
        model_server() as upstream_url,
        databases(arguments) as (new_database, _),
        threadkeep(upstream_url, Path(folder), new_database(), "--code-interpreter", "off") as (url, process),
    ):
        soak = Soak(
            url,
            process,
            streams=arguments.streams,
            unpleasant=arguments.unpleasant,
            pause_ms=arguments.pause_ms,
        )
        cpu_before = Watched(process, None).cpu_s()[0]
        uvloop.run(soak.run(seconds))
        cpu_s = Watched(process, None).cpu_s()[0] - cpu_before
        log = (Path(folder) / "log").read_bytes()
    found, wrong = verdict(soak.samples, warm_up_s, window_s)
    lines = [line for line in log.splitlines() if line.startswith(b"{")]
    bad = Counter(json.loads(line)["action"] for line in lines if json.loads(line)["level"] in ("warning", "error"))
    if bad.pop("error", 0):
        wrong.append("the server logged errors")
    wrong += [f"{len(soak.errors)} errors, the first: {soak.errors[0]}"] if soak.errors else []
    words = soak.counts["runs"] * WORDS
    print(f"\n  {soak.counts['runs']:,} runs, {words:,} words, {dict(soak.counts)}")
    print(f"  memory {found['rss_mb_first']:.1f} MB -> {found['rss_mb_last']:.1f} MB ({found['growth']:+.1%})")
    print(f"  files {found['files_first']:.0f} -> {found['files_last']:.0f}")
    print(f"  threads {found['threads_first']:.0f} -> {found['threads_last']:.0f}")
    print(f"  CPU {cpu_s / seconds:.0%} of a core, {cpu_s / max(words, 1) * 1e6:.0f} µs a word")
    print(f"  log {len(log) / 1e6:.1f} MB in {len(lines):,} lines; not info: {dict(bad)}")
    if arguments.json:
        arguments.json.write_text(json.dumps([sample._asdict() for sample in soak.samples]) + "\n")
    if wrong:
        sys.exit("\n".join(f"  WRONG: {each}" for each in wrong))
    print("  nothing grew")


if __name__ == "__main__":
    main()
