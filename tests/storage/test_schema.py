import asyncio
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from tests.support.databases import Database
from tests.support.postgres import PostgresServer
from threadkeep.storage import DatabaseTooNew, migrate, open_store
from threadkeep.storage.postgres import connect as connect_postgres
from threadkeep.storage.schema import REVISIONS, alembic_config
from threadkeep.storage.sqlite import connect as connect_sqlite
from threadkeep.storage.tables import metadata

MIGRATIONS = Path(__file__).parents[2] / "src/threadkeep/storage/migrations"


# SQLite has another way to search than this index; Alembic does not look at `ddl_if`.
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
@pytest.mark.filterwarnings("ignore:Did not recognize type 'halfvec'")
def test_migrations_lead_to_the_tables(database: Database) -> None:
    url = database.url
    if url is None:
        path = database.data_dir / "threadkeep.db"
        engine = sa.create_engine("sqlite://", creator=lambda: connect_sqlite(path))
    else:
        engine = sa.create_engine("postgresql+psycopg://", creator=lambda: connect_postgres(url))

    def is_compared(_object: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        # SQLAlchemy has no word for virtual tables: `message_words` and the tables SQLite keeps it in are made by the
        # migration alone. `passage_vectors` is made when pgvector is there.
        return not (name is not None and kind == "table" and name.startswith(("message_words", "passage_vectors")))

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_object": is_compared})
        assert compare_metadata(context, metadata) == []
        reflected = sa.MetaData()
        reflected.reflect(connection, only=list(metadata.tables))
    engine.dispose()
    # Alembic compares neither primary keys nor what a deletion takes along.
    for name, table in metadata.tables.items():
        assert [c.name for c in reflected.tables[name].primary_key] == [c.name for c in table.primary_key], name
        assert cascades_of(reflected.tables[name]) == cascades_of(table), name


def cascades_of(table: sa.Table) -> set[tuple[Any, ...]]:
    return {
        (*key.column_keys, *(element.target_fullname for element in key.elements), key.ondelete)
        for key in table.foreign_key_constraints
    }


def test_ids_compare_as_bytes(postgres_database: Database) -> None:
    assert postgres_database.url is not None
    with connect_postgres(postgres_database.url) as connection:
        query = (
            "SELECT table_name, column_name, collation_name FROM information_schema.columns WHERE table_name = ANY(%s)"
        )
        for table, column, collation in connection.execute(query, [list(metadata.tables)]).fetchall():
            if column == "id" or (column.endswith("_id") and column != "row_id"):
                assert collation == "C", f"{table}.{column}"


def test_list_of_revisions_is_that_of_the_migrations() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == REVISIONS


def test_migrations_import_nothing_of_ours() -> None:
    for file in MIGRATIONS.rglob("*.py"):
        assert not re.search(r"^\s*(from|import) threadkeep", file.read_text(), re.MULTILINE), file


def test_migrations_only_add() -> None:
    """Nodes of the version before go on beside the one that migrates: what they use must stay as it is."""
    for file in MIGRATIONS.rglob("*.py"):
        upgrade = file.read_text().partition("def downgrade")[0]
        assert not re.search(r"drop_(column|table|index|constraint)|alter_column|rename_table|\bDROP\b", upgrade), file


def test_second_migration_finds_nothing_to_do(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.create_database()
    assert migrate(url, tmp_path) == (None, REVISIONS[-1])
    assert migrate(url, tmp_path) == (REVISIONS[-1], REVISIONS[-1])
    postgres.drop_database(url)
    assert migrate(None, tmp_path) == (None, REVISIONS[-1])
    assert migrate(None, tmp_path) == (REVISIONS[-1], REVISIONS[-1])


async def test_nodes_that_start_together_migrate_once(tmp_path: Path, postgres: PostgresServer) -> None:
    url = postgres.create_database()
    stores = await asyncio.gather(*(open_store(url, tmp_path, connections=1) for _ in range(6)))
    for store in stores:
        await store.close()
    postgres.drop_database(url)


async def test_commands_that_start_together_migrate_once(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(open_store(None, tmp_path, is_sole_server=False) for _ in range(4)))
    for store in stores:
        await store.close()


def test_connection_to_a_new_database_waits_for_the_process_that_is_making_it(tmp_path: Path) -> None:
    path = tmp_path / "threadkeep.db"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE t (x)")
    other.execute("BEGIN IMMEDIATE")
    with ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect_sqlite, path)
        _, waiting = wait([connecting], timeout=0.3)
        other.execute("ROLLBACK")
        connection = connecting.result(timeout=60)
    assert waiting
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    other.close()


async def test_database_of_a_newer_program_is_refused(database: Database) -> None:
    change = "UPDATE alembic_version SET version_num = '9999'"
    if database.url is None:
        with sqlite3.connect(database.data_dir / "threadkeep.db") as connection:
            connection.execute(change)
        connection.close()
    else:
        with psycopg.connect(database.url) as postgres:
            postgres.execute(change)
    with pytest.raises(DatabaseTooNew, match="revision 9999, which"):
        await open_store(database.url, database.data_dir)


def test_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """A table in the way, half-way through: all tables before it must be gone again."""
    path = tmp_path / "threadkeep.db"
    connection = connect_sqlite(path)
    connection.execute("CREATE TABLE run_steps (x)")
    with pytest.raises(OperationalError):
        migrate(None, tmp_path)
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    connection.close()
    assert tables == {"run_steps"}
