"""Which files of a store a filter lets through, in SQL of both databases.

What a comparison means, where the contract does not say it:
* Values of different kinds (text, number, boolean) are never equal, and none is the greater one.
* Texts are ordered by their code points, numbers as numbers (2020 is 2020.0), booleans not at all.
* A file without the attribute is not equal to anything: `ne` and `nin` let it through, everything else does not.
* `and` of nothing lets everything through, `or` of nothing lets nothing through.

Every value is a parameter. The statement's text depends on the filter's shape alone, and is made once for each shape.
"""

from typing import Any, NamedTuple, assert_never

import sqlalchemy as sa

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.vector_stores import (
    AllOf,
    AnyOf,
    DoesNotEqual,
    Equals,
    Filter,
    IsGreater,
    IsGreaterOrEqual,
    IsIn,
    IsLess,
    IsLessOrEqual,
    IsNotIn,
    Scalar,
)
from threadkeep.storage.statements import Value, text
from threadkeep.storage.tables import vector_store_attributes as attributes

MAX_DEPTH = 8
MAX_COMPARISONS = 64
MAX_VALUES = 1000

TEXT, NUMBER, BOOLEAN = 0, 1, 2

_SIGNS = {
    Equals: "=",
    IsIn: "=",
    IsGreater: ">",
    IsGreaterOrEqual: ">=",
    IsLess: "<",
    IsLessOrEqual: "<=",
}

# ("and" | "or", shapes…), ("not", shape) or ("is", sign, kinds…): what the text of a statement depends on.
Shape = tuple[Any, ...]


def columns_of(value: Scalar) -> tuple[int, float, str]:
    """How a value is stored and compared: kind, number, text."""
    if isinstance(value, str):
        return TEXT, 0.0, value
    return BOOLEAN if isinstance(value, bool) else NUMBER, float(value), ""


def check_filters(filters: Filter) -> None:
    """Raises `InvalidRequest` where a filter is larger than is served."""
    _Bounds().count(filters, 1)


class _Bounds:
    def __init__(self) -> None:
        self._comparisons = 0
        self._values = 0

    def count(self, filters: Filter, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _too_large(f"nested too deeply. Expected at most {MAX_DEPTH} levels.")
        if isinstance(filters, AllOf | AnyOf):
            for part in filters.filters:
                self.count(part, depth + 1)
            # An empty compound is as long in SQL as a comparison.
            self._comparisons += not filters.filters
        else:
            self._comparisons += 1
            values = filters.value if isinstance(filters.value, list) else [filters.value]
            self._values += len(values)
            for value in values:
                try:
                    columns_of(value)
                except OverflowError:
                    raise InvalidRequest("Invalid 'filters': number out of range.", param="filters") from None
        if self._comparisons > MAX_COMPARISONS:
            raise _too_large(f"too many comparisons. Expected at most {MAX_COMPARISONS}.")
        if self._values > MAX_VALUES:
            raise _too_large(f"too many values. Expected at most {MAX_VALUES}.")


def _too_large(what: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'filters': {what}", param="filters")


class Compiled(NamedTuple):
    """A filter as what its statement looks like, and what it is given."""

    shape: Shape
    values: dict[str, Value]


def compiled(filters: Filter) -> Compiled:
    """Of a filter that `check_filters` has let through."""
    check_filters(filters)
    values: dict[str, Value] = {}
    return Compiled(_shape(filters, values), values)


def _shape(filters: Filter, values: dict[str, Value]) -> Shape:
    match filters:
        case AllOf():
            return ("and", *(_shape(part, values) for part in filters.filters))
        case AnyOf():
            return ("or", *(_shape(part, values) for part in filters.filters))
        case DoesNotEqual(key=key, value=value):
            return ("not", _comparison("=", key, [value], values))
        case IsNotIn(key=key, value=several):
            return ("not", _comparison("=", key, several, values))
        case IsIn(key=key, value=several):
            return _comparison("=", key, several, values)
        case Equals() | IsGreater() | IsGreaterOrEqual() | IsLess() | IsLessOrEqual():
            return _comparison(_SIGNS[type(filters)], filters.key, [filters.value], values)
        case _:
            assert_never(filters)


def _comparison(sign: str, key: str, wanted: list[Any], values: dict[str, Value]) -> Shape:
    # Parameters are numbered as they come, here and in `condition`.
    kinds: list[int] = []
    values[f"filter_{len(values)}"] = key
    for value in wanted:
        kind, number, string = columns_of(value)
        if kind == BOOLEAN and sign != "=":
            continue
        kinds.append(kind)
        values[f"filter_{len(values)}"] = string if kind == TEXT else number
    return ("is", sign, *kinds)


def condition(shape: Shape, store: sa.ColumnElement[int], file_id: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """True of a file that the filter lets through."""
    return _Clauses(store, file_id).of(shape)


class _Clauses:
    def __init__(self, store: sa.ColumnElement[int], file_id: sa.ColumnElement[str]) -> None:
        self._store = store
        self._file_id = file_id
        self._count = 0

    def of(self, shape: Shape) -> sa.ColumnElement[bool]:
        match shape:
            case ("and", *parts):
                return sa.and_(_ALWAYS, *(self.of(part) for part in parts))
            case ("or", *parts):
                return sa.or_(_NEVER, *(self.of(part) for part in parts))
            case ("not", part):
                return sa.not_(self.of(part))
            case ("is", str(sign), *kinds):
                return self._comparison(sign, kinds)
            case _:
                raise TypeError(shape)

    def _comparison(self, sign: str, kinds: list[int]) -> sa.ColumnElement[bool]:
        one = attributes.alias(f"attribute_{self._count}")
        key = one.c.key == text(self._name())
        wanted = [self._value(one, sign, kind) for kind in kinds]
        # The files are listed once and looked up, not asked for one at a time.
        return self._file_id.in_(
            sa.select(one.c.file_id).where(one.c.store == self._store, key, sa.or_(_NEVER, *wanted))
        )

    def _value(self, one: sa.FromClause, sign: str, kind: int) -> sa.ColumnElement[bool]:
        is_kind = one.c.kind == sa.literal_column(str(kind), sa.SmallInteger)
        if kind == TEXT:
            # The number is said for the index, in which it stands ahead of the text.
            is_kind &= one.c.number == sa.literal_column("0", sa.Double)
            return is_kind & one.c.text.op(sign, is_comparison=True)(text(self._name()))
        return is_kind & one.c.number.op(sign, is_comparison=True)(sa.bindparam(self._name(), type_=sa.Double))

    def _name(self) -> str:
        name = f"filter_{self._count}"
        self._count += 1
        return name


_ALWAYS = sa.literal_column("1", sa.Integer) == sa.literal_column("1", sa.Integer)
_NEVER = sa.literal_column("1", sa.Integer) == sa.literal_column("0", sa.Integer)
