"""Environments of their own for clients of the server: locks/clients/NAME.txt, installed into .venv-clients/NAME.

Made when they are first asked for, by the same means as .venv, and used again until the lock changes. Any number may
ask at the same time. Standard library only: whatever Python runs this is the Python of the environment.
"""

import fcntl
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from bootstrap import ROOT, install, say, stamp_for

LOCKS = ROOT / "locks" / "clients"
PLACE = ROOT / ".venv-clients"


class NotInstalled(Exception):
    """The environment could not be made; says why."""


def names() -> list[str]:
    """Every environment that there is a lock for."""
    return sorted(lock.stem for lock in LOCKS.glob("*.txt"))


def environment(name: str) -> Path:
    """The Python of the environment, installed as locks/clients/NAME.txt says; `NotInstalled` when it can't be."""
    lock, folder = LOCKS / f"{name}.txt", PLACE / name
    stamp, wanted = folder / ".stamp", stamp_for(lock)
    PLACE.mkdir(exist_ok=True)
    with (PLACE / f"{name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            try:
                _build(lock, folder, guard.fileno())
            except (OSError, subprocess.CalledProcessError, SystemExit) as error:
                raise NotInstalled(f"{folder.relative_to(ROOT)} could not be made: {error}") from error
            # Last: an environment that was cut short has none.
            stamp.write_text(wanted)
    return folder / "bin" / "python"


def _build(lock: Path, folder: Path, guard: int) -> None:
    say(f"Setting up {folder.relative_to(ROOT)} (once) ...")
    shutil.rmtree(folder, ignore_errors=True)
    base_python: str = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base_python, "-I", "-m", "venv", "--without-pip", folder], pass_fds=(guard,), check=True)
    site_packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
    install(lock, site_packages, base_python, (guard,), python=folder / "bin" / "python")


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        try:
            print(environment(asked))
        except NotInstalled as error:
            sys.exit(str(error))
