"""What the database promises about runs, whoever races whom."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable

import psycopg
import pytest
from msgspec.structs import replace

from tests.storage.conftest import Open
from tests.support.databases import Database, execute
from tests.support.objects import a_message, a_run, a_step, a_thread, an_assistant
from threadkeep.contract.errors import IllegalMove, InvalidRequest
from threadkeep.contract.run_status import ACTIVE, STATUSES, TERMINAL, RunStatus
from threadkeep.contract.runs import Run
from threadkeep.contract.threads import Thread
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction, open_store
from threadkeep.storage.runs import Line

PATIENCE_S = 30


@pytest.mark.parametrize("status", sorted(ACTIVE))
def test_second_run_is_refused_while_one_is_active(tx: Transaction, thread: Thread, status: str) -> None:
    first = a_run(thread.id, status=status)
    tx.runs.insert(first)
    assert tx.runs.active(thread.id) == first
    with pytest.raises(InvalidRequest, match=f"^Thread {thread.id} already has an active run {first.id}\\.$"):
        tx.runs.insert(a_run(thread.id))


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_run_that_has_ended_makes_way_for_the_next(tx: Transaction, thread: Thread, status: str) -> None:
    tx.runs.insert(a_run(thread.id, status=status))
    assert tx.runs.active(thread.id) is None
    second = a_run(thread.id)
    tx.runs.insert(second)
    assert tx.runs.active(thread.id) == second
    assert tx.runs.last_id(thread.id) == second.id


def test_refused_run_does_not_end_its_transaction(tx: Transaction, thread: Thread) -> None:
    """In PostgreSQL an error would: what follows in the transaction must still work."""
    tx.runs.insert(a_run(thread.id))
    execute(tx, "BEGIN")
    with pytest.raises(InvalidRequest):
        tx.runs.insert(a_run(thread.id))
    other = a_thread()
    tx.threads.insert(other)
    execute(tx, "COMMIT")
    assert tx.threads.get(other.id) == other


@pytest.mark.parametrize("was", STATUSES)
def test_move_from_another_status_than_the_stored_one_loses(tx: Transaction, thread: Thread, was: str) -> None:
    run = a_run(thread.id, status="in_progress")
    tx.runs.insert(run)
    moved = replace(run, status="completed")
    if was == "in_progress":
        tx.runs.replace(moved, was=was)
        assert tx.runs.lock(thread.id, run.id) == moved
    else:
        with pytest.raises(IllegalMove):
            tx.runs.replace(moved, was=was)  # pyright: ignore[reportArgumentType]
        assert tx.runs.get(thread.id, run.id) == run


def test_run_cannot_be_revived_beside_an_active_one(tx: Transaction, thread: Thread) -> None:
    ended = a_run(thread.id, status="completed")
    tx.runs.insert(ended)
    tx.runs.insert(a_run(thread.id))
    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        tx.runs.replace(replace(ended, status="queued"), was="completed")


async def test_of_many_runs_created_at_once_one_wins(store: Store) -> None:
    thread = a_thread()
    await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))
    runs = [a_run(thread.id) for _ in range(24)]

    async def create(run: Run) -> str:
        try:
            await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.runs.insert(run))
        except InvalidRequest as refused:
            return refused.message
        return run.id

    outcomes = await asyncio.gather(*(create(run) for run in runs))
    [winner] = [outcome for outcome in outcomes if outcome.startswith("run_")]
    refusal = f"Thread {thread.id} already has an active run {winner}."
    assert sorted(outcomes) == sorted([refusal] * 23 + [winner])


async def test_of_many_moves_at_once_one_wins(store: Store) -> None:
    thread, statuses = a_thread(), ("completed", "failed", "cancelling", "expired", "requires_action", "incomplete")
    run = a_run(thread.id, status="in_progress")
    await store.write(DEFAULT_PROJECT_ID, lambda tx: (tx.threads.insert(thread), tx.runs.insert(run)))

    async def move(status: str) -> str:
        try:
            moved = replace(run, status=status)
            await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.runs.replace(moved, was="in_progress"))
        except IllegalMove:
            return "lost"
        return status

    outcomes = await asyncio.gather(*(move(status) for status in statuses))
    [winner] = [outcome for outcome in outcomes if outcome != "lost"]
    stored = await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.runs.get(thread.id, run.id))
    assert stored.status == winner


@pytest.mark.parametrize("first_commits", [True, False])
async def test_second_run_waits_for_what_becomes_of_the_first(postgres_database: Database, first_commits: bool) -> None:
    """Two transactions of two nodes, held open side by side."""
    store = await open_store(postgres_database.url, postgres_database.data_dir)
    thread = a_thread()
    first, second = a_run(thread.id), a_run(thread.id)
    inserted, may_end = threading.Event(), threading.Event()

    def insert_first(tx: Transaction) -> None:
        tx.runs.insert(first)
        inserted.set()
        assert may_end.wait(PATIENCE_S)
        if not first_commits:
            raise ValueError("regretted")

    try:
        await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))
        one = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, insert_first))
        assert await asyncio.to_thread(inserted.wait, PATIENCE_S)
        two = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, lambda tx: tx.runs.insert(second)))
        await until_somebody_waits_for_a_lock(store)
        may_end.set()
        if first_commits:
            await one
            with pytest.raises(InvalidRequest, match=first.id):
                await two
        else:
            with pytest.raises(ValueError, match="regretted"):
                await one
            await two
    finally:
        may_end.set()
        await store.close()


async def until_somebody_waits_for_a_lock(store: Store) -> None:
    def is_waiting(tx: Transaction) -> bool:
        return bool(
            execute(
                tx,
                "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
        )

    async with asyncio.timeout(PATIENCE_S):
        while not await store.read(None, is_waiting):  # noqa: ASYNC110 - only the database can tell
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("noun", ["assistant", "thread", "message", "run", "line", "place"])
def test_lock_keeps_another_transaction_out(
    open_connection: Open, database: Database, tx: Transaction, thread: Thread, noun: str
) -> None:
    """In SQLite the one writer does; in PostgreSQL the row's lock must."""
    if database.is_sqlite:
        return
    assistant, message, run = an_assistant(), a_message(thread.id), a_run(thread.id)
    tx.assistants.insert(assistant)
    tx.messages.insert(message)
    tx.runs.insert(run)
    locks: dict[str, Callable[[Transaction], object]] = {
        "assistant": lambda tx: tx.assistants.lock(assistant.id),
        "thread": lambda tx: tx.threads.lock(thread.id),
        "message": lambda tx: tx.messages.lock(thread.id, message.id),
        "run": lambda tx: tx.runs.lock(thread.id, run.id),
        "line": lambda tx: tx.runs.lock_line(thread.id),
        "place": lambda tx: tx.messages.place_for(thread.id, run.id),
    }
    lock = locks[noun]
    holder, other = (Transaction(open_connection(), DEFAULT_PROJECT_ID) for _ in range(2))
    execute(holder, "BEGIN")
    lock(holder)
    execute(other, "SET lock_timeout = '100ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        lock(other)
    # A plain look is not kept waiting, nor a row that only refers to what is locked.
    assert other.threads.get(thread.id) == thread
    other.messages.insert(a_message(thread.id))
    other.steps.insert(a_step(run))


@pytest.mark.parametrize("waiting", [0, 2])
async def test_whoever_joins_the_line_while_its_head_ends_finds_the_next_or_none(
    postgres_database: Database, waiting: int
) -> None:
    """Two transactions of two nodes, held open side by side."""
    store = await open_store(postgres_database.url, postgres_database.data_dir)
    thread = a_thread()
    head, others = a_run(thread.id, status="in_progress"), [a_run(thread.id) for _ in range(waiting)]
    ended, may_end = threading.Event(), threading.Event()

    def begin(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.runs.insert(head)
        for place, run in enumerate(others):
            tx.runs.insert_waiting(run, Line(head, []), place, ahead_of=None)

    def end(tx: Transaction) -> None:
        if tx.runs.end(replace(head, status="completed"), was="in_progress"):
            assert tx.runs.begin_turn(thread.id, tx.runs.next(thread.id) or "")
        ended.set()
        assert may_end.wait(PATIENCE_S)

    try:
        await store.write(DEFAULT_PROJECT_ID, begin)
        one = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, end))
        assert await asyncio.to_thread(ended.wait, PATIENCE_S)
        two = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, lambda tx: tx.runs.lock_line(thread.id)))
        await until_somebody_waits_for_a_lock(store)
        may_end.set()
        await one
        line = await two
    finally:
        may_end.set()
        await store.close()
    if not others:
        assert line is None
        return
    assert line is not None
    assert (line.active, [each.id for each in line.waiting]) == (others[0], [others[1].id])


async def test_the_end_of_a_run_sees_who_joined_the_line_meanwhile(postgres_database: Database) -> None:
    store = await open_store(postgres_database.url, postgres_database.data_dir)
    thread = a_thread()
    head, other = a_run(thread.id, status="in_progress"), a_run(thread.id)
    joined, may_end = threading.Event(), threading.Event()

    def join(tx: Transaction) -> None:
        line = tx.runs.lock_line(thread.id)
        assert line is not None
        tx.runs.insert_waiting(other, line, 1, ahead_of=None)
        joined.set()
        assert may_end.wait(PATIENCE_S)

    def end(tx: Transaction) -> str | None:
        is_followed = tx.runs.end(replace(head, status="completed"), was="in_progress")
        return tx.runs.next(thread.id) if is_followed else None

    try:
        await store.write(DEFAULT_PROJECT_ID, lambda tx: (tx.threads.insert(thread), tx.runs.insert(head)))
        one = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, join))
        assert await asyncio.to_thread(joined.wait, PATIENCE_S)
        two = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, end))
        await until_somebody_waits_for_a_lock(store)
        may_end.set()
        await one
        assert await two == other.id
    finally:
        may_end.set()
        await store.close()


async def test_the_place_of_a_message_is_ahead_of_one_that_was_put_behind_the_run_meanwhile(
    postgres_database: Database,
) -> None:
    store = await open_store(postgres_database.url, postgres_database.data_dir)
    thread = a_thread()
    run, last, behind = a_run(thread.id), a_message(thread.id), a_message(thread.id)
    put, may_end = threading.Event(), threading.Event()

    def put_behind(tx: Transaction) -> None:
        line = tx.runs.lock_line(thread.id)
        assert line is not None
        tx.messages.insert(behind)
        tx.runs.put_all_ahead_of(line, behind.id)
        put.set()
        assert may_end.wait(PATIENCE_S)

    try:
        await store.write(
            DEFAULT_PROJECT_ID,
            lambda tx: (tx.threads.insert(thread), tx.runs.insert(run), tx.messages.insert(last)),
        )
        one = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, put_behind))
        assert await asyncio.to_thread(put.wait, PATIENCE_S)
        two = asyncio.create_task(store.write(DEFAULT_PROJECT_ID, lambda tx: tx.messages.place_for(thread.id, run.id)))
        await until_somebody_waits_for_a_lock(store)
        may_end.set()
        await one
        assert await two == (last.id, behind.id)
    finally:
        may_end.set()
        await store.close()


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_a_run_that_waits_ends_and_does_not_move_else(tx: Transaction, thread: Thread, status: RunStatus) -> None:
    head, run = a_run(thread.id), a_run(thread.id)
    tx.runs.insert(head)
    tx.runs.insert_waiting(run, Line(head, []), 1, ahead_of=None)
    for moved in ("in_progress", "cancelling", "requires_action"):
        with pytest.raises(IllegalMove):
            tx.runs.replace(replace(run, status=moved), was="queued")

    assert tx.runs.end(replace(run, status=status), was="queued") is False

    assert tx.runs.get(thread.id, run.id).status == status
    assert (tx.runs.next(thread.id), tx.runs.is_waiting(thread.id, run.id)) == (None, False)
    assert tx.runs.active(thread.id) == head
    with pytest.raises(IllegalMove):
        tx.runs.end(replace(run, status=status), was="queued")
