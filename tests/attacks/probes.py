"""What hostile code tries. It runs in a box only: a test sends this file's text, and a line that calls `report`.

A probe tells what got through, a clause each; one that finds nothing prints an empty list. Nothing here goes beyond
this machine's loopback, and what is asked of the kernel would change nothing even if it were granted.
"""
# ruff: noqa: PTH101, PTH108, PTH110, PTH115, PTH116, PTH118, PTH120, PTH123, PTH208, PTH211
# Descriptors, links and races have no words in pathlib

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

MARK = "probe-found:"
Tell = Callable[[str], None]

IS_X86 = os.uname().machine == "x86_64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def report(probe: str, plan: dict[str, Any]) -> None:
    """Prints what the probe found."""
    found: list[str] = []
    try:
        globals()[probe](plan, found.append)
    except Exception as error:
        # What was not tried through to its end shows nothing.
        found.append(f"{probe} broke off: {type(error).__name__}: {error}")
    print(f"\n{MARK}{json.dumps(found)}", flush=True)


def syscall(x86_64: int, aarch64: int, *arguments: object) -> int:
    """The errno, or 0."""
    ctypes.set_errno(0)
    sent: list[Any] = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    sent += [ctypes.c_long(0)] * (6 - len(sent))
    done = libc.syscall(ctypes.c_long(x86_64 if IS_X86 else aarch64), *sent)
    return ctypes.get_errno() or -1 if done == -1 else 0


def text(value: str) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(value.encode())


def in_child(work: Callable[[], object]) -> tuple[int, str]:
    """Runs it in a process of its own. How that ended (as `waitstatus_to_exitcode` has it), and what it returned."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.write(into, str(work()).encode())
            status = 0
        os._exit(status)
    os.close(into)
    with open(out, encoding="utf-8", errors="replace") as said:
        returned = said.read()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), returned


def numbered() -> Iterator[str]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield name


# --- what is the host's


def host_files(plan: dict[str, Any], tell: Tell) -> None:
    ways = ["", "/proc/1/root", "/proc/self/root", "/proc/self/cwd/../..", "/proc/1/cwd/../.."]
    ways += [f"/proc/{pid}/root" for pid in numbered()]
    ways += [f"/proc/self/fd/{fd}/../../../../.." for fd in range(16)] + [f"/dev/fd/{fd}" for fd in range(16)]
    for path in plan["paths"]:
        for way in dict.fromkeys(ways):
            for attempt in (_read, _listed, _lstat):
                try:
                    attempt(way + path)
                    tell(f"{attempt.__name__} reached {way + path}")
                except OSError:
                    pass
        for name, attempt in (("a hard link", os.link), ("a rename", os.rename)):
            try:
                attempt(path, f"/mnt/data/{name}")
                tell(f"{name} of {path}")
            except OSError:
                pass
        os.symlink(path, "/mnt/data/to-the-host")
        try:
            _read("/mnt/data/to-the-host")
            tell(f"a link leads to {path}")
        except OSError:
            pass
        os.unlink("/mnt/data/to-the-host")


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _listed(path: str) -> None:
    os.listdir(path)


def _lstat(path: str) -> None:
    os.lstat(path)


def seen_text(plan: dict[str, Any], tell: Tell) -> None:
    """Prints what of this machine can be read as text; what must not be in it is looked for outside."""
    for pid in numbered():
        for name in ("environ", "cmdline", "comm", "mountinfo", "status", "cgroup", "maps"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                print(pid, name, file.read(200_000).decode("utf-8", "replace").replace("\0", " "))
    print(dict(os.environ))
    for path in ("/proc/net/unix", "/proc/net/tcp", "/proc/net/tcp6", "/proc/keys", "/proc/locks", "/etc/passwd"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            print(file.read(100_000))


def writable_places(plan: dict[str, Any], tell: Tell) -> None:
    own = {"/mnt/data", "/tmp", "/dev/shm", "/home/sandbox"}
    looked = 0
    for top, folders, files in os.walk("/"):
        if any(top == each or top.startswith(f"{each}/") for each in (*own, "/proc")):
            folders.clear()
            continue
        looked += 1
        if looked > 1500:
            break
        for name in (*folders, "written-by-the-probe"):
            path = os.path.join(top, name, "x") if name in folders else os.path.join(top, name)
            if os.path.dirname(path) in own or (top == "/" and name == "proc"):
                continue
            with contextlib.suppress(OSError):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                os.unlink(path)
                tell(f"{path} could be made")
        for name in files[:20]:
            path = os.path.join(top, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(path).st_mode):
                    os.close(os.open(path, os.O_WRONLY))
                    tell(f"{path} could be opened for writing")
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches",
                 "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/1/oom_score_adj",
                 "/proc/1/mem", "/proc/1/comm", "/proc/1/clear_refs", "/dev/kmsg", "/sys/power/state"):  # fmt: skip
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY))
            tell(f"{path} could be opened for writing")


# --- sockets


def sockets(plan: dict[str, Any], tell: Tell) -> None:
    for family in range(46):
        if family == socket.AF_UNIX:
            continue
        for kind in (1, 2, 3, 4, 5, 6, 10, 1 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
            for protocol in (0, 1, 6, 15, 16):
                ctypes.set_errno(0)
                if libc.socket(family, kind, protocol) != -1:
                    tell(f"a socket of family {family}, type {kind}, protocol {protocol}")
                elif ctypes.get_errno() not in (errno.EACCES, errno.EPERM):
                    tell(f"the kernel was asked for a socket of family {family} ({os.strerror(ctypes.get_errno())})")
            pair = (ctypes.c_int * 2)()
            if libc.socketpair(family, kind, 0, pair) != -1:
                tell(f"a pair of sockets of family {family}")
    # The kernel looks at the lower half only.
    if syscall(41, 198, 1 << 32 | socket.AF_INET, socket.SOCK_STREAM) == 0:
        tell("a socket whose family was hidden in the upper half")


def listeners(plan: dict[str, Any], tell: Tell) -> None:
    """The test's own, all on this machine."""
    for address in plan["unix"]:
        name = "\0" + address[1:] if address.startswith("@") else address
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, kind) as asking:
                asking.connect(name)
                tell(f"{address} answers")
    for host, port in plan["tcp"]:
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2):
            tell(f"{host}:{port} answers")
        done = subprocess.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/{host}/{port}"], capture_output=True, timeout=20, check=False
        )
        if done.returncode == 0:
            tell(f"{host}:{port} answers the shell")


# --- processes


def signals(plan: dict[str, Any], tell: Tell) -> None:
    for pid in plan["pids"]:
        if pid <= 64:
            continue
        for how, kill in (("kill", os.kill), ("killpg", os.killpg), ("tgkill", _tgkill), ("pidfd", _pidfd_signal)):
            for number in (0, signal.SIGTERM):
                try:
                    kill(pid, number)
                    tell(f"{how} reached process {pid}")
                except ProcessLookupError:
                    pass
                except OSError as error:
                    tell(f"{how} found process {pid} ({error.strerror})")
        if os.path.lexists(f"/proc/{pid}"):
            tell(f"process {pid} is seen")
        with contextlib.suppress(OSError):
            os.getpriority(os.PRIO_PROCESS, pid)
            tell(f"the priority of process {pid} is seen")
    if (most := len(list(numbered()))) > 40:
        tell(f"{most} processes are seen")


def _tgkill(pid: int, number: int) -> None:
    if (failed := syscall(234, 131, pid, pid, number)) != 0:
        raise OSError(failed, os.strerror(failed))


def _pidfd_signal(pid: int, number: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def first_process(plan: dict[str, Any], tell: Tell) -> None:
    """It is this user's too, and all that keeps code apart from it is the kernel."""
    for number in signal.valid_signals() - {signal.SIGCHLD}:
        with contextlib.suppress(OSError):
            os.kill(1, number)
    for name in ("mem", "maps", "environ", "fd", "fdinfo", "root", "cwd", "exe", "io", "stack", "syscall", "auxv",
                 "ns/pid", "map_files", "pagemap", "smaps"):  # fmt: skip
        for pid in ("1", "1/task/1"):
            path = f"/proc/{pid}/{name}"
            with contextlib.suppress(OSError):
                if name in ("root", "cwd", "exe", "ns/pid"):
                    os.readlink(path)
                elif name in ("fd", "fdinfo", "map_files"):
                    os.listdir(path)
                else:
                    with open(path, "rb") as file:
                        file.read(1)
                tell(f"{path} can be read")
    for fd in range(64):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            with contextlib.suppress(OSError):
                os.close(os.open(f"/proc/1/fd/{fd}", flags | os.O_NONBLOCK))
                tell(f"descriptor {fd} of the first process can be opened")
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(1)
        for fd in range(64):
            if syscall(438, 438, pidfd, fd, 0) == 0:
                tell(f"descriptor {fd} of the first process was handed over")
    for name, numbers, arguments in (
        ("ptrace attaches", (101, 117), (16, 1, 0, 0)),
        ("ptrace seizes", (101, 117), (0x4206, 1, 0, 0)),
        ("kcmp", (312, 272), (1, os.getpid(), 0, 0, 0)),
    ):
        if syscall(*numbers, *arguments) == 0:
            tell(f"{name}: the first process")
    if _vm_read(1) == 0:
        tell("the first process's memory was read")


def _vm_read(pid: int) -> int:
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 1)
    return syscall(310, 270, pid, vector, 1, vector, 1, 0)


def other_processes(plan: dict[str, Any], tell: Tell) -> None:
    """Even code's own child."""
    child = subprocess.Popen(["sleep", "60"])
    try:
        for name, request in (("attach", 16), ("seize", 0x4206)):
            if syscall(101, 117, request, child.pid, 0, 0) == 0:
                tell(f"ptrace: {name}")
        # Another errno would come from the kernel, which looked at the request.
        if _vm_read(child.pid) not in (errno.EPERM, errno.ENOSYS):
            tell("process_vm_readv")
        if syscall(311, 271, child.pid, 0, 0, 0, 0, 0) not in (errno.EPERM, errno.ENOSYS):
            tell("process_vm_writev")
        pidfd = os.pidfd_open(child.pid)
        for name, numbers, arguments in (
            ("pidfd_getfd", (438, 438), (pidfd, 1, 0)),
            ("process_madvise", (440, 440), (pidfd, 0, 0, 4, 0)),
            ("kcmp", (312, 272), (child.pid, os.getpid(), 0, 0, 0)),
        ):
            if (failed := syscall(*numbers, *arguments)) not in (errno.EPERM, errno.ENOSYS):
                tell(f"{name} ({failed})")
    finally:
        child.kill()
        child.wait()
    if in_child(lambda: syscall(101, 117, 0, 0, 0, 0)) == (0, "0"):
        tell("ptrace: traceme")


# --- the kernel


def kernel_interfaces(plan: dict[str, Any], tell: Tell) -> None:
    nothing = text("")
    big = ctypes.create_string_buffer(4096)
    attempts: dict[str, tuple[tuple[int, int], tuple[object, ...]]] = {
        "mount": ((165, 40), (text("none"), text("/tmp"), text("tmpfs"), 0, 0)),
        "bind mount": ((165, 40), (text("/"), text("/tmp"), nothing, 4096, 0)),
        "remount": ((165, 40), (text("none"), text("/"), nothing, 32, 0)),
        "umount": ((166, 39), (text("/tmp"), 2)),
        "pivot_root": ((155, 41), (text("/tmp"), text("/tmp"))),
        "chroot": ((161, 51), (text("/tmp"),)),
        "open_tree": ((428, 428), (-100, text("/"), 1)),
        "move_mount": ((429, 429), (-100, text("/tmp"), -100, text("/home"), 0)),
        "fsopen": ((430, 430), (text("tmpfs"), 0)),
        "fspick": ((433, 433), (-100, text("/"), 0)),
        "mount_setattr": ((442, 442), (-100, text("/"), 0, big, 32)),
        "statmount": ((457, 457), (big, big, 512, 0)),
        "setns": ((308, 268), (os.open("/proc/self/ns/pid" if os.path.exists("/proc/self/ns/pid") else "/", 0), 0)),
        "bpf": ((321, 280), (0, big, 64)),
        "perf_event_open": ((298, 241), (big, 0, -1, -1, 0)),
        "userfaultfd": ((323, 282), (1,)),
        "io_uring_setup": ((425, 425), (1, big)),
        "io_setup": ((206, 0), (1, big)),
        "add_key": ((248, 217), (text("user"), text("x"), text("x"), 1, -3)),
        "request_key": ((249, 218), (text("user"), text("x"), nothing, 0)),
        "keyctl session": ((250, 219), (1, 0)),
        "keyctl get": ((250, 219), (0, -3, 0)),
        "kexec_load": ((246, 104), (0, 0, big, 1 << 16)),
        "kexec_file_load": ((320, 294), (-1, -1, 0, nothing, 0)),
        "init_module": ((175, 105), (big, 16, nothing)),
        "finit_module": ((313, 273), (0, nothing, 0)),
        "delete_module": ((176, 106), (text("none-such"), 0)),
        "personality": ((135, 92), (0x0040000,)),
        "syslog": ((103, 116), (3, big, 4096)),
        "swapon": ((167, 224), (text("/tmp/none"), 0)),
        "reboot": ((169, 142), (1, 2, 3)),
        "acct": ((163, 89), (text("/tmp/none"),)),
        "quotactl": ((179, 60), (0x800001 << 8, nothing, 0, big)),
        "name_to_handle_at": ((303, 264), (-100, text("/tmp"), big, big, 0)),
        "open_by_handle_at": ((304, 265), (-100, big, 0)),
        "fanotify_init": ((300, 262), (0, 0)),
        "sethostname": ((170, 161), (text("other"), 5)),
        "settimeofday": ((164, 170), (0, 0)),
        "adjtimex": ((159, 171), (big,)),
        "clock_adjtime": ((305, 266), (0, big)),
        "memfd_create": ((319, 279), (text("x"), 0)),
        "memfd_secret": ((447, 447), (0,)),
        "shmget": ((29, 194), (0, 4096, 0o1600)),
        "semget": ((64, 190), (0, 1, 0o1600)),
        "msgget": ((68, 186), (0, 0o1600)),
        "mq_open": ((240, 180), (text("/x"), os.O_CREAT | os.O_RDWR, 0o600, 0)),
        "vmsplice": ((278, 75), (1, big, 0, 0)),
        "move_pages": ((279, 239), (0, 0, 0, 0, 0, 0)),
        "migrate_pages": ((256, 238), (0, 0, 0, 0)),
        "vhangup": ((153, 58), ()),
        "a call newer than the filter": ((470, 470), ()),
    }
    if IS_X86:
        attempts |= {
            "iopl": ((172, 0), (0,)),
            "ioperm": ((173, 0), (0, 1, 0)),
            "modify_ldt": ((154, 0), (0, big, 16)),
        }
    refused = (errno.EPERM, errno.ENOSYS)
    for name, (numbers, arguments) in attempts.items():
        if (failed := syscall(*numbers, *arguments)) not in refused:
            tell(f"{name}: {os.strerror(failed) if failed > 0 else 'granted'}")
    for request in (0x5412, 0x541C, 1 << 32 | 0x5412):  # TIOCSTI, TIOCLINUX
        if (failed := syscall(16, 29, 0, request, text("x"))) != errno.EPERM:
            tell(f"ioctl {request:x}: {os.strerror(failed) if failed > 0 else 'granted'}")
    for path in ("/sys/kernel", "/sys/fs/cgroup", "/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/dev/mem", "/dev/kvm",
                 "/dev/fuse", "/dev/net/tun", "/dev/loop-control", "/dev/loop0", "/dev/sda", "/dev/vda",
                 "/dev/userfaultfd", "/dev/cpu_dma_latency", "/dev/dri"):  # fmt: skip
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            tell(f"{path} can be opened")


def namespaces(plan: dict[str, Any], tell: Tell) -> None:
    flags = {
        "user": 0x10000000, "mount": 0x00020000, "network": 0x40000000, "process": 0x20000000, "ipc": 0x08000000,
        "uts": 0x04000000, "cgroup": 0x02000000, "time": 0x00000080,
    }  # fmt: skip
    for name, flag in flags.items():
        for more in (0, flags["user"]):
            if in_child(lambda flag=flag | more: syscall(272, 97, flag)) == (0, "0"):
                tell(f"unshare gave a {name} namespace")
        if name != "time":
            for more in (0, flags["user"]):
                pid = libc.syscall(ctypes.c_long(56 if IS_X86 else 220), ctypes.c_long(flag | more | 17), 0, 0, 0, 0)
                if pid == 0:
                    os._exit(0)
                if pid > 0:
                    os.waitpid(pid, 0)
                    tell(f"clone gave a {name} namespace")
        arguments = (ctypes.c_uint64 * 11)(flag | flags["user"], 0, 0, 0, 17)
        pid = libc.syscall(ctypes.c_long(435), arguments, ctypes.c_long(88))
        if pid == 0:
            os._exit(0)
        if pid > 0:
            os.waitpid(pid, 0)
            tell(f"clone3 gave a {name} namespace")
    for name in ("user", "mnt", "net", "pid", "ipc", "uts", "cgroup", "time"):
        for pid in ("self", "1"):
            with contextlib.suppress(OSError):
                fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
                if syscall(308, 268, fd, 0) == 0:
                    tell(f"setns went into the {name} namespace of {pid}")
                # NS_GET_PARENT, NS_GET_USERNS
                for request in (0xB702, 0xB701):
                    if (above := libc.ioctl(fd, request)) >= 0 and pid == "1":
                        tell(f"ioctl gave a namespace above {name}: {above}")
    done = subprocess.run(["unshare", "-Urnm", "true"], capture_output=True, timeout=20, check=False)
    if done.returncode == 0:
        tell("the program unshare works")


def old_system_calls(plan: dict[str, Any], tell: Tell) -> None:
    """The calls of a 32-bit program, by which a filter of 64-bit ones may be passed, and those of x32."""
    if not IS_X86:
        return
    # mov eax, 20 (getpid); int 0x80; ret
    program = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"

    def enter() -> int:
        with mmap.mmap(
            -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        ) as page:
            page.write(program)
            return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()

    ended, said = in_child(enter)
    if ended == 0 and said.isdigit():
        tell("a call of a 32-bit program was answered")
    if in_child(lambda: libc.syscall(ctypes.c_long(0x40000000 | 39)))[0] == 0:
        tell("a call of x32 was answered")


def devices(plan: dict[str, Any], tell: Tell) -> None:
    kinds = (("block", stat.S_IFBLK, 8, 0), ("memory", stat.S_IFCHR, 1, 1), ("loop", stat.S_IFBLK, 7, 0),
             ("whiteout", stat.S_IFCHR, 0, 0))  # fmt: skip
    for folder in ("/mnt/data", "/tmp", "/dev/shm", "/home/sandbox"):
        for name, kind, major, minor in kinds:
            path = f"{folder}/device"
            with contextlib.suppress(OSError):
                os.mknod(path, kind | 0o666, os.makedev(major, minor))
                if name != "whiteout":
                    tell(f"a device of {name} was made in {folder}")
                    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                    tell(f"a device of {name} was opened in {folder}")
            with contextlib.suppress(OSError):
                os.unlink(path)
    usual = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "fd", "stdin",
             "stdout", "stderr", "core"}  # fmt: skip
    if more := set(os.listdir("/dev")) - usual:
        tell(f"devices: {sorted(more)}")
    with open("/dev/zero", "rb") as zero:
        if zero.read(4096) != bytes(4096):
            tell("/dev/zero has no zeros")


def more_rights(plan: dict[str, Any], tell: Tell) -> None:
    for name, attempt in {
        "setuid": lambda: os.setuid(0),
        "setgid": lambda: os.setgid(0),
        "setreuid": lambda: os.setreuid(0, 0),
        "setresuid": lambda: os.setresuid(0, 0, 0),
        "setgroups": lambda: os.setgroups([0]),
        "chown": lambda: os.chown("/mnt/data", 0, 0) if os.stat("/mnt/data").st_uid else _refuse(),
        "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -20),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "memory that stays": lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 30, 1 << 30)),
        "more files": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)),
        "more processes": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (1 << 20, 1 << 20)),
        "a core of any size": lambda: resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30)),
        "a better score": lambda: _write("/proc/self/oom_score_adj", "-1000"),
        "another nice": lambda: _write("/proc/self/autogroup", "-20"),
        "writable mappings of ids": lambda: _write("/proc/self/uid_map", "0 0 1"),
    }.items():
        try:
            attempt()
            tell(f"{name} was granted")
        except OSError:
            pass
        except ValueError:
            pass  # as Python words a limit that cannot be raised
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(*[0xFFFFFFFF] * 6)
    if libc.capset(header, sets) == 0:
        tell("capabilities were granted")
    for capability in range(41):
        # PR_CAP_AMBIENT_RAISE
        if libc.prctl(47, 2, capability, 0, 0) == 0:
            tell(f"ambient capability {capability}")
    if libc.prctl(38, 0, 0, 0, 0) == 0 or libc.prctl(39, 0, 0, 0, 0) != 1:
        tell("rights may be gained from set-uid files")
    looked = "/usr/bin", "/usr/sbin", "/usr/lib/openssh", "/usr/lib/dbus-1.0"
    for folder in filter(os.path.isdir, looked):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if entry.is_file() and entry.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
                    owner = in_child(lambda path=entry.path: _effective(path))[1]
                    if owner not in ("", "[]"):
                        tell(f"{entry.path} ran with rights: {owner}")
    copy = "/tmp/python"
    with contextlib.suppress(OSError):
        with open("/bin/cat", "rb") as source, open(copy, "wb") as target:
            target.write(source.read())
        os.chmod(copy, 0o6755)
        said = subprocess.run([copy, "/proc/self/status"], capture_output=True, text=True, timeout=20, check=False)
        if "Uid:\t0" in said.stdout or "NoNewPrivs:\t1" not in said.stdout:
            tell("a set-uid copy ran with rights")
    with contextlib.suppress(OSError):
        os.unlink(copy)


def _refuse() -> None:
    raise PermissionError


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _effective(path: str) -> list[str]:
    """Rights that a program has just after it began, before it could give any up."""
    process = subprocess.Popen(
        [path, "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.kill(process.pid, signal.SIGSTOP)
    try:
        with open(f"/proc/{process.pid}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        uids = set(fields["Uid"].split()) | set(fields["Gid"].split())
        rights = [fields[name] for name in ("CapEff", "CapPrm") if int(fields[name], 16)]
        return [*(["root"] if "0" in uids else []), *rights]
    finally:
        process.kill()
        process.wait()


def descriptors(plan: dict[str, Any], tell: Tell) -> None:
    """What an executor has open: three pipes, and nothing that leads anywhere."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            kind = os.fstat(int(name)).st_mode
            path = os.readlink(f"/proc/self/fd/{name}")
            if stat.S_ISSOCK(kind) or stat.S_ISBLK(kind) or (stat.S_ISDIR(kind) and not path.startswith("/proc/")):
                tell(f"descriptor {name} is {path}")
            if int(name) > 5 and not path.startswith(("/proc/", "pipe:")):
                tell(f"descriptor {name} is {path}")


# --- too much of everything


def many_processes(plan: dict[str, Any], tell: Tell) -> None:
    children: list[int] = []
    with contextlib.suppress(OSError):
        for _ in range(1000):
            pid = os.fork()
            if pid == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                time.sleep(300)
                os._exit(0)
            children.append(pid)
    if len(children) >= plan["processes"]:
        tell(f"{len(children)} processes at once")


def many_threads(plan: dict[str, Any], tell: Tell) -> None:
    started = 0
    with contextlib.suppress(RuntimeError):
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
            started += 1
    if started >= plan["processes"]:
        tell(f"{started} threads at once")


def one_process_memory(plan: dict[str, Any], tell: Tell) -> None:
    for name, attempt in {
        "bytearray": lambda: bytearray(plan["bytes"]),
        "mmap": lambda: mmap.mmap(-1, plan["bytes"], mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
        "brk": lambda: libc.malloc(ctypes.c_size_t(plan["bytes"])) or _refuse(),
    }.items():
        try:
            attempt()
            tell(f"{name} took {plan['bytes']} bytes")
        except (MemoryError, OSError):
            pass


def hidden_memory(plan: dict[str, Any], tell: Tell) -> None:
    """Memory that is no process's, or that nobody has mapped while it is held."""

    def anonymous() -> object:
        return mmap.mmap(-1, plan["bytes"])

    def validated() -> object:
        return mmap.mmap(-1, plan["bytes"], 3 | mmap.MAP_ANONYMOUS)  # MAP_SHARED_VALIDATE

    def zero() -> object:
        return mmap.mmap(os.open("/dev/zero", os.O_RDWR), plan["bytes"])

    def kept(folder: str) -> Callable[[], object]:
        def fill() -> object:
            fd = os.open(folder, os.O_RDWR | os.O_TMPFILE)
            os.posix_fallocate(fd, 0, plan["bytes"])
            return fd

        return fill

    attempts = {"shared memory": anonymous, "validated memory": validated, "/dev/zero": zero}
    attempts |= {f"a file without a name in {each}": kept(each) for each in ("/tmp", "/dev/shm", "/home/sandbox")}
    for name, attempt in attempts.items():
        try:
            attempt()
            tell(f"{name} gave {plan['bytes']} bytes")
        except OSError:
            pass


def full_disks(plan: dict[str, Any], tell: Tell) -> None:
    for folder in ("/mnt/data", "/tmp", "/dev/shm", "/home/sandbox"):
        written = 0
        try:
            with open(f"{folder}/big", "wb", buffering=0) as file:
                while written <= plan["bytes"]:
                    written += file.write(bytes(1 << 20))
            tell(f"{folder} took {written} bytes")
        except OSError:
            pass
        with contextlib.suppress(OSError):
            os.unlink(f"{folder}/big")


def many_descriptors(plan: dict[str, Any], tell: Tell) -> None:
    held: list[int] = []
    try:
        while len(held) < 100_000:
            held += [os.open("/dev/null", os.O_RDONLY)]
        tell(f"{len(held)} files open at once")
    except OSError:
        pass
    finally:
        for fd in held:
            os.close(fd)


def the_machines_share(plan: dict[str, Any], tell: Tell) -> None:
    """What all programs of a machine have together, so that one can take it from the rest."""
    contexts = 0
    for _ in range(20):
        context = (ctypes.c_ulong * 1)(0)
        if libc.syscall(ctypes.c_long(206 if IS_X86 else 0), ctypes.c_long(500), context) == 0:
            contexts += 1
    if contexts:
        tell(f"{contexts} contexts of asynchronous I/O")
    with socket.socketpair()[0] as one:
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
            tell("larger buffers of sockets")
        except OSError:
            pass
