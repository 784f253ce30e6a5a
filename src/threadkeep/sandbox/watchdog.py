"""What boxes use, looked at from outside, where the code inside has no say: memory, files in memory, processes.

    is a cgroup v2 subtree ours?  yes ─▶ Cgroups: the kernel keeps each box to its bounds at every moment
                                  no  ─▶ Watchdog: looks four times a second, and stops what is over its bounds

Between two looks a box can take what the resource limits of one process let it; the watchdog is what bounds many
processes together.
"""
# ruff: noqa: PTH123, PTH208
# Many small reads, often: without pathlib they cost half

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, NamedTuple

from threadkeep.logs import Log

log = Log(__name__)

PERIOD_S: Final = 0.25
# Boxes in which nothing executes may still have processes that were left in the background.
IDLE_PERIOD_S: Final = 2.0
# What the kernel keeps for a file in memory beside its content, roughly. It is charged to nobody.
_INODE_BYTES: Final = 1024
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

Excess = Literal["memory", "processes"]


class Bounds(NamedTuple):
    """What one box may use: the processes' own and shared memory and files in memory together, and how many run."""

    memory_bytes: int
    processes: int


class Usage(NamedTuple):
    memory_bytes: int
    processes: int


class Watched:
    """A box while the watchdog looks at it. ``over`` is called in the event loop, once, when a bound is passed."""

    def __init__(self, pid: int, bounds: Bounds, folders: Sequence[str], over: Callable[[Excess], None]) -> None:
        # The first process in the box, as this machine numbers it.
        self.pid = pid
        self.bounds = bounds
        # Where files in memory are mounted inside; none where the box sees the host's own folders.
        self.folders = folders
        self.over = over
        self.is_executing = False
        # As the last look found it.
        self.usage = Usage(0, 0)


class Watchdog:
    """Looks at every box that it was given, often at those that execute. ``total_bytes`` bounds all of them together:
    when it is passed, the largest is over."""

    def __init__(self, *, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._watched: set[Watched] = set()
        self._something = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # A thread of its own: in a shared one a look would wait behind whatever is slow there.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="watchdog")

    def start(self) -> None:
        """Begins to look; call it once, inside the running loop."""
        self._task = asyncio.create_task(self._look_on())

    async def close(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def add(self, watched: Watched) -> None:
        self._watched.add(watched)
        self._something.set()

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def hurry(self) -> None:
        """Something began to execute: the next look is not left until boxes that are idle are looked at."""
        self._something.set()

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        all_due_at = loop.time() + IDLE_PERIOD_S
        while True:
            if any(each.is_executing for each in self._watched):
                await asyncio.sleep(PERIOD_S)
            else:
                self._something.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(all_due_at if self._watched else None):
                        await self._something.wait()
                        # What has just begun to execute is looked at a period later: most calls are over by then.
                        continue
            if is_whole := loop.time() >= all_due_at:
                all_due_at = loop.time() + IDLE_PERIOD_S
            if not (looked_at := [each for each in self._watched if each.is_executing or is_whole]):
                continue
            try:
                await self._look(looked_at)
            except Exception as error:
                # Whatever it was, the watchdog outlives it.
                log.error("watchdog_failed", error=error)

    async def _look(self, looked_at: Sequence[Watched]) -> None:
        await self._measure(looked_at, is_exact=False)
        for each in looked_at:
            if each.usage.memory_bytes > each.bounds.memory_bytes:
                self._stop(each, "memory")
            elif each.usage.processes > each.bounds.processes:
                self._stop(each, "processes")
        if self._all() > self._total_bytes:
            # What was enough to see that each keeps its bounds counts libraries once for each process.
            await self._measure(list(self._watched), is_exact=True)
            if self._all() > self._total_bytes:
                self._stop(max(self._watched, key=lambda each: each.usage.memory_bytes), "memory")

    def _all(self) -> int:
        return sum(each.usage.memory_bytes for each in self._watched)

    async def _measure(self, watched: Sequence[Watched], *, is_exact: bool) -> None:
        asked = [(each.pid, each.folders, 0 if is_exact else each.bounds.memory_bytes) for each in watched]
        loop = asyncio.get_running_loop()
        usages = await loop.run_in_executor(self._thread, _measure_all, asked)
        for each, usage in zip(watched, usages, strict=True):
            each.usage = usage

    def _stop(self, watched: Watched, excess: Excess) -> None:
        if watched in self._watched:
            # Told once. Whoever is told adds the box again if it goes on.
            self._watched.discard(watched)
            memory_bytes, processes = watched.usage
            log.warning("sandbox_over_bounds", excess=excess, memory_bytes=memory_bytes, processes=processes)
            watched.over(excess)


def _measure_all(asked: Iterable[tuple[int, Sequence[str], int]]) -> list[Usage]:
    return [measure(pid, folders, exact_above=exact_above) for pid, folders, exact_above in asked]


# --- /proc


def processes(pid: int) -> list[int]:
    """``pid`` and everything that descends from it, parents first. What begins or ends meanwhile may be missed."""
    found = [pid]
    # Grows while it is walked. What loses its parent in a box belongs to the box's first process from then on.
    for parent in found:
        found += _children(parent)
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return children
    for thread in threads:
        children += [int(child) for child in _read(f"/proc/{pid}/task/{thread}/children").split()]
    return children


def measure(pid: int, folders: Sequence[str] = (), *, exact_above: int = 0) -> Usage:
    """What the processes under ``pid`` use, files in memory under ``folders`` (as the box sees them) included.

    Up to ``exact_above`` it is an upper bound that costs little; above, memory that processes share is divided among
    them where the kernel tells, so that one that forks with much in memory is not taken for many that have much.
    """
    pids = processes(pid)
    kernels = _bytes_of_files(pid, folders) + _bytes_of_sockets(pid)
    memory = kernels + sum(map(_resident, pids))
    if memory > exact_above:
        memory = kernels + sum(_own_memory(each) for each in pids)
    return Usage(memory, len(pids))


def _resident(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def _own_memory(pid: int) -> int:
    """Anonymous and shared memory, without mapped files: those are the page cache's, and go when they must."""
    if shares := _kilobytes(f"/proc/{pid}/smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")):
        return shares
    return _kilobytes(f"/proc/{pid}/status", ("RssAnon:", "RssShmem:"))


def _kilobytes(path: str, names: tuple[str, ...]) -> int:
    return sum(int(line.split()[1]) * 1024 for line in _read(path).splitlines() if line.startswith(names))


def _bytes_of_files(pid: int, folders: Sequence[str]) -> int:
    """What files in memory take that the process sees: contents, and what the kernel keeps for each."""
    taken = 0
    for folder in folders:
        try:
            # Mount points of the box's own read-only root: nothing inside can put another thing in their place.
            use = os.statvfs(f"/proc/{pid}/root{folder}")
        except OSError:
            return 0
        taken += (use.f_blocks - use.f_bfree) * use.f_frsize + (use.f_files - use.f_ffree) * _INODE_BYTES
    return taken


def _bytes_of_sockets(pid: int) -> int:
    """What waits in sockets that nobody reads is no process's memory. Nothing tells how much it is: so, at most."""
    try:
        if Path(f"/proc/{pid}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino:
            # It has no network of its own: these would be this machine's.
            return 0
    except OSError:
        # This user may not see it. What shares this machine's network is this user's own, and may be seen.
        pass
    used = _read(f"/proc/{pid}/net/sockstat").partition("\n")[0].removeprefix("sockets: used ")
    buffer = _read("/proc/sys/net/core/wmem_default").strip()
    # The last message may pass the end of the buffer.
    return int(used) * 2 * int(buffer) if used.isdigit() and buffer.isdigit() else 0


def _read(path: str) -> str:
    """Empty when the process is gone, or may not be looked at so closely."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# --- cgroup v2


class Cgroup:
    """The group of one box: the kernel keeps it to its bounds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def memory_kills(self) -> int:
        """How many processes the kernel ended because the box wanted more memory than it may have."""
        for line in _read(str(self._folder / "memory.events")).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
        return 0

    def remove(self) -> None:
        """Call it when no process is left in it."""
        try:
            self._folder.rmdir()
        except OSError as error:
            log.warning("cgroup_not_removed", error=error)


class Cgroups:
    """A part of the cgroup v2 tree that is this process's to divide.

    its own group/        was this process's alone
    ├── server/           it moves there: a group with controllers for its children has no processes of its own
    └── boxes/            memory.max: all boxes together
        └── 1/            memory.max, pids.max, cpu.max
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0

    @classmethod
    def take(cls, *, total_bytes: int, mount: Path = Path("/sys/fs/cgroup"), own: Path | None = None) -> Cgroups | None:
        """None where there is no such part: no cgroup v2, controllers kept back, or other processes in the group."""
        if (folder := cls.delegated(mount, own or Path("/proc/self/cgroup"))) is None:
            return None
        server, boxes = folder / "server", folder / "boxes"
        try:
            server.mkdir(exist_ok=True)
            _write(server / "cgroup.procs", str(os.getpid()))
            try:
                _write(folder / "cgroup.subtree_control", "+memory +pids +cpu")
                boxes.mkdir(exist_ok=True)
                _write(boxes / "cgroup.subtree_control", "+memory +pids +cpu")
                _write(boxes / "memory.max", str(total_bytes))
            except OSError:
                _write(folder / "cgroup.procs", str(os.getpid()))
                raise
        except OSError as error:
            log.info("cgroup_not_delegated", error=error)
            return None
        return cls(boxes)

    @staticmethod
    def delegated(mount: Path, own: Path) -> Path | None:
        """The folder of this process's group, if it may be divided."""
        if not (mount / "cgroup.controllers").is_file():
            return None
        paths = [line[3:] for line in _read(str(own)).splitlines() if line.startswith("0::/")]
        if len(paths) != 1 or ".." in paths[0].split("/"):
            return None
        folder = mount / paths[0].lstrip("/")
        if not {"memory", "pids", "cpu"} <= set(_read(str(folder / "cgroup.controllers")).split()):
            return None
        # Others are not ours to move.
        if _read(str(folder / "cgroup.procs")).split() != [str(os.getpid())]:
            return None
        files = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
        return folder if all(os.access(path, os.W_OK) for path in files) else None

    def adopt(self, pid: int, bounds: Bounds, *, cpus: int) -> Cgroup | None:
        """Moves a box that has run no code yet into a group of its own. None when that fails: watch it instead."""
        self._count += 1
        folder = self._folder / str(self._count)
        try:
            folder.mkdir()
            _write(folder / "memory.max", str(bounds.memory_bytes))
            _write(folder / "pids.max", str(bounds.processes + 8))
            _write(folder / "cpu.max", f"{cpus * 100_000} 100000")
            # It has no processes yet but these, and they make none before they are told to run code.
            for each in processes(pid):
                _write(folder / "cgroup.procs", str(each))
        except OSError as error:
            log.warning("cgroup_failed", error=error)
            return None
        return Cgroup(folder)


def _write(path: Path, text: str) -> None:
    # Files that are not there are not made: in this tree that would be another's mistake.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
