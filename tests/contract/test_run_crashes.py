"""A node dies between any two commits of a run: right before each, and right after each. Its successor ends the run
properly: no finished step is done again, no tool output is lost, no message is there twice, and the thread is free.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from tests.support.crashing import Death, Nursery, Process, When
from tests.support.databases import Database
from tests.support.nodes import KEY
from tests.support.postgres import PostgresServer
from tests.support.stories import ENDED, FUNCTION, ScriptedModels
from threadkeep.contract.ids import new_id
from threadkeep.upstream.scripted import Call, Hang, Received, Say, Step

LEASE_S = 1.0
# How soon the run goes on once the lease has run out.
TAKEN_OVER_S = 2.0
# A successor takes its time to start, on a busy machine.
STARTED_S = 10.0
PATIENCE_S = 60.0
AT_ONCE = 6


class Nodes:
    """A node that is to die, and then its successor. A request is made until one of them answers."""

    def __init__(self, nursery: Nursery, database: Database, models: ScriptedModels, death: Death) -> None:
        self._nursery = nursery
        self._arguments = ["serve", "--port", "0", "--data-dir", str(database.data_dir / "data")]
        self._arguments += ["--upstream-url", models.url, "--lease-seconds", str(LEASE_S), "--code-interpreter", "off"]
        if database.url is not None:
            self._arguments += ["--database-url", database.url]
        self._folder = database.data_dir
        self._death = death
        self.first = self._start(death)
        self.died_at: float | None = None

    def _start(self, death: Death) -> Process:
        process = self._nursery.start(self._folder, self._arguments, death)
        url = process.url
        assert url is not None, "it died before it served"
        self._process = process
        self._http = httpx2.Client(base_url=f"{url}/v1", headers=KEY, timeout=PATIENCE_S, trust_env=False)
        return process

    def end(self) -> None:
        self._http.close()
        self._process.kill()

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Sent again where nobody answered, as clients do: with the same key, which makes it one request."""
        key = new_id("key")
        return self._ask(lambda: self._http.post(path, json=body or {}, headers={"idempotency-key": key}))

    def get(self, path: str) -> Any:
        return self._ask(lambda: self._http.get(path))

    def _ask(self, ask: Callable[[], httpx2.Response]) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = ask()
            except httpx2.TransportError:
                self._replace()
                continue
            if answer.status_code != 503:
                assert answer.status_code == 200, answer.text
                return answer.json()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _replace(self) -> None:
        assert self._process is self.first, "the successor died"
        self.first.wait()
        self.died_at = time.monotonic()
        self._http.close()
        self._start(Death("before", 0))


class Stage(NamedTuple):
    nodes: Nodes
    model: str
    assistant: dict[str, Any]

    def until(self, run_path: str, *statuses: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while (run := self.nodes.get(run_path))["status"] not in (statuses or ENDED):
            assert time.monotonic() < deadline, f"the run stays {run}"
            time.sleep(0.02)
        return run

    def begin(self) -> str:
        """The path of a new run in a new thread."""
        assistant = self.nodes.post("/assistants", {"model": self.model, **self.assistant})["id"]
        thread = self.nodes.post("/threads", {"messages": [{"role": "user", "content": "Weather?"}]})["id"]
        run = self.nodes.post(f"/threads/{thread}/runs", {"assistant_id": assistant})
        return f"/threads/{thread}/runs/{run['id']}"


class Told(NamedTuple):
    """What a run left behind."""

    status: str
    steps: list[tuple[str, str]]
    texts: list[str]
    outputs: list[str]


# ---------------------------------------------------------------- what the model says and the client does


def speaks(_asked: Received) -> list[Step]:
    return [Say("Sun", "ny.")]


def calls_first(name: str, arguments: dict[str, str]) -> Callable[[Received], list[Step]]:
    """As a model does: what stands in the conversation already is not said again."""

    def answer(asked: Received) -> list[Step]:
        roles = [message["role"] for message in asked.body["messages"]]
        if "tool" in roles:
            return [Say("Sun", "ny.")]
        call = Call(name, arguments)
        return [call] if roles[-1] == "assistant" else [Say("Let me ", "look."), call]

    return answer


def hangs(_asked: Received) -> list[Step]:
    return [Say("Sun"), Hang()]


def let_it_run(stage: Stage) -> str:
    path = stage.begin()
    stage.until(path)
    return path


def answer_the_call(stage: Stage) -> str:
    path = stage.begin()
    run = stage.until(path, "requires_action")
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    outputs = [{"tool_call_id": call["id"], "output": "sun"} for call in calls]
    stage.nodes.post(f"{path}/submit_tool_outputs", {"tool_outputs": outputs})
    stage.until(path)
    return path


def cancel_it(stage: Stage) -> str:
    path = stage.begin()
    thread = path.partition("/runs/")[0]
    deadline = time.monotonic() + PATIENCE_S
    # Until it answers, wherever that is.
    while len(stage.nodes.get(f"{thread}/messages")["data"]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    stage.nodes.post(f"{path}/cancel")
    stage.until(path)
    return path


class Kind(NamedTuple):
    answer: Callable[[Received], list[Step]]
    play: Callable[[Stage], str]
    assistant: dict[str, Any]
    told: Told


LOOKED = [("message_creation", "completed"), ("tool_calls", "completed"), ("message_creation", "completed")]
KINDS = {
    "a message": Kind(
        speaks, let_it_run, {}, Told("completed", [("message_creation", "completed")], ["Weather?", "Sunny."], [])
    ),
    "a function call": Kind(
        calls_first("get_weather", {"city": "Oslo"}),
        answer_the_call,
        {"tools": [FUNCTION]},
        Told("completed", LOOKED, ["Weather?", "Let me look.", "Sunny."], ["sun"]),
    ),
    "a file search": Kind(
        calls_first("file_search", {"query": "weather"}),
        let_it_run,
        {"tools": [{"type": "file_search"}]},
        Told("completed", LOOKED, ["Weather?", "Let me look.", "Sunny."], []),
    ),
    "a cancel": Kind(
        hangs, cancel_it, {}, Told("cancelled", [("message_creation", "cancelled")], ["Weather?", ""], [])
    ),
}


def told(stage: Stage, path: str) -> Told:
    steps = stage.nodes.get(f"{path}/steps?order=asc")["data"]
    messages = stage.nodes.get(f"{path.partition('/runs/')[0]}/messages?order=asc")["data"]
    details = [step["step_details"] for step in steps]
    outputs = [
        call["function"]["output"]
        for detail in details
        for call in detail.get("tool_calls", [])
        if call["type"] == "function"
    ]
    return Told(
        stage.nodes.get(path)["status"],
        [(step["type"], step["status"]) for step in steps],
        [message["content"][0]["text"]["value"] for message in messages],
        outputs,
    )


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


class Theatre(NamedTuple):
    """Where a story is played again and again, each time on a database of its own."""

    nursery: Nursery
    models: ScriptedModels
    folder: Path
    postgres: PostgresServer | None

    def play(self, kind: Kind, death: Death) -> int:
        """Plays it with this death, and says how many commits there were before that."""
        folder = self.folder / f"{death.when}-{death.nth}"
        folder.mkdir()
        url = None if self.postgres is None else self.postgres.create_database(template="threadkeep")
        model = self.models.new_model()
        model.says(*[kind.answer] * 20)
        nodes = Nodes(self.nursery, Database(url, folder), self.models, death)
        try:
            stage = Stage(nodes, model.name, kind.assistant)
            path = kind.play(stage)
            ended_at = time.monotonic()

            found = told(stage, path)
            if kind.play is cancel_it:
                # How much it had said is not what counts.
                found = found._replace(texts=[found.texts[0], *[""] * (len(found.texts) - 1)])
            assert found == kind.told, f"after dying {death}"
            # The thread is free.
            again = stage.nodes.post(f"{path.partition('/runs/')[0]}/messages", {"role": "user", "content": "And?"})
            assert again["id"]
            if death.nth:
                nodes.first.wait()
                assert nodes.died_at is not None, f"it did not die {death}"
                if kind.play is let_it_run:
                    assert ended_at - nodes.died_at < LEASE_S + TAKEN_OVER_S + STARTED_S
            return nodes.first.commits
        finally:
            nodes.end()
            if self.postgres is None:
                with closing(sqlite3.connect(folder / "data" / "threadkeep.db")) as connection:
                    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if self.postgres is not None and url is not None:
                self.postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgres"])
def theatre(
    request: pytest.FixtureRequest, nursery: Nursery, scripted_models: ScriptedModels, tmp_path: Path
) -> Theatre:
    postgres = request.getfixturevalue("postgres") if request.param == "postgres" else None
    return Theatre(nursery, scripted_models, tmp_path, postgres)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", KINDS)
def test_a_node_that_dies_at_any_commit_leaves_a_run_that_ends_properly(
    theatre: Theatre, name: str, when: When
) -> None:
    kind = KINDS[name]
    commits = theatre.play(kind, Death(when, 0))
    assert commits >= 3

    deaths = [Death(when, nth) for nth in range(1, commits + 1)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for played in [pool.submit(theatre.play, kind, death) for death in deaths]:
            played.result()
