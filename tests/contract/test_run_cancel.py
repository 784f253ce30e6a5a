"""cancelRun: wherever the run is, it ends cancelled, and the stream says so."""

from typing import Literal

import httpx2
import pytest

from tests.support.stories import CREATED, FUNCTION, MESSAGE, STEP, Story, call_ids, names_of, stage_for
from threadkeep.upstream.scripted import Call, Gate, Say, Usage

ENDED = ("thread.run.cancelled", "done")


def test_while_the_model_is_silent(story: Story) -> None:
    story.model.says([gate := Gate(), Say("never heard")])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        stream.until("thread.run.in_progress")
        gate.wait_reached()
        answered = story.post(f"{stream.run_path}/cancel")
        stream.rest()

    assert (answered["status"], answered["cancelled_at"]) == ("cancelling", None)
    assert stream.names() == names_of(CREATED, "thread.run.cancelling", ENDED)
    assert stream.run["cancelled_at"] is not None
    assert (stream.run["expires_at"], stream.run["last_error"]) == (None, None)
    assert story.get(stream.run_path) == stream.run
    assert len(story.messages(thread)) == 1


def test_the_upstream_is_left_at_once(story: Story) -> None:
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])

    with story.streaming_run(story.thread("Hi")) as stream:
        gate.wait_reached()
        stream.until("thread.message.delta")
        story.post(f"{stream.run_path}/cancel")
        stream.rest()

    [received] = story.model.book.requests
    received.wait_ended()
    assert received.aborted


def test_while_text_streams(story: Story) -> None:
    story.model.says([Say("Hel", "lo"), Gate(), Say(" there"), Usage(5, 3)])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta", count=2)
        story.post(f"{stream.run_path}/cancel")
        stream.rest()

    assert stream.names() == names_of(
        CREATED,
        MESSAGE,
        ["thread.message.delta"] * 2,
        "thread.run.cancelling",
        "thread.run.step.cancelled",
        "thread.message.incomplete",
        ENDED,
    )
    message, step = stream.data("thread.message.incomplete"), stream.data("thread.run.step.cancelled")
    assert message["incomplete_details"] == {"reason": "run_cancelled"}
    assert message["content"][0]["text"]["value"] == stream.text == "Hello"
    assert story.messages(thread)[-1] == message
    assert (step["status"], step["completed_at"]) == ("cancelled", None)
    assert step["cancelled_at"] is not None


def test_while_a_call_streams(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"}, fragments=1), Gate()])

    with story.streaming_run(story.thread("Weather?")) as stream:
        stream.until("thread.run.step.delta", count=2)
        story.post(f"{stream.run_path}/cancel")
        stream.rest()

    assert stream.names() == names_of(
        CREATED,
        STEP,
        ["thread.run.step.delta"] * 2,
        "thread.run.cancelling",
        "thread.run.step.cancelled",
        ENDED,
    )
    assert stream.run["required_action"] is None


def test_while_the_client_is_awaited(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", {"city": "Oslo"}), Usage(20, 5)])
    asked = story.stream_run(story.thread("Weather?"))

    answered = story.post(f"{asked.run_path}/cancel")

    assert (answered["status"], answered["required_action"]) == ("cancelling", None)
    run = story.until(asked.run_path)
    assert (run["status"], run["usage"]["total_tokens"]) == ("cancelled", 25)
    [step] = story.steps(asked.run_path)
    assert (step["status"], step["usage"]["total_tokens"]) == ("cancelled", 25)


def test_outputs_for_a_cancelled_run_are_refused(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says(Call("get_weather", {"city": "Oslo"}))
    asked = story.stream_run(story.thread("Weather?"))
    story.post(f"{asked.run_path}/cancel")
    story.until(asked.run_path)

    outputs = {"tool_outputs": [{"tool_call_id": call_ids(asked.run)[0], "output": "sun"}]}

    assert story.refused(f"{asked.run_path}/submit_tool_outputs", outputs) == (
        400,
        'Runs in status "cancelled" do not accept tool outputs.',
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_while_queued_at_a_full_node(request: pytest.FixtureRequest, kind: Literal["sqlite", "postgres"]) -> None:
    models = request.getfixturevalue("scripted_models")
    with stage_for(request, kind, max_concurrent_runs=1) as server, Story(server, models) as story:
        story.model.says([gate := Gate(), Say("Hello")])
        first = story.create_run(story.thread("Hi"))
        gate.wait_reached()

        with story.streaming_run(story.thread("Hi too")) as stream:
            stream.until("thread.run.queued")
            story.post(f"{stream.run_path}/cancel")
            stream.rest()
        gate.release()

        assert stream.names() == names_of(CREATED[:2], "thread.run.cancelling", ENDED)
        assert stream.run["started_at"] is None
        assert story.until(f"/threads/{first['thread_id']}/runs/{first['id']}")["status"] == "completed"


def test_a_second_cancel_is_refused(story: Story) -> None:
    story.model.says([Say("Hel"), Gate()])

    with story.streaming_run(story.thread("Hi")) as stream:
        stream.until("thread.message.delta")
        story.post(f"{stream.run_path}/cancel")
        status, message = story.refused(f"{stream.run_path}/cancel")
        stream.rest()

    # It may have ended by then, or not.
    assert status == 400
    assert message in {f"Cannot cancel run with status '{status}'." for status in ("cancelling", "cancelled")}


@pytest.mark.parametrize("ended", ["completed", "cancelled"])
def test_a_run_that_has_ended_cannot_be_cancelled(story: Story, ended: str) -> None:
    story.model.says(Say("Hello") if ended == "completed" else Gate())
    thread = story.thread("Hi")
    run_path = f"{thread}/runs/{story.create_run(thread)['id']}"
    if ended == "cancelled":
        story.post(f"{run_path}/cancel")
    assert story.until(run_path)["status"] == ended

    assert story.refused(f"{run_path}/cancel") == (400, f"Cannot cancel run with status '{ended}'.")


def test_after_a_cancel_the_thread_goes_on(story: Story) -> None:
    story.model.says(gate := Gate(), Say("Hello"))
    thread = story.thread("Hi")
    run_path = f"{thread}/runs/{story.create_run(thread)['id']}"
    gate.wait_reached()
    story.post(f"{run_path}/cancel")
    story.until(run_path)

    assert story.run_to_end(thread)["status"] == "completed"


def test_a_cancel_acknowledged_ends_cancelled_though_the_model_ends_too(story: Story) -> None:
    """Both at once, many times: whoever wins, a 200 to the cancel means cancelled and a 400 means completed."""
    outcomes: set[tuple[int, str]] = set()
    for _ in range(10):
        story.model.says([Say("Hello"), gate := Gate()])
        with story.streaming_run(story.thread("Hi")) as stream:
            stream.until("thread.message.delta")
            gate.release()
            answer: httpx2.Response = story.http.post(f"{stream.run_path}/cancel", json={})
            stream.rest()
        outcomes.add((answer.status_code, stream.run["status"]))
        assert stream.names()[-2:] == [f"thread.run.{stream.run['status']}", "done"]
    assert outcomes <= {(200, "cancelled"), (400, "completed")}
