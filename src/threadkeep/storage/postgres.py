"""PostgreSQL: threads with a connection each, a transaction for each write.

A connection that broke is made anew, and a call whose commit was not yet sent is run again on it. While the database
is away every call is answered `Unavailable` within `ANSWER_WITHIN_S`, also when a thread hangs in a dead connection.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threadkeep.contract.errors import Unavailable
from threadkeep.storage.engine import MAX_WAITING, Answers, DialectName, Job
from threadkeep.storage.statements import Columns, Row, Statement, Upsert, Value

ANSWER_WITHIN_S = 9.0
# A failover left us with a standby: it answers, and refuses to write.
_STANDBY = psycopg.errors.ReadOnlySqlTransaction
# Two transactions met, and the database ended one of them.
_RETRIED = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
_ATTEMPTS = 5
# After a connection could not be made, nobody tries again for so long: the queue is answered meanwhile.
_PAUSE_S = 0.5

# What the URL leaves open.
_DEFAULTS = {
    "connect_timeout": "4",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "application_name": "threadkeep",
}
_SET_UP = (
    "SET statement_timeout = '8s'; SET lock_timeout = '5s'; "
    # A node that freezes inside a transaction holds its rows no longer than this; ours take milliseconds.
    "SET idle_in_transaction_session_timeout = '5s'; "
    # A server may be set up to commit in memory. We are not.
    "SET synchronous_commit = on"
)


def connect(url: str) -> psycopg.Connection[Row]:
    """A connection set up as all of ours are; it begins and ends no transactions by itself."""
    connection = psycopg.connect(make_conninfo("", **_DEFAULTS | conninfo_to_dict(url)), autocommit=True)
    try:
        connection.execute(_SET_UP)
    except BaseException:
        connection.close()
        raise
    return connection


class PostgresConnection:
    """See `statements.Connection`."""

    __slots__ = ("_cursor", "raw")

    def __init__(self, raw: psycopg.Connection[Row]) -> None:
        self.raw = raw
        self._cursor = raw.cursor()

    @property
    def is_sqlite(self) -> bool:
        return False

    def rows(self, statement: Statement, values: dict[str, Value]) -> list[Row]:
        return self._cursor.execute(statement.postgres, values).fetchall()  # pyright: ignore[reportArgumentType]

    def row(self, statement: Statement, values: dict[str, Value]) -> Row | None:
        return self._cursor.execute(statement.postgres, values).fetchone()  # pyright: ignore[reportArgumentType]

    def run(self, statement: Statement, values: dict[str, Value]) -> int:
        return self._cursor.execute(statement.postgres, values).rowcount  # pyright: ignore[reportArgumentType]

    def upsert(self, statement: Upsert, columns: Columns) -> None:
        self._cursor.execute(statement.postgres, columns)  # pyright: ignore[reportArgumentType]

    def do(self, command: LiteralString) -> None:
        self._cursor.execute(command)


class _Seat:
    """A thread's place: its connection, and the job it is at."""

    __slots__ = ("connection", "job")

    def __init__(self) -> None:
        self.connection: PostgresConnection | None = None
        self.job: Job | None = None


class PostgresEngine:
    """See `engine.Engine`."""

    dialect: DialectName = "postgresql"

    def __init__(self, url: str, answers: Answers, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        self._url = url
        self._answers = answers
        self._loop = loop
        self._queue: SimpleQueue[tuple[Job, bool] | None] = SimpleQueue()
        # Jobs in order of their deadlines, the answered ones among them until the watch comes by.
        self._due: deque[Job] = deque()
        self._watch: asyncio.TimerHandle | None = None
        self._away_until = 0.0
        self._seats = [_Seat() for _ in range(connections)]
        self._threads = [
            threading.Thread(target=self._work, args=(seat,), name=f"storage-{number}", daemon=True)
            for number, seat in enumerate(self._seats)
        ]
        for thread in self._threads:
            thread.start()

    def read(self, job: Job) -> None:
        self._put(job, is_write=False)

    def write(self, job: Job) -> None:
        self._put(job, is_write=True)

    def close(self) -> None:
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()
        if self._watch is not None:
            self._watch.cancel()

    def _put(self, job: Job, *, is_write: bool) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            raise Unavailable
        job.deadline = time.monotonic() + ANSWER_WITHIN_S
        self._due.append(job)
        if self._watch is None:
            self._watch = self._loop.call_later(1.0, self._look)
        self._queue.put((job, is_write))

    def _look(self) -> None:
        """Every second while there are jobs: answers those whose time is up, and frees the threads that hang."""
        self._watch = None
        now = time.monotonic()
        while self._due and (self._due[0].future.done() or self._due[0].deadline <= now):
            job = self._due.popleft()
            if job.future.done():
                continue
            job.future.set_exception(Unavailable())
            for seat in self._seats:
                if seat.job is job and (connection := seat.connection) is not None:
                    cut(connection.raw)
        if self._due:
            self._watch = self._loop.call_later(1.0, self._look)

    def _work(self, seat: _Seat) -> None:
        answers = self._answers
        while (taken := self._queue.get()) is not None:
            job, is_write = taken
            if not job.future.done():
                seat.job = job
                try:
                    answers.add(job, self._run(seat, job, is_write=is_write))
                except BaseException as error:
                    answers.add(job, None, error)
                seat.job = None
                answers.send()
            del taken, job
        if seat.connection is not None:
            seat.connection.raw.close()

    def _run(self, seat: _Seat, job: Job, *, is_write: bool) -> Any:
        attempt = 0
        while True:
            attempt += 1
            connection = seat.connection or self._connected(seat)
            is_committing = False
            try:
                if not is_write:
                    return job.run(connection)
                connection.do("BEGIN")
                result = job.run(connection)
                is_committing = True
                connection.do("COMMIT")
                return result
            except psycopg.Error as error:
                self._settle(seat, connection, is_good=not isinstance(error, _STANDBY))
                if isinstance(error, _RETRIED):
                    can_retry = True
                elif seat.connection is None:
                    # Broken. Whether a commit that was on its way arrived, nobody can say: that is not repeated.
                    can_retry = not is_committing
                elif isinstance(error, psycopg.OperationalError):
                    can_retry = False
                else:
                    raise
                if not can_retry or attempt == _ATTEMPTS or time.monotonic() >= job.deadline:
                    raise Unavailable from error
                # The one we met goes first: at once we would only meet again.
                time.sleep(random.uniform(0, 0.02) * attempt)
            except BaseException:
                self._settle(seat, connection, is_good=True)
                raise

    def _settle(self, seat: _Seat, connection: PostgresConnection, *, is_good: bool) -> None:
        """After a failure: no transaction is open, and a connection that is no good is gone."""
        try:
            if connection.raw.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                connection.do("ROLLBACK")
        except psycopg.Error:
            is_good = False
        if not is_good or connection.raw.closed:
            connection.raw.close()
            seat.connection = None

    def _connected(self, seat: _Seat) -> PostgresConnection:
        if time.monotonic() < self._away_until:
            raise Unavailable
        try:
            seat.connection = PostgresConnection(connect(self._url))
        except psycopg.OperationalError as error:
            self._away_until = time.monotonic() + _PAUSE_S
            raise Unavailable from error
        return seat.connection


def cut(connection: psycopg.Connection[Any]) -> None:
    """Ends the connection under a thread that waits for it: its wait returns with an error."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)
    except (OSError, psycopg.Error):
        # It is gone already.
        pass
