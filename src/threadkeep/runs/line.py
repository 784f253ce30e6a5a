"""Busy threads: what stands behind the active run of a thread, and what becomes of it.

    message  [active run]  message  [waiting run]  message
                           └ the first that the active run does not see

A place in a thread is an id among its messages. One that is put behind the active run gets its place at once, and is an
ordinary message from then on; the run, which from then on ends there, goes on reading and writing before it. So nothing
has to be moved when a run is over, and what a client was told stays as it was told. Of runs only the first in line is
active; the end of one begins the turn of the next, in the same transaction.
"""

from collections.abc import Iterator
from typing import Final

from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.ids import id_after, id_apart, id_between, time_of
from threadkeep.contract.messages import IfActive
from threadkeep.contract.runs import Run
from threadkeep.runs.follow import KIND
from threadkeep.storage.runs import Line
from threadkeep.storage.store import Transaction

# Runs that may wait on one thread.
MAX_WAITING: Final = 16


class Spot:
    """Where messages are added to a thread that the transaction has locked: at its end or, on a busy thread, behind the
    active run, as ``if_active`` has it.
    """

    def __init__(self, tx: Transaction, thread_id: str, line: Line | None = None, if_active: IfActive = "reject"):
        self._tx = tx
        self._line = line
        self._is_next = if_active == "interrupt"
        # The message that the new ones come before. Without any, they come last.
        self.before = line.waiting[0].ahead_of if line is not None and line.waiting and self._is_next else None
        self._last = tx.messages.last_id(thread_id, before=self.before)

    def ids(self) -> Iterator[str]:
        """Ids for messages, in order. Whoever takes one adds the message."""
        if self._line is None:
            while True:
                self._last = id_after("msg", self._last)
                yield self._last
        first = self._last = self._id_behind()
        if self._is_next:
            self._tx.runs.put_ahead_of(self._line, first)
        else:
            self._tx.runs.put_all_ahead_of(self._line, first)
        yield first
        while True:
            self._last = self._id_behind()
            yield self._last

    def _id_behind(self) -> str:
        if self.before is None:
            return id_apart("msg", self._last)
        return id_between("msg", self._last, self.before)


def created_before(end: str | None, now: int) -> int:
    """When a message was made that stands before the message ``end``: the order of a thread is that of these times."""
    return now if end is None else min(now, time_of(end))


def wait(tx: Transaction, run: Run, line: Line, if_active: IfActive) -> None:
    """Adds the run to the line: as the last, or as the next."""
    if len(line.waiting) >= MAX_WAITING:
        raise InvalidRequest(
            f"Thread {run.thread_id} already has {MAX_WAITING} runs waiting for the active run {line.active.id}."
        )
    if if_active == "interrupt" and line.waiting:
        following = line.waiting[0]
        tx.runs.insert_waiting(run, line, following.place - 1, ahead_of=following.ahead_of)
    else:
        tx.runs.insert_waiting(run, line, line.waiting[-1].place + 1 if line.waiting else 1, ahead_of=None)


def move_up(tx: Transaction, thread_id: str) -> None:
    """The active run has ended in this transaction: it is the turn of the next, if one waits."""
    while (run_id := tx.runs.next(thread_id)) is not None:
        # The work first, as everybody does who holds both.
        tx.work.touch(KIND, run_id)
        if tx.runs.begin_turn(thread_id, run_id):
            return
        # It was cancelled, or has expired, while this waited for it.
