"""Collections are tested on a bare connection, without the threads of a store between."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.databases import Database
from tests.support.objects import a_thread
from threadkeep.contract.threads import Thread
from threadkeep.storage import DEFAULT_PROJECT_ID, Transaction
from threadkeep.storage.postgres import PostgresConnection
from threadkeep.storage.postgres import connect as connect_postgres
from threadkeep.storage.sqlite import SqliteConnection
from threadkeep.storage.sqlite import connect as connect_sqlite
from threadkeep.storage.statements import Connection

Open = Callable[[], Connection]


@pytest.fixture
def open_connection(database: Database) -> Iterator[Open]:
    """Opens further connections to the test's database; each statement commits by itself."""
    opened: list[SqliteConnection | PostgresConnection] = []

    def open_one() -> Connection:
        if database.url is None:
            connection = SqliteConnection(connect_sqlite(database.data_dir / "threadkeep.db"))
        else:
            connection = PostgresConnection(connect_postgres(database.url))
        opened.append(connection)
        return connection

    yield open_one
    for connection in opened:
        connection.raw.close()


@pytest.fixture
def connection(open_connection: Open) -> Connection:
    return open_connection()


@pytest.fixture
def tx(connection: Connection) -> Transaction:
    return Transaction(connection, DEFAULT_PROJECT_ID)


@pytest.fixture
def thread(tx: Transaction) -> Thread:
    """A thread that is stored."""
    thread = a_thread()
    tx.threads.insert(thread)
    return thread
