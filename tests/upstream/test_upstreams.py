"""Which upstream answers which model, and the list of models."""

from __future__ import annotations

import pytest

from tests.upstream.answers import ask, asking
from threadkeep.contract.errors import NotFound, UpstreamFailed
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.scripted import Hang, Say, ScriptedUpstream
from threadkeep.upstream.upstreams import Upstreams
from threadkeep.upstream.windows import DEFAULT_WINDOW

OPENAI = UpstreamConfig(name="openai", url="https://api.openai.com/v1", models=("gpt-*", "o3"))
LOCAL = UpstreamConfig(name="local", url="http://127.0.0.1:11434/v1")


@pytest.mark.parametrize("model", ["offline", "gpt-4o", "anything at all"])
def test_without_configuration_every_model_is_the_offline_model(model: str) -> None:
    assert Upstreams().for_model(model).name == "offline"


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-4o", "openai"), ("o3", "openai"), ("o3-mini", "local"), ("llama3.1", "local"), ("offline", "offline"),
     ("offline-slow", "offline")],
)  # fmt: skip
def test_the_first_pattern_that_matches_decides(model: str, name: str) -> None:
    assert Upstreams([OPENAI, LOCAL]).for_model(model).name == name


def test_a_model_that_nobody_answers_is_not_found() -> None:
    with pytest.raises(NotFound, match="'llama3'"):
        Upstreams([OPENAI]).for_model("llama3")


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-4", 8_192),
        ("gpt-4o-mini", 128_000),
        ("gpt-4.1-nano", 1_047_576),
        ("gpt-3.5-turbo", 16_385),
        ("llama3.1:8b", 131_072),
        ("meta-llama/Llama-3.3-70B-Instruct", 131_072),
        ("llama3:8b", 8_192),
        ("Qwen/Qwen2.5-7B-Instruct", 32_768),
        ("claude-3-5-sonnet", 200_000),
        ("phi3:mini", 16_384),
        ("microsoft/phi-4", 16_384),
        ("dolphin", DEFAULT_WINDOW),
        ("never-heard-of-it", DEFAULT_WINDOW),
    ],
)
def test_the_context_window_is_known_by_the_models_name(model: str, tokens: int) -> None:
    assert Upstreams([LOCAL]).for_model(model).context_window(model) == tokens


def test_the_context_window_goes_by_the_name_there() -> None:
    config = UpstreamConfig(name="l", url="http://h/v1", model_rename={"gpt-4o": "llama3:8b"})
    assert Upstreams([config]).for_model("gpt-4o").context_window("gpt-4o") == 8_192


def test_a_configured_context_window_wins() -> None:
    config = UpstreamConfig(name="l", url="http://h/v1", context_window=4_096)
    assert Upstreams([config]).for_model("gpt-4o").context_window("gpt-4o") == 4_096


def test_quirks_that_do_not_exist_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no quirks called 'x'"):
        Upstreams([UpstreamConfig(name="l", url="http://h/v1", quirks="x")])


@pytest.mark.parametrize("url", ["127.0.0.1:11434/v1", "localhost", "ftp://h/v1", "http:///v1", ""])
def test_a_url_that_is_none_is_refused_at_once_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match="must be like http://"):
        Upstreams([UpstreamConfig(name="l", url=url)])


async def test_the_list_is_that_of_all_upstreams_and_the_offline_model() -> None:
    async with ScriptedUpstream(models=["a1", "b1"]) as first, ScriptedUpstream(models=["a1", "b2"]) as second:
        upstreams = Upstreams(
            [
                UpstreamConfig(name="first", url=first.url, models=("a*", "named")),
                UpstreamConfig(name="second", url=second.url),
            ]
        )
        listed = await upstreams.models()
        await upstreams.close()
    # b1 of the first and a1 of the second are not to be had there: for_model would go elsewhere.
    assert [m.id for m in listed] == ["a1", "named", "b2", "offline", "offline-slow"]


async def test_an_upstream_that_is_away_does_not_spoil_the_list() -> None:
    async with ScriptedUpstream(models=["a"]) as alive:
        upstreams = Upstreams(
            [
                UpstreamConfig(name="dead", url="http://127.0.0.1:9/v1", models=("d*", "named")),
                UpstreamConfig(name="alive", url=alive.url),
            ]
        )
        assert [m.id for m in await upstreams.models()] == ["named", "a", "offline", "offline-slow"]
        await upstreams.close()


async def test_one_model_of_the_list_can_be_had() -> None:
    async with ScriptedUpstream(models=["a"]) as server:
        upstreams = Upstreams([UpstreamConfig(name="s", url=server.url)])
        assert (await upstreams.model("a")).owned_by == "scripted"
        assert (await upstreams.model("offline")).owned_by == "threadkeep"
        with pytest.raises(NotFound):
            await upstreams.model("b")
        await upstreams.close()


async def test_the_list_is_asked_for_once_in_a_while_only() -> None:
    async with ScriptedUpstream(models=["a"]) as server:
        upstreams = Upstreams([UpstreamConfig(name="s", url=server.url)])
        await upstreams.models()
        server.models = ["a", "b"]
        assert [m.id for m in await upstreams.models()] == ["a", "offline", "offline-slow"]
        await upstreams.close()


async def test_each_upstream_gets_its_own_key() -> None:
    async with ScriptedUpstream([Say("1")]) as first, ScriptedUpstream([Say("2")]) as second:
        upstreams = Upstreams(
            [
                UpstreamConfig(name="first", url=first.url, models=("a",), api_key="key-a"),
                UpstreamConfig(name="second", url=second.url, api_key="key-b"),
            ]
        )
        assert (await ask(upstreams.for_model("a"), asking(model="a"))).text == "1"
        assert (await ask(upstreams.for_model("b"), asking(model="b"))).text == "2"
        await upstreams.close()
    assert first.requests[0].headers["authorization"] == "Bearer key-a"
    assert second.requests[0].headers["authorization"] == "Bearer key-b"


async def test_closing_ends_streams_that_are_open() -> None:
    async with ScriptedUpstream([[Say("a"), Hang()]]) as server:
        upstreams = Upstreams([UpstreamConfig(name="s", url=server.url)])
        stream = upstreams.for_model("m").stream(asking())
        await anext(stream)
        await upstreams.close()
        with pytest.raises(UpstreamFailed):
            await anext(stream)
        await server.requests[0].ended()
