"""The store: what the rest of the program sees of the database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from threadkeep.contract.errors import Unavailable
from threadkeep.metrics import DATABASE_CALLS, DATABASE_ERRORS
from threadkeep.storage.engine import Answers, Engine, InDoubt, Job
from threadkeep.storage.errors import Unusable
from threadkeep.storage.schema import Place, SqlitePlace, migrate, place_of
from threadkeep.storage.sqlite import SqliteEngine, lock_folder
from threadkeep.storage.transaction import Transaction

T = TypeVar("T")


class Store:
    """Runs functions on the database. Of one event loop: that of `open_store`.

    A function may be run again after a conflict, so it must have no effects but those of its transaction. What it
    raises is raised to the caller, and nothing of it was written. `Unavailable` says the same of the database, but for
    `InDoubt`. Cancelling a call does not undo it.
    """

    def __init__(self, engine: Engine, held: ExitStack) -> None:
        self.engine = engine
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._is_open = True

    async def read(self, project_id: str | None, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns; each of its statements sees what is committed when it begins."""
        DATABASE_CALLS.add("read")
        try:
            job = self._job(project_id, fn)
            self.engine.read(job)
            return await job.future
        except Unavailable:
            DATABASE_ERRORS.add("read")
            raise

    async def write(
        self, project_id: str | None, fn: Callable[[Transaction], T], *, after: Unavailable | None = None
    ) -> T:
        """What ``fn`` returns, once all it wrote is durable.

        ``after``: what this very write ended with when it was last tried. Where that left in doubt whether it happened
        (`InDoubt`), that is found out first, and what happened is not written again.
        """
        DATABASE_CALLS.add("write")
        try:
            job = self._job(project_id, fn)
            if isinstance(after, InDoubt):
                job.doubt = after.doubt
            self.engine.write(job)
            return await job.future
        except Unavailable:
            DATABASE_ERRORS.add("write")
            raise

    async def close(self) -> None:
        """Finishes what was begun and lets go of the database. Calls from now on are `Unavailable`."""
        if self._is_open:
            self._is_open = False
            await asyncio.to_thread(self.engine.close)
            self._held.close()

    def _job(self, project_id: str | None, fn: Callable[[Transaction], T]) -> Job:
        if not self._is_open:
            raise Unavailable("The server is shutting down.")
        return Job(project_id, fn, self._loop.create_future())


async def open_store(
    database_url: str | None,
    data_dir: Path,
    *,
    readers: int = 3,
    connections: int = 8,
    is_sole_server: bool = True,
) -> Store:
    """Opens the database, which is migrated first if need be.

    ``readers`` are threads on SQLite, ``connections`` threads on PostgreSQL. An embedded database is locked to this
    process unless ``is_sole_server`` is false: a command that writes for a moment may work beside the server.
    """
    loop = asyncio.get_running_loop()
    place = place_of(database_url, data_dir)
    held = ExitStack()
    try:
        engine = await asyncio.to_thread(_open, place, held, Answers(loop), loop, readers, connections, is_sole_server)
    except BaseException:
        held.close()
        raise
    return Store(engine, held)


def _open(
    place: Place,
    held: ExitStack,
    answers: Answers,
    loop: asyncio.AbstractEventLoop,
    readers: int,
    connections: int,
    is_sole_server: bool,
) -> Engine:
    match place:
        case SqlitePlace(path=path):
            folder = path.parent
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if is_sole_server:
                    held.enter_context(lock_folder(folder))
                is_new = not path.exists()
                migrate(place)
                if is_new:
                    _sync(folder)
                return SqliteEngine(path, answers, readers=readers)
            except (OSError, sqlite3.Error) as error:
                raise Unusable(path, error) from error
        case _:
            from threadkeep.storage.postgres import PostgresEngine  # noqa: PLC0415 - the embedded shape does without

            migrate(place)
            return PostgresEngine(place.url, answers, loop, connections=connections)


def _sync(folder: Path) -> None:
    """Makes the name of a new file in the folder durable; SQLite syncs what is in the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
