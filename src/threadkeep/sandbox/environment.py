"""Where code finds its Python: a virtual environment of its own, apart from the server's, read-only in every box.

    PLACE/                      the setting sandbox_environment
    ├── .lock                   held by the one installation at work; says what it does at the moment
    ├── .failed                 why the last installation failed, until another one works
    └── <fingerprint>/          for this list of packages, this Python and this kind of machine
        ├── bin/python
        ├── lib/…/site-packages compiled once: nothing can be written there later
        ├── matplotlib/         the list of fonts, which every new box would otherwise make again
        └── .environment.json   written last: without it the folder is the rest of something that was cut short

Only wheels are installed, so nothing of what is fetched runs outside of a box but to list the fonts. The default list
is locked by digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TextIO

from threadkeep.contract.errors import ThreadkeepError
from threadkeep.logs import Log

log = Log(__name__)

# What installs the environment by hand.
COMMAND: Final = "threadkeep sandbox install"
# Stands in a list of packages for all that environment.in names.
DEFAULT: Final = "default"

_HERE = Path(__file__).parent
_ASKED = _HERE / "environment.in"
_LOCK = _HERE / "environment.txt"
# Without these no code runs, whatever packages somebody asks for.
_NEEDED: Final = ("ipython", "matplotlib-inline")
# How the command's complaints begin.
_COMPLAINT: Final = "threadkeep: "
_STAMP = ".environment.json"
_FAILED = ".failed"
# To be raised when the way in which an environment is made changes.
_MADE_AS = b"1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)( ; [^\\\n]*[^\\\s])?", re.MULTILINE)
_LAST_LINES: Final = 30


class Environment(NamedTuple):
    """An environment that is wholly there."""

    folder: Path
    python: Path
    # Every distribution in it, as "numpy==2.4.6".
    packages: tuple[str, ...]
    fingerprint: str

    @property
    def base(self) -> Path:
        """Where the Python itself is, with its standard library; a box needs it too."""
        return Path(sys.base_prefix)

    @property
    def matplotlib(self) -> Path:
        """Files that belong into MPLCONFIGDIR of a new box. Empty where there is no matplotlib."""
        return self.folder / "matplotlib"

    def hold(self) -> TextIO:
        """While this file is open, no installation of something newer removes the environment."""
        stamp = (self.folder / _STAMP).open(encoding="utf-8")
        with contextlib.suppress(OSError):
            # A file system without locks: then nobody can ask either.
            fcntl.flock(stamp, fcntl.LOCK_SH)
        return stamp


class NotInstalled(ThreadkeepError):
    """The environment could not be made; the message says why, in one line or a few."""


def read_environment(place: Path, packages: Sequence[str] = (DEFAULT,)) -> Environment | None:
    """The environment with these packages for the Python that runs this; None: it is not there, or not wholly."""
    fingerprint = fingerprint_of(packages)
    folder = place.absolute() / fingerprint
    try:
        stamp: dict[str, Any] = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        environment = Environment(folder, folder / "bin" / "python", tuple(stamp["packages"]), fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # The Python that it links to may have gone.
    return environment if os.access(environment.python, os.X_OK) else None


def fingerprint_of(packages: Sequence[str]) -> str:
    """Changes with all that an environment depends on."""
    base = os.path.realpath(_base_python())
    machine = os.uname()
    parts = (
        _MADE_AS,
        _LOCK.read_bytes(),
        f"{sys.implementation.cache_tag} {machine.sysname} {machine.machine}".encode(),
    )
    digest = hashlib.sha256()
    for part in (*parts, os.fsencode(base), *(package.encode() for package in sorted(set(packages)))):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def default_packages() -> tuple[str, ...]:
    """The names that ``default`` stands for."""
    lines = _ASKED.read_text(encoding="utf-8").splitlines()
    return tuple(name for line in lines if (name := line.partition("#")[0].strip()))


class Absence(NamedTuple):
    """Why there is no environment, as the second half of a sentence, and what would change that, as a sentence."""

    reason: str
    mend: str


def absence(place: Path) -> Absence:
    """For a place where ``read_environment`` found nothing. Clients may see it: no folder and no index is named."""
    doing = at_work(place)
    if doing is not None:
        return _coming(doing)
    try:
        failed = (place / _FAILED).read_text(encoding="utf-8")[:1000]
    except OSError:
        return Absence("its Python environment is not installed", f"Run: {COMMAND}")
    said = re.sub(r"[a-z+]+://\S+", "the index", failed).replace(str(place.absolute()), "the folder")
    return Absence(f"its Python environment could not be installed: {said.rstrip('.')}", f"Run again: {COMMAND}")


def _coming(doing: str) -> Absence:
    mend = "Code runs as soon as that is done, in a minute or two; nothing needs to be started again."
    return Absence(f"its Python environment is being installed ({doing})", mend)


def at_work(place: Path) -> str | None:
    """What the installation does at the moment that is at work there; None: there is none."""
    try:
        with (place / ".lock").open(encoding="utf-8") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return guard.read(200).strip() or "it begins"
    except OSError:
        pass
    return None


# --- the installation


def install(place: Path, packages: Sequence[str], tell: Callable[[str], None]) -> Environment:
    """Makes the environment, unless it is there; waits for another that makes it. ``tell``: a line of progress.

    Raises NotInstalled; then nothing is left but what a later installation removes.
    """
    place = place.absolute()
    try:
        place.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (place / ".lock").open("a", encoding="utf-8") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell("waiting for another installation that is at work there")
                fcntl.flock(guard, fcntl.LOCK_EX)
            try:
                made = read_environment(place, packages) or _make(place, packages, guard, tell)
            except NotInstalled as error:
                (place / _FAILED).write_text(error.message, encoding="utf-8")
                raise
            (place / _FAILED).unlink(missing_ok=True)
            _remove_others(made)
            return made
    except OSError as error:
        raise NotInstalled(f"{error.filename or place}: {error.strerror or error}") from error


def _make(place: Path, packages: Sequence[str], guard: TextIO, tell: Callable[[str], None]) -> Environment:
    (place / _FAILED).unlink(missing_ok=True)
    _Making(place / fingerprint_of(packages), packages, guard, tell).make()
    made = read_environment(place, packages)
    if made is None:
        raise NotInstalled(f"what was made in {place} cannot be read")
    return made


# Run in the new environment: that it can run code at all, the list of fonts, and what is in it.
_LOOK = """
import importlib.metadata, importlib.util, json, os
import IPython.core.interactiveshell, matplotlib_inline
os.makedirs(os.environ["MPLCONFIGDIR"], exist_ok=True)
if importlib.util.find_spec("matplotlib"):
    import matplotlib.font_manager
found = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
print(json.dumps([f"{name}=={version}" for name, version in sorted(found.items())]))
"""


class _Making:
    """One environment being made, by whoever holds the ``guard``."""

    def __init__(self, folder: Path, packages: Sequence[str], guard: TextIO, tell: Callable[[str], None]) -> None:
        self._folder = folder
        self._python = str(folder / "bin" / "python")
        self._packages = packages
        self._guard = guard
        self._tell = tell
        self._lock = _LOCK.read_text(encoding="utf-8")

    def make(self) -> None:
        folder = self._folder
        self._say("making the environment")
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            raise NotInstalled(f"{folder} is in the way and cannot be removed. Remove it and try again.")
        try:
            self._check(self._run([_base_python(), "-I", "-m", "venv", "--without-pip", str(folder)]))
            self._install_packages()
            self._say("compiling")
            # Unchecked: the sources cannot change under them, and in a box nothing could be compiled again. Some
            # packages bring files that are no Python of this version; that is no failure.
            compiling = ["compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
            self._run([self._python, "-I", "-m", *compiling, str(folder / "lib")])
            self._say("listing the fonts")
            # The fonts of the machine, not those in somebody's home: a box has only the former.
            aside = {"HOME": str(folder / "nobody"), "MPLCONFIGDIR": str(folder / "matplotlib")}
            seen = self._check(self._run([self._python, "-I", "-c", _LOOK], **aside))
            stamp = folder / f"{_STAMP}.new"
            stamp.write_text(json.dumps({"packages": json.loads(seen.splitlines()[-1])}), encoding="utf-8")
            stamp.rename(folder / _STAMP)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _install_packages(self) -> None:
        installer = self._installer()
        others = [package for package in self._packages if package != DEFAULT]
        if DEFAULT in self._packages:
            self._follow([*installer, "--require-hashes", "--no-deps", "-r", str(_LOCK)])
        if others or DEFAULT not in self._packages:
            # Where nobody says otherwise, the versions that the default list has.
            said = {_key(name[0]) for package in others if (name := _NAME.match(package)) and package != name[0]}
            pins = [
                f"{pin[1]}=={pin[2]}{pin[3] or ''}" for pin in _PIN.finditer(self._lock) if _key(pin[1]) not in said
            ]
            constraints = self._folder / "constraints.txt"
            constraints.write_text("\n".join(pins), encoding="utf-8")
            self._follow([*installer, "-c", str(constraints), *_NEEDED, *others])
        shutil.rmtree(self._folder / "tools", ignore_errors=True)

    def _installer(self) -> list[str]:
        """The command that installs: what the server itself was installed with, so that it knows the same index.

        pip where the server's environment has it, else uv, else the pip that this Python brings along, set up aside.
        """
        wheels = ["--only-binary", ":all:"]
        quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--root-user-action", "ignore"]
        pip = [
            "-I",
            "-m",
            "pip",
            "--python",
            self._python,
            "install",
            "--no-compile",
            "--retries",
            "2",
            *quiet,
            *wheels,
        ]
        if self._succeeds([sys.executable, "-I", "-m", "pip", "--version"]):
            return [sys.executable, *pip]
        uv = shutil.which("uv")
        if uv is not None and self._succeeds([uv, "--version"]):
            return [uv, "pip", "install", "--python", self._python, "--no-progress", "--color", "never", *wheels]
        tools = self._folder / "tools"
        own = str(tools / "bin" / "python")
        if self._succeeds([_base_python(), "-I", "-m", "venv", "--without-pip", str(tools)]) and self._succeeds(
            [own, "-I", "-m", "ensurepip"]
        ):
            return [own, *pip]
        raise NotInstalled(
            f"there is nothing to install packages with: neither pip nor uv, and {_base_python()} brings no pip. "
            "Install uv, or pip (on Debian and Ubuntu: apt-get install python3-pip)."
        )

    def _follow(self, command: Sequence[str]) -> None:
        """Runs an installer and tells how far it is."""
        many = len({_key(pin[1]) for pin in _PIN.finditer(self._lock)})
        told: set[str] = set()
        last: list[str] = []
        self._say("looking for packages")
        with subprocess.Popen(
            command,
            cwd=self._folder,
            env=_surroundings({"PIP_USER": "0"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o022,
            # It may outlive this process, and then still keeps others out.
            pass_fds=(self._guard.fileno(),),
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                words = line.split()
                if not words:
                    continue
                last = [*last[1 - _LAST_LINES :], line.strip()]
                name = _NAME.match(words[1]) if len(words) > 1 else None
                if words[0] in ("Collecting", "Downloading") and name is not None:
                    # "numpy", "numpy==2.4.6", or the name of a wheel
                    project = _key(name[0].partition("-")[0] if ".whl" in name[0] else name[0])
                    if project not in told:
                        told.add(project)
                        self._say(f"fetching {project} ({len(told)} of {max(many, len(told))})")
                elif words[0] in ("Installing", "Prepared"):
                    self._say("unpacking")
        if process.returncode != 0:
            program = "uv" if command[1] == "pip" else "pip"
            raise NotInstalled(
                f"{program} could not install the packages: {_complaint(last) or 'it did not say why'}. "
                "Is the package index there that this machine is configured for?"
            )

    def _say(self, line: str) -> None:
        """Tells it, and writes it down for ``at_work``."""
        self._guard.truncate(0)
        self._guard.write(line)
        self._guard.flush()
        self._tell(line)

    def _run(self, command: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=_surroundings(more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            umask=0o022,
            pass_fds=(self._guard.fileno(),),
            check=False,
        )

    def _succeeds(self, command: Sequence[str]) -> bool:
        try:
            return self._run(command).returncode == 0
        except OSError:
            return False

    def _check(self, done: subprocess.CompletedProcess[str]) -> str:
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise NotInstalled(f"the environment does not work: {said[-1] if said else f'status {done.returncode}'}")
        return done.stdout


def _complaint(lines: Sequence[str]) -> str:
    """What an installer said of its failure: all from its first error on."""
    # uv draws a tree under its errors.
    first = next((n for n, line in enumerate(lines) if re.match(r"(?i)error|\u00d7", line)), len(lines[:-3]))
    said = " ".join(line.lstrip("\u00d7\u2570\u251c\u2500\u25b6\u2502 ") for line in lines[first:])
    # Without the part of an address that may be a password.
    return re.sub(r"//[^/@\s]+@", "//***@", said)[:800].rstrip(". ")


def _remove_others(environment: Environment) -> None:
    """Environments for other lists and Pythons, and the rests of what was cut short; not those that somebody holds."""
    for folder in environment.folder.parent.iterdir():
        if folder == environment.folder or folder.is_symlink() or not re.fullmatch(r"[0-9a-f]{16}", folder.name):
            continue
        try:
            with (folder / _STAMP).open(encoding="utf-8") as stamp:
                fcntl.flock(stamp, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            pass
        except OSError:
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _base_python() -> str:
    """A Python of the base installation: this process may run from a virtual environment."""
    return getattr(sys, "_base_executable", None) or sys.executable


def _surroundings(more: dict[str, str]) -> dict[str, str]:
    """For programs run here: none of the server's settings, and none that are right only for a person's own pip."""
    unfit = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT", "PIP_REQUIRE_VIRTUALENV", "PIP_QUIET"}
    unfit |= {"PYTHONHOME", "PYTHONPATH", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_TARGET"}
    kept = {name: value for name, value in os.environ.items() if name not in unfit and name[:11] != "THREADKEEP_"}
    return kept | more


# --- beside a running server


class Installation:
    """An installation in a process of its own, which yields to others and ends with this one, however this ends.

    ``tell`` is called with each line of progress. What becomes of it is seen where everybody looks, with
    ``read_environment`` and the function ``absence``.
    """

    def __init__(self, place: Path, packages: Sequence[str], tell: Callable[[str], None] = lambda line: None) -> None:
        self._place = place
        self._packages = packages
        self._tell = tell
        self._task: asyncio.Task[None] | None = None
        self._doing = "it begins"

    def absence(self) -> Absence:
        """As the function of that name, and from the first moment on."""
        return _coming(self._doing) if self.is_at_work else absence(self._place)

    @property
    def is_at_work(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begins, unless the environment is there."""
        if read_environment(self._place, self._packages) is None:
            self._task = asyncio.create_task(self._install())

    async def close(self) -> None:
        """Nothing is left at work. What was not finished is begun again by the next installation."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _install(self) -> None:
        began = time.monotonic()
        try:
            log.info("sandbox_install_started", place=str(self._place))
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "threadkeep", "sandbox", "install", "--aside"),
                *("--sandbox-environment", str(self._place), "--sandbox-packages", ",".join(self._packages)),
                env=_surroundings({}),
                # It lives as long as this pipe is open.
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            said = await self._follow(process)
        except OSError as error:
            log.warning("sandbox_install_failed", error=error)
            return
        if process.returncode == 0:
            log.info("sandbox_installed", detail=said, duration_s=round(time.monotonic() - began, 1))
        else:
            log.warning("sandbox_install_failed", reason=said or f"status {process.returncode}")

    async def _follow(self, process: asyncio.subprocess.Process) -> str:
        """Waits for its end, and ends it when it must not be waited for; its last line."""
        assert process.stdout is not None
        said = ""
        try:
            while line := await process.stdout.readline():
                said = line.decode("utf-8", "replace").strip()
                if not said.startswith(_COMPLAINT):
                    self._doing = said
                    self._tell(said)
            await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        return said.removeprefix(_COMPLAINT)


def step_aside() -> None:
    """For the process of an ``Installation``: it yields to others, and dies with all its children when stdin ends."""
    os.nice(15)

    def follow() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=follow, daemon=True).start()
