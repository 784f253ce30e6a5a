"""Runs and their steps in the first beta, polled and streamed."""

from typing import Any

import pytest

from tests.support.stories import CREATED, FUNCTION, call_ids, calls_of, names_of, text_of
from tests.v1.conftest import StoryV1
from threadkeep.upstream.scripted import Call, Finish, Gate, Refuse, Say, Usage

RETRIEVAL = {"type": "retrieval"}
CODE = {"type": "code_interpreter"}
WEATHER = Call("get_weather", {"city": "Oslo"}, fragments=2)
USAGE = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}


def test_a_run_is_the_first_betas_object(story: StoryV1) -> None:
    story.model.says([Say("Hello"), Usage(20, 5, cached_tokens=3)])
    assistant = story.assistant(tools=[CODE, RETRIEVAL], file_ids=["file-a", "file-b"], instructions="Be kind.")
    thread = story.thread("Hi")

    run = story.run_to_end(thread, metadata={"a": True}, additional_instructions="And brief.", temperature=0.5)

    for name in ("id", "created_at", "started_at", "completed_at"):
        assert run.pop(name), name
    assert run == {
        "object": "thread.run",
        "thread_id": thread.removeprefix("/threads/"),
        "assistant_id": assistant,
        "status": "completed",
        "required_action": None,
        "last_error": None,
        "expires_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "incomplete_details": None,
        "model": story.model.name,
        "instructions": "Be kind.\n\nAnd brief.",
        "tools": [CODE, RETRIEVAL],
        "file_ids": ["file-a", "file-b"],
        "metadata": {"a": "true"},
        "usage": USAGE,
        "temperature": 0.5,
        "top_p": 1.0,
        "max_prompt_tokens": None,
        "max_completion_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "tool_choice": "auto",
        "response_format": "auto",
    }


def test_a_step_is_the_first_betas_object(story: StoryV1) -> None:
    story.model.says([Say("Hello"), Usage(20, 5)])
    thread = story.thread("Hi")
    run = story.run_to_end(thread)

    [step] = story.steps(f"{thread}/runs/{run['id']}")

    assert story.get(f"{thread}/runs/{run['id']}/steps/{step['id']}") == step
    for name in ("id", "created_at", "completed_at"):
        assert step.pop(name), name
    [_, message] = story.messages(thread)
    assert step == {
        "object": "thread.run.step",
        "assistant_id": run["assistant_id"],
        "thread_id": run["thread_id"],
        "run_id": run["id"],
        "type": "message_creation",
        "status": "completed",
        "step_details": {"type": "message_creation", "message_creation": {"message_id": message["id"]}},
        "last_error": None,
        "expired_at": None,
        "cancelled_at": None,
        "failed_at": None,
        "metadata": {},
        "usage": USAGE,
    }


def test_an_answer_streams_in_the_first_betas_words(story: StoryV1) -> None:
    story.model.says(Say("Hel", "lo"))
    story.assistant(tools=[RETRIEVAL], file_ids=["file-a"])

    stream = story.stream_run(story.thread("Hi"))

    assert stream.names() == names_of(CREATED, text_of(2), "thread.run.completed", "done")
    assert stream.run == story.get(stream.run_path)
    assert stream.run["file_ids"] == ["file-a"]
    assert stream.run["tools"] == [RETRIEVAL]
    message = stream.data("thread.message.completed")
    assert message["file_ids"] == []
    assert message["content"][0]["text"]["value"] == stream.text == "Hello"


def test_a_thread_and_a_run_stream_together(story: StoryV1) -> None:
    story.model.says(Say("Hello"))
    thread = {"messages": [{"role": "user", "content": "Hi", "file_ids": ["file-a"]}], "metadata": {"a": 1}}
    body: dict[str, object] = {"assistant_id": story.assistant(), "thread": thread}

    with story.streaming("/threads/runs", body) as stream:
        stream.rest()

    created = stream.data("thread.created")
    assert sorted(created) == ["created_at", "id", "metadata", "object"]
    assert stream.names()[-2:] == ["thread.run.completed", "done"]
    [message, _] = story.messages(f"/threads/{created['id']}")
    assert message["file_ids"] == ["file-a"]


def test_functions_are_called_and_answered(story: StoryV1) -> None:
    story.model.says(WEATHER)
    story.model.says(Say("Rain"))
    story.assistant(tools=[FUNCTION])

    waiting = story.stream_run(story.thread("Weather in Oslo?"))
    [call_id] = call_ids(waiting.run)
    ended = story.stream_outputs(waiting.run_path, {call_id: "rain"})

    assert waiting.names() == names_of(CREATED, calls_of(3))
    assert ended.names()[-2:] == ["thread.run.completed", "done"]
    [call] = ended.every("thread.run.step.completed")[0]["step_details"]["tool_calls"]
    assert (call["type"], call["function"]["output"]) == ("function", "rain")


def test_a_run_that_is_cut_short_is_a_completed_one_with_details(story: StoryV1) -> None:
    """Clients of the first beta wait for an end that they know; "incomplete" is none."""
    story.model.says([Say("Hel"), Finish("length")])
    thread = story.thread("Hi")

    stream = story.stream_run(thread, max_completion_tokens=256)

    assert stream.names()[-2:] == ["thread.run.completed", "done"]
    for run in (stream.run, story.get(stream.run_path), story.get(f"{thread}/runs")["data"][0]):
        assert run["status"] == "completed"
        assert run["incomplete_details"] == {"reason": "max_completion_tokens"}
    assert story.messages(thread)[-1]["status"] == "incomplete"


def test_a_refusal_is_told_as_text(story: StoryV1) -> None:
    story.model.says(Refuse("I would rather not."))
    thread = story.thread("Hi")

    stream = story.stream_run(thread)

    assert stream.text == "I would rather not."
    [part] = story.messages(thread)[-1]["content"]
    assert part == {"type": "text", "text": {"value": "I would rather not.", "annotations": []}}


@pytest.mark.parametrize("kind", ["code_interpreter", "retrieval"])
def test_a_hosted_tool_can_be_chosen(story: StoryV1, kind: str) -> None:
    story.model.says(Say("Hello"))
    story.assistant(tools=[{"type": kind}])

    run = story.run_to_end(story.thread("Hi"), tool_choice={"type": kind})

    assert run["tool_choice"] == {"type": kind}


def test_a_run_of_the_second_beta_reads_sensibly(story: StoryV1) -> None:
    story.model.says(Say("{}"))
    thread = story.thread("Hi")
    assistant = story.assistant(tools=[FUNCTION])
    settings: dict[str, Any] = {
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
    }
    with story.server.client(story.key) as v2:
        body = {"assistant_id": assistant, **settings}
        run_id = v2.post(f"{thread}/runs", json=body).json()["id"]

    run = story.until(f"{thread}/runs/{run_id}")

    assert run["tool_choice"] == "auto"
    assert run["response_format"] == {"type": "json_object"}
    assert "parallel_tool_calls" not in run


def test_a_run_is_modified_listed_and_cancelled(story: StoryV1) -> None:
    story.model.says(WEATHER)
    story.assistant(tools=[FUNCTION])
    thread = story.thread("Weather?")
    run = story.run_to_end(thread)
    path = f"{thread}/runs/{run['id']}"

    modified = story.post(path, {"metadata": {"a": 4.5}})
    cancelled = story.post(f"{path}/cancel")

    assert modified == {**run, "metadata": {"a": "4.5"}}
    assert cancelled["status"] == "cancelling"
    assert story.until(path, "cancelled") == story.get(f"{thread}/runs")["data"][0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parallel_tool_calls": True}, "Unknown parameter: 'parallel_tool_calls'."),
        ({"reasoning_effort": "low"}, "Unknown parameter: 'reasoning_effort'."),
        ({"file_ids": []}, "Unknown parameter: 'file_ids'."),
        ({"tool_choice": "required"}, "Invalid value: 'required'. Supported values are: 'none' and 'auto'."),
        (
            {"tool_choice": {"type": "file_search"}},
            "Invalid value: 'file_search'. Supported values are: 'function', 'code_interpreter', and 'retrieval'.",
        ),
        ({"tool_choice": {"type": "function"}}, "Missing required parameter: 'tool_choice.function'."),
        (
            {"tools": [{"type": "file_search"}]},
            "Invalid value: 'file_search'. Supported values are: 'code_interpreter', 'retrieval', and 'function'.",
        ),
        (
            {"tools": [RETRIEVAL] * 21},
            (
                "Invalid 'tools': array too long. Expected an array with maximum length 20, but got an array with "
                "length 21 instead."
            ),
        ),
    ],
)
def test_runs_refuse_what_is_not_of_the_first_beta(story: StoryV1, fields: dict[str, object], message: str) -> None:
    assert story.refused_run(story.thread("Hi"), **fields) == (400, message)


def test_a_refusal_from_below_names_what_the_client_sent(story: StoryV1) -> None:
    thread = story.thread("Hi")
    for number in range(0, 20, 10):
        story.post(
            f"{thread}/messages",
            {"role": "user", "content": "x", "file_ids": [f"file-{number + each}" for each in range(10)]},
        )

    answer = story.http.post(
        f"{thread}/messages", json={"role": "user", "content": "x", "file_ids": ["file-one-too-many"]}
    )

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "file_ids")
    assert "attachments" not in error["message"]


def test_a_busy_thread_takes_what_is_enqueued(story: StoryV1) -> None:
    story.model.says([gate := Gate(), Say("Hello")], Say("Fine"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    message = story.post(f"{thread}/messages", {"role": "user", "content": "How are you?", "if_active": "enqueue"})
    run = story.create_run(thread, if_active="enqueue")

    assert (message["file_ids"], "if_active" in message, "if_active" in run) == ([], False, False)
    gate.release()
    assert story.until(f"{thread}/runs/{run['id']}")["status"] == "completed"
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello", "How are you?", "Fine"]
