"""The table of quirks, what it makes of a request, and what a refusal teaches."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.upstream.answers import ask, asking, connected
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream.chat import (
    AssistantMessage,
    ChatMessage,
    ChatRequest,
    ChatTool,
    DeveloperMessage,
    ImagePart,
    ImageUrl,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    SystemMessage,
    TextPart,
    ToolFunction,
    UserMessage,
)
from threadkeep.upstream.quirks import QUIRKS, Feature, Quirk, fit, learn, quirk_for
from threadkeep.upstream.scripted import Say, ScriptedUpstream, Status

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}

# A request with everything in it.
FULL = ChatRequest(
    model="m",
    messages=[SystemMessage("Be brief."), UserMessage("Hi"), UserMessage("You there?")],
    tools=[ChatTool(ToolFunction(name="f", parameters={"type": "object"}, strict=True))],
    tool_choice="auto",
    parallel_tool_calls=False,
    temperature=0.5,
    top_p=0.9,
    max_completion_tokens=100,
    reasoning_effort="low",
)


def sent(request: ChatRequest, **quirk: Any) -> dict[str, Any]:
    return msgspec.to_builtins(fit(request, Quirk(name="q", **quirk)))


def lacking(*features: Feature) -> dict[str, Any]:
    return {"lacks": frozenset(features)}


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:11434/v1/", "ollama"),
        ("http://127.0.0.1:1234/v1", "lmstudio"),
        ("https://me.openai.azure.com", "azure"),
        ("https://me.openai.azure.com/", "azure"),
        ("https://me.openai.azure.com/openai", "azure"),
        ("https://me.openai.azure.com/openai/deployments/d", "azure"),
        ("https://me.openai.azure.com/openai/v1/", "azure-v1"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini"),
        ("http://127.0.0.1:8000/v1", ""),
        ("https://api.openai.com.evil.example/v1", ""),
    ],
)
def test_quirks_are_found_by_the_url(url: str, names: str) -> None:
    assert quirk_for(url, None, "m").name == names


def test_quirks_that_are_named_win_over_the_url() -> None:
    assert quirk_for("http://127.0.0.1:11434/v1", "openai", "m").max_tokens_field == "max_completion_tokens"


def test_quirks_of_a_model_hold_for_that_model_only() -> None:
    assert "parallel_tool_calls" in quirk_for("https://api.openai.com/v1", None, "o3-mini").lacks
    assert "parallel_tool_calls" not in quirk_for("https://api.openai.com/v1", None, "gpt-4o").lacks


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(ValueError, match="ollama"):
        quirk_for("http://h/v1", "olama", "m")


def test_names_in_the_table_are_lower_case_words() -> None:
    assert all(q.name == q.name.lower() and " " not in q.name for q in QUIRKS)


# ---------------------------------------------------------------- writing the request


@pytest.mark.parametrize(
    "feature", ["stream_options", "parallel_tool_calls", "tool_choice", "reasoning_effort", "temperature", "top_p"]
)
def test_a_field_that_is_lacking_is_not_sent(feature: Feature) -> None:
    assert feature in sent(FULL)
    assert feature not in sent(FULL, **lacking(feature))


def test_strict_is_taken_out_of_functions_and_formats() -> None:
    request = msgspec.structs.replace(
        FULL, response_format=JsonSchemaFormat(JsonSchema(name="s", schema=SCHEMA, strict=True))
    )
    body = sent(request, **lacking("strict"))
    assert "strict" not in body["tools"][0]["function"]
    assert "strict" not in body["response_format"]["json_schema"]


def test_the_limit_goes_by_the_name_the_upstream_knows() -> None:
    assert sent(FULL)["max_tokens"] == 100
    assert "max_completion_tokens" not in sent(FULL)
    body = sent(FULL, max_tokens_field="max_completion_tokens")
    assert (body.get("max_tokens"), body["max_completion_tokens"]) == (None, 100)


def test_without_tools_nothing_is_said_about_tools() -> None:
    body = sent(msgspec.structs.replace(FULL, tools=[]))
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


def test_a_schema_becomes_json_mode_and_a_sentence() -> None:
    request = asking(response_format=JsonSchemaFormat(JsonSchema(name="s", schema=SCHEMA)))
    body = sent(request, **lacking("json_schema"))
    assert body["response_format"] == {"type": "json_object"}
    assert '"properties":{"a":{"type":"string"}}' in body["messages"][0]["content"]
    assert body["messages"][0]["role"] == "system"
    body = sent(request, **lacking("json_schema", "json_object"))
    assert "response_format" not in body


def test_json_mode_becomes_a_schema_of_any_object() -> None:
    body = sent(asking(response_format=JsonObjectFormat()), **lacking("json_object"))
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_the_system_message_can_be_called_developer() -> None:
    assert sent(FULL, system_role="developer")["messages"][0] == {"role": "developer", "content": "Be brief."}


def test_the_system_message_can_be_folded_into_the_first_user_message() -> None:
    messages = sent(FULL, system_role="none")["messages"]
    assert messages[0] == {"role": "user", "content": "Be brief.\n\nHi"}
    assert len(messages) == 2


def test_the_system_message_is_folded_beside_an_image() -> None:
    image = ImagePart(ImageUrl("https://example.com/x.png"))
    request = ChatRequest(model="m", messages=[SystemMessage("S"), UserMessage([image, TextPart("what?")])])
    parts = sent(request, system_role="none")["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["text", "image_url", "text"]


def test_a_conversation_that_begins_with_an_answer_keeps_its_instructions_first() -> None:
    messages: list[ChatMessage] = [SystemMessage("S"), AssistantMessage("Hello!"), UserMessage("Hi")]
    body = sent(ChatRequest(model="m", messages=messages), system_role="none")
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]


def test_messages_of_the_same_role_can_be_joined() -> None:
    body = sent(FULL, **lacking("same_role_twice"))
    assert [m["content"] for m in body["messages"]] == ["Be brief.", "Hi\n\nYou there?"]


def test_parts_that_are_all_text_are_sent_as_text() -> None:
    body = sent(ChatRequest(model="m", messages=[UserMessage([TextPart("a"), TextPart("b")])]))
    assert body["messages"][0]["content"] == "a\nb"


# ---------------------------------------------------------------- learning: texts of real servers


@pytest.mark.parametrize(
    ("refusal", "feature"),
    [
        ("Unrecognized request argument supplied: stream_options", "stream_options"),
        ("Validation error at #/stream_options: Extra inputs are not permitted", "stream_options"),
        ("Extra inputs are not permitted, field: 'stream_options'", "stream_options"),
        ("Extra parameters ['stream_options'] are not allowed when extra-parameters is not set", "stream_options"),
        ("[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'input': {}}]", "stream_options"),
        ("Unsupported parameter: 'parallel_tool_calls' is not supported with this model.", "parallel_tool_calls"),
        ("property 'parallel_tool_calls' is unsupported", "parallel_tool_calls"),
        ('Invalid JSON payload. Unknown name "parallel_tool_calls": Cannot find field.', "parallel_tool_calls"),
        ("Unrecognized request argument supplied: reasoning_effort", "reasoning_effort"),
        ("Unsupported value: 'temperature' does not support 0.5 with this model.", "temperature"),
        ("Unknown parameter: 'tools[0].function.strict'.", "strict"),
        ("tool_choice is not supported by this model", "tool_choice"),
        ("Unsupported parameter: 'top_p' is not supported with this model.", "top_p"),
    ],
)  # fmt: skip
def test_a_refused_field_is_left_out_next_time(refusal: str, feature: Feature) -> None:
    known = Quirk(name="q")
    learned = learn(400, refusal, fit(FULL, known), known)
    assert learned is not None
    assert learned.lacks == {feature}
    assert learn(400, refusal, fit(FULL, learned), learned) is None


@pytest.mark.parametrize(
    ("refusal", "known", "learned"),
    [
        (
            "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            None,
            "max_completion_tokens",
        ),
        (
            "[{'type': 'extra_forbidden', 'loc': ('body', 'max_completion_tokens'), 'input': 800}]",
            "max_completion_tokens",
            "max_tokens",
        ),
    ],
)
def test_the_other_name_of_the_limit_is_learned(refusal: str, known: Any, learned: str) -> None:
    quirk = Quirk(name="q", max_tokens_field=known)
    found = learn(400, refusal, fit(FULL, quirk), quirk)
    assert found is not None
    assert (found.max_tokens_field, found.lacks) == (learned, frozenset())


@pytest.mark.parametrize(
    "refusal",
    [
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
        "System role not supported",
        "Only user and assistant roles are supported!",
        "Only user, assistant and tool roles are supported, got system.",
    ],
)
def test_a_refused_system_message_is_folded(refusal: str) -> None:
    known = Quirk(name="q")
    learned = learn(400, refusal, fit(FULL, known), known)
    assert learned is not None
    assert learned.system_role == "none"


@pytest.mark.parametrize(
    "refusal",
    [
        "messages[0].role: unknown variant `developer`, expected one of `system`, `user`, `assistant`, `tool`",
        "developer is not one of ['system', 'assistant', 'user', 'tool', 'function']",
        "invalid parameter 'messages[0].role': invalid role 'developer', must be one of: system, user",
        "message role is 'developer', not one of ['system', 'assistant']",
    ],
)
def test_a_refused_developer_message_becomes_a_system_message(refusal: str) -> None:
    known = Quirk(name="q", system_role="developer")
    request = fit(FULL, known)
    assert isinstance(request.messages[0], DeveloperMessage)
    learned = learn(400, refusal, request, known)
    assert learned is not None
    assert learned.system_role == "system"


def test_roles_that_must_alternate_are_joined_then_folded() -> None:
    refusal = "After the optional system message, conversation roles must alternate user/assistant/user/assistant/..."
    known = Quirk(name="q")
    once = learn(500, refusal, fit(FULL, known), known)
    assert once is not None
    assert once.lacks == {"same_role_twice"}
    twice = learn(500, refusal, fit(FULL, once), once)
    assert twice is not None
    assert twice.system_role == "none"
    assert learn(500, refusal, fit(FULL, twice), twice) is None


@pytest.mark.parametrize(
    "refusal",
    [
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
        "This response_format type is unavailable now",
        "'response_format.type' must be 'text' or 'json_object'",
        "response_format.type: unknown variant `json_schema`, expected `text` or `json_object`",
    ],
)
def test_a_refused_schema_becomes_json_mode(refusal: str) -> None:
    known = Quirk(name="q")
    request = asking(response_format=JsonSchemaFormat(JsonSchema(name="s", schema=SCHEMA)))
    learned = learn(400, refusal, fit(request, known), known)
    assert learned is not None
    assert learned.lacks == {"json_schema"}


def test_refused_json_mode_becomes_a_schema() -> None:
    known = Quirk(name="q")
    refusal = "'response_format.type' must be 'json_schema' or 'text'"
    learned = learn(400, refusal, fit(asking(response_format=JsonObjectFormat()), known), known)
    assert learned is not None
    assert learned.lacks == {"json_object"}


@pytest.mark.parametrize(
    "refusal",
    [
        "Invalid value for 'temperature': expected a number <= 2",
        "Unsupported value: 'reasoning_effort' does not support 'xhigh'. Supported values are: 'low', and 'high'.",
        "Input should be 'low', 'medium' or 'high' for reasoning_effort",
        "Invalid schema for function 'f': None is not of type 'object'",
        "Unknown parameter: 'frequency_penalty'.",
        "The model is not available",
        "",
    ],
)
def test_a_complaint_about_a_value_teaches_nothing(refusal: str) -> None:
    known = Quirk(name="q")
    assert learn(400, refusal, fit(FULL, known), known) is None


@pytest.mark.parametrize("status", [401, 403, 429])
def test_other_refusals_teach_nothing(status: int) -> None:
    known = Quirk(name="q")
    assert learn(status, "Unrecognized request argument supplied: stream_options", fit(FULL, known), known) is None


# ---------------------------------------------------------------- over HTTP


async def test_a_refused_field_is_dropped_at_once_and_remembered() -> None:
    refuses = {"stream_options": "Unrecognized request argument supplied: stream_options"}
    async with (
        ScriptedUpstream([Say("a"), Say("b")], refuses=refuses) as server,
        connected(server, max_retries=0) as up,
    ):
        assert (await ask(up)).text == "a"
        assert (await ask(up)).text == "b"
        assert ["stream_options" in r.body for r in server.requests] == [True, False, False]


async def test_several_refusals_in_a_row_are_all_learned() -> None:
    refuses = {
        "stream_options": "Extra inputs are not permitted, field: 'stream_options'",
        "parallel_tool_calls": "property 'parallel_tool_calls' is unsupported",
        "max_tokens": "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    }
    async with ScriptedUpstream([Say("a")], refuses=refuses) as server, connected(server) as up:
        assert (await ask(up, FULL)).text == "a"
        assert len(server.requests) == 4


async def test_what_one_model_refuses_is_not_held_against_another() -> None:
    refusal = Status(400, {"error": {"message": "Unsupported parameter: 'temperature' is not supported."}})
    async with ScriptedUpstream([refusal, Say("a"), Say("b")]) as server, connected(server) as up:
        await ask(up, asking(temperature=0.5))
        await ask(up, asking(temperature=0.5, model="other"))
        assert ["temperature" in r.body for r in server.requests] == [True, False, True]


async def test_a_refusal_that_never_ends_is_given_up() -> None:
    refusal = Status(400, {"error": {"message": "Unrecognized request argument supplied: stream_options, temperature"}})
    async with ScriptedUpstream([refusal], repeat=True) as server, connected(server) as up:
        with pytest.raises(UpstreamFailed, match="stream_options"):
            await ask(up, FULL)
        assert len(server.requests) == 2


async def test_azures_classic_form_names_the_deployment_in_the_path() -> None:
    async with ScriptedUpstream([Say("a")]) as server:
        url = server.url.removesuffix("/v1")
        async with connected(server, url=url, quirks="azure", api_key="k1234", api_version="2024-06-01") as up:
            await ask(up, asking(model="gpt-4o"))
    request = server.requests[0]
    assert request.path == "/openai/deployments/gpt-4o/chat/completions"
    assert request.query == {"api-version": "2024-06-01"}
    assert request.headers["api-key"] == "k1234"
    assert "authorization" not in request.headers


async def test_the_query_of_a_configured_url_is_kept() -> None:
    async with ScriptedUpstream([Say("a")]) as server, connected(server, url=f"{server.url}?tenant=7") as up:
        await ask(up)
    assert server.requests[0].query == {"tenant": "7"}
