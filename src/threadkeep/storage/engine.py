"""What the two engines have in common: jobs go to threads through a queue, answers come back in batches.

One hop costs two wake-ups, about 45 µs of CPU when nothing else is going on and 4 µs under load. That is why there
are own queues here: `run_in_executor` costs 55 and 15 (a lock and a condition for each call).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, Protocol

from threadkeep.storage.statements import Connection
from threadkeep.storage.transaction import Transaction

DialectName = Literal["sqlite", "postgresql"]

# Calls that may wait for a thread. Each belongs to a request, and requests are bounded above us; this is the bound
# that holds when something is badly wrong.
MAX_WAITING = 10_000


class Job:
    """One call of `Store.read` or `Store.write`."""

    __slots__ = ("deadline", "fn", "future", "project")

    def __init__(
        self, project: str | None, fn: Callable[[Transaction], Any], future: asyncio.Future[Any], deadline: float = 0.0
    ) -> None:
        self.project = project
        self.fn = fn
        self.future = future
        # By `time.monotonic`; only the engine that can lose its database sets it.
        self.deadline = deadline

    def run(self, connection: Connection) -> Any:
        return self.fn(Transaction(connection, self.project))


class Answers:
    """Results on their way from threads to the event loop: many of them for one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_awake = False

    def add(self, job: Job, result: Any, error: BaseException | None = None) -> None:
        """Keeps an answer for the next `send`. In any thread."""
        self._waiting.append((job.future, result, error))

    def send(self) -> None:
        """Wakes the loop unless somebody just did. In any thread."""
        if not self._is_awake:
            self._is_awake = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                self._waiting.clear()

    def _deliver(self) -> None:
        # Cleared ahead of the first answer: one that is added from now on wakes the loop again, none is forgotten.
        self._is_awake = False
        waiting = self._waiting
        while waiting:
            future, result, error = waiting.popleft()
            # A caller that was cancelled has taken its future along.
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


class Engine(Protocol):
    """A database that runs jobs. ``read`` and ``write`` are called on the event loop and return at once."""

    dialect: DialectName

    def read(self, job: Job) -> None: ...

    def write(self, job: Job) -> None:
        """Runs the job in a transaction of its own and answers when that is durable."""
        ...

    def close(self) -> None:
        """Ends what was begun and all threads; blocks meanwhile. No job comes after."""
        ...
