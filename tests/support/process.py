"""The program as somebody runs it: a process of its own, in a folder of its own, with nobody else's settings."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PATIENCE_S = 120.0
LISTENING = "listening on "


class Finished(NamedTuple):
    status: int
    output: str
    errors: str


def run(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Finished:
    """Runs a command to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "threadkeep", *arguments],
        cwd=folder,
        env=_environment(folder, environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class Program:
    """A command that goes on until it is stopped. What it prints is collected as it comes."""

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        self._errors = folder / f"errors-{time.monotonic_ns()}.txt"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*through, sys.executable, "-m", "threadkeep", *arguments],
                cwd=folder,
                env=_environment(folder, environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def url(self) -> str:
        """Where it listens: http://HOST:PORT. Waits until it does."""
        return self.wait_for(LISTENING).removeprefix(LISTENING)

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def errors(self) -> str:
        return self._errors.read_text(encoding="utf-8")

    def wait_for(self, beginning: str) -> str:
        """The first line that begins so."""
        deadline = time.monotonic() + PATIENCE_S
        with self._more:
            while True:
                for line in self.lines:
                    if line.startswith(beginning):
                        return line
                ended = not self._reader.is_alive()
                left = deadline - time.monotonic()
                assert not ended, f"it ended with {self.process.wait()}, and said:\n{self.output}\n{self.errors}"
                assert left > 0, f"it did not say '{beginning}' but:\n{self.output}\n{self.errors}"
                self._more.wait(min(left, 1.0))

    def terminate(self) -> None:
        """Asks it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def stop(self) -> int:
        self.terminate()
        return self.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                with self._more:
                    self.lines.append(line.rstrip("\n"))
                    self._more.notify_all()


@contextmanager
def started(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> Generator[Program, None, None]:
    """The command while the context lasts; whatever happens, it has ended afterwards. ``through``: a command that
    becomes it, as another user perhaps."""
    program = Program(*arguments, folder=folder, environment=environment, through=through)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.wait()


@contextmanager
def serving(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, through: Sequence[str] = ()
) -> Generator[Program, None, None]:
    """A server on a free port with its data in ``folder / "data"``, ready to answer."""
    data = str(folder / "data")
    with started(
        *("serve", "--port", "0", "--data-dir", data, *arguments),
        folder=folder,
        environment=environment,
        through=through,
    ) as program:
        assert program.url
        yield program


def _environment(folder: Path, more: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}
    # Coverage and the like may stand in PYTHONPATH; the checkout's own package comes first.
    return {**kept, "HOME": str(folder), "XDG_DATA_HOME": str(folder / "share"), **(more or {})}
