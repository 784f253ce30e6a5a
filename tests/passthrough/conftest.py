"""A server in front of the scripted models, and tests that speak to a model of their own through it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.support.server import RunningServer, serving
from tests.support.stories import ScriptedModel, ScriptedModels
from threadkeep.settings import Settings
from threadkeep.upstream.config import UpstreamConfig

OUR_KEY = "sk-upstream-0123456789abcdef"
FIRST_BYTE_S = 0.5
IDLE_S = 0.5


def upstreams(url: str) -> tuple[UpstreamConfig, ...]:
    return (
        UpstreamConfig(name="plain", url=url, api_key=OUR_KEY, models=("scripted-*",)),
        UpstreamConfig(
            name="renaming",
            url=url,
            api_key=OUR_KEY,
            models=("known-as-*",),
            # What a test's model is called: "known-as-x" is "renamed-x" there.
            model_rename={"known-as-*": "renamed"},
        ),
        UpstreamConfig(
            name="hasty",
            url=url,
            models=("hasty-*",),
            first_byte_timeout_s=FIRST_BYTE_S,
            idle_timeout_s=IDLE_S,
        ),
        UpstreamConfig(name="azure", url=url, api_key=OUR_KEY, models=("azure-*",), quirks="azure"),
        # Port 9 answers nobody.
        UpstreamConfig(name="away", url="http://127.0.0.1:9/v1", models=("away-*",)),
    )


@dataclass(frozen=True)
class Desk:
    """A client of the server, and a model behind it."""

    server: RunningServer
    http: httpx2.Client
    model: ScriptedModel
    models: ScriptedModels


@pytest.fixture(scope="session")
def passing_server(
    scripted_models: ScriptedModels, migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("passing")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder, upstreams=upstreams(scripted_models.url))) as server:
        yield server


@pytest.fixture
def desk(passing_server: RunningServer, scripted_models: ScriptedModels) -> Iterator[Desk]:
    with passing_server.client() as http:
        yield Desk(passing_server, http, scripted_models.new_model(), scripted_models)


@pytest.fixture(scope="session")
def offline_server(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("offline")
    shutil.copy(migrated_file, folder / "threadkeep.db")
    with serving(Settings(data_dir=folder)) as server:
        yield server
