"""The one writer of a run: fenced by its lease, and silent about what is not stored."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from tests.support.objects import a_message, a_run, a_step, a_thread
from threadkeep.contract.errors import IllegalMove, LeaseLost
from threadkeep.contract.messages import Message, Text, TextContent
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.run_steps import (
    FileSearchCall,
    FileSearchToolCall,
    FunctionToolCall,
    MessageCreation,
    MessageCreationDetails,
    RunStep,
    ToolCallsDetails,
)
from threadkeep.contract.runs import LastError, Run, Usage
from threadkeep.runs.follow import KIND, EventLog
from threadkeep.runs.journal import Journal
from threadkeep.runs.moves import NO_USAGE, advance
from threadkeep.runs.reply import TextAdded
from threadkeep.storage import Store, Transaction
from threadkeep.storage.work import Lease, LeaseTerms, WorkItem
from threadkeep.tools.function import FUNCTION
from threadkeep.worker import Held

PROJECT = "proj_default"
LEASE_S = 60.0


@dataclass
class Desk:
    """A journal of a run in the store, and what is in the store."""

    store: Store
    journal: Journal
    held: Held

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.journal.events.since(0)]

    async def stored(self) -> tuple[Run, list[RunStep], list[Message]]:
        run = self.journal.run

        def read(tx: Transaction) -> tuple[Run, list[RunStep], list[Message]]:
            messages = list(tx.messages.seen_by(run.thread_id, run.id))
            return tx.runs.get(run.thread_id, run.id), tx.steps.all(run.id), messages[::-1]

        return await self.store.read(PROJECT, read)

    async def steal(self) -> None:
        """Another node takes the work over."""
        item = self.held.lease.item

        def write(tx: Transaction) -> None:
            tx.work.release(item.kind, item.key, self.held.lease.token)
            [lease] = tx.work.claim("another", [KIND], 1, LEASE_S)
            assert lease.item.key == item.key

        await self.store.write(None, write)


async def desk_on(
    store: Store,
    *,
    status: RunStatus = "queued",
    left: Callable[[Run], RunStep] | None = None,
    lease_s: float = LEASE_S,
) -> Desk:
    """A desk for a new run; ``left`` makes a step that a node that died has left open."""
    thread = a_thread()
    run = a_run(thread.id, status=status, expires_at=None)
    terms = LeaseTerms(token="ours", node="here", lease_s=LEASE_S)

    def write(tx: Transaction) -> list[RunStep]:
        tx.threads.insert(thread)
        tx.runs.insert(run)
        tx.work.insert(KIND, run.id, thread=thread.id, lease=terms)
        if left is not None:
            step = left(run)
            if isinstance(step.step_details, MessageCreationDetails):
                half = a_message(
                    thread.id, "half", status="in_progress", role="assistant", run_id=run.id, id=_message_id(step)
                )
                tx.messages.insert(half)
            tx.steps.insert(step)
        return tx.steps.all(run.id)

    steps = await store.write(PROJECT, write)
    item = WorkItem(kind=KIND, key=run.id, project=PROJECT, thread=thread.id)
    held = Held(
        Lease(item=item, token="ours", attempts=0, until_ms=0, interrupted=False),
        None,
        live_until=time.monotonic() + lease_s,
    )
    return Desk(store, Journal(store, held, lease_s, run, steps, EventLog()), held)


SOMETHING = LastError(code="server_error", message="Sorry, something went wrong.")


def _message_id(step: RunStep) -> str:
    assert isinstance(step.step_details, MessageCreationDetails)
    return step.step_details.message_creation.message_id


def _half_written(run: Run) -> RunStep:
    return a_step(run, step_details=MessageCreationDetails(message_creation=MessageCreation(message_id="msg_half")))


def _half_called(run: Run) -> RunStep:
    return a_step(run, type="tool_calls", step_details=ToolCallsDetails(tool_calls=[]))


def start_call(journal: Journal) -> None:
    reading = FUNCTION.read(0, "call_f", "f")
    journal.start_call(reading)
    journal.add_arguments(0, "{}")
    journal.finish_calls()


async def write_text(journal: Journal, *texts: str) -> None:
    await journal.open_message()
    for text in texts:
        journal.add_text(TextAdded(text))
    journal.publish()


async def test_nothing_is_told_that_is_not_stored(store: Store) -> None:
    desk = await desk_on(store)

    await desk.journal.begin()
    await write_text(desk.journal, "Hi")
    await desk.journal.end("completed")

    run, [step], [message] = await desk.stored()
    assert (run.status, step.status, message.status) == ("completed", "completed", "completed")
    assert message.content == [TextContent(text=Text(value="Hi"))]
    assert [event.object for event in desk.journal.events.since(0)][-3:] == [message, step, run]


async def begun(journal: Journal) -> None:
    await journal.begin()


async def opened(journal: Journal) -> None:
    await journal.open_message()


async def called(journal: Journal) -> None:
    await journal.open_calls()


async def ended(journal: Journal) -> None:
    await journal.end("failed")


async def handed_over(journal: Journal) -> None:
    await journal.hand_over()


@pytest.mark.parametrize("milestone", [begun, opened, called, ended, handed_over])
async def test_a_writer_whose_lease_was_taken_writes_and_tells_nothing(
    store: Store, milestone: Callable[[Journal], Awaitable[None]]
) -> None:
    desk = await desk_on(store)
    await desk.steal()
    before = await desk.stored()

    with pytest.raises(LeaseLost):
        await milestone(desk.journal)

    assert await desk.stored() == before
    assert desk.names == []
    assert not desk.held.settled


@pytest.mark.parametrize("status", ["completed", "failed", "incomplete", "expired"])
async def test_a_fenced_writer_cannot_end_what_it_began(store: Store, status: RunStatus) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await write_text(desk.journal, "Hi")
    await desk.steal()
    before = await desk.stored()

    with pytest.raises(LeaseLost):
        await desk.journal.end(status)

    assert await desk.stored() == before


async def test_a_run_cancelled_meanwhile_can_only_end_cancelled(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    run = desk.journal.run
    await store.write(PROJECT, lambda tx: advance(tx, tx.runs.lock(run.thread_id, run.id), "cancelling"))

    with pytest.raises(IllegalMove):
        await desk.journal.end("completed")
    await desk.journal.end("cancelled")

    assert desk.names == ["thread.run.in_progress", "thread.run.cancelling", "thread.run.cancelled"]


async def test_the_text_of_an_unfinished_message_is_stored_now_and_then(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await write_text(desk.journal, "Hel")
    assert (await desk.stored())[2][0].content == []

    desk.journal._flushed_at -= 2
    desk.journal.add_text(TextAdded("lo"))
    desk.journal.publish()
    await asyncio.sleep(0)
    await desk.journal.idle()

    message = (await desk.stored())[2][0]
    assert (message.status, message.content) == ("in_progress", [TextContent(text=Text(value="Hello"))])


async def test_text_whose_storing_outlasts_the_lease_is_not_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await desk_on(store, lease_s=0.5)
    await desk.journal.begin()
    await write_text(desk.journal, "Hel")
    shown = desk.names
    write = store.write

    async def write_and_freeze(*args: Any, **more: Any) -> Any:
        written = await write(*args, **more)
        await asyncio.sleep(0.6)
        return written

    monkeypatch.setattr(store, "write", write_and_freeze)
    desk.journal._flushed_at -= 2
    desk.journal.publish()
    desk.journal.add_text(TextAdded("lo"))
    await asyncio.sleep(0)
    await desk.journal.idle()

    # By now another node may be writing the message anew.
    assert desk.names == shown


async def test_text_that_is_stored_late_does_not_undo_the_end(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await write_text(desk.journal, "Hel")
    desk.journal._flushed_at -= 2
    desk.journal.publish()

    desk.journal.add_text(TextAdded("lo"))
    await desk.journal.end("completed")
    await desk.journal.idle()

    _, _, [message] = await desk.stored()
    assert (message.status, message.content) == ("completed", [TextContent(text=Text(value="Hello"))])
    assert desk.held.settled


async def test_a_milestone_that_began_is_told_though_its_asker_was_stopped(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    asking = asyncio.create_task(desk.journal.end("completed"))
    await asyncio.sleep(0)

    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await desk.journal.idle()

    assert (await desk.stored())[0].status == "completed"
    assert desk.names[-1] == "thread.run.completed"
    assert desk.held.settled


async def test_a_half_written_message_is_written_anew_under_its_id(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_written)

    await desk.journal.begin()
    await write_text(desk.journal, "whole")
    await desk.journal.end("completed")

    _, [step], [message] = await desk.stored()
    assert (message.id, message.content) == ("msg_half", [TextContent(text=Text(value="whole"))])
    assert step.status == "completed"
    assert desk.names == [
        "thread.run.in_progress",
        "thread.run.step.created",
        "thread.run.step.in_progress",
        "thread.message.created",
        "thread.message.in_progress",
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
    ]


async def test_a_half_done_step_of_calls_is_taken_up(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_called)

    await desk.journal.open_calls()
    start_call(desk.journal)
    await desk.journal.require_action(NO_USAGE)

    run, [step], _ = await desk.stored()
    assert (run.status, step.status) == ("requires_action", "in_progress")


async def test_what_a_dead_node_left_and_nobody_takes_up_has_failed(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_written)

    await desk.journal.open_calls()
    start_call(desk.journal)
    await desk.journal.require_action(NO_USAGE)

    _, [left, waiting], [message] = await desk.stored()
    assert (left.status, waiting.status, message.status) == ("failed", "in_progress", "incomplete")
    # Nobody who reads this log has heard of it.
    assert "thread.run.step.failed" not in desk.names


@pytest.mark.parametrize("status", ["failed", "expired"])
async def test_what_a_dead_node_left_ends_with_the_run(store: Store, status: RunStatus) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_written)

    await desk.journal.end(status)

    _, [step], [message] = await desk.stored()
    assert (step.status, message.status) == (status, "incomplete")
    assert message.content == [TextContent(text=Text(value="half"))]
    assert desk.names == [f"thread.run.{status}"]


async def test_a_message_without_a_word_ends_with_an_empty_part(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await desk.journal.open_message()

    await desk.journal.end("failed")

    _, _, [message] = await desk.stored()
    assert message.content == [TextContent(text=Text(value=""))]
    assert desk.names[-4:] == [
        "thread.run.step.failed",
        "thread.message.delta",
        "thread.message.incomplete",
        "thread.run.failed",
    ]


async def test_a_waiting_run_is_due_when_it_expires(store: Store) -> None:
    desk = await desk_on(store, status="in_progress")
    await desk.journal.open_calls()
    start_call(desk.journal)

    await desk.journal.require_action(NO_USAGE)

    claimed = await store.write(None, lambda tx: tx.work.claim("another", [KIND], 1, LEASE_S))
    # Without a time to expire at it is due at once, and nobody holds it.
    assert [lease.item.key for lease in claimed] == [desk.journal.run.id]


@pytest.mark.parametrize("meanwhile", ["queued", "requires_action"])
async def test_a_run_whose_client_answers_while_it_is_put_aside_is_due_at_once(
    store: Store, meanwhile: RunStatus
) -> None:
    desk = await desk_on(store, status="requires_action")
    run = msgspec.structs.replace(desk.journal.run, status=meanwhile, expires_at=int(time.time()) + 600)
    await desk.store.write(PROJECT, lambda tx: tx.runs.replace(run, was="requires_action"))

    await desk.journal.wait()

    due = await store.read(None, lambda tx: tx.work.any_due((KIND,)))
    assert due is (meanwhile == "queued")


async def test_deltas_are_kept_back_while_the_lease_may_have_run_out(store: Store) -> None:
    desk = await desk_on(store, lease_s=0)
    await desk.journal.begin()
    await desk.journal.open_message()
    told = len(desk.names)

    desk.journal.add_text(TextAdded("Hel"))
    desk.journal.publish()
    assert len(desk.names) == told
    await desk.journal.end("completed")

    assert desk.names[told:] == [
        "thread.message.delta",
        "thread.message.completed",
        "thread.run.step.completed",
        "thread.run.completed",
    ]


async def test_a_write_that_fails_when_nobody_waits_for_it_any_more_is_no_news(store: Store) -> None:
    desk = await desk_on(store, status="cancelling")
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, complaint: complaints.append(complaint))

    beginning = asyncio.create_task(desk.journal.begin())
    await asyncio.sleep(0)
    beginning.cancel()
    await asyncio.gather(beginning, return_exceptions=True)
    await desk.journal.idle()
    # A task complains when it goes, and this one's traceback keeps the other.
    del beginning
    gc.collect()

    assert complaints == []


def a_search(call_id: str = "call_s") -> FileSearchToolCall:
    return FileSearchToolCall(id=call_id, file_search=FileSearchCall())


def asked_to_search(run: Run) -> RunStep:
    return a_step(run, type="tool_calls", step_details=ToolCallsDetails(tool_calls=[a_search()]), usage=NO_USAGE)


async def test_calls_that_a_dead_node_had_asked_for_are_taken_up_and_told_anew(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=asked_to_search)
    await desk.journal.begin()

    assert await desk.journal.take_up_calls()
    found = msgspec.structs.replace(a_search(), file_search=FileSearchCall(results=[]))
    desk.journal.answer(0, found)
    await desk.journal.close_calls()

    _, [step], _ = await desk.stored()
    assert (step.status, step.step_details) == ("completed", ToolCallsDetails(tool_calls=[found]))
    begun, _, told, ended = desk.journal.events.since(0)[1:]
    # Clients add the delta to what they are told of the beginning: a call told twice would have its id twice.
    assert isinstance(begun.object, RunStep)
    assert begun.object.step_details == ToolCallsDetails(tool_calls=[])
    assert told.name == "thread.run.step.delta"
    assert ended.object == step


async def test_a_step_whose_calls_were_not_complete_is_not_taken_up(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_called)

    assert not await desk.journal.take_up_calls()


async def test_a_call_that_is_being_carried_out_is_stored_for_whoever_takes_over(store: Store) -> None:
    desk = await desk_on(store, status="in_progress")
    await desk.journal.open_calls()
    start_call(desk.journal)

    await desk.journal.ask(Usage(prompt_tokens=3, completion_tokens=4, total_tokens=7))

    _, [step], _ = await desk.stored()
    assert isinstance(step.step_details, ToolCallsDetails)
    assert [call.id for call in step.step_details.tool_calls] == ["call_f"]
    assert (step.status, step.usage and step.usage.total_tokens) == ("in_progress", 7)


async def test_the_calls_of_a_step_that_is_cut_off_are_stored_as_far_as_they_were_told(store: Store) -> None:
    desk = await desk_on(store, status="in_progress")
    await desk.journal.open_calls()
    desk.journal.start_call(FUNCTION.read(0, "call_f", "f"))
    desk.journal.add_arguments(0, '{"a"')

    await desk.journal.end("failed")

    _, [step], _ = await desk.stored()
    assert isinstance(step.step_details, ToolCallsDetails)
    [call] = step.step_details.tool_calls
    assert isinstance(call, FunctionToolCall)
    assert call.function.arguments == '{"a"'


async def test_what_a_tool_stores_is_refused_once_the_run_is_another_nodes(store: Store) -> None:
    desk = await desk_on(store, status="in_progress")
    await desk.steal()
    wrote: list[str] = []

    with pytest.raises(LeaseLost):
        await desk.journal.write(lambda _tx: wrote.append("a file"))

    assert wrote == []


async def numbers(desk: Desk) -> dict[str, int]:
    """By step, the number under which its end is said to have been told."""
    return await desk.store.read(PROJECT, lambda tx: tx.steps.told(desk.journal.run.id))


async def run_told(desk: Desk) -> int | None:
    run = desk.journal.run
    return await desk.store.read(PROJECT, lambda tx: tx.runs.told(run.thread_id, run.id))


async def work_told(desk: Desk) -> int:
    followed = await desk.store.read(None, lambda tx: tx.work.followed(KIND, desk.journal.run.id))
    assert followed is not None
    return followed.told


def number_of(desk: Desk, name: str) -> int:
    return desk.journal.events.base + desk.names.index(name) + 1


async def test_ends_are_stored_with_the_numbers_under_which_they_are_told(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await write_text(desk.journal, "Hel", "lo")

    await desk.journal.end("completed")

    _, [step], _ = await desk.stored()
    assert await numbers(desk) == {step.id: number_of(desk, "thread.run.step.completed")}
    assert await run_told(desk) == desk.journal.events.last == number_of(desk, "thread.run.completed")


async def test_of_a_failure_the_message_is_told_after_its_step(store: Store) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await write_text(desk.journal, "Hel")

    await desk.journal.end("failed", last_error=SOMETHING)

    _, [step], _ = await desk.stored()
    assert await numbers(desk) == {step.id: number_of(desk, "thread.run.step.failed")}
    assert await run_told(desk) == number_of(desk, "thread.run.failed") == number_of(desk, "thread.run.step.failed") + 2


async def test_an_end_that_nobody_is_told_has_no_number(store: Store) -> None:
    desk = await desk_on(store, status="in_progress", left=_half_called)

    await desk.journal.end("failed", last_error=SOMETHING)

    assert desk.names == ["thread.run.failed"]
    assert await numbers(desk) == {}
    assert await run_told(desk) == 1


@pytest.mark.parametrize("lets_go", ["require_action", "hand_over"])
async def test_whoever_goes_on_with_a_run_knows_how_far_it_was_told(store: Store, lets_go: str) -> None:
    desk = await desk_on(store)
    await desk.journal.begin()
    await desk.journal.open_calls()
    start_call(desk.journal)

    await (desk.journal.require_action(None) if lets_go == "require_action" else desk.journal.hand_over())

    assert await work_told(desk) == desk.journal.events.last > 3
