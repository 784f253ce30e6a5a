"""A run told again from the stored objects, for a reader whose log is gone.

What a log says word by word is one delta here. Numbers keep what they promise: whoever comes back with one misses
nothing. So only what has a number of its own, the end of a step or of the run, is told under it; what leads up to it
is told under the number before, for a log that is still somewhere has other events between the two.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

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
from threadkeep.runs.follow import KIND
from threadkeep.runs.journal import LEFT_BEHIND
from threadkeep.storage.store import Transaction

# Under what a run begins: created, queued, in progress.
_BEGUN: Final = 3


class Told(NamedTuple):
    """An event, and the number that it is sent with."""

    number: int
    event: Event


class Retold(NamedTuple):
    """What a reader missed."""

    events: list[Told]
    # How far the reader is then.
    last: int
    # Whether the run had ended, or waits for its client: then that was all.
    is_all: bool


def retell(tx: Transaction, thread_id: str, run_id: str, after: int, upto: int | None = None) -> Retold:
    """What was told of the run behind number ``after``, as far as it is over: steps that have ended, and the run if it
    has ended or waits for its client. ``upto``: only what was told until then, because what follows is elsewhere.
    """
    run = tx.runs.get(thread_id, run_id)
    # In this order: a step may end between the two, and has ended in any case if its end has a number.
    ends = tx.steps.told(run_id)
    steps = tx.steps.all(run_id)
    last = last_told(tx, run) if upto is None else upto
    is_all = upto is None and is_settled(run)
    telling = _Retelling(tx, after)
    # What is told of the beginning is told as it was then: clients add to it what follows.
    begun = _begun(run, steps)
    first = max(0, upto - _BEGUN + 1) if upto is not None and upto <= _BEGUN else 0
    telling.exactly(first + 1, Event("thread.run.created", begun))
    telling.exactly(first + 2, Event("thread.run.queued", begun))
    if run.started_at is not None and first + 3 <= (last or _BEGUN):
        running = replace(begun, status="in_progress", started_at=run.started_at)
        telling.exactly(first + 3, Event(RUN_EVENTS["in_progress"], running))
    if last is None and is_all:
        return telling.uncounted(run, steps)
    for step in steps:
        end = ends.get(step.id)
        if end is not None and (upto is None or end <= upto):
            telling.step(step, end)
        elif end is not None and upto is not None and end == upto + 1:
            # What follows begins with its end: the client's outputs of its calls.
            telling.until(upto, _step_begun(tx, step))
        elif end is None and step.status == "in_progress" and is_all and last is not None:
            # The one whose calls the client is to answer.
            telling.until(last, _step_begun(tx, step))
        elif end is None and step.status != "in_progress" and step.last_error != LEFT_BEHIND and is_all:
            telling.untold(step)
    if is_all and last is not None:
        if run.status == "cancelled":
            telling.ahead(last, Event(RUN_EVENTS["cancelling"], replace(begun, status="cancelling")))
        telling.exactly(last, Event(RUN_EVENTS[run.status], run))
    return Retold(telling.events, last=max(after, telling.before if last is None else last), is_all=is_all)


def is_settled(run: Run) -> bool:
    """Whether nothing more is told of the run, unless its client answers."""
    return run.status in TERMINAL or run.status == "requires_action"


def last_told(tx: Transaction, run: Run) -> int | None:
    """The number of the last event of a run that is settled; None where it is not, or where nobody counted."""
    if run.status in TERMINAL:
        return tx.runs.told(run.thread_id, run.id)
    followed = tx.work.followed(KIND, run.id) if run.status == "requires_action" else None
    return None if followed is None else followed.told


class _Retelling:
    def __init__(self, tx: Transaction, after: int) -> None:
        self.events: list[Told] = []
        # Under which number what has none of its own is told.
        self.before = 0
        self._tx = tx
        self._after = after

    def exactly(self, number: int, event: Event) -> None:
        """An event whose number is known."""
        if number > self._after:
            self.events.append(Told(number, event))
        self.before = max(self.before, number)

    def until(self, number: int, events: Sequence[Event]) -> None:
        """Events that were told before ``number``, or under it."""
        if number > self._after:
            # Not below what the reader has: he knows it, and would be told it once more if he came back with less.
            before = max(self.before, self._after)
            self.events += [Told(before, event) for event in events]

    def ahead(self, number: int, event: Event) -> None:
        """As ``until``, ahead of the end of the step that was told last, if that was cancelled with the run; without
        one it was told right before ``number``.
        """
        at = next((at for at, told in enumerate(self.events) if told.event.name == STEP_EVENTS["cancelled"]), None)
        if at is not None:
            before = self.events[at - 1].number if at else max(self.before, self._after)
            self.events.insert(at, Told(min(before, self.events[at].number), event))
        elif number - 1 > self.before:
            self.exactly(number - 1, event)
        else:
            self.until(number, [event])

    def step(self, step: RunStep, end: int) -> None:
        """A step whose end was told under ``end``."""
        begun, ended = _step_begun(self._tx, step), _step_ended(self._tx, step)
        before_it = ended.index(next(event for event in ended if isinstance(event.object, RunStep)))
        self.until(end, [*begun, *ended[:before_it]])
        for number, event in enumerate(ended[before_it:], end):
            self.exactly(number, event)

    def untold(self, step: RunStep) -> None:
        """A step whose end nobody was told. Whoever knows of its beginning knows better than we what he has seen."""
        if self._after <= self.before:
            self.until(self._after + 1, [*_step_begun(self._tx, step), *_step_ended(self._tx, step)])

    def uncounted(self, run: Run, steps: Sequence[RunStep]) -> Retold:
        """The whole of a run from before events were numbered for good: at least as many were told of it."""
        events = [event for step in steps for event in [*_step_begun(self._tx, step), *_step_ended(self._tx, step)]]
        for number, event in enumerate([*events, Event(RUN_EVENTS[run.status], run)], self.before + 1):
            self.exactly(number, event)
        return Retold(self.events, last=max(self._after, self.before), is_all=True)


def _begun(run: Run, steps: Sequence[RunStep]) -> Run:
    return replace(
        run,
        # Gone when the run has ended; each of its steps says it too.
        expires_at=run.expires_at or next((step.expires_at for step in steps), None),
        status="queued",
        required_action=None,
        last_error=None,
        started_at=None,
        cancelled_at=None,
        failed_at=None,
        completed_at=None,
        incomplete_details=None,
        usage=None,
    )


def _step_begun(tx: Transaction, step: RunStep) -> list[Event]:
    """What leads up to the end of a step, or of its message."""
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
    if isinstance(details, MessageCreationDetails):
        message = _message_of(tx, step)
        return started if message is None else [*started, *_message_begun(message)]
    calls = [whole(index, call) for index, call in enumerate(details.tool_calls)]
    told = RunStepDelta(id=step.id, delta=RunStepDeltaDetails(step_details=ToolCallsDelta(tool_calls=calls)))
    return [*started, *([Event("thread.run.step.delta", told)] if calls else [])]


def _step_ended(tx: Transaction, step: RunStep) -> list[Event]:
    """The end of a step, and of its message, in the order in which they were told."""
    if step.status == "in_progress":
        return []
    ended = [Event(STEP_EVENTS[step.status], step)]
    message = _message_of(tx, step)
    if message is None or message.status == "in_progress":
        return ended
    closed = [Event(MESSAGE_EVENTS[message.status], message)]
    return [*closed, *ended] if step.status == "completed" else [*ended, *closed]


def _message_of(tx: Transaction, step: RunStep) -> Message | None:
    details = step.step_details
    if not isinstance(details, MessageCreationDetails):
        return None
    try:
        return tx.messages.get(step.thread_id, details.message_creation.message_id)
    except NotFound:
        # Its client has deleted it.
        return None


def _message_begun(message: Message) -> list[Event]:
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
    ]
