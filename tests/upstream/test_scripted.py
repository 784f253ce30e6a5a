"""The scripted double itself, with the SDK that users point at servers."""

from __future__ import annotations

import openai
import pytest

from tests.upstream.answers import ask, connected
from threadkeep.contract.errors import UpstreamFailed
from threadkeep.upstream.scripted import Call, Gate, Received, Refuse, Say, ScriptedUpstream, Status, Step, Usage


def client(upstream: ScriptedUpstream) -> openai.OpenAI:
    return openai.OpenAI(base_url=upstream.url, api_key="any", max_retries=0)


def test_a_synchronous_test_can_use_it_with_the_sdk() -> None:
    with ScriptedUpstream([[Say("Hel", "lo"), Usage(3, 2)]]) as upstream, client(upstream) as sdk:
        stream = sdk.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "Hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5
    assert upstream.requests[0].body["messages"] == [{"role": "user", "content": "Hi"}]


def test_a_gate_holds_the_answer_until_it_is_released() -> None:
    gate = Gate()
    with ScriptedUpstream([[Say("a"), gate, Say("b")]]) as upstream, client(upstream) as sdk:
        stream = sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        assert next(stream).choices[0].delta.content == "a"
        gate.wait_reached()
        assert not upstream.requests[0].has_ended
        gate.release()
        assert [c.choices[0].delta.content for c in stream] == ["b", None]
        upstream.requests[0].wait_ended()


def test_tool_calls_and_refusals_are_what_the_sdk_expects() -> None:
    with ScriptedUpstream([[Call("f", {"a": 1}), Call("g")], Refuse("no")]) as upstream, client(upstream) as sdk:
        with sdk.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.tool_calls is not None
        assert [(c.function.name, c.function.arguments) for c in message.tool_calls] == [("f", '{"a": 1}'), ("g", "{}")]
        with sdk.chat.completions.stream(model="m", messages=[{"role": "user", "content": "Hi"}]) as stream:
            assert stream.get_final_completion().choices[0].message.refusal == "no"


def test_statuses_headers_and_models_are_answered() -> None:
    script = [Status(429, headers={"retry-after": "7"})]
    with ScriptedUpstream(script, models=["a", "b"]) as upstream, client(upstream) as sdk:
        assert [m.id for m in sdk.models.list()] == ["a", "b"]
        with pytest.raises(openai.RateLimitError) as failed:
            sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert failed.value.response.headers["retry-after"] == "7"


async def test_an_entry_can_depend_on_the_request() -> None:
    def answer(request: Received) -> list[Step]:
        return [Say(f"{len(request.body['messages'])} message")]

    async with ScriptedUpstream([answer]) as upstream, connected(upstream) as up:
        assert (await ask(up)).text == "1 message"


async def test_a_request_beyond_the_script_says_so() -> None:
    async with ScriptedUpstream() as upstream, connected(upstream, max_retries=0) as up:
        with pytest.raises(UpstreamFailed, match="the script has no entry for request 1"):
            await ask(up)


async def test_a_client_that_leaves_is_seen() -> None:
    gate = Gate()
    async with (
        ScriptedUpstream([[Say("a"), gate]]) as upstream,
        openai.AsyncOpenAI(base_url=upstream.url, api_key="any") as sdk,
    ):
        stream = await sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        await gate.reached()
        await stream.close()
        await upstream.requests[0].ended()
        assert upstream.requests[0].aborted


def test_stopping_ends_an_answer_that_waits() -> None:
    gate = Gate()
    upstream = ScriptedUpstream([[Say("a"), gate]])
    with upstream, client(upstream) as sdk:
        sdk.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}], stream=True)
        gate.wait_reached()
    assert upstream.requests[0].aborted
