"""The processes that are struck: nodes, their database, and the blows themselves."""

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import psycopg

from tests.chaos.model import Model
from tests.support.postgres import PostgresServer
from tests.support.process import Program
from threadkeep.storage import migrate

Kind = Literal["sqlite", "postgres"]

LEASE_S: Final = 2.0
# A machine that does a lot else starts a process slowly.
_PATIENCE_S: Final = 120.0


@dataclass(frozen=True)
class Blow:
    """Something that was broken, and until when."""

    name: str
    # The node that was struck; none: the database.
    node: str | None
    at: float
    # When it was whole again: the node listens, the database answers.
    whole_at: float

    def __str__(self) -> str:
        when = time.strftime("%H:%M:%S", time.gmtime(self.at))
        of = f" of {self.node}" if self.node else ""
        return f"{when}.{int(self.at % 1 * 1000):03d} {self.name}{of}, whole after {self.whole_at - self.at:.1f} s"


class Node:
    """A server at an address that stays its own, however often it dies."""

    def __init__(self, name: str, folder: Path, arguments: Sequence[str]) -> None:
        self.name = name
        self.folder = folder
        folder.mkdir(parents=True)
        self._arguments = arguments
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.program: Program | None = None
        # What it said on standard error in its earlier lives.
        self.said: list[str] = []

    def start(self) -> None:
        """Returns once it listens."""
        self.program = Program(
            *("serve", "--port", str(self._port), "--data-dir", str(self.folder), *self._arguments), folder=self.folder
        )
        assert self.program.url == self.url

    def kill(self) -> None:
        assert self.program is not None
        self.program.process.kill()
        self._bury(self.program)

    def terminate(self) -> int:
        assert self.program is not None
        self.program.terminate()
        status = self.program.wait()
        self._bury(self.program)
        return status

    def freeze(self) -> None:
        assert self.program is not None
        self.program.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.program is not None
        self.program.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Whatever state it is in."""
        if self.program is not None and self.program.process.poll() is None:
            self.program.process.kill()
            self.program.wait()

    @property
    def errors(self) -> str:
        return "\n".join([*self.said, self.program.errors if self.program is not None else ""])

    def _bury(self, program: Program) -> None:
        program.wait()
        self.said.append(program.errors)
        self.program = None


class Cluster:
    """One node on SQLite, or three on a PostgreSQL of their own."""

    def __init__(self, kind: Kind, folder: Path, model: Model, *, nodes: int, arguments: Sequence[str] = ()) -> None:
        self.kind: Kind = kind
        self.folder = folder
        self._model = model
        self._count = nodes
        self._arguments = arguments
        self._open = ExitStack()
        self.nodes: list[Node] = []
        self.postgres: PostgresServer | None = None
        self.database_url = ""
        self.blows: list[Blow] = []
        # A node that ends with another status than 0 after SIGTERM.
        self.bad_exits: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.close)
            where: list[str] = []
            if self.kind == "postgres":
                self.postgres = PostgresServer(is_durable=True)
                self.postgres.start()
                self.database_url = self.postgres.create_database(name="chaos")
                migrate(self.database_url, self.folder)
                where = ["--database-url", self.database_url, "--blobs-url", f"file://{self.folder}/blobs"]
            for number in range(self._count):
                name = f"node-{number + 1}"
                own = [
                    *("--upstream-url", self._model.url_for(name), "--lease-seconds", str(LEASE_S)),
                    *("--code-interpreter", "off", "--assistants-downloads", "allow", "--log-format", "json"),
                ]
                node = Node(name, self.folder / name, [*where, *own, *self._arguments])
                self.nodes.append(node)
                node.start()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for node in self.nodes:
            node.end()
        if self.postgres is not None:
            self.postgres.remove()

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    # The blows. Each is a call that blocks until all is whole again.

    def strike(self, name: str, chance: random.Random) -> None:
        """Breaks something, and mends it."""
        BLOWS[name](self, chance)

    def _struck(self, name: str, node: Node | None, at: float) -> None:
        self.blows.append(Blow(name, node.name if node else None, at, time.time()))

    def _kill(self, chance: random.Random, *, count: int = 1) -> None:
        struck = chance.sample(self.nodes, min(count, len(self.nodes)))
        away_s = chance.choice((0.0, 0.5, 1.5, LEASE_S + 2))
        moments: list[float] = []
        for node in struck:
            moments.append(time.time())
            node.kill()
            time.sleep(chance.uniform(0, 0.3))
        time.sleep(away_s)
        for node, at in zip(struck, moments, strict=True):
            node.start()
            self._struck("kill", node, at)

    def _kill_twice(self, chance: random.Random) -> None:
        """The second time as soon as it is back: in the midst of taking over, perhaps."""
        node = chance.choice(self.nodes)
        for _ in range(2):
            at = time.time()
            node.kill()
            node.start()
            self._struck("kill", node, at)
            time.sleep(chance.uniform(0, 1))

    def _kill_most(self, chance: random.Random) -> None:
        self._kill(chance, count=len(self.nodes))

    def _freeze(self, chance: random.Random) -> None:
        node, at = chance.choice(self.nodes), time.time()
        node.freeze()
        try:
            # Mostly past its lease, sometimes just about as long.
            time.sleep(LEASE_S + chance.choice((-0.5, 0.0, 1.0, 3.0)))
        finally:
            node.thaw()
        self._struck("freeze", node, at)

    def _terminate(self, chance: random.Random) -> None:
        node, at = chance.choice(self.nodes), time.time()
        if (status := node.terminate()) != 0:
            self.bad_exits.append(f"{node.name} ended with {status} after SIGTERM")
        node.start()
        self._struck("terminate", node, at)

    def _kill_database(self, chance: random.Random) -> None:
        assert self.postgres is not None
        at = time.time()
        os.kill(self.postgres.pid, signal.SIGKILL)
        self._start_database(chance.choice((0.0, 1.0, 3.0)))
        self._struck("database killed", None, at)

    def _stop_database(self, chance: random.Random) -> None:
        assert self.postgres is not None
        at = time.time()
        self.postgres.stop()
        self._start_database(chance.choice((0.0, 1.0, 5.0)))
        self._struck("database stopped", None, at)

    def _freeze_database(self, chance: random.Random) -> None:
        """Every process of it: connections stay, and nothing answers."""
        assert self.postgres is not None
        at, processes = time.time(), self._database_processes()
        for pid in processes:
            _signal(pid, signal.SIGSTOP)
        time.sleep(chance.choice((1.0, 3.0)))
        for pid in processes:
            _signal(pid, signal.SIGCONT)
        self._struck("database frozen", None, at)

    def _cut_connections(self, chance: random.Random) -> None:
        assert self.postgres is not None
        at = time.time()
        for _ in range(chance.randint(1, 4)):
            with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND datname = 'chaos'"
                )
            time.sleep(chance.uniform(0, 0.3))
        self._struck("connections cut", None, at)

    def _kill_backend(self, chance: random.Random) -> None:
        """One process of PostgreSQL's dies: it then ends all others and recovers from its log."""
        assert self.postgres is not None
        at = time.time()
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = 'chaos' AND pid <> pg_backend_pid()"
            ).fetchall()
        if rows:
            _signal(chance.choice(rows)[0], signal.SIGKILL)
        self._until_it_answers()
        self._struck("backend killed", None, at)

    def _kill_node_and_database(self, chance: random.Random) -> None:
        thread = threading.Thread(target=self._kill_database, args=(random.Random(chance.random()),))
        thread.start()
        time.sleep(chance.uniform(0, 0.5))
        node, at = chance.choice(self.nodes), time.time()
        node.kill()
        thread.join()
        node.start()
        self._struck("kill", node, at)

    def _start_database(self, after_s: float) -> None:
        assert self.postgres is not None
        time.sleep(after_s)
        until = time.monotonic() + _PATIENCE_S
        while True:
            # What was killed leaves children for a moment, which hold its memory: it refuses to start beside them.
            self.postgres.stop()
            try:
                return self.postgres.start()
            except RuntimeError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.1)

    def _until_it_answers(self) -> None:
        assert self.postgres is not None
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return psycopg.connect(self.postgres.url(), connect_timeout=5).close()
            except psycopg.OperationalError:
                if time.monotonic() >= until:
                    raise
                time.sleep(0.1)

    def _database_processes(self) -> list[int]:
        """The postmaster first: it makes no more while the others are stopped."""
        assert self.postgres is not None
        master = self.postgres.pid
        found = [master]
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                # The name, in parentheses, may hold anything: the fields stand behind it.
                parent = int(entry.read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            if parent == master:
                found.append(int(entry.parent.name))
        return found


BLOWS: dict[str, Callable[[Cluster, random.Random], None]] = {
    "kill": Cluster._kill,
    "kill-twice": Cluster._kill_twice,
    "kill-all": Cluster._kill_most,
    "freeze": Cluster._freeze,
    "terminate": Cluster._terminate,
    "kill-database": Cluster._kill_database,
    "stop-database": Cluster._stop_database,
    "freeze-database": Cluster._freeze_database,
    "cut-connections": Cluster._cut_connections,
    "kill-backend": Cluster._kill_backend,
    "kill-node-and-database": Cluster._kill_node_and_database,
}

# Which are dealt in which round is drawn from these; a kill of a node is in each.
ON_SQLITE: Final = ("kill", "kill", "kill-twice", "freeze", "terminate")
ON_POSTGRES: Final = (
    *("kill", "kill-twice", "kill-all", "freeze", "freeze", "terminate"),
    *("kill-database", "stop-database", "freeze-database", "cut-connections", "kill-backend"),
    "kill-node-and-database",
)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
