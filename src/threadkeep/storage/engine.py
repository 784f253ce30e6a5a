"""What the two engines have in common: jobs go to threads through a queue, answers come back in batches.

One hop costs two wake-ups, about 45 µs of CPU when nothing else is going on and 4 µs under load. That is why there
are own queues here: `run_in_executor` costs 55 and 15 (a lock and a condition for each call).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from threadkeep.contract.errors import Unavailable
from threadkeep.logs import Log
from threadkeep.storage.statements import Connection
from threadkeep.storage.transaction import Transaction

log = Log(__name__)

DialectName = Literal["sqlite", "postgresql"]

# Calls that may wait for a thread. Each belongs to a request, and requests are bounded above us; this is the bound
# that holds when something is badly wrong.
MAX_WAITING = 10_000


class Doubt(NamedTuple):
    """A transaction of which nobody heard whether it was committed: ``writer`` leaves its number in the database."""

    writer: str
    number: int
    # What the call returns if it was.
    result: Any


class InDoubt(Unavailable):
    """The connection broke while the database was to commit: nobody knows yet whether the write happened.

    ``Store.write`` with ``after`` set to this error finds out, and writes only what was not written.
    """

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(
            "The server lost its database while it carried out the request. It may have been carried out all the same: "
            "please look before you make it again."
        )
        self.doubt = doubt


class Job:
    """One call of `Store.read` or `Store.write`."""

    __slots__ = ("deadline", "doubt", "fn", "future", "is_given_up", "is_over", "project")

    def __init__(
        self,
        project: str | None,
        fn: Callable[[Transaction], Any],
        future: asyncio.Future[Any],
        doubt: Doubt | None = None,
    ) -> None:
        self.project = project
        self.fn = fn
        self.future = future
        # By `time.monotonic`; only the engine that can lose its database sets it, as well as the three below.
        self.deadline = 0.0
        # Set when the commit is about to be sent, and by who calls once more after such a doubt.
        self.doubt = doubt
        # The caller was answered before the database did; if that nothing happened, nothing may happen any more.
        self.is_given_up = False
        # The answer is on its way.
        self.is_over = False

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
            elif isinstance(error, StopIteration):
                # No future takes it: whoever asked would wait for ever.
                raised = RuntimeError("A function that the store was given raised StopIteration.")
                raised.__cause__ = error
                future.set_exception(raised)
            else:
                future.set_exception(error)


class Presence:
    """Whether the database answers: one line in the log when it goes, and one when it is back. In any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gone_at: float | None = None

    def gone(self, error: BaseException | None) -> None:
        """It did not answer, or refused to work."""
        with self._lock:
            if self._gone_at is not None:
                return
            self._gone_at = time.monotonic()
        log.warning("database_away", error=error)

    def there(self) -> None:
        """It did what it was asked."""
        if self._gone_at is not None:
            self._back()

    def _back(self) -> None:
        with self._lock:
            gone_at, self._gone_at = self._gone_at, None
        if gone_at is not None:
            log.warning("database_back", away_s=round(time.monotonic() - gone_at, 1))


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
