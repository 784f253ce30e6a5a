"""The one function that moves a run."""

import pytest

from tests.support.objects import a_run, a_step, a_thread
from threadkeep.contract.errors import IllegalMove
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.runs import LastError, Run, Usage
from threadkeep.runs.moves import advance, total
from threadkeep.storage import Store, Transaction

PROJECT = "proj_default"


async def stored(store: Store, status: RunStatus) -> Run:
    thread = a_thread()
    run = a_run(thread.id, status=status)

    def write(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.runs.insert(run)

    await store.write(PROJECT, write)
    return run


@pytest.mark.parametrize(
    ("was", "to", "stamp"),
    [
        ("queued", "in_progress", "started_at"),
        ("in_progress", "completed", "completed_at"),
        ("in_progress", "failed", "failed_at"),
        ("cancelling", "cancelled", "cancelled_at"),
    ],
)
async def test_a_move_is_stamped_and_stored(store: Store, was: RunStatus, to: RunStatus, stamp: str) -> None:
    run = await stored(store, was)

    moved = await store.write(PROJECT, lambda tx: advance(tx, run, to))

    assert moved.status == to
    assert getattr(moved, stamp) is not None
    assert await store.read(PROJECT, lambda tx: tx.runs.get(run.thread_id, run.id)) == moved


async def test_a_move_that_the_table_forbids_writes_nothing(store: Store) -> None:
    run = await stored(store, "cancelling")

    with pytest.raises(IllegalMove):
        await store.write(PROJECT, lambda tx: advance(tx, run, "completed"))

    assert await store.read(PROJECT, lambda tx: tx.runs.get(run.thread_id, run.id)) == run


async def test_the_loser_of_a_race_learns_it(store: Store) -> None:
    run = await stored(store, "in_progress")
    await store.write(PROJECT, lambda tx: advance(tx, run, "cancelling"))

    with pytest.raises(IllegalMove):
        await store.write(PROJECT, lambda tx: advance(tx, run, "completed"))


async def test_the_end_sums_up_the_steps_and_clears_the_clock(store: Store) -> None:
    run = await stored(store, "in_progress")
    usage = Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7)

    def write(tx: Transaction) -> Run:
        for counted in (usage, None, usage):
            tx.steps.insert(a_step(run, usage=counted))
        return advance(tx, run, "failed", last_error=LastError(code="server_error", message="No."))

    moved = await store.write(PROJECT, write)

    assert moved.usage == Usage(prompt_tokens=6, completion_tokens=8, total_tokens=14)
    assert (moved.expires_at, moved.last_error) == (None, LastError(code="server_error", message="No."))


def test_no_usage_is_none_at_all() -> None:
    assert total([]) == Usage(prompt_tokens=0, completion_tokens=0, total_tokens=0)
