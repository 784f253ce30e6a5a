"""A run's milestones while the database goes away at each of their commits: they wait, and each happens once."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

import pytest
import pytest_asyncio

from tests.runs.test_journal import Desk, desk_on, start_call, write_text
from tests.support.databases import Database
from tests.support.postgres_proxy import OnCommit, PostgresProxy, Way, lose_the_answer, lose_the_commit
from threadkeep.contract.errors import LeaseLost, Unavailable
from threadkeep.runs.moves import NO_USAGE
from threadkeep.runs.patience import Patience
from threadkeep.storage import Store, open_store

PATIENCE_S = 60


@pytest.fixture
def proxy(postgres_database: Database) -> Iterator[PostgresProxy]:
    assert postgres_database.url is not None
    with PostgresProxy(postgres_database.url) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def store(proxy: PostgresProxy, postgres_database: Database) -> AsyncIterator[Store]:
    store = await open_store(proxy.url, postgres_database.data_dir, connections=2)
    yield store
    proxy.is_on = True
    await store.close()


async def asks_the_client(desk: Desk) -> None:
    await desk.journal.begin()
    await write_text(desk.journal, "Hel", "lo")
    await desk.journal.close_message()
    await desk.journal.open_calls()
    start_call(desk.journal)
    await desk.journal.require_action(NO_USAGE)


async def completed(desk: Desk) -> None:
    await desk.journal.begin()
    await write_text(desk.journal, "Hel", "lo")
    await desk.journal.end("completed")


async def handed_over(desk: Desk) -> None:
    await desk.journal.begin()
    await write_text(desk.journal, "Hel", "lo")
    await desk.journal.hand_over()


def goes_away_with(what: OnCommit, proxy: PostgresProxy) -> OnCommit:
    """The database is gone with the commit, and comes back a while later."""

    def go(way: Way, commit: bytes) -> bool:
        proxy.is_on = False
        what(way, commit)
        proxy.cut_all()
        return False

    return go


@pytest.mark.parametrize("stays_away", [False, True], ids=["back at once", "stays away"])
@pytest.mark.parametrize("what", [lose_the_answer, lose_the_commit])
@pytest.mark.parametrize(
    ("story", "commits"),
    [(asks_the_client, 5), (completed, 3), (handed_over, 3)],
    ids=["calls", "completed", "handed over"],
)
async def test_each_milestone_happens_once(
    store: Store,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
    story: Callable[[Desk], Coroutine[None, None, None]],
    commits: int,
    what: OnCommit,
    stays_away: bool,
) -> None:
    undisturbed = await desk_on(store)
    await story(undisturbed)
    assert proxy.commits > commits
    # Away for longer than a caller is kept waiting: the doubt comes out, and is settled later.
    monkeypatch.setattr("threadkeep.storage.postgres.ANSWER_WITHIN_S", 0.2)

    for nth in range(commits):
        desk = await desk_on(store)
        if stays_away:
            proxy.next_commits(*[let_through] * nth, goes_away_with(what, proxy))
        else:
            proxy.next_commits(*[let_through] * nth, what)
        running = asyncio.create_task(story(desk))
        if stays_away:
            async with asyncio.timeout(PATIENCE_S):
                while proxy.is_on:  # noqa: ASYNC110 - set in a thread
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.4)
            assert not running.done()
            proxy.is_on = True
        await running

        run, steps, messages = await desk.stored()
        run_, steps_, messages_ = await undisturbed.stored()
        assert desk.names == undisturbed.names
        assert run.status == run_.status
        assert [(step.type, step.status) for step in steps] == [(step.type, step.status) for step in steps_]
        assert [(m.status, m.content) for m in messages] == [(m.status, m.content) for m in messages_]
        assert desk.held.settled


def let_through(_way: Way, _commit: bytes) -> bool:
    return True


async def test_a_lease_that_another_took_meanwhile_is_lost(
    store: Store, proxy: PostgresProxy, postgres_database: Database
) -> None:
    """The database is away for this node only."""
    desk = await desk_on(store)
    await desk.journal.begin()
    proxy.next_commits(goes_away_with(lose_the_commit, proxy))
    ending = asyncio.create_task(write_text(desk.journal, "Hi"))
    async with asyncio.timeout(PATIENCE_S):
        while proxy.is_on:  # noqa: ASYNC110 - set in a thread
            await asyncio.sleep(0.005)
    elsewhere = await open_store(postgres_database.url, postgres_database.data_dir, connections=1)
    await Desk(elsewhere, desk.journal, desk.held).steal()
    await elsewhere.close()
    proxy.is_on = True

    with pytest.raises(LeaseLost):
        await ending

    _, steps, messages = await desk.stored()
    assert (steps, messages) == ([], [])


class TestPatience:
    async def test_what_failed_is_told_to_the_next_attempt(self) -> None:
        heard: list[Unavailable | None] = []
        first = Unavailable("gone")

        async def attempt(away: Unavailable | None) -> int:
            heard.append(away)
            if len(heard) == 1:
                raise first
            return len(heard)

        assert await Patience(None)(attempt) == 2
        assert heard == [None, first]

    async def test_it_is_over_with_the_time_of_the_run(self) -> None:
        async def attempt(_away: Unavailable | None) -> None:
            raise Unavailable("gone")

        started = time.time()
        with pytest.raises(Unavailable):
            await Patience(int(started) + 1)(attempt)
        assert time.time() >= int(started) + 1

    async def test_it_can_be_ended_for_those_who_wait_and_those_who_come(self) -> None:
        patience, attempts = Patience(None), 0

        async def attempt(_away: Unavailable | None) -> None:
            nonlocal attempts
            attempts += 1
            raise Unavailable("gone")

        waiting = asyncio.create_task(patience(attempt))
        await asyncio.sleep(0)
        patience.end()

        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            await patience(attempt)
        assert attempts == 2
