"""Leases: nobody works on an item beside another, and no item is forgotten."""

import asyncio
import threading
import time

import pytest

from tests.storage.conftest import Open
from tests.support.databases import Database, execute
from tests.support.objects import a_thread
from threadkeep.contract.errors import LeaseLost
from threadkeep.contract.threads import Thread
from threadkeep.storage import DEFAULT_PROJECT_ID, Lease, LeaseTerms, Store, Transaction, WorkItem, open_store

PATIENCE_S = 30
LONG = 3600
# A lease of this length has run out when it is given.
OVER = -1


def keys(leases: list[Lease]) -> list[str]:
    return [lease.item.key for lease in leases]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_due_work_is_claimed_with_all_that_is_known_of_it(tx: Transaction, thread: Thread) -> None:
    tx.work.insert("run", "run_1", thread=thread.id)
    [lease] = tx.work.claim("a", ["run"], 10, LONG)
    assert lease.item == WorkItem(kind="run", key="run_1", project=DEFAULT_PROJECT_ID, thread=thread.id)
    assert lease.attempts == 0
    assert not lease.interrupted
    assert abs(lease.until_ms - now_ms() - LONG * 1000) < 60_000


def test_claimed_work_is_nobody_elses(tx: Transaction) -> None:
    tx.work.insert("run", "run_1")
    assert keys(tx.work.claim("a", ["run"], 10, LONG)) == ["run_1"]
    assert tx.work.claim("b", ["run"], 10, LONG) == []
    assert tx.work.claim("a", ["run"], 10, LONG) == []


def test_work_of_the_future_is_not_claimed(tx: Transaction) -> None:
    tx.work.insert("run", "later", due_at_ms=now_ms() + 600_000)
    tx.work.insert("run", "past", due_at_ms=now_ms() - 600_000)
    assert keys(tx.work.claim("a", ["run"], 10, LONG)) == ["past"]


def test_work_is_claimed_the_longest_due_first_up_to_the_limit(tx: Transaction) -> None:
    for age, key in ((1, "young"), (3, "old"), (2, "middle")):
        tx.work.insert("run", key, due_at_ms=now_ms() - age * 1000)
    assert sorted(keys(tx.work.claim("a", ["run"], 2, LONG))) == ["middle", "old"]
    assert keys(tx.work.claim("a", ["run"], 2, LONG)) == ["young"]


def test_only_the_kinds_asked_for_are_claimed(tx: Transaction) -> None:
    for kind in ("run", "sweep", "ingest"):
        tx.work.insert(kind, "same key")
    assert tx.work.any_due(("run", "sweep"))
    assert {lease.item.kind for lease in tx.work.claim("a", ["run", "sweep"], 10, LONG)} == {"run", "sweep"}
    assert not tx.work.any_due(("run", "sweep"))
    assert tx.work.any_due(("ingest",))


def test_work_in_lanes_that_are_full_is_not_claimed(tx: Transaction) -> None:
    for lane in ("a", "b", None):
        tx.work.insert("run", f"in {lane}", lane=lane)
    assert not tx.work.any_due(("ingest",), full=["a"])
    assert sorted(keys(tx.work.claim("n", ["run"], 10, LONG, full=["a", "c"]))) == ["in None", "in b"]
    assert not tx.work.any_due(("run",), full=["a"])
    [lease] = tx.work.claim("n", ["run"], 10, LONG, full=["b"])
    assert lease.item.lane == "a"


def test_interrupted_work_is_claimed_however_full_its_lane(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lane="a")
    tx.work.interrupt("run", "run_1")
    assert tx.work.any_due(("run",), full=["a"])
    assert keys(tx.work.claim("n", ["run"], 10, LONG, full=["a"])) == ["run_1"]


def test_work_inserted_with_a_lease_is_held_from_the_start(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=LeaseTerms("token", "a", LONG))
    assert tx.work.claim("b", ["run"], 10, LONG) == []
    tx.work.fence("run", "run_1", "token", LONG)


def test_lease_that_ran_out_is_taken_over_and_counted(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", OVER))
    [lease] = tx.work.claim("b", ["run"], 10, OVER)
    assert lease.attempts == 1
    [lease] = tx.work.claim("c", ["run"], 10, LONG)
    assert lease.attempts == 2


def test_lease_runs_out_by_itself(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", 0.05))
    until = time.monotonic() + PATIENCE_S
    while not (leases := tx.work.claim("b", ["run"], 10, LONG)):
        assert time.monotonic() < until
    assert leases[0].attempts == 1


def test_fence_of_a_lease_taken_over_loses(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("old", "a", OVER))
    [lease] = tx.work.claim("b", ["run"], 10, LONG)
    with pytest.raises(LeaseLost):
        tx.work.fence("run", "run_1", "old", LONG)
    with pytest.raises(LeaseLost):
        tx.work.release("run", "run_1", "old")
    with pytest.raises(LeaseLost):
        tx.work.finish("run", "run_1", "old")
    tx.work.fence("run", "run_1", lease.token, LONG)


def test_lease_that_ran_out_and_nobody_took_is_still_its_holders(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", OVER))
    tx.work.fence("run", "run_1", "token", LONG)
    assert tx.work.claim("b", ["run"], 10, LONG) == []


def test_fence_of_work_that_is_gone_loses(tx: Transaction) -> None:
    with pytest.raises(LeaseLost):
        tx.work.fence("run", "run_1", "token", LONG)


def test_deleting_the_thread_takes_the_lease_away(tx: Transaction, thread: Thread) -> None:
    tx.work.insert("run", "run_1", thread=thread.id, lease=("token", "a", LONG))
    tx.threads.delete(thread.id)
    assert tx.work.renew("a", LONG) == []
    with pytest.raises(LeaseLost):
        tx.work.fence("run", "run_1", "token", LONG)


def test_renewal_keeps_all_leases_of_the_node_and_no_others(tx: Transaction) -> None:
    tx.work.insert("run", "mine", lease=("m", "a", OVER))
    tx.work.insert("run", "another's", lease=("o", "b", OVER))
    assert [tuple(renewal) for renewal in tx.work.renew("a", LONG)] == [("run", "mine", "m", False)]
    assert keys(tx.work.claim("c", ["run"], 10, LONG)) == ["another's"]


def test_finished_work_is_gone(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", LONG))
    tx.work.finish("run", "run_1", "token")
    assert tx.work.renew("a", LONG) == []
    tx.work.insert("run", "run_1")


def test_released_work_is_due_when_it_was_said(tx: Transaction) -> None:
    for key, due_at_ms in (("now", None), ("later", now_ms() + 600_000)):
        tx.work.insert("run", key, lease=("token", "a", LONG))
        tx.work.release("run", key, "token", due_at_ms=due_at_ms)
    [lease] = tx.work.claim("b", ["run"], 10, LONG)
    assert lease.item.key == "now"
    # It was given back in peace.
    assert lease.attempts == 0


def test_abandoned_work_counts_as_a_death(tx: Transaction) -> None:
    tx.work.insert("run", "run_1")
    [lease] = tx.work.claim("a", ["run"], 10, LONG)
    tx.work.abandon(lease, delay_s=LONG)
    assert tx.work.claim("b", ["run"], 10, LONG) == []
    tx.work.abandon(lease, delay_s=0)
    [again] = tx.work.claim("b", ["run"], 10, LONG)
    assert again.attempts == 1


def test_touched_work_is_due_now(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", due_at_ms=now_ms() + 600_000)
    assert not tx.work.touch("run", "run_1")
    assert keys(tx.work.claim("a", ["run"], 10, LONG)) == ["run_1"]


def test_touch_leases_what_nobody_holds(tx: Transaction) -> None:
    tx.work.insert("run", "free", due_at_ms=now_ms() + 600_000)
    assert tx.work.touch("run", "free", lease=("token", "a", LONG))
    tx.work.fence("run", "free", "token", LONG)
    assert not tx.work.touch("run", "free", lease=("other", "b", LONG))
    tx.work.fence("run", "free", "token", LONG)
    assert not tx.work.touch("run", "unknown", lease=("other", "b", LONG))


def test_interrupt_reaches_the_holder_with_the_renewal(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", LONG))
    tx.work.interrupt("run", "run_1")
    assert [renewal.interrupted for renewal in tx.work.renew("a", LONG)] == [True]
    assert tx.work.claim("b", ["run"], 10, LONG) == []


def test_interrupt_makes_waiting_work_due(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", due_at_ms=now_ms() + 600_000)
    tx.work.interrupt("run", "run_1")
    [lease] = tx.work.claim("a", ["run"], 10, LONG)
    assert lease.interrupted


def test_interrupt_is_not_lost_when_the_holder_lets_go_unaware(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", lease=("token", "a", LONG))
    tx.work.interrupt("run", "run_1")
    tx.work.release("run", "run_1", "token", due_at_ms=now_ms() + 600_000)
    [lease] = tx.work.claim("b", ["run"], 10, LONG)
    assert lease.interrupted


def told(tx: Transaction, key: str) -> int:
    followed = tx.work.followed("run", key)
    assert followed is not None
    return followed.told


def test_events_are_numbered_on_from_what_was_told(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", told=2)
    assert tx.work.tell("run", "run_1", events=2) == 2
    assert told(tx, "run_1") == 4


def test_a_release_says_how_far_was_told_where_that_is_known(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", told=2)
    [lease] = tx.work.claim("a", ["run"], 1, LONG)
    tx.work.release("run", "run_1", lease.token, told=57)
    [lease] = tx.work.claim("b", ["run"], 1, LONG)
    tx.work.release("run", "run_1", lease.token)
    assert told(tx, "run_1") == 57


@pytest.mark.parametrize(("before", "after"), [(2, 1_000_000), (1_000_004, 2_000_000)])
def test_numbers_that_a_dead_node_may_have_given_are_not_given_again(tx: Transaction, before: int, after: int) -> None:
    tx.work.insert("run", "run_1", lease=LeaseTerms("x", "a", OVER), told=before)
    tx.work.claim("b", ["run"], 1, LONG)
    assert told(tx, "run_1") == after


def test_work_that_nobody_counted_goes_on_above_all_that_may_have_been_told(tx: Transaction) -> None:
    tx.work.insert("run", "run_1")
    assert told(tx, "run_1") == 1_000_000
    assert tx.work.tell("run", "run_1", events=2) == 1_000_000


def test_who_holds_the_work_is_known_to_those_who_follow_it(tx: Transaction) -> None:
    tx.work.insert("run", "free")
    tx.work.insert("run", "held", lease=LeaseTerms("x", "a", LONG))
    tx.work.insert("run", "lost", lease=LeaseTerms("x", "a", OVER))
    found = {key: tx.work.followed("run", key) for key in ("free", "held", "lost", "gone")}
    assert {key: each and (each.node, each.is_live) for key, each in found.items()} == {
        "free": (None, False),
        "held": ("a", True),
        "lost": ("a", False),
        "gone": None,
    }


async def test_two_nodes_never_get_the_same_item(database: Database) -> None:
    node_count, item_count = 4, 200
    stores = [
        await open_store(database.url, database.data_dir, is_sole_server=False, connections=2)
        for _ in range(node_count)
    ]
    try:
        first = stores[0]

        def fill(tx: Transaction) -> None:
            for number in range(item_count):
                tx.work.insert("run", f"run_{number}")

        await first.write(DEFAULT_PROJECT_ID, fill)

        async def claim_all(node: str, store: Store) -> list[str]:
            mine: list[str] = []
            while leases := await store.write(None, lambda tx: tx.work.claim(node, ["run"], 7, LONG)):
                mine += keys(leases)
            return mine

        shares = await asyncio.gather(*(claim_all(str(number), store) for number, store in enumerate(stores)))
        claimed = [key for share in shares for key in share]
        assert len(claimed) == len(set(claimed)) == item_count
    finally:
        for store in stores:
            await store.close()


async def test_claim_passes_over_rows_that_another_node_is_at(postgres_database: Database) -> None:
    store = await open_store(postgres_database.url, postgres_database.data_dir)
    claimed, may_end = threading.Event(), threading.Event()

    def slowly(tx: Transaction) -> list[str]:
        mine = keys(tx.work.claim("slow", ["run"], 2, LONG))
        claimed.set()
        assert may_end.wait(PATIENCE_S)
        return mine

    try:
        for number in range(3):
            await store.write(DEFAULT_PROJECT_ID, lambda tx, key=f"run_{number}": tx.work.insert("run", key))
        slow = asyncio.create_task(store.write(None, slowly))
        assert await asyncio.to_thread(claimed.wait, PATIENCE_S)
        quick = await store.write(None, lambda tx: tx.work.claim("quick", ["run"], 10, LONG))
        may_end.set()
        assert sorted(keys(quick) + await slow) == ["run_0", "run_1", "run_2"]
        assert len(quick) == 1
    finally:
        may_end.set()
        await store.close()


def test_fence_holds_a_takeover_off_until_the_transaction_ends(
    open_connection: Open, database: Database, tx: Transaction
) -> None:
    """In SQLite the one writer does; in PostgreSQL the row's lock must."""
    if database.is_sqlite:
        return
    tx.work.insert("run", "run_1", lease=("token", "a", OVER))
    holder = Transaction(open_connection(), None)
    execute(holder, "BEGIN")
    holder.work.fence("run", "run_1", "token", LONG)
    assert tx.work.claim("b", ["run"], 10, LONG) == []
    execute(holder, "COMMIT")
    assert tx.work.claim("b", ["run"], 10, LONG) == []


def test_work_carries_the_project_of_the_transaction_that_made_it(tx: Transaction) -> None:
    other = tx.projects.ensure("other")
    theirs = Transaction(tx._connection, other)
    thread = a_thread()
    theirs.threads.insert(thread)
    theirs.work.insert("run", "run_1", thread=thread.id)
    [lease] = Transaction(tx._connection, None).work.claim("a", ["run"], 10, LONG)
    assert lease.item.project == other


def test_what_is_overdue_is_found_apart_from_what_is_only_due(tx: Transaction) -> None:
    tx.work.insert("run", "due", overdue_at_ms=now_ms() + 600_000)
    tx.work.insert("run", "never overdue")
    assert not tx.work.any_due(("run",), full=None)

    tx.work.insert("run", "overdue", overdue_at_ms=now_ms() - 1)

    assert tx.work.any_due(("run",), full=None)
    assert [lease.item.key for lease in tx.work.claim("a", ["run"], 10, LONG, full=None)] == ["overdue"]
    assert not tx.work.any_due(("run",), full=None)
    assert {lease.item.key for lease in tx.work.claim("b", ["run"], 10, LONG)} == {"due", "never overdue"}


def test_what_is_interrupted_is_as_good_as_overdue(tx: Transaction) -> None:
    tx.work.insert("run", "run_1", due_at_ms=now_ms() + 600_000)
    tx.work.interrupt("run", "run_1")

    [lease] = tx.work.claim("a", ["run"], 10, LONG, full=None)

    assert lease.interrupted


def test_what_is_overdue_and_held_is_its_holders(tx: Transaction) -> None:
    tx.work.insert("run", "held", overdue_at_ms=now_ms() - 1, lease=LeaseTerms("token", "a", LONG))
    assert tx.work.claim("b", ["run"], 10, LONG, full=None) == []

    tx.work.insert("run", "its holder died", overdue_at_ms=now_ms() - 1, lease=LeaseTerms("token", "a", OVER))
    assert [lease.attempts for lease in tx.work.claim("b", ["run"], 10, LONG, full=None)] == [1]
