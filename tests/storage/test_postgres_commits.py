"""Connections that break while the database commits: whatever became of it, each write happens once or not at all."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.support.databases import Database, execute
from tests.support.objects import a_thread
from tests.support.postgres import PostgresServer
from tests.support.postgres_proxy import OnCommit, PostgresProxy, Way, lose_the_answer, lose_the_commit
from threadkeep.contract.errors import Unavailable
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction, open_store
from threadkeep.storage.engine import InDoubt

PATIENCE_S = 60
_WAITERS = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%commits%FOR UPDATE%'"


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[PostgresProxy]:
    assert postgres_database.url is not None
    with PostgresProxy(postgres_database.url) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(proxy: PostgresProxy, postgres_database: Database) -> AsyncIterator[Store]:
    store = await open_store(proxy.url, postgres_database.data_dir, connections=2)
    # Each connection is made, and has its row.
    await asyncio.gather(*(store.write(None, lambda tx: execute(tx, "SELECT pg_sleep(0.05)")) for _ in range(8)))
    yield store
    await store.close()


async def insert(store: Store, after: Unavailable | None = None) -> tuple[str, int]:
    """A new thread's id, and how often the function was run that inserted one."""
    runs = 0

    def write(tx: Transaction) -> tuple[str, int]:
        nonlocal runs
        runs += 1
        thread = a_thread()
        tx.threads.insert(thread)
        return thread.id, runs

    return await store.write(DEFAULT_PROJECT_ID, write, after=after)


async def threads(store: Store) -> list[str]:
    rows = await store.read(None, lambda tx: execute(tx, "SELECT id FROM threads"))
    return [row[0] for row in rows]


class Writers:
    """Sixteen that insert threads one after the other, and again after every failure."""

    def __init__(self, store: Store) -> None:
        self.written: list[str] = []
        self._store = store
        self._has_ended = False
        self._tasks = [asyncio.create_task(self._write()) for _ in range(16)]

    async def have_written(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.written) < count:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)

    async def end(self) -> list[str]:
        """The ids of all that was acknowledged."""
        self._has_ended = True
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*self._tasks)
        return sorted(self.written)

    async def _write(self) -> None:
        away: Unavailable | None = None
        while not self._has_ended or away is not None:
            try:
                thread_id, _ = await insert(self._store, after=away)
            except Unavailable as error:
                away = error
                await asyncio.sleep(0.02)
                continue
            away = None
            self.written.append(thread_id)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_commit_whose_answer_was_lost_is_not_made_again(store: Store, proxy: PostgresProxy, times: int) -> None:
    for _ in range(times):
        before = await threads(store)
        proxy.next_commits(lose_the_answer)

        thread_id, runs = await insert(store)

        assert runs == 1
        assert set(await threads(store)) - set(before) == {thread_id}


async def test_a_commit_that_was_lost_is_made_again(store: Store, proxy: PostgresProxy) -> None:
    proxy.next_commits(lose_the_commit, lose_the_commit, lose_the_answer)

    thread_id, runs = await insert(store)

    assert runs == 3
    assert await threads(store) == [thread_id]


async def test_a_commit_that_arrives_late_is_waited_for(store: Store, proxy: PostgresProxy) -> None:
    """The server takes it from its buffer when the client is gone already, and asks what became of it."""
    may_commit, is_late = threading.Event(), threading.Event()

    def late(way: Way, commit: bytes) -> bool:
        way.is_deaf = True
        way.client.shutdown(2)
        is_late.set()
        assert may_commit.wait(PATIENCE_S)
        way.server.sendall(commit)
        assert way.missed.wait(PATIENCE_S)
        return False

    proxy.next_commits(late)
    inserting = asyncio.create_task(insert(store))
    await asyncio.to_thread(is_late.wait, PATIENCE_S)
    # The client asks, and waits for the row that the old connection holds.
    async with asyncio.timeout(PATIENCE_S):
        while not await store.read(None, lambda tx: execute(tx, _WAITERS)):  # noqa: ASYNC110 - the server's event
            await asyncio.sleep(0.02)
    may_commit.set()

    thread_id, runs = await inserting

    assert runs == 1
    assert await threads(store) == [thread_id]


async def in_doubt(store: Store, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch, what: OnCommit) -> InDoubt:
    """What a write ends with whose commit was cut off, with a database that stays away then."""
    monkeypatch.setattr("threadkeep.storage.postgres.ANSWER_WITHIN_S", 0.5)

    def go_away(way: Way, commit: bytes) -> bool:
        proxy.is_on = False
        what(way, commit)
        proxy.cut_all()
        return False

    proxy.next_commits(go_away)
    with pytest.raises(InDoubt) as raised:
        await insert(store)
    with pytest.raises(Unavailable) as away:
        await insert(store)
    # Of this one it is known that nothing happened.
    assert not isinstance(away.value, InDoubt)
    return raised.value


@pytest.mark.parametrize(("what", "runs_again"), [(lose_the_answer, False), (lose_the_commit, True)])
async def test_a_doubt_is_settled_when_the_database_is_back(
    store: Store, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch, what: OnCommit, runs_again: bool
) -> None:
    doubt = await in_doubt(store, proxy, monkeypatch, what)
    with pytest.raises(InDoubt) as still:
        await insert(store, after=doubt)

    proxy.is_on = True
    monkeypatch.undo()
    # Whatever the connections write meanwhile changes nothing in the answer.
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                others = [(await insert(store))[0] for _ in range(20)]
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    before = set(await threads(store))
    thread_id, _ = await insert(store, after=still.value)

    assert (thread_id not in before) is runs_again
    assert set(await threads(store)) == {*others, thread_id}


async def test_a_server_killed_again_and_again_writes_everything_once(
    postgres: PostgresServer, postgres_database: Database
) -> None:
    """Transactions that a crash takes along leave their numbers to later ones: a number alone would prove nothing."""
    server = PostgresServer()
    server.start()
    store = await open_store(server.create_database(), postgres_database.data_dir)
    try:
        writers = Writers(store)
        for round_ in range(5):
            await writers.have_written(200 * (round_ + 1))
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

        assert await writers.end() == sorted(await threads(store))
    finally:
        await store.close()
        await asyncio.to_thread(server.remove)


async def test_a_standby_that_takes_over_goes_on_where_the_other_was(
    postgres: PostgresServer, postgres_database: Database
) -> None:
    first = PostgresServer()
    first.start()
    first.set("synchronous_standby_names", "*")
    second = PostgresServer(copy_of=first)
    second.start()
    first.create_database(name="both")
    store = await open_store(
        f"postgresql://postgres@/both?host={first.sockets},{second.sockets}", postgres_database.data_dir
    )
    try:
        writers = Writers(store)
        await writers.have_written(200)
        await asyncio.to_thread(first.kill)
        # It has no standby of its own, and must not wait for one.
        await asyncio.to_thread(second.set, "synchronous_standby_names", "")
        await asyncio.to_thread(second.promote)
        await writers.have_written(len(writers.written) + 200)

        assert await writers.end() == sorted(await threads(store))
    finally:
        await store.close()
        await asyncio.to_thread(second.remove)
        await asyncio.to_thread(first.remove)


async def test_rows_of_writers_that_are_no_more_go(postgres_database: Database) -> None:
    first = await open_store(postgres_database.url, postgres_database.data_dir, connections=1)
    await first.write(None, lambda tx: execute(tx, "INSERT INTO commits VALUES ('dead', 7, 1700000000)"))
    assert len(await first.read(None, lambda tx: execute(tx, "SELECT * FROM commits"))) == 2
    await first.close()

    second = await open_store(postgres_database.url, postgres_database.data_dir, connections=1)
    await second.write(None, lambda tx: execute(tx, "SELECT 1"))
    [(writer,)] = await second.read(None, lambda tx: execute(tx, "SELECT writer FROM commits"))
    await second.close()

    assert writer != "dead"
