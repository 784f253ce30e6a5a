"""The probes find what they look for: each is run in a box from which the layer that stops it was taken.

What is missing is missing in these boxes alone, and nothing is asked for in them that would change this machine.
"""

import os
import textwrap
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.attacks.conftest import MIB, Listeners, found_in, neighbour, probing
from tests.sandbox.test_selftest import Weakened
from threadkeep.sandbox.box import Box, Logs, Output
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.limits import Limits
from threadkeep.sandbox.watchdog import measure

LIMITS = Limits(memory_bytes=512 * MIB, disk_bytes=32 * MIB, scratch_bytes=16 * MIB, processes=40)
SLOT = 50


class Open(Weakened):
    """Without the filter of system calls, too, when that is asked for."""

    has_filter = True

    def _arguments(self, uid: int | None, etc: dict[str, int], seccomp: int, info: int) -> list[str]:
        arguments = super()._arguments(uid, etc, seccomp, info)
        if not self.has_filter:
            at = arguments.index("--seccomp")
            del arguments[at : at + 2]
        return arguments


@pytest.fixture
def tier(sandbox_environment: Environment, bubblewrap: str) -> Open:
    return Open(sandbox_environment, LIMITS)


@asynccontextmanager
async def box_of(tier: Open) -> AsyncGenerator[Box]:
    box = await tier.start(SLOT, warm=False)
    try:
        yield box
    finally:
        await box.close()


async def text_of(box: Box, code: str) -> str:
    said: list[Output] = []
    await box.execute(code, said.append, timeout_s=60)
    return "".join(each.text for each in said if isinstance(each, Logs))


async def finds(box: Box, probe: str, **plan: object) -> list[str]:
    return found_in(await text_of(box, probing(probe, plan)))


async def test_without_the_filter_sockets_calls_and_hidden_memory_go_through(tier: Open) -> None:
    tier.has_filter = False
    async with box_of(tier) as box:
        assert len(await finds(box, "sockets")) > 3
        assert len(await finds(box, "kernel_interfaces")) > 3
        assert any("process_vm_readv" in each for each in await finds(box, "other_processes"))
        assert "shared memory gave 67108864 bytes" in await finds(box, "hidden_memory", bytes=64 * MIB)
        assert "larger buffers of sockets" in await finds(box, "the_machines_share")
        if os.uname().machine == "x86_64":
            assert await finds(box, "old_system_calls") != []


async def test_without_namespaces_of_their_own_listeners_and_processes_are_found(
    tier: Open, listeners: Listeners
) -> None:
    tier.without = ("--unshare-net",)
    abstract = [each for each in listeners.unix if each.startswith("@")]
    async with box_of(tier) as box:
        assert await finds(box, "listeners", tcp=[], unix=abstract) == [f"{abstract[0]} answers"]
    # Who came was the probe.
    listeners.expected.append(abstract[0])
    if os.geteuid() != 0:
        return  # what a box does to its own processes it would do to all of this user's
    tier.without = ("--as-pid-1", "--unshare-pid")
    with neighbour("secret") as process:
        async with box_of(tier) as box:
            found = await finds(box, "signals", pids=[process.pid])
            seen = await text_of(box, probing("seen_text", {}))
    assert f"process {process.pid} is seen" in found
    assert "sleep 600" in seen


async def test_with_a_folder_of_the_host_its_files_and_sockets_are_found(tier: Open, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret", encoding="ascii")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    below = ("--perms", "0755", "--dir", "/srv", "--perms", "0777", "--tmpfs", "/srv/open")
    tier.more = (*below, "--ro-bind", str(tmp_path), "/srv/host")
    async with box_of(tier) as box:
        assert "_read reached /srv/host/secret" in await finds(box, "host_files", paths=["/srv/host/secret"])
        assert any("/srv/open" in each for each in await finds(box, "writable_places"))


async def test_with_devices_and_without_sizes_that_is_found(tier: Open) -> None:
    tier.more = ("--dev-bind", "/dev/zero", "/dev/zero", "--perms", "0777", "--tmpfs", "/tmp")
    async with box_of(tier) as box:
        hidden = await finds(box, "hidden_memory", bytes=64 * MIB)
        assert "/dev/zero gave 67108864 bytes" in hidden
        assert "a file without a name in /tmp gave 67108864 bytes" in hidden
        assert any(each.startswith("/tmp took") for each in await finds(box, "full_disks", bytes=64 * MIB))


async def test_what_the_watchdog_counts_is_what_was_taken(tier: Open) -> None:
    """Nobody looks at this box, so what is taken stays; more is not taken than there may be."""
    take = """
        import os, socket, time
        for _ in range(3):
            if os.fork() == 0:
                held = b"x" * (60 * 2**20)
                time.sleep(60)
                os._exit(0)
        sockets = [socket.socketpair() for _ in range(60)]
        for pair in sockets:
            for each in pair:
                each.setblocking(False)
                try:
                    while True: each.send(bytes(65536))
                except BlockingIOError: pass
        open("/mnt/data/file", "wb").write(bytes(16 * 2**20))
        time.sleep(1)
    """
    async with box_of(tier) as box:
        before = measure(box.pid, ("/mnt/data",)).memory_bytes
        await text_of(box, textwrap.dedent(take))
        grown = measure(box.pid, ("/mnt/data",)).memory_bytes - before
    # Three processes, a file, and what 120 sockets hold.
    assert grown > (3 * 60 + 16 + 20) * MIB
