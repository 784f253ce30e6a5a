"""What nodes tell each other through the database, as it goes well and as it does not."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql

from tests.support.databases import Database
from tests.support.postgres import PostgresServer
from threadkeep.storage.notices import (
    MAX_PARTS_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_WAITING_BYTES,
    Batches,
    Notice,
    Notices,
    channel_of,
    open_notices,
    payloads_of,
)

PATIENCE_S = 60


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    server = PostgresServer()
    server.start()
    yield server
    server.remove()


class Ear:
    """What a node hears, in order; None where something may be missing."""

    def __init__(self, notices: Notices, *topics: str) -> None:
        self.heard: list[tuple[str, str, str, str] | None] = []
        self._news = asyncio.Event()
        for topic in topics:
            notices.on(topic, lambda node, key, body, topic=topic: self._hear((topic, node, key, body)))
        notices.on_gap(lambda: self._hear(None))

    def _hear(self, said: tuple[str, str, str, str] | None) -> None:
        self.heard.append(said)
        self._news.set()

    async def until(self, is_heard: Callable[[list[tuple[str, str, str, str] | None]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not is_heard(self.heard):
                self._news.clear()
                await self._news.wait()

    @property
    def bodies(self) -> list[str]:
        return [said[3] for said in self.heard if said is not None]


@asynccontextmanager
async def at_node(database: Database, node: str, *topics: str) -> AsyncGenerator[tuple[Notices, Ear]]:
    """A node that listens already."""
    notices = open_notices(database.url, node)
    ear = Ear(notices, *topics)
    try:
        await ear.until(lambda heard: heard == [None])
        ear.heard.clear()
        yield notices, ear
    finally:
        await notices.close()


async def test_all_other_nodes_hear_what_one_tells(postgres_database: Database) -> None:
    async with (
        at_node(postgres_database, "a", "due") as (a, ear_a),
        at_node(postgres_database, "b", "due") as (_, ear_b),
        at_node(postgres_database, "c", "due") as (_, ear_c),
    ):
        a.tell("due", "run_1", "soon")
        await ear_b.until(bool)
        await ear_c.until(bool)
        assert ear_b.heard == ear_c.heard == [("due", "a", "run_1", "soon")]
        assert ear_a.heard == []


async def test_one_node_hears_what_it_alone_is_told(postgres_database: Database) -> None:
    async with (
        at_node(postgres_database, "a") as (a, _),
        at_node(postgres_database, "b", "first", "last") as (_, ear_b),
        at_node(postgres_database, "c", "first", "last") as (_, ear_c),
    ):
        a.tell("first", "x", to="b")
        a.tell("last")
        await ear_b.until(lambda heard: len(heard) == 2)
        await ear_c.until(bool)
        assert ear_b.heard == [("first", "a", "x", ""), ("last", "a", "", "")]
        assert ear_c.heard == [("last", "a", "", "")]


async def test_what_is_told_to_all_and_to_one_arrives_in_the_order_of_telling(postgres_database: Database) -> None:
    told = [str(number) for number in range(500)]
    async with (
        at_node(postgres_database, "a") as (a, _),
        at_node(postgres_database, "b", "count") as (_, ear),
    ):
        for number, body in enumerate(told):
            a.tell("count", body=body, to="b" if number % 3 else None)
        await ear.until(lambda heard: len(heard) == len(told))
        assert ear.bodies == told


async def test_equal_notices_are_all_heard(postgres_database: Database) -> None:
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "due") as (_, ear):
        for _ in range(3):
            a.tell("due", "same")
            await asyncio.sleep(0)
        await ear.until(lambda heard: len(heard) == 3)


async def test_large_body_arrives_whole(postgres_database: Database) -> None:
    body = "".join(chr(0x20 + number % 0x2000) for number in range(300_000)).encode(errors="ignore").decode() + "\0"
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "big") as (_, ear):
        a.tell("big", "key", body)
        a.tell("big", "key", "small")
        await ear.until(lambda heard: len(heard) == 2)
        assert ear.bodies == [body, "small"]


async def test_notice_arrives_soon(postgres_database: Database) -> None:
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "ping") as (_, ear):
        took: list[float] = []
        for count in range(1, 21):
            told_at = time.monotonic()
            a.tell("ping")
            await ear.until(lambda heard, count=count: len(heard) == count)
            took.append(time.monotonic() - told_at)
        assert sorted(took)[10] < 0.4


async def test_gap_is_heard_where_telling_was_too_much(postgres_database: Database) -> None:
    body = "x" * (MAX_WAITING_BYTES // 3)
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "much") as (_, ear):
        for _ in range(8):
            a.tell("much", "", body, to="b")
        a.tell("much", "", "last")
        await ear.until(lambda heard: None in heard)
        a.tell("much", "", "afterwards")
        await ear.until(lambda heard: heard[-1] == ("much", "a", "", "afterwards"))


async def test_hearer_that_breaks_takes_nothing_from_others(postgres_database: Database) -> None:
    def break_(*_said: str) -> None:
        raise RuntimeError

    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b") as (b, _):
        b.on("due", break_)
        ear = Ear(b, "due")
        a.tell("due", "1")
        a.tell("due", "2")
        await ear.until(lambda heard: len(heard) == 2)


async def test_notifications_of_others_in_the_database_are_nothing_to_us(postgres_database: Database) -> None:
    assert postgres_database.url is not None
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "due") as (_, ear):
        with psycopg.connect(postgres_database.url, autocommit=True) as other:
            for channel in ("threadkeep", channel_of("b")):
                for said in ("", "hello", "a 1 x 1 []", "z 1 0 1 {", 'z 2 0 1 [{"what": 1}]'):
                    other.execute("SELECT pg_notify(%s, %s)", [channel, said])
        a.tell("due")
        await ear.until(lambda heard: heard[-1:] == [("due", "a", "", "")])


async def test_cut_connections_are_made_anew_and_the_gap_is_told(
    postgres: PostgresServer, postgres_database: Database
) -> None:
    assert postgres_database.url is not None
    async with at_node(postgres_database, "a") as (a, _), at_node(postgres_database, "b", "due") as (_, ear):
        a.tell("due", "before")
        await ear.until(bool)
        with psycopg.connect(postgres_database.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                " AND datname = current_database()"
            )
        await ear.until(lambda heard: None in heard)
        # The one who tells may find its connection broken, and what it told is missed then.
        async with asyncio.timeout(PATIENCE_S):
            while "after" not in [said[2] for said in ear.heard if said is not None]:
                a.tell("due", "after")
                await asyncio.sleep(0.05)


async def test_notices_recover_from_a_server_that_was_away_and_telling_never_fails(own_server: PostgresServer) -> None:
    database = own_server.create_database()
    a, b = open_notices(database, "a"), open_notices(database, "b")
    ear = Ear(b, "due")
    try:
        await ear.until(bool)
        own_server.stop()
        for _ in range(1_000):
            a.tell("due", "lost", "x" * 100_000)
        own_server.start()
        await ear.until(lambda heard: heard.count(None) >= 2)
        async with asyncio.timeout(PATIENCE_S):
            while "found" not in [said[2] for said in ear.heard if said is not None]:
                a.tell("due", "found")
                await asyncio.sleep(0.05)
    finally:
        await a.close()
        await b.close()


async def test_notices_close_at_once_also_without_a_server(own_server: PostgresServer) -> None:
    database = own_server.create_database()
    # Servers that this process keeps for other tests have theirs.
    before = set(threading.enumerate())
    notices = open_notices(database, "a")
    ear = Ear(notices)
    await ear.until(bool)
    own_server.stop()
    notices.tell("due")
    started_at = time.monotonic()
    await notices.close()
    notices.tell("due")
    assert time.monotonic() - started_at < 5
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("notices-")]


async def test_what_was_told_last_is_said_before_closing(postgres_database: Database) -> None:
    async with at_node(postgres_database, "b", "bye") as (_, ear):
        async with at_node(postgres_database, "a") as (a, _):
            a.tell("bye")
        await ear.until(bool)


async def test_closed_notices_leave_no_connection(postgres_database: Database) -> None:
    assert postgres_database.url is not None
    async with at_node(postgres_database, "a") as (a, _):
        a.tell("due")
    with psycopg.connect(postgres_database.url, autocommit=True) as connection:
        others = sql.SQL(
            "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        until = time.monotonic() + PATIENCE_S
        # A backend takes its time to notice.
        while connection.execute(others).fetchone() != (0,):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)


async def test_only_node_of_an_embedded_database_tells_nobody(sqlite_database: Database) -> None:
    notices = open_notices(sqlite_database.url, "a")
    ear = Ear(notices, "due")
    notices.tell("due")
    notices.tell("due", to="b")
    await notices.close()
    assert ear.heard == []


# --- payloads


def fed(batches: Batches, payloads: list[str], channel: str = "c") -> list[list[Notice] | None]:
    """What is heard of the payloads: batches, and None for a gap."""
    result: list[list[Notice] | None] = []
    for payload in payloads:
        heard, is_gap = batches.feed(channel, payload)
        result += [None] if is_gap else []
        result += [heard.notices] if heard is not None else []
    return result


def notice(size: int = 1) -> Notice:
    return Notice("topic", "key", "é" * size)


@pytest.mark.parametrize("size", [0, 1, 3_900, 3_960, 3_970, 4_000, 20_000])
def test_payloads_fit_and_are_put_together(size: int) -> None:
    payloads = list(payloads_of("node", 7, [notice(size), notice()]))
    assert max(len(payload.encode()) for payload in payloads) <= MAX_PAYLOAD_BYTES
    assert fed(Batches("other"), payloads) == [[notice(size), notice()]]


def test_first_batch_may_have_any_number() -> None:
    assert fed(Batches("other"), list(payloads_of("node", 70, [notice()]))) == [[notice()]]


def test_missing_number_is_a_gap() -> None:
    batches = Batches("other")
    fed(batches, list(payloads_of("node", 1, [notice()])))
    assert fed(batches, list(payloads_of("node", 3, [notice()]))) == [None, [notice()]]
    assert fed(batches, list(payloads_of("node", 4, [notice()]))) == [[notice()]]


def test_large_batch_after_a_missing_number_is_heard() -> None:
    batches = Batches("other")
    fed(batches, list(payloads_of("node", 1, [notice()])))
    assert fed(batches, list(payloads_of("node", 3, [notice(20_000)]))) == [None, [notice(20_000)]]


def test_numbers_of_channels_and_nodes_are_their_own() -> None:
    batches = Batches("other")
    assert fed(batches, list(payloads_of("node", 1, [notice()])), "c") == [[notice()]]
    assert fed(batches, list(payloads_of("node", 5, [notice()])), "d") == [[notice()]]
    assert fed(batches, list(payloads_of("third", 9, [notice()])), "c") == [[notice()]]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_batch_with_a_lost_part_is_a_gap_and_the_next_is_heard(lost: int) -> None:
    batches = Batches("other")
    payloads = list(payloads_of("node", 1, [notice(10_000)]))
    assert len(payloads) == 3
    del payloads[lost]
    heard = fed(batches, [*payloads, *payloads_of("node", 2, [notice(10_000)])])
    assert None in heard
    assert heard[-1] == [notice(10_000)]


def test_batches_of_two_nodes_may_alternate() -> None:
    one, two = (list(payloads_of(node, 1, [notice(10_000)])) for node in ("one", "two"))
    payloads = [payload for pair in zip(one, two, strict=True) for payload in pair]
    assert fed(Batches("other"), payloads) == [[notice(10_000)], [notice(10_000)]]


def test_torn_batches_are_bounded_and_the_oldest_goes() -> None:
    batches = Batches("other")
    begun = [list(payloads_of(f"node-{number}", 1, [notice(500_000)])) for number in range(40)]
    heard = [fed(batches, payloads[:-1]) for payloads in begun]
    assert None in heard[-1]
    assert batches._torn_bytes <= MAX_PARTS_BYTES
    assert fed(batches, begun[-1][-1:]) == [[notice(500_000)]]
    assert fed(batches, begun[0][-1:]) == [None]


def test_own_notices_are_not_heard() -> None:
    assert fed(Batches("node"), list(payloads_of("node", 1, [notice()]))) == []


def test_channels_of_nodes_are_short_and_differ() -> None:
    assert len(channel_of("host" * 64)) <= 63
    assert channel_of("a") != channel_of("b")
