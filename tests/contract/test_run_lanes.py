"""One upstream that hangs: the runs of the others go on."""

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.databases import Database
from tests.support.nodes import node
from tests.support.postgres import PostgresServer
from tests.support.server import serving
from tests.support.stories import CREATED, FUNCTION, ScriptedModel, ScriptedModels, Story, call_ids
from threadkeep.settings import Settings
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import Call, Gate, Say

ROOM = 8


@contextmanager
def upstreams_of(database: Database, models: ScriptedModels, hanging: int | None) -> Generator[Story, None, None]:
    """A node with little room and two upstreams; of the runs of the one so many are executed at once."""
    upstream = partial(UpstreamConfig, url=models.url, max_retries=0, quirks="openai")
    settings = Settings(
        data_dir=database.data_dir,
        database_url=database.url,
        max_concurrent_runs=ROOM,
        grace_seconds=0,
        upstreams=(
            upstream(name="hanging", models=("hanging-*",), max_concurrent=hanging),
            upstream(name="well", models=("scripted-*",)),
        ),
    )
    with serving(settings) as server, Story(server, models) as story:
        yield story


def stuck_runs(story: Story, model: ScriptedModel, count: int) -> tuple[list[str], Gate]:
    """So many runs whose model says nothing before the gate is opened, by path."""
    gate = Gate()
    model.says(*[[gate, Say("at last")]] * count)
    story.assistant(model=model.name)
    threads = [story.thread("Hi") for _ in range(count)]
    return [f"{thread}/runs/{story.create_run(thread)['id']}" for thread in threads], gate


@pytest.mark.parametrize(("bound", "held"), [(None, 6), (2, 2)])
def test_runs_of_an_upstream_that_hangs_wait_in_the_queue_and_hold_no_room_of_the_others(
    database: Database, scripted_models: ScriptedModels, bound: int | None, held: int
) -> None:
    hanging = scripted_models.new_model("hanging")
    with upstreams_of(database, scripted_models, bound) as story:
        paths, gate = stuck_runs(story, hanging, 2 * ROOM)
        hanging.book.wait_for_requests(held)
        story.model.says(*[Say("Hello")] * 4)
        story.assistant(model=story.model.name)

        streams = [story.stream_run(story.thread("Hi")) for _ in range(4)]

        assert {stream.run["status"] for stream in streams} == {"completed"}
        states = [story.get(path)["status"] for path in paths]
        assert (states.count("in_progress"), states.count("queued")) == (held, 2 * ROOM - held)
        assert len(hanging.requests) == held
        gate.release()
        assert {story.until(path)["status"] for path in paths} == {"completed"}


def test_a_run_that_waits_for_room_at_its_upstream_is_cancelled_at_once(
    database: Database, scripted_models: ScriptedModels
) -> None:
    hanging = scripted_models.new_model("hanging")
    with upstreams_of(database, scripted_models, 1) as story:
        [_, waiting], gate = stuck_runs(story, hanging, 2)
        hanging.book.wait_for_requests(1)

        story.post(f"{waiting}/cancel")

        assert story.until(waiting)["status"] == "cancelled"
        assert len(hanging.requests) == 1
        gate.release()


def test_a_run_goes_on_after_tool_outputs_when_its_upstream_has_room_again(
    database: Database, scripted_models: ScriptedModels
) -> None:
    hanging = scripted_models.new_model("hanging")
    with upstreams_of(database, scripted_models, 1) as story:
        hanging.says(Call("get_weather", {"city": "Oslo"}))
        story.assistant(model=hanging.name, tools=[FUNCTION])
        asked = story.stream_run(story.thread("Weather?"))
        [first], gate = stuck_runs(story, hanging, 1)
        hanging.book.wait_for_requests(2)
        hanging.says(Say("Sunny."))

        story.submit(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

        assert story.get(asked.run_path)["status"] == "queued"
        gate.release()
        assert [story.until(path)["status"] for path in (first, asked.run_path)] == ["completed", "completed"]
        assert story.texts(f"/threads/{asked.run['thread_id']}")[-1] == ("assistant", "Sunny.")


def test_a_stream_of_a_run_that_waits_begins_and_goes_on(database: Database, scripted_models: ScriptedModels) -> None:
    hanging = scripted_models.new_model("hanging")
    with upstreams_of(database, scripted_models, 1) as story:
        _, gate = stuck_runs(story, hanging, 1)
        hanging.book.wait_for_requests(1)
        hanging.says(Say("Hello"))

        with story.streaming_run(story.thread("Hi")) as stream:
            stream.until("thread.run.queued")
            gate.release()
            stream.rest()

        assert stream.names()[: len(CREATED)] == list(CREATED)
        assert stream.text == "Hello"


def test_what_one_node_has_no_room_for_at_an_upstream_another_takes(
    postgres: PostgresServer, tmp_path: Path, scripted_models: ScriptedModels
) -> None:
    database = Database(postgres.create_database(template="threadkeep"), tmp_path)
    model = scripted_models.new_model()
    model.says([gate := Gate(), Say("one")], [gate, Say("two")], Say("three"))
    bound = ("--upstream-max-concurrent", "1")
    with node(database, scripted_models, *bound) as first, node(database, scripted_models, *bound):
        assistant = first.http.post("/assistants", json={"model": model.name}).json()["id"]
        paths: list[str] = []
        for _ in range(3):
            thread = first.http.post("/threads", json={"messages": [{"role": "user", "content": "Hi"}]}).json()["id"]
            run = first.http.post(f"/threads/{thread}/runs", json={"assistant_id": assistant}).json()
            paths.append(f"/threads/{thread}/runs/{run['id']}")
        # One on each node: the second could not have begun on the first.
        model.book.wait_for_requests(2)
        assert first.http.get(paths[2]).json()["status"] == "queued"
        gate.release()
        assert [first.until_ended(path) for path in paths] == ["completed"] * 3
