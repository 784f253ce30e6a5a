"""What `Store.read` and `Store.write` promise, on both databases; and how SQLite commits in groups."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from sqlite3 import IntegrityError

import pytest
import pytest_asyncio

from tests.support.databases import Database, execute
from tests.support.objects import a_message, a_thread
from threadkeep.contract.errors import NotFound, Unavailable
from threadkeep.contract.paging import ListQuery
from threadkeep.storage import (
    DEFAULT_PROJECT_ID,
    BadDatabaseUrl,
    FolderInUse,
    Store,
    Transaction,
    Unusable,
    open_store,
)
from threadkeep.storage.engine import Answers, Job
from threadkeep.storage.sqlite import MAX_BATCH, SqliteEngine

PATIENCE_S = 60


class Gate:
    """Holds the writer inside a call, so that what comes next gathers behind it."""

    def __init__(self, store: Store) -> None:
        self._entered, self._open = threading.Event(), threading.Event()
        self._call = asyncio.create_task(store.write(None, self._hold))

    def _hold(self, _tx: Transaction) -> None:
        self._entered.set()
        assert self._open.wait(PATIENCE_S)

    async def __aenter__(self) -> "Gate":
        assert await asyncio.to_thread(self._entered.wait, PATIENCE_S)
        return self

    async def __aexit__(self, *_: object) -> None:
        # What was started beside the gate stands in the queue by now.
        await asyncio.sleep(0)
        self._open.set()
        await self._call


@pytest_asyncio.fixture
async def embedded(sqlite_database: Database) -> AsyncIterator[Store]:
    store = await open_store(None, sqlite_database.data_dir)
    yield store
    await store.close()


def insert(tx: Transaction) -> None:
    tx.threads.insert(a_thread())


async def count(store: Store) -> int:
    page = await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.list(ListQuery(limit=100), {}, None))
    return len(page.data)


def commits_of(store: Store) -> int:
    assert isinstance(store.engine, SqliteEngine)
    return store.engine.commits


async def test_what_was_written_is_read(store: Store) -> None:
    thread = a_thread()
    result = await store.write(DEFAULT_PROJECT_ID, lambda tx: (tx.threads.insert(thread), "returned")[1])
    assert result == "returned"
    assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id)) == thread


async def test_what_a_function_raises_is_raised_and_nothing_of_it_was_written(store: Store) -> None:
    def fail(tx: Transaction) -> None:
        tx.threads.insert(a_thread())
        tx.threads.get("thread_x")

    with pytest.raises(NotFound, match="thread_x"):
        await store.write(DEFAULT_PROJECT_ID, fail)
    assert await count(store) == 0


async def test_failure_of_one_read_is_its_own(store: Store) -> None:
    with pytest.raises(NotFound):
        await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get("thread_x"))
    assert await count(store) == 0


async def test_function_that_asks_for_more_than_there_is_holds_nobody_up(store: Store) -> None:
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(RuntimeError):
            await store.read(None, lambda _: next(iter(())))


async def test_read_cannot_write_to_sqlite(embedded: Store) -> None:
    with pytest.raises(Unavailable):
        await embedded.read(DEFAULT_PROJECT_ID, insert)
    assert await count(embedded) == 0


async def test_failing_functions_harm_no_others(store: Store) -> None:
    def fail(tx: Transaction) -> None:
        tx.threads.insert(a_thread())
        raise ValueError("mine alone")

    functions = [fail if number % 3 == 0 else insert for number in range(30)]
    outcomes = await asyncio.gather(*(store.write(DEFAULT_PROJECT_ID, fn) for fn in functions), return_exceptions=True)
    assert [isinstance(outcome, ValueError) for outcome in outcomes] == [number % 3 == 0 for number in range(30)]
    assert await count(store) == 20


async def test_writes_that_come_together_share_a_commit(embedded: Store) -> None:
    before = commits_of(embedded)
    async with Gate(embedded):
        writes = [asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, insert)) for _ in range(MAX_BATCH + 10)]
    await asyncio.gather(*writes)
    # The gate's own, a full group, and the rest.
    assert commits_of(embedded) - before == 3


async def test_failing_function_in_a_group_harms_no_others(embedded: Store) -> None:
    def fail(tx: Transaction) -> None:
        tx.threads.insert(a_thread())
        raise ValueError("mine alone")

    before = commits_of(embedded)
    async with Gate(embedded):
        writes = [asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, fn)) for fn in (insert, fail, insert)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]
    assert await count(embedded) == 2
    assert commits_of(embedded) - before == 2


async def test_commit_that_fails_fails_for_all_in_it(embedded: Store) -> None:
    def orphan(tx: Transaction) -> None:
        execute(tx, "PRAGMA defer_foreign_keys = ON")
        tx.messages.insert(a_message("thread_x"))

    async with Gate(embedded):
        writes = [asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, fn)) for fn in (insert, orphan)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [IntegrityError, IntegrityError]
    assert await count(embedded) == 0
    await embedded.write(DEFAULT_PROJECT_ID, insert)
    assert await count(embedded) == 1


async def test_full_disk_is_told_and_recovered_from(embedded: Store) -> None:
    def fill(tx: Transaction) -> None:
        execute(tx, "PRAGMA max_page_count = 1")
        thread = a_thread()
        tx.threads.insert(thread)
        for _ in range(100):
            tx.messages.insert(a_message(thread.id, "word " * 1000))

    async with Gate(embedded):
        writes = [asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, fn)) for fn in (insert, fill)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert Unavailable in {type(outcome) for outcome in outcomes}
    stored = sum(outcome is None for outcome in outcomes)
    assert await count(embedded) == stored

    await embedded.write(None, lambda tx: execute(tx, "PRAGMA max_page_count = 1000000"))
    await embedded.write(DEFAULT_PROJECT_ID, insert)
    assert await count(embedded) == stored + 1


async def test_cancelled_call_harms_no_others(embedded: Store) -> None:
    async with Gate(embedded):
        left = asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, insert))
        stays = asyncio.create_task(embedded.write(DEFAULT_PROJECT_ID, insert))
        await asyncio.sleep(0)
        left.cancel()
    await stays
    assert left.cancelled()
    assert await count(embedded) == 1


async def test_caller_that_leaves_during_its_write_harms_nobody(store: Store) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        tx.threads.insert(a_thread())
        entered.set()
        assert leave.wait(PATIENCE_S)

    left = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, slow))
    assert await asyncio.to_thread(entered.wait, PATIENCE_S)
    left.cancel()
    leave.set()
    await store.write(DEFAULT_PROJECT_ID, insert)
    # Cancelling does not undo: on SQLite the first write is committed before the second.
    assert await count(store) in (1, 2)


async def test_answer_nobody_waits_for_holds_up_no_others() -> None:
    loop = asyncio.get_running_loop()
    left, stayed = (Job(None, lambda tx: None, loop.create_future()) for _ in range(2))
    answers = Answers(loop)
    left.future.cancel()
    answers.add(left, "too late")
    answers.add(stayed, "in time")
    await asyncio.to_thread(answers.send)
    async with asyncio.timeout(PATIENCE_S):
        assert await stayed.future == "in time"


async def test_store_keeps_no_result_alive(embedded: Store) -> None:
    class Result:
        pass

    result = await embedded.read(None, lambda tx: Result())
    reference = weakref.ref(result)
    await embedded.write(None, lambda tx: None)
    del result
    gc.collect()
    assert reference() is None


async def test_closing_finishes_what_was_begun(database: Database) -> None:
    store = await open_store(database.url, database.data_dir)
    writes = [asyncio.create_task(store.write(DEFAULT_PROJECT_ID, insert)) for _ in range(20)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    await store.close()
    with pytest.raises(Unavailable):
        await store.read(None, lambda tx: None)

    again = await open_store(database.url, database.data_dir)
    assert await count(again) == 20
    await again.close()


async def test_closed_store_leaves_one_file(sqlite_database: Database) -> None:
    store = await open_store(None, sqlite_database.data_dir)
    await store.write(DEFAULT_PROJECT_ID, insert)
    await store.close()
    assert {path.name for path in sqlite_database.data_dir.iterdir()} == {"threadkeep.db", "threadkeep.lock"}


async def test_second_server_on_a_folder_is_refused(embedded: Store, sqlite_database: Database) -> None:
    with pytest.raises(FolderInUse) as refused:
        await open_store(None, sqlite_database.data_dir)
    assert str(sqlite_database.data_dir) in refused.value.message
    assert f"process {os.getpid()}" in refused.value.message
    # A command may work beside the server.
    command = await open_store(None, sqlite_database.data_dir, is_sole_server=False)
    await command.write(None, lambda tx: tx.keys.create("acme"))
    await command.close()
    assert await embedded.read(None, lambda tx: tx.keys.any())


async def test_folder_of_a_server_that_died_is_free(sqlite_database: Database) -> None:
    """What is left in the lock file says nothing, not even when it names a process that lives."""
    (sqlite_database.data_dir / "threadkeep.lock").write_text(f"process {os.getpid()} on this machine\n")
    store = await open_store(None, sqlite_database.data_dir)
    await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:secret@db/x",
        "postgresql://me:pass:secret@db/x?what=else",
        "postgresql:secret",
        "not a url",
        "postgres",
        "",
    ],
)
async def test_url_of_another_database_is_refused_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadDatabaseUrl) as refused:
        await open_store(url, tmp_path)
    assert "secret" not in refused.value.message
    assert "postgresql://" in refused.value.message


async def test_sqlite_file_may_be_named_by_url(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path}/some/where/else.db", tmp_path)
    await store.close()
    assert (tmp_path / "some/where/else.db").exists()


async def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "threadkeep.db").write_bytes(b"This was never a database. " * 100)
    with pytest.raises(Unusable, match=r"threadkeep\.db"):
        await open_store(None, tmp_path)


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.support.objects import a_message, a_thread
from threadkeep.storage import DEFAULT_PROJECT_ID, open_store

async def main():
    store = await open_store(None, Path(sys.argv[1]))

    async def caller():
        while True:
            thread = a_thread()
            message = a_message(thread.id)
            await store.write(DEFAULT_PROJECT_ID, lambda tx: (tx.threads.insert(thread), tx.messages.insert(message)))
            print(thread.id, message.id, flush=True)

    await asyncio.gather(*(caller() for _ in range(16)))

asyncio.run(main())
"""


async def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[list[str]] = []
    for round_ in range(3):
        with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs on this loop
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            wanted = len(acknowledged) + 150 + 37 * round_
            for line in writer.stdout:
                acknowledged.append(line.split())
                if len(acknowledged) == wanted:
                    writer.send_signal(signal.SIGKILL)
            assert len(acknowledged) >= wanted
        # A line that the kill cut short was acknowledged to nobody.
        acknowledged = [ids for ids in acknowledged if len(ids) == 2 and len(ids[1]) == len("msg_") + 24]
    store = await open_store(None, tmp_path)
    try:
        for thread_id, message_id in acknowledged:
            await store.read(DEFAULT_PROJECT_ID, lambda tx, t=thread_id, m=message_id: tx.messages.get(t, m))
    finally:
        await store.close()


async def test_every_commit_reaches_the_disk(embedded: Store) -> None:
    """A kill can't show it: without the sync only a power cut would lose something."""
    pragmas = await embedded.write(
        None, lambda tx: execute(tx, "SELECT * FROM pragma_journal_mode, pragma_synchronous, pragma_foreign_keys")
    )
    assert pragmas == [("wal", 2, 1)]
