"""Function calling: requires_action, submitToolOutputs, and the events on both sides of the wait."""

import json
from typing import Any

import pytest

from tests.support.stories import CREATED, FUNCTION, STEP, Story, call_ids, calls_of, names_of, text_of
from threadkeep.upstream.scripted import Call, Finish, Refuse, Say, Usage

OSLO = Call("get_weather", {"city": "Oslo"}, fragments=3)
ROME = Call("get_weather", {"city": "Rome"}, fragments=2)
GOES_ON = ("thread.run.queued", "thread.run.in_progress")


@pytest.fixture(autouse=True)
def _with_a_function(story: Story) -> None:
    story.assistant(tools=[FUNCTION])


def test_a_call_ends_the_stream_at_requires_action(story: Story) -> None:
    story.model.says([OSLO, Usage(20, 5)])

    stream = story.stream_run(story.thread("Weather in Oslo?"))

    assert stream.names() == names_of(CREATED, calls_of(1 + 3))
    run = stream.data("thread.run.requires_action")
    assert (run["status"], run["usage"], run["completed_at"]) == ("requires_action", None, None)
    assert run["expires_at"] == run["created_at"] + 600
    [call_id] = call_ids(run)
    assert run["required_action"] == {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {
            "tool_calls": [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'},
                }
            ]
        },
    }
    assert call_id.startswith("call_")


def test_the_deltas_of_a_call_say_id_and_name_once(story: Story) -> None:
    story.model.says(OSLO)

    stream = story.stream_run(story.thread("Weather in Oslo?"))

    step = stream.data("thread.run.step.created")
    assert (step["type"], step["status"], step["usage"]) == ("tool_calls", "in_progress", None)
    assert step["step_details"] == {"type": "tool_calls", "tool_calls": []}
    deltas = stream.every("thread.run.step.delta")
    assert {delta["id"] for delta in deltas} == {step["id"]}
    first, *rest = [delta["delta"]["step_details"]["tool_calls"] for delta in deltas]
    [call_id] = call_ids(stream.run)
    assert first == [
        {
            "index": 0,
            "id": call_id,
            "type": "function",
            "function": {"name": "get_weather", "arguments": "", "output": None},
        }
    ]
    assert rest == [
        [{"index": 0, "type": "function", "function": {"arguments": piece}}] for piece in ('{"city', '": "Os', 'lo"}')
    ]


def test_a_step_that_waits_is_in_progress_and_shows_no_usage(story: Story) -> None:
    story.model.says([OSLO, Usage(20, 5)])

    stream = story.stream_run(story.thread("Weather in Oslo?"))

    [step] = story.steps(stream.run_path)
    assert (step["status"], step["completed_at"], step["usage"]) == ("in_progress", None, None)
    [call] = step["step_details"]["tool_calls"]
    assert call["id"] == call_ids(stream.run)[0]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Oslo"}', "output": None}
    assert story.get(f"{stream.run_path}/steps/{step['id']}") == step


def test_outputs_submitted_with_stream_complete_the_step_and_go_on(story: Story) -> None:
    story.model.says([OSLO, Usage(20, 5)], [Say("Sunny", "."), Usage(30, 2)])
    asked = story.stream_run(story.thread("Weather in Oslo?"))
    [call_id] = call_ids(asked.run)

    stream = story.stream_outputs(asked.run_path, {call_id: "sunny"})

    assert stream.names() == names_of("thread.run.step.completed", GOES_ON, text_of(2), "thread.run.completed", "done")
    step = stream.every("thread.run.step.completed")[0]
    assert step["id"] == asked.data("thread.run.step.created")["id"]
    assert step["completed_at"] is not None
    assert step["usage"]["total_tokens"] == 25
    assert step["step_details"]["tool_calls"] == [
        {
            "id": call_id,
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}', "output": "sunny"},
        }
    ]
    queued = stream.data("thread.run.queued")
    assert (queued["status"], queued["required_action"]) == ("queued", None)
    assert queued["expires_at"] == asked.run["expires_at"]
    assert stream.data("thread.run.in_progress")["started_at"] >= asked.run["started_at"]


def test_the_outputs_reach_the_model_after_its_calls(story: Story) -> None:
    story.model.says([OSLO, ROME], Say("Both fine."))
    asked = story.stream_run(story.thread("Weather?"))
    oslo, rome = call_ids(asked.run)

    story.stream_outputs(asked.run_path, {rome: "rain", oslo: "sun"})

    assert story.model.requests[1]["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "id": oslo, "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}},
                {"type": "function", "id": rome, "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": oslo, "content": "sun"},
        {"role": "tool", "tool_call_id": rome, "content": "rain"},
    ]


def test_parallel_calls_stand_in_one_step(story: Story) -> None:
    story.model.says([OSLO, ROME])

    stream = story.stream_run(story.thread("Weather?"))

    assert stream.names() == names_of(CREATED, calls_of(1 + 3 + 1 + 2))
    deltas = [delta["delta"]["step_details"]["tool_calls"][0] for delta in stream.every("thread.run.step.delta")]
    assert [delta["index"] for delta in deltas] == [0, 0, 0, 0, 1, 1, 1]
    assert [delta["id"] for delta in deltas if "id" in delta] == call_ids(stream.run)
    [step] = story.steps(stream.run_path)
    arguments = [json.loads(call["function"]["arguments"]) for call in step["step_details"]["tool_calls"]]
    assert arguments == [{"city": "Oslo"}, {"city": "Rome"}]


def test_several_rounds_are_one_run(story: Story) -> None:
    story.model.says([OSLO, Usage(10, 1)], [ROME, Usage(20, 2)], [Say("Both."), Usage(30, 3)])
    first = story.stream_run(story.thread("Weather?"))

    second = story.stream_outputs(first.run_path, dict.fromkeys(call_ids(first.run), "sun"))
    third = story.stream_outputs(first.run_path, dict.fromkeys(call_ids(second.run), "rain"))

    assert second.names() == names_of("thread.run.step.completed", GOES_ON, calls_of(1 + 2))
    assert third.names() == names_of("thread.run.step.completed", GOES_ON, text_of(1), "thread.run.completed", "done")
    steps = story.steps(first.run_path)
    assert [step["type"] for step in steps] == ["tool_calls", "tool_calls", "message_creation"]
    assert [step["usage"]["total_tokens"] for step in steps] == [11, 22, 33]
    assert third.run["usage"]["total_tokens"] == 66
    assert third.run["usage"]["prompt_tokens"] == 60
    # All that the run did so far is said to the model, in order.
    assert [message["role"] for message in story.model.requests[2]["messages"]] == [
        *("user", "assistant", "tool", "assistant", "tool"),
    ]


def test_text_ahead_of_calls_is_a_message_of_its_own(story: Story) -> None:
    story.model.says([Say("Let me ", "look."), OSLO, Usage(20, 5)], Say("Sunny."))

    asked = story.stream_run(story.thread("Weather in Oslo?"))
    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert asked.names() == names_of(CREATED, text_of(2), calls_of(1 + 3))
    assert stream.names() == names_of("thread.run.step.completed", GOES_ON, text_of(1), "thread.run.completed", "done")
    # The model hears it as the one reply that it was.
    ahead, after = story.model.requests[1]["messages"][1:]
    assert (ahead["content"], len(ahead["tool_calls"]), after["role"]) == ("Let me look.", 1, "tool")
    assert [
        message["content"][0]["text"]["value"] for message in story.messages(f"/threads/{asked.run['thread_id']}")
    ] == [
        *("Weather in Oslo?", "Let me look.", "Sunny."),
    ]


def test_text_after_calls_is_complete_before_the_run_waits(story: Story) -> None:
    story.model.says([OSLO, Say("One moment.")], Say("Sunny."))

    asked = story.stream_run(story.thread("Weather in Oslo?"))

    assert asked.names() == names_of(
        CREATED, STEP, ["thread.run.step.delta"] * 4, text_of(1), "thread.run.requires_action", "done"
    )
    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))
    assert stream.run["status"] == "completed"


def test_polled_outputs_are_answered_with_the_queued_run(story: Story) -> None:
    story.model.says(OSLO, Say("Sunny."))
    run = story.run_to_end(thread := story.thread("Weather in Oslo?"))
    run_path = f"{thread}/runs/{run['id']}"

    answered = story.submit(run_path, dict.fromkeys(call_ids(run), "sun"))

    assert (answered["status"], answered["required_action"]) == ("queued", None)
    assert story.until(run_path)["status"] == "completed"
    assert story.texts(thread)[-1] == ("assistant", "Sunny.")


def test_a_call_without_arguments_has_an_empty_object(story: Story) -> None:
    story.model.says(Call("get_weather", ""))

    run = story.run_to_end(story.thread("Weather?"))

    assert run["required_action"]["submit_tool_outputs"]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_arguments_that_are_no_json_reach_the_client_as_they_are(story: Story) -> None:
    story.model.says(Call("get_weather", '{"city": '))

    run = story.run_to_end(story.thread("Weather?"))

    assert run["required_action"]["submit_tool_outputs"]["tool_calls"][0]["function"]["arguments"] == '{"city": '


def test_an_output_may_be_left_out_or_empty(story: Story) -> None:
    story.model.says([OSLO, ROME], Say("Fine."))
    run = story.run_to_end(thread := story.thread("Weather?"))
    oslo, rome = call_ids(run)
    run_path = f"{thread}/runs/{run['id']}"

    story.post(
        f"{run_path}/submit_tool_outputs",
        {"tool_outputs": [{"tool_call_id": oslo}, {"tool_call_id": rome, "output": ""}]},
    )

    assert story.until(run_path)["status"] == "completed"
    calls = story.steps(run_path)[0]["step_details"]["tool_calls"]
    assert [call["function"]["output"] for call in calls] == ["", ""]


class TestRefusedOutputs:
    @pytest.fixture
    def waiting(self, story: Story) -> Any:
        story.model.says([OSLO, ROME], Say("Fine."))
        return story.stream_run(story.thread("Weather?")).run

    def refusal(self, story: Story, run: Any, ids: list[str]) -> tuple[int, str]:
        outputs = [{"tool_call_id": call_id, "output": "sun"} for call_id in ids]
        return story.refused(
            f"/threads/{run['thread_id']}/runs/{run['id']}/submit_tool_outputs", {"tool_outputs": outputs}
        )

    def test_and_the_refusal_repeats_only_so_much(self, story: Story, waiting: Any) -> None:
        status, message = self.refusal(story, waiting, ["x" * 1_000_000])

        assert status == 400
        assert len(message) < 11_000

    def test_when_one_is_missing(self, story: Story, waiting: Any) -> None:
        oslo, rome = call_ids(waiting)

        expected = f"Expected tool outputs for call_ids ['{oslo}', '{rome}'], got ['{oslo}']"
        assert self.refusal(story, waiting, [oslo]) == (400, expected)

    def test_when_one_is_of_no_call(self, story: Story, waiting: Any) -> None:
        oslo, rome = call_ids(waiting)

        status, message = self.refusal(story, waiting, [oslo, rome, "call_unknown"])

        assert (status, message[-len(", 'call_unknown']") :]) == (400, ", 'call_unknown']")

    def test_when_one_is_given_twice(self, story: Story, waiting: Any) -> None:
        oslo, rome = call_ids(waiting)

        status, message = self.refusal(story, waiting, [oslo, rome, rome])

        assert (status, message.count(rome)) == (400, 3)

    def test_and_the_run_waits_on(self, story: Story, waiting: Any) -> None:
        run_path = f"/threads/{waiting['thread_id']}/runs/{waiting['id']}"
        self.refusal(story, waiting, [])

        assert story.get(run_path) == waiting
        story.submit(run_path, dict.fromkeys(call_ids(waiting), "sun"))
        assert story.until(run_path)["status"] == "completed"

    def test_when_they_were_given_already(self, story: Story, waiting: Any) -> None:
        run_path = f"/threads/{waiting['thread_id']}/runs/{waiting['id']}"
        story.submit(run_path, dict.fromkeys(call_ids(waiting), "sun"))
        story.until(run_path)

        assert self.refusal(story, waiting, call_ids(waiting)) == (
            400,
            'Runs in status "completed" do not accept tool outputs.',
        )


def test_a_required_call_is_required_once(story: Story) -> None:
    story.model.says(OSLO, Say("Sunny."))
    asked = story.stream_run(story.thread("Weather?"), tool_choice="required")

    story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert story.model.requests[0]["tool_choice"] == "required"
    assert "tool_choice" not in story.model.requests[1]
    assert story.model.requests[1]["tools"] == story.model.requests[0]["tools"]


def test_a_named_call_is_required_once(story: Story) -> None:
    story.model.says(OSLO, Say("Sunny."))
    named = {"type": "function", "function": {"name": "get_weather"}}
    asked = story.stream_run(story.thread("Weather?"), tool_choice=named)

    story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert asked.run["tool_choice"] == named
    assert story.model.requests[0]["tool_choice"] == named
    assert "tool_choice" not in story.model.requests[1]


def test_a_call_cut_short_ends_the_run_incomplete(story: Story) -> None:
    story.model.says([Call("get_weather", '{"city": "Os', fragments=1), Finish("length")])

    stream = story.stream_run(story.thread("Weather?"))

    assert stream.names() == names_of(
        CREATED, STEP, ["thread.run.step.delta"] * 2, "thread.run.step.completed", "thread.run.incomplete", "done"
    )
    assert stream.run["incomplete_details"] == {"reason": "max_completion_tokens"}


def test_a_refusal_may_follow_the_outputs(story: Story) -> None:
    story.model.says(OSLO, Refuse("No."))
    asked = story.stream_run(story.thread("Weather?"))

    stream = story.stream_outputs(asked.run_path, dict.fromkeys(call_ids(asked.run), "sun"))

    assert stream.data("thread.message.completed")["content"] == [{"type": "refusal", "refusal": "No."}]


class TestHostedTools:
    @pytest.mark.parametrize("kind", ["code_interpreter", "file_search"])
    def test_an_assistant_with_one_answers_plain_questions(self, story: Story, kind: str) -> None:
        story.assistant(tools=[{"type": kind}, FUNCTION])
        story.model.says(Say("Four."))

        stream = story.stream_run(story.thread("2 + 2?"))

        assert stream.names() == names_of(CREATED, text_of(1), "thread.run.completed", "done")
        assert [tool["function"]["name"] for tool in story.model.asked["tools"]] == [kind, "get_weather"]

    @pytest.mark.parametrize(
        ("kind", "why"),
        [("code_interpreter", "The code interpreter is off: "), ("file_search", "it keeps no vector stores")],
    )
    def test_a_call_of_one_that_is_off_fails_the_run_and_says_why(self, story: Story, kind: str, why: str) -> None:
        story.assistant(tools=[{"type": kind}])
        story.model.says([Call(kind, {"code": "2 + 2"}), Usage(20, 5)])

        stream = story.stream_run(story.thread("2 + 2?"))

        assert list(dict.fromkeys(stream.names())) == names_of(
            CREATED, STEP, "thread.run.step.delta", "thread.run.step.failed", "thread.run.failed", "done"
        )
        error = stream.run["last_error"]
        assert error["code"] == "server_error"
        assert why in error["message"]
        assert stream.data("thread.run.step.failed")["last_error"] == error
        # The model was asked, whatever came of it.
        assert stream.data("thread.run.step.failed")["usage"]["total_tokens"] == 25
        assert stream.run["usage"]["total_tokens"] == 25

    def test_the_offline_model_calls_one_when_told(self, story: Story) -> None:
        story.assistant(model="offline", tools=[{"type": "code_interpreter"}])

        run = story.run_to_end(story.thread('call code_interpreter {"code": "1"}'))

        assert run["status"] == "failed"
        assert "The code interpreter is off" in run["last_error"]["message"]

    def test_a_hosted_tool_may_be_required_by_name(self, story: Story) -> None:
        story.assistant(tools=[{"type": "file_search"}])
        story.model.says(Say("Nothing found."))

        story.run_to_end(story.thread("Find it"), tool_choice={"type": "file_search"})

        assert story.model.asked["tool_choice"] == {"type": "function", "function": {"name": "file_search"}}
