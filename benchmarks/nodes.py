"""What several nodes on one PostgreSQL do: what a turn costs with one, two and three of them, and what a death costs.

    .venv/bin/python benchmarks/nodes.py                     on a PostgreSQL started for it
    .venv/bin/python benchmarks/nodes.py --only turns

turns    plain turns (a message, a run, polling, the answer), so many at once at each node: how many a second, and CPU
         time for each, of all nodes together. Nodes share the machine: the figure to compare is the CPU. "Apart" are
         three that have nothing to do with each other, each with a database of its own.
death    64 streamed runs on three nodes, one of which is killed in their midst: how long until the last of its runs is
         another's, and that every run ends with every word.
rejoin   streams that are left in their midst at one node and joined again at another: how long until the first event,
         and that both parts together are the whole.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.bench import (  # noqa: E402 - found by the line above
    HELLO,
    WORDS,
    Connection,
    Watched,
    WrongAnswer,
    databases,
    expected,
    model_server,
    threadkeep,
)

SCENARIOS = ("turns", "death", "rejoin")
LEASE_S = 3.0
# Seldom: on a machine that nodes, clients and database share, what takes longer would be polled more often, and the
# polls would be taken for the cost of the nodes.
POLL_S = 0.1


@contextlib.contextmanager
def nodes(upstream_url: str, database_urls: list[str], *flags: str) -> Iterator[list[tuple[str, int]]]:
    """A node for each of the databases, which may be one and the same: their URLs and processes."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadkeep-nodes-")))
        started: list[tuple[str, int]] = []
        for number, database_url in enumerate(database_urls):
            place = folder / str(number)
            place.mkdir()
            started.append(
                stack.enter_context(
                    threadkeep(upstream_url, place, database_url, "--blobs-url", f"file://{folder}/blobs", *flags)
                )
            )
        yield started


# --- turns


async def turns(started: list[tuple[str, int]], count: int, at_once: int) -> tuple[float, float, float, float]:
    """Turns a second, CPU of the nodes for each, its median time, and how often each was polled."""
    assistants: list[str] = []
    for url, _ in started:
        async with Connection(url) as connection:
            assistants.append((await connection.call("POST", "/assistants", {"model": f"words-{WORDS}"}))["id"])
    times: list[float] = []
    polls = 0

    async def client(number: int, share: int) -> None:
        nonlocal polls
        assistant = assistants[number % len(started)]
        async with Connection(started[number % len(started)][0]) as connection:
            for turn in range(share):
                if turn % 10 == 0:
                    thread = (await connection.call("POST", "/threads", {}))["id"]
                began = time.perf_counter()
                await connection.call("POST", f"/threads/{thread}/messages", HELLO)
                run = await connection.call("POST", f"/threads/{thread}/runs", {"assistant_id": assistant})
                while run["status"] in ("queued", "in_progress"):
                    await asyncio.sleep(POLL_S)
                    run = await connection.call("GET", f"/threads/{thread}/runs/{run['id']}")
                    polls += 1
                page = await connection.call("GET", f"/threads/{thread}/messages?limit=2")
                if page["data"][0]["content"][0]["text"]["value"] != expected(WORDS):
                    raise WrongAnswer("the answer is not the newest message")
                times.append(time.perf_counter() - began)

    clients = at_once * len(started)

    async def all_clients(share: int) -> None:
        await asyncio.gather(*(client(number, share) for number in range(clients)))

    await all_clients(3)
    times.clear()
    polls = 0
    watched = [Watched(process, None) for _, process in started]
    before, began = sum(each.cpu_s()[0] for each in watched), time.perf_counter()
    await all_clients(max(1, count // at_once))
    wall, cpu = time.perf_counter() - began, sum(each.cpu_s()[0] for each in watched) - before
    return len(times) / wall, cpu / len(times), statistics.median(times), polls / len(times)


# --- a death


async def death(started: list[tuple[str, int]], database_url: str, streams: int) -> dict[str, Any]:
    async with Connection(started[0][0]) as connection:
        assistant = (await connection.call("POST", "/assistants", {"model": f"words-{WORDS}-20ms"}))["id"]
        threads = [(await connection.call("POST", "/threads", {"messages": [HELLO]}))["id"] for _ in range(streams)]
    begun = 0

    async def stream(number: int) -> bool:
        """Whether it was heard to its end."""
        nonlocal begun
        async with Connection(started[number % len(started)][0]) as connection:
            begun += 1
            try:
                await connection.stream(f"/threads/{threads[number]}/runs", {"assistant_id": assistant, "stream": True})
            except (OSError, WrongAnswer, asyncio.IncompleteReadError):
                return False
            return True

    heard = asyncio.gather(*(stream(number) for number in range(streams)))
    with psycopg.connect(database_url, autocommit=True) as database:

        def holders() -> dict[str, tuple[str | None, int]]:
            rows = database.execute("SELECT key, lease_node, attempts FROM work WHERE kind = 'run'").fetchall()
            return {key: (node, attempts) for key, node, attempts in rows}

        while begun < streams or len(holders()) < streams:  # noqa: ASYNC110 - what is waited for is elsewhere
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        _, process = started[-1]
        os.kill(process, signal.SIGKILL)
        killed_at = time.monotonic()
        before = holders()
        # A holder's name tells its process.
        lost = {key for key, (node, _) in before.items() if node is not None and f"-{process}-" in node}
        waiting, takeovers = set(lost), list[float]()
        while waiting:
            now = holders()
            for key in list(waiting):
                holder = now.get(key)
                if holder is None or (holder[0] is not None and holder[0] != before[key][0]):
                    waiting.discard(key)
                    takeovers.append(time.monotonic() - killed_at)
            await asyncio.sleep(0.02)
            if time.monotonic() - killed_at > 120:
                raise WrongAnswer(f"{len(waiting)} runs were not taken over")
    ends = await heard
    wrong = 0
    async with Connection(started[0][0]) as connection:
        for thread in threads:
            until = time.monotonic() + 120
            while True:
                [run] = (await connection.call("GET", f"/threads/{thread}/runs"))["data"]
                if run["status"] == "completed":
                    break
                if run["status"] not in ("queued", "in_progress") or time.monotonic() > until:
                    raise WrongAnswer(f"a run is {run['status']}: {run['last_error']}")
                await asyncio.sleep(0.05)
            page = await connection.call("GET", f"/threads/{thread}/messages?limit=100")
            texts = [message["content"][0]["text"]["value"] for message in page["data"]]
            wrong += texts != [expected(WORDS), HELLO["content"]]
    return {
        "streams": streams,
        "heard_to_the_end": sum(ends),
        "runs_of_the_dead_node": len(lost),
        "takeover_median_s": statistics.median(takeovers),
        "takeover_max_s": max(takeovers),
        "wrong_threads": wrong,
    }


# --- joining again


async def rejoin(started: list[tuple[str, int]], count: int, at_once: int) -> list[float]:
    """For each of so many streams, how long its reader waited at the other node."""
    (here, _), (there, _) = started[0], started[1]
    waited: list[float] = []
    async with Connection(here) as connection:
        assistant = (await connection.call("POST", "/assistants", {"model": f"words-{WORDS}-5ms"}))["id"]

    async def leave_and_join(client: httpx2.AsyncClient) -> None:
        body = {"assistant_id": assistant, "thread": {"messages": [HELLO]}, "stream": True}
        told: list[tuple[int, str, Any]] = []
        async with client.stream("POST", f"{here}/threads/runs", json=body) as response:
            async for event in _events(response):
                told.append(event)
                if len(told) == WORDS // 4:
                    break
        run = told[1][2]
        path = f"{there}/threads/{run['thread_id']}/runs/{run['id']}/stream"
        began = time.perf_counter()
        first: float | None = None
        async with client.stream("GET", path, headers={"Last-Event-ID": str(told[-1][0])}) as response:
            async for event in _events(response):
                first = first or time.perf_counter() - began
                told.append(event)
        text = "".join(
            data["delta"]["content"][0]["text"]["value"] for _, name, data in told if name == "thread.message.delta"
        )
        if text != expected(WORDS) or [number for number, _, _ in told] != list(range(1, len(told) + 1)):
            raise WrongAnswer("the two parts are not the whole")
        assert first is not None
        waited.append(first)

    async def reader() -> None:
        async with httpx2.AsyncClient(headers={"authorization": "Bearer any"}, timeout=60, trust_env=False) as client:
            for _ in range(count // at_once):
                await leave_and_join(client)

    await asyncio.gather(*(reader() for _ in range(at_once)))
    return sorted(waited)


async def _events(response: httpx2.Response) -> AsyncIterator[tuple[int, str, Any]]:
    """Number, name and object of each."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "id" in fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database-url", metavar="URL", help="an empty PostgreSQL database to use")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--turns", type=int, default=480, help="of each node")
    parser.add_argument("--at-once", type=int, default=8, help="at each node")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--rejoins", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2, help="of the turns: what else the machine does varies")
    arguments = parser.parse_args()
    arguments.postgres = arguments.database_url is None
    off = ("--code-interpreter", "off")
    with model_server() as upstream_url, databases(arguments) as (new_database, _):
        if "turns" in arguments.only:
            print(f"Plain turns, {arguments.at_once} at once at each node")
            print("  nodes   turns/s   CPU a turn   median   polls", flush=True)
            for number, is_one in [
                each for _ in range(arguments.rounds) for each in ((1, True), (2, True), (3, True), (3, False))
            ]:
                urls = [new_database()] * number if is_one else [new_database() for _ in range(number)]
                with nodes(upstream_url, [url for url in urls if url], *off) as started:
                    rate, cpu, median, polls = uvloop.run(turns(started, arguments.turns, arguments.at_once))
                shown = f"{number:5}{rate:10.0f}{cpu * 1e3:10.2f} ms{median * 1e3:7.0f} ms{polls:8.1f}"
                print(f"  {shown}{'' if is_one else '  apart'}", flush=True)
        if "death" in arguments.only:
            database_url = new_database()
            assert database_url is not None
            with nodes(upstream_url, [database_url] * 3, *off, "--lease-seconds", str(LEASE_S)) as started:
                found = uvloop.run(death(started, database_url, arguments.streams))
            print(f"\nThree nodes, one killed; the lease is {LEASE_S:g} s\n  {json.dumps(found)}")
            if found["wrong_threads"]:
                sys.exit("  WRONG")
        if "rejoin" in arguments.only:
            database_url = new_database()
            assert database_url is not None
            with nodes(upstream_url, [database_url] * 2, *off) as started:
                for at_once in (1, 8):
                    waited = uvloop.run(rejoin(started, arguments.rejoins, at_once))
                    p50, p99 = statistics.median(waited), waited[int(len(waited) * 0.99)]
                    print(
                        f"\nJoined again at another node, {at_once} at once, {len(waited)} times, words every 5 ms: "
                        f"first event after {p50 * 1e3:.0f} ms (median), {p99 * 1e3:.0f} ms (p99)",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
