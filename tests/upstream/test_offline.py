"""The offline model: every row of its table."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from tests.upstream.answers import Answer, ask, asking
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream.chat import (
    AssistantMessage,
    CalledFunction,
    ChatMessage,
    ChatRequest,
    ChatTool,
    FunctionName,
    ImagePart,
    ImageUrl,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    NamedTool,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolFunction,
    ToolMessage,
    UserMessage,
)
from threadkeep.upstream.offline import WHAT_IT_IS, OfflineUpstream, smallest

WEATHER = ChatTool(
    ToolFunction(
        name="get_weather",
        parameters={
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}, "note": {}},
            "required": ["city", "days"],
        },
    )
)
TIME = ChatTool(ToolFunction(name="get_time"))


async def say(*said: str | ChatMessage, **fields: Any) -> Answer:
    """The answer to a conversation; texts are the user's, with an answer between each two."""
    messages: list[ChatMessage] = []
    for message in said:
        if not isinstance(message, str):
            messages.append(message)
            continue
        if messages and isinstance(messages[-1], UserMessage):
            messages.append(AssistantMessage("I see."))
        messages.append(UserMessage(message))
    return await ask(OfflineUpstream(), ChatRequest(model="offline", messages=messages, **fields))


async def test_it_says_what_it_is_and_repeats_what_it_was_told() -> None:
    answer = await say("hello there")
    assert "not a language model" in answer.text
    assert '"hello there"' in answer.text
    assert answer.finish == "stop"
    assert (await say("Who are you?")).text == WHAT_IT_IS


async def test_it_streams_word_by_word() -> None:
    answer = await say("say: one two  three\n")
    assert [c.choices[0].delta.content for chunks in answer.reads[:-1] for c in chunks] == ["one", " two", "  three"]


async def test_it_counts_usage_in_words() -> None:
    usage = (await say(SystemMessage("Be kind."), "say: one two three")).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (6, 3, 9)


async def test_the_same_conversation_gives_the_same_answer_and_ids() -> None:
    first, second = [await say("call get_weather", tools=[WEATHER]) for _ in range(2)]
    assert first == second
    assert first.calls[0][0] != (await say("call get_weather ", tools=[WEATHER])).calls[0][0]


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("told", "asked", "answer"),
    [
        ("My name is Ada.", "What is my name?", "Your name is Ada."),
        ("Hello! my name is Ada Lovelace, by the way", "what's my name", "Your name is Ada Lovelace, by the way."),
        ("My favourite colour is green.", "What is my favourite colour?", "Your favourite colour is green."),
        ("Hi", "What is my name?", "You have not told me your name."),
        ("My name is Ada.", "What did I say first?", 'You first said: "My name is Ada."'),
        ("My name is Ada.", "Repeat what I said.", 'You said: "My name is Ada."'),
        ("My name is Ada.", "What did I say last?", 'You said: "My name is Ada."'),
    ],
)
async def test_it_remembers_the_thread(told: str, asked: str, answer: str) -> None:
    assert (await say(told, "By the way, " * 3, told, asked)).text == answer


async def test_the_newest_that_was_said_counts() -> None:
    assert (await say("My name is Ada.", "My name is Bob.", "What is my name?")).text == "Your name is Bob."


async def test_it_counts_the_messages_it_has_seen() -> None:
    answer = await say(SystemMessage("S"), "Hi", "How many messages have you seen?")
    assert answer.text == 'I have seen 3 messages in this thread, 2 of them yours. It began with: "Hi"'


async def test_it_repeats_its_instructions() -> None:
    answer = await say(SystemMessage("Be kind."), "What are your instructions?")
    assert answer.text == "My instructions are: Be kind."


async def test_it_says_that_it_cannot_see_images() -> None:
    message = UserMessage([TextPart("what is this?"), ImagePart(ImageUrl("https://example.com/a.png"))])
    assert "1 image, which I cannot see" in (await say(message)).text


# ---------------------------------------------------------------- commands


async def test_say_and_echo_are_answered_exactly() -> None:
    assert (await say("SAY:  two  spaces, and {json}")).text == " two  spaces, and {json}"
    assert (await say("echo: a\nsay: b")).text == "a\nb"


async def test_it_counts() -> None:
    assert (await say("Please count to 5")).text == "1 2 3 4 5"


async def test_it_refuses_when_asked_to() -> None:
    answer = await say("refuse: I would rather not.")
    assert (answer.text, answer.refusal) == ("", "I would rather not.")


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "server_error", "invalid_prompt"])
async def test_it_fails_when_asked_to(code: str) -> None:
    with pytest.raises(UpstreamFailed) as failed:
        await say(f"fail: {code} as you wish")
    assert (failed.value.code, failed.value.message) == (code, "as you wish")


@pytest.mark.parametrize("reason", ["length", "content_filter"])
async def test_it_ends_with_the_reason_it_is_asked_for(reason: str) -> None:
    answer = await say(f"say: a\nfinish: {reason}")
    assert (answer.text, answer.finish) == ("a", reason)


async def test_it_waits_when_asked_to() -> None:
    began = time.monotonic()
    await say("wait: 0.2\nsay: a")
    assert time.monotonic() - began >= 0.19


async def test_a_slow_one_can_be_left() -> None:
    async with aclosing(OfflineUpstream().stream(asking("count to 100", model="offline-50ms"))) as stream:
        assert (await anext(stream))[0].choices[0].delta.content == "1"
    task = asyncio.create_task(ask(OfflineUpstream(), asking("count to 100", model="offline-slow")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_it_stops_at_the_limit() -> None:
    answer = await say("count to 100", max_completion_tokens=3)
    assert (answer.text, answer.finish) == ("1 2 3", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


# ---------------------------------------------------------------- functions


async def test_it_calls_a_function_with_the_arguments_it_is_given() -> None:
    answer = await say('call get_weather {"city": "Oslo"}', tools=[WEATHER])
    assert [(name, arguments) for _, name, arguments in answer.calls] == [("get_weather", '{"city": "Oslo"}')]
    assert (answer.text, answer.finish) == ("", "tool_calls")


async def test_without_arguments_it_makes_the_smallest_that_fit() -> None:
    answer = await say("call get_weather\ncall get_time", tools=[WEATHER, TIME])
    assert [json.loads(arguments) for _, _, arguments in answer.calls] == [{"city": "text", "days": 1}, {}]


async def test_it_calls_nothing_that_is_not_offered() -> None:
    assert (await say("call rm {}", tools=[WEATHER])).calls == []
    assert (await say("call get_weather {}", tools=[WEATHER], tool_choice="none")).calls == []


async def test_several_lines_are_parallel_calls() -> None:
    answer = await say("call get_weather {}\ncall get_time {}", tools=[WEATHER, TIME])
    assert [name for _, name, _ in answer.calls] == ["get_weather", "get_time"]
    assert len({identifier for identifier, _, _ in answer.calls}) == 2


async def test_without_parallel_calls_they_come_one_after_the_other_and_are_reported() -> None:
    conversation: list[ChatMessage] = [UserMessage("call get_weather {}\ncall get_time {}")]
    tools, made = [WEATHER, TIME], list[str]()
    while (answer := await say(*conversation, tools=tools, parallel_tool_calls=False)).calls:
        ((identifier, name, arguments),) = answer.calls
        made.append(name)
        conversation.append(AssistantMessage(None, [ToolCall(identifier, CalledFunction(name, arguments))]))
        conversation.append(ToolMessage(identifier, f"result {len(made)}"))
    assert made == ["get_weather", "get_time"]
    assert answer.text == "get_weather answered: result 1\nget_time answered: result 2"


@pytest.mark.parametrize("choice", ["required", NamedTool(FunctionName("get_weather"))])
async def test_a_required_call_is_made_once(choice: Any) -> None:
    answer = await say("Hi", tools=[WEATHER, TIME], tool_choice=choice)
    ((identifier, name, arguments),) = answer.calls
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "text", "days": 1})
    after = await say(
        "Hi",
        AssistantMessage(None, [ToolCall(identifier, CalledFunction(name, arguments))]),
        ToolMessage(identifier, "sunny"),
        tools=[WEATHER, TIME],
        tool_choice=choice,
    )
    assert after.text == "get_weather answered: sunny"


async def test_calls_of_an_earlier_turn_are_not_made_again() -> None:
    answer = await say("call get_weather {}", "thanks", tools=[WEATHER])
    assert answer.calls == []


# ---------------------------------------------------------------- JSON


async def test_json_mode_gives_an_object() -> None:
    found = json.loads((await say("Hi", response_format=JsonObjectFormat())).text)
    assert found == {"model": "offline", "you_said": "Hi", "messages_seen": 1}


async def test_a_schema_gives_the_smallest_value_that_fits() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    answer = await say("Hi", response_format=JsonSchemaFormat(JsonSchema(name="s", schema=schema)))
    assert json.loads(answer.text) == {"ok": False}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 3}, 3),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"type": "integer", "exclusiveMinimum": 4}, 5),
        ({"type": "number", "maximum": -2}, -2),
        ({"type": ["null", "integer"]}, 0),
        ({"type": "array", "items": {"type": "null"}, "minItems": 2}, [None, None]),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, False),
        ({"properties": {"a": {}}, "required": ["a"]}, {"a": "text"}),
        ({"allOf": [{"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}]}, {"a": 1}),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"type": "object", "required": ["n"],
          "properties": {"n": {"type": "integer"}}}}}, {"n": 0}),
        ({"$ref": "#/nowhere"}, None),
        ({}, "text"),
    ],
)  # fmt: skip
def test_the_smallest_value(schema: dict[str, Any], value: object) -> None:
    assert smallest(schema) == value


def test_a_schema_that_refers_to_itself_ends() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
    assert msgspec.json.encode(smallest(node))
