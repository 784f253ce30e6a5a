"""Clients and stories that speak the first beta. Whatever is answered to them, openai 1.20.0 must know."""

import json
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.environments import environment
from tests.support.sdk_models import check_error
from tests.support.server import RunningServer
from tests.support.stories import Heard, ScriptedModels, Story, Stream

V1 = "assistants=v1"
# Not in that SDK: messages could not be deleted with it.
_UNKNOWN = {"thread.message.deleted", "model", "file"}


class SdkModels:
    """The models of openai 1.20.0, in a process of their own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def check(self, data: Any, event: str | None = None) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"event": event, "data": data}) + "\n")
        self._process.stdin.flush()
        wrong = json.loads(self._process.stdout.readline())
        assert wrong is None, wrong

    def check_answer(self, response: httpx2.Response) -> None:
        """For a client's hook."""
        if response.headers.get("content-type") != "application/json":
            return
        found = json.loads(response.read())
        if "error" in found:
            check_error(found)
        elif found["object"] not in _UNKNOWN:
            self.check(found)


@pytest.fixture(scope="session")
def sdk() -> Iterator[SdkModels]:
    program = Path(__file__).with_name("sdk_program.py")
    with subprocess.Popen(
        [environment("openai-1.20"), "-I", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield SdkModels(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def v1(server: RunningServer, client: httpx2.Client, sdk: SdkModels) -> Iterator[httpx2.Client]:
    """Speaks the first beta, in the project of `client`, which speaks the second."""
    key = client.headers["authorization"].removeprefix("Bearer ")
    with server.client(key, **{"openai-beta": V1}) as v1:
        v1.event_hooks = {"response": [sdk.check_answer]}
        yield v1


class StreamV1(Stream):
    def __init__(self, response: httpx2.Response, sdk: SdkModels) -> None:
        super().__init__(response)
        self._sdk = sdk

    def _heard(self, fields: dict[str, str]) -> Heard:
        name = fields["event"]
        if name == "done":
            return Heard(name, None)
        data = json.loads(fields["data"])
        assert self.last_id is None or int(fields["id"]) == self.last_id + 1
        self.last_id = int(fields["id"])
        self._sdk.check(data, name)
        return Heard(name, data)


class StoryV1(Story):
    def __init__(self, server: RunningServer, models: ScriptedModels, sdk: SdkModels) -> None:
        super().__init__(server, models)
        self._sdk = sdk
        self.http.headers["openai-beta"] = V1
        self.http.event_hooks = {"response": [sdk.check_answer]}

    @contextmanager
    def streaming(self, path: str, body: dict[str, object]) -> Generator[Stream, None, None]:
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            yield StreamV1(response, self._sdk)


@pytest.fixture
def story(stage: RunningServer, scripted_models: ScriptedModels, sdk: SdkModels) -> Iterator[StoryV1]:
    with StoryV1(stage, scripted_models, sdk) as story:
        yield story
