"""PostgreSQL that goes away, comes back, hangs, or cannot let two transactions pass each other."""

import asyncio
import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import pytest_asyncio

from tests.support.databases import Database, execute
from tests.support.objects import a_thread
from tests.support.postgres import PostgresServer
from threadkeep.contract.errors import Unavailable
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction, open_store
from threadkeep.storage.postgres import PostgresConnection, PostgresEngine

PATIENCE_S = 60
# What the contract of the store promises, and a little for a busy machine.
ANSWERED_WITHIN_S = 12


@pytest_asyncio.fixture
async def store(postgres_database: Database) -> AsyncIterator[Store]:
    store = await open_store(postgres_database.url, postgres_database.data_dir, connections=2)
    yield store
    await store.close()


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


def backend(tx: Transaction) -> int:
    connection = tx._connection
    assert isinstance(connection, PostgresConnection)
    return connection.raw.info.backend_pid


def ask(tx: Transaction) -> None:
    execute(tx, "SELECT 1")


def terminate_all(server: PostgresServer, database: Database) -> None:
    assert database.url is not None
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s",
            [urlsplit(database.url).path[1:]],
        )


async def test_cut_connection_is_made_anew_and_nobody_notices(
    store: Store, postgres: PostgresServer, postgres_database: Database
) -> None:
    for _ in range(3):
        await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(a_thread()))
        await store.read(None, backend)
        terminate_all(postgres, postgres_database)
    thread = a_thread()
    await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))
    assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id)) == thread


async def test_connection_cut_inside_a_transaction_is_written_once(
    store: Store, postgres: PostgresServer, postgres_database: Database
) -> None:
    thread, runs = a_thread(), 0

    def write(tx: Transaction) -> None:
        nonlocal runs
        runs += 1
        tx.threads.insert(thread)
        if runs == 1:
            terminate_all(postgres, postgres_database)
        tx.threads.get(thread.id)

    await store.write(DEFAULT_PROJECT_ID, write)
    assert runs == 2
    assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id)) == thread


async def test_deadlock_is_ended_by_running_one_again(store: Store) -> None:
    threads = [a_thread(), a_thread()]
    for thread in threads:
        await store.write(DEFAULT_PROJECT_ID, lambda tx, thread=thread: tx.threads.insert(thread))
    both_hold_one, calls = threading.Barrier(2), 0

    def lock(tx: Transaction, first: int, second: int) -> None:
        nonlocal calls
        calls += 1
        tx.threads.lock(threads[first].id)
        if calls <= 2:
            both_hold_one.wait(PATIENCE_S)
        tx.threads.lock(threads[second].id)

    await asyncio.gather(
        store.write(DEFAULT_PROJECT_ID, lambda tx: lock(tx, 0, 1)),
        store.write(DEFAULT_PROJECT_ID, lambda tx: lock(tx, 1, 0)),
    )
    # One at least; when it is quick to come back, the two may meet again.
    assert calls > 2


async def test_serialization_failure_is_run_again(store: Store) -> None:
    calls = 0

    def write(tx: Transaction) -> str:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise psycopg.errors.SerializationFailure
        return "done"

    assert await store.write(DEFAULT_PROJECT_ID, write) == "done"


async def test_conflict_without_end_is_given_up(store: Store) -> None:
    def write(_tx: Transaction) -> None:
        raise psycopg.errors.SerializationFailure

    with pytest.raises(Unavailable):
        await store.write(DEFAULT_PROJECT_ID, write)


async def test_standby_is_left_for_the_server_that_may_write(store: Store) -> None:
    before = {await store.read(None, backend) for _ in range(10)}

    def write(tx: Transaction) -> None:
        if backend(tx) in before:
            execute(tx, "SET TRANSACTION READ ONLY")
        tx.threads.insert(a_thread())

    for _ in range(4):
        try:
            await store.write(DEFAULT_PROJECT_ID, write)
        except Unavailable:
            continue
    assert not before & {await store.read(None, backend) for _ in range(10)}


async def test_database_away_is_told_in_time_and_survived(
    own_server: PostgresServer, postgres_database: Database
) -> None:
    store = await open_store(own_server.create_database(), postgres_database.data_dir)
    try:
        thread = a_thread()
        await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))
        await asyncio.to_thread(own_server.stop)

        started = time.monotonic()
        outcomes = await asyncio.gather(
            *(store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(a_thread())) for _ in range(100)),
            *(store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id)) for _ in range(100)),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert time.monotonic() - started < ANSWERED_WITHIN_S

        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    read = await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id))
                    break
                except Unavailable:
                    await asyncio.sleep(0.05)
        assert read == thread
    finally:
        await store.close()


async def test_connection_that_ends_with_a_crash_of_another_is_made_anew(
    own_server: PostgresServer, postgres_database: Database
) -> None:
    store = await open_store(own_server.create_database(), postgres_database.data_dir, connections=1)
    try:
        with psycopg.connect(own_server.url(), autocommit=True) as watching:
            await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(a_thread()))
            with psycopg.connect(own_server.url()) as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
                # The server ends all connections, with a word of warning that lies in each ahead of its end.
                await asyncio.to_thread(until_ended, watching)
        thread = a_thread()
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await store.write(DEFAULT_PROJECT_ID, lambda tx: tx.threads.insert(thread))
                    break
                except Unavailable:
                    # It is recovering.
                    await asyncio.sleep(0.05)
        assert await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.get(thread.id)) == thread
    finally:
        await store.close()


def until_ended(connection: psycopg.Connection[Any]) -> None:
    """Until the server has ended it."""
    assert select.select([connection.fileno()], [], [], PATIENCE_S)[0]
    # What came is the warning, and then the end.
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")


async def test_hanging_database_is_told_in_time_and_frees_the_thread(postgres_database: Database) -> None:
    """Its kernel still answers for it, so no network time-out ends the wait."""
    store = await open_store(postgres_database.url, postgres_database.data_dir, connections=1)
    frozen = await store.read(None, backend)
    os.kill(frozen, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await store.read(DEFAULT_PROJECT_ID, lambda tx: tx.threads.find("thread_x"))
        assert time.monotonic() - started < ANSWERED_WITHIN_S
        # The only thread is free again and has a connection that works.
        async with asyncio.timeout(PATIENCE_S):
            assert await store.read(None, backend) != frozen
    finally:
        os.kill(frozen, signal.SIGCONT)
        await store.close()


async def test_server_that_hangs_altogether_is_told_in_time(
    own_server: PostgresServer, postgres_database: Database
) -> None:
    """Also to those who wait for a thread: a new connection would hang as well."""
    store = await open_store(own_server.create_database(), postgres_database.data_dir, connections=1)
    frozen = [await store.read(None, backend), own_server.pid]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        outcomes = await asyncio.gather(*(store.read(None, ask) for _ in range(5)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert time.monotonic() - started < ANSWERED_WITHIN_S
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        await store.close()


async def test_thread_that_hangs_for_a_caller_who_has_gone_is_freed(postgres_database: Database) -> None:
    store = await open_store(postgres_database.url, postgres_database.data_dir, connections=1)
    frozen = await store.read(None, backend)
    os.kill(frozen, signal.SIGSTOP)
    try:
        engine = store.engine
        assert isinstance(engine, PostgresEngine)
        gone = asyncio.create_task(store.read(None, ask))
        async with asyncio.timeout(PATIENCE_S):
            while engine._seats[0].job is None:  # noqa: ASYNC110 - a thread sets it
                await asyncio.sleep(0.01)
            gone.cancel()
            while True:
                with contextlib.suppress(Unavailable):
                    await store.read(None, ask)
                    break
    finally:
        os.kill(frozen, signal.SIGCONT)
        await store.close()


async def test_store_closes_though_the_server_says_nothing(
    own_server: PostgresServer, postgres_database: Database
) -> None:
    store = await open_store(own_server.create_database(), postgres_database.data_dir, connections=2)
    await store.write(None, lambda tx: ask(tx))
    frozen = [await store.read(None, backend) for _ in range(10)]
    processes = {own_server.pid, *frozen}
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await store.close()
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)


async def test_url_of_a_database_that_is_away_is_told(own_server: PostgresServer, postgres_database: Database) -> None:
    url = own_server.url("nowhere")
    with pytest.raises(Unavailable, match="nowhere"):
        await open_store(url, postgres_database.data_dir)


async def test_settings_of_a_connection_bound_every_wait(store: Store) -> None:
    def settings(tx: Transaction) -> list[str]:
        return [
            execute(tx, "SHOW statement_timeout")[0][0],
            execute(tx, "SHOW lock_timeout")[0][0],
            execute(tx, "SHOW synchronous_commit")[0][0],
        ]

    assert await store.read(None, settings) == ["8s", "5s", "on"]


async def test_threads_are_no_more_than_asked_for(store: Store) -> None:
    assert isinstance(store.engine, PostgresEngine)
    await asyncio.gather(*(store.read(None, backend) for _ in range(50)))
    assert len({await store.read(None, backend) for _ in range(50)}) <= 2
