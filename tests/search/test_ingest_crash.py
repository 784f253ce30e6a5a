"""Ingestion by nodes that die: nothing is lost, and what was stored is not stored again."""

import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import contextmanager
from typing import Any, LiteralString

import httpx2
import pytest
import pytest_asyncio

from tests.support import process
from tests.support.databases import Database, execute
from threadkeep.storage import Store, open_store

PATIENCE_S = 90
LEASE_S = 2.0
LINES = 9_000
TEXT = "".join(f"Lantern {number} hangs over the harbour at night.\n" for number in range(LINES)).encode()


@contextmanager
def node(database: Database) -> Generator["Node", None, None]:
    """A server process. The blobs are in one place, whichever node wrote them."""
    where = ["--database-url", database.url] if database.url else []
    folder = database.data_dir / f"node-{time.monotonic_ns()}" if database.url else database.data_dir
    folder.mkdir(exist_ok=True)
    blobs = database.data_dir / "shared-blobs"
    with process.started(
        *("serve", "--port", "0", "--data-dir", str(folder), *where),
        *("--blobs-url", blobs.as_uri(), "--lease-seconds", str(LEASE_S)),
        folder=folder,
    ) as program:
        http = httpx2.Client(
            base_url=f"{program.url}/v1", headers={"authorization": "Bearer any"}, timeout=120, trust_env=False
        )
        with http:
            yield Node(program, http)


class Node:
    def __init__(self, program: process.Program, http: httpx2.Client) -> None:
        self._program = program
        self.http = http

    def kill(self) -> None:
        self._program.process.kill()
        self._program.wait()

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def upload(self, content: bytes) -> str:
        answer = self.http.post("/files", data={"purpose": "assistants"}, files={"file": ("a.txt", content)})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def until_ended(self, store_id: str) -> dict[str, int]:
        deadline = time.monotonic() + PATIENCE_S
        while (counts := self.http.get(f"/vector_stores/{store_id}").json()["file_counts"])["in_progress"]:
            assert time.monotonic() < deadline, counts
            time.sleep(0.05)
        return counts


@pytest_asyncio.fixture
async def beside(database: Database) -> AsyncIterator[Store]:
    """The database, as somebody sees it who looks on."""
    store = await open_store(database.url, database.data_dir, is_sole_server=False)
    yield store
    await store.close()


async def ask(beside: Store, sql: LiteralString) -> list[tuple[Any, ...]]:
    return await beside.read(None, lambda tx: execute(tx, sql))


async def until(beside: Store, sql: LiteralString, is_so: Callable[[int], bool]) -> int:
    """The number that the database answers, once it is right."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(number := int((await ask(beside, sql))[0][0] or 0)):
        assert time.monotonic() < deadline, number
    return number


READ: LiteralString = "SELECT sum(passages) FROM contents WHERE status = 'in_progress'"
INDEXED: LiteralString = "SELECT sum(indexed) FROM vector_store_files WHERE status = 'in_progress'"


@pytest.mark.parametrize("when", [READ, INDEXED], ids=["while it is read", "while it is indexed"])
async def test_a_file_goes_on_where_it_was_when_its_node_is_killed(
    database: Database, beside: Store, when: LiteralString
) -> None:
    with node(database) as first:
        file_id = first.upload(TEXT)
        store_id = first.post("/vector_stores", file_ids=[file_id])["id"]
        stored = await until(beside, when, lambda number: number > 0)
        first.kill()
    [(content, there)] = await ask(beside, "SELECT number, passages FROM contents")
    assert there >= stored

    with node(database) as second:
        counts = second.until_ended(store_id)
        [part] = second.http.get(f"/vector_stores/{store_id}/files/{file_id}/content").json()["data"]
        hits = second.post(f"/vector_stores/{store_id}/search", query=f"lantern {LINES - 7}")["data"]
        await until(beside, "SELECT count(*) FROM work", lambda number: number == 0)

    assert (counts["completed"], counts["total"]) == (1, 1)
    assert part["text"] == TEXT.decode()
    assert f"Lantern {LINES - 7} " in hits[0]["content"][0]["text"]
    [(same, passages, size)] = await ask(beside, "SELECT number, passages, bytes FROM contents")
    assert same == content
    assert await ask(beside, "SELECT count(*), max(position) + 1 FROM passages") == [(passages, passages)]
    assert await ask(beside, "SELECT indexed, usage_bytes FROM vector_store_files") == [(passages, size)]
    [(in_index,)] = await ask(beside, "SELECT sum(count) FROM vector_store_spans")
    assert in_index == passages


async def test_a_batch_goes_on_when_its_node_is_killed(database: Database, beside: Store) -> None:
    done: LiteralString = "SELECT sum(completed) FROM vector_stores"
    with node(database) as first:
        files = [first.upload(f"Lantern {number} of many.".encode()) for number in range(40)]
        store_id = first.post("/vector_stores")["id"]
        batch_id = first.post(f"/vector_stores/{store_id}/file_batches", file_ids=files)["id"]
        before = await until(beside, done, lambda number: number >= 3)
        first.kill()
    assert before < len(files)

    with node(database) as second:
        second.until_ended(store_id)
        batch = second.http.get(f"/vector_stores/{store_id}/file_batches/{batch_id}").json()
        await until(beside, "SELECT count(*) FROM work", lambda number: number == 0)

    assert (batch["status"], batch["file_counts"]["completed"]) == ("completed", len(files))
    assert await ask(beside, "SELECT count(*) FROM contents WHERE status = 'ready'") == [(len(files),)]
