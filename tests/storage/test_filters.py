"""Filters in SQL say what a plain evaluation says, on both databases."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.databases import execute
from tests.support.objects import a_store_file, a_vector_store
from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.ids import new_id
from threadkeep.contract.metadata import Attributes
from threadkeep.contract.vector_stores import (
    AllOf,
    AnyOf,
    Comparison,
    DoesNotEqual,
    Equals,
    Filter,
    IsGreater,
    IsGreaterOrEqual,
    IsIn,
    IsLess,
    IsLessOrEqual,
    IsNotIn,
)
from threadkeep.storage import Transaction
from threadkeep.storage.contents import NewPassage
from threadkeep.storage.filters import MAX_COMPARISONS, MAX_DEPTH, MAX_VALUES, check_filters


def kind(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def equal(one: Any, other: Any) -> bool:
    return kind(one) == kind(other) and one == other


ORDERS: dict[type[Comparison], Callable[[Any, Any], bool]] = {
    IsGreater: lambda one, other: one > other,
    IsGreaterOrEqual: lambda one, other: one >= other,
    IsLess: lambda one, other: one < other,
    IsLessOrEqual: lambda one, other: one <= other,
}


def lets_through(filters: Filter, attributes: Attributes) -> bool:
    """The reference: what `storage/filters.py` promises, without a database."""
    match filters:
        case AllOf():
            return all(lets_through(part, attributes) for part in filters.filters)
        case AnyOf():
            return any(lets_through(part, attributes) for part in filters.filters)
        case DoesNotEqual(key=key, value=value):
            return key not in attributes or not equal(attributes[key], value)
        case IsNotIn(key=key, value=values):
            return key not in attributes or not any(equal(attributes[key], value) for value in values)
        case IsIn(key=key, value=values):
            return key in attributes and any(equal(attributes[key], value) for value in values)
        case Equals(key=key, value=value):
            return key in attributes and equal(attributes[key], value)
        case _:
            if filters.key not in attributes:
                return False
            mine, theirs = attributes[filters.key], filters.value
            if kind(mine) != kind(theirs) or kind(mine) == "boolean":
                return False
            return ORDERS[type(filters)](mine, theirs)


# Few, so that they meet; odd ones among them, and such as one database might take for another.
KEYS = st.sampled_from(["user", "year", "a.b", '"', "$", "%s", ":x", "Ünï", "", "'; --"])
TEXTS = st.sampled_from(["", "a", "A", "b", "ä", "1", "true", "2020", "'", "%", "\U00010348", "\ufffd", "null"])
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2020, 2020.0, 2020.5, 0.1, -0.0, 1e308, 5e-324, 2**53, 2**53 + 1, 2**63, -(2**70)]),
    st.integers(-3, 3),
    st.floats(allow_nan=False, allow_infinity=False),
)
# As a double, which is what a number is here.
DOUBLES = NUMBERS.map(float)
SCALARS = st.one_of(TEXTS, DOUBLES, st.booleans())
LISTS = st.lists(st.one_of(TEXTS, DOUBLES), max_size=4)
ONE: list[type[Any]] = [Equals, DoesNotEqual, IsGreater, IsGreaterOrEqual, IsLess, IsLessOrEqual]
COMPARISONS: st.SearchStrategy[Filter] = st.one_of(
    *(st.builds(one, key=KEYS, value=SCALARS) for one in ONE),
    *(st.builds(one, key=KEYS, value=LISTS) for one in (IsIn, IsNotIn)),
)
FILTERS: st.SearchStrategy[Filter] = st.recursive(
    COMPARISONS,
    lambda part: st.one_of(
        st.builds(AllOf, filters=st.lists(part, max_size=3)), st.builds(AnyOf, filters=st.lists(part, max_size=3))
    ),
    max_leaves=6,
)
ATTRIBUTES: st.SearchStrategy[Attributes] = st.dictionaries(KEYS, SCALARS, max_size=5)


@pytest.fixture
def tx(tx: Transaction) -> Iterator[Transaction]:
    execute(tx, "BEGIN")
    yield tx
    execute(tx, "COMMIT")


def a_store_of(tx: Transaction, several: list[Attributes]) -> tuple[str, list[str]]:
    """A store with a file for each of ``several``, all of which say `tea`; its id and theirs."""
    store = a_vector_store()
    tx.vector_stores.insert(store)
    files = [a_store_file(store.id, attributes=attributes) for attributes in several]
    tx.vector_store_files.insert(store.id, files)
    content = tx.contents.ensure(new_id("file"))
    tx.contents.append(content.number, 0, [NewPassage("tea", 0, 3, 1)], None)
    for file in files:
        tx.vector_store_files.set_content(store.id, file.id, content.number)
        tx.passages.index(store.id, file.id, 0, [{"tea": 1}])
    return store.id, [file.id for file in files]


def through(tx: Transaction, store_id: str, filters: Filter) -> set[str]:
    return {hit.file_id for hit in tx.passages.search([store_id], ["tea"], filters, 100)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(ATTRIBUTES, min_size=1, max_size=5), filters=FILTERS)
def test_filter_in_sql_is_the_plain_filter(tx: Transaction, several: list[Attributes], filters: Filter) -> None:
    store_id, ids = a_store_of(tx, several)
    expected = {file_id for file_id, attributes in zip(ids, several, strict=True) if lets_through(filters, attributes)}
    assert through(tx, store_id, filters) == expected


CASES: list[tuple[str, list[int]]] = [
    ('{"type": "eq", "key": "year", "value": 2020}', [0, 1]),
    ('{"type": "ne", "key": "year", "value": 2020}', [2, 3, 4]),
    ('{"type": "gt", "key": "year", "value": 2019}', [0, 1]),
    ('{"type": "gte", "key": "year", "value": "2020"}', [2]),
    ('{"type": "lt", "key": "year", "value": 1}', []),
    ('{"type": "eq", "key": "year", "value": true}', [3]),
    ('{"type": "gte", "key": "year", "value": true}', []),
    ('{"type": "in", "key": "year", "value": [2020, "2020"]}', [0, 1, 2]),
    ('{"type": "nin", "key": "year", "value": [2020, "2020"]}', [3, 4]),
    ('{"type": "in", "key": "year", "value": []}', []),
    ('{"type": "nin", "key": "year", "value": []}', [0, 1, 2, 3, 4]),
    ('{"type": "and", "filters": []}', [0, 1, 2, 3, 4]),
    ('{"type": "or", "filters": []}', []),
]


@pytest.mark.parametrize(("filters", "expected"), CASES)
def test_what_a_comparison_means(tx: Transaction, filters: str, expected: list[int]) -> None:
    several: list[Attributes] = [{"year": 2020}, {"year": 2020.0}, {"year": "2020"}, {"year": True}, {"other": 2020}]
    store_id, ids = a_store_of(tx, several)
    found = through(tx, store_id, msgspec.json.decode(filters, type=Filter))
    assert found == {ids[place] for place in expected}


def test_changed_attributes_are_what_is_filtered_by(tx: Transaction) -> None:
    store_id, (file_id,) = a_store_of(tx, [{"user": "ada", "year": 1}])
    tx.vector_store_files.set_attributes(store_id, file_id, {"user": "bob"})
    assert through(tx, store_id, Equals(key="user", value="bob")) == {file_id}
    assert through(tx, store_id, Equals(key="user", value="ada")) == set()
    assert through(tx, store_id, Equals(key="year", value=1)) == set()


def test_filters_of_two_stores_do_not_mix(tx: Transaction) -> None:
    one, (mine,) = a_store_of(tx, [{"user": "ada"}])
    other, _ = a_store_of(tx, [{"user": "bob"}])
    hits = tx.passages.search([one, other], ["tea"], Equals(key="user", value="ada"), 10)
    assert [hit.file_id for hit in hits] == [mine]


def test_greatest_attributes_of_the_contract_fit_the_index(tx: Transaction) -> None:
    key, value = "\U00010348" * 64, "".join(chr(0x10000 + number * 7) for number in range(512))
    store_id, (file_id,) = a_store_of(tx, [{key: value}])
    assert through(tx, store_id, Equals(key=key, value=value)) == {file_id}


@pytest.mark.parametrize(
    "filters",
    [
        AnyOf(filters=[Equals(key="k", value=number) for number in range(MAX_COMPARISONS + 1)]),
        AllOf(filters=[AllOf(filters=[]) for _ in range(MAX_COMPARISONS + 1)]),
        IsIn(key="k", value=list(range(MAX_VALUES + 1))),
        Equals(key="k", value=10**400),
    ],
)
def test_filter_that_is_too_large_is_refused(filters: Filter) -> None:
    with pytest.raises(InvalidRequest):
        check_filters(filters)


def test_filter_that_is_nested_too_deeply_is_refused() -> None:
    filters: Filter = Equals(key="k", value=1)
    for _ in range(MAX_DEPTH - 1):
        filters = AllOf(filters=[filters])
    check_filters(filters)
    with pytest.raises(InvalidRequest):
        check_filters(AnyOf(filters=[filters]))


def test_largest_filter_is_answered(tx: Transaction) -> None:
    store_id, ids = a_store_of(tx, [{"k": 1}, {"k": 999}])
    several = [IsIn(key="k", value=list(range(at, at + 15))) for at in range(0, 15 * MAX_COMPARISONS, 15)]
    assert through(tx, store_id, AnyOf(filters=[*several])) == {ids[0]}
    assert through(tx, store_id, AllOf(filters=[DoesNotEqual(key="k", value=at) for at in range(64)])) == {ids[1]}
