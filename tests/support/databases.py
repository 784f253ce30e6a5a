"""Fixtures: an empty, migrated database for each test, on SQLite and on PostgreSQL."""

import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import pytest
import pytest_asyncio

from tests.capabilities import missing
from tests.support.postgres import PostgresServer
from threadkeep.storage import Store, Transaction, migrate, open_store
from threadkeep.storage.postgres import PostgresConnection
from threadkeep.storage.sqlite import SqliteConnection
from threadkeep.storage.statements import Row

_TEMPLATE = "threadkeep"


@dataclass(frozen=True)
class Database:
    """Where a server or a store finds its data: the two settings of the same names."""

    url: str | None
    data_dir: Path

    @property
    def is_sqlite(self) -> bool:
        return self.url is None


def execute(tx: Transaction, sql: LiteralString) -> list[Row]:
    """Runs plain SQL on the transaction's connection: what the store itself offers nobody."""
    match tx._connection:
        case SqliteConnection(raw=raw):
            return raw.execute(sql).fetchall()
        case PostgresConnection(raw=raw):
            cursor = raw.execute(sql)
            return cursor.fetchall() if cursor.description else []
        case other:
            raise TypeError(other)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the session (with xdist: for the worker), with a migrated database to copy from."""
    server = PostgresServer()
    try:
        try:
            server.start()
        except RuntimeError as error:
            missing(f"PostgreSQL that works ({error})", fix="run the tests outside of this container")
        migrate(server.create_database(name=_TEMPLATE), server.folder)
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_database(postgres: PostgresServer, tmp_path: Path) -> Iterator[Database]:
    url = postgres.create_database(template=_TEMPLATE)
    yield Database(url, tmp_path)
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrated")
    migrate(None, folder)
    return folder / "threadkeep.db"


@pytest.fixture
def sqlite_database(migrated_file: Path, tmp_path: Path) -> Database:
    shutil.copy(migrated_file, tmp_path / "threadkeep.db")
    return Database(None, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """Either database: a test that asks for it runs twice."""
    return request.getfixturevalue(f"{request.param}_database")


@pytest_asyncio.fixture
async def store(database: Database) -> AsyncIterator[Store]:
    """An open store on either database."""
    store = await open_store(database.url, database.data_dir)
    yield store
    await store.close()
