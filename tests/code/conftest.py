"""Runs with the code interpreter: a real server with real boxes, and a model that says what the test wrote for it."""

from collections.abc import Iterator

import openai
import pytest

from tests.support.sandbox import PLACE
from tests.support.server import RunningServer
from tests.support.stories import ScriptedModels, Story, stage_for
from threadkeep.sandbox.environment import Environment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The SDK calls its own Assistants methods deprecated; that they work is what is tested here."""
    for item in items:
        if "/tests/code/" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def code_stage(
    request: pytest.FixtureRequest, sandbox_environment: Environment, bubblewrap: str
) -> Iterator[RunningServer]:
    with stage_for(request, "sqlite", code_interpreter="on", sandbox_environment=PLACE, sandbox_pool=2) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_code_stage(
    request: pytest.FixtureRequest, sandbox_environment: Environment, bubblewrap: str
) -> Iterator[RunningServer]:
    with stage_for(request, "postgres", code_interpreter="on", sandbox_environment=PLACE, sandbox_pool=1) as server:
        yield server


@pytest.fixture
def coder(code_stage: RunningServer, scripted_models: ScriptedModels) -> Iterator[Story]:
    """A story whose assistant has the code interpreter."""
    with Story(code_stage, scripted_models) as story:
        story.assistant(tools=[{"type": "code_interpreter"}])
        yield story


@pytest.fixture(params=["sqlite", "postgres"])
def coder_on_both(request: pytest.FixtureRequest, scripted_models: ScriptedModels) -> Iterator[Story]:
    """As ``coder``, on either database."""
    stage = "code_stage" if request.param == "sqlite" else "postgres_code_stage"
    with Story(request.getfixturevalue(stage), scripted_models) as story:
        story.assistant(tools=[{"type": "code_interpreter"}])
        yield story


@pytest.fixture
def sdk(coder: Story) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=coder.server.base_url, api_key=coder.key, max_retries=0, timeout=120) as client:
        yield client
