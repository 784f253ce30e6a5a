"""Runs that fail: what the model server does wrong, as the client hears of it."""

from typing import Any

import pytest

from tests.support.stories import CREATED, FUNCTION, MESSAGE, STEP, Story, call_ids, names_of
from threadkeep.upstream.scripted import Call, Chunk, Cut, Finish, Gate, Say, Status


def test_a_failure_ahead_of_the_first_byte(story: Story) -> None:
    story.model.says(Status(500))

    stream = story.stream_run(story.thread("Hi"))

    assert stream.names() == names_of(CREATED, "thread.run.failed", "done")
    run = stream.run
    assert (run["status"], run["expires_at"], run["completed_at"]) == ("failed", None, None)
    assert run["failed_at"] >= run["started_at"]
    assert run["usage"]["total_tokens"] == 0
    assert run["last_error"]["code"] == "server_error"
    assert "the server had an error processing your request" in run["last_error"]["message"].lower()
    assert story.get(stream.run_path) == run


def test_a_failure_in_the_midst_of_the_text(story: Story) -> None:
    story.model.says([Say("Hel", "lo"), gate := Gate(), Cut()])

    with story.streaming_run(story.thread("Hi")) as stream:
        stream.until("thread.message.delta", count=2)
        gate.release()
        stream.rest()

    assert stream.names() == names_of(
        CREATED,
        MESSAGE,
        ["thread.message.delta"] * 2,
        "thread.run.step.failed",
        "thread.message.incomplete",
        "thread.run.failed",
        "done",
    )
    message, step = stream.data("thread.message.incomplete"), stream.data("thread.run.step.failed")
    assert message["incomplete_details"] == {"reason": "run_failed"}
    assert message["content"][0]["text"]["value"] == "Hello"
    assert (step["status"], step["last_error"]) == ("failed", stream.run["last_error"])
    assert step["failed_at"] is not None


def test_a_failure_in_the_midst_of_a_call(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([Call("get_weather", '{"city', fragments=1), gate := Gate(), Cut()])

    with story.streaming_run(story.thread("Weather?")) as stream:
        stream.until("thread.run.step.delta", count=2)
        gate.release()
        stream.rest()

    assert stream.names() == names_of(
        CREATED, STEP, ["thread.run.step.delta"] * 2, "thread.run.step.failed", "thread.run.failed", "done"
    )
    assert stream.run["required_action"] is None


def test_an_error_that_the_upstream_sends_instead_of_a_chunk(story: Story) -> None:
    error = {"error": {"message": "Overloaded.", "type": "server_error", "code": None}}
    story.model.says([Say("Hel"), Chunk(error)])

    run = story.run_to_end(story.thread("Hi"))

    assert run["status"] == "failed"
    assert "Overloaded." in run["last_error"]["message"]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (Status(429, headers={"retry-after": "7"}), "rate_limit_exceeded", "try again in 7 seconds"),
        (Status(429), "rate_limit_exceeded", "Rate limit reached for"),
        (Status(400, {"error": {"message": "Bad schema."}}), "invalid_prompt", "Bad schema."),
        (Status(401), "server_error", "credentials"),
        (Status(404), "server_error", "was not found"),
        (Status(503), "server_error", "The server had an error processing your request"),
    ],
)
def test_what_the_upstream_refuses_becomes_the_last_error(story: Story, answer: Status, code: str, words: str) -> None:
    story.model.says(answer)

    run = story.run_to_end(story.thread("Hi"))

    assert run["status"] == "failed"
    assert run["last_error"]["code"] == code
    assert words in run["last_error"]["message"]


def test_the_content_filter_fails_the_run(story: Story) -> None:
    story.model.says([Say("Well, "), Finish("content_filter")])

    stream = story.stream_run(story.thread("Hi"))

    assert stream.names() == names_of(
        CREATED,
        MESSAGE,
        "thread.message.delta",
        "thread.run.step.failed",
        "thread.message.incomplete",
        "thread.run.failed",
        "done",
    )
    assert stream.data("thread.message.incomplete")["incomplete_details"] == {"reason": "content_filter"}
    assert stream.run["last_error"]["code"] == "invalid_prompt"


def test_a_failure_after_tool_outputs(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says(Call("get_weather", {"city": "Oslo"}), Status(500))
    asked = story.stream_run(story.thread("Weather?"))

    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert stream.names() == names_of(
        "thread.run.step.completed", "thread.run.queued", "thread.run.in_progress", "thread.run.failed", "done"
    )
    assert [step["status"] for step in story.steps(asked.run_path)] == ["completed"]


def test_a_model_that_no_upstream_answers_fails_the_run(story: Story) -> None:
    story.assistant(model="gpt-unknown")

    run = story.run_to_end(story.thread("Hi"))

    assert run["status"] == "failed"
    assert "'gpt-unknown' does not exist" in run["last_error"]["message"]


def test_an_image_that_is_not_there_fails_the_run_and_says_which(story: Story) -> None:
    parts: list[Any] = [{"type": "image_file", "image_file": {"file_id": "file-abc"}}]
    thread = story.thread()
    story.post(f"{thread}/messages", {"role": "user", "content": parts})

    run = story.run_to_end(thread)

    assert run["last_error"]["code"] == "invalid_prompt"
    assert "file-abc" in run["last_error"]["message"]


def test_after_a_failure_the_thread_goes_on(story: Story) -> None:
    story.model.says([Say("Hel"), Cut()], Say("Hello"))
    thread = story.thread("Hi")
    story.run_to_end(thread)

    run = story.run_to_end(thread)

    assert run["status"] == "completed"


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error", "invalid_prompt"])
def test_the_offline_model_fails_when_told(story: Story, code: str) -> None:
    story.assistant(model="offline")

    run = story.run_to_end(story.thread(f"fail: {code} as asked"))

    assert (run["status"], run["last_error"]) == ("failed", {"code": code, "message": "as asked"})


class TestDeleted:
    """Nothing that a client deletes under a run keeps the run from ending."""

    def test_the_message_while_it_is_written(self, story: Story) -> None:
        story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        thread = story.thread("Hi")

        with story.streaming_run(thread) as stream:
            message_id = stream.until("thread.message.delta").data["id"]
            assert story.http.delete(f"{thread}/messages/{message_id}").status_code == 200
            gate.release()
            stream.rest()

        assert stream.names()[-4:] == [
            "thread.message.completed",
            "thread.run.step.completed",
            "thread.run.completed",
            "done",
        ]
        assert stream.data("thread.message.completed")["content"][0]["text"]["value"] == "Hello"
        assert len(story.messages(thread)) == 1

    def test_the_message_while_it_is_written_and_another_follows(self, story: Story) -> None:
        """Clients refuse a message that begins before the one ahead of it ended."""
        story.assistant(tools=[FUNCTION])
        story.model.says([Say("Let me"), gate := Gate(), Say(" look."), Call("get_weather"), Say("And")])
        thread = story.thread("Weather?")

        with story.streaming_run(thread) as stream:
            message_id = stream.until("thread.message.delta").data["id"]
            story.http.delete(f"{thread}/messages/{message_id}")
            gate.release()
            stream.rest()

        told = [name for name in stream.names() if name in ("thread.message.created", "thread.message.completed")]
        assert told == ["thread.message.created", "thread.message.completed"] * 2

    def test_the_message_ahead_of_calls_while_the_run_waits(self, story: Story) -> None:
        story.assistant(tools=[FUNCTION])
        story.model.says([Say("Let me look."), Call("get_weather", {"city": "Oslo"})], Say("Sunny."))
        thread = story.thread("Weather?")
        asked = story.stream_run(thread)
        story.http.delete(f"{thread}/messages/{asked.data('thread.message.completed')['id']}")

        stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

        assert stream.run["status"] == "completed"

    def test_the_assistant_while_the_model_is_silent(self, story: Story) -> None:
        story.model.says([gate := Gate(), Say("Hello")])
        assistant = story.assistant(instructions="Be kind.")

        with story.streaming_run(story.thread("Hi")) as stream:
            gate.wait_reached()
            assert story.http.delete(f"/assistants/{assistant}").status_code == 200
            gate.release()
            stream.rest()

        assert (stream.run["status"], stream.run["instructions"]) == ("completed", "Be kind.")

    def test_the_thread_ends_the_stream(self, story: Story) -> None:
        story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
        thread = story.thread("Hi")

        with story.streaming_run(thread) as stream:
            stream.until("thread.message.delta")
            assert story.http.delete(thread).status_code == 200
            gate.release()
            stream.rest()

        assert stream.names()[-1] == "error"
        assert stream.data("error")["error"]["message"] == "The thread was deleted."
        assert story.http.get(thread).status_code == 404
