"""Nodes: server processes that share a database, and die when a test says so."""

import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx2

from tests.support import process
from tests.support.databases import Database
from tests.support.stories import ScriptedModel, ScriptedModels, Stream

LEASE_S = 2.0
KEY = {"authorization": "Bearer any"}


class Node:
    """A server process, and a client of it."""

    def __init__(self, program: process.Program) -> None:
        self.program = program
        self.http = httpx2.Client(base_url=f"{program.url}/v1", headers=KEY, timeout=120, trust_env=False)

    def kill(self) -> None:
        self.program.process.kill()
        self.program.wait()

    def until_ended(self, run_path: str, patience_s: float = 60) -> str:
        """The run's status, once it has ended or waits for its client. A database that is away is waited for."""
        deadline = time.monotonic() + patience_s
        while True:
            answer = self.http.get(run_path)
            status = "unknown" if answer.status_code == 503 else answer.json()["status"]
            if status not in ("unknown", "queued", "in_progress", "cancelling"):
                return status
            assert time.monotonic() < deadline, f"the run stays {status}"
            time.sleep(0.02)


@contextmanager
def node(database: Database, models: ScriptedModels, *arguments: str) -> Generator[Node, None, None]:
    folder = database.data_dir
    # On PostgreSQL each process has a folder of its own; what files contain they share, as nodes do.
    blobs = f"file://{folder}/blobs"
    where = ["--database-url", database.url, "--blobs-url", blobs] if database.url else []
    folder = folder / f"node-{time.monotonic_ns()}" if database.url else folder
    folder.mkdir(exist_ok=True)
    with process.started(
        *("serve", "--port", "0", "--data-dir", str(folder), *where),
        *("--upstream-url", models.url, "--lease-seconds", str(LEASE_S), *arguments),
        folder=folder,
    ) as program:
        started = Node(program)
        with started.http:
            yield started


@contextmanager
def successor(database: Database, models: ScriptedModels, dying: Node, *arguments: str) -> Generator[Node, None, None]:
    """Whoever is there once ``dying`` was killed: on PostgreSQL a node beside it, on SQLite one in its place."""
    if database.is_sqlite:
        dying.kill()
        with node(database, models, *arguments) as other:
            yield other
    else:
        with node(database, models, *arguments) as other:
            dying.kill()
            yield other


@contextmanager
def begun(at: Node, model: ScriptedModel, **assistant: object) -> Generator[Stream, None, None]:
    """A streamed run at a node."""
    assistant_id = at.http.post("/assistants", json={"model": model.name, **assistant}).json()["id"]
    thread = at.http.post("/threads", json={"messages": [{"role": "user", "content": "Hi"}]}).json()["id"]
    body = {"assistant_id": assistant_id, "stream": True}
    with at.http.stream("POST", f"/threads/{thread}/runs", json=body) as response:
        yield Stream(response)
