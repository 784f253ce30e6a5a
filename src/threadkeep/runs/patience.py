"""While the database is away a run goes on: what it reads and writes is tried again until the run's time is over.

The model goes on answering meanwhile, and is not asked twice.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from threadkeep.contract.errors import Unavailable

T = TypeVar("T")

_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 2.0


class Patience:
    """Of one run, until ``until`` in unix seconds; None: for good."""

    def __init__(self, until: int | None) -> None:
        self._until = until
        self._ended = asyncio.Event()

    def end(self) -> None:
        """From here on everything is tried once. Whoever waits for the next attempt learns how the last one ended."""
        self._ended.set()

    async def __call__(self, attempt: Callable[[Unavailable | None], Awaitable[T]]) -> T:
        """What ``attempt`` returns; it is given what the attempt before it failed with."""
        away: Unavailable | None = None
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await attempt(away)
            except Unavailable as error:
                away = error
                left_s = None if self._until is None else self._until - time.time()
                if self._ended.is_set() or (left_s is not None and left_s <= 0):
                    raise
            # Runs that lost the database together do not come back together.
            wait_s = random.uniform(0.5, 1) * pause_s
            try:
                await asyncio.wait_for(self._ended.wait(), wait_s if left_s is None else min(wait_s, left_s))
            except TimeoutError:
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                raise away
