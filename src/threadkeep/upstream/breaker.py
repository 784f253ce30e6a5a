"""Whether a server that fails is asked again, or left alone for a while.

    closed ──failures in a row, over some time──▶ open ──an answer──▶ closed
                                                   │ ▲
                                                   └─┘ one call a pause is let through, to see

A server that is down is found to be so by every run anew, after seconds or minutes in which the run holds a place on
the node. While the breaker is open, runs fail at once instead. What is short is left to the repetition of calls: the
breaker opens only when the failing has lasted. There is no half-open state that a call could leave behind by being
cancelled: a call that is let through moves the next one's time, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

# Both: so many failures without an answer between them, the first of which began so long ago.
OPENS_AFTER: Final = 5
OPENS_AFTER_S: Final = 10.0
# Between two calls that are let through: at first, and at most. It doubles each time.
PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 30.0


class Breaker:
    """Of one server, or one model there. ``answered_at``: what began before that is taken for answered; ``clock`` as
    ``time.monotonic``."""

    def __init__(self, answered_at: float = 0.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        # When the first of these failures began.
        self._since = 0.0
        self._answered_at = answered_at
        self._pause_s = PAUSE_S
        # When the next call is let through; None while closed.
        self._next_at: float | None = None
        # What the last call failed with.
        self.reason = ""

    @property
    def is_open(self) -> bool:
        return self._next_at is not None

    @property
    def failing_s(self) -> float:
        """For how long it has failed."""
        return self._clock() - self._since

    @property
    def wait_s(self) -> float:
        """Until when no call is let through; 0: one may go now, and says so by ``begin``."""
        return 0.0 if self._next_at is None else max(0.0, self._next_at - self._clock())

    def begin(self) -> float:
        """A call goes. Returns when, for ``failed``."""
        now = self._clock()
        if self._next_at is not None:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._next_at = now + self._pause_s
        return now

    def failed(self, began_at: float, reason: str) -> bool:
        """A call that began then came to nothing; whether that opens the breaker."""
        # One that began before the last answer says nothing of what was ahead of it.
        began_at = max(began_at, self._answered_at)
        self._since = min(self._since, began_at) if self._failures else began_at
        self._failures += 1
        self.reason = reason
        if self.is_open or self._failures < OPENS_AFTER or self.failing_s < OPENS_AFTER_S:
            return False
        self._pause_s = PAUSE_S
        self._next_at = self._clock() + PAUSE_S
        return True

    def answered(self) -> bool:
        """There was an answer, if only a refusal: it is there. Whether that closes the breaker."""
        was_open = self.is_open
        self._failures, self._next_at, self._answered_at = 0, None, self._clock()
        return was_open
