"""A way to PostgreSQL that breaks at an exact point: each test says what becomes of a commit and of its answer."""

import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

_COMMIT = b"COMMIT\x00"
_SOCKET = ".s.PGSQL.5432"


class Way:
    """One connection: what a client sends goes to the server, and what that answers comes back."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        # From now on the client hears nothing; set once there was something to hear.
        self.is_deaf = False
        self.missed = threading.Event()

    def cut(self) -> None:
        """Both ends learn that the other is gone."""
        for end in (self.client, self.server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# Is given the commit ahead of the server; whether it goes on by itself afterwards.
OnCommit = Callable[[Way, bytes], bool]


def lose_the_commit(way: Way, commit: bytes) -> bool:
    """The server never gets it."""
    way.cut()
    return False


def lose_the_answer(way: Way, commit: bytes) -> bool:
    """The server has committed, and the client does not hear of it."""
    way.is_deaf = True
    way.server.sendall(commit)
    assert way.missed.wait(60)
    way.cut()
    return False


class PostgresProxy:
    """Listens in a folder of its own and passes everything on to the server of ``url``."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = f"{parse_qs(parts.query)['host'][0]}/{_SOCKET}"
        self._folder = Path(tempfile.mkdtemp(prefix="threadkeep-way-"))
        self.url = f"postgresql://postgres@{parts.path}?host={self._folder}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._folder / _SOCKET))
        self._listener.listen(64)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._ways: list[Way] = []
        self._on_commit: list[OnCommit] = []
        # How many commits came by.
        self.commits = 0
        # While it is off, nobody gets through.
        self.is_on = True
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            self.cut_all()
            thread.join()
        self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def next_commits(self, *what: OnCommit) -> None:
        """What becomes of the commits that come by next, in turn."""
        with self._lock:
            self._on_commit.extend(what)

    def cut_all(self) -> None:
        with self._lock:
            ways, self._ways = self._ways, []
        for way in ways:
            way.cut()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                if not self.is_on:
                    raise ConnectionRefusedError
                server.connect(self._server)
            except OSError:
                client.close()
                server.close()
                continue
            way = Way(client, server)
            with self._lock:
                self._ways.append(way)
            self._start(self._pass, way)

    def _pass(self, way: Way) -> None:
        """Both directions, until one of them ends."""
        back = threading.Thread(target=self._pass_back, args=(way,), daemon=True)
        back.start()
        self._pass_on(way)
        back.join()
        way.client.close()
        way.server.close()

    def _pass_on(self, way: Way) -> None:
        try:
            while sent := way.client.recv(65_536):
                if sent.endswith(_COMMIT):
                    with self._lock:
                        self.commits += 1
                        on_commit = self._on_commit.pop(0) if self._on_commit else None
                    if on_commit is not None and not on_commit(way, sent):
                        return
                way.server.sendall(sent)
        except OSError:
            pass
        finally:
            way.cut()

    def _pass_back(self, way: Way) -> None:
        try:
            while got := way.server.recv(65_536):
                if way.is_deaf:
                    way.missed.set()
                else:
                    way.client.sendall(got)
        except OSError:
            pass
        finally:
            way.cut()
