# pyright: reportDeprecated=false
"""Clients of Azure OpenAI: the same operations at Azure's paths, with its header and its parameter."""

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
import pytest_asyncio
from openai import AsyncAzureOpenAI, AzureOpenAI, OpenAI

from tests.support.refusals import refused
from tests.support.server import RunningServer
from tests.support.stories import FUNCTION, ScriptedModel, ScriptedModels
from threadkeep.api.routes import OPERATIONS, PREFIXES
from threadkeep.upstream.scripted import Call, Say

VERSION = "2024-05-01-preview"


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


@pytest.fixture(params=["classic", "classic with a deployment", "v1"])
def client(request: pytest.FixtureRequest, stage: RunningServer, model: ScriptedModel) -> Iterator[OpenAI]:
    """The forms in which Azure's own pages have clients made."""
    shared: dict[str, Any] = {"api_key": stage.new_key(), "max_retries": 0, "timeout": 60}
    match request.param:
        case "classic":
            client = AzureOpenAI(azure_endpoint=stage.url, api_version=VERSION, **shared)
        case "classic with a deployment":
            # Only chat and the like go to the deployment; the beta's paths do not.
            client = AzureOpenAI(azure_endpoint=stage.url, api_version=VERSION, azure_deployment=model.name, **shared)
        case _:
            client = OpenAI(base_url=f"{stage.url}/openai/v1/", **shared)
    with client:
        yield client


def test_assistants_threads_messages_and_files(client: OpenAI) -> None:
    assistant = client.beta.assistants.create(model="gpt-4o", name="a")
    thread = client.beta.threads.create(metadata={"a": "b"})
    message = client.beta.threads.messages.create(thread.id, role="user", content="Hi")
    file = client.files.create(file=("a.txt", b"text"), purpose="assistants")

    assert client.beta.assistants.update(assistant.id, name="b").name == "b"
    assert [found.id for found in client.beta.assistants.list()] == [assistant.id]
    assert client.beta.threads.retrieve(thread.id) == thread
    assert [found.id for found in client.beta.threads.messages.list(thread.id)] == [message.id]
    assert client.files.content(file.id).read() == b"text"
    assert client.beta.threads.messages.delete(message.id, thread_id=thread.id).deleted
    assert client.beta.threads.delete(thread.id).deleted
    assert client.beta.assistants.delete(assistant.id).deleted


def test_a_run_is_polled(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant = client.beta.assistants.create(model=model.name)

    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hi"}]}
    )

    assert run.status == "completed"


def test_a_run_is_streamed_and_goes_on_after_outputs(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Call("get_weather", {"city": "Oslo"}))
    model.says(Say("Sun", "ny"))
    assistant = client.beta.assistants.create(model=model.name, tools=[FUNCTION])
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Weather?"}])
    threads = client.beta.threads

    with threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as asking:
        waiting = asking.get_final_run()
    assert waiting.required_action is not None
    [call] = waiting.required_action.submit_tool_outputs.tool_calls
    with threads.runs.submit_tool_outputs_stream(
        run_id=waiting.id, thread_id=thread.id, tool_outputs=[{"tool_call_id": call.id, "output": "sun"}]
    ) as answering:
        text = "".join(answering.text_deltas)

    assert text == "Sunny"
    assert threads.runs.retrieve(waiting.id, thread_id=thread.id).status == "completed"


def test_errors_are_those_of_openai(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="No thread found with id 'thread_x'"):
        client.beta.threads.retrieve("thread_x")


@pytest_asyncio.fixture
async def async_client(stage: RunningServer) -> Any:
    async with AsyncAzureOpenAI(
        azure_endpoint=stage.url, api_version=VERSION, api_key=stage.new_key(), max_retries=0, timeout=60
    ) as client:
        yield client


async def test_the_asynchronous_client_streams(async_client: AsyncAzureOpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hel", "lo"))
    assistant = await async_client.beta.assistants.create(model=model.name)
    thread = await async_client.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])

    async with async_client.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        text = "".join([delta async for delta in stream.text_deltas])

    assert text == "Hello"


def test_the_first_beta_is_spoken_at_azures_paths(stage: RunningServer) -> None:
    """Azure's first version, 2024-02-15-preview, was it; the header says so here as everywhere."""
    headers = {"api-key": stage.new_key(), "openai-beta": "assistants=v1"}
    body = {"model": "gpt-4", "file_ids": ["file-a"]}

    answer = httpx2.post(f"{stage.url}/openai/assistants?api-version=2024-02-15-preview", headers=headers, json=body)

    assert answer.json()["file_ids"] == ["file-a"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_operation_is_at_each_of_the_paths(stage: RunningServer, prefix: str) -> None:
    with httpx2.Client(base_url=stage.url) as client:
        for path in {operation.path for operation in OPERATIONS}:
            answer = client.options(prefix + path.replace("{model:path}", "m").replace("{deployment:path}", "d"))
            assert answer.status_code == 204, path


def test_a_wrong_key_in_azures_header_is_refused(stage: RunningServer) -> None:
    answer = httpx2.get(f"{stage.url}/openai/threads?api-version={VERSION}", headers={"api-key": "wrong"})

    assert refused(answer, 401)["code"] == "invalid_api_key"
