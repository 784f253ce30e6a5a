"""Limits of a run: tokens in and out, the model's window, and what a thread loses to fit."""

from typing import Any

import pytest

from tests.support.stories import CREATED, FUNCTION, MESSAGE, Story, call_ids, names_of, text_of
from threadkeep.upstream.scripted import Call, Finish, Say, Status, Usage

CALL = Call("get_weather", {"city": "Oslo"})
TOO_LONG = Status(
    400,
    {
        "error": {
            "message": "This model's maximum context length is 512 tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    },
)


def said(body: Any) -> list[str]:
    """The texts of the messages that the model was sent."""
    return [message["content"] for message in body["messages"]]


def test_an_answer_cut_short_ends_incomplete(story: Story) -> None:
    story.model.says([Say("One ", "two"), Finish("length"), Usage(5, 256)])

    stream = story.stream_run(story.thread("Count"), max_completion_tokens=256)

    assert stream.names() == names_of(
        CREATED,
        MESSAGE,
        ["thread.message.delta"] * 2,
        "thread.message.incomplete",
        "thread.run.step.completed",
        "thread.run.incomplete",
        "done",
    )
    message = stream.data("thread.message.incomplete")
    assert (message["status"], message["incomplete_details"]) == ("incomplete", {"reason": "max_tokens"})
    assert message["content"][0]["text"]["value"] == stream.text == "One two"
    assert (message["incomplete_at"] is None, message["completed_at"]) == (False, None)
    run = stream.data("thread.run.incomplete")
    assert (run["incomplete_details"], run["last_error"]) == ({"reason": "max_completion_tokens"}, None)
    assert run["usage"]["completion_tokens"] == 256
    assert story.model.asked["max_completion_tokens"] == 256


def test_the_offline_model_honours_the_limit(story: Story) -> None:
    story.assistant(model="offline")

    stream = story.stream_run(story.thread("count to 300"), max_completion_tokens=256)

    assert stream.run["status"] == "incomplete"
    assert stream.text.split()[-1] == "256"


def test_completion_tokens_are_limited_over_all_calls_of_the_model(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([CALL, Usage(10, 100)], [CALL, Usage(10, 60)], Say("Sunny."))
    run = story.stream_run(story.thread("Weather?"), max_completion_tokens=256)

    run = story.stream_outputs(run.run_path, dict.fromkeys(call_ids(run.run), "sun"))
    story.stream_outputs(run.run_path, dict.fromkeys(call_ids(run.run), "sun"))

    assert [body["max_completion_tokens"] for body in story.model.requests] == [256, 156, 96]


def test_a_run_that_used_up_its_completion_tokens_asks_no_more(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([CALL, Usage(10, 300)])
    asked = story.stream_run(story.thread("Weather?"), max_completion_tokens=256)

    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert stream.names() == names_of(
        "thread.run.step.completed", "thread.run.queued", "thread.run.in_progress", "thread.run.incomplete", "done"
    )
    assert stream.run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert len(story.model.requests) == 1


def test_a_run_that_used_up_its_prompt_tokens_asks_no_more(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([CALL, Usage(256, 10)])
    asked = story.stream_run(story.thread("Weather?"), max_prompt_tokens=256)

    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert stream.run["incomplete_details"] == {"reason": "max_prompt_tokens"}
    assert len(story.model.requests) == 1


def test_the_prompt_limit_drops_the_oldest_messages(story: Story) -> None:
    story.model.says(Say("Hello"))
    thread = story.thread("old " * 400, "middle", "new")

    run = story.run_to_end(thread, max_prompt_tokens=256)

    assert run["status"] == "completed"
    assert said(story.model.asked) == ["middle", "new"]


def test_a_newest_message_over_the_prompt_limit_ends_the_run_incomplete(story: Story) -> None:
    stream = story.stream_run(story.thread("word " * 1000), max_prompt_tokens=256)

    assert stream.names() == names_of(CREATED, "thread.run.incomplete", "done")
    assert stream.run["incomplete_details"] == {"reason": "max_prompt_tokens"}
    assert story.model.requests == []


def test_only_the_last_messages_are_sent_when_asked_so(story: Story) -> None:
    story.model.says(Say("Hello"))
    thread = story.thread("one", "two", "three", "four")

    run = story.run_to_end(thread, truncation_strategy={"type": "last_messages", "last_messages": 2})

    assert run["truncation_strategy"] == {"type": "last_messages", "last_messages": 2}
    assert said(story.model.asked) == ["three", "four"]


class TestSmallWindow:
    """A model that reads 512 tokens, of which a quarter is kept for the answer."""

    @pytest.fixture(autouse=True)
    def _tiny(self, story: Story) -> None:
        story.model = story.models.new_model("tiny")

    def test_the_oldest_messages_are_dropped_to_fit(self, story: Story) -> None:
        story.model.says(Say("Hello"))
        story.assistant(instructions="Be kind.")
        thread = story.thread(*(f"{number} " + "word " * 100 for number in range(10)))

        story.run_to_end(thread)

        instructions, *messages = said(story.model.asked)
        assert instructions == "Be kind."
        assert [text.split()[0] for text in messages] == ["8", "9"]

    def test_the_newest_message_is_sent_even_if_it_does_not_fit(self, story: Story) -> None:
        story.model.says(Say("Hello"))

        run = story.run_to_end(story.thread("old", "word " * 2000))

        assert run["status"] == "completed"
        assert len(said(story.model.asked)) == 1

    def test_a_prompt_that_the_upstream_finds_too_long_is_shortened_and_sent_again(self, story: Story) -> None:
        story.model.says(TOO_LONG, TOO_LONG, Say("Hello"))
        thread = story.thread(*(f"message {number} " + "x" * 100 for number in range(8)))

        stream = story.stream_run(thread)

        assert stream.names() == names_of(CREATED, text_of(1), "thread.run.completed", "done")
        lengths = [len(said(body)) for body in story.model.requests]
        assert lengths == sorted(lengths, reverse=True)
        assert len(set(lengths)) == 3
        assert said(story.model.requests[-1])[-1].startswith("message 7 ")

    def test_a_single_message_that_is_too_long_fails_the_run(self, story: Story) -> None:
        story.model.says(TOO_LONG)

        run = story.run_to_end(story.thread("word " * 2000))

        assert run["status"] == "failed"
        assert run["last_error"]["code"] == "invalid_prompt"
        assert "longer than the context window" in run["last_error"]["message"]
