"""The event log of a run: appended by its one writer, followed by any number of readers.

A log, not a queue: a reader is a position in it, so one reader takes nothing from another, a slow one holds nothing
up, and one that comes late reads from the start.
"""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from threadkeep.contract.errors import NotFound
from threadkeep.contract.events import MESSAGE_EVENTS, RUN_EVENTS, STEP_EVENTS, Event
from threadkeep.contract.messages import (
    ContentDelta,
    ImageFileContent,
    ImageFileContentDelta,
    ImageUrlContent,
    ImageUrlContentDelta,
    Message,
    MessageDelta,
    MessageDeltaContent,
    RefusalContent,
    RefusalContentDelta,
    TextContent,
    TextContentDelta,
    TextDelta,
)
from threadkeep.contract.run_status import TERMINAL
from threadkeep.contract.run_steps import (
    MessageCreationDetails,
    RunStep,
    RunStepDelta,
    RunStepDeltaDetails,
    ToolCallsDelta,
    ToolCallsDetails,
    whole,
)
from threadkeep.contract.runs import Run
from threadkeep.runs.annotations import told
from threadkeep.storage.store import Transaction


class EventLog:
    """Events with numbers that follow one another, from behind ``base`` on. Used from one event loop only."""

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self._events: list[Event] = []
        self._waiting: list[asyncio.Future[None]] = []
        self.closed = False
        # Why the log ends without the run having ended; None after a proper end. Readers are told.
        self.failure: str | None = None

    @property
    def last(self) -> int:
        """The number of the last event, or ``base`` where there is none."""
        return self.base + len(self._events)

    def append(self, events: Sequence[Event]) -> None:
        """Adds events and wakes every reader. Whatever the events tell must already be stored."""
        if events:
            self._events.extend(events)
            self._wake()

    def close(self, failure: str | None = None) -> None:
        """Nothing will be added any more: the run has ended, waits for its client, or left this node."""
        self.closed = True
        self.failure = failure
        self._wake()

    def since(self, position: int) -> list[Event]:
        """The events after number ``position``, which is not below ``base``."""
        return self._events[position - self.base :]

    async def wait(self, position: int) -> None:
        """Returns when there are events after number ``position``, or none will come."""
        if self.last > position or self.closed:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def events_of(tx: Transaction, begun: Run, last_step: str | None) -> list[Event] | None:
    """What a reader missed of a run that another node executed, rebuilt from the stored objects.

    None while the run is still going on. ``begun`` is the run as the reader knows it, ``last_step`` the last step that
    is no news. The same order as a live stream, with each text as one delta; what is told of a beginning is told as it
    was then: clients add the deltas to it.
    """
    run = tx.runs.get(begun.thread_id, begun.id)
    if run.status not in TERMINAL and run.status != "requires_action":
        return None
    events: list[Event] = []
    if run.started_at is not None:
        events.append(Event(RUN_EVENTS["in_progress"], replace(begun, status="in_progress", started_at=run.started_at)))
    for step in tx.steps.all(run.id):
        if last_step is None or step.id > last_step:
            events += _step_events(tx, step)
    if run.status == "cancelled":
        ended = [number for number, event in enumerate(events) if event.name == STEP_EVENTS["cancelled"]]
        cancelling = replace(begun, status="cancelling", started_at=run.started_at)
        events.insert(ended[0] if ended else len(events), Event(RUN_EVENTS["cancelling"], cancelling))
    return [*events, Event(RUN_EVENTS[run.status], run)]


def _step_events(tx: Transaction, step: RunStep) -> list[Event]:
    details = step.step_details
    begun = replace(
        step,
        status="in_progress",
        cancelled_at=None,
        completed_at=None,
        expired_at=None,
        failed_at=None,
        last_error=None,
        usage=None,
        step_details=details if isinstance(details, MessageCreationDetails) else ToolCallsDetails(tool_calls=[]),
    )
    started = [Event("thread.run.step.created", begun), Event("thread.run.step.in_progress", begun)]
    ended = [Event(STEP_EVENTS[step.status], step)] if step.status != "in_progress" else []
    if isinstance(details, MessageCreationDetails):
        try:
            message = tx.messages.get(step.thread_id, details.message_creation.message_id)
        except NotFound:
            # Its client has deleted it.
            return [*started, *ended]
        *written, closed = _message_events(message)
        return [*started, *written, *([closed, *ended] if step.status == "completed" else [*ended, closed])]
    calls = [whole(index, call) for index, call in enumerate(details.tool_calls)]
    told = RunStepDelta(id=step.id, delta=RunStepDeltaDetails(step_details=ToolCallsDelta(tool_calls=calls)))
    return [*started, *([Event("thread.run.step.delta", told)] if calls else []), *ended]


def _message_events(message: Message) -> list[Event]:
    deltas: list[ContentDelta] = []
    for index, part in enumerate(message.content):
        match part:
            case TextContent(text=text):
                annotations = [told(number, annotation) for number, annotation in enumerate(text.annotations)]
                deltas.append(TextContentDelta(index=index, text=TextDelta(value=text.value, annotations=annotations)))
            case RefusalContent(refusal=refusal):
                deltas.append(RefusalContentDelta(index=index, refusal=refusal))
            case ImageFileContent(image_file=image):
                deltas.append(ImageFileContentDelta(index=index, image_file=image))
            case ImageUrlContent(image_url=image):
                deltas.append(ImageUrlContentDelta(index=index, image_url=image))
    begun = replace(
        message,
        status="in_progress",
        content=[],
        completed_at=None,
        incomplete_at=None,
        incomplete_details=None,
    )
    return [
        Event("thread.message.created", begun),
        Event("thread.message.in_progress", begun),
        *(
            Event("thread.message.delta", MessageDelta(id=message.id, delta=MessageDeltaContent(content=[delta])))
            for delta in deltas
        ),
        Event(MESSAGE_EVENTS[message.status], message),
    ]
