"""What search costs: how long a client waits and how much CPU it takes, by the size of the store; what indexing costs.

    .venv/bin/python benchmarks/search.py                          1,000 to 50,000 passages, SQLite
    .venv/bin/python benchmarks/search.py --postgres               the same on a PostgreSQL started for it
    .venv/bin/python benchmarks/search.py --sizes 1000 --stores 0  less of it
    .venv/bin/python benchmarks/search.py --megabytes 512          and one long file, for the memory that it takes

`threadkeep serve` runs as a process of its own, and so does a server of embeddings whose vectors are chance (384
dimensions, always the same for the same text). Passages are of 1.1 kB, in words as frequent as in a language. Each
store is filled without a model first, which is what indexing costs; then the server is started with one, which embeds
everything; then each store is searched by words and, with the model, by both halves.

Compare CPU figures: they hold on a busy machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from threadkeep.search.tokens import tokenizer  # noqa: E402 - found by the line above

PASSAGE_BYTES = 1_100
DIMENSIONS = 384
FILE_PASSAGES = 1000
SEARCHES = 100
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


# --- what is measured


def cpu_s(pid: int) -> float:
    """Of the process, of all that it started and that has ended, and of its children that live."""
    total = 0.0
    for each in (pid, *_children(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15])) / _TICKS
    return total


def memory(pid: int) -> int:
    """Bytes in memory of the process and its children."""
    total = 0
    for each in (pid, *_children(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * _PAGE
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_children(child)]
    return found


# --- text


class Words:
    """Words as frequent as in a language: the second half as often as the first, and so on."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        letters = random.Random(0)
        self._words = ["".join(letters.choices("etaoinshrdlu", k=letters.randint(3, 9))) for _ in range(30_000)]
        self._weights = [1 / (rank + 3) for rank in range(len(self._words))]

    def text(self, size: int) -> str:
        return " ".join(self._chance.choices(self._words, self._weights, k=size // 7))

    def passage_tokens(self) -> int:
        """How many tokens a passage is to have, to be of `PASSAGE_BYTES`."""
        sample = self.text(100_000)
        return round(PASSAGE_BYTES * len(tokenizer().encode(sample)) / len(sample))

    def query(self) -> str:
        # Not the most frequent: nobody asks for those.
        return " ".join(self._chance.choices(self._words[50:], self._weights[50:], k=self._chance.randint(3, 8)))


# --- servers


def serve_embeddings(ready: Any) -> None:
    import numpy as np  # noqa: PLC0415 - in its process only

    def vector(text: str) -> list[float]:
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
        return [round(float(value), 5) for value in np.random.default_rng(seed).standard_normal(DIMENSIONS)]

    async def answer(request: web.Request) -> web.Response:
        texts = (await request.json())["input"]
        return web.json_response({"data": [{"index": n, "embedding": vector(text)} for n, text in enumerate(texts)]})

    async def main() -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/embeddings", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


@contextlib.contextmanager
def embedding_server() -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    process = context.Process(target=serve_embeddings, args=(ready,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=60)}/v1"
    finally:
        process.terminate()
        process.join()


@contextlib.contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """The server's URL and its process."""
    command = [sys.executable, "-m", "threadkeep", "serve", "--port", "0", "--data-dir", str(folder), *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environ)
        try:
            assert server.stdout is not None
            for line in server.stdout:
                if line.startswith(b"listening on "):
                    break
            else:
                raise SystemExit((folder / "log").read_text())
            yield line.decode().split()[-1], server.pid
        finally:
            server.terminate()
            server.wait()


# --- the client


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, method: str, path: str, **fields: Any) -> Any:
        async with self._session.request(method, f"{self._url}/v1{path}", **fields) as answer:
            body = await answer.json()
            if answer.status != 200:
                raise SystemExit(f"{method} {path}: {answer.status} {body}")
            return body

    async def upload(self, content: bytes | Any) -> str:
        form = aiohttp.FormData({"purpose": "assistants"})
        form.add_field("file", content, filename="words.txt")
        return (await self.ask("POST", "/files", data=form))["id"]

    async def store(self, file_ids: list[str], tokens: int) -> str:
        chunking = {"type": "static", "static": {"max_chunk_size_tokens": tokens, "chunk_overlap_tokens": 0}}
        made = await self.ask("POST", "/vector_stores", json={"file_ids": file_ids, "chunking_strategy": chunking})
        return made["id"]

    async def until_ended(
        self, store: str, look: Callable[[], object] = lambda: None, *, may_fail: bool = False
    ) -> None:
        while True:
            counts = (await self.ask("GET", f"/vector_stores/{store}"))["file_counts"]
            look()
            if not counts["in_progress"]:
                break
            await asyncio.sleep(0.1)
        if counts["failed"] and not may_fail:
            files = await self.ask("GET", f"/vector_stores/{store}/files")
            raise SystemExit(f"not ingested: {files['data'][0]['last_error']}")

    async def search(self, store: str, query: str) -> list[Any]:
        return (await self.ask("POST", f"/vector_stores/{store}/search", json={"query": query}))["data"]


@contextlib.asynccontextmanager
async def client_of(url: str) -> Any:
    async with aiohttp.ClientSession(headers={"authorization": "Bearer any"}) as session:
        yield Client(url, session)


async def fill(url: str, pid: int, size: int, database: int | None) -> str:
    """A store of about so many passages; prints what indexing took."""
    words = Words(size)
    tokens = words.passage_tokens()
    async with client_of(url) as client:
        files = [
            await client.upload(words.text(PASSAGE_BYTES * min(FILE_PASSAGES, size)).encode())
            for _ in range(max(1, size // FILE_PASSAGES))
        ]
        cpu, began = cpu_s(pid) + (cpu_s(database) if database else 0), time.monotonic()
        store = await client.store(files, tokens)
        await client.until_ended(store)
        took, cpu = time.monotonic() - began, cpu_s(pid) + (cpu_s(database) if database else 0) - cpu
    print(f"  indexing {size:>7,} passages   {size / cpu:6.0f} / s CPU   {size / took:6.0f} / s", flush=True)
    return store


async def measure(url: str, pid: int, store: str, what: str, size: int, database: int | None) -> None:
    words = Words(1)
    queries = [words.query() for _ in range(SEARCHES + 5)]
    async with client_of(url) as client:
        for query in queries[:5]:
            await client.search(store, query)
        waits: list[float] = []
        cpu, base = cpu_s(pid), cpu_s(database) if database else 0
        for query in queries[5:]:
            began = time.perf_counter()
            await client.search(store, query)
            waits.append((time.perf_counter() - began) * 1000)
        cpu, base = cpu_s(pid) - cpu, cpu_s(database) - base if database else 0
    told = f"CPU {cpu / SEARCHES * 1000:5.1f} ms"
    if database:
        told += f" + {base / SEARCHES * 1000:5.1f} ms database"
    print(
        f"  {what:12} {size:>7,} passages   p50 {statistics.median(waits):6.1f} ms   "
        f"p95 {statistics.quantiles(waits, n=20)[-1]:6.1f} ms   {told}",
        flush=True,
    )


async def add_stores(url: str, count: int) -> None:
    """Other stores in the database, of 20 passages each."""
    words = Words(3)
    async with client_of(url) as client:
        tokens = words.passage_tokens()
        files = [await client.upload(words.text(20 * PASSAGE_BYTES).encode()) for _ in range(count)]
        stores = [await client.store([file], tokens) for file in files]
        for store in stores:
            await client.until_ended(store)


def until_embedded(stores: list[str], folder: Path) -> None:
    """Until the log says that all of them are searched by the model's vectors."""
    while True:
        lines = [line for line in (folder / "log").read_text().splitlines() if "vector_store_embedded" in line]
        if all(any(store in line for line in lines) for store in stores):
            return
        time.sleep(0.5)


async def measure_memory(url: str, pid: int, megabytes: int) -> None:
    words = Words(4)
    piece = words.text(1 << 20).encode().ljust(1 << 20, b"\n")[: 1 << 20]
    lines = b"\n".join(piece[start : start + 100] for start in range(0, len(piece), 101))
    async with client_of(url) as client:
        upload = await client.ask(
            "POST",
            "/uploads",
            json={
                "purpose": "assistants",
                "filename": "long.txt",
                "bytes": len(lines) * megabytes,
                "mime_type": "text/plain",
            },
        )
        parts: list[str] = []
        for start in range(0, megabytes, 32):
            form = aiohttp.FormData()
            form.add_field("data", lines * min(32, megabytes - start), filename="part")
            parts.append((await client.ask("POST", f"/uploads/{upload['id']}/parts", data=form))["id"])
        file = (await client.ask("POST", f"/uploads/{upload['id']}/complete", json={"part_ids": parts}))["file"]["id"]
        most = before = memory(pid)

        def look() -> None:
            nonlocal most
            most = max(most, memory(pid))

        began = time.monotonic()
        store = await client.store([file], 4096)
        await client.until_ended(store, look, may_fail=True)
        ended = (await client.ask("GET", f"/vector_stores/{store}/files/{file}"))["last_error"]
    mb = 1 << 20
    print(
        f"  a text file of {megabytes} MB: {before / mb:.0f} MB before, at most {most / mb:.0f} MB with children, "
        f"{time.monotonic() - began:.0f} s, {'indexed' if ended is None else ended['message']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", action="store_true", help="start a PostgreSQL from the development tools")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000])
    parser.add_argument("--stores", type=int, default=1_000, help="how many other stores come in the end")
    parser.add_argument("--megabytes", type=int, default=0, help="the size of one long file")
    given = parser.parse_args()
    with contextlib.ExitStack() as parts:
        arguments: list[str] = []
        database: int | None = None
        if given.postgres:
            from tests.support.postgres import PostgresServer  # noqa: PLC0415 - only where it is asked for

            postgres = PostgresServer(is_durable=True)
            parts.callback(postgres.remove)
            postgres.start()
            arguments, database = ["--database-url", postgres.create_database()], postgres.pid
        folder = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        model = parts.enter_context(embedding_server())
        if given.megabytes:
            with serving(folder, *arguments) as (url, pid):
                asyncio.run(measure_memory(url, pid, given.megabytes))
        with serving(folder, *arguments) as (url, pid):
            stores = {size: asyncio.run(fill(url, pid, size, database)) for size in given.sizes}
            for size, store in stores.items():
                asyncio.run(measure(url, pid, store, "words", size, database))
        hybrid = [*arguments, "--embedding-url", model, "--embedding-model", "chance"]
        with serving(folder, *hybrid, "--log-level", "info", "--log-format", "json") as (url, pid):
            until_embedded(list(stores.values()), folder)
            for size, store in stores.items():
                asyncio.run(measure(url, pid, store, "both halves", size, database))
        if given.stores:
            with serving(folder, *arguments) as (url, pid):
                asyncio.run(add_stores(url, given.stores))
                print(f"  with {given.stores:,} other stores:")
                for size, store in stores.items():
                    asyncio.run(measure(url, pid, store, "words", size, database))


if __name__ == "__main__":
    main()
