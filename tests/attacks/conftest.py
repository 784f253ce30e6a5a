"""Attacks through the tool: a server process with the code interpreter on, and a model that writes hostile code.

def test_x(attacker): attacker.run("…")          code in the attacker's thread; what became of it
def test_x(attacker): attacker.finds("sockets")  what a probe of `probes` found, from inside the sandbox

Every attack runs in a box and nowhere else. After each test the server answers, the attacker's thread and somebody
else's work, and the server is as large as before. As root all of it happens twice: the second server is nobody's.
"""

import contextlib
import inspect
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx2
import pytest

from tests.attacks import probes
from tests.capabilities import missing
from tests.support import process
from tests.support.process import Program
from tests.support.sandbox import PLACE
from tests.support.server import RunningServer
from tests.support.stories import ScriptedModels, Story
from threadkeep.sandbox.environment import Environment
from threadkeep.sandbox.watchdog import processes
from threadkeep.upstream.scripted import Call, Say

MIB = 1024 * 1024
CALL_S = 5.0
# Small enough to reach, large enough for a box on a busy machine.
MEMORY_BYTES = 512 * MIB
DISK_BYTES = 32 * MIB
SCRATCH_BYTES = 16 * MIB
PROCESSES = 40
INODES = 5_000
OUTPUT_BYTES = 200_000
IMAGES = 3
FILES = 10
# What ends a call, and what is waited for an answer while the machine is busy.
PATIENCE_S = 90.0
# What one attack may leave the server larger by.
GROWTH_BYTES = 150 * MIB
AS_USER = Path(__file__).resolve().parents[1] / "sandbox" / "as_user.py"
NOBODY = 65534

_BOUNDS = {
    "code-timeout-seconds": CALL_S,
    "code-interrupt-seconds": 0.5,
    "sandbox-memory-bytes": MEMORY_BYTES,
    "sandbox-disk-bytes": DISK_BYTES,
    "sandbox-scratch-bytes": SCRATCH_BYTES,
    "sandbox-file-bytes": 16 * MIB,
    "sandbox-processes": PROCESSES,
    "sandbox-inodes": INODES,
    "sandbox-listed-files": 200,
    "code-output-bytes": OUTPUT_BYTES,
    "code-images": IMAGES,
    "code-image-bytes": MIB,
    "code-files": FILES,
}


class Ran(NamedTuple):
    """What became of code."""

    status: str
    last_error: Any
    # None when the run came to no step.
    step: Any
    took_s: float

    @property
    def outputs(self) -> list[Any]:
        if self.step is None:
            return []
        [call] = self.step["step_details"]["tool_calls"]
        return call["code_interpreter"]["outputs"]

    @property
    def logs(self) -> str:
        return "".join(output["logs"] for output in self.outputs if output["type"] == "logs")

    @property
    def images(self) -> list[str]:
        return [output["image"]["file_id"] for output in self.outputs if output["type"] == "image"]


class Host:
    """A server process, with the secrets and the neighbours that a machine has."""

    def __init__(self, program: Program, folder: Path, secret: str, models: ScriptedModels) -> None:
        self.program = program
        self.folder = folder
        # In the server's environment, in its files, and in the command line of a neighbour.
        self.secret = secret
        self.models = models
        self._keys = 0

    @property
    def base_url(self) -> str:
        return f"{self.program.url}/v1"

    def new_key(self) -> str:
        """Any will do from this machine, and each opens the same project."""
        self._keys += 1
        return f"key-{self._keys}"

    def client(self, key: str) -> httpx2.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=PATIENCE_S, trust_env=False)

    def attacker(self) -> "Attacker":
        return Attacker(self)

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.program.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def boxes(self) -> list[int]:
        """All processes that come from the server."""
        return processes(self.program.pid)[1:]

    def answers_in(self) -> float:
        """How long the server takes for something small, seconds."""
        since = time.monotonic()
        answer = httpx2.get(f"{self.program.url}/health/live", timeout=PATIENCE_S, trust_env=False)
        assert answer.status_code == 200
        return time.monotonic() - since


class Attacker:
    """A thread of its own whose model writes what the test says."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.story = Story(cast("RunningServer", host), host.models)
        # Contents of files are no objects, and names in it need not be the SDK's.
        self.http = host.client(self.story.key)
        self._employ()
        self.thread = self.story.thread("Attack.")

    def _employ(self) -> None:
        """A model whose script is empty."""
        self.story.model = self.host.models.new_model()
        self.story.assistant(tools=[{"type": "code_interpreter"}])

    def begin(self, code: str) -> str:
        """Starts code; the path of its run."""
        self.story.model.says(Call("code_interpreter", {"code": textwrap.dedent(code)}), Say("Done."))
        return f"{self.thread}/runs/{self.story.create_run(self.thread)['id']}"

    def end(self, run_path: str) -> Ran:
        since = time.monotonic()
        deadline = since + PATIENCE_S
        while (run := self.story.get(run_path))["status"] in ("queued", "in_progress", "cancelling"):
            assert time.monotonic() < deadline, f"the run goes on: {run}"
            time.sleep(0.01)
        if run["status"] != "completed":
            # What it was to say next is not for the next run.
            self._employ()
        steps = [step for step in self.story.steps(run_path) if step["type"] == "tool_calls"]
        return Ran(run["status"], run["last_error"], steps[0] if steps else None, time.monotonic() - since)

    def run(self, code: str) -> Ran:
        return self.end(self.begin(code))

    def finds(self, probe: str, **plan: object) -> list[str]:
        """What got through."""
        ran = self.run(probing(probe, plan))
        return found_in(ran.logs)

    def works(self) -> None:
        """A next call is answered, and rightly: at the latest after a reset, if others still talk into it."""
        ran = self.run("print(40 + 2)")
        if ran.logs != "42\n":
            self.begin_anew()
            ran = self.run("print(40 + 2)")
            assert (ran.status, ran.logs) == ("completed", "42\n")

    def begin_anew(self) -> None:
        """With a new process, and no files."""
        self.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        self.run("!rm -rf /tmp/* /mnt/data/* /dev/shm/* /home/sandbox/*")

    def processes(self) -> int:
        """Those in the box, with the first; whoever counts is one of them."""
        return int(self.run("import os; print(sum(name.isdigit() for name in os.listdir('/proc')))").logs.split()[-1])

    def close(self) -> None:
        """Its session goes with its thread."""
        self.story.http.delete(self.thread)
        self.story.http.close()
        self.http.close()


def probing(probe: str, plan: dict[str, Any]) -> str:
    return f"{inspect.getsource(probes)}\nreport({probe!r}, {plan!r})\n"


def found_in(logs: str) -> list[str]:
    """What a probe said that it found. That it came to its end is part of it."""
    said = [line.removeprefix(probes.MARK) for line in logs.splitlines() if line.startswith(probes.MARK)]
    assert len(said) == 1, f"the probe did not come to its end: {logs[-3000:]}"
    return json.loads(said[0])


@contextmanager
def hosting(kind: str, models: ScriptedModels, *more: str) -> Generator[Host, None, None]:
    """A server of root's or of nobody's."""
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-attacks-"))
    secret = secrets.token_hex(16)
    environment = {"ATTACK_SECRET": secret, "THREADKEEP_UPSTREAM_API_KEY": f"sk-{secret}"}
    try:
        folder.chmod(0o755)
        for name in (".ssh/id_ed25519", "data/blobs/secret", "neighbour/secret"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(secret, encoding="ascii")
        as_user: tuple[str, ...] = ()
        if kind == "nobody":
            environment["THREADKEEP_SANDBOX_ENVIRONMENT"] = str(PLACE)
            as_user = (sys.executable, str(AS_USER))
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        bounds = [each for name, value in _BOUNDS.items() for each in (f"--{name}", str(value))]
        with process.serving(
            *("--code-interpreter", "on", "--sandbox-environment", str(PLACE), "--sandbox-pool", "0"),
            *("--sandbox-sessions", "16", "--upstream-url", models.url, "--upstream-retries", "0"),
            *("--grace-seconds", "0", *bounds, *more),
            folder=folder,
            environment=environment,
            through=as_user,
        ) as program:
            yield Host(program, folder, secret, models)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def gone(pids: Sequence[int]) -> bool:
    """Whether these processes end, within a time that is generous."""
    deadline = time.monotonic() + 30
    while any(is_there(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_there(pid: int) -> bool:
    with contextlib.suppress(OSError):
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
        # Dead and not waited for, by whoever inherited it.
        return state != "Z"
    return False


def kinds() -> list[str]:
    return ["root", "nobody"] if os.geteuid() == 0 else ["this user"]


@pytest.fixture(scope="session", params=kinds())
def host(
    request: pytest.FixtureRequest, sandbox_environment: Environment, bubblewrap: str, scripted_models: ScriptedModels
) -> Iterator[Host]:
    """The server that the attacks share. Nothing is left of it when it has ended."""
    if request.param == "nobody" and shutil.which("unshare") is None:
        missing("unshare", fix="apt-get install util-linux")
    with hosting(request.param, scripted_models) as host:
        yield host
        left = host.boxes()
        assert host.program.stop() == 0
        assert gone(left)


@pytest.fixture(scope="session")
def bystander(host: Host) -> Iterator[Attacker]:
    """Somebody else, in a thread of their own, who only ever adds."""
    attacker = host.attacker()
    attacker.run("kept = 40; open('/mnt/data/mine', 'w').write('mine')")
    yield attacker
    attacker.close()


@pytest.fixture(scope="session")
def shared_attacker(host: Host) -> Iterator[Attacker]:
    attacker = host.attacker()
    yield attacker
    attacker.close()


@pytest.fixture
def attacker(host: Host, shared_attacker: Attacker, bystander: Attacker) -> Iterator[Attacker]:
    """Whose code attacks. Afterwards everybody goes on."""
    shared_attacker.works()
    before = host.resident_bytes()
    yield shared_attacker
    unharmed(host, shared_attacker, bystander, before)


def unharmed(host: Host, attacker: Attacker, bystander: Attacker, before_bytes: int) -> None:
    assert host.answers_in() < 5
    attacker.works()
    ran = bystander.run("print(kept + 2, open('/mnt/data/mine').read(), __import__('os').listdir('/mnt/data'))")
    assert ran.logs == "42 mine ['mine']\n"
    assert ran.took_s < 20
    assert host.resident_bytes() < before_bytes + GROWTH_BYTES


# ---------------------------------------------------------------- what listens on this machine


class Listeners(NamedTuple):
    """The test's own, in all the ways in which programs of one machine reach each other."""

    tcp: list[tuple[str, int]]
    unix: list[str]
    # Who came, and who was to come.
    heard: list[str]
    expected: list[str]


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    folder = Path(tempfile.mkdtemp(prefix="threadkeep-listen-"))
    folder.chmod(0o755)
    opened: list[socket.socket] = []
    found = Listeners([], [], [], [])
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.suppress(OSError):
            listener = socket.create_server((host, 0), family=family)
            opened.append(listener)
            found.tcp.append((host, listener.getsockname()[1]))
    for address in (f"@threadkeep-attacks-{secrets.token_hex(4)}", str(folder / "socket"), str(folder / "datagrams")):
        kind = socket.SOCK_DGRAM if address.endswith("datagrams") else socket.SOCK_STREAM
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind("\0" + address[1:] if address.startswith("@") else address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        if not address.startswith("@"):
            Path(address).chmod(0o777)
        opened.append(listener)
        found.unix.append(address)
    yield found
    for listener in opened:
        listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            if listener.type == socket.SOCK_DGRAM:
                found.heard.append(repr(listener.recv(100)))
            else:
                listener.accept()[0].close()
                name = listener.getsockname()
                found.heard.append("@" + name[1:].decode() if isinstance(name, bytes) else str(name))
        listener.close()
    shutil.rmtree(folder, ignore_errors=True)
    assert found.heard == found.expected


@contextmanager
def neighbour(secret: str) -> Generator[subprocess.Popen[bytes], None, None]:
    """A process of this machine that has nothing to do with the server, with a secret on its command line."""
    with subprocess.Popen(["sleep", "600"], env={"NEIGHBOUR_SECRET": secret}) as process:
        try:
            yield process
        finally:
            process.kill()


def together(attackers: Sequence[Attacker], codes: Sequence[str]) -> list[Ran]:
    """All of them at the same time."""
    done: list[Ran | BaseException | None] = [None] * len(codes)

    def work(number: int) -> None:
        try:
            done[number] = attackers[number].run(codes[number])
        except BaseException as error:
            done[number] = error

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(codes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S * 2)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return [cast("Ran", each) for each in done]
