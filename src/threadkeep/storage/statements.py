"""Statements are built and compiled once; a call hands their text to the driver and nothing else happens.

`Statement` keeps the text for both databases. `Connection` is what an engine offers to run one. `Bound` is a
connection that fills in the project by itself: collections of a project's objects know no other way to the database.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

Value = str | int | float | bool | bytes | None
# Values of many rows: by parameter, all of one length.
Columns = dict[str, Sequence[str] | Sequence[int] | Sequence[float] | Sequence[bytes]]
Row = tuple[Any, ...]


class Statement:
    """One statement with named parameters; ``postgres`` where that database has other words for it."""

    def __init__(self, clause: sa.ClauseElement, postgres: sa.ClauseElement | None = None) -> None:
        self.clause = clause
        self._postgres_clause = clause if postgres is None else postgres

    @cached_property
    def sqlite(self) -> str:
        return _text(self.clause, SQLiteDialect(paramstyle="named"))

    @cached_property
    def postgres(self) -> str:
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg  # noqa: PLC0415 - loads a lot

        return _text(self._postgres_clause, PGDialect_psycopg())


class Upsert:
    """Inserts many rows at a time; of one that is there already, some columns change.

    SQLite runs it once for each row. PostgreSQL is given a column of values for each parameter: its driver needs
    longer for one row than the database for ten.
    """

    def __init__(
        self, table: sa.Table, changes: dict[str, str] | None = None, postgres_changes: dict[str, str] | None = None
    ) -> None:
        self._table = table
        # By column what it becomes, in SQL: `excluded` has the new values. None: such a row is an error.
        self._changes = changes
        # Where PostgreSQL says it differently.
        self._postgres_changes = postgres_changes or changes

    @cached_property
    def sqlite(self) -> str:
        names = [column.name for column in self._table.columns]
        columns = ", ".join(f'"{name}"' for name in names)
        values = ", ".join(f":{name}" for name in names)
        end = self._on_conflict(self._changes)
        return f"INSERT INTO {self._table.name} ({columns}) VALUES ({values}){end}"  # noqa: S608

    @cached_property
    def postgres(self) -> str:
        from sqlalchemy.dialects.postgresql import dialect  # noqa: PLC0415 - loads a lot

        postgres = dialect()
        columns = [(column.name, column.type.compile(postgres).split(" COLLATE")[0]) for column in self._table.columns]
        names = ", ".join(f'"{name}"' for name, _ in columns)
        arrays = ", ".join(f"%({name})s::{kind}[]" for name, kind in columns)
        end = self._on_conflict(self._postgres_changes)
        return f"INSERT INTO {self._table.name} ({names}) SELECT * FROM unnest({arrays}){end}"  # noqa: S608

    def _on_conflict(self, becomes: dict[str, str] | None) -> str:
        if becomes is None:
            return ""
        key = ", ".join(column.name for column in self._table.primary_key)
        changes = ", ".join(f"{name} = {value}" for name, value in becomes.items())
        return f" ON CONFLICT ({key}) DO UPDATE SET {changes}"


def _text(clause: sa.ClauseElement, dialect: sa.Dialect) -> str:
    compiled = clause.compile(dialect=dialect)
    text = str(compiled)
    for name, value in (compiled.params or {}).items():
        if value is not None:
            # Not a parameter of ours but a constant: SQLAlchemy's own (`OFFSET 0`) or a number in our code.
            if not isinstance(value, int):
                raise TypeError(f"the constant {value!r} must be a parameter of the statement")
            placeholder = rf":{name}\b" if dialect.paramstyle == "named" else rf"%\({name}\)s"
            text = re.sub(placeholder, str(int(value)), text)
    return text


class Connection(Protocol):
    """One connection of an engine, inside a transaction or, for reads, without one."""

    @property
    def is_sqlite(self) -> bool: ...

    def rows(self, statement: Statement, values: dict[str, Value]) -> list[Row]: ...

    def row(self, statement: Statement, values: dict[str, Value]) -> Row | None: ...

    def run(self, statement: Statement, values: dict[str, Value]) -> int:
        """How many rows it changed."""
        ...

    def upsert(self, statement: Upsert, columns: Columns) -> None: ...


class Bound:
    """A connection that sees one project: it fills the parameter `project` of every statement."""

    __slots__ = ("_connection", "_project")

    def __init__(self, connection: Connection, project: str) -> None:
        self._connection = connection
        self._project = project

    def rows(self, statement: Statement, **values: Value) -> list[Row]:
        values["project"] = self._project
        return self._connection.rows(statement, values)

    def row(self, statement: Statement, **values: Value) -> Row | None:
        values["project"] = self._project
        return self._connection.row(statement, values)

    def run(self, statement: Statement, **values: Value) -> int:
        values["project"] = self._project
        return self._connection.run(statement, values)

    def upsert(self, statement: Upsert, columns: Columns) -> None:
        """The rows belong to an object whose number was asked for by its project: they name none."""
        self._connection.upsert(statement, columns)

    @property
    def is_sqlite(self) -> bool:
        return self._connection.is_sqlite


PROJECT = sa.bindparam("project", type_=sa.Text)


def text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.Text)


def number(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


def packed(name: str) -> sa.BindParameter[bytes]:
    return sa.bindparam(name, type_=sa.LargeBinary)


class NowMs(FunctionElement[int]):
    """The database's clock in milliseconds since 1970, the same throughout a statement."""

    type = sa.BigInteger()
    inherit_cache = True


@compiles(NowMs, "sqlite")
def _sqlite_now(_element: NowMs, _compiler: object, **_options: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"


@compiles(NowMs, "postgresql")
def _postgres_now(_element: NowMs, _compiler: object, **_options: object) -> str:
    # Not now(): that is when the transaction began, which may have waited for a lock since. Not clock_timestamp():
    # it is volatile, and no index serves a comparison with it.
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS BIGINT)"
