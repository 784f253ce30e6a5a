"""What boxes use is seen from outside; and which part of a cgroup tree is ours to divide."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from threadkeep.sandbox import watchdog
from threadkeep.sandbox.watchdog import Bounds, Cgroups, Excess, Watchdog, Watched, measure, processes

MIB = 1024 * 1024
PATIENCE_S = 30.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what Linux tells in /proc")


@contextmanager
def running(code: str) -> Generator[subprocess.Popen[str], None, None]:
    """A process that has said one line."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            for pid in reversed(processes(process.pid)):
                os.kill(pid, 9)


def test_processes_are_found_with_those_that_threads_and_children_started() -> None:
    code = (
        "import subprocess, sys, threading, time\n"
        "child = [sys.executable, '-c', 'import os, time; os.fork(); time.sleep(60)']\n"
        "threading.Thread(target=lambda: (subprocess.Popen(child), time.sleep(60)), daemon=True).start()\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with running(code) as process:
        deadline = time.monotonic() + PATIENCE_S
        while len(processes(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(processes(process.pid)) == 3


def test_memory_of_processes_and_memory_that_they_share_count() -> None:
    code = (
        "import mmap, time\n"
        "own = b'x' * (64 * 2**20)\n"
        "shared = mmap.mmap(-1, 64 * 2**20)\n"
        "shared.write(b'x' * (64 * 2**20))\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with running(code) as process:
        assert 128 * MIB < measure(process.pid).memory_bytes < 200 * MIB


def test_what_forked_processes_share_counts_once_above_the_bound() -> None:
    code = (
        "import os, time\n"
        "own = b'x' * (128 * 2**20)\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0: time.sleep(60)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with running(code) as process:
        if not watchdog._read(f"/proc/{process.pid}/smaps_rollup"):
            pytest.xfail("the kernel does not tell this user what processes share")
        assert measure(process.pid, exact_above=10**12).memory_bytes > 4 * 128 * MIB
        assert measure(process.pid).memory_bytes < 2 * 128 * MIB


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert measure(process.pid).memory_bytes == 0


async def over(watched: list[tuple[Bounds, int]], total_bytes: int) -> list[tuple[int, Excess]]:
    """Which of the watched was stopped first, with whatever came in the same look."""
    stopped: list[tuple[int, Excess]] = []
    something = asyncio.Event()

    def stop(pid: int, excess: Excess) -> None:
        stopped.append((pid, excess))
        something.set()

    dog = Watchdog(total_bytes=total_bytes)
    dog.start()
    for bounds, pid in watched:
        each = Watched(pid, bounds, (), lambda excess, pid=pid: stop(pid, excess))
        each.is_executing = True
        dog.add(each)
    async with asyncio.timeout(PATIENCE_S):
        await something.wait()
    await dog.close()
    return stopped


async def test_who_has_too_much_memory_is_stopped_and_nobody_else() -> None:
    code = "import time; own = b'x' * (64 * 2**20); print('ready', flush=True); time.sleep(60)"
    with running(code) as large, running(code.replace("64 *", "1 *")) as small:
        bounds = Bounds(48 * MIB, 10)
        assert await over([(bounds, large.pid), (bounds, small.pid)], 10**12) == [(large.pid, "memory")]


async def test_who_has_too_many_processes_is_stopped() -> None:
    code = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: time.sleep(60)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with running(code) as process:
        assert await over([(Bounds(10**12, 3), process.pid)], 10**12) == [(process.pid, "processes")]


async def test_of_all_together_the_largest_is_stopped() -> None:
    code = "import time; own = b'x' * (96 * 2**20); print('ready', flush=True); time.sleep(60)"
    with running(code) as large, running(code.replace("96 *", "32 *")) as small:
        bounds = Bounds(10**12, 10)
        assert await over([(bounds, small.pid), (bounds, large.pid)], 128 * MIB) == [(large.pid, "memory")]


async def test_a_watchdog_that_watches_nothing_can_be_closed() -> None:
    dog = Watchdog(total_bytes=1)
    dog.start()
    await asyncio.sleep(0)
    await dog.close()


# --- cgroups: a folder is no such tree, so only what is read before anything is changed


class Tree:
    """A folder that looks like a cgroup v2 tree in which a service manager gave this process a group."""

    def __init__(self, folder: Path) -> None:
        self.mount = folder / "cgroup"
        self.group = self.mount / "system.slice" / "threadkeep.service"
        self.group.mkdir(parents=True)
        self.own = folder / "self"
        self.own.write_text("0::/system.slice/threadkeep.service\n")
        (self.mount / "cgroup.controllers").write_text("cpu memory pids\n")
        (self.group / "cgroup.controllers").write_text("cpu io memory pids\n")
        (self.group / "cgroup.procs").write_text(f"{os.getpid()}\n")
        (self.group / "cgroup.subtree_control").touch()

    def delegated(self) -> Path | None:
        return Cgroups.delegated(self.mount, self.own)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_group_of_this_process_alone_with_controllers_may_be_divided(tree: Tree) -> None:
    assert tree.delegated() == tree.group


def test_the_first_version_of_cgroups_is_left_alone(tree: Tree) -> None:
    (tree.mount / "cgroup.controllers").unlink()
    assert tree.delegated() is None


def test_a_group_without_the_controllers_is_left_alone(tree: Tree) -> None:
    (tree.group / "cgroup.controllers").write_text("cpu pids\n")
    assert tree.delegated() is None


def test_a_group_that_others_share_is_left_alone(tree: Tree) -> None:
    (tree.group / "cgroup.procs").write_text(f"1\n{os.getpid()}\n")
    assert tree.delegated() is None


def test_a_group_outside_of_the_tree_is_left_alone(tree: Tree) -> None:
    tree.own.write_text("0::/../../elsewhere\n")
    assert tree.delegated() is None


def test_a_group_that_may_not_be_written_is_left_alone(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def may_be_written(path: Path, mode: int) -> bool:
        return path.name != "cgroup.subtree_control"

    monkeypatch.setattr(os, "access", may_be_written)
    assert tree.delegated() is None


def test_a_box_gets_a_group_with_its_bounds(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel makes these files with a group; here the test does.
    def make(folder: Path, mode: int = 0o777) -> None:
        os.mkdir(folder)  # noqa: PTH102 - it stands in for the method
        for name in ("memory.max", "pids.max", "cpu.max", "cgroup.procs"):
            (folder / name).touch()

    monkeypatch.setattr(Path, "mkdir", make)
    with subprocess.Popen(["sleep", "600"]) as process:
        group = Cgroups(tree.group).adopt(process.pid, Bounds(100, 8), cpus=2)
        process.kill()
    assert group is not None
    folder = tree.group / "1"
    assert (folder / "memory.max").read_text() == "100"
    assert (folder / "cpu.max").read_text() == "200000 100000"
    assert (folder / "cgroup.procs").read_text() == str(process.pid)
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.memory_kills() == 2


def test_a_group_that_cannot_be_made_leaves_the_box_to_the_watchdog(tree: Tree) -> None:
    assert Cgroups(tree.group / "nowhere").adopt(os.getpid(), Bounds(100, 8), cpus=2) is None
