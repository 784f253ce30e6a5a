"""Stories over HTTP: one project on a server, and a model that says what the test wrote for it.

def test_x(story):
    story.model.says(Say("Hel", "lo"))
    stream = story.stream_run(thread)
    assert stream.names() == [...]

The server and the model server are shared by a whole session. A story has a model name of its own, by which its
requests find its script, and a project of its own. Everything that the server answers to a story is checked against the
SDK's models on its way.
"""

import json
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import httpx2
import pytest

from tests.support.databases import Database
from tests.support.sdk_models import check_error, check_event, check_object
from tests.support.server import RunningServer, serving
from threadkeep.contract.ids import new_id
from threadkeep.settings import Settings
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import Entry, Received, ScriptedUpstream, Step

PATIENCE_S = 60.0
ENDED = ("completed", "failed", "cancelled", "expired", "incomplete", "requires_action")

# ---------------------------------------------------------------- the model


class ScriptedModel:
    """A model with a script of its own on the shared model server."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Never started: it keeps the script, and the book of what was asked.
        self.book = ScriptedUpstream()

    def says(self, *entries: Entry) -> None:
        """What it does with its next requests, in turn."""
        self.book.extend(*entries)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of what it was asked so far."""
        return [received.body for received in self.book.requests]

    @property
    def asked(self) -> dict[str, Any]:
        """The body of the only request."""
        [body] = self.requests
        return body


class ScriptedModels(ScriptedUpstream):
    """One model server for many scripts: the request's model chooses."""

    def __init__(self) -> None:
        super().__init__()
        self._models: dict[str, ScriptedModel] = {}

    def new_model(self, kind: str = "scripted") -> ScriptedModel:
        model = ScriptedModel(f"{kind}-{new_id('key')}")
        self._models[model.name] = model
        return model

    def adopt(self, name: str, model: ScriptedModel) -> None:
        """Requests for ``name`` are the model's too from here on."""
        self._models[name] = model

    def entry_for(self, request: Received) -> list[Step]:
        return self._models[request.body["model"]].book.entry_for(request)


def upstreams(url: str) -> tuple[UpstreamConfig, ...]:
    """Models called "tiny-…" have a window that a short thread fills. A failed call is not repeated: that is tested
    with the client of upstreams, and takes time."""
    shared = partial(UpstreamConfig, url=url, max_retries=0, quirks="openai")
    return (
        shared(name="scripted", models=("scripted-*",)),
        shared(name="tiny", models=("tiny-*",), context_window=512),
    )


# ---------------------------------------------------------------- the stream


@dataclass(frozen=True)
class Heard:
    """One record of a stream."""

    name: str
    data: Any


class Stream:
    """A stream while it is read: ``events`` is what was heard so far."""

    def __init__(self, response: httpx2.Response, *, is_whole: bool = True) -> None:
        """``is_whole``: no number is missing in it."""
        self.response = response
        self._is_whole = is_whole
        self.events: list[Heard] = []
        # The number of the last event.
        self.last_id: int | None = None
        self._lines = response.iter_lines()

    def until(self, name: str, *, count: int = 1) -> Heard:
        """Reads on until ``name`` was heard ``count`` times."""
        while sum(event.name == name for event in self.events) < count:
            event = self._next()
            assert event is not None, f"the stream ended without {name}: {self.names()}"
        return [event for event in self.events if event.name == name][count - 1]

    def rest(self) -> "Stream":
        """Reads to the end."""
        while self._next() is not None:
            pass
        return self

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def data(self, name: str) -> Any:
        """The object of the only event of this name."""
        [found] = self.every(name)
        return found

    def every(self, name: str) -> list[Any]:
        return [event.data for event in self.events if event.name == name]

    @property
    def run(self) -> Any:
        """The run, as the last event about it has it."""
        return [event.data for event in self.events if event.name.startswith(("thread.run.",)) and _is_run(event)][-1]

    @property
    def run_path(self) -> str:
        return f"/threads/{self.run['thread_id']}/runs/{self.run['id']}"

    @property
    def text(self) -> str:
        """What the deltas add up to."""
        deltas = [part for delta in self.every("thread.message.delta") for part in delta["delta"]["content"]]
        return "".join(part["text"]["value"] for part in deltas)

    def _next(self) -> Heard | None:
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line:
                if fields:
                    break
                continue
            if not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
        if not fields:
            return None
        event = self._heard(fields)
        self.events.append(event)
        return event

    def _heard(self, fields: dict[str, str]) -> Heard:
        name = fields["event"]
        if name == "done":
            assert fields == {"event": "done", "data": "[DONE]"}
            return Heard(name, None)
        data = json.loads(fields["data"])
        if name == "error":
            check_error(data)
        else:
            # Without gaps; from 1 where the run begins with this stream.
            assert self.last_id is None or not self._is_whole or int(fields["id"]) == self.last_id + 1
            assert name not in ("thread.created", "thread.run.created") or int(fields["id"]) == len(self.events) + 1
            self.last_id = int(fields["id"])
            check_event(name, data)
        return Heard(name, data)


def _is_run(event: Heard) -> bool:
    return event.data["object"] == "thread.run"


def names_of(*parts: str | Sequence[str]) -> list[str]:
    """A list of event names; a part may be a list that `TEXT` or a function below made."""
    return [name for part in parts for name in ([part] if isinstance(part, str) else part)]


CREATED = ("thread.run.created", "thread.run.queued", "thread.run.in_progress")
STEP = ("thread.run.step.created", "thread.run.step.in_progress")
MESSAGE = (*STEP, "thread.message.created", "thread.message.in_progress")


def text_of(deltas: int) -> list[str]:
    """The events of a whole message, with its step."""
    ended = ("thread.message.completed", "thread.run.step.completed")
    return [*MESSAGE, *["thread.message.delta"] * deltas, *ended]


def calls_of(deltas: int) -> list[str]:
    """The events of a step with calls that wait for the client."""
    return [*STEP, *["thread.run.step.delta"] * deltas, "thread.run.requires_action", "done"]


# ---------------------------------------------------------------- the story

FUNCTION: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Story:
    """One project, one assistant's model, and the calls that a test makes."""

    def __init__(self, server: RunningServer, models: ScriptedModels) -> None:
        self.server = server
        self.models = models
        self.model = models.new_model()
        self.key = server.new_key()
        self.http = server.client(self.key)
        self.http.event_hooks = {"response": [_checked]}
        self._assistant: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: object = None) -> Any:
        answer = self.http.post(path, json={} if body is None else body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, body: object = None) -> tuple[int, str]:
        """The status and the message with which the request is refused."""
        answer = self.http.post(path, json={} if body is None else body)
        assert answer.status_code >= 400, answer.text
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error"
        return answer.status_code, error["message"]

    def assistant(self, **fields: object) -> str:
        """A new assistant, which runs from here on are of; without a model named it is the story's."""
        self._assistant = self.post("/assistants", {"model": self.model.name, **fields})["id"]
        assert self._assistant is not None
        return self._assistant

    def thread(self, *texts: str) -> str:
        """The path of a new thread with these messages of the user."""
        messages = [{"role": "user", "content": text} for text in texts]
        return f"/threads/{self.post('/threads', {'messages': messages})['id']}"

    def _run_body(self, fields: dict[str, object]) -> dict[str, object]:
        return {"assistant_id": self._assistant or self.assistant(), **fields}

    def create_run(self, thread: str, **fields: object) -> Any:
        return self.post(f"{thread}/runs", self._run_body(fields))

    def refused_run(self, thread: str, **fields: object) -> tuple[int, str]:
        return self.refused(f"{thread}/runs", self._run_body(fields))

    @contextmanager
    def streaming(self, path: str, body: dict[str, object]) -> Generator[Stream, None, None]:
        with self.http.stream("POST", path, json={**body, "stream": True}) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            yield Stream(response)

    @contextmanager
    def streaming_run(self, thread: str, **fields: object) -> Generator[Stream, None, None]:
        with self.streaming(f"{thread}/runs", self._run_body(fields)) as stream:
            yield stream

    def stream_run(self, thread: str, **fields: object) -> Stream:
        with self.streaming_run(thread, **fields) as stream:
            return stream.rest()

    def stream_outputs(self, run_path: str, outputs: dict[str, str]) -> Stream:
        with self.streaming(f"{run_path}/submit_tool_outputs", _outputs(outputs)) as stream:
            return stream.rest()

    def submit(self, run_path: str, outputs: dict[str, str]) -> Any:
        return self.post(f"{run_path}/submit_tool_outputs", _outputs(outputs))

    def until(self, run_path: str, *statuses: str) -> Any:
        """The run, once its status is one of these, or by default any at which it waits or has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while (run := self.get(run_path))["status"] not in (statuses or ENDED):
            assert time.monotonic() < deadline, f"the run stays {run['status']}: {run}"
            time.sleep(0.01)
        return run

    def run_to_end(self, thread: str, **fields: object) -> Any:
        run = self.create_run(thread, **fields)
        return self.until(f"{thread}/runs/{run['id']}")

    def steps(self, run_path: str) -> list[Any]:
        """Oldest first."""
        return self.get(f"{run_path}/steps?order=asc")["data"]

    def messages(self, thread: str) -> list[Any]:
        """Oldest first."""
        return self.get(f"{thread}/messages?order=asc")["data"]

    def texts(self, thread: str) -> list[tuple[str, str]]:
        return [(message["role"], message["content"][0]["text"]["value"]) for message in self.messages(thread)]

    @property
    def project(self) -> str:
        """The id of the project, for looking into the store."""

        def find(key: str) -> str:
            from threadkeep.storage.keys import hash_of

            found = self.server.read(None, lambda tx: tx.keys.find(hash_of(key)))
            assert found is not None
            return found[1]

        return find(self.key)


def call_ids(run: Any) -> list[str]:
    return [call["id"] for call in run["required_action"]["submit_tool_outputs"]["tool_calls"]]


def _outputs(outputs: dict[str, str]) -> dict[str, object]:
    return {"tool_outputs": [{"tool_call_id": call_id, "output": output} for call_id, output in outputs.items()]}


def _checked(response: httpx2.Response) -> None:
    if response.headers.get("content-type") == "application/json":
        check_object(json.loads(response.read()))


# ---------------------------------------------------------------- fixtures


@pytest.fixture(scope="session")
def scripted_models() -> Iterator[ScriptedModels]:
    with ScriptedModels() as models:
        yield models


@contextmanager
def stage_for(
    request: pytest.FixtureRequest, kind: Literal["sqlite", "postgres"], **settings: Any
) -> Generator[RunningServer, None, None]:
    """A server on a fresh database of this kind, with the scripted models and these settings."""
    models: ScriptedModels = request.getfixturevalue("scripted_models")
    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("stage")
    url: str | None = None
    postgres = request.getfixturevalue("postgres") if kind == "postgres" else None
    if postgres is not None:
        url = postgres.create_database(template="threadkeep")
    else:
        migrated: Path = request.getfixturevalue("migrated_file")
        (folder / "threadkeep.db").write_bytes(migrated.read_bytes())
    with serving(settings_on(Database(url, folder), models, **settings)) as server:
        yield server
    if postgres is not None and url is not None:
        postgres.drop_database(url)


def settings_on(database: Database, models: ScriptedModels, **settings: Any) -> Settings:
    # Without a grace period a run that a test left at a closed gate does not hold up the end.
    settings = {"grace_seconds": 0, **settings}
    return Settings(data_dir=database.data_dir, database_url=database.url, upstreams=upstreams(models.url), **settings)


@pytest.fixture(scope="session")
def sqlite_stage(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with stage_for(request, "sqlite") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_stage(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    with stage_for(request, "postgres") as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest) -> RunningServer:
    """A server on either database whose upstream is the scripted models."""
    return request.getfixturevalue(f"{request.param}_stage")


@pytest.fixture
def story(stage: RunningServer, scripted_models: ScriptedModels) -> Iterator[Story]:
    with Story(stage, scripted_models) as story:
        yield story
