"""What is struck out of messages, and how a prompt that is too long is recognised."""

import msgspec
import pytest

from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.failures import Place, is_context_exceeded, read_error, refused, strike_out


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Incorrect API key provided: sk-proj-abcDEF123456_xyz. See …", "abcDEF123456"),
        ("sent sk-ant-api03-aaaaaaaaaaaa", "aaaaaaaa"),
        ("Authorization: Bearer eyJhbGciOi.J9", "eyJ"),
        ("header was 'authorization: bearer abcdef'", "abcdef"),
        ("api_key=0123456789abcdef is bad", "0123456789"),
        ('{"api-key": "0123456789abcdef"}', "0123456789"),
        ("key AIzaSyA1234567890abcdefg is not valid", "SyA1234567890"),
        ("could not reach http://me:hunter2@host/v1", "hunter2"),
        ("gsk_abcdefghijk in use", "abcdefghijk"),
        ("my configured-secret here", "configured-secret"),
    ],
)
def test_keys_are_struck_out(text: str, secret: str) -> None:
    assert secret not in strike_out(text, {"configured-secret"})


@pytest.mark.parametrize(
    "text", ["The task-force is basic. Ask-me-anything about risk-management.", "No API key was sent."]
)
def test_ordinary_words_stay(text: str) -> None:
    assert strike_out(text, {""}) == text


def test_a_key_is_struck_out_before_the_message_is_cut() -> None:
    place = Place("u", "h:1", "m", frozenset({"secret" * 10}))
    message = refused(place, 500, ("x" * 380 + "secret" * 10).encode(), None).message
    assert "secret" not in message


def test_a_configuration_does_not_show_its_key() -> None:
    config = UpstreamConfig(name="u", url="https://me:hunter2@host/v1", api_key="sk-1234567890")
    assert "sk-1234567890" not in repr(config)
    assert "hunter2" not in repr(config)
    assert config.secrets == {"sk-1234567890", "hunter2"}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "a", "type": "x", "code": 400}}, "a"),
        ({"error": "a"}, "a"),
        ({"object": "error", "message": "a", "code": 400}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"loc": ["body"], "msg": "a"}]}, '[{"loc":["body"],"msg":"a"}]'),
        ([{"error": {"code": 400, "message": "a", "status": "INVALID_ARGUMENT"}}], "a"),
        ({"error": {"error": {"message": "a"}}}, "a"),
        ("a", "a"),
        ({}, "{}"),
        (None, ""),
    ],
)
def test_the_message_is_found_in_every_form_of_error(body: object, message: str) -> None:
    assert read_error(msgspec.json.encode(body)).message == message


# Texts of real servers.
TOO_LONG = [
    # OpenAI, vLLM, SGLang
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
    "However, you requested 156632 tokens (152536 in the messages). Please reduce the length of the messages.",
    "This model's maximum context length is 16384 tokens. However, your request has 19427 input tokens.",
    "The decoder prompt (length 9013) is longer than the maximum model length of 8192.",
    "max_tokens must be at least 1, got -186.",
    # OpenAI's Responses-era models
    "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    # llama.cpp, llama-cpp-python
    "the request exceeds the available context size. try increasing the context size or enable context shift",
    "request (131168 tokens) exceeds the available context size (131072 tokens), try increasing it",
    "Requested tokens (516) exceed context window of 512",
    # Ollama
    "input length exceeds maximum context length",
    "prompt too long; exceeded max context length by 10 tokens",
    # LiteLLM, Anthropic, OpenRouter, Gemini
    "litellm.ContextWindowExceededError: litellm.BadRequestError: AnthropicError",
    "prompt is too long: 209353 tokens > 199999 maximum",
    "input length and `max_tokens` exceed context limit: 174167 + 64000 > 200000, decrease input length",
    "This endpoint's maximum context length is 16384 tokens. However, you requested about 94307 tokens",
    "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
]


@pytest.mark.parametrize("text", TOO_LONG)
def test_a_prompt_that_is_too_long_is_recognised(text: str) -> None:
    assert is_context_exceeded(read_error(msgspec.json.encode({"error": {"message": text}})))


@pytest.mark.parametrize("error", [{"code": "context_length_exceeded"}, {"type": "exceed_context_size_error"}])
def test_a_prompt_that_is_too_long_is_recognised_by_its_code(error: dict[str, str]) -> None:
    body = msgspec.json.encode({"error": {"message": "no", **error}})
    failed = refused(Place("u", "h:1", "m", frozenset()), 400, body, None)
    assert failed.context_exceeded
    assert failed.code == "invalid_prompt"


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit reached for gpt-4o in organization on tokens per min (TPM): Limit 30000, Used 29000.",
        "max_tokens is too large: 200000. This model supports at most 16384 completion tokens",
        "Invalid schema for function 'f': context is not valid",
        "Internal server error",
    ],
)
def test_other_failures_are_not_mistaken_for_a_long_prompt(text: str) -> None:
    assert not is_context_exceeded(read_error(msgspec.json.encode({"error": {"message": text}})))
