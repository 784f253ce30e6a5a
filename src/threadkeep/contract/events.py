"""Stream events: a name and the bare object that goes with it, as ``AssistantStreamEvent`` lists them."""

from typing import Final, Literal, NamedTuple

from threadkeep.contract.messages import Message, MessageDelta, MessageStatus
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.run_steps import RunStep, RunStepDelta, StepStatus
from threadkeep.contract.runs import Run
from threadkeep.contract.threads import Thread

EventName = Literal[
    "thread.created",
    "thread.run.created",
    "thread.run.queued",
    "thread.run.in_progress",
    "thread.run.requires_action",
    "thread.run.completed",
    "thread.run.incomplete",
    "thread.run.failed",
    "thread.run.cancelling",
    "thread.run.cancelled",
    "thread.run.expired",
    "thread.run.step.created",
    "thread.run.step.in_progress",
    "thread.run.step.delta",
    "thread.run.step.completed",
    "thread.run.step.failed",
    "thread.run.step.cancelled",
    "thread.run.step.expired",
    "thread.message.created",
    "thread.message.in_progress",
    "thread.message.delta",
    "thread.message.completed",
    "thread.message.incomplete",
]

EventObject = Thread | Run | RunStep | RunStepDelta | Message | MessageDelta

# What goes with an event: the first that its name begins with.
OBJECTS: Final[dict[str, type[EventObject]]] = {
    "thread.run.step.delta": RunStepDelta,
    "thread.run.step.": RunStep,
    "thread.run.": Run,
    "thread.message.delta": MessageDelta,
    "thread.message.": Message,
    "thread.": Thread,
}


def object_of(name: EventName) -> type[EventObject]:
    return next(kind for beginning, kind in OBJECTS.items() if name.startswith(beginning))


class Event(NamedTuple):
    """One record of a run's stream."""

    name: EventName
    object: EventObject


RUN_EVENTS: Final[dict[RunStatus, EventName]] = {
    "queued": "thread.run.queued",
    "in_progress": "thread.run.in_progress",
    "requires_action": "thread.run.requires_action",
    "cancelling": "thread.run.cancelling",
    "cancelled": "thread.run.cancelled",
    "failed": "thread.run.failed",
    "completed": "thread.run.completed",
    "incomplete": "thread.run.incomplete",
    "expired": "thread.run.expired",
}

STEP_EVENTS: Final[dict[StepStatus, EventName]] = {
    "in_progress": "thread.run.step.in_progress",
    "cancelled": "thread.run.step.cancelled",
    "failed": "thread.run.step.failed",
    "completed": "thread.run.step.completed",
    "expired": "thread.run.step.expired",
}

MESSAGE_EVENTS: Final[dict[MessageStatus, EventName]] = {
    "in_progress": "thread.message.in_progress",
    "incomplete": "thread.message.incomplete",
    "completed": "thread.message.completed",
}
