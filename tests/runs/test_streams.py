"""Which logs a node keeps, and how one node mirrors another's."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.support.objects import a_run, a_thread
from threadkeep.contract.errors import Unavailable
from threadkeep.contract.events import Event
from threadkeep.contract.messages import MessageDelta, MessageDeltaContent, TextContentDelta, TextDelta
from threadkeep.contract.runs import Run
from threadkeep.runs import streams
from threadkeep.runs.follow import KIND, EventLog
from threadkeep.runs.retelling import Retold
from threadkeep.runs.streams import Ended, Follower, Mirror, Streams
from threadkeep.storage import DEFAULT_PROJECT_ID, Store, Transaction
from threadkeep.storage.notices import Alone
from threadkeep.storage.work import LeaseTerms

PATIENCE_S = 30.0
Hear = Callable[[str, str, str], None]


def delta(text: str) -> Event:
    part = TextContentDelta(index=0, text=TextDelta(value=text))
    return Event("thread.message.delta", MessageDelta(id="msg_a", delta=MessageDeltaContent(content=[part])))


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


class Wire:
    """What nodes say to each other, in one event loop. It can lose things."""

    def __init__(self) -> None:
        self.nodes: dict[str, WiredNotices] = {}
        # Topics of which the next notice is lost, once for each.
        self.loses: deque[str] = deque()
        self.is_cut = False
        self.said: list[str] = []

    def node(self, name: str) -> "WiredNotices":
        self.nodes[name] = WiredNotices(self, name)
        return self.nodes[name]

    def carry(self, node: str, topic: str, key: str, body: str, to: str | None) -> None:
        self.said.append(topic)
        if self.is_cut:
            return
        if self.loses and self.loses[0] == topic:
            self.loses.popleft()
            return
        for name, notices in self.nodes.items():
            if name != node and to in (None, name):
                for hear in notices.hears.get(topic, []):
                    asyncio.get_running_loop().call_soon(hear, node, key, body)


class WiredNotices:
    def __init__(self, wire: Wire, node: str) -> None:
        self.node = node
        self.hears: dict[str, list[Hear]] = {}
        self._wire = wire

    def tell(self, topic: str, key: str = "", body: str = "", *, to: str | None = None) -> None:
        self._wire.carry(self.node, topic, key, body, to)

    def on(self, topic: str, hear: Hear) -> None:
        self.hears.setdefault(topic, []).append(hear)

    def on_gap(self, hear: Callable[[], None]) -> None: ...

    async def close(self) -> None: ...


@asynccontextmanager
async def a_node(store: Store, wire: Wire, name: str) -> AsyncGenerator[Streams, None]:
    node = Streams(store, wire.node(name), retention_s=600)
    try:
        yield node
    finally:
        await node.close()


async def a_run_at(store: Store, node: str) -> Run:
    """A run in progress of which ``node`` has the lease."""
    thread = a_thread()
    run = a_run(thread.id, status="in_progress")

    def write(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.runs.insert(run)
        tx.work.insert(KIND, run.id, thread=thread.id, lease=LeaseTerms("token", node, 60), told=2)

    await store.write(DEFAULT_PROJECT_ID, write)
    return run


async def heard(follower: Follower, until: int) -> list[tuple[int, Event]]:
    """What is told up to number ``until``, or to the end."""
    position, told = 0, list[tuple[int, Event]]()
    async with asyncio.timeout(PATIENCE_S):
        while position < until:
            part = await follower.next(position)
            if isinstance(part, Ended):
                break
            if isinstance(part, Retold):
                told += part.events
                position = part.last
                continue
            while position < until:
                told += enumerate(part.since(position), position + 1)
                position = part.last
                if part.closed or position >= until:
                    break
                await part.wait(position)
    follower.close()
    return told


def numbers(told: list[tuple[int, Event]]) -> list[int]:
    return [number for number, _ in told]


class TestKeeping:
    @pytest.fixture
    def node(self, store: Store) -> Streams:
        return Streams(store, Alone("here"), retention_s=600)

    async def test_a_log_that_nobody_followed_is_gone_when_it_ends(self, node: Streams) -> None:
        events = node.open("run_a")
        events.append([delta("one")])
        assert node.find("run_a", 0) is events
        events.close()
        assert node.find("run_a", 0) is None

    async def test_a_log_that_was_followed_is_kept(self, node: Streams) -> None:
        events = node.open("run_a")
        events.is_followed = True
        events.append([delta("one")])
        events.close()
        assert node.find("run_a", 0) is events

    async def test_without_retention_nothing_is_kept(self, store: Store) -> None:
        node = Streams(store, Alone("here"), retention_s=0)
        events = node.open("run_a")
        events.is_followed = True
        events.append([delta("one")])
        events.close()
        assert node.find("run_a", 0) is None

    async def test_after_a_while_a_log_is_gone(self, store: Store) -> None:
        node = Streams(store, Alone("here"), retention_s=0.05)
        events = node.open("run_a")
        events.is_followed = True
        events.append([delta("one")])
        events.close()
        await until(lambda: node.find("run_a", 0) is None)

    async def test_the_oldest_go_when_there_are_too_many(self, node: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "KEPT_BYTES", 10_000)
        for number in range(20):
            events = node.open(f"run_{number}")
            events.is_followed = True
            events.append([delta("x" * 500)])
            events.close()
        kept = [number for number in range(20) if node.find(f"run_{number}", 0) is not None]
        assert kept == list(range(10, 20))

    async def test_a_stretch_of_a_run_is_found_by_number(self, node: Streams) -> None:
        first, second = node.open("run_a"), node.open("run_a", 2)
        first.is_followed = True
        first.append([delta("one"), delta("two")])
        first.close()
        assert [node.find("run_a", position) for position in (0, 1, 2, 3)] == [first, first, second, None]
        assert node.ahead("run_a", 0) == 2


class TestMirroring:
    async def test_what_another_node_has_is_mirrored_once_for_all_readers(self, store: Store) -> None:
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta(str(number)) for number in range(10)])
            followers = [await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0) for _ in range(5)]
            reading = [asyncio.create_task(heard(each, 20)) for each in followers]
            await asyncio.sleep(0)
            events.append([delta(str(number)) for number in range(10, 20)])
            told = await asyncio.gather(*reading)

        assert all(each == list(enumerate(events.since(0), 1)) for each in told)
        assert wire.said.count("stream.follow") == 1

    async def test_what_was_lost_is_asked_for_again(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "_ANEW_S", 0)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta("one")])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            reading = asyncio.create_task(heard(follower, 3))
            wire.loses.append("stream.told")
            events.append([delta("two")])
            await until(lambda: not wire.loses)
            events.append([delta("three")])

            assert await reading == list(enumerate(events.since(0), 1))

    async def test_the_last_of_it_that_was_lost_comes_with_the_next_renewal(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "RENEW_S", 0.05)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta("one")])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            reading = asyncio.create_task(heard(follower, 2))
            wire.loses.append("stream.told")
            events.append([delta("two")])

            assert numbers(await reading) == [1, 2]

    async def test_more_than_may_be_on_its_way_arrives_all_the_same(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "WINDOW_BYTES", 4_000)
        monkeypatch.setattr(streams, "BATCH_BYTES", 1_000)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta("x" * 500) for _ in range(100)])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)

            assert numbers(await heard(follower, 100)) == list(range(1, 101))

    async def test_a_mirror_that_nobody_reads_is_not_sent_anything(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in (("RENEW_S", 0.02), ("FORGET_S", 0.1), ("_YOUNG_S", 0.0)):
            monkeypatch.setattr(streams, name, value)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta("one")])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            await heard(follower, 1)
            await until(lambda: here.find(run.id, 0) is None and not there._senders)

    async def test_a_mirror_ends_when_another_node_takes_the_run_over(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "ANSWER_S", 0.05)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            there.open(run.id).append([delta("one")])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            mirror = await follower.next(0)
            assert isinstance(mirror, Mirror)

            # It says nothing any more, and a third one has the run.
            there_notices = wire.nodes.pop("there")
            here._hear_taken("beyond", run.id, "")

            async with asyncio.timeout(PATIENCE_S):
                await mirror.wait(1)
            assert mirror.closed
            assert mirror.failure is not None
            wire.nodes["there"] = there_notices

    async def test_a_node_that_stops_does_not_end_the_streams_of_others(self, store: Store) -> None:
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            there.open(run.id).append([delta("one")])
            begun = EventLog()
            here.begun_elsewhere(begun)
            follower = here.follow(DEFAULT_PROJECT_ID, run, begun)
            assert await follower.next(0) is begun
            mirror = await follower.next(0)
            assert isinstance(mirror, Mirror)

            # It hands the run over and still answers, but for its logs.
            await there.close()
            here._hear_taken("beyond", run.id, "")
            async with asyncio.timeout(PATIENCE_S):
                await mirror.wait(1)
            assert mirror.closed

            going_on = asyncio.create_task(follower.next(1))
            await asyncio.sleep(0.1)
            here.open(run.id, 1)
            assert isinstance(await going_on, EventLog)

    async def test_a_mirror_of_a_node_that_still_answers_goes_on(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(streams, "ANSWER_S", 0.05)
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            events = there.open(run.id)
            events.append([delta("one")])
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            mirror = await follower.next(0)
            assert isinstance(mirror, EventLog)

            here._hear_taken("beyond", run.id, "")
            await asyncio.sleep(0.2)

            assert not mirror.closed

    async def test_a_reader_who_leaves_while_he_asks_leaves_nothing_behind(self, store: Store) -> None:
        wire = Wire()
        async with a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            asking = asyncio.create_task(here.mirror(run.id, 0, "there"))
            await until(lambda: bool(here._mirrors))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

            assert not here._mirrors

    async def test_a_node_that_has_lost_the_run_does_not_refuse_what_its_successor_told(self, store: Store) -> None:
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            # It does not know yet: it was frozen until now.
            here.open(run.id).append([delta("one")])
            there.open(run.id, 10).append([delta("two"), delta("three")])

            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 11)
            log = await follower.next(11)
            assert isinstance(log, EventLog)
            assert log.since(11) == [delta("three")]
            follower.close()

    async def test_readers_of_a_database_that_is_away_do_not_fill_the_log(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(streams, "LOOK_S", 0.0)
        async with a_node(store, Wire(), "here") as here:
            run = await a_run_at(store, "there")
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            looked, read = 0, store.read

            async def away(*_: object) -> None:
                nonlocal looked
                looked += 1
                raise Unavailable

            monkeypatch.setattr(store, "read", away)
            going_on = asyncio.create_task(follower.next(0))
            await until(lambda: looked > 5)
            monkeypatch.setattr(store, "read", read)
            here.open(run.id)

            assert isinstance(await going_on, EventLog)
            assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

    async def test_without_notices_a_reader_waits_for_what_is_stored(self, store: Store) -> None:
        wire = Wire()
        async with a_node(store, wire, "there") as there, a_node(store, wire, "here") as here:
            run = await a_run_at(store, "there")
            there.open(run.id).append([delta("one")])
            wire.is_cut = True
            follower = await here.join(DEFAULT_PROJECT_ID, run.thread_id, run.id, 0)
            reading = asyncio.create_task(heard(follower, 1000))

            def end(tx: Transaction) -> None:
                stored = tx.runs.lock(run.thread_id, run.id)
                tx.runs.end(msgspec.structs.replace(stored, status="completed"), was=stored.status, told=4)
                tx.work.finish(KIND, run.id, "token")

            await store.write(DEFAULT_PROJECT_ID, end)

            told = await reading
            assert told[-1][0] == 4
            assert told[-1][1].name == "thread.run.completed"
