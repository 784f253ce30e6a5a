"""Attacks a fresh box through its own interface, and looks at it from outside: code runs only if nothing got through.

`attack` runs where a model's code would run, and tries what that must not be able to do. `_inspect` reads what the
kernel says of the box's processes, whatever they say themselves. What got through is `Off`, with what would mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from threadkeep.contract.errors import ThreadkeepError
from threadkeep.logs import Log
from threadkeep.sandbox.box import Box, Logs, Output
from threadkeep.sandbox.limits import Limits
from threadkeep.sandbox.watchdog import processes

log = Log(__name__)

# A busy machine; the attack itself takes a tenth of a second.
TEST_S: Final = 60.0
_ATTACK_S: Final = 30.0


# What a box can write, and the bound of each; all of it is in memory.
FOLDERS: Final[Mapping[str, str]] = {
    "/mnt/data": "disk_bytes",
    "/tmp": "scratch_bytes",
    "/dev/shm": "scratch_bytes",
    "/home/sandbox": "scratch_bytes",
}


# Where the server is at home: nothing there is anybody else's to write.
_HOMES: Final = (os.path.expanduser("~"), os.getcwd())  # noqa: PTH109, PTH111


class Off(NamedTuple):
    """Code cannot run here. ``reason`` begins a sentence's second half; ``mend`` is a sentence, or several."""

    reason: str
    mend: str


class Tier(Protocol):
    """A way to isolate code."""

    @property
    def name(self) -> str: ...

    async def start(self, slot: int, *, warm: bool) -> Box:
        """A new box, which the caller closes; ``warm``: with its libraries imported. No two live boxes have the same
        ``slot``. Raises `BoxFailed`, with what the launcher said."""
        ...


async def examine(tier: Tier, limits: Limits, slot: int = 0) -> Off | None:
    """Starts a box and attacks it. None: nothing got through."""
    if sys.platform != "linux":
        return Off(
            "code is isolated with what Linux has for it, and this is another system",
            "Run the server on Linux, in a virtual machine or a container.",
        )
    try:
        async with asyncio.timeout(TEST_S):
            box = await tier.start(slot, warm=False)
            try:
                missed = await _attack(box, limits)
            finally:
                await box.close()
    except TimeoutError:
        return Off(f"the self-test of {tier.name} took more than {TEST_S:.0f} s", "Give the machine less to do.")
    except OSError as error:
        return Off(f"{tier.name} cannot be started: {error.strerror or error}", mend_for(str(error)))
    except ThreadkeepError as error:
        return Off(f"{tier.name} cannot be started: {error.message.rstrip('.')}", mend_for(error.message))
    if not missed:
        return None
    for each in missed:
        log.warning("sandbox_selftest_missed", tier=tier.name, what=each)
    more = f" (and {len(missed) - 3} more)" if len(missed) > 3 else ""
    return Off(
        f"the self-test of {tier.name} found a way out: {'; '.join(missed[:3])}{more}",
        "Please report this, with the name of the system and the version of its kernel (uname -a) and of bubblewrap "
        "(bwrap --version).",
    )


async def _attack(box: Box, limits: Limits) -> list[str]:
    """What got through, each a clause."""
    mark = secrets.token_hex(16)
    with _canary() as canary:
        plan = {
            "mark": mark,
            "secrets": [str(canary), "/etc/shadow", "/etc/hostname", __file__],
            "folders": [str(canary.parent), sys.prefix, *_HOMES],
            "pids": [os.getpid(), os.getppid()],
            "is_root": os.geteuid() == 0,
            "processes": limits.processes,
            "sizes": {folder: getattr(limits, bound) for folder, bound in FOLDERS.items()},
            "limits": _resource_limits(limits),
        }
        text = await _printed(box, f"{_code()}\nattack({plan!r})\n")
    answers = [line.partition(mark)[2] for line in text.splitlines() if mark in line]
    try:
        surroundings, missed = answers
        leaked = _leaked(msgspec.json.decode(surroundings, type=dict[str, str]))
        return [*msgspec.json.decode(missed, type=list[str]), *leaked, *_inspect(box)]
    except (ValueError, msgspec.MsgspecError):
        return [f"the attack did not come to its end: {text[-500:].strip() or 'it printed nothing'}"]


@contextmanager
def _canary() -> Generator[Path, None, None]:
    """A file that everybody on this machine may read: what hides it from a box is the box alone."""
    with tempfile.TemporaryDirectory(prefix="threadkeep-selftest-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        canary = folder / "secret"
        canary.write_text(secrets.token_hex(16), encoding="ascii")
        canary.chmod(0o644)
        yield canary


async def _printed(box: Box, code: str) -> str:
    said: list[str] = []

    def hear(output: Output) -> None:
        if isinstance(output, Logs):
            said.append(output.text)

    ended = await box.execute(code, hear, timeout_s=_ATTACK_S)
    return "".join(said) if ended.how != "died" else "".join(said) + (ended.note or "the process died")


@functools.cache
def _code() -> str:
    return Path(__file__).with_name("attack.py").read_text(encoding="utf-8")


def _resource_limits(limits: Limits) -> dict[str, int]:
    """The hard limits of one process, at most."""
    return {
        "RLIMIT_AS": 2 * limits.memory_bytes,
        "RLIMIT_DATA": limits.memory_bytes,
        "RLIMIT_NPROC": limits.processes + 1,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_CORE": 1,
        "RLIMIT_MEMLOCK": 1024 * 1024,
        "RLIMIT_MSGQUEUE": 0,
    }


def _leaked(surroundings: Mapping[str, str]) -> list[str]:
    """Variables that a box has from the server: all of the server's may be secrets."""
    harmless = {"PATH", "HOME", "LANG", "TMPDIR", "PWD", "TZ"}
    leaked = {
        name
        for name, value in surroundings.items()
        if name not in harmless and len(value) >= 8 and os.environ.get(name) == value
    }
    return [f"the server's variable {name} is seen" for name in sorted(leaked)]


# --- from outside


def _inspect(box: Box) -> list[str]:
    """What the kernel says of the box's processes."""
    missed: list[str] = []
    for pid in processes(box.pid):
        try:
            fields = dict(
                line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
            )
        except OSError:
            continue
        held = {name: fields[name].split() for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")}
        if any(int(value[0], 16) for value in held.values()):
            missed.append("a process inside has capabilities")
        if fields["Seccomp"].split() != ["2"]:
            missed.append("system calls of a process inside are not filtered")
        if fields["NoNewPrivs"].split() != ["1"]:
            missed.append("a process inside may gain rights")
        if os.geteuid() == 0 and "0" in (*fields["Uid"].split(), *fields["Gid"].split(), *fields["Groups"].split()):
            missed.append("a process inside is root's")
        if len(fields["NSpid"].split()) <= len(_own_pids()):
            missed.append("a process inside is in the server's pid namespace")
        with contextlib.suppress(OSError):
            table = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()
            if {line.split(":")[0].strip() for line in table if ":" in line} != {"lo"}:
                missed.append("a process inside sees a network")
    return sorted(set(missed))


def _own_pids() -> list[str]:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))


# --- mends


class _Mend(NamedTuple):
    # What the launcher says.
    pattern: str
    # What must hold of this machine as well.
    holds: Callable[[], bool]
    mend: str


def _is_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or "container" in os.environ


def _apparmor_refuses() -> bool:
    return _holds("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")


def _holds(path: str, value: str) -> bool:
    try:
        return Path(path).read_text(encoding="ascii").strip() == value
    except OSError:
        return False


def _always() -> bool:
    return True


_FLAGS: Final = (
    "Start the container with --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined (podman: --security-opt seccomp=unconfined --security-opt unmask=ALL)."
)
_NAMESPACES: Final = (
    r"No permissions to creat|Creating new namespace failed|creating new namespace|unshare|Operation not permitted"
)
_UBUNTU: Final = (
    "Let AppArmor allow it: apt-get install apparmor-profiles && "
    "ln -s /usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/ && "
    "apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict"
)


def _mends() -> Sequence[_Mend]:
    """The first that fits is told."""
    return (
        _Mend(r"bubblewrap \(bwrap\) is not installed", _always, "{install}"),
        _Mend(r"Unknown option", _always, "bubblewrap is too old; 0.8 or newer is needed: {install}"),
        _Mend(r"uid map|RTM_NEWADDR|" + _NAMESPACES, _apparmor_refuses, _UBUNTU),
        _Mend(
            r"RTM_NEWADDR",
            lambda: os.geteuid() == 0,
            "Start the container with --cap-add NET_ADMIN too, or run the server as an ordinary user.",
        ),
        _Mend(
            _NAMESPACES,
            lambda: _holds("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            "Allow ordinary users their own namespaces: sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        _Mend(
            _NAMESPACES + "|No space left",
            lambda: _holds("/proc/sys/user/max_user_namespaces", "0"),
            "Allow user namespaces: sysctl -w user.max_user_namespaces=15000",
        ),
        _Mend(r"mount proc|uid map|RTM_NEWADDR|" + _NAMESPACES, _is_container, _FLAGS),
        _Mend(r"mount proc|" + _NAMESPACES, _always, "In a container: " + _FLAGS[0].lower() + _FLAGS[1:]),
    )


def mend_for(said: str) -> str:
    """What to do about what the launcher said."""
    for pattern, holds, mend in _mends():
        if re.search(pattern, said) and holds():
            return mend.format(install=_install()) if "{install}" in mend else mend
    return "See what the launcher said, and docs/how-to about the code interpreter's isolation."


def _install() -> str:
    for program, command in (
        ("apt-get", "apt-get install bubblewrap"),
        ("dnf", "dnf install bubblewrap"),
        ("apk", "apk add bubblewrap"),
        ("pacman", "pacman -S bubblewrap"),
        ("zypper", "zypper install bubblewrap"),
    ):
        if shutil.which(program):
            return command
    return "Install bubblewrap, 0.8 or newer."
