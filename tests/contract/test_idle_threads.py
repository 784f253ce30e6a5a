"""Threads with a time to live: what is idle goes, with all that is in it; what is not stays."""

import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from msgspec.structs import replace

from tests.support.objects import a_message, a_run, a_thread
from tests.support.server import RunningServer
from tests.support.stories import ScriptedModels, Story, stage_for
from threadkeep.contract import ids
from threadkeep.contract.ids import Prefix
from threadkeep.runs import idle_threads
from threadkeep.runs.idle_threads import IdleThreads
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction
from threadkeep.storage.work import Lease
from threadkeep.upstream.scripted import Gate, Say
from threadkeep.worker import Held

DAY_S = 86_400.0
PATIENCE_S = 60


def id_of(prefix: Prefix, days_ago: float) -> str:
    return ids.first_id(prefix, time.time() - days_ago * DAY_S)


async def swept(store: Store, *, days: float) -> list[str]:
    """The threads that a look at them deletes; all have seen it that were to be told."""
    deleted: list[str] = []
    sweeper = IdleThreads(store, ttl_s=days * DAY_S, on_deleted=lambda _project, thread: deleted.append(thread))
    await sweeper.start()

    def claim(tx: Transaction) -> Lease:
        [lease] = tx.work.claim("node", [idle_threads.KIND], 1, 60)
        return lease

    lease = await store.write(None, claim)
    await sweeper.handle(Held(lease, None, live_until=time.monotonic() + 60))
    assert not await store.read(None, lambda tx: tx.work.any_due([idle_threads.KIND]))
    return deleted


async def add_thread(
    store: Store, *, made: float, said: float | None = None, ran: float | None = None, **run: Any
) -> str:
    """The id of a thread made so many days ago, with a message and a run of so many days ago."""
    thread = replace(a_thread(), id=id_of("thread", made))

    def write(tx: Transaction) -> None:
        tx.threads.insert(thread)
        if said is not None:
            tx.messages.insert(a_message(thread.id, id=id_of("msg", said)))
        if ran is not None:
            tx.runs.insert(a_run(thread.id, id=id_of("run", ran), **run))

    await store.write(DEFAULT_PROJECT_ID, write)
    return thread.id


async def test_a_thread_in_which_nothing_has_happened_goes_with_all_that_is_in_it(store: Store) -> None:
    thread = await add_thread(store, made=40, said=35, ran=34, status="completed")

    assert await swept(store, days=30) == [thread]

    def left(tx: Transaction) -> list[object]:
        return [tx.threads.find(thread), tx.messages.last_id(thread), tx.runs.last_id(thread)]

    assert await store.read(DEFAULT_PROJECT_ID, left) == [None, None, None]


@pytest.mark.parametrize(
    "happened",
    [
        {"made": 29.0},
        {"made": 40.0, "said": 29.0},
        {"made": 40.0, "said": 35.0, "ran": 29.0, "status": "completed"},
        # It waits for its client, for longer than all.
        {"made": 40.0, "ran": 35.0, "status": "requires_action"},
        {"made": 40.0, "ran": 35.0, "status": "in_progress"},
    ],
)
async def test_a_thread_in_which_something_has_happened_stays(store: Store, happened: dict[str, Any]) -> None:
    thread = await add_thread(store, **happened)

    assert await swept(store, days=30) == []

    assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.find(thread)) is not None


async def test_all_projects_are_looked_through_to_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idle_threads, "_PAGE", 3)
    monkeypatch.setattr(idle_threads, "_BATCH", 2)
    idle = {await add_thread(store, made=40 + number / 10) for number in range(7)}
    for number in range(7):
        await add_thread(store, made=40.05 + number / 10, said=1)
    project = await store.write(None, lambda tx: tx.projects.ensure("another"))
    theirs = replace(a_thread(), id=id_of("thread", 50))
    await store.write(project, lambda tx: tx.threads.insert(theirs))

    deleted = await swept(store, days=30)

    assert len(deleted) == 8
    assert set(deleted) == {*idle, theirs.id}


async def test_a_thread_that_is_used_between_look_and_deletion_stays(store: Store) -> None:
    thread = await add_thread(store, made=40)
    before = time.time() - 30 * DAY_S
    _, idle = await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.idle(before))
    assert idle == [thread]
    await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.messages.insert(a_message(thread)))

    assert not await store.write(DEFAULT_PROJECT_ID, lambda tx: idle_threads._delete(tx, thread, before))


async def test_a_look_that_fails_leaves_its_work_to_be_put_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr("threadkeep.storage.threads.Threads.idle", fails)
    with pytest.raises(ArithmeticError):
        await swept(store, days=30)

    # Due at once it would fail again and again, as fast as the machine can.
    assert not await store.read(None, lambda tx: tx.work.any_due([idle_threads.KIND]))


@pytest.fixture(params=["sqlite", "postgres"])
def hasty(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server whose threads live for three seconds."""
    kind: Literal["sqlite", "postgres"] = request.param
    with stage_for(request, kind, thread_ttl_days=3 / DAY_S) as server:
        yield server


def test_a_server_deletes_what_nobody_uses_and_nothing_of_what_somebody_does(
    hasty: RunningServer, scripted_models: ScriptedModels
) -> None:
    with Story(hasty, scripted_models) as story:
        story.model.says(gate := Gate(), Say("Hello"))
        idle, busy = story.thread("Hi"), story.thread("Hi")
        run = story.create_run(busy)
        gate.wait_reached()

        deadline = time.monotonic() + PATIENCE_S
        while story.http.get(idle).status_code != 404:
            assert time.monotonic() < deadline
            time.sleep(0.1)

        assert story.get(f"{busy}/runs/{run['id']}")["status"] == "in_progress"
        gate.release()
