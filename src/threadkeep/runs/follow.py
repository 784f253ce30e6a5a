"""The event log of a run: appended by its one writer, followed by any number of readers.

A log, not a queue: a reader is a position in it, so one reader takes nothing from another, a slow one holds nothing
up, and one that comes late reads from the start. It holds a stretch of the run's life: from where this node took the
run up to where it let it go.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from threadkeep.contract.events import Event
from threadkeep.contract.messages import MessageDelta, TextContentDelta

# The kind of work that a run is.
KIND: Final = "run"

_encoder: Final = msgspec.json.Encoder()
# What an event takes in memory beside the texts in it, roughly.
EVENT_BYTES: Final = 500


class EventLog:
    """Events with numbers that follow one another, from behind ``base`` on. Used from one event loop only."""

    __slots__ = ("_events", "_on_close", "_waiting", "base", "closed", "failure", "is_followed")

    def __init__(self, base: int = 0, on_close: Callable[["EventLog"], object] = lambda log: None) -> None:
        self.base = base
        # Whether anybody reads it, or did: then it may be asked for again.
        self.is_followed = False
        self._events: list[Event] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._on_close = on_close
        self.closed = False
        # Why the log ends without the run having ended; None after a proper end. Readers are told.
        self.failure: str | None = None

    @property
    def last(self) -> int:
        """The number of the last event, or ``base`` where there is none."""
        return self.base + len(self._events)

    @property
    def size(self) -> int:
        """In memory, roughly. Most events are the words of messages; of all others what they say at length counts too,
        such as what a tool found."""
        return EVENT_BYTES * len(self._events) + sum(
            sum(len(part.text.value or "") for part in said.delta.content if type(part) is TextContentDelta)
            if type(said := event.object) is MessageDelta
            else len(_encoder.encode(said))
            for event in self._events
        )

    def append(self, events: Sequence[Event]) -> None:
        """Adds events and wakes every reader. Whatever the events tell must already be stored."""
        if events:
            self._events.extend(events)
            self._wake()

    def close(self, failure: str | None = None) -> None:
        """Nothing will be added any more: the run has ended, waits for its client, or left this node."""
        if not self.closed:
            self.closed = True
            self.failure = failure
            self._wake()
            self._on_close(self)

    def holds(self, position: int) -> bool:
        """Whether what comes after number ``position`` is in here, or will be."""
        return self.base <= position < self.last or (position == self.last and not self.closed)

    def since(self, position: int, limit: int | None = None) -> list[Event]:
        """The events after number ``position``, which is not below ``base``; at most ``limit``."""
        start = position - self.base
        return self._events[start:] if limit is None else self._events[start : start + limit]

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
