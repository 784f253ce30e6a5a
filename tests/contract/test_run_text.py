"""createRun and createThreadAndRun, streamed and polled: answers in text, and the events they are told in."""

import pytest

from tests.support.stories import CREATED, MESSAGE, Story, names_of, text_of
from threadkeep.upstream.scripted import Finish, Gate, NoUsage, Refuse, Say, Think, Usage


def test_a_text_answer_is_told_in_this_order(story: Story) -> None:
    story.model.says([Say("Hel", "lo", "!"), Usage(12, 3, cached_tokens=4, reasoning_tokens=1)])

    stream = story.stream_run(story.thread("Hi"))

    assert stream.names() == names_of(CREATED, text_of(3), "thread.run.completed", "done")


def test_each_event_carries_its_object_as_it_is_then(story: Story) -> None:
    story.model.says([Say("Hel", "lo"), Usage(12, 3)])
    thread = story.thread("Hi")

    stream = story.stream_run(thread)

    created, ended = stream.data("thread.run.created"), stream.data("thread.run.completed")
    assert (created["status"], stream.data("thread.run.queued")["status"]) == ("queued", "queued")
    assert (created["started_at"], created["usage"]) == (None, None)
    assert created["expires_at"] == created["created_at"] + 600
    assert stream.data("thread.run.in_progress")["started_at"] >= created["created_at"]
    assert (ended["status"], ended["expires_at"]) == ("completed", None)
    assert ended["completed_at"] >= ended["started_at"]
    message, begun = stream.data("thread.message.completed"), stream.data("thread.message.created")
    assert (begun["status"], begun["content"], begun["role"]) == ("in_progress", [], "assistant")
    assert (begun["run_id"], begun["assistant_id"]) == (ended["id"], ended["assistant_id"])
    assert message["id"] == begun["id"]
    assert message["content"] == [{"type": "text", "text": {"value": "Hello", "annotations": []}}]
    assert (message["status"], message["incomplete_at"], message["incomplete_details"]) == ("completed", None, None)
    step = stream.data("thread.run.step.created")
    assert (step["type"], step["status"], step["usage"]) == ("message_creation", "in_progress", None)
    assert step["step_details"] == {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
    assert stream.data("thread.run.step.in_progress") == step


def test_a_delta_has_only_what_is_new(story: Story) -> None:
    story.model.says(Say("Hel", "lo"))

    stream = story.stream_run(story.thread("Hi"))

    message_id = stream.data("thread.message.completed")["id"]
    assert stream.every("thread.message.delta") == [
        {
            "id": message_id,
            "object": "thread.message.delta",
            "delta": {"content": [{"index": 0, "type": "text", "text": {"value": "Hel", "annotations": []}}]},
        },
        {
            "id": message_id,
            "object": "thread.message.delta",
            "delta": {"content": [{"index": 0, "type": "text", "text": {"value": "lo"}}]},
        },
    ]


def test_what_the_stream_said_is_what_the_store_says(story: Story) -> None:
    story.model.says([Say(*(f"{number} " for number in range(200))), Usage(7, 200)])
    thread = story.thread("Count")

    stream = story.stream_run(thread)

    message = stream.data("thread.message.completed")
    assert stream.text == message["content"][0]["text"]["value"] == "".join(f"{number} " for number in range(200))
    assert story.get(f"{thread}/messages/{message['id']}") == message
    assert story.get(stream.run_path) == stream.data("thread.run.completed")
    assert story.steps(stream.run_path) == [stream.data("thread.run.step.completed")]


def test_usage_stands_on_the_step_and_on_the_run(story: Story) -> None:
    story.model.says([Say("Hi"), Usage(12, 3, cached_tokens=4, reasoning_tokens=1)])

    stream = story.stream_run(story.thread("Hi"))

    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_token_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert stream.data("thread.run.step.completed")["usage"] == usage
    assert stream.data("thread.run.completed")["usage"] == usage


def test_usage_is_estimated_for_a_model_that_does_not_count(story: Story) -> None:
    story.model.says([Say("Hello, how do you do?"), NoUsage()])

    run = story.run_to_end(story.thread("Hi there"))

    assert run["usage"]["prompt_tokens"] > 0
    assert 4 <= run["usage"]["completion_tokens"] <= 8
    assert run["usage"]["total_tokens"] == run["usage"]["prompt_tokens"] + run["usage"]["completion_tokens"]


def test_create_thread_and_run_tells_of_the_thread_first(story: Story) -> None:
    story.model.says(Say("Hello"))
    body: dict[str, object] = {
        "assistant_id": story.assistant(),
        "thread": {"messages": [{"role": "user", "content": "Hi"}], "metadata": {"a": "b"}},
        "metadata": {"c": "d"},
    }

    with story.streaming("/threads/runs", body) as streaming:
        stream = streaming.rest()

    assert stream.names() == names_of("thread.created", CREATED, text_of(1), "thread.run.completed", "done")
    thread = stream.data("thread.created")
    assert thread["metadata"] == {"a": "b"}
    assert stream.run["thread_id"] == thread["id"]
    assert stream.run["metadata"] == {"c": "d"}
    assert story.texts(f"/threads/{thread['id']}") == [("user", "Hi"), ("assistant", "Hello")]


def test_create_thread_and_run_without_a_thread_makes_an_empty_one(story: Story) -> None:
    story.model.says(Say("Hello"))

    run = story.post("/threads/runs", {"assistant_id": story.assistant()})

    thread = f"/threads/{run['thread_id']}"
    assert story.until(f"{thread}/runs/{run['id']}")["status"] == "completed"
    assert story.texts(thread) == [("assistant", "Hello")]


def test_a_polled_run_ends_as_a_streamed_one(story: Story) -> None:
    story.model.says(Say("Hel", "lo"))
    thread = story.thread("Hi")

    created = story.create_run(thread)

    assert created["status"] == "queued"
    run = story.until(f"{thread}/runs/{created['id']}")
    assert run["status"] == "completed"
    assert story.texts(thread) == [("user", "Hi"), ("assistant", "Hello")]
    assert [step["status"] for step in story.steps(f"{thread}/runs/{run['id']}")] == ["completed"]


def test_a_step_in_progress_shows_no_usage(story: Story) -> None:
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])

    with story.streaming_run(story.thread("Hi")) as stream:
        stream.until("thread.message.delta")
        [step] = story.steps(stream.run_path)
        run = story.get(stream.run_path)
        gate.release()
        stream.rest()

    assert (step["status"], step["usage"]) == ("in_progress", None)
    assert (run["status"], run["usage"]) == ("in_progress", None)


def test_deltas_come_as_the_model_speaks(story: Story) -> None:
    story.model.says([Say("one "), first := Gate(), Say("two "), second := Gate(), Say("three")])

    with story.streaming_run(story.thread("Hi")) as stream:
        stream.until("thread.message.delta", count=1)
        assert stream.text == "one "
        first.release()
        stream.until("thread.message.delta", count=2)
        assert stream.text == "one two "
        second.release()
        stream.rest()

    assert stream.text == "one two three"


def test_a_refusal_is_a_part_of_its_own(story: Story) -> None:
    story.model.says([Refuse("I would "), Refuse("rather not.")])

    stream = story.stream_run(story.thread("Do it"))

    assert stream.names() == names_of(CREATED, text_of(2), "thread.run.completed", "done")
    assert [delta["delta"]["content"] for delta in stream.every("thread.message.delta")] == [
        [{"index": 0, "type": "refusal", "refusal": "I would "}],
        [{"index": 0, "type": "refusal", "refusal": "rather not."}],
    ]
    assert stream.data("thread.message.completed")["content"] == [
        {"type": "refusal", "refusal": "I would rather not."},
    ]


def test_a_refusal_after_text_opens_the_next_part(story: Story) -> None:
    story.model.says([Say("Well. "), Refuse("No.")])

    stream = story.stream_run(story.thread("Do it"))

    assert [delta["delta"]["content"][0]["index"] for delta in stream.every("thread.message.delta")] == [0, 1]
    assert [part["type"] for part in stream.data("thread.message.completed")["content"]] == ["text", "refusal"]


def test_an_empty_answer_is_a_message_all_the_same(story: Story) -> None:
    story.model.says([Finish("stop")])

    stream = story.stream_run(story.thread("Hi"))

    assert stream.names() == names_of(CREATED, text_of(1), "thread.run.completed", "done")
    assert stream.data("thread.message.completed")["content"] == [
        {"type": "text", "text": {"value": "", "annotations": []}}
    ]


def test_thoughts_are_no_part_of_the_answer(story: Story) -> None:
    story.model.says([Think("Hm. "), Say("Yes.")])

    stream = story.stream_run(story.thread("Hi"))

    assert stream.text == "Yes."


def test_the_conversation_is_remembered(story: Story) -> None:
    story.model.says(Say("Hello Ada."), Say("Your name is Ada."))
    story.assistant(instructions="Be kind.")
    thread = story.thread("My name is Ada.")

    story.stream_run(thread)
    story.post(f"{thread}/messages", {"role": "user", "content": "What is my name?"})
    story.stream_run(thread)

    assert story.model.requests[1]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "What is my name?"},
    ]


def test_the_offline_model_remembers_too(story: Story) -> None:
    story.assistant(model="offline")
    thread = story.thread("My name is Ada.")
    story.stream_run(thread)

    story.post(f"{thread}/messages", {"role": "user", "content": "What is my name?"})
    stream = story.stream_run(thread)

    assert stream.text == "Your name is Ada."


@pytest.mark.parametrize("leaves_after", ["thread.run.created", "thread.message.delta"])
def test_a_client_that_leaves_does_not_stop_the_run(story: Story, leaves_after: str) -> None:
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
    thread = story.thread("Hi")
    with story.streaming_run(thread) as stream:
        stream.until(leaves_after)
        run_path = stream.run_path

    gate.wait_reached()
    gate.release()

    assert story.until(run_path)["status"] == "completed"
    assert story.texts(thread)[-1] == ("assistant", "Hello")


def test_a_message_shows_its_beginning_while_it_is_written(story: Story) -> None:
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta")
        message = story.messages(thread)[-1]
        gate.release()
        stream.rest()

    assert message["status"] == "in_progress"
    assert stream.names()[3:7] == [*MESSAGE]
