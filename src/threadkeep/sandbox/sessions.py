"""Who may run code where: one session for each thread of each project, over a pool of boxes that are warm already.

    environment there? ─▶ self-test ─▶ Ready: sessions are given out
            └─ no ──────────┴─ fails ─▶ Off, and looked at again

    session:  a warm box of the pool, or a new one ─▶ used by one caller at a time ─▶ idle ─▶ closed, when it was idle
              or there for too long, somebody else needs its place, its box died, or its thread is deleted

No box is ever used for a second thread, and none outlives `Sessions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from threadkeep.contract.errors import ToolFailed
from threadkeep.logs import Log
from threadkeep.sandbox import environment as environments
from threadkeep.sandbox import selftest
from threadkeep.sandbox.box import Box, BoxFailed, Ended, Output, SeenFile
from threadkeep.sandbox.environment import Absence, Environment, read_environment
from threadkeep.sandbox.limits import MIB, Limits
from threadkeep.sandbox.selftest import FOLDERS, Off, Tier, mend_for
from threadkeep.sandbox.watchdog import Bounds, Cgroup, Cgroups, Excess, Watchdog, Watched

log = Log(__name__)

# How often the environment is looked for, and how often for what it became once it is there.
LOOK_S: Final = 1.0
READY_LOOK_S: Final = 5.0
# How often what failed its self-test is tested again: what is missing may be installed while the server runs.
AGAIN_S: Final = 60.0
# How often idle sessions and warm boxes are looked at.
SWEEP_S: Final = 1.0
# How long a call waits for the self-test of a server that has just started.
STARTING_S: Final = 30.0
# How long a call waits for a place, or for the calls ahead of it in its own session.
WAIT_S: Final = 60.0
# Threads that are remembered to have lost their variables.
_LOST: Final = 10_000
# A box that imported its libraries, when nothing else runs in it, and some data.
_SESSION_BYTES: Final = 192 * MIB


class Starting(NamedTuple):
    """It is not known yet whether code can run."""

    reason: str


class Ready(NamedTuple):
    """Code runs, isolated by ``tier``, whose self-test found nothing missing."""

    tier: str
    environment: Environment


State = Starting | Ready | Off


class SandboxOff(ToolFailed):
    """No code runs here: ``reason`` says why, ``mend`` what would change it."""

    def __init__(self, off: Off) -> None:
        super().__init__(f"The code interpreter is off: {off.reason}. {off.mend}")
        self.reason = off.reason
        self.mend = off.mend


class SandboxFull(ToolFailed):
    """All sessions were busy for as long as a call waits."""


class Room(NamedTuple):
    """What a machine has room for."""

    pool: int
    sessions: int
    # All boxes together.
    total_bytes: int


def room(machine_bytes: int) -> Room:
    """The defaults for a machine, or a container, with so much memory."""
    half = machine_bytes // 2
    pool = 2 if machine_bytes >= 4096 * MIB else 1 if machine_bytes >= 1536 * MIB else 0
    return Room(pool, max(1, min(64, half // _SESSION_BYTES)), machine_bytes * 3 // 4)


def machine_bytes() -> int:
    """The memory of this machine, or of this container where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for bound in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(Path(bound).read_text(encoding="ascii")))
    return min(found)


# How long a box that is over its bounds has to end what runs, before it is ended itself.
_STOP_S: Final = 3.0


class _Uses:
    """How many sessions are in use."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @contextmanager
    def one(self) -> Generator[None, None, None]:
        self._count += 1
        self._none.clear()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._none.set()

    async def wait_for_none(self) -> None:
        await self._none.wait()


class Session:
    """The session of a thread: a box, and what the tool noted about it. `Sessions.session` gives it out; it is used by
    one caller at a time, and only inside of that context."""

    def __init__(
        self,
        box: Box,
        limits: Limits,
        watchdog: Watchdog,
        cgroup: Cgroup | None,
        *,
        born_at: float,
        lost: bool,
    ) -> None:
        # No code has run in it yet.
        self.is_fresh = True
        # The thread had a session before, whose variables are gone with it, and no code has run since.
        self.lost = lost
        # What the tool put in, path to file id: the tool's own notes, empty with a new box.
        self.placed: dict[str, str] = {}
        # What was there when the tool last looked, by path: its own notes too.
        self.seen: dict[str, SeenFile] = {}
        self.box = box
        self.born_at = born_at
        self.used_at = born_at
        self._limits = limits
        self._watchdog = watchdog
        self._cgroup = cgroup
        # How many calls there were; that of the one that executes, if one does.
        self._call = 0
        bounds = Bounds(limits.memory_bytes, limits.processes)
        # What the call that executes has too much of.
        self._excess: Excess | None = None
        self._watched = Watched(box.pid, bounds, tuple(FOLDERS), self._over)
        self._watch()

    @property
    def is_alive(self) -> bool:
        return self.box.is_alive

    async def execute(self, code: str, tell: Callable[[Output], None], *, timeout_s: float) -> Ended:
        """As `Box.execute`. Code that goes over the box's bounds has ``died``, with a note that says of what."""
        self.is_fresh = False
        self._call += 1
        self._excess = None
        kills = self._cgroup.memory_kills() if self._cgroup is not None else 0
        self._watched.is_executing = True
        self._watchdog.hurry()
        try:
            ended = await self.box.execute(code, tell, timeout_s=timeout_s)
        finally:
            self._watched.is_executing = False
            if self.box.is_alive:
                # What was stopped goes on with a new process.
                self._watch()
        if self._cgroup is not None and self._cgroup.memory_kills() > kills:
            self._excess = "memory"
        if ended.how != "died" or self._excess is None:
            return ended
        lost = "Its variables are lost, its files are kept." if self.box.is_alive else "The session is lost."
        return Ended("died", f"{self._news(self._excess)} {lost}")

    async def put(self, path: str, size: int, pieces: AsyncIterator[bytes]) -> None:
        """As `Box.put`."""
        await self.box.put(path, size, pieces)

    async def link(self, path: str, other: str) -> None:
        """As `Box.link`."""
        await self.box.link(path, other)

    async def files(self) -> list[SeenFile]:
        """As `Box.files`."""
        return await self.box.files()

    def read(self, file: SeenFile) -> AsyncGenerator[bytes, None]:
        """As `Box.read`."""
        return self.box.read(file)

    async def close(self) -> None:
        """Afterwards no process of it is there."""
        self._watchdog.discard(self._watched)
        await self.box.close()
        if self._cgroup is not None:
            self._cgroup.remove()

    def _watch(self) -> None:
        if self._cgroup is None:
            self._watchdog.add(self._watched)

    def _over(self, excess: Excess) -> None:
        if not self._watched.is_executing:
            # What an earlier call left in the background. Nobody waits for news: the next call learns of the loss.
            self.box.kill(f"it was over its bounds: {excess}")
            return
        self._excess = excess
        self.box.stop(self._news(excess))
        asyncio.get_running_loop().call_later(_STOP_S, self._insist, self._call)

    def _insist(self, call: int) -> None:
        if self._watched.is_executing and self._call == call:
            self.box.kill("it was over its bounds and did not stop")

    def _news(self, excess: Excess) -> str:
        if excess == "memory":
            most = f"{self._limits.memory_bytes // MIB} MiB, the files in /mnt/data included"
            return f"The code ran out of memory and was stopped (a session may have {most})."
        return f"The code was stopped: a session may have {self._limits.processes} processes."


class _Seat:
    """What belongs to one thread: its session, when there is one, and the order of those who want it."""

    def __init__(self, project: str, thread_id: str) -> None:
        self.key = project, thread_id
        self.turn = asyncio.Lock()
        # Those who use it and those who wait for their turn.
        self.users = 0
        self.session: Session | None = None
        # The thread was deleted while code ran.
        self.is_ended = False


class Sessions:
    """The sessions of this node. ``make_tier`` makes the way to isolate code of the environment that there is.

    ``state`` may change at any time, as the environment comes and goes; ``tell`` is called when it does. ``pool``: how
    many boxes are kept warm. ``maximum``: how many sessions there are at once, beside the pool. ``clock``: what idle
    and life limits are measured with, in seconds. ``absence``: why there is no
    environment. ``examine`` is what a tier has to pass.
    """

    def __init__(
        self,
        make_tier: Callable[[Environment], Tier],
        place: Path,
        packages: Sequence[str],
        limits: Limits,
        *,
        pool: int,
        maximum: int,
        total_bytes: int,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
        absence: Callable[[], Absence] | None = None,
        tell: Callable[[State], None] = lambda state: None,
        examine: Callable[[Tier, Limits, int], Awaitable[Off | None]] = selftest.examine,
    ) -> None:
        self._make_tier = make_tier
        self._place = place
        self._packages = packages
        self._limits = limits
        self._pool_size = pool
        self._maximum = maximum
        self._total_bytes = total_bytes
        self._wait_s = wait_s
        self._clock = clock
        self._absence = absence or (lambda: environments.absence(place))
        self._tell = tell
        self._test = examine
        self._state: State = Starting("its self-test is under way")
        self._is_closed = False
        # Set while it is known whether code can run.
        self._is_settled = asyncio.Event()
        # Something happened that makes another look at tier and environment due.
        self._is_suspect = False
        self._attention = asyncio.Event()
        self._tier: Tier | None = None
        self._tested: Environment | None = None
        self._tested_at = 0.0
        self._held: TextIO | None = None
        self._pool: deque[Box] = deque()
        self._refill = asyncio.Event()
        self._uses = _Uses()
        self._seats: dict[tuple[str, str], _Seat] = {}
        self._free_places = maximum
        # Calls that wait for a place, in their order; and sessions that are being closed, each of which gives one back.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._leaving = 0
        # Threads whose sessions are gone with their variables, the latest last.
        self._lost: OrderedDict[tuple[str, str], bool] = OrderedDict()
        self._slots: dict[Box, int] = {}
        self._taken_slots: set[int] = set()
        self._watchdog = Watchdog(total_bytes=total_bytes)
        self._cgroups: Cgroups | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._starts: set[asyncio.Task[Box]] = set()
        # A start is computing: more at once than there are processors only make all of them slower.
        self._may_start = asyncio.Semaphore(max(2, _CPUS))
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        return self._state

    def start(self) -> None:
        """Begins to look for the environment, to test and to warm up; call it once, inside the running loop."""
        self._cgroups = Cgroups.take(total_bytes=self._total_bytes)
        self._watchdog.start()
        self._loops = [
            asyncio.create_task(self._attend(), name="sandbox-attend"),
            asyncio.create_task(self._sweep_on(), name="sandbox-sweep"),
            asyncio.create_task(self._refill_on(), name="sandbox-refill"),
        ]

    def stay_off(self, off: Off) -> None:
        """Instead of `start`: no code runs here."""
        self._state = off
        self._is_settled.set()

    async def close(self) -> None:
        """Afterwards no box is there. Calls that are under way fail."""
        self._is_closed = True
        self._state = Off("the server stops", "Ask again when it has started.")
        self._is_settled.set()
        tasks: list[asyncio.Task[Any]] = [*self._loops, *self._starts]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._drop_pool()
        for seat in self._seats.values():
            self._dismiss(seat)
        # Started, and not yet in anybody's hands.
        for box in self._slots:
            self._end(self._close_box(box))
        while self._endings:
            await asyncio.wait(self._endings)
        await self._watchdog.close()
        if self._held is not None:
            self._held.close()

    @asynccontextmanager
    async def session(self, project: str, thread_id: str) -> AsyncGenerator[Session, None]:
        """The thread's session, which the caller has for itself until the context ends.

        Raises `SandboxOff` when no code can run, and `SandboxFull` when there was no place, or no turn, for too long.
        """
        await self._until_ready()
        seat = self._seats.setdefault((project, thread_id), _Seat(project, thread_id))
        seat.users += 1
        try:
            async with self._turn(seat):
                with self._uses.one():
                    yield await self._occupied(seat)
        finally:
            seat.users -= 1
            self._leave(seat)

    @property
    def count(self) -> int:
        """How many threads have a session."""
        return sum(seat.session is not None for seat in self._seats.values())

    def end(self, project: str, thread_id: str) -> None:
        """The thread is no more: nor is its session, as soon as nobody uses it."""
        self._lost.pop((project, thread_id), None)
        if (seat := self._seats.get((project, thread_id))) is not None:
            seat.is_ended = True
            if not seat.users:
                self._leave(seat)

    # --- sessions

    async def _until_ready(self) -> None:
        if isinstance(self._state, Starting):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STARTING_S):
                    await self._is_settled.wait()
        match self._state:
            case Starting(reason):
                raise SandboxOff(Off(f"the sandbox is still starting ({reason})", "Try again in a moment."))
            case Off() as off:
                raise SandboxOff(off)
            case Ready():
                return

    @asynccontextmanager
    async def _turn(self, seat: _Seat) -> AsyncGenerator[None, None]:
        try:
            # Whoever is ahead may use all the time that a call has.
            async with asyncio.timeout(self._wait_s + self._limits.call_s):
                await seat.turn.acquire()
        except TimeoutError:
            raise SandboxFull("Other code of this thread runs, and did not end in time. Try again later.") from None
        try:
            yield
        finally:
            seat.turn.release()

    async def _occupied(self, seat: _Seat) -> Session:
        if seat.session is not None and self._is_over(seat.session):
            self._dismiss(seat)
        if seat.session is None:
            await self._take_place()
            try:
                box = await self._take_box()
            except BaseException:
                self._give_place()
                raise
            lost = self._lost.pop(seat.key, False)
            bounds = Bounds(self._limits.memory_bytes, self._limits.processes)
            cgroup = self._cgroups.adopt(box.pid, bounds, cpus=_CPUS) if self._cgroups is not None else None
            seat.session = Session(box, self._limits, self._watchdog, cgroup, born_at=self._clock(), lost=lost)
        session = seat.session
        session.used_at = self._clock()
        session.lost = session.lost and session.is_fresh
        return session

    def _leave(self, seat: _Seat) -> None:
        """Somebody has done with the session."""
        if (session := seat.session) is not None:
            session.used_at = self._clock()
            if not session.is_alive or (seat.is_ended and not seat.users):
                self._dismiss(seat)
        if seat.session is None and not seat.users and self._seats.get(seat.key) is seat:
            del self._seats[seat.key]
        self._make_room()

    def _is_over(self, session: Session) -> bool:
        now = self._clock()
        is_idle = now - session.used_at >= self._limits.idle_s
        return is_idle or now - session.born_at >= self._limits.life_s or not session.is_alive

    def _dismiss(self, seat: _Seat) -> None:
        """The session is closed, and its place given back then."""
        session, seat.session = seat.session, None
        if session is None:
            return
        if not seat.is_ended and (session.lost or not session.is_fresh):
            self._lost[seat.key] = True
            if len(self._lost) > _LOST:
                self._lost.popitem(last=False)
        self._leaving += 1
        self._end(self._close_session(session))

    async def _close_session(self, session: Session) -> None:
        try:
            await session.close()
        finally:
            self._free_slot(session.box)
            self._leaving -= 1
            self._give_place()

    # --- places

    async def _take_place(self) -> None:
        """A place among ``maximum``; who comes first gets the first."""
        if self._free_places:
            self._free_places -= 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._make_room()
        try:
            async with asyncio.timeout(self._wait_s):
                await place
        except BaseException as error:
            if place.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(place)
            else:
                # It came in the same moment.
                self._give_place()
            if isinstance(error, TimeoutError):
                raise SandboxFull(
                    f"All {self._maximum} sessions of the code interpreter are busy. Try again later, or let the "
                    "server have more of them (--sandbox-sessions)."
                ) from None
            raise

    def _give_place(self) -> None:
        while self._waiting:
            if not (place := self._waiting.popleft()).done():
                place.set_result(None)
                return
        self._free_places += 1

    def _make_room(self) -> None:
        """Closes sessions, those that are idle for longest first, for calls that wait."""
        while len(self._waiting) > self._leaving:
            idle = [seat for seat in self._seats.values() if seat.session is not None and not seat.users]
            if not idle:
                return
            longest = min(idle, key=_used_at)
            self._dismiss(longest)
            del self._seats[longest.key]

    # --- boxes

    async def _take_box(self) -> Box:
        """A warm box, or else one that imports what the code wants when it wants it."""
        while self._pool:
            box = self._pool.popleft()
            self._refill.set()
            if box.is_alive:
                return box
            self._end(self._close_box(box))
        await self._until_ready()
        try:
            box = await self._start_box(warm=False)
        except BoxFailed as failure:
            self._look_again()
            off = Off(f"a box did not start: {failure.message.rstrip('.')}", mend_for(failure.message))
            raise SandboxOff(off) from failure
        except asyncio.CancelledError:
            # Cancelled by `close`, the start, or else the caller.
            if self._is_closed:
                await self._until_ready()
            raise
        if self._is_closed:
            await self._until_ready()
        return box

    async def _start_box(self, *, warm: bool) -> Box:
        tier = self._tier
        assert tier is not None
        slot = self._take_slot()
        starting = asyncio.create_task(self._start_in(tier, slot, warm=warm), name="sandbox-start")
        self._starts.add(starting)
        try:
            return await starting
        finally:
            self._starts.discard(starting)

    async def _start_in(self, tier: Tier, slot: int, *, warm: bool) -> Box:
        try:
            async with self._may_start:
                box = await tier.start(slot, warm=warm)
        except BaseException:
            self._taken_slots.discard(slot)
            raise
        self._slots[box] = slot
        return box

    async def _close_box(self, box: Box) -> None:
        try:
            await box.close()
        finally:
            self._free_slot(box)

    def _take_slot(self) -> int:
        slot = next(slot for slot in range(len(self._taken_slots) + 1) if slot not in self._taken_slots)
        self._taken_slots.add(slot)
        return slot

    def _free_slot(self, box: Box) -> None:
        if (slot := self._slots.pop(box, None)) is not None:
            self._taken_slots.discard(slot)

    def _end(self, work: Coroutine[Any, Any, None]) -> None:
        """Something that ends, beside everything else; `close` waits for it."""
        task = asyncio.create_task(work, name="sandbox-end")
        self._endings.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._endings.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sandbox_not_closed", error=error)

    def _drop_pool(self) -> None:
        while self._pool:
            self._end(self._close_box(self._pool.popleft()))

    async def _refill_on(self) -> None:
        while True:
            await self._refill.wait()
            self._refill.clear()
            while isinstance(self._state, Ready) and len(self._pool) < self._pool_size:
                if _CPUS <= 2:
                    # Importing takes a second of one of them.
                    await self._uses.wait_for_none()
                try:
                    box = await self._start_box(warm=True)
                except Exception as error:
                    log.warning("sandbox_pool_failed", error=error)
                    self._look_again()
                    await asyncio.sleep(AGAIN_S)
                else:
                    self._pool.append(box)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                self.sweep()
            except Exception as error:
                log.error("sandbox_sweep_failed", error=error)

    def sweep(self) -> None:
        """Closes what has been idle or alive for too long, and what is dead."""
        for seat in list(self._seats.values()):
            if not seat.users and seat.session is not None and self._is_over(seat.session):
                self._dismiss(seat)
                del self._seats[seat.key]
        for box in [box for box in self._pool if not box.is_alive]:
            self._pool.remove(box)
            self._end(self._close_box(box))
            self._refill.set()

    # --- state

    async def _attend(self) -> None:
        while True:
            self._attention.clear()
            try:
                await self._look()
            except Exception as error:
                # Whatever it was, the next look may find it mended.
                log.error("sandbox_look_failed", error=error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READY_LOOK_S if isinstance(self._state, Ready) else LOOK_S):
                    await self._attention.wait()

    def _look_again(self) -> None:
        self._is_suspect = True
        self._attention.set()

    async def _look(self) -> None:
        environment = await asyncio.to_thread(read_environment, self._place, self._packages)
        if environment is None:
            self._tested = None
            self._become(Off(*await asyncio.to_thread(self._absence)))
            self._drop_pool()
            return
        again_at = self._tested_at + AGAIN_S
        is_again = isinstance(self._state, Off) and time.monotonic() >= again_at
        if environment == self._tested and not self._is_suspect and not is_again:
            return
        if environment != self._tested:
            self._drop_pool()
            self._become(Starting("the sandbox tests itself"))
        tier = self._make_tier(environment)
        self._is_suspect = False
        off = await self._examine(tier)
        self._tested, self._tested_at = environment, time.monotonic()
        if off is not None:
            self._become(off)
            self._drop_pool()
            return
        self._tier = tier
        if self._held is not None:
            self._held.close()
        self._held = environment.hold()
        self._become(Ready(tier.name, environment))
        self._refill.set()

    async def _examine(self, tier: Tier) -> Off | None:
        slot = self._take_slot()
        try:
            return await self._test(tier, self._limits, slot)
        finally:
            self._taken_slots.discard(slot)

    def _become(self, state: State) -> None:
        before, self._state = self._state, state
        if isinstance(state, Starting):
            self._is_settled.clear()
        else:
            self._is_settled.set()
        if state == before or (isinstance(state, Off) and isinstance(before, Off) and state.mend == before.mend):
            # How far an installation is, is no news.
            return
        match state:
            case Ready(tier, environment):
                log.info("sandbox_ready", tier=tier, packages=len(environment.packages))
            case Off(reason, mend):
                log.warning("sandbox_off", reason=reason, mend=mend)
            case Starting():
                pass
        self._tell(state)


_CPUS: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _used_at(seat: _Seat) -> float:
    return seat.session.used_at if seat.session is not None else 0.0
