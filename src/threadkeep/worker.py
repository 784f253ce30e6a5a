"""Does due work: claims it under a lease, renews the lease, hands the item over when it stops. Knows nothing of runs.

Whoever handles an item ends or gives back its lease in the same transaction that stores the outcome; the worker only
keeps the lease alive meanwhile. Claim, renew, lost: the words are the same in code, columns and logs.

Nodes tell each other what is due and what is interrupted, so that nobody waits for the next look at the table. Those
are hints: all works without them, only later.
"""

import asyncio
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from threadkeep.contract.errors import LeaseLost, ThreadkeepError, Unavailable
from threadkeep.logs import Log
from threadkeep.storage.notices import Notices
from threadkeep.storage.store import Store
from threadkeep.storage.work import Lease, LeaseTerms, Renewal

log = Log(__name__)

# Wake-ups are hints; the table is the truth. This is how stale the worker's view of it may get.
POLL_S = 0.5
# How soon a holder learns that another node interrupted it, or that its lease is gone, if it was not told.
RENEW_S = 1.0
# So many items are handled beyond the room there is, of those that are over as soon as they are looked at: runs that
# have expired or are cancelled, and no node has room for.
BEYOND = 32
# How often a node without room looks for such.
OVERDUE_S = 0.25
# An item whose handling broke unexpectedly is claimed again after this long, by any node.
RETRY_S = 1.0
# What is told to other nodes, see `Notices`: there is work that this node has no room for; the holder of an item, by
# its key and kind, is to stop.
_DUE = "due"
_INTERRUPT = "interrupt"
# After the database was away, leases that ran out meanwhile are left for so long, and for as long as a lease lasts, to
# holders that live.
SPARE_S = 5.0
# Within this the store answers, if only that it is away.
_ANSWER_S = 10.0
# A lane takes no more room while it holds this many times the room that is free.
_SHARE = 3


class Lanes:
    """How much of a node each lane holds, and may hold: what is stuck together must not keep all else out.

    A lane with a bound holds no more than that. Where there are several, each takes room only while it holds less than
    three times what is free: one alone comes to three quarters of the node, two to three sevenths each, and however
    many are stuck, some room is left. Used from several threads.
    """

    def __init__(self, bounds: Mapping[str, int | None]) -> None:
        """``bounds``: all lanes there are, each with the most it may hold, None where nothing but the node bounds it.
        Items may be of other lanes too, which are bounded by nothing."""
        self._bounds = bounds
        self._held: Counter[str] = Counter()
        self._changing = threading.Lock()

    @property
    def held(self) -> Mapping[str, int]:
        return self._held

    def room(self, lane: str | None, free: int) -> int:
        """How much more the lane may hold, where ``free`` is free in all."""
        if lane is None or lane not in self._bounds:
            return free
        held, bound = self._held[lane], self._bounds[lane]
        if len(self._bounds) > 1:
            free = min(free, -((held - _SHARE * free) // (_SHARE + 1)))
        return max(0, free if bound is None else min(free, bound - held))

    def choice(self, free: int) -> tuple[list[str], int]:
        """For a claim where ``free`` is free: the lanes that are full, and how many items, of whatever other lanes, can
        be taken at once."""
        rooms = {lane: self.room(lane, free) for lane in self._bounds}
        return [lane for lane, room in rooms.items() if not room], min([free, *filter(None, rooms.values())])

    def enter(self, lane: str | None, free: int) -> bool:
        """Takes room for one more, if there is some."""
        with self._changing:
            if self.room(lane, free) <= 0:
                return False
            if lane is not None:
                self._held[lane] += 1
            return True

    def take(self, lane: str | None) -> None:
        """As ``enter``, also where there is no room."""
        if lane is not None:
            with self._changing:
                self._held[lane] += 1

    def leave(self, lane: str | None) -> None:
        if lane is not None:
            with self._changing:
                self._held[lane] -= 1
                if not self._held[lane]:
                    del self._held[lane]


class Held:
    """An item while it is being handled here."""

    def __init__(self, lease: Lease, prepared: object, *, live_until: float) -> None:
        self.lease = lease
        # By `time.monotonic`. From then on somebody else may have taken the item over, for all that is known here.
        self.live_until = live_until
        # What whoever made the item on this node knows of it already; None when it was claimed from the table.
        self.prepared = prepared
        # Set when somebody asks the holder to stop what it does and look at the item anew.
        self.interrupted = asyncio.Event()
        # The handler sets it once its lease is finished or given back: from then on the worker lets it be.
        self.settled = False

    @property
    def is_live(self) -> bool:
        """Whether the lease is certain not to have run out. Without that nothing may be shown that is not stored."""
        return time.monotonic() < self.live_until

    def extend(self, live_until: float) -> None:
        """The lease was renewed, by a statement sent so long ahead of ``live_until`` as a lease lasts."""
        self.live_until = max(self.live_until, live_until)


Handle = Callable[[Held], Awaitable[None]]


def _stop(task: asyncio.Task[None]) -> None:
    """Makes the handler hand over. Once: told again, it would be torn from that, and whoever follows its work would
    never hear of the end."""
    if not task.cancelling():
        task.cancel()


def new_node() -> str:
    """A name for this process: it says where to look, and no other ever has it, not even the one that comes next."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


class Worker:
    """Handles due items on this node, at most ``max_concurrent`` at once, and of each lane as ``lanes`` has it;
    ``handlers`` by kind of work."""

    def __init__(
        self,
        store: Store,
        handlers: Mapping[str, Handle],
        *,
        notices: Notices,
        node: str,
        max_concurrent: int,
        lease_s: float,
        lanes: Lanes | None = None,
    ) -> None:
        # In whose name the leases are. No two workers have the same.
        self.node = node
        self._notices = notices
        self._store = store
        self._handlers = handlers
        self._max_concurrent = max_concurrent
        self._lease_s = lease_s
        self.lanes = lanes or Lanes({})
        self._held: dict[tuple[str, str], tuple[Held, asyncio.Task[None]]] = {}
        # Leases offered and not yet taken up or declined: their tokens, with the time of the offer.
        self._promised: dict[str, float] = {}
        # The lanes of those that have entered one.
        self._entered: dict[str, str | None] = {}
        self._entering = threading.Lock()
        self._kept = asyncio.Event()
        # A claim is on its way: leases may exist of which nothing is known here yet.
        self._claiming = False
        # The same, after an answer of the store did not arrive: until the next renewal.
        self._unsure = False
        # By `time.monotonic`: when the leases here were last renewed, and until when those of others are spared.
        self._renewed_at = time.monotonic()
        self._spares_until = 0.0
        self._draining = False
        self._due = asyncio.Event()
        # When it was last looked for what needs no room.
        self._looked_at = 0.0
        self._in_doubt = asyncio.Event()
        # When others interrupted what is not held here: a lease on it may be on its way.
        self._interrupted_early: dict[tuple[str, str], float] = {}
        self._loops: list[asyncio.Task[None]] = []
        notices.on(_DUE, lambda _node, _key, _body: self._due.set())
        notices.on(_INTERRUPT, lambda _node, key, kind: self._heard_of(kind, key))
        notices.on_gap(self._catch_up)

    def start(self) -> None:
        """Begins to claim; call it once, inside the running loop."""
        self._loops = [asyncio.create_task(self._claim_loop()), asyncio.create_task(self._renew_loop())]

    @property
    def count(self) -> int:
        """How many items are handled here."""
        return len(self._held)

    def offer(self) -> LeaseTerms | None:
        """Terms of a lease for an item about to be stored, or None when this node has no room for it.

        Whoever gets terms calls ``adopt`` once the item is committed under them, or else ``decline``, and soon: the
        server does not stop before.
        """
        return self.insist() if self._room() > 0 else None

    def insist(self) -> LeaseTerms | None:
        """As ``offer``, also where there is no room: for work that is over as soon as it is looked at."""
        if self._draining:
            return None
        terms = LeaseTerms(token=secrets.token_hex(16), node=self.node, lease_s=self._lease_s)
        self._promised[terms.token] = time.monotonic()
        return terms

    def enter(self, terms: LeaseTerms | None, lane: str | None) -> LeaseTerms | None:
        """The terms, if the lane of the item has room as well. To be asked inside the transaction that stores the item,
        whatever thread that runs in; once more when it is run again."""
        with self._entering:
            if terms is None or terms.token in self._entered:
                return terms
            # A transaction that nobody waits for any more: what it took would never be given back.
            if terms.token not in self._promised:
                return None
            # The offer has taken its place already.
            if not self.lanes.enter(lane, self._room() + 1):
                return None
            self._entered[terms.token] = lane
            return terms

    def adopt(self, lease: Lease, prepared: object) -> None:
        """Starts at once on an item that was stored under an offered lease."""
        self._begin(lease, prepared, since=self._promised.pop(lease.token), lane=self._entered.pop(lease.token, None))
        self._kept.set()

    def decline(self, terms: LeaseTerms | None, *, after: BaseException | None = None) -> None:
        """An offered lease was not taken up. None, where none was offered, is declined as well. ``after`` what: where
        the database went away it may have been taken up all the same, and is given back."""
        if terms is not None:
            with self._entering:
                del self._promised[terms.token]
                self.lanes.leave(self._entered.pop(terms.token, None))
            self._unsure |= isinstance(after, Unavailable)
            self._kept.set()

    def wake(self) -> None:
        """Something was stored that is due and leased to nobody: whoever has room takes it."""
        self._due.set()
        self._notices.tell(_DUE)

    def interrupt(self, kind: str, key: str) -> None:
        """Interrupts the item, on whatever node it is handled."""
        self._heard_of(kind, key)
        if (kind, key) not in self._held:
            self._notices.tell(_INTERRUPT, key, kind)

    def doubt(self, thread: str) -> None:
        """The thread was deleted, and the leases on its work with it: what is handled here of it stops now."""
        if any(held.lease.item.thread == thread for held, _ in self._held.values()):
            self._in_doubt.set()

    async def drain(self, grace_s: float) -> None:
        """Stops claiming, lets what is under way end within ``grace_s``, then makes the handlers hand over the rest."""
        self._draining = True
        self._due.set()
        claiming, *renewing = self._loops
        # Leases that are on their way to us are waited for: nobody else could hand them over.
        with suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await claiming
                while self._promised:
                    self._kept.clear()
                    await self._kept.wait()
        if tasks := [task for _, task in self._held.values()]:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                _stop(task)
            await asyncio.gather(*late, return_exceptions=True)
        for loop in renewing:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def _heard_of(self, kind: str, key: str) -> None:
        """Somebody interrupts the item; it may be held here."""
        if (current := self._held.get((kind, key))) is not None:
            current[0].interrupted.set()
            return
        early, now = self._interrupted_early, time.monotonic()
        while early and next(iter(early.values())) < now - _ANSWER_S:
            del early[next(iter(early))]
        early.pop((kind, key), None)
        early[kind, key] = now
        self._looked_at = 0.0
        self._due.set()

    def _catch_up(self) -> None:
        """Something may have been missed of what others told."""
        self._due.set()
        self._in_doubt.set()

    def _room(self) -> int:
        return self._max_concurrent - len(self._held) - len(self._promised)

    def _begin(self, lease: Lease, prepared: object, *, since: float, lane: str | None) -> None:
        """``lane``: the one that it has entered."""
        held = Held(lease, prepared, live_until=since + self._lease_s)
        if self._interrupted_early.pop((lease.item.kind, lease.item.key), since) > since:
            held.interrupted.set()
        self._held[lease.item.kind, lease.item.key] = held, asyncio.create_task(self._run(held, lane))

    async def _run(self, held: Held, lane: str | None) -> None:
        item = held.lease.item
        try:
            await self._handlers[item.kind](held)
        except LeaseLost:
            log.warning("lease_lost", kind=item.kind, key=item.key)
        except Unavailable as error:
            log.info("work_put_off", error=error, kind=item.kind, key=item.key)
            await self._put_off(held.lease)
        except Exception as error:
            log.error("work_failed", error=error, kind=item.kind, key=item.key, attempts=held.lease.attempts)
            await self._abandon(held.lease)
        finally:
            # A later lease on the same item may have taken the place already.
            if (current := self._held.get((item.kind, item.key))) is not None and current[0] is held:
                del self._held[item.kind, item.key]
            self.lanes.leave(lane)
            self._due.set()
            if self._draining or self._room() <= 0:
                # It may have been handed over, or have made other work due, for which there is no room here.
                self._notices.tell(_DUE)

    async def _put_off(self, lease: Lease) -> None:
        """Lets anybody claim the item again soon: nothing is wrong with it, but with what it stands on."""
        item, due_at_ms = lease.item, round((time.time() + RETRY_S) * 1000)
        try:
            await self._store.write(
                None, lambda tx: tx.work.give_back(item.kind, item.key, lease.token, due_at_ms=due_at_ms)
            )
        except LeaseLost:
            return
        except Unavailable:
            self._unsure = True

    async def _abandon(self, lease: Lease) -> None:
        """Lets anybody claim the item again soon, counted as a crash. If even that fails, the lease runs out."""
        try:
            await self._store.write(None, lambda tx: tx.work.abandon(lease, delay_s=RETRY_S))
        except ThreadkeepError as error:
            self._unsure = True
            log.warning("abandon_failed", error=error, kind=lease.item.kind, key=lease.item.key)

    async def _claim_loop(self) -> None:
        while not self._draining:
            # Cleared ahead of the first await: a wake-up during the claim must not be lost.
            self._due.clear()
            try:
                if (room := self._room()) > 0:
                    full, limit = self.lanes.choice(room)
                    if await self._claim_and_begin(limit, full) == limit < room:
                        # The lane with the least room set the limit: there may be more of the others.
                        self._due.set()
                if self._room() <= 0 and time.monotonic() >= self._looked_at + OVERDUE_S:
                    self._looked_at = time.monotonic()
                    await self._claim_and_begin(self._room() + BEYOND, None)
            except Unavailable as error:
                self._away(error)
            except Exception as error:
                # Whatever it was, the loop outlives it: without it no run on this node would ever end.
                log.error("claim_failed", error=error)
            finally:
                self._claiming = False
            try:
                await asyncio.wait_for(self._due.wait(), POLL_S)
            except TimeoutError:
                continue

    async def _claim_and_begin(self, limit: int, full: list[str] | None) -> int:
        """How many items were claimed, see `Work.claim`."""
        if limit <= 0:
            return 0
        self._claiming = True
        asked_at = time.monotonic()
        claimed = await self._claim(limit, full)
        for lease in claimed:
            self.lanes.take(lease.item.lane)
            self._begin(lease, None, since=asked_at, lane=lease.item.lane)
        return len(claimed)

    async def _claim(self, limit: int, full: list[str] | None) -> list[Lease]:
        kinds = tuple(self._handlers)
        # A cheap read first: the claim is a write, with a sync to disk, even when it finds nothing.
        if not await self._store.read(None, lambda tx: tx.work.any_due(kinds, full=full)):
            return []
        if self._held and time.monotonic() - self._renewed_at > self._lease_s / 2:
            # Leases of what is worked on here may have run out while this node, or the database, stood still.
            await self._renew()
        spares = time.monotonic() < self._spares_until
        return await self._store.write(
            None, lambda tx: tx.work.claim(self.node, kinds, limit, self._lease_s, full=full, spares=spares)
        )

    def _away(self, error: Unavailable) -> None:
        """The database was away for all nodes, for all that is known here: nobody could renew anything."""
        log.debug("database_waited_for", error=error)
        self._unsure = True
        self._spares_until = time.monotonic() + max(self._lease_s, SPARE_S)

    async def _renew_loop(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._in_doubt.wait(), min(RENEW_S, self._lease_s / 3))
            # Cleared ahead of the next await: a doubt that comes during the renewal must not be lost.
            self._in_doubt.clear()
            if not self._held and not self._unsure:
                continue
            try:
                await self._renew()
            except Unavailable as error:
                self._away(error)
            except Exception as error:
                self._unsure = True
                log.error("renew_failed", error=error)

    async def _renew(self) -> None:
        before, asked_at = list(self._held.values()), time.monotonic()
        self._unsure = False
        renewals = await self._store.write(None, lambda tx: tx.work.renew(self.node, lease_s=self._lease_s))
        self._renewed_at = asked_at
        interrupted = {(each.kind, each.key, each.token): each.interrupted for each in renewals}
        for held, task in before:
            lease = held.lease
            if (lease.item.kind, lease.item.key, lease.token) not in interrupted:
                if not held.settled:
                    _stop(task)
                continue
            held.extend(asked_at + self._lease_s)
            if interrupted[lease.item.kind, lease.item.key, lease.token]:
                held.interrupted.set()
        await self._release_unknown(renewals)

    async def _release_unknown(self, renewals: list[Renewal]) -> None:
        """Gives back leases of this node that nobody here works on: the answer to their claim never arrived."""
        held = {(key, held.lease.token) for key, (held, _) in self._held.items()}
        for each in renewals:
            is_known = ((each.kind, each.key), each.token) in held or each.token in self._promised
            if is_known:
                continue
            if self._claiming:
                # It may be known in a moment.
                self._unsure = True
            else:
                log.warning("lease_unknown", kind=each.kind, key=each.key)
                try:
                    await self._store.write(
                        None, lambda tx, each=each: tx.work.give_back(each.kind, each.key, each.token)
                    )
                except ThreadkeepError:
                    self._unsure = True
