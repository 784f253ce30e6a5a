from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.objects import a_message, a_run, a_step, a_thread, an_assistant
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.threads import Thread
from threadkeep.storage import Transaction, assistants, messages, run_steps, runs, threads
from threadkeep.storage.paging import Listing
from threadkeep.storage.postgres import PostgresConnection
from threadkeep.storage.sqlite import SqliteConnection
from threadkeep.storage.statements import Connection, Statement

COUNT = 7
IDS = [f"msg_{number:024}" for number in range(0, COUNT * 10, 10)]
# Ids that are there, that are not, and beyond either end.
CURSORS = st.one_of(
    st.none(),
    st.sampled_from(IDS),
    st.integers(0, COUNT * 10).map(lambda n: f"msg_{n:024}"),
    st.text("a~ '\\", max_size=3),
)


@pytest.fixture
def numbered(tx: Transaction, thread: Thread) -> Thread:
    for identifier in IDS:
        tx.messages.insert(a_message(thread.id, id=identifier))
    return thread


def expected(
    order: Literal["asc", "desc"], limit: int, after: str | None, before: str | None
) -> tuple[list[str], bool]:
    """The contract's page, told by lists: the ids, and whether more lie beyond it."""
    ordered = IDS if order == "asc" else IDS[::-1]

    def precedes(left: str, right: str) -> bool:
        return left < right if order == "asc" else left > right

    between = [
        one for one in ordered if (after is None or precedes(after, one)) and (before is None or precedes(one, before))
    ]
    if before is not None and after is None:
        return between[-limit:], len(between) > limit
    return between[:limit], len(between) > limit


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.sampled_from(["asc", "desc"]), limit=st.integers(1, COUNT + 1), after=CURSORS, before=CURSORS)
def test_page_is_the_contracts_for_any_cursor(
    tx: Transaction,
    numbered: Thread,
    order: Literal["asc", "desc"],
    limit: int,
    after: str | None,
    before: str | None,
) -> None:
    page = tx.messages.list(numbered.id, ListQuery(order=order, limit=limit, after=after, before=before))
    ids, has_more = expected(order, limit, after, before)
    assert [message.id for message in page.data] == ids
    assert page.has_more == has_more
    assert (page.first_id, page.last_id) == ((ids[0], ids[-1]) if ids else (None, None))


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, COUNT])
def test_walking_on_by_last_id_meets_every_item_once(
    tx: Transaction, numbered: Thread, order: Literal["asc", "desc"], limit: int
) -> None:
    seen: list[str] = []
    has_more = True
    while has_more:
        page = tx.messages.list(numbered.id, ListQuery(order=order, limit=limit, after=seen[-1] if seen else None))
        seen += [message.id for message in page.data]
        has_more = page.has_more
    assert seen == (IDS if order == "asc" else IDS[::-1])


def test_deleted_cursor_still_marks_its_place(tx: Transaction, numbered: Thread) -> None:
    tx.messages.delete(numbered.id, IDS[3])
    page = tx.messages.list(numbered.id, ListQuery(after=IDS[3]))
    assert [message.id for message in page.data] == [IDS[2], IDS[1], IDS[0]]


def test_every_list_is_newest_first_by_default(tx: Transaction, thread: Thread) -> None:
    pair = [an_assistant(), an_assistant()]
    for assistant in pair:
        tx.assistants.insert(assistant)
    newer = a_thread()
    tx.threads.insert(newer)
    done, active = a_run(thread.id, status="completed"), a_run(thread.id)
    for run in (done, active):
        tx.runs.insert(run)
    steps = [a_step(active), a_step(active)]
    for step in steps:
        tx.steps.insert(step)
    assert tx.assistants.list(ListQuery()).data == pair[::-1]
    assert tx.threads.list(ListQuery(), {}, None).data == [newer, thread]
    assert tx.runs.list(thread.id, ListQuery()).data == [active, done]
    assert tx.steps.list(thread.id, active.id, ListQuery()).data == steps[::-1]


LISTINGS: dict[str, Callable[[], Listing[Any]]] = {
    "assistants": lambda: assistants.LIST,
    "threads": lambda: threads.listing(0, False),
    "threads by metadata": lambda: threads.listing(2, False),
    "messages": lambda: messages.LIST,
    "messages of a run": lambda: messages.LIST_OF_RUN,
    "runs": lambda: runs.LIST,
    "run steps": lambda: run_steps.LIST,
}


def plan(connection: Connection, statement: Statement) -> str:
    names = ("project", "thread", "run", "low", "high", "key_0", "value_0", "key_1", "value_1")
    values = {name: f"{name}_1" for name in names} | {"limit": 21}
    if isinstance(connection, SqliteConnection):
        rows = connection.raw.execute(f"EXPLAIN QUERY PLAN {statement.sqlite}", values).fetchall()
        return "\n".join(row[3] for row in rows)
    assert isinstance(connection, PostgresConnection)
    # The tables are empty here, and reading all of an empty table is cheapest.
    connection.do("SET enable_seqscan = off; SET enable_bitmapscan = off")
    rows = connection.raw.execute(f"EXPLAIN {statement.postgres}", values).fetchall()  # pyright: ignore[reportArgumentType]
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("name", LISTINGS)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_every_list_walks_an_index_in_order(connection: Connection, name: str, direction: str) -> None:
    """So a page in the middle of 100,000 costs what the first one does."""
    said = plan(connection, getattr(LISTINGS[name](), direction))
    assert "SCAN" not in said, said
    assert "Seq Scan" not in said, said
    assert "TEMP B-TREE" not in said, said
    assert "Sort" not in said, said
    assert "id>? AND" in said or "id > 'low_1'" in said, said


@pytest.mark.parametrize("statement", [messages.LAST_ID, runs.LAST_ID, run_steps.LAST_ID, runs.ACTIVE, run_steps.ALL])
def test_what_every_run_asks_for_is_found_by_an_index(connection: Connection, statement: Statement) -> None:
    said = plan(connection, statement)
    assert "SCAN" not in said, said
    assert "Seq Scan" not in said, said
    assert "TEMP B-TREE" not in said, said
    assert "Sort" not in said, said


def test_search_in_sqlite_asks_the_word_index_first(connection: Connection) -> None:
    if isinstance(connection, SqliteConnection):
        listing = threads.listing(0, True).down.sqlite
        values = {"project": "p", "low": "", "high": "~", "limit": 21, "words": "tea"}
        said = [row[3] for row in connection.raw.execute(f"EXPLAIN QUERY PLAN {listing}", values)]
        assert "SCAN message_words VIRTUAL TABLE INDEX" in "\n".join(said), said
        assert "SEARCH messages USING INTEGER PRIMARY KEY (rowid=?)" in said
        assert not any(line.startswith("SCAN threads") for line in said), said
