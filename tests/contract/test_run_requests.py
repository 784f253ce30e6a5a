"""What a run asks the model: every setting of the request, of the assistant under it, and the echo on the run."""

from typing import Any

import pytest

from tests.support.stories import FUNCTION, Story
from threadkeep.upstream.scripted import Say

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
JSON_SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {"name": "answer", "description": "A number.", "schema": SCHEMA, "strict": True},
}


@pytest.fixture(autouse=True)
def _answers(story: Story) -> None:
    story.model.says(Say("Hello"))


def asked_with(story: Story, **fields: object) -> tuple[dict[str, Any], Any]:
    """What the model was asked in a run with these fields, and the run."""
    run = story.run_to_end(story.thread("Hi"), **fields)
    assert run["status"] == "completed", run["last_error"]
    return story.model.asked, run


def test_a_plain_run_asks_plainly(story: Story) -> None:
    asked, run = asked_with(story)

    assert asked == {
        "model": story.model.name,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    defaults: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 1.0,
        "max_prompt_tokens": None,
        "max_completion_tokens": None,
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "response_format": "auto",
        "tools": [],
        "instructions": "",
        "metadata": {},
        "model": story.model.name,
    }
    assert {name: run[name] for name in defaults} == defaults


@pytest.mark.parametrize(
    ("field", "value", "sent"),
    [
        ("temperature", 0.2, 0.2),
        ("temperature", 0, 0.0),
        ("top_p", 0.5, 0.5),
        ("reasoning_effort", "low", "low"),
        ("response_format", {"type": "json_object"}, {"type": "json_object"}),
        ("response_format", JSON_SCHEMA, JSON_SCHEMA),
    ],
)
@pytest.mark.parametrize("given_by", ["assistant", "run"])
def test_a_setting_reaches_the_model_and_is_echoed(
    story: Story, field: str, value: object, sent: object, given_by: str
) -> None:
    story.assistant(**({field: value} if given_by == "assistant" else {}))

    asked, run = asked_with(story, **({field: value} if given_by == "run" else {}))

    assert asked[field] == sent
    assert run[field] == sent


@pytest.mark.parametrize("value", ["auto", {"type": "text"}])
def test_plain_text_is_the_absence_of_a_format(story: Story, value: object) -> None:
    asked, run = asked_with(story, response_format=value)

    assert "response_format" not in asked
    assert run["response_format"] == value


def test_functions_reach_the_model_as_they_were_given(story: Story) -> None:
    strict: Any = {"type": "function", "function": {"name": "add", "parameters": SCHEMA, "strict": True}}
    bare: Any = {"type": "function", "function": {"name": "ping"}}
    story.assistant(tools=[FUNCTION, strict, bare])

    asked, run = asked_with(story)

    assert asked["tools"] == [FUNCTION, strict, bare]
    assert run["tools"] == [FUNCTION, strict, bare]
    assert {"tool_choice", "parallel_tool_calls"}.isdisjoint(asked)


@pytest.mark.parametrize("choice", ["none", "required", {"type": "function", "function": {"name": "get_weather"}}])
def test_the_tool_choice_reaches_the_model(story: Story, choice: object) -> None:
    asked, run = asked_with(story, tools=[FUNCTION], tool_choice=choice)

    assert asked["tool_choice"] == choice
    assert run["tool_choice"] == choice


def test_one_call_at_a_time_is_asked_for(story: Story) -> None:
    asked, run = asked_with(story, tools=[FUNCTION], parallel_tool_calls=False)

    assert asked["parallel_tool_calls"] is False
    assert run["parallel_tool_calls"] is False


def test_what_the_run_says_goes_before_what_the_assistant_says(story: Story) -> None:
    story.assistant(
        model="gpt-unknown",
        instructions="Be kind.",
        tools=[{"type": "code_interpreter"}],
        temperature=0.1,
        top_p=0.1,
        reasoning_effort="high",
        response_format={"type": "json_object"},
        metadata={"of": "the assistant"},
    )
    overrides: dict[str, Any] = {
        "model": story.model.name,
        "instructions": "Be brief.",
        "tools": [FUNCTION],
        "temperature": 0.9,
        "top_p": 0.8,
        "reasoning_effort": "low",
        "response_format": {"type": "text"},
        "metadata": {"of": "the run"},
    }

    asked, run = asked_with(story, **overrides)

    assert {name: run[name] for name in overrides} == overrides
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (asked["model"], asked["temperature"], asked["top_p"]) == (story.model.name, 0.9, 0.8)
    assert (asked["tools"], asked["reasoning_effort"]) == ([FUNCTION], "low")
    assert "response_format" not in asked


def test_no_tools_on_the_run_take_those_of_the_assistant_away(story: Story) -> None:
    story.assistant(tools=[FUNCTION])

    asked, run = asked_with(story, tools=[])

    assert "tools" not in asked
    assert run["tools"] == []


def test_settings_of_the_assistant_hold_where_the_run_says_nothing(story: Story) -> None:
    story.assistant(instructions="Be kind.", tools=[FUNCTION], metadata={"a": "b"})

    asked, run = asked_with(story)

    assert asked["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (run["instructions"], run["tools"]) == ("Be kind.", [FUNCTION])


def test_an_assistant_changed_later_does_not_change_the_run(story: Story) -> None:
    story.assistant(instructions="Be kind.")
    _, run = asked_with(story)

    story.post(f"/assistants/{run['assistant_id']}", {"instructions": "Be rude."})

    assert story.get(f"/threads/{run['thread_id']}/runs/{run['id']}")["instructions"] == "Be kind."


@pytest.mark.parametrize(
    ("instructions", "additional", "effective"),
    [
        ("Be kind.", "Be brief.", "Be kind.\n\nBe brief."),
        (None, "Be brief.", "Be brief."),
        ("Be kind.", "", "Be kind."),
    ],
)
def test_additional_instructions_are_appended(
    story: Story, instructions: str | None, additional: str, effective: str
) -> None:
    story.assistant(instructions=instructions)

    asked, run = asked_with(story, additional_instructions=additional)

    assert run["instructions"] == effective
    assert asked["messages"][0] == {"role": "system", "content": effective}


def test_additional_messages_join_the_thread_ahead_of_the_run(story: Story) -> None:
    thread = story.thread("Hi")
    more = [
        {"role": "assistant", "content": "Hello. And you are?"},
        {"role": "user", "content": [{"type": "text", "text": "Ada."}], "metadata": {"n": 1}},
    ]

    story.run_to_end(thread, additional_messages=more)

    assert story.texts(thread) == [
        ("user", "Hi"),
        ("assistant", "Hello. And you are?"),
        ("user", "Ada."),
        ("assistant", "Hello"),
    ]
    assert story.messages(thread)[2]["metadata"] == {"n": "1"}
    assert [message["content"] for message in story.model.asked["messages"]] == ["Hi", "Hello. And you are?", "Ada."]


def test_an_image_by_its_address_reaches_the_model(story: Story) -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
    thread = story.thread()
    story.post(f"{thread}/messages", {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]})

    story.run_to_end(thread)

    assert story.model.asked["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]}
    ]


def test_metadata_of_any_scalar_becomes_strings(story: Story) -> None:
    _, run = asked_with(story, metadata={"modified_today": True, "feedback_rating": 4.5})

    assert run["metadata"] == {"modified_today": "true", "feedback_rating": "4.5"}


def test_a_runs_metadata_can_be_changed(story: Story) -> None:
    _, run = asked_with(story, metadata={"a": "1"})
    path = f"/threads/{run['thread_id']}/runs/{run['id']}"

    changed = story.post(path, {"metadata": {"b": 2}})

    assert changed == {**run, "metadata": {"b": "2"}}
    assert story.get(path) == changed


def test_tool_resources_of_the_thread_are_shown_on_the_run(story: Story) -> None:
    thread = story.post("/threads", {"tool_resources": {"code_interpreter": {"file_ids": ["file-a"]}}})

    run = story.run_to_end(f"/threads/{thread['id']}")

    assert run["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a"]}}


def test_tool_resources_of_the_assistant_are_shown_beside_them_each_once(story: Story) -> None:
    store_id = story.post("/vector_stores", {})["id"]
    story.assistant(
        tool_resources={
            "code_interpreter": {"file_ids": ["file-b", "file-a"]},
            "file_search": {"vector_store_ids": [store_id]},
        }
    )
    thread = story.post("/threads", {"tool_resources": {"code_interpreter": {"file_ids": ["file-a", "file-c"]}}})

    run = story.run_to_end(f"/threads/{thread['id']}")

    assert run["tool_resources"] == {
        "code_interpreter": {"file_ids": ["file-b", "file-a", "file-c"]},
        "file_search": {"vector_store_ids": [store_id]},
    }


def test_an_unknown_assistant_or_thread_is_refused(story: Story) -> None:
    thread = story.thread("Hi")

    assert story.refused(f"{thread}/runs", {"assistant_id": "asst_unknown"}) == (
        404,
        "No assistant found with id 'asst_unknown'.",
    )
    assert story.refused("/threads/thread_unknown/runs", {"assistant_id": story.assistant()}) == (
        404,
        "No thread found with id 'thread_unknown'.",
    )


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"assistant_id": None}, "assistant_id", "invalid_type"),
        ({"max_prompt_tokens": 255}, "max_prompt_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"truncation_strategy": {"type": "last_messages"}}, "truncation_strategy.last_messages", None),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type", "invalid_value"),
        ({"file_ids": []}, "file_ids", "unknown_parameter"),
    ],
)
def test_a_field_that_breaks_the_contract_is_refused(
    story: Story, fields: dict[str, object], param: str, code: str | None
) -> None:
    thread = story.thread("Hi")

    answer = story.http.post(f"{thread}/runs", json={"assistant_id": story.assistant(), **fields})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert code in (None, error["code"])
    assert story.get(f"{thread}/runs")["data"] == []
