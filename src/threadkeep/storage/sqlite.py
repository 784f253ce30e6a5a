"""SQLite: one writer thread that commits in groups, and a few reader threads.

A commit waits for the disk; while it does, calls gather, and the next commit takes all of them along. So each is
durable when it is answered, and the disk is waited for once for up to 128 of them.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any

from threadkeep.contract.errors import Unavailable
from threadkeep.storage.engine import MAX_WAITING, Answers, DialectName, Job, Presence
from threadkeep.storage.errors import FolderInUse
from threadkeep.storage.statements import Columns, Row, Statement, Upsert, Value

MAX_BATCH = 128

# How long a connection waits for another process: the command line may write beside the server, for moments.
_BUSY_MS = 5000
_BUSY_PAUSE_S = 0.01
_PRAGMAS = (
    # Every commit reaches the disk before it is answered. (In WAL mode NORMAL would lose the last ones.)
    "PRAGMA synchronous = FULL",
    # macOS: fsync alone stops at the drive's cache.
    "PRAGMA fullfsync = ON",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA busy_timeout = {_BUSY_MS}",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -4096",
    # The WAL shrinks to this after a burst.
    "PRAGMA journal_size_limit = 67108864",
)

# What may be well again later, in words for clients.
_BUSY = "The server's database is busy. Please try again."
_FAILING = "The server cannot write to its disk. Nothing was changed; please try again later."
_READ_ONLY = "The server's disk is read-only. Nothing was changed; please try again later."
_AWAY = {
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_PROTOCOL: _BUSY,
    sqlite3.SQLITE_FULL: "The server's disk is full. Nothing was changed; please try again later.",
    sqlite3.SQLITE_IOERR: _FAILING,
    sqlite3.SQLITE_CANTOPEN: _FAILING,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_NOMEM: "The server is short of memory. Please try again later.",
}
_GONE = "The server's database was taken away from its folder. Please try again later."
# Nobody makes room on a disk within a second.
_RETRY_AFTER_S = 5.0


def connect(path: Path) -> sqlite3.Connection:
    """A connection set up as all of ours are. It begins and ends no transactions by itself."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        _write_ahead(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Puts the database in WAL mode, which it is in ever after.

    SQLite does not wait for a lock here when another process is at the same, as it does everywhere else: it fails at
    once, since both might wait for each other. So two commands that make a database together would break one of them.
    """
    until = time.monotonic() + _BUSY_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # The low byte is the error, the rest its kind.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
        time.sleep(_BUSY_PAUSE_S)


def lock_folder(folder: Path) -> IO[str]:
    """Holds the folder for this process until the returned file is closed, or raises `FolderInUse`.

    The lock is the kernel's and dies with its holder. What is written in the file is for people to read only.
    """
    file = (folder / "threadkeep.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read(200).strip()
        file.close()
        raise FolderInUse(folder, holder) from None
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


class SqliteConnection:
    """See `statements.Connection`."""

    __slots__ = ("raw",)

    def __init__(self, raw: sqlite3.Connection) -> None:
        self.raw = raw

    @property
    def is_sqlite(self) -> bool:
        return True

    def rows(self, statement: Statement, values: dict[str, Value]) -> list[Row]:
        return self.raw.execute(statement.sqlite, values).fetchall()

    def row(self, statement: Statement, values: dict[str, Value]) -> Row | None:
        cursor = self.raw.execute(statement.sqlite, values)
        row = cursor.fetchone()
        # Ends the statement: left open it would hold an old snapshot, and keep the WAL from being reset.
        cursor.close()
        return row

    def run(self, statement: Statement, values: dict[str, Value]) -> int:
        return self.raw.execute(statement.sqlite, values).rowcount

    def upsert(self, statement: Upsert, columns: Columns) -> None:
        names = list(columns)
        rows = zip(*columns.values(), strict=True)
        self.raw.executemany(statement.sqlite, (dict(zip(names, row, strict=True)) for row in rows))


class Files:
    """The database's files. Taken away from under the server they still take what is written, for nobody: a commit
    counts only while they are where they were."""

    def __init__(self, path: Path) -> None:
        """They are there, and open."""
        self._paths = (str(path), f"{path}-wal")
        self._known = self._look()

    def are_there(self) -> bool:
        try:
            return self._look() == self._known
        except OSError:
            return False

    def _look(self) -> list[tuple[int, int]]:
        return [(found.st_dev, found.st_ino) for found in map(os.stat, self._paths)]


class SqliteEngine:
    """See `engine.Engine`."""

    dialect: DialectName = "sqlite"

    def __init__(self, path: Path, answers: Answers, *, readers: int) -> None:
        self._answers = answers
        self._reads: SimpleQueue[Job | None] = SimpleQueue()
        self._writes: SimpleQueue[Job | None] = SimpleQueue()
        # Counted for the tests and for whoever wonders how well commits are shared.
        self.commits = 0
        self._connections = [SqliteConnection(connect(path)) for _ in range(readers + 1)]
        writer, *others = self._connections
        # The first transaction makes the WAL.
        writer.raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        self._files = Files(path)
        self._presence = Presence()
        for connection in others:
            connection.raw.execute("PRAGMA query_only = ON")
        self._readers = [
            threading.Thread(target=self._read, args=(connection,), name=f"storage-reader-{number}", daemon=True)
            for number, connection in enumerate(others)
        ]
        self._writer = threading.Thread(target=self._write, args=(writer,), name="storage-writer", daemon=True)
        for thread in (self._writer, *self._readers):
            thread.start()

    def read(self, job: Job) -> None:
        if self._reads.qsize() >= MAX_WAITING:
            raise Unavailable
        self._reads.put(job)

    def write(self, job: Job) -> None:
        if self._writes.qsize() >= MAX_WAITING:
            raise Unavailable
        self._writes.put(job)

    def close(self) -> None:
        for _ in self._readers:
            self._reads.put(None)
        self._writes.put(None)
        for thread in (*self._readers, self._writer):
            thread.join()
        # The writer's goes last: the last connection to close folds the WAL into the database.
        for connection in reversed(self._connections):
            connection.raw.close()

    def _read(self, connection: SqliteConnection) -> None:
        answers = self._answers
        while (job := self._reads.get()) is not None:
            if job.future.cancelled():
                continue
            try:
                answers.add(job, job.run(connection))
            except BaseException as error:
                answers.add(job, None, _told(error))
            answers.send()
            # Held over the wait for the next one, it would keep its result alive.
            del job

    def _write(self, connection: SqliteConnection) -> None:
        is_open = True
        while is_open:
            batch: list[Job] = []
            job = self._writes.get()
            while job is not None:
                batch.append(job)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    job = self._writes.get_nowait()
                except Empty:
                    break
            else:
                is_open = False
            if batch:
                self._commit(connection, batch)
            del batch, job

    def _commit(self, connection: SqliteConnection, batch: list[Job]) -> None:
        """One transaction for all; each call in a savepoint of its own when there are several."""
        execute = connection.raw.execute
        outcomes: list[tuple[Job, Any, BaseException | None]] = []
        try:
            # Nothing is open but after a rollback that failed.
            _roll_back(connection.raw)
            self._check_files()
            execute("BEGIN IMMEDIATE")
            if len(batch) == 1:
                outcomes.append((batch[0], batch[0].run(connection), None))
            else:
                # A cancelled caller's is left out.
                outcomes.extend(self._in_savepoint(connection, job) for job in batch if not job.future.cancelled())
            execute("COMMIT")
            self._check_files()
            self.commits += 1
        except BaseException as error:
            # The commit failed, or the only call, or a failure so deep that SQLite gave up the whole transaction.
            _roll_back(connection.raw)
            failed = {id(job): own for job, _, own in outcomes if own is not None}
            outcomes = [(job, None, failed.get(id(job), error)) for job in batch]
            if is_away(error):
                self._presence.gone(error)
        else:
            self._presence.there()
        for job, result, error in outcomes:
            self._answers.add(job, result, None if error is None else _told(error))
        self._answers.send()

    def _check_files(self) -> None:
        if not self._files.are_there():
            raise Gone

    def _in_savepoint(self, connection: SqliteConnection, job: Job) -> tuple[Job, Any, BaseException | None]:
        execute = connection.raw.execute
        execute("SAVEPOINT call")
        try:
            result = job.run(connection)
        except BaseException as error:
            if not connection.raw.in_transaction:
                # SQLite has rolled back everything (a full disk does that): no call of the batch has happened.
                raise
            execute("ROLLBACK TO call")
            execute("RELEASE call")
            return job, None, error
        execute("RELEASE call")
        return job, result, None


def _roll_back(raw: sqlite3.Connection) -> None:
    """Ends a transaction that is open. A disk that fails here too must not end the thread: it may recover."""
    if raw.in_transaction:
        with suppress(sqlite3.Error):
            raw.execute("ROLLBACK")


class Gone(Exception):
    """The database's files are not where they were."""


def is_away(error: BaseException) -> bool:
    """Whether the database may be well again later."""
    return isinstance(error, Gone) or _code(error) in _AWAY


def _code(error: BaseException) -> int:
    # The low byte is the error, the rest its kind.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF if isinstance(error, sqlite3.OperationalError) else 0


def _told(error: BaseException) -> BaseException:
    """The error as the caller gets it: `Unavailable` where the database may be well again later."""
    if not is_away(error):
        return error
    message = _AWAY.get(_code(error), _GONE)
    away = Unavailable(message, retry_after_s=1.0 if message is _BUSY else _RETRY_AFTER_S)
    away.__cause__ = error
    return away
