"""A run whose model writes code: the steps, the events, and what the model is told."""

import json
from typing import Any

import pytest

from tests.support.stories import CREATED, FUNCTION, STEP, Story, Stream, call_ids, names_of, text_of
from threadkeep.upstream.scripted import Call, Say, Usage


def code(text: str, *, fragments: int = 3) -> Call:
    return Call("code_interpreter", {"code": text}, fragments=fragments)


def logs_of(step: Any) -> str:
    [call] = step["step_details"]["tool_calls"]
    return "".join(output["logs"] for output in call["code_interpreter"]["outputs"] if output["type"] == "logs")


def grown(stream: Stream) -> list[dict[str, Any]]:
    """What the SDKs make of the deltas of the only tool step."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in stream.every("thread.run.step.delta"):
        for entry in delta["delta"]["step_details"]["tool_calls"]:
            call = calls.setdefault(entry["index"], {"type": entry["type"], "input": "", "outputs": {}})
            if "id" in entry:
                assert "id" not in call
                call["id"] = entry["id"]
            call["input"] += entry["code_interpreter"].get("input", "")
            for output in entry["code_interpreter"].get("outputs", []):
                if output["type"] == "logs":
                    kept = call["outputs"].setdefault(output["index"], {"type": "logs", "logs": ""})
                    kept["logs"] += output["logs"]
                else:
                    assert output["index"] not in call["outputs"]
                    call["outputs"][output["index"]] = {"type": "image", "image": output["image"]}
    return [
        {
            "id": call["id"],
            "type": call["type"],
            "code_interpreter": {
                "input": call["input"],
                "outputs": [output for _, output in sorted(call["outputs"].items())],
            },
        }
        for _, call in sorted(calls.items())
    ]


def test_code_is_written_run_and_answered(coder_on_both: Story) -> None:
    story = coder_on_both
    story.model.says(
        [code("print('openaichatgpt'[::-1])"), Usage(20, 5)], [Say("It is ", "tpgtahcianepo."), Usage(40, 3)]
    )

    stream = story.stream_run(story.thread('Reverse the string "openaichatgpt".'))

    step, answer = stream.every("thread.run.step.completed")
    [call] = step["step_details"]["tool_calls"]
    assert call["code_interpreter"]["input"] == "print('openaichatgpt'[::-1])"
    assert logs_of(step) == "tpgtahcianepo\n"
    assert (step["usage"]["total_tokens"], answer["usage"]["total_tokens"]) == (25, 43)
    assert stream.run["status"] == "completed"
    assert stream.run["usage"]["total_tokens"] == 68
    assert stream.text == "It is tpgtahcianepo."
    names = stream.names()
    deltas = names.count("thread.run.step.delta")
    assert names == names_of(
        CREATED,
        STEP,
        ["thread.run.step.delta"] * deltas,
        "thread.run.step.completed",
        text_of(2),
        "thread.run.completed",
        "done",
    )


def test_what_the_deltas_add_up_to_is_the_step(coder: Story) -> None:
    coder.model.says(code("import time\nprint('one')\ntime.sleep(0.2)\nprint('two')\n6 * 7", fragments=5), Say("Done."))

    stream = coder.stream_run(coder.thread("Go."))

    step = stream.every("thread.run.step.completed")[0]
    assert grown(stream) == step["step_details"]["tool_calls"]
    assert coder.get(f"{stream.run_path}/steps/{step['id']}") == step
    assert logs_of(step) == "one\ntwo\n42\n" or logs_of(step) == "one\ntwo\n42"
    first = stream.every("thread.run.step.delta")[0]["delta"]["step_details"]["tool_calls"][0]
    assert first["code_interpreter"] == {"input": "", "outputs": []}


def test_the_model_reads_what_its_code_said(coder: Story) -> None:
    coder.model.says(code("print(6 * 7)"), Say("42."))

    coder.stream_run(coder.thread("6 times 7?"))

    _, asked, told = coder.model.requests[1]["messages"]
    [call] = asked["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
        "code_interpreter",
        {"code": "print(6 * 7)"},
    )
    assert told == {"role": "tool", "tool_call_id": call["id"], "content": "42\n"}


def test_the_model_is_offered_one_function_for_code(coder: Story) -> None:
    coder.model.says(Say("No need."))

    coder.stream_run(coder.thread("Hello."))

    [tool] = coder.model.asked["tools"]
    assert tool["function"]["name"] == "code_interpreter"
    assert tool["function"]["parameters"]["required"] == ["code"]
    assert "/mnt/data" in tool["function"]["description"]


def test_a_traceback_is_the_models_to_repair(coder: Story) -> None:
    coder.model.says(code("1 / 0"), code("1 / 4"), Say("A quarter."))

    stream = coder.stream_run(coder.thread("Divide."))

    first, second, _ = coder.steps(stream.run_path)
    assert "ZeroDivisionError" in logs_of(first)
    assert "\x1b" not in logs_of(first)
    assert "0.25" in logs_of(second)
    assert [step["status"] for step in (first, second)] == ["completed", "completed"]
    assert "ZeroDivisionError" in coder.model.requests[1]["messages"][-1]["content"]
    assert stream.run["status"] == "completed"


def test_variables_stay_from_call_to_call_and_from_run_to_run(coder: Story) -> None:
    thread = coder.thread("Count.")
    coder.model.says(code("n = 20"), code("n += 1"), Say("Counted."))
    coder.stream_run(thread)

    coder.model.says(code("print(2 * n)"), Say("42."))
    stream = coder.stream_run(thread)

    assert logs_of(coder.steps(stream.run_path)[0]) == "42\n"


def test_calls_of_one_reply_stand_in_one_step_and_share_the_session(coder: Story) -> None:
    coder.model.says([code("a = 40"), code("print(a + 2)")], Say("42."))

    stream = coder.stream_run(coder.thread("Both."))

    step, _ = coder.steps(stream.run_path)
    first, second = step["step_details"]["tool_calls"]
    assert first["code_interpreter"]["outputs"] == []
    assert second["code_interpreter"]["outputs"] == [{"type": "logs", "logs": "42\n"}]
    assert grown(stream) == step["step_details"]["tool_calls"]


def test_code_beside_a_function_runs_and_only_the_function_waits_for_the_client(coder: Story) -> None:
    coder.assistant(tools=[{"type": "code_interpreter"}, FUNCTION])
    coder.model.says([code("print('ran')"), Call("get_weather", {"city": "Oslo"})], Say("Sunny."))

    asked = coder.stream_run(coder.thread("Both."))

    [waiting] = call_ids(asked.run)
    [step] = coder.steps(asked.run_path)
    ran, function = step["step_details"]["tool_calls"]
    assert ran["code_interpreter"]["outputs"] == [{"type": "logs", "logs": "ran\n"}]
    assert (function["id"], function["function"]["output"]) == (waiting, None)
    stream = coder.stream_outputs(asked.run_path, {waiting: "sun"})
    assert stream.run["status"] == "completed"
    [step, _] = coder.steps(asked.run_path)
    assert [call["type"] for call in step["step_details"]["tool_calls"]] == ["code_interpreter", "function"]
    assert [message["content"] for message in coder.model.requests[1]["messages"][-2:]] == ["ran\n", "sun"]


def test_text_ahead_of_code_is_a_message_of_its_own(coder: Story) -> None:
    coder.model.says([Say("Let me compute."), code("print(1)")], Say("One."))

    stream = coder.stream_run(coder.thread("Go."))

    assert [step["type"] for step in coder.steps(stream.run_path)] == [
        "message_creation",
        "tool_calls",
        "message_creation",
    ]
    assert stream.text == "Let me compute.One."
    # Some model servers refuse a reply that is told apart: what it said and what it called are one.
    assert coder.model.requests[1]["messages"][1]["content"] == "Let me compute."


@pytest.mark.parametrize(
    "arguments",
    [
        '{"code": "print(42)"',
        "print(42)",
        "{'code': 'print(42)'}",
        "```python\nprint(42)\n```",
        '{"code": "x = 42\nprint(x)"}',
        '{"input": "print(42)"}',
    ],
)
def test_broken_arguments_around_code_are_read(coder: Story, arguments: str) -> None:
    coder.model.says(Call("code_interpreter", arguments), Say("42."))

    stream = coder.stream_run(coder.thread("Go."))

    step = coder.steps(stream.run_path)[0]
    assert "42" in logs_of(step)
    assert grown(stream) == step["step_details"]["tool_calls"]


def test_a_call_without_code_is_the_models_to_repair(coder: Story) -> None:
    coder.model.says(Call("code_interpreter", {}), code("print(1)"), Say("One."))

    stream = coder.stream_run(coder.thread("Go."))

    assert stream.run["status"] == "completed"
    assert "code" in coder.model.requests[1]["messages"][-1]["content"]


def test_a_cancel_stops_the_code_within_moments(coder: Story) -> None:
    coder.model.says(code("import time\nprint('begun', flush=True)\nwhile True:\n    pass"))
    thread = coder.thread("Loop.")

    with coder.streaming_run(thread) as stream:
        while '"logs": "begun' not in json.dumps(stream.every("thread.run.step.delta")):
            stream.until("thread.run.step.delta", count=len(stream.every("thread.run.step.delta")) + 1)
        cancelling = coder.post(f"{stream.run_path}/cancel")
        assert cancelling["status"] == "cancelling"
        stream.rest()

    assert stream.run["status"] == "cancelled"
    assert stream.run["cancelled_at"] - cancelling["created_at"] < 60
    [step] = coder.steps(stream.run_path)
    assert step["status"] == "cancelled"
    # What was told of it stays.
    assert grown(stream) == step["step_details"]["tool_calls"]
    assert logs_of(step).startswith("begun\n")
    # The thread goes on.
    coder.model.says(code("print('again')"), Say("Yes."))
    assert "again" in logs_of(coder.steps(coder.stream_run(thread).run_path)[0])


def test_a_model_that_only_ever_calls_tools_is_stopped(coder: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threadkeep.runs.execution.MAX_TOOL_STEPS", 3)
    coder.model.says(*[code("print('again')")] * 4)

    stream = coder.stream_run(coder.thread("Go."))

    assert stream.run["status"] == "failed"
    assert stream.run["last_error"] == {
        "code": "server_error",
        "message": "The model called tools 3 times and came to no answer.",
    }


def test_a_function_of_the_clients_keeps_its_name_beside_the_tool(coder: Story) -> None:
    own = {"type": "function", "function": {"name": "code_interpreter", "parameters": {"type": "object"}}}
    coder.assistant(tools=[own, {"type": "code_interpreter"}])
    coder.model.says(Call("code_interpreter_", {"code": "print(1)"}), Call("code_interpreter", {"a": 1}))

    stream = coder.stream_run(coder.thread("Both."), tool_choice={"type": "code_interpreter"})

    assert [tool["function"]["name"] for tool in coder.model.requests[0]["tools"]] == [
        "code_interpreter",
        "code_interpreter_",
    ]
    assert coder.model.requests[0]["tool_choice"]["function"] == {"name": "code_interpreter_"}
    assert stream.run["status"] == "requires_action"
    assert coder.model.requests[1]["messages"][1]["tool_calls"][0]["function"]["name"] == "code_interpreter_"
    assert logs_of(coder.steps(stream.run_path)[0]) == "1\n"


def test_a_model_that_calls_python_means_the_tool(coder: Story) -> None:
    coder.model.says(Call("python", "print(42)"), Say("42."))

    stream = coder.stream_run(coder.thread("Go."))

    assert logs_of(coder.steps(stream.run_path)[0]) == "42\n"
