"""Threads with a time to live: those in which nothing has happened for so long are deleted, by whichever node comes by.

Nothing is written when something happens in a thread: when that was, the ids of its messages and runs tell.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from threadkeep.contract.errors import NotFound
from threadkeep.logs import Log
from threadkeep.storage.keys import DEFAULT_PROJECT_ID
from threadkeep.storage.store import Store, Transaction
from threadkeep.worker import Held

log = Log(__name__)

KIND: Final = "idle_threads"
# The one item of its kind.
KEY: Final = "all"

# Threads looked at together, and threads deleted in one transaction: one with many messages takes its time.
_PAGE: Final = 500
_BATCH: Final = 10
# How often it is looked, and at least so often as a small part of the time to live.
_EVERY_S: Final = 3600.0
_PART: Final = 24
_LEAST_S: Final = 1.0


class IdleThreads:
    """The handler of due work of kind ``idle_threads``. ``on_deleted``: called with the project and the thread."""

    def __init__(self, store: Store, *, ttl_s: float, on_deleted: Callable[[str, str], None]) -> None:
        self._store = store
        self._ttl_s = ttl_s
        self._on_deleted = on_deleted

    async def start(self) -> None:
        """Has it looked at once, by any node."""
        await self._store.write(DEFAULT_PROJECT_ID, lambda tx: tx.work.ensure(KIND, KEY))

    async def handle(self, held: Held) -> None:
        """Deletes what is idle in all projects, and comes again later."""
        try:
            before = time.time() - self._ttl_s
            projects = await self._store.read(None, lambda tx: tx.projects.ids())
            deleted = sum([await self._delete_in(project, before) for project in projects])
        except asyncio.CancelledError:
            # The server stops in the midst: another goes on at once.
            await self._come_again(held, 0.0)
            raise
        if deleted:
            log.info("idle_threads_deleted", count=deleted)
        await self._come_again(held, max(_LEAST_S, min(_EVERY_S, self._ttl_s / _PART)))

    async def _come_again(self, held: Held, due_in_s: float) -> None:
        item, token = held.lease.item, held.lease.token
        held.settled = True
        due_at_ms = round((time.time() + due_in_s) * 1000)
        await self._store.write(None, lambda tx: tx.work.release(item.kind, item.key, token, due_at_ms=due_at_ms))

    async def _delete_in(self, project: str, before: float) -> int:
        """How many there were."""
        after, count = "", 0
        while True:
            seen, idle = await self._store.read(
                project, lambda tx, after=after: tx.threads.idle(before, after=after, limit=_PAGE)
            )
            for start in range(0, len(idle), _BATCH):
                batch = idle[start : start + _BATCH]
                gone = await self._store.write(
                    project, lambda tx, batch=batch: [each for each in batch if _delete(tx, each, before)]
                )
                for thread_id in gone:
                    self._on_deleted(project, thread_id)
                count += len(gone)
            if seen is None:
                return count
            after = seen


def _delete(tx: Transaction, thread_id: str, before: float) -> bool:
    """Whether it was still there and still idle."""
    try:
        # Whoever adds to the thread locks it first: from here on nothing happens in it.
        tx.threads.lock(thread_id)
    except NotFound:
        return False
    return tx.threads.is_idle(thread_id, before) and tx.threads.delete(thread_id)
