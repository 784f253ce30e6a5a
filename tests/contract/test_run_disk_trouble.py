"""A disk that takes nothing more, or a folder that is taken away: the server says what is wrong, loses nothing, and
goes on by itself when it can write again."""

import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
import pytest

from tests.capabilities import missing
from tests.support import process
from tests.support.databases import Database
from tests.support.nodes import KEY, LEASE_S, Node, begun
from tests.support.stories import ScriptedModels
from threadkeep.upstream.scripted import Gate, Say

PATIENCE_S = 60
# A file system in memory, just for the server: it must be full for nobody else.
_IN_MEMORY = 'mount -t tmpfs -o size=24m tmpfs "$0" && exec "$@"'


class Served(NamedTuple):
    node: Node
    # As this process sees it.
    data: Path

    @property
    def pid(self) -> int:
        return self.node.program.pid


@contextmanager
def served(folder: Path, models: ScriptedModels, *, has_own_disk: bool) -> Generator[Served, None, None]:
    disk = folder / "disk"
    disk.mkdir()
    if has_own_disk and subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        missing("mount namespaces for ordinary users", fix="sysctl kernel.unprivileged_userns_clone=1 (as root)")
    through = ["unshare", "-rm", "sh", "-c", _IN_MEMORY, str(disk)] if has_own_disk else []
    with process.started(
        *("serve", "--port", "0", "--data-dir", str(disk / "data"), "--upstream-url", models.url),
        *("--lease-seconds", str(LEASE_S), "--code-interpreter", "off"),
        folder=folder,
        through=through,
    ) as program:
        node = Node(program)
        with node.http:
            yield Served(node, Path(f"/proc/{program.pid}/root{disk}/data") if has_own_disk else disk / "data")


@contextmanager
def limited(server: Served) -> Generator[None, None, None]:
    """Nothing may be written, to whatever file."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0, hard))
    yield
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def full(server: Served) -> Generator[None, None, None]:
    filler = server.data / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    yield
    filler.unlink()


@contextmanager
def taken_away(server: Served) -> Generator[None, None, None]:
    elsewhere = server.data.with_name("elsewhere")
    server.data.rename(elsewhere)
    yield
    elsewhere.rename(server.data)


Trouble = Callable[[Served], AbstractContextManager[None]]
TROUBLES = [
    pytest.param(limited, False, "The server cannot write to its disk.", id="limited"),
    pytest.param(full, True, "The server's disk is full.", id="full"),
    pytest.param(taken_away, False, "The server's database was taken away from its folder.", id="taken away"),
]


def refused(answer: httpx2.Response) -> str:
    """The message of a 503."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    assert answer.json()["error"]["type"] == "server_error"
    return answer.json()["error"]["message"]


def until_answered(ask: Callable[[], httpx2.Response]) -> httpx2.Response:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := ask()).status_code == 503:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return answer


@pytest.mark.parametrize(("trouble", "has_own_disk", "told"), TROUBLES)
def test_a_run_goes_on_when_its_server_can_write_again(
    tmp_path: Path, scripted_models: ScriptedModels, trouble: Trouble, has_own_disk: bool, told: str
) -> None:
    model = scripted_models.new_model()
    model.says([Say("Hel"), gate := Gate(), Say("lo")])
    with served(tmp_path, scripted_models, has_own_disk=has_own_disk) as server:
        http = server.node.http
        kept = [http.post("/threads", json={"metadata": {"number": str(number)}}).json() for number in range(20)]
        with begun(server.node, model) as stream:
            stream.until("thread.message.delta")
            thread = stream.run_path.partition("/runs/")[0]
            with trouble(server):
                gate.release()
                large = {"metadata": {f"key{n}": "x" * 500 for n in range(16)}}
                answers = [until_refused(lambda: http.post("/threads", json=large))]
                answers.append(http.post("/files", data={"purpose": "assistants"}, files={"file": ("a.txt", b"x" * 9)}))
                # For longer than the lease: it is nobody else's, and must not be lost to oneself.
                time.sleep(LEASE_S + 1)
                # What can be read is read.
                assert http.get(f"/threads/{kept[0]['id']}").json() == kept[0]

            assert all(refused(answer).startswith(told) for answer in answers)
            assert until_answered(lambda: http.post("/threads", json={})).status_code == 200
            assert server.node.until_ended(stream.run_path) == "completed"
            stream.rest()
        messages = http.get(f"{thread}/messages?order=asc").json()["data"]

        assert stream.names()[-2:] == ["thread.run.completed", "done"]
        assert [message["content"][0]["text"]["value"] for message in messages] == ["Hi", "Hello"]
        assert len(model.requests) == 1
        assert [http.get(f"/threads/{thread['id']}").json() for thread in kept] == kept
        # A copy: SQLite finds no way into another's file system.
        for name in ("threadkeep.db", "threadkeep.db-wal"):
            shutil.copy(server.data / name, tmp_path / name)
        with closing(sqlite3.connect(tmp_path / "threadkeep.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if trouble is not limited:
            # Where nothing may be written, that is not said either.
            said = server.node.program.errors
            assert (said.count('"database_away"'), said.count('"database_back"')) == (1, 1)


def until_refused(ask: Callable[[], httpx2.Response]) -> httpx2.Response:
    """The last pages of a full disk are the database's own: it takes a few requests to fill them."""
    for _ in range(1000):
        if (answer := ask()).status_code != 200:
            return answer
    raise AssertionError("it is never refused")


def test_files_wait_for_a_disk_that_has_room(tmp_path: Path, scripted_models: ScriptedModels) -> None:
    with served(tmp_path, scripted_models, has_own_disk=True) as server:
        http = server.node.http
        content = os.urandom(1 << 20)

        def upload() -> httpx2.Response:
            return http.post("/files", data={"purpose": "assistants"}, files={"file": ("a.bin", content)})

        kept = upload().json()["id"]
        with full(server):
            assert "is full" in refused(upload())
        answer = until_answered(upload)

        assert http.get(f"/files/{answer.json()['id']}/content").content == content
        assert http.get(f"/files/{kept}/content").content == content
        assert {file["id"] for file in http.get("/files").json()["data"]} == {kept, answer.json()["id"]}
        # Of what was cut off nothing is left.
        wait_until(lambda: blobs_of(server) == 2)


def blobs_of(server: Served) -> int:
    return sum(path.is_file() for path in (server.data / "blobs").rglob("*"))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_was_killed_leaves_a_log_that_its_successor_takes_up(
    sqlite_database: Database, scripted_models: ScriptedModels
) -> None:
    folder = sqlite_database.data_dir
    with served(folder, scripted_models, has_own_disk=False) as first:
        kept = [first.node.http.post("/threads", json={}).json()["id"] for _ in range(50)]
        first.node.kill()
        assert (first.data / "threadkeep.db-wal").stat().st_size > 0
    shutil.move(folder / "disk", folder / "left")
    (folder / "again").mkdir()
    shutil.move(folder / "left", folder / "again" / "disk")
    arguments = ("serve", "--port", "0", "--data-dir", str(folder / "again" / "disk" / "data"))
    with (
        process.started(*arguments, folder=folder) as program,
        httpx2.Client(base_url=f"{program.url}/v1", headers=KEY, trust_env=False) as http,
    ):
        assert all(http.get(f"/threads/{thread}").status_code == 200 for thread in kept)
