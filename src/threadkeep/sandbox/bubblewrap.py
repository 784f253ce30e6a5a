"""Starts boxes with bubblewrap: namespaces, a file system of its own, a filter of system calls, no rights.

As root ("root mode") mounts are made as root, and the first process becomes a user of the box's own. As an ordinary
user ("user mode") a user namespace does the same, and what is bound must be readable to that user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from threadkeep.sandbox import inside
from threadkeep.sandbox.box import Box, BoxFailed
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.limits import Limits

HOME: Final = "/home/sandbox"
# Where the environment is in a box, wherever the host has it: tracebacks tell nobody how the host is laid out.
ENVIRONMENT: Final = "/opt/environment"
# What code usually imports. The rest (scipy, scikit-learn, sympy) is large, and imported when it is wanted.
WARM_MODULES: Final = (
    "IPython.core.interactiveshell",
    "IPython.core.pylabtools",
    "IPython.display",
    "matplotlib_inline.backend_inline",
    "matplotlib.pyplot",
    "numpy",
    "pandas",
    "PIL.ImageShow",
)

# More boxes than one server ever has at once.
_SLOTS: Final = 10_000
# Until bwrap has made its namespaces; a busy machine.
_SPAWN_S: Final = 10.0

_HERE: Final = Path(__file__).resolve().parent
_USR: Final = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")
_TOP: Final = ("bin", "sbin", "lib", "lib32", "lib64")
_ETC: Final = (
    "alternatives",
    "fonts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "ssl/certs",
)
# What containers may refuse, in bwrap's words, and boxes can do without: /proc, which where it is masked cannot be
# mounted anew; and the kernel's bound on user namespaces, which the filter of system calls forbids as well.
Part = Literal["proc", "disable-userns"]
_DISPENSABLE: Final[dict[Part, str]] = {"proc": "Can't mount proc", "disable-userns": "max_user_namespaces"}


class Bubblewrap:
    """The first tier."""

    name = "bubblewrap"

    def __init__(
        self,
        environment: Environment,
        limits: Limits,
        *,
        bwrap: str | None = None,
        first_uid: int | None = None,
    ) -> None:
        self._environment = environment
        self._limits = limits
        self._bwrap = bwrap
        self._first_uid = _any_uid() if first_uid is None else first_uid
        self._does_without: frozenset[Part] = frozenset()

    async def start(self, slot: int, *, warm: bool) -> Box:
        """A new box. Two that live at the same time never have the same slot. Raises `BoxFailed`, in bwrap's words.

        Must be called from the thread that lives as long as the server: the box goes when its thread does.
        """
        while True:
            try:
                return await self._start(slot, warm=warm)
            except BoxFailed as failure:
                refused: set[Part] = {part for part, words in _DISPENSABLE.items() if words in failure.message}
                if refused <= self._does_without:
                    raise
                self._does_without |= refused

    async def _start(self, slot: int, *, warm: bool) -> Box:
        # Not to be cut short: bwrap's child is told to end with bwrap only when all is set up, and one that lost its
        # parent before would wait for it for ever. It takes milliseconds.
        spawning = asyncio.ensure_future(self._spawn(slot, warm=warm))
        is_cancelled = False
        while not spawning.done():
            try:
                await asyncio.wait({spawning})
            except asyncio.CancelledError:
                is_cancelled = True
        box, process = spawning.result()
        complaint = asyncio.create_task(_complaint(process))
        try:
            if is_cancelled:
                raise asyncio.CancelledError
            await box.meet()
        except BoxFailed as failure:
            # It has been killed, so this comes to its end.
            await asyncio.wait({complaint}, timeout=5)
            said = complaint.result() if complaint.done() else ""
            complaint.cancel()
            await box.close()
            raise BoxFailed(said or failure.message) from failure
        except BaseException:
            # Closing reads what is left, and two cannot read at once.
            complaint.cancel()
            await box.close()
            raise
        finally:
            complaint.cancel()
            await asyncio.wait({complaint})
        return box

    async def _spawn(self, slot: int, *, warm: bool) -> tuple[Box, asyncio.subprocess.Process]:
        bwrap = self._bwrap or shutil.which("bwrap")
        if bwrap is None:
            raise BoxFailed("bubblewrap (bwrap) is not installed.")
        filter_file = _HERE / "seccomp" / f"{platform.machine()}.bpf"
        uid = self._first_uid + slot if os.geteuid() == 0 else None
        with contextlib.ExitStack() as open_fds:

            def passed(fd: int) -> int:
                open_fds.callback(os.close, fd)
                return fd

            def written(text: str) -> int:
                read_end, write_end = os.pipe()
                os.write(write_end, text.encode())
                os.close(write_end)
                return passed(read_end)

            try:
                seccomp = passed(os.open(filter_file, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise BoxFailed(f"There is no filter of system calls for {platform.machine()}.") from error
            info, info_in = os.pipe()
            passed(info)
            etc = {f"/etc/{name}": written(text) for name, text in _etc(uid if uid is not None else 1000).items()}
            arguments = self._arguments(uid, etc, seccomp, info_in)
            python = [f"{ENVIRONMENT}/bin/python", "-I", "-B"]
            try:
                process = await asyncio.create_subprocess_exec(
                    *(bwrap, *arguments, "--", *python, "/opt/threadkeep/inside.py", self._options(uid, warm=warm)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=[seccomp, info_in, *etc.values()],
                    env={},
                    cwd="/",
                    limit=256 * 1024,
                )
            except OSError as error:
                raise BoxFailed(f"bwrap cannot be started: {error.strerror}.") from error
            finally:
                os.close(info_in)
            return Box(process, self._limits, await _child_pid(info)), process

    def _options(self, uid: int | None, *, warm: bool) -> str:
        limits = self._limits
        said = {
            name: getattr(limits, name)
            for name in (
                "code_bytes", "output_bytes", "images", "image_bytes", "cpu_s", "interrupt_s", "memory_bytes",
                "processes", "open_files", "file_bytes", "disk_bytes", "inodes", "listed_files", "depth",
            )
        }  # fmt: skip
        more = {
            "uid": uid,
            "modules": WARM_MODULES if warm else (),
        }
        return msgspec.json.encode({**said, **more}).decode()

    def _arguments(self, uid: int | None, etc: dict[str, int], seccomp: int, info: int) -> list[str]:
        limits = self._limits
        arguments = [
            "--die-with-parent", "--new-session", "--as-pid-1", "--unshare-pid", "--unshare-net", "--unshare-ipc",
            "--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox", "--clearenv", "--cap-drop", "ALL",
        ]  # fmt: skip
        if uid is None:
            arguments += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
            if "disable-userns" not in self._does_without:
                arguments.append("--disable-userns")
        else:
            # To become another user and to give up what makes root: they go before any code is there.
            for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
                arguments += ["--cap-add", capability]
        # /usr/local and /usr/src are the operator's.
        arguments += ["--perms", "0755", "--dir", "/usr"]
        for name in _USR:
            arguments += ["--ro-bind-try", f"/usr/{name}", f"/usr/{name}"]
        for name in _TOP:
            top = Path("/", name)
            if top.is_symlink():
                arguments += ["--symlink", str(top.readlink()), str(top)]
            elif top.is_dir():
                arguments += ["--ro-bind", str(top), str(top)]
        arguments += ["--perms", "0755", "--dir", "/etc", "--perms", "0755", "--dir", "/etc/ssl"]
        for name in _ETC:
            arguments += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for path, fd in etc.items():
            arguments += ["--perms", "0444", "--ro-bind-data", str(fd), path]
        scratch = str(limits.scratch_bytes)
        # Before what is bound below it.
        arguments += ["--perms", "1777", "--size", scratch, "--tmpfs", "/tmp"]
        made = {"/", "/usr", "/etc", "/tmp"}
        for source, target in self._binds():
            for parent in reversed(Path(target).parents):
                if str(parent) not in made:
                    made.add(str(parent))
                    # bwrap makes parents that only root may enter.
                    arguments += ["--perms", "0755", "--dir", str(parent)]
            arguments += ["--ro-bind", source, target]
        for parent in ("/mnt", "/home"):
            if parent not in made:
                arguments += ["--perms", "0755", "--dir", parent]
        arguments += ["--size", "4096", "--tmpfs", "/proc"] if "proc" in self._does_without else ["--proc", "/proc"]
        # Mapped, /dev/zero is memory that nobody counts. /dev/full has the same zeros, and cannot be mapped.
        arguments += ["--dev", "/dev", "--dev-bind", "/dev/full", "/dev/zero"]
        arguments += ["--perms", "1777", "--size", scratch, "--tmpfs", "/dev/shm"]
        arguments += ["--remount-ro", "/dev"]
        if "proc" in self._does_without:
            arguments += ["--remount-ro", "/proc"]
        arguments += ["--perms", "0777", "--size", str(limits.disk_bytes), "--tmpfs", inside.DATA]
        arguments += ["--perms", "0777", "--size", scratch, "--tmpfs", HOME, "--chdir", inside.DATA]
        # Without the list that was made with the environment matplotlib looks at every font when it is imported.
        arguments += ["--perms", "0777", "--dir", f"{HOME}/.matplotlib"]
        for fonts in self._environment.matplotlib.glob("fontlist-*.json"):
            arguments += ["--symlink", f"{ENVIRONMENT}/matplotlib/{fonts.name}", f"{HOME}/.matplotlib/{fonts.name}"]
        for name, value in {
            "PATH": f"{ENVIRONMENT}/bin:/usr/bin:/bin",
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "TMPDIR": "/tmp",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "MPLCONFIGDIR": f"{HOME}/.matplotlib",
            "IPYTHONDIR": f"{HOME}/.ipython",
            # Each has memory of its own.
            "MALLOC_ARENA_MAX": "2",
            "OMP_NUM_THREADS": "2",
            "OPENBLAS_NUM_THREADS": "2",
            "PYTHONDONTWRITEBYTECODE": "1",
            "USER": "sandbox",
        }.items():
            arguments += ["--setenv", name, value]
        return [*arguments, "--remount-ro", "/", "--seccomp", str(seccomp), "--info-fd", str(info)]

    def _binds(self) -> Iterable[tuple[str, str]]:
        """What there is beside the system: the environment, its Python, and what runs in the box. Source, target."""
        environment = self._environment.folder
        yield str(environment.resolve()), ENVIRONMENT
        # The environment's python is a link to another's, perhaps over several; each must be found there.
        home = self._environment.python.resolve().parent.parent
        targets = {home}
        link = self._environment.python
        while link.is_symlink():
            link = Path(os.path.normpath(link.parent / link.readlink()))
            targets.add(link.parent.parent)
        for target in sorted(targets):
            if target in (Path("/usr"), Path("/")) or target.is_relative_to(environment):
                continue
            # No more than it runs from: a prefix may be a folder in which somebody keeps other things as well.
            for name in ("bin", "lib"):
                yield str(home / name), str(target / name)
        for name in ("inside.py", "executor.py"):
            yield str(_HERE / name), f"/opt/threadkeep/{name}"


def _any_uid() -> int:
    """The first of a row of uids that nobody else on this machine is likely to have, for a server that is root: the
    kernel counts the processes of a uid over all boxes of all servers.
    """
    # In a container only some uids exist.
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    end = min(max(first + count for first, _, count in ranges), 2**31)
    span = min(end // 4, 2**27)
    return end - span + secrets.randbelow(max(1, span - _SLOTS))


def _etc(uid: int) -> dict[str, str]:
    return {
        "passwd": f"root:x:0:0:root:/root:/bin/sh\nsandbox:x:{uid}:{uid}::{HOME}:/bin/sh\n",
        "group": f"root:x:0:\nsandbox:x:{uid}:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    }


async def _child_pid(info: int) -> int:
    """The box's first process, which bwrap names when it is there. 0: bwrap ended without."""
    loop = asyncio.get_running_loop()
    told = b""
    ended = loop.create_future()
    os.set_blocking(info, False)

    def read() -> None:
        nonlocal told
        some = os.read(info, 4096)
        told += some
        if (not some or len(told) > 4096) and not ended.done():
            ended.set_result(None)

    loop.add_reader(info, read)
    try:
        await asyncio.wait({ended}, timeout=_SPAWN_S)
    finally:
        loop.remove_reader(info)
    try:
        # Beside it there are the numbers of its namespaces.
        return msgspec.json.decode(told, type=dict[str, int])["child-pid"]
    except (msgspec.MsgspecError, KeyError):
        return 0


async def _complaint(process: asyncio.subprocess.Process) -> str:
    """The last line that a box which does not start writes, read as far as is worth it."""
    assert process.stderr is not None
    kept = b""
    while some := await process.stderr.read(4096):
        kept = (kept + some)[-4096:]
    lines = kept.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:500] if lines else ""
