"""The self-test finds each defence that is taken away from a box, and knows what would bring back what is refused."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.capabilities import missing
from threadkeep.sandbox import selftest
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.limits import MIB, Limits
from threadkeep.sandbox.selftest import examine, mend_for

LIMITS = Limits(disk_bytes=64 * MIB, file_bytes=256 * MIB, inodes=10**9)


class Weakened(Bubblewrap):
    """Without some of bubblewrap's arguments, and with others."""

    def __init__(self, environment: Environment, limits: Limits) -> None:
        super().__init__(environment, limits)
        self.without: tuple[str, ...] = ()
        self.more: tuple[str, ...] = ()

    def _arguments(self, uid: int | None, etc: dict[str, int], seccomp: int, info: int) -> list[str]:
        arguments = super()._arguments(uid, etc, seccomp, info)
        inner = arguments.index("--chdir")
        arguments[inner:inner] = self.more
        for start in range(len(arguments) - len(self.without), -1, -1):
            if self.without and tuple(arguments[start : start + len(self.without)]) == self.without:
                # A descriptor's number is another each time.
                more = 1 if self.without == ("--seccomp",) else 0
                del arguments[start : start + len(self.without) + more]
        return arguments


@pytest.fixture
def weakened(sandbox_environment: Environment, bubblewrap: str) -> Weakened:
    return Weakened(sandbox_environment, LIMITS)


async def test_a_box_as_it_is_has_no_way_out(weakened: Weakened) -> None:
    assert await examine(weakened, LIMITS) is None


@pytest.mark.parametrize(
    ("without", "more", "found"),
    [
        (("--unshare-net",), (), "there is a network"),
        (("--seccomp",), (), "system calls"),
        ((), ("--bind", "/tmp", "/tmp"), "a file of the host can be read"),
        ((), ("--bind", "/var/tmp", "/srv"), "/srv can be written"),
        ((), ("--dev-bind", "/dev", "/dev"), "there are devices"),
        ((), ("--tmpfs", "/tmp"), "/tmp has"),
        ((), ("--size", str(512 * MIB), "--tmpfs", "/mnt/data"), "/mnt/data has"),
        ((), ("--setenv", "SELFTEST_SECRET", "0123456789"), "the server's variable SELFTEST_SECRET is seen"),
    ],
)
async def test_what_is_taken_from_a_box_is_found(
    weakened: Weakened,
    monkeypatch: pytest.MonkeyPatch,
    without: tuple[str, ...],
    more: tuple[str, ...],
    found: str,
) -> None:
    monkeypatch.setenv("SELFTEST_SECRET", "0123456789")
    weakened.without, weakened.more = without, more
    off = await examine(weakened, LIMITS)
    assert off is not None
    assert found in off.reason


async def test_a_box_whose_code_is_root_is_found(sandbox_environment: Environment, bubblewrap: str) -> None:
    if os.geteuid() != 0:
        missing("root", fix="run the tests as root")
    off = await examine(Bubblewrap(sandbox_environment, LIMITS, first_uid=0), LIMITS)
    assert off is not None
    assert "root" in off.reason


async def test_limits_that_are_not_set_are_found(weakened: Weakened) -> None:
    stricter = Limits(disk_bytes=32 * MIB, file_bytes=16 * MIB, open_files=16, processes=8)
    off = await examine(weakened, stricter)
    assert off is not None
    assert "RLIMIT_FSIZE" in off.reason or "RLIMIT_NOFILE" in off.reason


async def test_a_box_that_does_not_answer_is_no_way_to_run_code(
    weakened: Weakened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "TEST_S", 0.01)
    off = await examine(weakened, LIMITS)
    assert off is not None
    assert "took more than" in off.reason


async def test_an_attack_that_breaks_off_shows_nothing(weakened: Weakened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "_code", lambda: "def attack(plan): raise SystemExit")
    off = await examine(weakened, LIMITS)
    assert off is not None
    assert "did not come to its end" in off.reason


async def test_a_part_of_the_attack_that_breaks_off_is_told(
    weakened: Weakened, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = selftest._code() + "\ndef sockets(plan, tell): raise KeyError('x')\n"
    monkeypatch.setattr(selftest, "_code", lambda: code)
    off = await examine(weakened, LIMITS)
    assert off is not None
    assert "the attempt on sockets broke off" in off.reason


async def test_a_missing_bubblewrap_is_told_with_the_command_that_brings_it(
    weakened: Weakened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installer = tmp_path / "apt-get"
    installer.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    off = await examine(weakened, LIMITS)
    assert off is not None
    assert off.reason.endswith("is not installed")
    assert off.mend == "apt-get install bubblewrap"


async def test_the_words_of_bubblewrap_are_the_reason(
    sandbox_environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "bwrap: No permissions to create new namespace, likely because the kernel does not allow it."
    launcher = tmp_path / "bwrap"
    launcher.write_text(f"#!/bin/sh\necho '{words}' >&2\nexit 1\n")
    launcher.chmod(0o755)
    monkeypatch.setattr(selftest, "_is_container", lambda: True)
    off = await examine(Bubblewrap(sandbox_environment, LIMITS, bwrap=str(launcher)), LIMITS)
    assert off is not None
    assert off.reason.endswith(words.rstrip("."))
    assert "--security-opt seccomp=unconfined" in off.mend


@pytest.mark.parametrize(
    ("said", "apparmor", "container", "mend"),
    [
        ("bwrap: setting up uid map: Permission denied", True, False, "bwrap-userns-restrict"),
        ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", True, False, "bwrap-userns-restrict"),
        ("bwrap: Creating new namespace failed: Operation not permitted", False, True, "seccomp=unconfined"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", False, True, "systempaths=unconfined"),
        ("bwrap: Unknown option --disable-userns", False, False, "0.8 or newer"),
        ("bwrap: something nobody has seen", False, False, "docs/"),
    ],
)
def test_what_is_refused_has_a_mend(
    monkeypatch: pytest.MonkeyPatch, said: str, apparmor: bool, container: bool, mend: str
) -> None:
    monkeypatch.setattr(selftest, "_apparmor_refuses", lambda: apparmor)
    monkeypatch.setattr(selftest, "_is_container", lambda: container)
    assert mend in mend_for(said)


@pytest.mark.timeout(900)
def test_all_of_this_holds_for_a_server_that_is_not_roots(bubblewrap: str, sandbox_environment: Environment) -> None:
    del bubblewrap
    if os.geteuid() != 0:
        return  # it is what just ran
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory(prefix="threadkeep-as-user-") as folder:
        Path(folder).chmod(0o777)
        done = subprocess.run(
            [
                *(sys.executable, str(here.with_name("as_user.py")), sys.executable, "-B", "-m", "pytest", "-q", "-x"),
                *("-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", "-p", "tests.support.sandbox"),
                *("--basetemp", f"{folder}/tests", str(here), str(here.with_name("test_sessions.py"))),
            ],
            cwd=here.parents[2],
            env={
                **os.environ,
                "THREADKEEP_SANDBOX_ENVIRONMENT": str(sandbox_environment.folder.parent),
                "HOME": "/tmp",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
