"""Statements are built and compiled once; a call hands their text to the driver and nothing else happens.

`Statement` keeps the text for both databases. `Connection` is what an engine offers to run one. `Bound` is a
connection that fills in the project by itself: collections of a project's objects know no other way to the database.
"""

import re
from functools import cached_property
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

Value = str | int | bool | None
Row = tuple[Any, ...]


class Statement:
    """One statement with named parameters."""

    def __init__(self, clause: sa.ClauseElement) -> None:
        self.clause = clause

    @cached_property
    def sqlite(self) -> str:
        return _text(self.clause, SQLiteDialect(paramstyle="named"))

    @cached_property
    def postgres(self) -> str:
        from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg  # noqa: PLC0415 - loads a lot

        return _text(self.clause, PGDialect_psycopg())


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

    def rows(self, statement: Statement, values: dict[str, Value]) -> list[Row]: ...

    def row(self, statement: Statement, values: dict[str, Value]) -> Row | None: ...

    def run(self, statement: Statement, values: dict[str, Value]) -> int:
        """How many rows it changed."""
        ...


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


PROJECT = sa.bindparam("project", type_=sa.Text)


def text(name: str) -> sa.BindParameter[str]:
    return sa.bindparam(name, type_=sa.Text)


def number(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger)


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
