"""Tries what code in a box must not be able to do. It runs in a box as a model's code does, never in the server.

`selftest` sends this file's text, and a line that calls `attack`. What is printed is a line of JSON: what got through.
Standard library alone; nothing is sent anywhere, and what is tried on the system's own calls would do nothing there.
"""
# ruff: noqa: PTH108, PTH118, PTH123, PTH208, T201
# It runs where there is nothing but the standard library and its printed words

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any

# Numbers of system calls: they differ between kinds of machines.
CALLS = {
    "x86_64": {
        "acct": 163, "add_key": 248, "bpf": 321, "chroot": 161, "fsopen": 430, "init_module": 175,
        "io_uring_setup": 425, "kcmp": 312, "kexec_load": 246, "keyctl": 250, "mount": 165, "move_mount": 429,
        "mq_open": 240, "msgget": 68, "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298,
        "pidfd_getfd": 438, "pivot_root": 155, "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101,
        "reboot": 169, "setns": 308, "shmget": 29, "syslog": 103, "umount2": 166, "unshare": 272, "userfaultfd": 323,
        "memfd_create": 319, "clone3": 435,
    },
    "aarch64": {
        "acct": 89, "add_key": 217, "bpf": 280, "chroot": 51, "fsopen": 430, "init_module": 105,
        "io_uring_setup": 425, "kcmp": 272, "kexec_load": 104, "keyctl": 219, "mount": 40, "move_mount": 429,
        "mq_open": 180, "msgget": 186, "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241,
        "pidfd_getfd": 438, "pivot_root": 41, "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117,
        "reboot": 142, "setns": 268, "shmget": 194, "syslog": 116, "umount2": 39, "unshare": 97, "userfaultfd": 282,
        "memfd_create": 279, "clone3": 435,
    },
}  # fmt: skip
# These are refused before the kernel looks at what is asked for. Another error means that it did look.
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
DEVICES = {
    "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd", "stdin", "stdout",
    "stderr", "core",
}  # fmt: skip


def attack(plan: dict[str, Any]) -> None:
    """Prints ``plan["mark"]`` and what got through."""
    found: list[str] = []
    for attempt in (rights, system_calls, sockets, files, devices, file_systems, limits, others, surroundings):
        try:
            attempt(plan, found.append)
        except Exception as error:
            # What was not tried through to its end shows nothing.
            found.append(f"the attempt on {attempt.__name__} broke off: {type(error).__name__}: {error}")
    print(plan["mark"] + json.dumps(found))


def rights(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if 0 in os.getresuid() or 0 in os.getresgid():
        tell("code runs as root")
    sets = ctypes.create_string_buffer(24)
    if libc.capget(struct.pack("=Ii", 0x20080522, 0), sets) != 0 or any(sets.raw):
        tell("code has capabilities")
    if any(libc.prctl(23, capability, 0, 0, 0) == 1 for capability in range(64)) and plan["is_root"]:
        tell("code may be given capabilities")
    if libc.prctl(21, 0, 0, 0, 0) != 2:
        tell("no system calls are filtered")
    if libc.prctl(39, 0, 0, 0, 0) != 1:
        tell("code may gain rights from set-uid files")
    for become in (os.setuid, os.setgid):
        try:
            become(0)
            tell("code may become root")
        except OSError:
            pass


def system_calls(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    numbers = CALLS.get(os.uname().machine)
    if numbers is None:
        tell(f"no system calls are known for {os.uname().machine}")
        return
    for name, number in numbers.items():
        # Arguments that no kernel does anything with, whoever asks.
        arguments = [ctypes.c_long(-1) for _ in range(6)]
        if name == "unshare":
            arguments[0] = ctypes.c_long(0x10000000)  # CLONE_NEWUSER
        ctypes.set_errno(0)
        if libc.syscall(ctypes.c_long(number), *arguments) != -1 or ctypes.get_errno() not in REFUSED:
            tell(f"the system call {name} is not refused ({os.strerror(ctypes.get_errno())})")

    # A process in namespaces of its own: user, mount, network.
    child = libc.syscall(ctypes.c_long({"x86_64": 56, "aarch64": 220}[os.uname().machine]), 0x50020011, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
        tell("namespaces can be made")


def sockets(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    open_families: set[str] = set()
    for family in range(2, 48):
        for kind in kinds:
            try:
                socket.socket(family, kind).close()
                open_families.add(str(family))
            except OSError as error:
                if error.errno not in REFUSED:
                    open_families.add(str(family))
    if open_families:
        tell(f"sockets of the families {', '.join(sorted(open_families))} are not refused")
    try:
        with open("/proc/net/dev", encoding="ascii") as table:
            devices = {line.split(":")[0].strip() for line in table if ":" in line}
        if devices - {"lo"}:
            tell("there is a network: " + ", ".join(sorted(devices - {"lo"})))
    except OSError:
        # There is no /proc; what it says is looked at from outside.
        pass


def files(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    for path in plan["secrets"]:
        for way in (path, f"/proc/1/root{path}", f"/proc/self/root{path}", f"/proc/{os.getppid()}/root{path}"):
            try:
                with open(way, "rb") as file:
                    file.read(1)
                tell(f"a file of the host can be read: {way}")
            except OSError:
                pass
    writable = set(plan["sizes"])
    folders = ["/", "/bin", "/dev", "/etc", "/home", "/lib", "/mnt", "/opt", "/proc", "/root", "/run", "/srv", "/sys",
               "/usr", "/usr/local", "/var", "/var/tmp", "/proc/sys/kernel", *plan["folders"]]  # fmt: skip
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            folders += [line.split()[4] for line in mounts]
    except OSError:
        pass
    for folder in sorted(set(folders) - writable):
        path = os.path.join(folder, "threadkeep-selftest")
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            os.unlink(path)
            tell(f"{folder} can be written")
        except OSError:
            pass
    for fd in range(3, 1024):
        try:
            kind = os.fstat(fd).st_mode
        except OSError:
            continue
        if stat.S_ISDIR(kind) or stat.S_ISBLK(kind) or stat.S_ISSOCK(kind):
            tell(f"descriptor {fd} leads out of the box")


def devices(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    try:
        if more := set(os.listdir("/dev")) - DEVICES:
            tell("there are devices: " + ", ".join(sorted(more)[:5]))
    except OSError:
        pass
    for folder in plan["sizes"]:
        path = os.path.join(folder, "device")
        try:
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(8, 0))
            os.unlink(path)
            tell("devices can be made")
        except OSError:
            pass


def file_systems(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    for folder, most in plan["sizes"].items():
        room = os.statvfs(folder)
        size = room.f_blocks * room.f_frsize
        if not 0 < size <= most + 65536:
            tell(f"{folder} has {size} bytes where {most} are allowed")
            continue
        if size >= resource.getrlimit(resource.RLIMIT_FSIZE)[0]:
            # No one file shows it, and to fill it with several would take its memory.
            continue
        path = os.path.join(folder, "threadkeep-selftest")
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # The kernel refuses the whole before it takes memory for it.
            os.posix_fallocate(fd, 0, size + 65536)
            tell(f"{folder} takes more than its {size} bytes")
        except OSError:
            pass
        finally:
            os.close(fd)
            os.unlink(path)


def limits(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    for name, most in plan["limits"].items():
        _, hard = resource.getrlimit(getattr(resource, name))
        if hard == resource.RLIM_INFINITY or hard > most:
            tell(f"{name} is {hard}, not {most}")


def others(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    own: set[int] = set()
    try:
        own = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    except OSError:
        pass
    if own and os.getpid() not in own:
        tell("/proc does not show this process")
    if len(own) > plan["processes"]:
        tell(f"{len(own)} processes are seen")
    for pid in plan["pids"]:
        if pid > 64:
            try:
                os.kill(pid, 0)
                tell("processes of the host can be reached")
            except ProcessLookupError:
                pass
            except OSError:
                tell("processes of the host are seen")
    for pid in own - {os.getpid()}:
        for name in ("environ", "mem", "maps", "fd"):
            try:
                if name == "fd":
                    os.listdir(f"/proc/{pid}/fd")
                else:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        file.read(1)
                tell(f"/proc/{pid}/{name} can be read")
            except OSError:
                pass


def surroundings(plan: dict[str, Any], tell: Callable[[str], None]) -> None:
    # They are looked through outside: what to look for is not told in here.
    print(plan["mark"] + json.dumps(dict(os.environ)))
