"""The whole server for tests: over real HTTP, on either database, in a thread of this process.

def test_x(client): client.post("/threads", json={})        a client with a key to a project of its own
def test_y(server): server.base_url; server.store …          the server itself, shared by the tests of a session
with serving(settings) as server: …                          one of the test's own, with its own settings
"""

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2
import pytest
import uvloop

from tests.support.postgres import PostgresServer
from threadkeep.app import Server, open_server
from threadkeep.contract.ids import new_id
from threadkeep.serving import Bounds, HttpServer, default_connections
from threadkeep.settings import Settings
from threadkeep.storage import Transaction
from threadkeep.storage.keys import hash_of

T = TypeVar("T")

_PATIENCE_S = 120


class RunningServer:
    """A server that answers. Its parts belong to its own event loop: reach them through `call`, `read` and `write`."""

    def __init__(self, parts: Server, settings: Settings, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.parts = parts
        self.settings = settings
        self.port = port
        self._loop = loop

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What an SDK is given."""
        return f"{self.url}/v1"

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """What ``function`` returns, run on the server's loop."""

        async def run() -> T:
            return await function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_PATIENCE_S)

    def read(self, project: str | None, fn: Callable[[Transaction], T]) -> T:
        return self.call(lambda: self.parts.store.read(project, fn))

    def write(self, project: str | None, fn: Callable[[Transaction], T]) -> T:
        return self.call(lambda: self.parts.store.write(project, fn))

    def new_key(self, project: str | None = None) -> str:
        """A key to the project of this name, or to a new one."""
        name = project or new_id("proj")
        return self.write(None, lambda tx: tx.keys.create(name))[1]

    def project_of(self, client: httpx2.Client) -> str:
        """The id of the project that the client's key belongs to."""
        key = client.headers["authorization"].removeprefix("Bearer ")
        found = self.read(None, lambda tx: tx.keys.find(hash_of(key)))
        assert found is not None
        return found[1]

    def client(self, key: str | None = None, **headers: str) -> httpx2.Client:
        """A plain HTTP client of ``/v1`` with a key, else with one to a new project."""
        headers = {"authorization": f"Bearer {key or self.new_key()}", **headers}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=_PATIENCE_S, trust_env=False)


class _Served(HttpServer):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Signals are the main thread's."""
        yield


@contextmanager
def serving(settings: Settings, *, takes_any_key: bool = False) -> Generator[RunningServer, None, None]:
    """Runs a server as the command line would, but for the signals."""
    started: list[RunningServer] = []
    stops: list[Callable[[], object]] = []
    failures: list[BaseException] = []
    is_settled = threading.Event()

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            async with open_server(settings, takes_any_key=takes_any_key) as parts:
                loop = asyncio.get_running_loop()
                running = RunningServer(parts, settings, listener.getsockname()[1], loop)
                started.append(running)
                bounds = Bounds(
                    connections=settings.max_connections or default_connections(), grace_s=settings.grace_seconds
                )
                http = _Served(parts.app, parts, bounds, on_ready=is_settled.set)
                stops.append(lambda: loop.call_soon_threadsafe(setattr, http, "should_exit", True))
                await http.serve(sockets=[listener])

    def main() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run())
        except BaseException as error:
            failures.append(error)
        finally:
            is_settled.set()

    thread = threading.Thread(target=main, name="server", daemon=True)
    thread.start()
    assert is_settled.wait(_PATIENCE_S), "the server does not start"
    if failures:
        raise failures[0]
    try:
        yield started[0]
    finally:
        stops[0]()
        thread.join(_PATIENCE_S)
        assert not thread.is_alive(), "the server does not stop"
    if failures:
        raise failures[0]


@pytest.fixture(scope="session")
def sqlite_server(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder)) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    url = postgres.create_database(template="threadkeep")
    with serving(Settings(data_dir=tmp_path_factory.mktemp("served"), database_url=url)) as server:
        yield server
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest) -> RunningServer:
    """A server on either database: a test that asks for it runs twice. It is shared, and keeps tests apart by project:
    ask for a `client`, or make a key."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx2.Client]:
    """A client of a project in which there is nothing yet."""
    with server.client() as client:
        yield client
