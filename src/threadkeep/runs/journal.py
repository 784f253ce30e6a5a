"""The one writer of a run while it executes: milestones to the store, fenced by the lease; events to the log.

Every milestone is a transaction that begins with the fence, and its events are appended to the log only once it is
committed: the stream never says what the store does not hold. Deltas go to the log alone; the text they add up to is
stored when the message closes, and about once a second before that.
"""

import asyncio
import time
from collections.abc import Callable, Sequence, Set
from typing import Final, TypeVar

import msgspec

from threadkeep.contract.errors import LeaseLost, NotFound, Unavailable
from threadkeep.contract.events import MESSAGE_EVENTS, RUN_EVENTS, STEP_EVENTS, Event
from threadkeep.contract.ids import created_at, id_after, id_between
from threadkeep.contract.messages import (
    ContentDelta,
    IncompleteReason,
    Message,
    MessageDelta,
    MessageDeltaContent,
    MessageIncompleteDetails,
)
from threadkeep.contract.run_status import TERMINAL, RunStatus
from threadkeep.contract.run_steps import (
    FunctionToolCall,
    MessageCreation,
    MessageCreationDetails,
    RunStep,
    RunStepDelta,
    RunStepDeltaDetails,
    StepDetails,
    StepStatus,
    ToolCall,
    ToolCallDelta,
    ToolCallsDelta,
    ToolCallsDetails,
    grown,
    whole,
)
from threadkeep.contract.runs import (
    FunctionCall,
    LastError,
    RequiredAction,
    Run,
    RunIncompleteDetails,
    RunToolCall,
    SubmitToolOutputsAction,
    Usage,
)
from threadkeep.logs import Log
from threadkeep.runs.annotations import Annotator
from threadkeep.runs.follow import EventLog
from threadkeep.runs.line import created_before
from threadkeep.runs.moves import NO_USAGE, advance
from threadkeep.runs.patience import Patience
from threadkeep.runs.reply import Draft, RefusalAdded, TextAdded
from threadkeep.storage.engine import InDoubt
from threadkeep.storage.store import Store, Transaction
from threadkeep.tools.toolbox import Reading
from threadkeep.worker import Held

log = Log(__name__)

# How often the text of an unfinished message is stored. A reader elsewhere sees the message grow this often.
FLUSH_S: Final = 1.0

# How a step ends that was left open by a node that died and that its successor had no use for.
LEFT_BEHIND: Final = LastError(code="server_error", message="The server stopped in the midst of this step.")

T = TypeVar("T")


class Telling:
    """The events of one milestone, in order, each with the number it has once the milestone is committed."""

    def __init__(self, last: int, begun: Set[str]) -> None:
        self.events: list[Event] = []
        # The number of the last event, these included.
        self.last = last
        self.begun = {*begun}

    def add(self, event: Event) -> int | None:
        """Tells it, unless it goes on with what readers of this log were never told the beginning of: then it has no
        number."""
        if event.name in ("thread.run.step.created", "thread.message.created"):
            self.begun.add(event.object.id)
        elif not isinstance(event.object, Run) and event.object.id not in self.begun:
            return None
        self.events.append(event)
        self.last += 1
        return self.last


Change = Callable[[Transaction, Telling], None]

# How open steps and messages end when the run ends so.
_STEP_ENDS: Final[dict[RunStatus, StepStatus]] = {
    "cancelled": "cancelled",
    "failed": "failed",
    "expired": "expired",
    "completed": "completed",
    "incomplete": "completed",
}
_MESSAGE_ENDS: Final[dict[RunStatus, IncompleteReason]] = {
    "cancelled": "run_cancelled",
    "failed": "run_failed",
    "expired": "run_expired",
    "incomplete": "max_tokens",
}
_STEP_STAMPS: Final[dict[StepStatus, str]] = {
    "cancelled": "cancelled_at",
    "failed": "failed_at",
    "expired": "expired_at",
    "completed": "completed_at",
}


class Journal:
    """Writes one run under one lease. Used by one task; what it says is final once awaited.

    While the database is away whatever it writes waits, until ``patience`` is over.
    """

    def __init__(
        self,
        store: Store,
        held: Held,
        lease_s: float,
        run: Run,
        steps: list[RunStep],
        events: EventLog,
        patience: Patience | None = None,
        *,
        is_waiting: bool = False,
    ) -> None:
        self.run = run
        # It stood behind another run of its thread when it was read.
        self.is_waiting = is_waiting
        # Oldest first, as stored.
        self.steps = steps
        self.events = events
        self.patience = patience or Patience(run.expires_at)
        self._store = store
        self._held = held
        self._lease_s = lease_s
        self._writing = asyncio.Lock()
        # Deltas not yet shown to readers: a burst from the model is one wake-up.
        self._unpublished: list[Event] = []
        self._message: Message | None = None
        self._draft: Draft | None = None
        self._calls_step: RunStep | None = None
        # The calls of the open step: while the model writes them, and once they are complete.
        self._readings: list[Reading] = []
        self._calls: list[ToolCall] = []
        # What was told of calls that are being carried out, by their index.
        self._told_of: dict[int, list[ToolCallDelta]] = {}
        # What readers of this log were told the beginning of. Only of that they are told the end: a step left open by a
        # node that died is settled in the store alone.
        self._told: set[str] = set()
        self._writes: set[asyncio.Task[None]] = set()
        self._flushing: asyncio.Task[None] | None = None
        self._flushed_at = 0.0

    @property
    def writes_message(self) -> bool:
        """Whether a message is open."""
        return self._draft is not None

    @property
    def writes_calls(self) -> bool:
        """Whether a tool step is open."""
        return self._calls_step is not None

    @property
    def calls(self) -> list[ToolCall]:
        """The complete calls of the open tool step."""
        return self._calls

    @property
    def project(self) -> str:
        return self._held.lease.item.project

    # Deltas.

    def add_text(self, added: TextAdded | RefusalAdded) -> None:
        """More of the open message."""
        assert self._draft is not None
        self._add_message_deltas(self._draft.add(added))

    def start_call(self, reading: Reading) -> None:
        """A further call in the open tool step."""
        self._readings.append(reading)
        self._add_call_delta(reading.begin())

    def add_arguments(self, index: int, arguments: str) -> None:
        """More arguments of a call in the open tool step."""
        if (delta := self._readings[index].feed(arguments)) is not None:
            self._add_call_delta(delta)

    def finish_calls(self) -> None:
        """The calls of the open tool step are complete."""
        for reading in self._readings:
            if (delta := reading.finish()) is not None:
                self._add_call_delta(delta)
        self._calls, self._readings = [reading.call for reading in self._readings], []

    def tell(self, delta: ToolCallDelta) -> None:
        """What comes of a call of the open tool step, as it comes."""
        self._told_of.setdefault(delta.index, []).append(delta)
        self._add_call_delta(delta)
        self.publish()

    def publish(self) -> None:
        """Shows readers the deltas, and stores the open message's text when it was last stored a while ago.

        While another node may have taken the run over they are kept back: what its readers are told may differ.
        """
        if self._unpublished and self._held.is_live:
            self.events.append(self._unpublished)
            self._unpublished = []
        now = time.monotonic()
        if self._draft is not None and now - self._flushed_at >= FLUSH_S and self._flushing is None:
            self._flushed_at = now
            self._flushing = asyncio.create_task(self._flush())

    def _add_message_deltas(self, deltas: Sequence[ContentDelta]) -> None:
        assert self._message is not None
        for delta in deltas:
            content = MessageDelta(id=self._message.id, delta=MessageDeltaContent(content=[delta]))
            self._unpublished.append(Event("thread.message.delta", content))

    def _add_call_delta(self, delta: ToolCallDelta) -> None:
        assert self._calls_step is not None
        details = RunStepDeltaDetails(step_details=ToolCallsDelta(tool_calls=[delta]))
        self._unpublished.append(Event("thread.run.step.delta", RunStepDelta(id=self._calls_step.id, delta=details)))

    # Milestones.

    async def begin(self) -> None:
        """The run is in progress. A run taken over from another node is so already, and stays."""
        if self.run.status == "in_progress":
            # A reader of this log has not seen the node that began it.
            self.events.append([Event(RUN_EVENTS["in_progress"], self.run)])
        else:
            await self._commit(lambda tx, telling: _move(tx, telling, self.run, "in_progress"))

    async def open_message(self, pictures: Sequence[str] = (), annotator: Annotator | None = None) -> None:
        """A message and its step. One left half-written by a node that died is written anew under its id.

        It begins with the ``pictures``, by file id; ``annotator`` finds what its text points to.
        """
        self._message = await self._open(_new_message)
        self._draft = Draft(annotator)
        self._flushed_at = time.monotonic()
        for file_id in pictures:
            self._add_message_deltas(self._draft.show(file_id))

    async def close_message(self) -> None:
        """The open message is complete, and the run goes on."""
        message, draft = self._message, self._draft
        assert message is not None
        assert draft is not None
        self._add_message_deltas(draft.end())
        self._draft = self._message = None

        def close(tx: Transaction, telling: Telling) -> None:
            steps = [step for step in _open_steps(tx, self.run) if _creates(step, message.id)]
            _end_message(tx, telling, message, draft, "completed")
            _end_steps(tx, telling, "completed", NO_USAGE, steps)

        await self._commit(close)

    async def open_calls(self) -> None:
        """A step for the calls of this reply."""
        self._calls_step = await self._open(_new_calls)

    async def take_up_calls(self) -> bool:
        """Calls of tools that run here, complete when the node died that had begun to carry them out: they are opened
        again. False: there are none.
        """
        left = [step for step in self.steps if step.status == "in_progress" and _asked(step)]
        if not left:
            return False

        [step] = left
        # Clients add the deltas to what they are told of the beginning.
        begun = msgspec.structs.replace(step, step_details=ToolCallsDetails(tool_calls=[]), usage=None)
        calls = [whole(index, call) for index, call in enumerate(_asked(step))]
        told = RunStepDelta(id=step.id, delta=RunStepDeltaDetails(step_details=ToolCallsDelta(tool_calls=calls)))

        def tell(_tx: Transaction, telling: Telling) -> None:
            telling.add(Event("thread.run.step.created", begun))
            telling.add(Event("thread.run.step.in_progress", begun))
            telling.add(Event("thread.run.step.delta", told))

        await self._commit(tell)
        self._calls_step, self._calls = step, _asked(step)
        return True

    async def ask(self, usage: Usage) -> None:
        """The calls are stored before they have come to an end: whoever takes the run over carries them out itself,
        all of them, without asking the model again.
        """
        # At once: a call that fails ends the run before this is committed, and the usage is to be booked all the same.
        step = self._calls_step = self._open_calls_step(usage)

        def store_calls(tx: Transaction, _telling: Telling) -> None:
            tx.steps.replace(step)

        await self._commit(store_calls)

    def answer(self, index: int, call: ToolCall) -> None:
        """A call was carried out."""
        self._calls[index] = call
        self._told_of.pop(index, None)

    async def close_calls(self) -> None:
        """Every call of the open tool step was carried out, and the run goes on."""
        step = self._open_calls_step(None)
        self._calls_step, self._calls = None, []
        await self._commit(lambda tx, telling: _end_steps(tx, telling, "completed", NO_USAGE, [step]))

    async def require_action(self, usage: Usage | None) -> None:
        """The client must answer the calls that do not run here. The run waits as rows only: no lease, no task, no
        memory. ``usage``: of the model call, where it is not stored yet.
        """
        step, calls = self._open_calls_step(usage), self._calls
        if self.writes_message:
            await self.close_message()

        def wait(tx: Transaction, telling: Telling) -> None:
            self._end_left(tx)
            # The usage stays with the step, whose `usage` clients see once it is completed.
            tx.steps.replace(step)
            required = SubmitToolOutputsAction(
                tool_calls=[
                    RunToolCall(
                        id=call.id, function=FunctionCall(name=call.function.name, arguments=call.function.arguments)
                    )
                    for call in calls
                    if isinstance(call, FunctionToolCall)
                ]
            )
            run = tx.runs.lock(self.run.thread_id, self.run.id)
            moved = advance(tx, run, "requires_action", required_action=RequiredAction(submit_tool_outputs=required))
            telling.add(Event(RUN_EVENTS["requires_action"], moved))
            self._release(tx, due_at_s=run.expires_at, told=telling.last)

        await self._commit(wait, settles=True)

    async def end(
        self,
        to: RunStatus,
        *,
        usage: Usage = NO_USAGE,
        last_error: LastError | None = None,
        incomplete_details: RunIncompleteDetails | None = None,
        message_reason: IncompleteReason | None = None,
    ) -> None:
        """The run is over: closes what is open, moves the run, and finishes the work, in one transaction."""
        draft, message = self._draft, self._message
        if draft is not None:
            self._add_message_deltas(draft.end())
        reason = message_reason or _MESSAGE_ENDS.get(to)

        def finish(tx: Transaction, telling: Telling) -> None:
            run = tx.runs.lock(self.run.thread_id, self.run.id)
            if run.status == "cancelling" and to == "cancelled":
                telling.add(Event(RUN_EVENTS["cancelling"], run))
            if self._calls_step is not None:
                tx.steps.replace(self._open_calls_step(None))
            if to in ("completed", "incomplete"):
                self._end_left(tx)
            open_message = message or _half_written(tx, self.run)
            # A message and its step end in the order in which they fail or succeed.
            is_step_first = to in ("failed", "cancelled", "expired")
            if open_message is not None and not is_step_first:
                _end_message(tx, telling, open_message, draft, reason or "completed")
            _end_steps(tx, telling, _STEP_ENDS[to], usage, _open_steps(tx, run), last_error=last_error)
            if open_message is not None and is_step_first:
                _end_message(tx, telling, open_message, draft, reason or "completed")
            moved = advance(
                tx, run, to, last_error=last_error, incomplete_details=incomplete_details, told=telling.last + 1
            )
            item = self._held.lease.item
            tx.work.finish(item.kind, item.key, self._held.lease.token)
            telling.add(Event(RUN_EVENTS[to], moved))

        await self._commit(finish, settles=True)

    async def hand_over(self) -> None:
        """Gives the run to whichever node claims it next; it goes on there from what is stored."""
        await self._commit(lambda tx, telling: self._release(tx, due_at_s=None, told=telling.last), settles=True)

    async def wait(self) -> None:
        """Nothing to do before the run expires, its client answers, or the run before it is over."""

        def wait(tx: Transaction, _: Telling) -> None:
            # Held: what it waits for may happen at this moment, and then it is due.
            run = tx.runs.lock(self.run.thread_id, self.run.id)
            waits = run.status == "requires_action" or tx.runs.is_waiting(run.thread_id, run.id)
            self._release(tx, due_at_s=run.expires_at if waits else None)

        await self._commit(wait, settles=True)

    async def reread(self) -> None:
        """Takes up what others wrote to the run: a cancel."""
        run = self.run
        self.run = await self.read(lambda tx: tx.runs.get(run.thread_id, run.id))

    async def read(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` finds in the run's project."""
        return await self.patience(lambda _: self._store.read(self.project, fn))

    async def idle(self) -> None:
        """Returns when no milestone is on its way. One whose asker was cancelled may still have settled the run."""
        while self._writes:
            await asyncio.wait(self._writes)

    # How they are written.

    async def _commit(self, change: Change, *, settles: bool = False) -> None:
        # Shielded: a milestone that began is committed and told, even if whoever asked for it is cancelled meanwhile;
        # and the next one waits for it.
        write = asyncio.create_task(self._write(change, settles=settles))
        self._writes.add(write)
        write.add_done_callback(self._written)
        await asyncio.shield(write)

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            # Whoever asked for it is told; one who was cancelled meanwhile is not, and asyncio would complain of that.
            write.exception()

    async def _write(self, change: Change, *, settles: bool) -> None:
        item, token = self._held.lease.item, self._held.lease.token

        def fenced(tx: Transaction) -> Telling:
            tx.work.fence(item.kind, item.key, token, lease_s=self._lease_s)
            # Whoever has events to tell awaits their commit, and adds no deltas meanwhile: the numbers stay.
            telling = Telling(self.events.last + len(self._unpublished), self._told)
            change(tx, telling)
            return telling

        async with self._writing:
            if self._held.settled:
                raise LeaseLost(item.kind, item.key)
            # Ahead of the commit: a renewal that runs between the commit and its answer finds no such lease.
            self._held.settled = settles
            try:
                telling = await self._stored(fenced)
            except BaseException:
                self._held.settled = False
                raise
            self._told = telling.begun
            for event in telling.events:
                self._heed(event)
            # What is told now is stored, and so are the words before it. Words alone are not: they are kept back where
            # the answer came when the lease was over.
            if telling.events or self._held.is_live:
                self.events.append([*self._unpublished, *telling.events])
                self._unpublished = []

    async def write(self, change: Callable[[Transaction], T]) -> T:
        """Stores what is not the run's own but comes of it, while the run is still this node's."""
        item, token = self._held.lease.item, self._held.lease.token

        def fenced(tx: Transaction) -> T:
            tx.work.fence(item.kind, item.key, token, lease_s=self._lease_s)
            return change(tx)

        return await self._stored(fenced)

    async def _stored(self, fenced: Callable[[Transaction], T]) -> T:
        """What ``fenced`` returns once it is committed; the lease is extended then."""
        asked_at = 0.0

        async def attempt(away: Unavailable | None) -> T:
            nonlocal asked_at
            # What is in doubt may have been written, and have renewed the lease, when it was first asked for.
            if not isinstance(away, InDoubt):
                asked_at = time.monotonic()
            return await self._store.write(self.project, fenced, after=away)

        written = await self.patience(attempt)
        self._held.extend(asked_at + self._lease_s)
        return written

    def _heed(self, event: Event) -> None:
        if isinstance(event.object, Run):
            self.run = event.object
        elif isinstance(event.object, RunStep) and event.name == STEP_EVENTS["completed"]:
            self.steps = [*(step for step in self.steps if step.id != event.object.id), event.object]

    def _end_left(self, tx: Transaction) -> None:
        """Ends what a node that died had begun and what came in its place did not take up."""
        untold = Telling(0, frozenset())
        for step in tx.steps.all(self.run.id):
            if step.status != "in_progress" or step.id in self._told:
                continue
            if (message := _message_of(tx, step)) is not None:
                _end_message(tx, untold, message, None, "run_failed")
            _end_steps(tx, untold, "failed", NO_USAGE, [step], last_error=LEFT_BEHIND)

    async def _open(self, make: Callable[[Transaction, Run], tuple[T, list[Event]]]) -> T:
        made: list[T] = []

        def write(tx: Transaction, telling: Telling) -> None:
            opened, events = make(tx, self.run)
            made.append(opened)
            for event in events:
                telling.add(event)

        await self._commit(write)
        # A transaction that was run again made another one; the last is the one that was committed.
        return made[-1]

    async def _flush(self) -> None:
        draft, message = self._draft, self._message
        if draft is None or message is None:
            return

        def store_text(tx: Transaction, _telling: Telling) -> None:
            current = _still_there(tx, message.thread_id, message.id)
            # A flush that was overtaken by the message's end must not undo it.
            if current is not None and current.status == "in_progress":
                tx.messages.replace(msgspec.structs.replace(current, content=draft.content()))

        try:
            await self._commit(store_text)
        except Exception as error:
            # The next milestone meets the same trouble, and deals with it.
            log.debug("flush_failed", error=error, run_id=self.run.id)
        finally:
            self._flushing = None

    def _release(self, tx: Transaction, *, due_at_s: int | None, told: int | None = None) -> None:
        lease = self._held.lease
        due_at_ms = None if due_at_s is None else due_at_s * 1000
        tx.work.release(lease.item.kind, lease.item.key, lease.token, due_at_ms=due_at_ms, told=told)

    def _open_calls_step(self, usage: Usage | None) -> RunStep:
        """The open tool step with its calls as they are by now."""
        assert self._calls_step is not None
        calls = [
            grown(call, self._told_of[index]) if index in self._told_of else call
            for index, call in enumerate(self._calls)
        ]
        details = ToolCallsDetails(tool_calls=calls or [reading.call for reading in self._readings])
        return msgspec.structs.replace(self._calls_step, step_details=details, usage=usage or self._calls_step.usage)


def _move(tx: Transaction, telling: Telling, run: Run, to: RunStatus) -> None:
    telling.add(Event(RUN_EVENTS[to], advance(tx, tx.runs.lock(run.thread_id, run.id), to)))


def _new_message(tx: Transaction, run: Run) -> tuple[Message, list[Event]]:
    message = _half_written(tx, run)
    if message is not None:
        message = msgspec.structs.replace(message, content=[])
        tx.messages.replace(message)
        step = next(step for step in tx.steps.all(run.id) if _creates(step, message.id))
    else:
        last, end = tx.messages.place_for(run.thread_id, run.id)
        message = Message(
            id=id_after("msg", last) if end is None else id_between("msg", last, end),
            created_at=created_before(end, created_at()),
            thread_id=run.thread_id,
            status="in_progress",
            incomplete_details=None,
            completed_at=None,
            incomplete_at=None,
            role="assistant",
            content=[],
            assistant_id=run.assistant_id,
            run_id=run.id,
            attachments=[],
            metadata={},
        )
        tx.messages.insert(message)
        step = _insert_step(tx, run, MessageCreationDetails(message_creation=MessageCreation(message_id=message.id)))
    return message, [
        Event("thread.run.step.created", step),
        Event("thread.run.step.in_progress", step),
        Event("thread.message.created", message),
        Event("thread.message.in_progress", message),
    ]


def _new_calls(tx: Transaction, run: Run) -> tuple[RunStep, list[Event]]:
    half_done = [step for step in _open_steps(tx, run) if isinstance(step.step_details, ToolCallsDetails)]
    step = half_done[0] if half_done else _insert_step(tx, run, ToolCallsDetails(tool_calls=[]))
    return step, [Event("thread.run.step.created", step), Event("thread.run.step.in_progress", step)]


def _asked(step: RunStep) -> list[ToolCall]:
    """The calls of an open step that are complete."""
    details = step.step_details
    return list(details.tool_calls) if isinstance(details, ToolCallsDetails) else []


def _insert_step(tx: Transaction, run: Run, details: StepDetails) -> RunStep:
    step = RunStep(
        id=id_after("step", tx.steps.last_id(run.id)),
        created_at=created_at(),
        run_id=run.id,
        assistant_id=run.assistant_id,
        thread_id=run.thread_id,
        type="message_creation" if isinstance(details, MessageCreationDetails) else "tool_calls",
        status="in_progress",
        cancelled_at=None,
        completed_at=None,
        expires_at=run.expires_at,
        expired_at=None,
        failed_at=None,
        last_error=None,
        step_details=details,
        metadata={},
        usage=None,
    )
    tx.steps.insert(step)
    return step


def _creates(step: RunStep, message_id: str) -> bool:
    details = step.step_details
    return isinstance(details, MessageCreationDetails) and details.message_creation.message_id == message_id


def _half_written(tx: Transaction, run: Run) -> Message | None:
    """The run's message that nobody has closed."""
    return next(filter(None, (_message_of(tx, step) for step in _open_steps(tx, run))), None)


def _open_steps(tx: Transaction, run: Run) -> list[RunStep]:
    return [step for step in tx.steps.all(run.id) if step.status == "in_progress"]


def _message_of(tx: Transaction, step: RunStep) -> Message | None:
    """The message that the step writes, unless its client has deleted it."""
    details = step.step_details
    if not isinstance(details, MessageCreationDetails):
        return None
    return _still_there(tx, step.thread_id, details.message_creation.message_id)


def _still_there(tx: Transaction, thread_id: str, message_id: str) -> Message | None:
    # Locked: a client may change its metadata at this moment.
    try:
        return tx.messages.lock(thread_id, message_id)
    except NotFound:
        return None


def _end_message(
    tx: Transaction, telling: Telling, message: Message, draft: Draft | None, how: IncompleteReason | str
) -> None:
    # Read again: a client may have changed the metadata meanwhile, or deleted it.
    current = _still_there(tx, message.thread_id, message.id)
    if current is None and draft is None:
        return
    # Readers to whom a message was begun are told its end even if it was deleted under it: they take no other before.
    message = current or message
    content = message.content if draft is None else draft.content()
    if not content:
        # Stopped between its beginning and its first word. Clients count on a part, and on a delta that opens it.
        draft = Draft()
        for delta in draft.add(TextAdded("")):
            opening = MessageDelta(id=message.id, delta=MessageDeltaContent(content=[delta]))
            telling.add(Event("thread.message.delta", opening))
        content = draft.content()
    now = created_at()
    if how == "completed":
        ended = msgspec.structs.replace(message, status="completed", completed_at=now, content=content)
    else:
        details = msgspec.convert({"reason": how}, MessageIncompleteDetails)
        ended = msgspec.structs.replace(
            message, status="incomplete", incomplete_at=now, incomplete_details=details, content=content
        )
    if current is not None:
        tx.messages.replace(ended)
    telling.add(Event(MESSAGE_EVENTS[ended.status], ended))


def _end_steps(
    tx: Transaction,
    telling: Telling,
    status: StepStatus,
    usage: Usage,
    open_steps: list[RunStep],
    *,
    last_error: LastError | None = None,
) -> None:
    """Ends the steps; the last of them is booked with ``usage``."""
    if last_error is not None and last_error.code == "invalid_prompt":
        # A step has no such code in the contract.
        last_error = LastError(code="server_error", message=last_error.message)
    for step in open_steps:
        ended = msgspec.structs.replace(
            step,
            status=status,
            usage=step.usage or (usage if step is open_steps[-1] else NO_USAGE),
            last_error=last_error,
            **{_STEP_STAMPS[status]: created_at()},
        )
        tx.steps.end(ended, told=telling.add(Event(STEP_EVENTS[status], ended)))


assert set(_STEP_ENDS) == TERMINAL
