"""Claim, renew, lost, abandoned, handed over: what the worker promises, with work of a kind of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.support.databases import Database
from tests.support.objects import a_thread
from threadkeep import worker as workers
from threadkeep.contract.errors import LeaseLost, Unavailable
from threadkeep.storage import Store, Transaction
from threadkeep.storage.notices import Alone, Notices, open_notices
from threadkeep.storage.work import EPOCH, Lease, LeaseTerms, WorkItem
from threadkeep.worker import Handle, Held, Lanes, Worker, new_node

KIND = "chore"
PROJECT = "proj_default"
PATIENCE_S = 30.0


@asynccontextmanager
async def working(
    store: Store,
    handle: Handle,
    *,
    max_concurrent: int = 10,
    lease_s: float = 60.0,
    lanes: Lanes | None = None,
    notices: Notices | None = None,
) -> AsyncGenerator[Worker, None]:
    notices = notices or Alone(new_node())
    worker = Worker(
        store,
        {KIND: handle},
        notices=notices,
        node=notices.node,
        max_concurrent=max_concurrent,
        lease_s=lease_s,
        lanes=lanes,
    )
    worker.start()
    yield worker
    await worker.drain(0)


async def add(store: Store, *keys: str, lane: str | None = None) -> None:
    def write(tx: Transaction) -> None:
        for key in keys:
            tx.work.insert(KIND, key, lane=lane)

    await store.write(PROJECT, write)


async def until(claim: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def adopted(key: str, terms: LeaseTerms) -> Lease:
    item = WorkItem(kind=KIND, key=key, project=PROJECT, thread=None)
    return Lease(item=item, token=terms.token, attempts=0, until_ms=0, interrupted=False)


async def finish(store: Store, held: Held) -> None:
    held.settled = True
    lease = held.lease
    await store.write(None, lambda tx: tx.work.finish(lease.item.kind, lease.item.key, lease.token))


async def stolen(store: Store, lease: Lease) -> None:
    """The lease runs out and another node takes the work."""

    def write(tx: Transaction) -> None:
        tx.work.abandon(lease, delay_s=0)
        assert tx.work.claim("another", [KIND], 1, 60)

    await store.write(None, write)


class Chores:
    """Handles work by waiting until it is told what to do."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.held: list[Held] = []
        self.cancelled: list[str] = []
        self.may_end = asyncio.Event()

    async def handle(self, held: Held) -> None:
        self.held.append(held)
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled.append(held.lease.item.key)
            lease = held.lease
            try:
                await self.store.write(None, lambda tx: tx.work.release(lease.item.kind, lease.item.key, lease.token))
            except LeaseLost:
                pass
            raise
        await finish(self.store, held)


@pytest.fixture
def chores(store: Store) -> Chores:
    return Chores(store)


async def test_what_is_due_is_claimed_and_done(store: Store, chores: Chores) -> None:
    chores.may_end.set()
    await add(store, "a", "b")

    async with working(store, chores.handle) as worker:
        worker.wake()
        await until(lambda: len(chores.held) == 2)

    assert not await store.read(None, lambda tx: tx.work.any_due((KIND,)))


async def test_no_more_is_claimed_than_there_is_room_for(store: Store, chores: Chores) -> None:
    await add(store, "a", "b", "c")

    async with working(store, chores.handle, max_concurrent=2) as worker:
        await until(lambda: len(chores.held) == 2)
        assert worker.offer() is None
        worker.decline(worker.insist())
        chores.may_end.set()
        await until(lambda: len(chores.held) == 3)


async def test_an_offered_lease_is_worked_on_at_once(store: Store, chores: Chores) -> None:
    async with working(store, chores.handle) as worker:
        terms = worker.offer()
        assert terms is not None
        await store.write(PROJECT, lambda tx: tx.work.insert(KIND, "a", lease=terms))

        worker.adopt(adopted("a", terms), "known already")

        await until(lambda: len(chores.held) == 1)
        assert chores.held[0].prepared == "known already"
        chores.may_end.set()


async def test_a_lost_lease_cancels_the_handler(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle, lease_s=60):
        await until(lambda: len(chores.held) == 1)
        await stolen(store, chores.held[0].lease)

        await until(lambda: chores.cancelled == ["a"])


async def test_a_lease_is_renewed_while_its_work_goes_on(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle, lease_s=3), working(store, chores.handle, lease_s=3):
        await until(lambda: len(chores.held) == 1)
        await asyncio.sleep(4)  # that much longer than the lease
        chores.may_end.set()

    assert len(chores.held) == 1
    assert chores.cancelled == []


async def test_an_interrupt_reaches_the_handler_here(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle) as worker:
        await until(lambda: len(chores.held) == 1)
        worker.interrupt(KIND, "a")

        assert chores.held[0].interrupted.is_set()
        chores.may_end.set()


async def test_an_interrupt_reaches_the_handler_elsewhere(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle):
        await until(lambda: len(chores.held) == 1)
        await store.write(None, lambda tx: tx.work.interrupt(KIND, "a"))

        await until(lambda: chores.held[0].interrupted.is_set())
        chores.may_end.set()


async def test_work_that_broke_is_tried_again_and_counted(store: Store) -> None:
    attempts: list[int] = []

    async def break_twice(held: Held) -> None:
        attempts.append(held.lease.attempts)
        if len(attempts) < 3:
            raise ZeroDivisionError
        await finish(store, held)

    await add(store, "a")

    async with working(store, break_twice):
        await until(lambda: len(attempts) == 3)

    assert attempts == [0, 1, 2]


async def test_work_that_broke_is_counted_also_while_its_node_renews_others(
    store: Store, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RENEW_S", 0.02)
    attempts: list[int] = []

    async def handle(held: Held) -> None:
        if held.lease.item.key == "sound":
            await chores.handle(held)
            return
        attempts.append(held.lease.attempts)
        if len(attempts) < 3:
            raise ValueError("something is wrong with it")
        await finish(store, held)

    await add(store, "sound", "broken")
    async with working(store, handle):
        await until(lambda: len(attempts) == 3)
        chores.may_end.set()

    assert attempts == [0, 1, 2]


async def test_who_has_lost_a_lease_is_told_once_and_left_to_end_what_he_has_to(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RENEW_S", 0.02)
    cancelled, may_end, ended = 0, asyncio.Event(), asyncio.Event()
    leases: list[Lease] = []

    async def handle(held: Held) -> None:
        nonlocal cancelled
        leases.append(held.lease)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            try:
                await may_end.wait()
                ended.set()
            except asyncio.CancelledError:
                cancelled += 1
            raise

    await add(store, "a")
    async with working(store, handle):
        await until(lambda: bool(leases))
        await stolen(store, leases[0])
        await until(lambda: cancelled > 0)
        await asyncio.sleep(0.3)
        may_end.set()
        await until(lambda: ended.is_set() or cancelled > 1)

    assert cancelled == 1


async def test_numbers_are_not_given_again_when_work_is_put_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RETRY_S", 0.0)
    told: list[int] = []

    async def handle(held: Held) -> None:
        """Tells more than is stored, before the database goes away."""
        followed = await store.read(None, lambda tx: tx.work.followed(KIND, "a"))
        assert followed is not None
        told.append(followed.told)
        if len(told) == 1:
            raise Unavailable
        await finish(store, held)

    await store.write(PROJECT, lambda tx: tx.work.insert(KIND, "a", told=2))
    async with working(store, handle):
        await until(lambda: len(told) == 2)

    assert told == [2, EPOCH]


async def test_draining_lets_work_end_within_the_grace_period(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle) as worker:
        await until(lambda: len(chores.held) == 1)
        draining = asyncio.create_task(worker.drain(PATIENCE_S))
        await asyncio.sleep(0)
        assert worker.offer() is None
        chores.may_end.set()
        await draining

    assert chores.cancelled == []


async def test_draining_makes_the_handlers_hand_over_what_is_left(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle) as worker:
        await until(lambda: len(chores.held) == 1)
        await worker.drain(0)

    assert chores.cancelled == ["a"]
    [lease] = await store.write(None, lambda tx: tx.work.claim("another", [KIND], 1, 60))
    # Given back in peace: no death is counted.
    assert lease.attempts == 0


async def test_draining_waits_for_a_lease_that_was_offered(store: Store, chores: Chores) -> None:
    async with working(store, chores.handle) as worker:
        terms = worker.offer()
        assert terms is not None
        draining = asyncio.create_task(worker.drain(0))
        await store.write(PROJECT, lambda tx: tx.work.insert(KIND, "a", lease=terms))
        worker.adopt(adopted("a", terms), None)
        await draining

        assert chores.cancelled == ["a"]


async def test_draining_waits_for_a_claim_under_way(
    store: Store, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(store, "a")

    async with working(store, chores.handle) as worker:
        claim, is_claimed, may_answer = worker._claim, asyncio.Event(), asyncio.Event()

        async def claim_slowly(limit: int, full: list[str]) -> list[Lease]:
            leases = await claim(limit, full)
            is_claimed.set()
            await may_answer.wait()
            return leases

        monkeypatch.setattr(worker, "_claim", claim_slowly)
        await is_claimed.wait()
        draining = asyncio.create_task(worker.drain(0))
        await asyncio.sleep(0)
        may_answer.set()
        await draining

    assert await store.write(None, lambda tx: tx.work.claim("another", [KIND], 1, 60))


async def test_a_lease_is_known_to_be_live_for_as_long_as_it_is_renewed(store: Store, chores: Chores) -> None:
    await add(store, "a")

    async with working(store, chores.handle, lease_s=3):
        await until(lambda: len(chores.held) == 1)
        assert chores.held[0].is_live
        first = chores.held[0].live_until

        await until(lambda: chores.held[0].live_until > first)
        chores.may_end.set()


async def test_an_offered_lease_is_no_lost_one(store: Store, chores: Chores) -> None:
    await add(store, "known")

    async with working(store, chores.handle) as worker:
        await until(lambda: len(chores.held) == 1)
        terms = worker.offer()
        assert terms is not None

        def claim_unheard(tx: Transaction) -> None:
            tx.work.insert(KIND, "lost")
            assert tx.work.claim(worker.node, [KIND], 1, 60)
            tx.work.insert(KIND, "offered", lease=terms)

        await store.write(PROJECT, claim_unheard)
        await until(lambda: [held.lease.item.key for held in chores.held] == ["known", "lost"])

        await store.write(None, lambda tx: tx.work.fence(KIND, "offered", terms.token, 60))
        worker.adopt(adopted("offered", terms), None)
        chores.may_end.set()


async def test_a_lease_that_nobody_here_knows_of_is_given_back(store: Store, chores: Chores) -> None:
    await add(store, "known")

    async with working(store, chores.handle) as worker:
        await until(lambda: len(chores.held) == 1)

        def claim_unheard(tx: Transaction) -> None:
            tx.work.insert(KIND, "lost")
            assert tx.work.claim(worker.node, [KIND], 1, 60)

        await store.write(PROJECT, claim_unheard)

        await until(lambda: len(chores.held) == 2)
        assert chores.held[1].lease.attempts == 0
        chores.may_end.set()


async def test_the_loops_outlive_a_defect(store: Store, chores: Chores, monkeypatch: pytest.MonkeyPatch) -> None:
    chores.may_end.set()
    async with working(store, chores.handle) as worker:
        claim = worker._claim
        failures: list[int] = []

        async def fail_once(limit: int, full: list[str]) -> list[Lease]:
            if not failures:
                failures.append(limit)
                raise ZeroDivisionError
            return await claim(limit, full)

        monkeypatch.setattr(worker, "_claim", fail_once)
        worker.wake()
        await until(lambda: bool(failures))
        await add(store, "a")

        await until(lambda: len(chores.held) == 1)


# ---------------------------------------------------------------- lanes


def filled(lanes: Lanes, names: list[str], size: int) -> list[int]:
    """What each lane comes to hold of so much room, when all of them want all of it."""
    for name in names * size:
        lanes.enter(name, size - sum(lanes.held.values()))
    return [lanes.held.get(name, 0) for name in names]


@pytest.mark.parametrize(
    ("stuck", "lanes", "held"),
    [
        (["a"], ["a"], [64]),
        (["a"], ["a", "b"], [48]),
        (["a", "b"], ["a", "b"], [28, 27]),
        (["a", "b", "c"], ["a", "b", "c", "d"], [20, 19, 19]),
    ],
)
def test_however_many_lanes_are_stuck_some_room_is_left_for_the_others(
    stuck: list[str], lanes: list[str], held: list[int]
) -> None:
    assert filled(Lanes(dict.fromkeys(lanes)), stuck, 64) == held


def test_a_lane_with_a_bound_holds_no_more_than_that() -> None:
    assert filled(Lanes({"a": 5}), ["a"], 64) == [5]


def test_what_is_in_no_lane_that_is_known_is_bounded_by_the_node_only() -> None:
    lanes = Lanes({"a": 1, "b": 1})

    assert lanes.room(None, 64) == lanes.room("of another node", 64) == 64


def test_a_claim_takes_no_more_than_the_lane_with_the_least_room_has() -> None:
    lanes = Lanes({"a": 2, "b": 5})
    lanes.take("a")
    assert lanes.choice(20) == ([], 1)
    lanes.take("a")
    assert lanes.choice(20) == (["a"], 5)
    lanes.leave("a")
    assert lanes.choice(20) == ([], 1)


async def test_work_of_a_full_lane_waits_and_lets_all_other_work_by(store: Store, chores: Chores) -> None:
    await add(store, "a1", "a2", "a3", lane="a")
    await add(store, "b1", "b2", lane="b")
    await add(store, "c1")

    def keys() -> list[str]:
        return sorted(held.lease.item.key for held in chores.held)

    async with working(store, chores.handle, lanes=Lanes({"a": 1, "b": None})) as worker:
        await until(lambda: len(chores.held) == 4)
        assert keys()[1:] == ["b1", "b2", "c1"]
        terms = worker.offer()
        assert worker.enter(terms, "a") is None
        worker.decline(terms)
        chores.may_end.set()
        await until(lambda: keys() == ["a1", "a2", "a3", "b1", "b2", "c1"])
        await until(lambda: not worker.lanes.held)


async def test_a_lane_is_not_entered_with_a_lease_that_was_declined(store: Store, chores: Chores) -> None:
    """The store gave up on a transaction, which runs all the same."""
    async with working(store, chores.handle, lanes=Lanes({"a": 1})) as worker:
        terms = worker.offer()
        worker.decline(terms)

        assert worker.enter(terms, "a") is None

        assert not worker.lanes.held


async def test_an_offered_lease_counts_in_the_lane_that_it_entered(store: Store, chores: Chores) -> None:
    async with working(store, chores.handle, lanes=Lanes({"a": 2})) as worker:
        terms, second, third = worker.offer(), worker.offer(), worker.offer()
        assert terms is not None
        assert worker.enter(terms, "a") is worker.enter(terms, "a") is terms
        assert worker.enter(second, "a") is second
        assert worker.enter(third, "a") is None
        worker.decline(second)
        assert worker.enter(third, "a") is third
        worker.decline(third)
        await store.write(PROJECT, lambda tx: tx.work.insert(KIND, "a1", lane="a", lease=terms))

        worker.adopt(adopted("a1", terms), None)

        assert worker.lanes.held == {"a": 1}
        chores.may_end.set()
        await until(lambda: not worker.lanes.held)


async def test_what_is_overdue_or_interrupted_needs_no_room(store: Store, chores: Chores) -> None:
    await add(store, "fills the node")
    async with working(store, chores.handle, max_concurrent=1) as worker:
        await until(lambda: len(chores.held) == 1)

        def write(tx: Transaction) -> None:
            tx.work.insert(KIND, "waits")
            tx.work.insert(KIND, "overdue", overdue_at_ms=1)
            tx.work.insert(KIND, "interrupted")
            tx.work.interrupt(KIND, "interrupted")

        await store.write(PROJECT, write)
        worker.wake()

        await until(lambda: len(chores.held) == 3)
        assert {held.lease.item.key for held in chores.held[1:]} == {"overdue", "interrupted"}
        chores.may_end.set()
        await until(lambda: len(chores.held) == 4)


async def test_no_more_is_handled_beyond_the_room_than_the_bound_allows(
    store: Store, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "BEYOND", 2)

    def write(tx: Transaction) -> None:
        for number in range(6):
            tx.work.insert(KIND, f"{number}", overdue_at_ms=1)

    await store.write(PROJECT, write)
    async with working(store, chores.handle, max_concurrent=2):
        await until(lambda: len(chores.held) == 4)
        await asyncio.sleep(1)  # time enough to take more
        assert len(chores.held) == 4
        chores.may_end.set()
        await until(lambda: len(chores.held) == 6)


class TestTwoNodes:
    """That look at the table at their start and never again: what they know of each other they were told."""

    @pytest.fixture
    async def told(
        self, store: Store, postgres_database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncGenerator[tuple[Notices, Notices], None]:
        monkeypatch.setattr(workers, "POLL_S", PATIENCE_S * 10)
        monkeypatch.setattr(workers, "RENEW_S", PATIENCE_S * 10)
        both = open_notices(postgres_database.url, "a"), open_notices(postgres_database.url, "b")
        gaps: list[Notices] = []
        for notices in both:
            notices.on_gap(lambda notices=notices: gaps.append(notices))
        await until(lambda: len(gaps) == 2)
        yield both
        for notices in both:
            await notices.close()

    @pytest.fixture
    def database(self, postgres_database: Database) -> Database:
        return postgres_database

    async def test_what_the_one_has_no_room_for_the_other_takes(
        self, store: Store, told: tuple[Notices, Notices]
    ) -> None:
        here, there = Chores(store), Chores(store)
        async with working(store, here.handle, max_concurrent=1, notices=told[0]) as worker:
            await add(store, "a")
            worker.wake()
            await until(lambda: len(here.held) == 1)
            async with working(store, there.handle, notices=told[1]):
                await asyncio.sleep(0.1)  # its first look is over
                assert worker.offer() is None
                await add(store, "b")
                worker.wake()

                await until(lambda: len(there.held) == 1)
                there.may_end.set()
                here.may_end.set()

    async def test_what_the_one_hands_over_the_other_takes(self, store: Store, told: tuple[Notices, Notices]) -> None:
        here, there = Chores(store), Chores(store)
        async with working(store, here.handle, notices=told[0]) as worker:
            await add(store, "a")
            worker.wake()
            await until(lambda: len(here.held) == 1)
            async with working(store, there.handle, notices=told[1]):
                await asyncio.sleep(0.1)  # its first look is over

                await worker.drain(0)

                await until(lambda: len(there.held) == 1)
                assert there.held[0].lease.attempts == 0
                there.may_end.set()

    async def test_an_interrupt_at_the_one_reaches_the_other(self, store: Store, told: tuple[Notices, Notices]) -> None:
        here, there = Chores(store), Chores(store)
        async with working(store, there.handle, notices=told[1]) as worker:
            await add(store, "a")
            worker.wake()
            await until(lambda: len(there.held) == 1)
            async with working(store, here.handle, notices=told[0]) as other:
                other.interrupt(KIND, "a")

                await until(lambda: there.held[0].interrupted.is_set())
                there.may_end.set()

    async def test_an_interrupt_that_overtakes_the_lease_is_not_lost(
        self, store: Store, told: tuple[Notices, Notices]
    ) -> None:
        there = Chores(store)
        async with working(store, there.handle, notices=told[1]) as worker:
            terms = worker.offer()
            assert terms is not None
            await store.write(PROJECT, lambda tx: tx.work.insert(KIND, "a", lease=terms))
            told[0].tell("interrupt", "a", KIND)
            await until(lambda: bool(worker._interrupted_early))

            worker.adopt(adopted("a", terms), None)

            assert [held.interrupted.is_set() for held, _ in worker._held.values()] == [True]
            await until(lambda: bool(there.held))
            there.may_end.set()

    async def test_a_gap_makes_both_look_themselves(self, store: Store, told: tuple[Notices, Notices]) -> None:
        there = Chores(store)
        async with working(store, there.handle, notices=told[1]) as worker:
            await asyncio.sleep(0.1)  # its first look is over
            await add(store, "a")

            worker._catch_up()

            await until(lambda: len(there.held) == 1)
            await stolen(store, there.held[0].lease)
            worker._catch_up()
            await until(lambda: there.cancelled == ["a"])


async def test_work_of_a_deleted_thread_stops_at_once(
    store: Store, chores: Chores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "RENEW_S", PATIENCE_S * 10)
    thread = a_thread()

    def write(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.work.insert(KIND, "a", thread=thread.id)

    await store.write(PROJECT, write)
    async with working(store, chores.handle, lease_s=PATIENCE_S * 100) as worker:
        await until(lambda: len(chores.held) == 1)
        await store.write(PROJECT, lambda tx: tx.threads.delete(thread.id))

        worker.doubt("another")
        worker.doubt(thread.id)

        await until(lambda: chores.cancelled == ["a"])
