"""What the server costs, end to end: CPU time of its process per operation, and how long a client waits.

    .venv/bin/python benchmarks/bench.py                       SQLite, as `threadkeep serve` has it
    .venv/bin/python benchmarks/bench.py --postgres            the same on a PostgreSQL started for it
    .venv/bin/python benchmarks/bench.py --database-url URL    the same on a PostgreSQL of yours (an empty one)
    .venv/bin/python benchmarks/bench.py --only threads turns

A fake model server and `threadkeep serve` run as processes of their own; this process is the client. The same calls
to the fake model server alone, in the same run, say how much of the time is the server's. Every answer is checked:
a word that is lost, doubled or moved ends the benchmark.

Compare CPU figures: they hold on a busy machine. Wall times hold only where server, model server, client and database
have a core each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import uvloop

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from benchmarks.model_server import expected  # noqa: E402 - found by the line above
from threadkeep.contract.ids import created_at, new_id  # noqa: E402
from threadkeep.contract.messages import Message, Text, TextContent  # noqa: E402
from threadkeep.contract.threads import Thread  # noqa: E402
from threadkeep.contract.tools import ToolResources  # noqa: E402
from threadkeep.storage import DEFAULT_PROJECT_ID, Transaction, open_store  # noqa: E402

WORDS = 200
SCENARIOS = ("threads", "list", "turns", "streams", "slow-streams")
MODEL = f"words-{WORDS}"
POLL_S = 0.01
IDLE_S = 10


class WrongAnswer(Exception):
    """The server did not say what it had to."""


# --- a client that costs little


class Piece(NamedTuple):
    at: float
    bytes: bytes


class Connection:
    """One kept connection. Answers are taken as they come and looked at when the clock has stopped."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path

    async def __aenter__(self) -> Connection:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**22)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """The JSON of the answer."""
        length = await self._ask(method, path, body)
        if length is None:
            raise WrongAnswer(f"{method} {path} was streamed")
        return json.loads(await self._reader.readexactly(length))

    async def stream(self, path: str, body: object) -> list[Piece]:
        """The streamed answer as it arrived, with the framing of its chunks."""
        if await self._ask("POST", path, body) is not None:
            raise WrongAnswer(f"POST {path} was not streamed")
        pieces: list[Piece] = []
        tail = b""
        while not tail.endswith(b"\n0\r\n\r\n"):
            if not (read := await self._reader.read(2**16)):
                raise WrongAnswer(f"POST {path}: the stream was cut")
            pieces.append(Piece(time.perf_counter(), read))
            tail = (tail + read)[-8:]
        return pieces

    async def leave(self, path: str, body: object, after_s: float) -> None:
        """Begins to read a streamed answer, and hangs up in its midst."""
        if await self._ask("POST", path, body) is not None:
            raise WrongAnswer(f"POST {path} was not streamed")
        await asyncio.sleep(after_s)
        self._writer.transport.abort()

    async def _ask(self, method: str, path: str, body: object) -> int | None:
        """Sends a request and reads the answer's head: its length, or None where it is chunked."""
        content = b"" if body is None else json.dumps(body).encode()
        self._writer.write(
            f"{method} {self._base}{path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            "authorization: Bearer bench\r\nopenai-beta: assistants=v2\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n\r\n".encode()
            + content
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:-2])
        length = fields.get("content-length")
        if not head.startswith("http/1.1 200"):
            said = await self._reader.readexactly(int(length or 0))
            raise WrongAnswer(f"{method} {path}: {head.splitlines()[0]} {said.decode()[:500]}")
        return None if length is None else int(length)


def unchunked(pieces: Iterable[Piece]) -> bytes:
    raw, content, at = b"".join(piece.bytes for piece in pieces), [], 0
    while True:
        end = raw.index(b"\r\n", at)
        size = int(raw[at:end], 16)
        if not size:
            return b"".join(content)
        content.append(raw[end + 2 : end + 2 + size])
        at = end + 4 + size


# --- processes


class Watched(NamedTuple):
    """Processes whose CPU time counts, each with those that it started."""

    server: int
    database: int | None

    def cpu_s(self) -> tuple[float, float]:
        return _cpu_s(self.server), 0.0 if self.database is None else _cpu_s(self.database)

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.server}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024 / 1e6


def _cpu_s(root: int) -> float:
    """User and system time of a process and all below it; those that have ended are counted by their parents."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)], ticks[int(folder.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    total = 0
    for process, own in ticks.items():
        above = process
        while above and above != root:
            above = parents.get(above, 0)
        total += own if above else 0
    return total / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def model_server() -> Iterator[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "model_server.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def threadkeep(upstream_url: str, data_dir: Path, database_url: str | None, *flags: str) -> Iterator[tuple[str, int]]:
    """The server as a user starts it; its URL and process."""
    command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", str(data_dir)]
    command += ["--upstream-url", upstream_url, *(["--database-url", database_url] if database_url else []), *flags]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}
    with (
        (data_dir / "log").open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, cwd=data_dir
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith("listening on "):
                    yield line.split()[-1] + "/v1", process.pid
                    break
            else:
                sys.exit(f"The server did not start:\n{(data_dir / 'log').read_text()}")
        finally:
            process.terminate()
            process.wait(60)


# --- figures


class Figures(NamedTuple):
    """Of one measurement. CPU is in seconds for all of it; times are in seconds, each one's."""

    times: list[float]
    wall_s: float
    server_cpu_s: float
    database_cpu_s: float

    @property
    def median_ms(self) -> float:
        return statistics.median(self.times) * 1000


async def measured(
    watched: Watched | None, at_once: int, count: int, do: Callable[[int], Awaitable[object]]
) -> Figures:
    """``do(number)`` for every number below ``count``, so many at once."""
    numbers = iter(range(count))
    times: list[float] = []

    async def worker() -> None:
        for number in numbers:
            began = time.perf_counter()
            await do(number)
            times.append(time.perf_counter() - began)

    before, began = watched.cpu_s() if watched else (0.0, 0.0), time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    wall, after = time.perf_counter() - began, watched.cpu_s() if watched else (0.0, 0.0)
    return Figures(times, wall, after[0] - before[0], after[1] - before[1])


class Report:
    """Prints figures as they come and keeps them for `--json`."""

    def __init__(self, *, has_database: bool) -> None:
        self.rows: list[dict[str, object]] = []
        self._has_database = has_database

    def head(self, title: str) -> None:
        database = f"{'database CPU':>15}" if self._has_database else ""
        print(f"\n{title}\n{'':46}{'CPU':>12}{database}{'median':>12}", flush=True)

    def row(self, name: str, figures: Figures, per: int = 1, unit: str = "ms", note: str = "", **more: float) -> None:
        """``per``: what is counted, in each operation; ``unit`` of the CPU figure: ms or µs."""
        scale = {"ms": 1e3, "µs": 1e6}[unit] / (len(figures.times) * per)
        cpu, database = figures.server_cpu_s * scale, figures.database_cpu_s * scale
        shown = f"{database:12.3g} {unit}" if self._has_database else ""
        print(f"  {name:44}{cpu:9.3g} {unit}{shown}{figures.median_ms:9.4g} ms  {note}", flush=True)
        self.rows.append(
            {"name": name, "unit": unit, "cpu": cpu, "database_cpu": database, "median_ms": figures.median_ms, **more}
        )


# --- scenarios


class Bench:
    """The scenarios against one server."""

    def __init__(self, url: str, upstream_url: str, watched: Watched, report: Report, scale: float) -> None:
        self._url = url
        self._upstream_url = upstream_url
        self._watched = watched
        self._report = report
        self._scale = scale

    def _many(self, count: int, at_once: int) -> int:
        return max(2 * at_once, round(count * self._scale))

    async def idle(self, title: str) -> None:
        """What it takes when nobody asks for anything."""
        await asyncio.sleep(1)
        before = sum(self._watched.cpu_s())
        await asyncio.sleep(IDLE_S)
        share = (sum(self._watched.cpu_s()) - before) / IDLE_S * 100
        memory = self._watched.rss_mb()
        print(f"\n{title}: {memory:.0f} MB resident, {share:.1f} % of a core", flush=True)
        self._report.rows.append({"name": title, "rss_mb": memory, "cpu_percent": share})

    async def threads(self) -> None:
        self._report.head("Threads")
        for at_once in (1, 16):
            async with pool(self._url, at_once) as connections:
                await self._threads_at(at_once, connections)

    async def _threads_at(self, at_once: int, connections: Pool) -> None:
        made: list[str] = []

        async def create(_: int) -> None:
            async with connections.one() as connection:
                made.append((await connection.call("POST", "/threads", {}))["id"])

        async def retrieve(number: int) -> None:
            thread_id = made[number % len(made)]
            async with connections.one() as connection:
                if (await connection.call("GET", f"/threads/{thread_id}"))["id"] != thread_id:
                    raise WrongAnswer("another thread")

        # Warms up.
        await measured(None, at_once, 100, create)
        for name, do in (("create", create), ("retrieve", retrieve)):
            figures = await measured(self._watched, at_once, self._many(3000, at_once), do)
            self._report.row(f"{name}, {at_once} at once", figures)

    async def list_newest(self, thread_id: str, length: int) -> None:
        newest_first = [text_of(number) for number in range(length - 1, length - 21, -1)]
        for at_once in (1, 16):
            async with pool(self._url, at_once) as connections:

                async def newest(_: int, connections: Pool = connections) -> None:
                    async with connections.one() as connection:
                        page = await connection.call("GET", f"/threads/{thread_id}/messages?limit=20")
                    if [message["content"][0]["text"]["value"] for message in page["data"]] != newest_first:
                        raise WrongAnswer("other messages than the newest 20")

                await measured(None, at_once, 50, newest)
                figures = await measured(self._watched, at_once, self._many(2000, at_once), newest)
                self._report.row(f"newest 20 of {length:,} messages, {at_once} at once", figures)

    async def turns(self) -> None:
        self._report.head("A turn: add a message, create a run, poll it every 10 ms, list the newest two messages")
        assistant_id = await self._assistant(MODEL)
        for at_once in (1, 16, 64):
            async with pool(self._url, at_once) as connections, pool(self._upstream_url, at_once) as direct:
                await self._turns_at(at_once, assistant_id, connections, direct)

    async def _turns_at(self, at_once: int, assistant_id: str, connections: Pool, direct: Pool) -> None:
        count = self._many(400, at_once)
        # Each is good for about ten turns: a conversation, and not one that only grows.
        threads = deque(await self._threads(connections, max(at_once, count // 10)))
        polls = 0

        async def turn(_: int) -> None:
            nonlocal polls
            thread_id = threads.popleft()
            async with connections.one() as connection:
                await connection.call("POST", f"/threads/{thread_id}/messages", HELLO)
                run = await connection.call("POST", f"/threads/{thread_id}/runs", {"assistant_id": assistant_id})
                while run["status"] in ("queued", "in_progress"):
                    await asyncio.sleep(POLL_S)
                    run = await connection.call("GET", f"/threads/{thread_id}/runs/{run['id']}")
                    polls += 1
                page = await connection.call("GET", f"/threads/{thread_id}/messages?limit=2")
            if run["status"] != "completed":
                raise WrongAnswer(f"the run ended {run['status']}: {run['last_error']}")
            if page["data"][0]["content"][0]["text"]["value"] != expected(WORDS):
                raise WrongAnswer("the answer is not the newest message")
            threads.append(thread_id)

        await measured(None, at_once, 2 * at_once, turn)
        alone = await measured(None, at_once, count, lambda _: self._direct(direct, MODEL))
        polls = 0
        figures = await measured(self._watched, at_once, count, turn)
        ratio = figures.median_ms / alone.median_ms
        note = f"{polls / count:.1f} polls; the model server alone {alone.median_ms:.3g} ms (x{ratio:.3g})"
        self._report.row(f"turn, {at_once} at once", figures, note=note, polls=polls / count, ratio=ratio)

    async def streams(self, pause_ms: int) -> None:
        how = f"one word every {pause_ms} ms" if pause_ms else "all words at once"
        self._report.head(f"A streamed run of {WORDS} words; CPU per word; {how}; every word is checked")
        model = f"{MODEL}-{pause_ms}ms"
        assistant_id = await self._assistant(model)
        for at_once in (1, 16, 64):
            count = max(3, round(at_once * 2 * self._scale)) if pause_ms else self._many(400, at_once)
            async with pool(self._url, at_once) as connections, pool(self._upstream_url, at_once) as direct:
                await self._streams_at(at_once, count, model, assistant_id, connections, direct)

    async def _streams_at(
        self, at_once: int, count: int, model: str, assistant_id: str, connections: Pool, direct: Pool
    ) -> None:
        threads = await self._threads(connections, count + at_once)
        for thread_id in threads:
            async with connections.one() as connection:
                await connection.call("POST", f"/threads/{thread_id}/messages", HELLO)
        answers: list[tuple[float, list[Piece]]] = []
        firsts: list[float] = []

        async def stream(_: int) -> None:
            thread_id = threads.pop()
            body = {"assistant_id": assistant_id, "stream": True}
            async with connections.one() as connection:
                began = time.perf_counter()
                answers.append((began, await connection.stream(f"/threads/{thread_id}/runs", body)))

        async def ask(_: int) -> None:
            firsts.append(await self._direct(direct, model))

        if model.endswith("-0ms"):
            await measured(None, at_once, at_once, stream)
            answers.clear()
        alone = await measured(None, at_once, count, ask)
        figures = await measured(self._watched, at_once, count, stream)
        for _, pieces in answers:
            check_stream(pieces)
        first_ms = statistics.median(first_delta_ms(began, pieces) for began, pieces in answers)
        first_alone_ms = statistics.median(firsts) * 1000
        rate = count * WORDS / figures.wall_s
        ratio = figures.median_ms / alone.median_ms
        note = (
            f"first word {first_ms:.3g} ms, from the model server alone {first_alone_ms:.3g}; "
            f"whole x{ratio:.3g}; {rate:,.0f} words/s"
        )
        self._report.row(
            f"streamed run, {at_once} at once ({count} runs)",
            figures,
            per=WORDS,
            unit="µs",
            note=note,
            first_ms=first_ms,
            first_alone_ms=first_alone_ms,
            ratio=ratio,
            words_per_s=rate,
        )

    async def _assistant(self, model: str) -> str:
        async with Connection(self._url) as connection:
            return (await connection.call("POST", "/assistants", {"model": model}))["id"]

    async def _threads(self, pool: Pool, count: int) -> list[str]:
        threads: list[str] = []
        for _ in range(count):
            async with pool.one() as connection:
                threads.append((await connection.call("POST", "/threads", {}))["id"])
        return threads

    async def _direct(self, pool: Pool, model: str) -> float:
        """The same answer from the model server itself; how long its first word took."""
        async with pool.one() as connection:
            body = {"model": model, "stream": True, "messages": [HELLO]}
            began = time.perf_counter()
            pieces = await connection.stream("/chat/completions", body)
            return next(piece.at for piece in pieces if b'"w0"' in piece.bytes) - began


HELLO = {"role": "user", "content": "hello"}


def text_of(number: int) -> str:
    return f"This is message {number} of many, and it says no more than that."


def check_stream(pieces: list[Piece]) -> None:
    """The deltas add up to the answer, in order, and to the final message."""
    deltas: list[str] = []
    final = None
    for frame in unchunked(pieces).split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in frame.splitlines() if not line.startswith(b":"))
        match fields.get(b"event"):
            case b"thread.message.delta":
                deltas += [part["text"]["value"] for part in json.loads(fields[b"data"])["delta"]["content"]]
            case b"thread.message.completed":
                final = json.loads(fields[b"data"])["content"][0]["text"]["value"]
            case b"error":
                raise WrongAnswer(fields[b"data"].decode())
            case _:
                pass
    if len(deltas) != WORDS or not "".join(deltas) == final == expected(WORDS):
        raise WrongAnswer(f"the stream said {''.join(deltas)[:200]!r}, the message {str(final)[:200]!r}")


def first_delta_ms(began: float, pieces: list[Piece]) -> float:
    read = b""
    for piece in pieces:
        read += piece.bytes
        if b"event: thread.message.delta" in read:
            return (piece.at - began) * 1000
    raise WrongAnswer("no delta came")


class Pool:
    """Connections, each used by one caller at a time."""

    def __init__(self, connections: list[Connection]) -> None:
        self._free = connections

    @contextlib.asynccontextmanager
    async def one(self) -> Any:
        connection = self._free.pop()
        try:
            yield connection
        finally:
            self._free.append(connection)


@contextlib.asynccontextmanager
async def pool(url: str, size: int) -> Any:
    async with contextlib.AsyncExitStack() as stack:
        yield Pool([await stack.enter_async_context(Connection(url)) for _ in range(size)])


# --- a long thread


async def long_thread(database_url: str | None, data_dir: Path, length: int) -> str:
    """Writes a thread straight through the store, as no client could in reasonable time; its id."""
    store = await open_store(database_url, data_dir)
    thread = Thread(id=new_id("thread"), created_at=created_at(), metadata={}, tool_resources=ToolResources())
    await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))

    def message(number: int) -> Message:
        return Message(
            id=new_id("msg"),
            created_at=created_at(),
            thread_id=thread.id,
            status="completed",
            incomplete_details=None,
            completed_at=None,
            incomplete_at=None,
            role="user",
            content=[TextContent(text=Text(value=text_of(number)))],
            assistant_id=None,
            run_id=None,
            attachments=[],
            metadata={},
        )

    # Small enough that PostgreSQL, too, is done with one long before the store gives up waiting for it.
    began, block = time.perf_counter(), 1_000
    for start in range(0, length, block):

        def insert(tx: Transaction, numbers: range = range(start, min(start + block, length))) -> None:
            for number in numbers:
                tx.messages.insert(message(number))

        await store.write(DEFAULT_PROJECT_ID, insert)
    await store.close()
    if length > block:
        print(f"  ({length:,} messages written in {time.perf_counter() - began:.0f} s)", flush=True)
    return thread.id


# --- the run


@contextlib.contextmanager
def databases(arguments: argparse.Namespace) -> Iterator[tuple[Callable[[], str | None], int | None]]:
    """What makes the URL of an empty database (None: SQLite), and the process whose CPU is the database's."""
    if not arguments.postgres:
        yield lambda: arguments.database_url, None
        return
    from tests.support.postgres import PostgresServer  # noqa: PLC0415 - only where it is asked for

    server = PostgresServer(is_durable=True)
    try:
        server.start()
        yield server.create_database, server.pid
    finally:
        server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="start a PostgreSQL from the development tools")
    parser.add_argument("--database-url", metavar="URL", help="an empty PostgreSQL database to use instead of SQLite")
    parser.add_argument(
        "--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="SCENARIO", help=str(SCENARIOS)
    )
    parser.add_argument("--long", type=int, default=1_000_000, help="messages of the long thread (default: 1,000,000)")
    parser.add_argument(
        "--pause-ms", type=int, nargs="+", default=[5, 20], help="between the words of slow streams (default: 5 20)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="times as many operations as usual")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    arguments = parser.parse_args()
    what = "PostgreSQL" if arguments.postgres or arguments.database_url else "SQLite, synchronous=FULL"
    print(f"Threadkeep on {what}; Python {platform.python_version()}, {os.cpu_count()} cores, {platform.system()}")
    with (
        tempfile.TemporaryDirectory(prefix="threadkeep-bench-") as folder,
        model_server() as upstream_url,
        databases(arguments) as (new_database, database),
    ):
        report = Report(has_database=database is not None)

        async def with_server(
            data_dir: Path, database_url: str | None, run: Callable[[Bench], Awaitable[None]]
        ) -> None:
            with threadkeep(upstream_url, data_dir, database_url) as (url, process):
                await run(Bench(url, upstream_url, Watched(process, database), report, arguments.scale))

        async def everything() -> None:
            used = new_database()
            data_dir = Path(folder) / "main"
            data_dir.mkdir()

            async def run(bench: Bench) -> None:
                await bench.idle("Idle, after the start")
                if "threads" in arguments.only:
                    await bench.threads()
                if "turns" in arguments.only:
                    await bench.turns()
                if "streams" in arguments.only:
                    await bench.streams(0)
                if "slow-streams" in arguments.only:
                    for pause_ms in arguments.pause_ms:
                        await bench.streams(pause_ms)
                await bench.idle("Idle, after all this")

            await with_server(data_dir, used, run)
            if "list" in arguments.only:
                report.head("Lists")
                for length in (1_000, arguments.long):
                    database_url = new_database()
                    data_dir = Path(folder) / f"list-{length}"
                    data_dir.mkdir()
                    thread_id = await long_thread(database_url, data_dir, length)
                    await with_server(
                        data_dir, database_url, lambda bench, t=thread_id, n=length: bench.list_newest(t, n)
                    )

        uvloop.run(everything())
    if arguments.json:
        arguments.json.write_text(json.dumps(report.rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
