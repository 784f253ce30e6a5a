"""Runs that outlive their ``expires_at``: on a server that gives them a second or two."""

import time
from collections.abc import Iterator
from typing import Literal

import pytest

from tests.support.server import RunningServer
from tests.support.stories import CREATED, FUNCTION, MESSAGE, ScriptedModels, Story, call_ids, names_of, stage_for
from threadkeep.upstream.scripted import Call, Gate, Say, Usage


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def hasty_stage(request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    kind: Literal["sqlite", "postgres"] = request.param
    with stage_for(request, kind, run_expires_seconds=1) as server:
        yield server


@pytest.fixture
def story(hasty_stage: RunningServer, scripted_models: ScriptedModels) -> Iterator[Story]:
    with Story(hasty_stage, scripted_models) as story:
        yield story


def test_while_the_model_is_silent(story: Story) -> None:
    story.model.says(Gate())
    thread = story.thread("Hi")

    stream = story.stream_run(thread)

    assert stream.names() == names_of(CREATED, "thread.run.expired", "done")
    run = stream.run
    assert (run["status"], run["expires_at"], run["completed_at"], run["last_error"]) == ("expired", None, None, None)
    assert len(story.messages(thread)) == 1


def test_while_text_streams(story: Story) -> None:
    story.model.says([Say("Hel", "lo"), Gate()])
    thread = story.thread("Hi")

    stream = story.stream_run(thread)

    assert stream.names() == names_of(
        CREATED,
        MESSAGE,
        ["thread.message.delta"] * 2,
        "thread.run.step.expired",
        "thread.message.incomplete",
        "thread.run.expired",
        "done",
    )
    message = stream.data("thread.message.incomplete")
    assert message["incomplete_details"] == {"reason": "run_expired"}
    assert message["content"][0]["text"]["value"] == "Hello"
    assert stream.data("thread.run.step.expired")["expired_at"] is not None


def test_while_the_client_is_awaited(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(20, 5)])
    asked = story.stream_run(story.thread("Weather?"))

    run = story.until(asked.run_path, "expired")

    assert (run["required_action"], run["usage"]["total_tokens"]) == (None, 25)
    [step] = story.steps(asked.run_path)
    assert (step["status"], step["completed_at"]) == ("expired", None)
    outputs = {"tool_outputs": [{"tool_call_id": call_ids(asked.run)[0], "output": "sun"}]}
    assert story.refused(f"{asked.run_path}/submit_tool_outputs", outputs) == (
        400,
        'Runs in status "expired" do not accept tool outputs.',
    )


def test_an_expired_run_cannot_be_cancelled_and_frees_its_thread(story: Story) -> None:
    story.model.says(gate := Gate(), Say("Hello"))
    thread = story.thread("Hi")
    run_path = f"{thread}/runs/{story.create_run(thread)['id']}"
    gate.wait_reached()
    story.until(run_path, "expired")

    assert story.refused(f"{run_path}/cancel") == (400, "Cannot cancel run with status 'expired'.")
    assert story.run_to_end(thread)["status"] == "completed"


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_while_queued_at_a_full_node(request: pytest.FixtureRequest, kind: Literal["sqlite", "postgres"]) -> None:
    models = request.getfixturevalue("scripted_models")
    with (
        stage_for(request, kind, max_concurrent_runs=1, run_expires_seconds=3) as server,
        Story(server, models) as story,
    ):
        story.model.says(gate := Gate())
        story.create_run(story.thread("Hi"))
        gate.wait_reached()
        # The node stays full until after the second run's time is over.
        server.parts.worker._max_concurrent = 0
        thread = story.thread("Hi too")

        stream = story.stream_run(thread)

        assert stream.names() == names_of(CREATED[:2], "thread.run.expired", "done")
        assert stream.run["started_at"] is None
        assert time.time() < stream.run["created_at"] + 3 + 20
        assert story.post(f"{thread}/messages", {"role": "user", "content": "free"})["id"]


def test_runs_that_wait_expire_too(story: Story) -> None:
    story.model.says(*[Gate()] * 4)
    thread = story.thread("Hi")
    runs = [story.create_run(thread, if_active="enqueue") for _ in range(4)]

    expired = [story.until(f"{thread}/runs/{run['id']}", "expired") for run in runs]

    assert [run["expires_at"] for run in expired] == [None] * 4
    assert time.time() < runs[-1]["created_at"] + 1 + 20
    assert story.post(f"{thread}/messages", {"role": "user", "content": "free"})["id"]
