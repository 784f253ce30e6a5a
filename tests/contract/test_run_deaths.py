"""Nodes that die for real, again and again, or stand still and come back."""

import os
import signal
import time
from contextlib import ExitStack

import pytest

from tests.support.databases import Database
from tests.support.nodes import LEASE_S, Node, begun, node
from tests.support.stories import ScriptedModel, ScriptedModels
from threadkeep.upstream.scripted import Gate, Hang, Say

# Beyond the lease.
TAKEN_OVER_S = 2.0


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


def test_a_run_that_killed_its_node_three_times_is_not_tried_for_ever(
    database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    gates = [Gate() for _ in range(4)]
    model.says(*([Say("half "), gate] for gate in gates))
    with node(database, scripted_models) as first, begun(first, model) as stream:
        stream.until("thread.message.delta")
        run_path = stream.run_path
        first.kill()
    for gate in gates[1:3]:
        with node(database, scripted_models) as another:
            gate.wait_reached()
            another.kill()

    with node(database, scripted_models) as last:
        assert last.until_ended(run_path) == "failed"
        run = last.http.get(run_path).json()
        thread = run_path.partition("/runs/")[0]
        messages = last.http.get(f"{thread}/messages?order=asc").json()["data"]
        again = last.http.post(f"{thread}/messages", json={"role": "user", "content": "Still there?"})

    assert run["last_error"] == {"code": "server_error", "message": "Sorry, something went wrong."}
    assert len(model.requests) == 3
    assert [message["status"] for message in messages] == ["completed", "incomplete"]
    assert again.status_code == 200


def test_nodes_that_are_there_mostly_take_over_within_two_seconds_of_the_lease(
    postgres_database: Database, scripted_models: ScriptedModels
) -> None:
    """Each of three that die, one after the other."""
    taken: list[float] = []
    with ExitStack() as nodes:
        left = [nodes.enter_context(node(postgres_database, scripted_models)) for _ in range(4)]
        while len(left) > 1:
            dying = left.pop(0)
            model = scripted_models.new_model()
            model.says([Say("half "), Hang()], [Say("whole")])
            with begun(dying, model) as stream:
                stream.until("thread.message.delta")
                dying.kill()
                killed_at = time.monotonic()
                assert left[0].until_ended(stream.run_path) == "completed"
                taken.append(time.monotonic() - killed_at)

    # One of them may meet a machine that has no time.
    assert sorted(taken)[1] < LEASE_S + TAKEN_OVER_S, taken


def test_a_node_that_stood_still_past_its_lease_writes_nothing_more_and_leaves_its_model(
    postgres_database: Database, scripted_models: ScriptedModels, model: ScriptedModel
) -> None:
    model.says([Say("half "), gate := Gate(), Say("as long "), Hang()], Say("whole"))
    with node(postgres_database, scripted_models) as frozen, begun(frozen, model) as stream:
        stream.until("thread.message.delta")
        run_path = stream.run_path
        first = model.book.requests[0]
        os.kill(frozen.program.pid, signal.SIGSTOP)
        with node(postgres_database, scripted_models) as other:
            assert other.until_ended(run_path) == "completed"
            # The model goes on: it stands in the buffers when the node wakes.
            gate.release()
            before = left_behind(other, run_path)

            os.kill(frozen.program.pid, signal.SIGCONT)
            woken_at = time.monotonic()
            first.wait_ended()
            stopped_after = time.monotonic() - woken_at
            stream.rest()

            assert left_behind(other, run_path) == before
    assert first.aborted
    assert stopped_after < 1.0
    # What it had shown was taken back by nobody; what it would have shown is not in the store, and was not shown.
    assert stream.text == "half "
    assert stream.names()[-1] == "error"
    assert stream.events[-1].data["error"]["message"]


def left_behind(at: Node, run_path: str) -> list[object]:
    thread = run_path.partition("/runs/")[0]
    paths = [run_path, f"{run_path}/steps", f"{thread}/messages"]
    return [at.http.get(path).json() for path in paths]
