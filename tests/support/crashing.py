"""Servers that kill themselves at an exact point: right before, or right after, a commit that is counted.

`python -m tests.support.crashing` has loaded the program already and makes a server of each line that it reads, by
forking: dozens of them, in the time of a few.
"""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

When = Literal["before", "after"]

_LISTENING = "listening on "
_PATIENCE_S = 60.0


class Death(NamedTuple):
    """The process dies right before, or right after, the ``nth`` commit of a run that it makes; 0: never."""

    when: When
    nth: int


class Process:
    """A server, forked. What it has counted stands in a file."""

    def __init__(self, pid: int, folder: Path, name: str) -> None:
        self.pid = pid
        self._folder = folder
        self._name = name

    @property
    def url(self) -> str | None:
        """Where it listens; None if it died before it did."""
        deadline = time.monotonic() + _PATIENCE_S
        output = self._folder / f"{self._name}.out"
        while True:
            lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
            for line in lines:
                if line.startswith(_LISTENING):
                    return line.removeprefix(_LISTENING)
            if not self.is_alive:
                return None
            assert time.monotonic() < deadline, lines
            time.sleep(0.01)

    @property
    def commits(self) -> int:
        """How many commits it has counted."""
        return len((self._folder / f"{self._name}.commits").read_text(encoding="utf-8").splitlines())

    @property
    def is_alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> None:
        """Until it is dead."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.is_alive:
            assert time.monotonic() < deadline, f"{self._name} lives"
            time.sleep(0.005)

    def kill(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.wait()


class Nursery:
    """Makes servers. In any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = itertools.count()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.support.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=kept,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.close()
        self._program.wait(_PATIENCE_S)
        self._program.stdout.close()

    def start(self, folder: Path, arguments: list[str], death: Death) -> Process:
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with self._lock:
            name = f"server-{next(self._made)}"
            job = {"folder": str(folder), "name": name, "arguments": arguments, "when": death.when, "nth": death.nth}
            self._program.stdin.write(json.dumps(job) + "\n")
            self._program.stdin.flush()
            pid = int(self._program.stdout.readline())
        return Process(pid, folder, name)


# ---------------------------------------------------------------- in the processes


def count_commits(death: Death, counted: Callable[[], object]) -> None:
    """Lets this process die as it is to. What counts is what the rooms ``runs`` and ``tools`` write."""
    from threadkeep.storage.engine import Answers, Job
    from threadkeep.storage.store import Store

    numbers = itertools.count(1)
    write, add = Store.write, Answers.add
    doomed: list[object] = []

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def count_and_write(self: Store, project_id: str | None, fn: Callable[[Any], Any], **more: Any) -> Any:
        if fn.__module__.startswith(("threadkeep.runs", "threadkeep.tools")):
            counted()
            if next(numbers) == death.nth:
                if death.when == "after":
                    doomed.append(fn)
                else:
                    given = fn

                    def all_but_commit(tx: Any) -> None:
                        given(tx)
                        die()

                    fn = all_but_commit
        return await write(self, project_id, fn, **more)

    def add_or_die(self: Answers, job: Job, result: Any, error: BaseException | None = None) -> None:
        # The thread has just heard that it is committed, and nobody else has.
        if job.fn in doomed:
            die()
        add(self, job, result, error)

    Store.write = count_and_write
    Answers.add = add_or_die


def be_a_server(job: dict[str, Any]) -> int:
    from threadkeep import cli

    folder, name = Path(job["folder"]), job["name"]
    commits = (folder / f"{name}.commits").open("a", encoding="utf-8", buffering=1)
    for descriptor, ending in ((1, "out"), (2, "err")):
        file = os.open(folder / f"{name}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(folder)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    count_commits(Death(job["when"], job["nth"]), lambda: commits.write("one\n"))
    return cli.main(job["arguments"])


def main() -> None:
    # All that a server loads.
    for module in ("app", "cli", "storage.postgres", "upstream.client"):
        importlib.import_module(f"threadkeep.{module}")

    # Those who die are nobody's to wait for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    children: list[int] = []
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            status = 1
            try:
                status = be_a_server(json.loads(line))
            finally:
                os._exit(status)
        children.append(pid)
        print(pid, flush=True)
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
