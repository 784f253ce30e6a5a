"""PostgreSQL: threads with a connection each, a transaction for each write.

A connection that broke is made anew, and the call is run again on it. If it broke at the commit, nobody can say whether
that arrived; but the transaction began by leaving its number in the row of its writer (table ``commits``), and there it
stands if, and only if, it was committed: on this server, on the one that recovered from a crash, on the standby that
took over. So no write happens twice.

While the database is away every call is answered `Unavailable` within `ANSWER_WITHIN_S`, also when a thread hangs in a
dead connection.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, LiteralString, NoReturn

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from threadkeep.contract.errors import Unavailable
from threadkeep.storage.engine import MAX_WAITING, Answers, DialectName, Doubt, InDoubt, Job, Presence
from threadkeep.storage.statements import Columns, Row, Statement, Upsert, Value

# Looked after every `_LOOK_S`, so the last is answered within nine seconds; a client is promised ten.
ANSWER_WITHIN_S = 8.5
_LOOK_S = 0.5
# A failover left us with a standby: it answers, and refuses to write.
_STANDBY = psycopg.errors.ReadOnlySqlTransaction
# Two transactions met, and the database ended one of them.
_RETRIED = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
_ATTEMPTS = 5
# After a connection could not be made, nobody tries again for so long: the queue is answered meanwhile.
_PAUSE_S = 0.5
# How long the row of a writer stays that nobody heard of. Nobody is in doubt for so long.
_FORGOTTEN_S = 24 * 3600

# What the URL leaves open.
_DEFAULTS = {
    "connect_timeout": "4",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "application_name": "threadkeep",
    # Of several hosts in the URL, the one that may be written; a standby that answers is passed by.
    "target_session_attrs": "read-write",
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

    def begin(self, writer: str, number: int) -> bool:
        """Begins a transaction, as ``number`` of ``writer``; False, and none was begun, where that one has no row yet.

        One message to the server. Until the transaction has ended it holds the row.
        """
        # Both are ours: a number, and hexadecimal digits.
        mark = f"UPDATE commits SET number = {number}, seen_at = {time.time():.0f} WHERE writer = '{writer}'"  # noqa: S608
        if self._exec(f"BEGIN; {mark}".encode()).command_tuples:
            return True
        self._exec(b"ROLLBACK")
        return False

    def introduce(self, writer: str) -> None:
        """Makes the row of a writer; those that nobody has heard of for long go."""
        now = time.time()
        self._cursor.execute("DELETE FROM commits WHERE seen_at < %s", [round(now - _FORGOTTEN_S)])
        self._cursor.execute("INSERT INTO commits (writer, number, seen_at) VALUES (%s, 0, %s)", [writer, round(now)])

    def retire(self, writer: str) -> None:
        self._cursor.execute("DELETE FROM commits WHERE writer = %s", [writer])

    def commit(self) -> None:
        if self._exec(b"COMMIT").command_status != b"COMMIT":
            raise psycopg.errors.InFailedSqlTransaction("the transaction was rolled back")

    def has_committed(self, doubt: Doubt) -> bool:
        """Whether the transaction was committed. Waits for the server where it is still at it."""
        row = self._cursor.execute("SELECT number FROM commits WHERE writer = %s FOR UPDATE", [doubt.writer]).fetchone()
        # No row: this server was a standby that never heard of the writer, so not of its transaction either.
        return row is not None and row[0] == doubt.number

    def _exec(self, command: bytes) -> psycopg.pq.abc.PGresult:
        # Past the cursor: several commands in one message, and half the cost.
        result = self.raw.pgconn.exec_(command)
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            error = psycopg.errors.error_from_result(result)
            if error.sqlstate is not None:
                raise error
            # Not the server's word: the connection broke. Where a warning came ahead of its end (a process of the
            # server's crashed, and it ended all others), libpq believes in the connection still.
            self.raw.close()
            raise psycopg.OperationalError(str(error))
        return result


class _Seat:
    """A thread's place: its connection, the job it is at, and its name and number as a writer."""

    __slots__ = ("connection", "job", "number", "writer")

    def __init__(self) -> None:
        self.connection: PostgresConnection | None = None
        self.job: Job | None = None
        # Of the last transaction that was committed.
        self.number = 0
        self.writer = secrets.token_hex(12)

    def rename(self) -> None:
        """Becomes another writer: in the row of this one stands what somebody will yet ask for."""
        self.number, self.writer = 0, secrets.token_hex(12)


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
        self._presence = Presence()
        # Held for moments by whoever decides what a caller is told, so that two never decide differently.
        self._telling = threading.Lock()
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
        if not self._have_ended():
            # They wait for a server that says nothing, and nobody waits for what it would say.
            for seat in self._seats:
                if (connection := seat.connection) is not None:
                    cut(connection.raw)
            self._have_ended()
        if self._watch is not None:
            self._watch.cancel()

    def _have_ended(self) -> bool:
        """Whether all threads have, within the time that the server may take to answer."""
        until = time.monotonic() + ANSWER_WITHIN_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _put(self, job: Job, *, is_write: bool) -> None:
        if self._queue.qsize() >= MAX_WAITING:
            raise Unavailable
        job.deadline = time.monotonic() + ANSWER_WITHIN_S
        self._due.append(job)
        if self._watch is None:
            self._watch = self._loop.call_later(_LOOK_S, self._look)
        self._queue.put((job, is_write))

    def _look(self) -> None:
        """While there are jobs: answers those whose time is up, and frees the threads that hang."""
        self._watch = None
        now = time.monotonic()
        # One whose caller has gone is still a thread's: it is over when that is done with it.
        while self._due and (self._due[0].is_over or self._due[0].deadline <= now):
            job = self._due.popleft()
            with self._telling:
                if job.is_over:
                    continue
                job.is_given_up = True
                away = Unavailable() if job.doubt is None else InDoubt(job.doubt)
            if not job.future.done():
                job.future.set_exception(away)
                self._presence.gone(None)
            for seat in self._seats:
                if seat.job is job and (connection := seat.connection) is not None:
                    cut(connection.raw)
        if self._due:
            self._watch = self._loop.call_later(_LOOK_S, self._look)

    def _work(self, seat: _Seat) -> None:
        answers = self._answers
        while (taken := self._queue.get()) is not None:
            job, is_write = taken
            if job.future.done():
                job.is_over = True
            else:
                seat.job = job
                result, failure = None, None
                try:
                    result = self._written(seat, job) if is_write else self._read(seat, job)
                except BaseException as error:
                    failure = error
                with self._telling:
                    job.is_over = True
                if job.is_given_up:
                    # The caller may ask yet what became of the transaction: its number must not be given again.
                    seat.rename()
                seat.job = None
                answers.add(job, result, failure)
                answers.send()
                del result, failure
            del taken, job
        if (connection := seat.connection) is not None:
            with suppress(psycopg.Error):
                connection.retire(seat.writer)
            connection.raw.close()

    def _read(self, seat: _Seat, job: Job) -> Any:
        attempt = 0
        while True:
            attempt += 1
            connection = seat.connection or self._connected(seat)
            try:
                result = job.run(connection)
                self._presence.there()
                return result
            except psycopg.Error as error:
                self._after(seat, connection, job, attempt, error)
            except BaseException:
                self._settle(seat, connection, is_good=True)
                raise

    def _written(self, seat: _Seat, job: Job) -> Any:
        """Runs the job in a transaction until that is known to be committed, or not to be."""
        # Whoever comes with a doubt will come again: it is not waited for here.
        doubt, is_new = job.doubt, False
        attempt = 0
        while True:
            attempt += 1
            try:
                connection = seat.connection or self._connected(seat)
            except Unavailable as away:
                if doubt is None:
                    raise
                if is_new and time.monotonic() < job.deadline:
                    time.sleep(_PAUSE_S / 2)
                    continue
                self._leave(seat, doubt, away)
            is_committing = False
            try:
                if doubt is not None:
                    if connection.has_committed(doubt):
                        if doubt.writer == seat.writer:
                            seat.number = doubt.number
                        self._presence.there()
                        return doubt.result
                    job.doubt = doubt = None
                if not connection.begin(seat.writer, seat.number + 1):
                    connection.introduce(seat.writer)
                    seat.number = 0
                    continue
                result = job.run(connection)
                sent = Doubt(seat.writer, seat.number + 1, result)
                with self._telling:
                    if job.is_given_up:
                        raise Unavailable
                    job.doubt = sent
                is_committing = True
                connection.commit()
                seat.number += 1
                self._presence.there()
                return result
            except psycopg.Error as error:
                if is_committing or doubt is not None:
                    self._settle(seat, connection, is_good=not isinstance(error, _STANDBY))
                    if is_committing and seat.connection is None:
                        doubt, is_new = job.doubt, True
                    if doubt is not None:
                        if is_new and time.monotonic() < job.deadline:
                            continue
                        self._leave(seat, doubt, error)
                    # Refused by a server that lives: it did not happen.
                    job.doubt = None
                self._after(seat, connection, job, attempt, error)
            except BaseException:
                self._settle(seat, connection, is_good=True)
                raise

    def _leave(self, seat: _Seat, doubt: Doubt, cause: Exception) -> NoReturn:
        """Whether the transaction happened stays open; whoever wants to know may come again with the doubt."""
        self._presence.gone(cause)
        if doubt.writer == seat.writer:
            seat.rename()
        raise InDoubt(doubt) from cause

    def _after(self, seat: _Seat, connection: PostgresConnection, job: Job, attempt: int, error: psycopg.Error) -> None:
        """A job failed of which nothing was committed: returns when it may be run again, else raises."""
        self._settle(seat, connection, is_good=not isinstance(error, _STANDBY))
        if seat.connection is None:
            # The server may not have noticed yet, and still hold the writer's row.
            seat.rename()
        # Broken, or met with another.
        can_retry = seat.connection is None or isinstance(error, _RETRIED)
        if not can_retry and not isinstance(error, psycopg.OperationalError):
            raise error
        if not can_retry or attempt >= _ATTEMPTS or time.monotonic() >= job.deadline:
            if not isinstance(error, _RETRIED):
                self._presence.gone(error)
            raise Unavailable from error
        # The one we met goes first: at once we would only meet again.
        time.sleep(random.uniform(0, 0.02) * attempt)

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
            self._presence.gone(error)
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
