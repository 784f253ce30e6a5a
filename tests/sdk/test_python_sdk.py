"""The unmodified openai SDK against a server: what the programs do that people bring along."""

# Its own methods are deprecated; that they work is what is tested.
# pyright: reportDeprecated=false

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AssistantEventHandler, AsyncAssistantEventHandler, AsyncOpenAI, OpenAI
from openai.types.beta.threads import Run
from typing_extensions import override

from tests.support.server import RunningServer
from tests.support.stories import FUNCTION, ScriptedModel, ScriptedModels
from threadkeep.upstream.scripted import Call, Cut, Gate, Refuse, Say, Status, Usage

OSLO = Call("get_weather", {"city": "Oslo"}, fragments=2)


@pytest.fixture
def model(scripted_models: ScriptedModels) -> ScriptedModel:
    return scripted_models.new_model()


@pytest.fixture
def client(stage: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=stage.base_url, api_key=stage.new_key(), max_retries=0, timeout=60) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(stage: RunningServer) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=stage.base_url, api_key=stage.new_key(), max_retries=0, timeout=60) as client:
        yield client


def begin(client: OpenAI, model: str, text: str = "Weather?", **fields: Any) -> tuple[str, str]:
    """The ids of an assistant and of a thread with one message."""
    assistant = client.beta.assistants.create(model=model, **fields)
    thread = client.beta.threads.create(messages=[{"role": "user", "content": text}])
    return assistant.id, thread.id


def outputs_of(run: Run) -> list[Any]:
    assert run.required_action is not None
    calls = run.required_action.submit_tool_outputs.tool_calls
    return [{"tool_call_id": call.id, "output": "sun"} for call in calls]


class Recorder(AssistantEventHandler):
    """Writes down every callback, in order, with what tells it from another."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, Any]] = []
        self.events: list[str] = []
        self.exceptions: list[Exception] = []

    @override
    def on_event(self, event: Any) -> None:
        self.events.append(event.event)

    @override
    def on_text_created(self, text: Any) -> None:
        self.heard.append(("text created", text.value))

    @override
    def on_text_delta(self, delta: Any, snapshot: Any) -> None:
        self.heard.append(("text delta", (delta.value, snapshot.value)))

    @override
    def on_text_done(self, text: Any) -> None:
        self.heard.append(("text done", text.value))

    @override
    def on_message_created(self, message: Any) -> None:
        self.heard.append(("message created", message.status))

    @override
    def on_message_done(self, message: Any) -> None:
        self.heard.append(("message done", message.status))

    @override
    def on_run_step_created(self, run_step: Any) -> None:
        self.heard.append(("step created", run_step.type))

    @override
    def on_run_step_done(self, run_step: Any) -> None:
        self.heard.append(("step done", run_step.status))

    @override
    def on_tool_call_created(self, tool_call: Any) -> None:
        self.heard.append(("call created", tool_call.function.name))

    @override
    def on_tool_call_delta(self, delta: Any, snapshot: Any) -> None:
        self.heard.append(("call delta", snapshot.function.arguments))

    @override
    def on_tool_call_done(self, tool_call: Any) -> None:
        self.heard.append(("call done", tool_call.function.arguments))

    @override
    def on_exception(self, exception: Exception) -> None:
        self.exceptions.append(exception)

    @override
    def on_end(self) -> None:
        self.heard.append(("end", None))


def test_the_first_minute(client: OpenAI) -> None:
    """The README's snippet, in short: words as they come, and a follow-up that needs the first."""
    assistant, thread = begin(client, "offline", "My name is Ada.")
    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant) as stream:
        words = list(stream.text_deltas)
    assert "".join(words) == "I will remember that your name is Ada."
    assert len(words) > 1

    client.beta.threads.messages.create(thread, role="user", content="What is my name?")
    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant) as stream:
        assert "".join(stream.text_deltas) == "Your name is Ada."


def test_a_stream_calls_back_in_this_order(client: OpenAI, model: ScriptedModel) -> None:
    model.says([Say("Hel", "lo"), Usage(5, 2)])
    assistant, thread = begin(client, model.name)
    recorder = Recorder()

    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant, event_handler=recorder) as stream:
        stream.until_done()

    assert recorder.heard == [
        ("step created", "message_creation"),
        ("message created", "in_progress"),
        ("text created", "Hel"),
        ("text delta", ("Hel", "Hel")),
        ("text delta", ("lo", "Hello")),
        ("text done", "Hello"),
        ("message done", "completed"),
        ("step done", "completed"),
        ("end", None),
    ]
    run = recorder.get_final_run()
    assert (run.status, run.usage and run.usage.total_tokens) == ("completed", 7)
    [message] = recorder.get_final_messages()
    assert message.content[0].type == "text"
    assert message.content[0].text.value == "Hello"
    [step] = recorder.get_final_run_steps()
    assert step.run_id == run.id


def test_function_calls_call_back_in_this_order(client: OpenAI, model: ScriptedModel) -> None:
    model.says([OSLO, Call("get_weather", {"city": "Rome"}, fragments=1)], Say("Fine."))
    assistant, thread = begin(client, model.name, tools=[FUNCTION])
    asking, answering = Recorder(), Recorder()

    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant, event_handler=asking) as stream:
        stream.until_done()
    run = asking.get_final_run()
    with client.beta.threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread, tool_outputs=outputs_of(run), event_handler=answering
    ) as stream:
        stream.until_done()

    assert asking.heard == [
        ("step created", "tool_calls"),
        ("call created", "get_weather"),
        ("call delta", '{"city":'),
        ("call delta", '{"city": "Oslo"}'),
        ("call done", '{"city": "Oslo"}'),
        ("call created", "get_weather"),
        ("call delta", '{"city": "Rome"}'),
        ("call done", '{"city": "Rome"}'),
        ("end", None),
    ]
    assert run.status == "requires_action"
    # What the helper put together from the deltas is what the run asks for.
    [step] = asking.get_final_run_steps()
    assert run.required_action is not None
    assert step.step_details.type == "tool_calls"
    assert [call.id for call in step.step_details.tool_calls] == [
        call.id for call in run.required_action.submit_tool_outputs.tool_calls
    ]
    assert answering.events[0] == "thread.run.step.completed"
    assert answering.heard[-5:] == [
        ("text delta", ("Fine.", "Fine.")),
        ("text done", "Fine."),
        ("message done", "completed"),
        ("step done", "completed"),
        ("end", None),
    ]
    assert answering.get_final_run().status == "completed"


def test_create_thread_and_run_streams(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant = client.beta.assistants.create(model=model.name)

    with client.beta.threads.create_and_run_stream(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hi"}]}
    ) as stream:
        names = [event.event for event in stream]
        run = stream.get_final_run()

    assert names[0] == "thread.created"
    assert run.status == "completed"


@pytest.mark.parametrize("ends", ["cut", "refused", "silent"])
def test_the_helper_outlives_every_end(client: OpenAI, model: ScriptedModel, ends: str) -> None:
    gate = Gate()
    model.says({"cut": [Say("Hel"), Cut()], "refused": [Refuse("No.")], "silent": [gate, Say("late")]}[ends])
    assistant, thread = begin(client, model.name)
    recorder = Recorder()

    with client.beta.threads.runs.stream(thread_id=thread, assistant_id=assistant, event_handler=recorder) as stream:
        if ends == "silent":
            gate.wait_reached()
            [run] = client.beta.threads.runs.list(thread).data
            client.beta.threads.runs.cancel(run.id, thread_id=thread)
        stream.until_done()

    assert recorder.exceptions == []
    assert recorder.get_final_run().status == {"cut": "failed", "refused": "completed", "silent": "cancelled"}[ends]


def test_a_raw_stream_yields_events(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant, thread = begin(client, model.name)

    events = list(client.beta.threads.runs.create(thread, assistant_id=assistant, stream=True))

    assert events[0].event == "thread.run.created"
    assert events[-1].event == "thread.run.completed"


def test_create_and_poll(client: OpenAI, model: ScriptedModel) -> None:
    model.says(OSLO, Say("Fine."))
    assistant, thread = begin(client, model.name, tools=[FUNCTION])

    run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)
    assert run.status == "requires_action"
    run = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id, thread_id=thread, tool_outputs=outputs_of(run)
    )

    assert run.status == "completed"
    newest = client.beta.threads.messages.list(thread).data[0]
    assert newest.content[0].type == "text"
    assert newest.content[0].text.value == "Fine."
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread, order="asc")
    assert [step.type for step in steps] == ["tool_calls", "message_creation"]
    first = client.beta.threads.runs.steps.retrieve(steps.data[0].id, thread_id=thread, run_id=run.id)
    assert first == steps.data[0]


def test_create_thread_and_run_and_poll(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant = client.beta.assistants.create(model=model.name)

    run = client.beta.threads.create_and_run_poll(
        assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hi"}]}
    )

    assert run.status == "completed"


def test_lists_page_by_themselves(client: OpenAI) -> None:
    thread = client.beta.threads.create()
    made = [client.beta.threads.messages.create(thread.id, role="user", content=f"{n}").id for n in range(25)]

    newest_first = [message.id for message in client.beta.threads.messages.list(thread.id, limit=10)]
    oldest_first = [message.id for message in client.beta.threads.messages.list(thread.id, limit=7, order="asc")]

    assert newest_first == made[::-1]
    assert oldest_first == made


def test_assistants_page_by_themselves(client: OpenAI) -> None:
    made = [client.beta.assistants.create(model="offline", name=f"{n}").id for n in range(5)]

    assert [assistant.id for assistant in client.beta.assistants.list(limit=2)] == made[::-1]


def test_metadata_takes_any_scalar(client: OpenAI) -> None:
    given: Any = {"modified_today": True, "feedback_rating": 4.5, "n": 3, "s": "text"}

    thread = client.beta.threads.create(metadata=given)
    message = client.beta.threads.messages.create(thread.id, role="user", content="Hi", metadata=given)

    expected = {"modified_today": "true", "feedback_rating": "4.5", "n": "3", "s": "text"}
    assert thread.metadata == message.metadata == expected
    assert client.beta.threads.retrieve(thread.id).metadata == expected


def test_everything_that_can_be_made_can_be_changed_and_deleted(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant, thread = begin(client, model.name)
    message = client.beta.threads.messages.list(thread).data[0]
    run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)

    assert client.beta.assistants.update(assistant, name="Ada").name == "Ada"
    assert client.beta.threads.update(thread, metadata={"a": "b"}).metadata == {"a": "b"}
    changed = client.beta.threads.messages.update(message.id, thread_id=thread, metadata={"a": "b"})
    assert changed.metadata == {"a": "b"}
    assert client.beta.threads.runs.update(run.id, thread_id=thread, metadata={"a": "b"}).metadata == {"a": "b"}

    assert client.beta.threads.messages.delete(message.id, thread_id=thread).deleted
    assert client.beta.threads.delete(thread).deleted
    assert client.beta.assistants.delete(assistant).deleted


def test_models_are_listed(client: OpenAI) -> None:
    assert "offline" in {model.id for model in client.models.list()}
    assert client.models.retrieve("offline").owned_by == "threadkeep"


def ask_for_an_unknown_thread(client: OpenAI) -> None:
    client.beta.threads.retrieve("thread_unknown")


def ask_for_no_thread(client: OpenAI) -> None:
    client.beta.threads.retrieve("undefined")


def ask_for_too_much_heat(client: OpenAI) -> None:
    client.beta.assistants.create(model="offline", temperature=3)


def ask_with_a_wrong_key(client: OpenAI) -> None:
    client.with_options(api_key="wrong").models.list()


def ask_with_nested_metadata(client: OpenAI) -> None:
    nested: Any = {"a": {"nested": True}}
    client.beta.threads.create(metadata=nested)


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (ask_for_an_unknown_thread, openai.NotFoundError, "No thread found with id 'thread_unknown'."),
        (
            ask_for_no_thread,
            openai.BadRequestError,
            "Invalid 'thread_id': 'undefined'. Expected an ID that begins with 'thread'.",
        ),
        (ask_for_too_much_heat, openai.BadRequestError, "Invalid 'temperature'"),
        (ask_with_a_wrong_key, openai.AuthenticationError, "Incorrect API key provided"),
        (
            ask_with_nested_metadata,
            openai.BadRequestError,
            "Invalid type for 'metadata.a': expected a string, but got an object instead.",
        ),
    ],
)
def test_errors_are_of_the_right_class(
    client: OpenAI, ask: Callable[[OpenAI], None], kind: type[openai.APIStatusError], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)) as raised:
        ask(client)

    assert raised.value.type == "invalid_request_error"
    assert raised.value.request_id is not None


def test_a_locked_thread_is_a_bad_request_that_names_the_run(client: OpenAI, model: ScriptedModel) -> None:
    model.says(gate := Gate())
    assistant, thread = begin(client, model.name)
    run = client.beta.threads.runs.create(thread, assistant_id=assistant)

    with pytest.raises(openai.BadRequestError) as raised:
        client.beta.threads.messages.create(thread, role="user", content="Wait")
    gate.release()

    assert raised.value.body == {
        "message": f"Can't add messages to {thread} while a run {run.id} is active.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }


def test_a_failed_run_says_why(client: OpenAI, model: ScriptedModel) -> None:
    model.says(Status(429, headers={"retry-after": "3"}))
    assistant, thread = begin(client, model.name)

    run = client.beta.threads.runs.create_and_poll(thread_id=thread, assistant_id=assistant)

    assert run.status == "failed"
    assert run.last_error is not None
    assert run.last_error.code == "rate_limit_exceeded"
    assert "try again in 3 seconds" in run.last_error.message


async def test_the_asynchronous_client_streams_and_answers_calls(
    async_client: AsyncOpenAI, model: ScriptedModel
) -> None:
    model.says(OSLO, Say("Fi", "ne."))
    threads = async_client.beta.threads
    assistant = await async_client.beta.assistants.create(model=model.name, tools=[FUNCTION])
    thread = await threads.create(messages=[{"role": "user", "content": "Weather?"}])

    async with threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        await stream.until_done()
        run = await stream.get_final_run()
    async with threads.runs.submit_tool_outputs_stream(
        run_id=run.id, thread_id=thread.id, tool_outputs=outputs_of(run), event_handler=AsyncAssistantEventHandler()
    ) as stream:
        words = [word async for word in stream.text_deltas]

    assert words == ["Fi", "ne."]
    assert [message.role async for message in threads.messages.list(thread.id, limit=1)] == ["assistant", "user"]


async def test_the_asynchronous_client_polls(async_client: AsyncOpenAI, model: ScriptedModel) -> None:
    model.says(Say("Hello"))
    assistant = await async_client.beta.assistants.create(model=model.name)
    thread = await async_client.beta.threads.create(messages=[{"role": "user", "content": "Hi"}])

    run = await async_client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)

    assert run.status == "completed"


def test_what_is_enqueued_is_answered_in_turn(client: OpenAI, model: ScriptedModel) -> None:
    model.says([gate := Gate(), Say("Hello")], Say("Fine"))
    assistant_id, thread_id = begin(client, model.name, "Hi")
    client.beta.threads.runs.create(thread_id, assistant_id=assistant_id)
    gate.wait_reached()
    busy = {"if_active": "enqueue"}

    client.beta.threads.messages.create(thread_id, role="user", content="How are you?", extra_body=busy)
    with client.beta.threads.runs.stream(thread_id=thread_id, assistant_id=assistant_id, extra_body=busy) as stream:
        gate.release()
        assert "".join(stream.text_deltas) == "Fine"

    said = [message.content[0] for message in client.beta.threads.messages.list(thread_id, order="asc")]
    assert [part.text.value for part in said if part.type == "text"] == ["Hi", "Hello", "How are you?", "Fine"]


def test_what_interrupts_comes_next(client: OpenAI, model: ScriptedModel) -> None:
    model.says([Say("Hel"), gate := Gate(), Say("lo")], Say("Sorry"))
    assistant_id, thread_id = begin(client, model.name, "Hi")
    first = client.beta.threads.runs.create(thread_id, assistant_id=assistant_id)
    gate.wait_reached()

    second = client.beta.threads.runs.create_and_poll(
        thread_id=thread_id, assistant_id=assistant_id, extra_body={"if_active": "interrupt"}
    )

    gate.release()
    assert second.status == "completed"
    assert client.beta.threads.runs.retrieve(first.id, thread_id=thread_id).status == "cancelled"
