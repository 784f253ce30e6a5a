"""A look at the database for somebody who wonders what is wrong. It makes nothing and changes nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from threadkeep.contract.errors import Unavailable
from threadkeep.storage.errors import StoreError
from threadkeep.storage.schema import REVISIONS, SqlitePlace, place_of, revision_of


class Look(NamedTuple):
    """What was found."""

    # "SQLite 3.46.1", "PostgreSQL 17.2".
    engine: str
    # The file, or host and database; no password.
    place: str
    # Null: there is no database yet, or it is empty.
    revision: str | None
    newest_revision: str


def look(database_url: str | None, data_dir: Path) -> Look:
    """Raises `StoreError` when the database can't be used, `Unavailable` when it can't be reached."""
    place = place_of(database_url, data_dir)
    if isinstance(place, SqlitePlace):
        engine = f"SQLite {sqlite3.sqlite_version}"
        if not place.path.exists():
            return Look(engine, str(place.path), None, REVISIONS[-1])
        try:
            return Look(engine, str(place.path), revision_of(place), REVISIONS[-1])
        except sqlite3.Error as error:
            raise StoreError(f"{place.path} cannot be read as a database: {error}.") from error
    import psycopg  # noqa: PLC0415 - the embedded shape does without

    from threadkeep.storage.postgres import connect  # noqa: PLC0415

    try:
        with connect(place.url) as connection:
            number = connection.info.server_version
            where = f"{connection.info.host}:{connection.info.port}/{connection.info.dbname}"
    except psycopg.OperationalError as error:
        raise Unavailable(f"The database cannot be reached: {error}") from error
    return Look(f"PostgreSQL {number // 10_000}.{number % 10_000}", where, revision_of(place), REVISIONS[-1])
