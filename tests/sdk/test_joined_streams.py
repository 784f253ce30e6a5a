"""The unmodified openai SDK reading streams that it joins again, by its plain ways to a server's other paths."""

# Its own methods are deprecated; that they work is what is tested.
# pyright: reportDeprecated=false

from collections.abc import Iterator

import pytest
from openai import OpenAI, Stream
from openai.lib.streaming import AssistantEventHandler, AssistantStreamManager
from openai.types.beta import AssistantStreamEvent

from tests.sdk.test_python_sdk import Recorder, begin
from tests.support.databases import Database
from tests.support.server import serving
from tests.support.stories import CREATED, ScriptedModel, ScriptedModels, names_of, settings_on, text_of
from threadkeep.upstream.scripted import Gate, Say, Usage


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


@pytest.fixture(params=[600, 0], ids=["from the log", "from what is stored"])
def client(request: pytest.FixtureRequest, database: Database, scripted_models: ScriptedModels) -> Iterator[OpenAI]:
    settings = settings_on(database, scripted_models, stream_retention=request.param)
    with (
        serving(settings) as server,
        OpenAI(base_url=server.base_url, api_key=server.new_key(), max_retries=0, timeout=60) as client,
    ):
        yield client


def joined(client: OpenAI, thread: str, run: str, last: int | None = None) -> Stream[AssistantStreamEvent]:
    headers = {"OpenAI-Beta": "assistants=v2"} | ({} if last is None else {"Last-Event-ID": str(last)})
    return client.get(
        f"/threads/{thread}/runs/{run}/stream",
        cast_to=object,
        options={"headers": headers},
        stream=True,
        stream_cls=Stream[AssistantStreamEvent],
    )


def test_a_run_that_has_ended_is_read_again(client: OpenAI, model: ScriptedModel) -> None:
    model.says([Say("Hello"), Usage(5, 2)])
    assistant, thread = begin(client, model.name)
    run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)

    events = list(joined(client, thread, run.id))

    assert [event.event for event in events] == names_of(CREATED, text_of(1), "thread.run.completed")
    assert events[-1].data == run


def test_the_helpers_begin_a_message_anew_that_is_told_anew(client: OpenAI, model: ScriptedModel) -> None:
    model.says([Say("Hel"), gate := Gate(), Say("lo"), Usage(5, 2)])
    assistant, thread = begin(client, model.name)
    run: str | None = None
    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant) as left:
        for event in left:
            if event.event == "thread.run.created":
                run = event.data.id
            if event.event == "thread.message.delta":
                break
    gate.release()
    assert run is not None
    client.beta.threads.runs.poll(run, thread_id=thread)
    recorder = Recorder()

    # It has the first delta, number 8, and keeps nothing else of what it saw.
    with AssistantStreamManager(lambda: joined(client, thread, str(run), last=3), event_handler=recorder) as stream:
        stream.until_done()
        final = stream.get_final_messages()

    assert not recorder.exceptions
    assert ("text done", "Hello") in recorder.heard
    assert [part.text.value for message in final for part in message.content if part.type == "text"] == ["Hello"]


def test_a_handler_reads_a_joined_stream_from_its_beginning(client: OpenAI, model: ScriptedModel) -> None:
    model.says([Say("Hel", "lo"), Usage(5, 2)])
    assistant, thread = begin(client, model.name)
    run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    handler = AssistantEventHandler()

    with AssistantStreamManager(lambda: joined(client, thread, run.id), event_handler=handler) as stream:
        assert "".join(stream.text_deltas) == "Hello"
        assert stream.get_final_run() == run
