"""What an answer costs that comes in very many pieces: CPU of the server, and how much memory it takes at worst.

    .venv/bin/python benchmarks/pieces.py                     100,000 pieces, streamed, polled and left
    .venv/bin/python benchmarks/pieces.py --pieces 20000 --runs 4

The model server sends all it has as fast as it is taken. Every text is checked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.bench import Connection, Watched, WrongAnswer, model_server, threadkeep, unchunked  # noqa: E402
from benchmarks.model_server import expected  # noqa: E402 - found by the line above

POLL_S = 0.05


class Run:
    """One run with an answer in so many pieces."""

    def __init__(self, connection: Connection, pieces: int) -> None:
        self._connection = connection
        self._text = expected(pieces)
        self._model = f"words-{pieces}"

    async def streamed(self) -> None:
        thread, body = await self._thread()
        content = unchunked(await self._connection.stream(f"/threads/{thread}/runs", {**body, "stream": True}))
        deltas = [
            json.loads(event.partition(b"\ndata: ")[2])["delta"]["content"][0]["text"]["value"]
            for event in content.split(b"\n\n")
            if b"event: thread.message.delta\n" in event
        ]
        if "".join(deltas) != self._text:
            raise WrongAnswer("the stream has another text")

    async def polled(self) -> None:
        thread, body = await self._thread()
        run = await self._connection.call("POST", f"/threads/{thread}/runs", body)
        while run["status"] in ("queued", "in_progress"):
            await asyncio.sleep(POLL_S)
            run = await self._connection.call("GET", f"/threads/{thread}/runs/{run['id']}")
        page = await self._connection.call("GET", f"/threads/{thread}/messages?limit=1")
        if run["status"] != "completed" or page["data"][0]["content"][0]["text"]["value"] != self._text:
            raise WrongAnswer(f"the run is {run['status']}: {run['last_error']}")

    async def _thread(self) -> tuple[str, dict[str, Any]]:
        assistant = await self._connection.call("POST", "/assistants", {"model": self._model})
        messages = [{"role": "user", "content": "Hi"}]
        thread = await self._connection.call("POST", "/threads", {"messages": messages})
        return thread["id"], {"assistant_id": assistant["id"]}


def begin_peak(process: int) -> None:
    """What ``highest_mb`` says counts from here on."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def highest_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6


async def measure(url: str, process: int, pieces: int, runs: int) -> None:
    watched = Watched(process, None)
    async with Connection(url) as connection:
        await Run(connection, 10).streamed()
        print(f"at rest: {watched.rss_mb():.0f} MB", flush=True)
        for name in ("polled", "streamed"):
            for _ in range(runs):
                begin_peak(process)
                before, (cpu, _), began = watched.rss_mb(), watched.cpu_s(), time.perf_counter()
                run = Run(connection, pieces)
                await (run.streamed() if name == "streamed" else run.polled())
                cpu, wall = watched.cpu_s()[0] - cpu, time.perf_counter() - began
                print(
                    f"{name:9}{pieces:9,} pieces: {cpu:6.2f} s CPU ({cpu / pieces * 1e6:5.1f} µs a piece), "
                    f"{wall:6.2f} s, at worst {highest_mb(process) - before:+5.0f} MB",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pieces", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=2)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        model_server() as upstream,
        threadkeep(upstream, Path(folder), None) as (url, process),
    ):
        uvloop.run(measure(url, process, given.pieces, given.runs))


if __name__ == "__main__":
    main()
