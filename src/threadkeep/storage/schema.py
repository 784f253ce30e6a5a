"""Whether the database fits the program. Opening a store asks one plain query; Alembic is loaded only for work."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import unquote, urlsplit

from threadkeep.contract.errors import Unavailable
from threadkeep.storage.errors import BadDatabaseUrl, DatabaseTooNew
from threadkeep.storage.sqlite import connect as connect_sqlite

if TYPE_CHECKING:
    import sqlalchemy as sa
    from alembic.config import Config

# All migrations in order. The folder `migrations/versions` says the same; that they agree is tested, so that a start
# need not read the folder.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")

# The number that nodes starting together agree to wait for; any other program may have any other.
_ADVISORY_LOCK = 0x746B_6D69_6772

_VECTORS: tuple[LiteralString, ...] = (
    "CREATE EXTENSION IF NOT EXISTS vector",
    # The vector stays in the row: fetched from beside it, each would cost as much as comparing thirty.
    """
    CREATE TABLE IF NOT EXISTS passage_vectors (
        content bigint NOT NULL,
        "position" integer NOT NULL,
        model text COLLATE "C" NOT NULL,
        embedding halfvec STORAGE PLAIN NOT NULL,
        CONSTRAINT passage_vectors_pkey PRIMARY KEY (content, "position", model),
        CONSTRAINT passage_vectors_passages_fkey FOREIGN KEY (content, "position")
            REFERENCES passages (content, "position") ON DELETE CASCADE
    )
    """,
)

_READ_REVISION = "SELECT version_num FROM alembic_version"


class SqlitePlace:
    """Where an embedded database is."""

    def __init__(self, path: Path) -> None:
        self.path = path


class PostgresPlace:
    """Where a PostgreSQL is. The URL may hold a password: it goes to the driver and nowhere else."""

    def __init__(self, url: str) -> None:
        self.url = url


Place = SqlitePlace | PostgresPlace


def place_of(database_url: str | None, data_dir: Path) -> Place:
    """What the setting names: without one, a file in the data folder."""
    if database_url is None:
        return SqlitePlace(data_dir / "threadkeep.db")
    match urlsplit(database_url).scheme:
        case "postgresql" | "postgres":
            from psycopg import ProgrammingError  # noqa: PLC0415 - the embedded shape does without
            from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

            try:
                conninfo_to_dict(database_url)
            except ProgrammingError:
                raise BadDatabaseUrl from None
            return PostgresPlace(database_url)
        case "sqlite":
            # sqlite:///relative.db and sqlite:////absolute.db
            return SqlitePlace(Path(unquote(urlsplit(database_url).path.removeprefix("/"))).absolute())
        case _:
            raise BadDatabaseUrl


def migrate(place: Place) -> tuple[str | None, str]:
    """Brings the database to the program's revision, if it is not there; the revisions before and after.

    Several nodes may do this at once: one migrates, the others wait and find it done.
    """
    before = revision_of(place)
    if before != REVISIONS[-1]:
        _check_known(before)
        with _engine_of(place).connect() as connection:
            _upgrade(connection)
    if isinstance(place, PostgresPlace):
        _make_vectors(place)
    return before, REVISIONS[-1]


def _make_vectors(place: PostgresPlace) -> None:
    """Makes the table of vectors where pgvector is installed, or may be; without it the search is for words only."""
    import psycopg  # noqa: PLC0415 - the embedded shape does without

    from threadkeep.storage.postgres import connect  # noqa: PLC0415

    try:
        with connect(place.url) as connection:
            row = connection.execute("SELECT to_regclass('passage_vectors') IS NOT NULL").fetchone()
            if row is not None and row[0]:
                return
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_ADVISORY_LOCK,))
                for command in _VECTORS:
                    connection.execute(command)
    except (
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.UndefinedFile,
        psycopg.errors.UndefinedObject,
        psycopg.errors.InsufficientPrivilege,
    ):
        # Not installed, or too old to know the type, or not ours to create.
        return
    except psycopg.OperationalError as error:
        raise Unavailable(f"The database cannot be reached: {error}") from error


def _check_known(revision: str | None) -> None:
    if revision is not None and revision not in REVISIONS:
        raise DatabaseTooNew(revision)


def revision_of(place: Place) -> str | None:
    """The last migration that the database has seen; null when it is empty."""
    match place:
        case SqlitePlace():
            connection = connect_sqlite(place.path)
            try:
                row = connection.execute(_READ_REVISION).fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise
                return None
            finally:
                connection.close()
            return None if row is None else row[0]
        case PostgresPlace():
            import psycopg  # noqa: PLC0415 - the embedded shape does without

            from threadkeep.storage.postgres import connect  # noqa: PLC0415

            try:
                with connect(place.url) as postgres:
                    try:
                        row = postgres.execute(_READ_REVISION).fetchone()
                    except psycopg.errors.UndefinedTable:
                        return None
                    return None if row is None else row[0]
            except psycopg.OperationalError as error:
                raise Unavailable(f"The database cannot be reached: {error}") from error


def _engine_of(place: Place) -> sa.Engine:
    """SQLAlchemy's kind of engine, for migrations only."""
    import sqlalchemy as sa  # noqa: PLC0415
    from sqlalchemy import event  # noqa: PLC0415

    match place:
        case SqlitePlace():
            path = place.path
            engine = sa.create_engine("sqlite://", creator=lambda: connect_sqlite(path), poolclass=sa.NullPool)

            # Ours begin no transactions, and Python's own way of beginning them would leave the DDL outside: a
            # migration that is cut off half-way must leave nothing behind.
            def begin(connection: sa.Connection) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

            event.listen(engine, "begin", begin)
            return engine
        case PostgresPlace():
            from threadkeep.storage.postgres import connect  # noqa: PLC0415

            url = place.url

            def transactional() -> Any:
                connection = connect(url)
                # A migration may take its time, and wait for the node that is at it.
                connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
                connection.autocommit = False
                return connection

            return sa.create_engine("postgresql+psycopg://", creator=transactional, poolclass=sa.NullPool)


def _upgrade(connection: sa.Connection) -> None:
    """All missing migrations in one transaction."""
    from alembic import command  # noqa: PLC0415 - loads a lot, for a rare occasion
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    with connection.begin():
        if connection.dialect.name == "postgresql":
            # Held to the end of the transaction. Only now is it known what there is to do.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        _check_known(MigrationContext.configure(connection).get_current_revision())
        config = alembic_config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def alembic_config() -> Config:
    """How Alembic finds our migrations."""
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
