"""What code must not reach: the host's files and secrets, its sockets, its processes, its kernel."""

import contextlib
import os
import resource
from pathlib import Path

from tests.attacks.conftest import DISK_BYTES, PROCESSES, Attacker, Host, Listeners, is_there, neighbour, probing


def test_files_of_the_host_and_of_the_server_cannot_be_read(attacker: Attacker, host: Host) -> None:
    data = host.folder / "data"
    paths = [
        *map(str, (host.folder / ".ssh/id_ed25519", host.folder / "neighbour/secret", data / "blobs/secret")),
        *map(str, data.glob("threadkeep.db*")),
        *(str(host.folder), str(data), str(Path(__file__))),
        *("/etc/shadow", "/etc/hostname", "/etc/machine-id", "/var/log", "/run", "/sys", "/boot"),
    ]
    assert len(paths) > 12
    assert attacker.finds("host_files", paths=paths) == []


def test_secrets_of_the_server_are_nowhere_to_be_seen(attacker: Attacker, host: Host) -> None:
    with neighbour(f"neighbours-{host.secret}"):
        ran = attacker.run(probing("seen_text", {}))
    assert "environ" in ran.logs
    assert host.secret not in ran.logs
    assert "sleep 600" not in ran.logs
    assert "/proc/net/unix" not in ran.logs
    assert str(host.folder) not in ran.logs
    for name in ("THREADKEEP_", "ATTACK_SECRET", "XDG_DATA_HOME"):
        assert name not in ran.logs


def test_nothing_can_be_written_but_the_sessions_own_folders(attacker: Attacker) -> None:
    assert attacker.finds("writable_places") == []


def test_there_are_no_sockets_of_any_family_but_this_machines(attacker: Attacker) -> None:
    assert attacker.finds("sockets") == []


def test_nobody_who_listens_on_this_machine_is_reached(attacker: Attacker, host: Host, listeners: Listeners) -> None:
    server = ("127.0.0.1", int(host.program.url.rpartition(":")[2]))
    unix = [*listeners.unix, *_sockets_of_this_machine()]
    assert attacker.finds("listeners", tcp=[*listeners.tcp, server], unix=unix) == []
    assert len(listeners.unix) == 3


def _sockets_of_this_machine() -> list[str]:
    """Those that others have in the file system, or in the kernel by name."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
            fields = line.split(maxsplit=7)
            if len(fields) == 8:
                found.append(fields[7])
    return [*dict.fromkeys(found)][:30]


def test_no_process_of_the_host_gets_a_signal_or_is_seen(attacker: Attacker, host: Host) -> None:
    with neighbour(host.secret) as process:
        assert attacker.finds("signals", pids=[process.pid, host.program.pid, os.getpid(), os.getppid()]) == []
        assert process.poll() is None
    assert is_there(host.program.pid)


def test_the_first_process_of_a_box_is_neither_ended_nor_read(attacker: Attacker) -> None:
    attacker.run("kept = 1")
    assert attacker.finds("first_process") == []
    assert attacker.run("print(kept)").logs == "1\n"


def test_no_process_looks_into_another(attacker: Attacker) -> None:
    assert attacker.finds("other_processes") == []


def test_the_kernels_interfaces_are_closed(attacker: Attacker) -> None:
    assert attacker.finds("kernel_interfaces") == []


def test_there_are_no_further_namespaces(attacker: Attacker) -> None:
    assert attacker.finds("namespaces") == []


def test_older_ways_into_the_kernel_end_the_process(attacker: Attacker) -> None:
    assert attacker.finds("old_system_calls") == []


def test_devices_are_neither_there_nor_made(attacker: Attacker) -> None:
    assert attacker.finds("devices") == []


def test_rights_are_not_gained(attacker: Attacker) -> None:
    assert attacker.finds("more_rights") == []


def test_code_starts_with_nothing_open_that_leads_anywhere(host: Host) -> None:
    fresh = host.attacker()
    assert fresh.finds("descriptors") == []
    fresh.close()


def test_bounds_of_one_process_hold(attacker: Attacker) -> None:
    assert attacker.finds("one_process_memory", bytes=2 * 1024**3) == []
    assert attacker.finds("many_descriptors") == []
    assert attacker.finds("the_machines_share") == []
    assert attacker.finds("many_threads", processes=PROCESSES) == []


def test_memory_is_not_hidden_from_whoever_counts(attacker: Attacker) -> None:
    assert attacker.finds("hidden_memory", bytes=64 * 1024**2) == []


def test_a_crash_calls_no_program_of_the_host(attacker: Attacker) -> None:
    # With a limit of 0 the kernel would still hand the core to what core_pattern names.
    most = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
    ran = attacker.run("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")
    assert ran.logs == f"({most}, {most})\n"


def test_disks_end_where_they_are_said_to(attacker: Attacker) -> None:
    assert attacker.finds("full_disks", bytes=2 * DISK_BYTES) == []
