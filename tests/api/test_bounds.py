"""What all requests together may take."""

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.support.refusals import refused
from tests.support.server import RunningServer, serving
from threadkeep import app
from threadkeep.api import call
from threadkeep.api.call import LargeBodies
from threadkeep.settings import Settings

PATIENCE_S = 60
# Of a body; two of them are more than may be there at once.
MOST = 1024 * 1024
LARGE = json.dumps({"model": "offline", "instructions": "x" * 250_000, "metadata": {}}).encode().ljust(900_000)


class Narrow(NamedTuple):
    server: RunningServer
    bodies: LargeBodies

    def until_held(self, size: int) -> None:
        """Waits until so many bytes are."""
        deadline = time.monotonic() + PATIENCE_S
        while self.bodies.held != size:
            assert time.monotonic() < deadline, self.bodies.held
            time.sleep(0.01)

    @contextlib.contextmanager
    def sending(self, client: httpx2.Client, body: bytes) -> Generator[socket.socket, None, None]:
        """A request that announces a large body and has sent so much of it."""
        head = (
            "POST /v1/assistants HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"authorization: {client.headers['authorization']}\r\ncontent-length: {len(LARGE)}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.encode() + body)
            self.until_held(len(body))
            yield connection


@pytest.fixture(scope="module")
def narrow(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    folder = tmp_path_factory.mktemp("narrow")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    made: list[LargeBodies] = []

    def make(limit: int) -> LargeBodies:
        made.append(LargeBodies(limit))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "LargeBodies", make)
        patch.setattr(app.api, "Limits", partial(app.api.Limits, all_bodies_bytes=MOST))
        with serving(Settings(data_dir=folder, max_request_bytes=MOST)) as server:
            yield Narrow(server, made[-1])


def test_large_bodies_have_a_bound_together_and_small_ones_pass_it(narrow: Narrow) -> None:
    with narrow.server.client() as client:
        with narrow.sending(client, LARGE[:-1]) as slow:
            error = refused(client.post("/assistants", content=LARGE), 503)
            small = client.post("/assistants", json={"model": "offline"})
            slow.sendall(LARGE[-1:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        narrow.until_held(0)
        again = client.post("/assistants", content=LARGE)

    assert "too many large requests" in error["message"]
    assert (error["type"], small.status_code, again.status_code) == ("server_error", 200, 200)
    assert answer.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("body", [b"{" * len(LARGE), LARGE[:-300_000]], ids=["nonsense", "too short"])
def test_whatever_becomes_of_a_large_body_its_room_is_given_back(narrow: Narrow, body: bytes) -> None:
    with narrow.server.client() as client, narrow.sending(client, body[:-1]) as sender:
        sender.sendall(body[-1:])
        sender.close()
        narrow.until_held(0)
