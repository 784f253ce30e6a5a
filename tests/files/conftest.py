"""Files are tested on SQLite with a folder, and on PostgreSQL with S3: every database and every kind of blobs."""

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import openai
import pytest
import pytest_asyncio

from tests.support.postgres import PostgresServer
from tests.support.s3 import S3
from tests.support.server import RunningServer, serving
from tests.support.stories import ScriptedModels, Story, upstreams
from threadkeep.settings import Settings
from threadkeep.storage import Blobs, Transaction, hash_of, open_blobs
from threadkeep.upstream.config import UpstreamConfig

T = TypeVar("T")

MAX_FILE_BYTES = 3 * 1024**2


def _shared(models: ScriptedModels) -> dict[str, Any]:
    """Small files, and models of which those called "blind-…" can't be shown images."""
    blind = UpstreamConfig(name="blind", url=models.url, models=("blind-*",), vision=())
    return {"max_file_bytes": MAX_FILE_BYTES, "upstreams": (*upstreams(models.url), blind), "grace_seconds": 0}


@pytest.fixture(scope="session")
def folder_server(
    migrated_file: Path, scripted_models: ScriptedModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder, **_shared(scripted_models))) as server:
        yield server


@pytest.fixture(scope="session")
def s3_server(
    postgres: PostgresServer, s3: S3, scripted_models: ScriptedModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    url = postgres.create_database(template="threadkeep")
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("files"),
        database_url=url,
        blobs_url=s3.blobs_url,
        **_shared(scripted_models),
    )
    with serving(settings) as server:
        yield server
    postgres.drop_database(url)


@pytest.fixture(params=["folder", "s3"])
def server(request: pytest.FixtureRequest) -> RunningServer:
    return request.getfixturevalue(f"{request.param}_server")


class Tenant:
    """A project on a server: its clients, and a way round HTTP to its rows."""

    def __init__(self, server: RunningServer, key: str | None = None) -> None:
        self.server = server
        self.key = key or server.new_key()
        found = server.read(None, lambda tx: tx.keys.find(hash_of(self.key)))
        assert found is not None
        self.project = found[1]
        self.http = server.client(self.key)
        self.sdk = openai.OpenAI(base_url=server.base_url, api_key=self.key, max_retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self.sdk.close()

    def read(self, fn: Callable[[Transaction], T]) -> T:
        return self.server.read(self.project, fn)

    def write(self, fn: Callable[[Transaction], T]) -> T:
        return self.server.write(self.project, fn)

    def upload(self, content: bytes = b"hello", name: str = "notes.txt", purpose: str = "assistants") -> str:
        """The id of a new file."""
        answer = self.http.post("/files", data={"purpose": purpose}, files={"file": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def content(self, file_id: str, **headers: str) -> httpx2.Response:
        return self.http.get(f"/files/{file_id}/content", headers=headers)


@pytest.fixture
def tenant(server: RunningServer) -> Iterator[Tenant]:
    with Tenant(server) as tenant:
        yield tenant


@pytest.fixture
def story(server: RunningServer, scripted_models: ScriptedModels) -> Iterator[Story]:
    with Story(server, scripted_models) as story:
        yield story


@pytest.fixture
def owner(story: Story) -> Iterator[Tenant]:
    """The story's project, for its files."""
    with Tenant(story.server, story.key) as tenant:
        yield tenant


@pytest_asyncio.fixture(params=["folder", "s3"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Blobs]:
    """A blob store of either kind."""
    url = request.getfixturevalue("s3").blobs_url if request.param == "s3" else None
    blobs = await open_blobs(url, tmp_path)
    yield blobs
    await blobs.close()
