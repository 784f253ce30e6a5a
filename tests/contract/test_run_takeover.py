"""What becomes of a run whose node dies, is full, or stops: another goes on from what is stored."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import Database
from tests.support.nodes import LEASE_S, begun, node, successor
from tests.support.objects import a_run, a_thread
from tests.support.server import serving
from tests.support.stories import (
    CREATED,
    FUNCTION,
    ScriptedModel,
    ScriptedModels,
    Story,
    call_ids,
    calls_of,
    names_of,
    settings_on,
    text_of,
)
from threadkeep.runs.follow import KIND
from threadkeep.settings import Settings
from threadkeep.storage import Transaction
from threadkeep.storage.work import Lease, LeaseTerms, WorkItem
from threadkeep.upstream.scripted import Call, Gate, Say, Usage


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


def test_a_run_goes_on_elsewhere_when_its_node_is_killed(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Say("whole ", "answer"))
    with node(database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        message_id = stream.data("thread.message.created")["id"]
        run_path, thread = stream.run_path, stream.run_path.partition("/runs/")[0]
        with successor(database, scripted_models, first) as second:
            killed_at = time.monotonic()

            assert second.until_ended(run_path) == "completed"

            assert time.monotonic() - killed_at < LEASE_S + 10
            messages = second.http.get(f"{thread}/messages?order=asc").json()["data"]
            # Written anew, under the id that the first reader was told.
            assert [message["content"][0]["text"]["value"] for message in messages] == ["Hi", "whole answer"]
            assert messages[-1]["id"] == message_id
            [step] = second.http.get(f"{run_path}/steps").json()["data"]
            assert (step["status"], step["id"]) == ("completed", stream.data("thread.run.step.created")["id"])


def test_a_step_that_was_stored_is_not_done_again(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Call("get_weather", {"city": "Oslo"}), Usage(20, 5)], [Say("half "), gate := Gate()], Say("Sunny."))
    with node(database, scripted_models) as first:
        with begun(first, model, tools=[FUNCTION]) as stream:
            stream.rest()
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(stream.run)]
        answer = first.http.post(f"{stream.run_path}/submit_tool_outputs", json={"tool_outputs": outputs})
        assert answer.status_code == 200
        gate.wait_reached()
        with successor(database, scripted_models, first) as second:
            assert second.until_ended(stream.run_path) == "completed"
            steps = second.http.get(f"{stream.run_path}/steps?order=asc").json()["data"]

    assert [(step["type"], step["status"]) for step in steps] == [
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    # The model is asked again with all that was done, not from the start.
    assert model.requests[2]["messages"] == model.requests[1]["messages"]
    assert [message["role"] for message in model.requests[2]["messages"]] == ["user", "assistant", "tool"]


def test_a_successor_that_calls_instead_of_speaking_can_be_answered(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Call("get_weather", {"city": "Oslo"}), Say("Sunny."))
    with node(database, scripted_models) as first, begun(first, model, tools=[FUNCTION]) as stream:
        stream.until("thread.message.delta")
        run_path = stream.run_path
        with successor(database, scripted_models, first) as second:
            assert second.until_ended(run_path) == "requires_action"
            run = second.http.get(run_path).json()
            outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in call_ids(run)]
            second.http.post(f"{run_path}/submit_tool_outputs", json={"tool_outputs": outputs})
            assert second.until_ended(run_path) == "completed"
            steps = second.http.get(f"{run_path}/steps?order=asc").json()["data"]
            messages = second.http.get(f"{run_path.partition('/runs/')[0]}/messages?order=asc").json()["data"]

    assert [(step["type"], step["status"]) for step in steps] == [
        ("message_creation", "failed"),
        ("tool_calls", "completed"),
        ("message_creation", "completed"),
    ]
    assert [message["status"] for message in messages] == ["completed", "incomplete", "completed"]


def test_a_run_cancelled_while_its_node_is_dead_ends_cancelled(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()])
    with node(database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        with successor(database, scripted_models, first) as second:
            assert second.http.post(f"{stream.run_path}/cancel").json()["status"] == "cancelling"
            assert second.until_ended(stream.run_path) == "cancelled"
            [step] = second.http.get(f"{stream.run_path}/steps").json()["data"]

    assert step["status"] == "cancelled"


def test_a_node_told_to_stop_hands_its_runs_over(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), Gate()], Say("whole"))
    lease_s = 30
    arguments = ("--grace-seconds", "0", "--lease-seconds", str(lease_s))
    with node(database, scripted_models, *arguments) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        first.program.terminate()
        stream.rest()

        assert stream.names()[-1] == "error"
        assert first.program.wait() == 0
        with node(database, scripted_models) as second:
            started_at = time.monotonic()
            assert second.until_ended(stream.run_path) == "completed"
            # Given back, not run out: nobody waits for the lease.
            assert time.monotonic() - started_at < lease_s


def test_a_node_told_to_stop_lets_its_runs_end_within_the_grace_period(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("Hel"), gate := Gate(), Say("lo")])
    with node(database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        first.program.terminate()
        gate.release()
        stream.rest()

        assert stream.names() == names_of(CREATED, text_of(2), "thread.run.completed", "done")
        assert first.program.wait() == 0


def test_a_run_in_which_three_nodes_died_is_given_up(story: Story) -> None:
    thread = a_thread()
    run = a_run(thread.id, status="in_progress", expires_at=int(time.time()) + 600)
    project = story.project

    def die_three_times(tx: Transaction) -> None:
        tx.threads.insert(thread)
        tx.runs.insert(run)
        terms = LeaseTerms(token="token", node="dead", lease_s=60)
        tx.work.insert(KIND, run.id, thread=thread.id, lease=terms)
        item = WorkItem(kind=KIND, key=run.id, project=project, thread=thread.id)
        lease = Lease(item=item, token="token", attempts=0, until_ms=0, interrupted=False)
        for _ in range(2):
            tx.work.abandon(lease, delay_s=-1)
            [lease] = tx.work.claim("dead", [KIND], 1, 60)
        tx.work.abandon(lease, delay_s=-1)

    story.server.write(project, die_three_times)

    ended = story.until(f"/threads/{thread.id}/runs/{run.id}")
    assert (ended["status"], ended["last_error"]) == (
        "failed",
        {"code": "server_error", "message": "Sorry, something went wrong."},
    )
    assert story.model.requests == []


class TestFullNode:
    """Two nodes on one database, of which the one with the listener has no room."""

    @pytest.fixture
    def here(self, postgres_database: Database, tmp_path: Path, scripted_models: ScriptedModels) -> Iterator[Story]:
        """A story at the full node."""
        full = settings_on(postgres_database, scripted_models, max_concurrent_runs=1)
        free = settings_on(Database(postgres_database.url, tmp_path / "free"), scripted_models)
        with serving(full) as first, Story(first, scripted_models) as filling, Story(first, scripted_models) as here:
            filling.model.says(gate := Gate())
            filling.create_run(filling.thread("Hi"))
            gate.wait_reached()
            with serving(free):
                yield here

    def test_another_takes_the_run_and_the_listener_hears_it_as_it_comes(self, here: Story) -> None:
        here.model.says([Say("Hel"), gate := Gate(), Say("lo"), Usage(5, 2)])
        thread = here.thread("Hi")

        with here.streaming_run(thread) as stream:
            stream.until("thread.message.delta")
            gate.release()
            stream.rest()

        assert stream.names() == names_of(CREATED, text_of(2), "thread.run.completed", "done")
        assert stream.text == "Hello"
        created, ended = stream.data("thread.message.created"), stream.data("thread.message.completed")
        assert (created["content"], created["status"]) == ([], "in_progress")
        assert here.messages(thread)[-1] == ended
        assert stream.run == here.get(stream.run_path)

    def test_calls_are_told_as_in_a_live_stream(self, here: Story) -> None:
        here.assistant(tools=[FUNCTION])
        here.model.says(
            [Say("Let me look."), Call("get_weather", {"city": "Oslo"}), Call("get_weather", {"city": "Rome"})],
            Say("Sunny."),
        )

        asked = here.stream_run(here.thread("Weather?"))
        stream = here.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

        assert asked.names() == names_of(CREATED, text_of(1), calls_of(8))
        deltas = asked.every("thread.run.step.delta")
        calls = [call for delta in deltas for call in delta["delta"]["step_details"]["tool_calls"] if "id" in call]
        assert [(call["index"], call["id"]) for call in calls] == list(enumerate(call_ids(asked.run)))
        assert stream.names() == names_of(
            *("thread.run.step.completed", "thread.run.queued", "thread.run.in_progress"),
            *(text_of(1), "thread.run.completed", "done"),
        )

    def test_a_failure_is_told_as_in_a_live_stream(self, here: Story) -> None:
        here.assistant(model="offline")

        stream = here.stream_run(here.thread("fail: server_error as asked"))

        assert stream.names() == names_of(CREATED, "thread.run.failed", "done")

    def test_a_cancel_at_the_one_reaches_the_other(self, here: Story) -> None:
        here.model.says([Say("Hel"), Gate()])
        thread = here.thread("Hi")

        with here.streaming_run(thread) as stream:
            stream.until("thread.message.delta")
            here.post(f"{stream.run_path}/cancel")
            stream.rest()

        assert stream.names()[-5:] == [
            "thread.run.cancelling",
            "thread.run.step.cancelled",
            "thread.message.incomplete",
            "thread.run.cancelled",
            "done",
        ]


def test_a_run_created_while_its_node_stops_is_left_to_others_and_its_stream_ends(tmp_path: Path) -> None:
    with serving(Settings(data_dir=tmp_path)) as server, server.client() as client:
        assistant = client.post("/assistants", json={"model": "offline"}).json()["id"]
        server.call(lambda: server.parts.drain(0))
        server.call(server.parts.let_go)

        body = {"assistant_id": assistant, "stream": True}
        with client.stream("POST", "/threads/runs", json=body) as response:
            lines = list(response.iter_lines())

    assert [line for line in lines if line.startswith("event: ")] == [
        "event: thread.created",
        "event: thread.run.created",
        "event: thread.run.queued",
        "event: error",
    ]
    assert "The server is shutting down." in lines[-2]
