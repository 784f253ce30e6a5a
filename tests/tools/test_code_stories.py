"""The code interpreter through real HTTP and the SDK, with the offline model."""

# The SDK marks the whole API as deprecated; it is what is tested.
# pyright: reportDeprecated=false

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.beta.threads import Message
from openai.types.beta.threads.runs import RunStep, RunStepDelta, ToolCall, ToolCallDelta

from tests.support.databases import Database
from tests.support.sandbox import PLACE
from tests.support.server import RunningServer, serving
from threadkeep.settings import Settings

pytestmark = [
    pytest.mark.usefixtures("sandbox_environment", "bubblewrap"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def coder(sqlite_database: Database) -> Iterator[RunningServer]:
    """A server that runs code."""
    settings = Settings(data_dir=sqlite_database.data_dir, sandbox_environment=PLACE, sandbox_pool=0, grace_seconds=0)
    with serving(settings) as server:
        yield server


@pytest.fixture
def sdk(coder: RunningServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=coder.base_url, api_key=coder.new_key(), max_retries=0, timeout=120) as sdk:
        yield sdk


class Heard(openai.AssistantEventHandler):
    """What a handler of the SDK ends up with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Any] = []
        self.deltas: list[RunStepDelta] = []

    def on_run_step_done(self, run_step: RunStep) -> None:
        if run_step.step_details.type == "tool_calls":
            self.calls += run_step.step_details.tool_calls

    def on_tool_call_delta(self, delta: ToolCallDelta, snapshot: ToolCall) -> None:
        assert delta.type == snapshot.type == "code_interpreter"

    def on_run_step_delta(self, delta: RunStepDelta, snapshot: RunStep) -> None:
        self.deltas.append(delta)


def ask(sdk: openai.OpenAI, thread_id: str, assistant_id: str, *lines: str) -> Heard:
    sdk.beta.threads.messages.create(thread_id, role="user", content="\n".join(lines))
    heard = Heard()
    with sdk.beta.threads.runs.stream(thread_id=thread_id, assistant_id=assistant_id, event_handler=heard) as stream:
        stream.until_done()
        assert stream.current_run is not None
        assert stream.current_run.status == "completed", stream.current_run.last_error
    return heard


def answer(sdk: openai.OpenAI, thread_id: str) -> str:
    newest: Message = sdk.beta.threads.messages.list(thread_id, limit=1).data[0]
    return "".join(part.text.value for part in newest.content if part.type == "text")


def test_string_is_reversed_and_a_second_run_has_the_variable(sdk: openai.OpenAI) -> None:
    assistant = sdk.beta.assistants.create(model="offline", tools=[{"type": "code_interpreter"}])
    thread = sdk.beta.threads.create()
    heard = ask(sdk, thread.id, assistant.id, """call code_interpreter {"code": "s = 'openaichatgpt'\\ns[::-1]"}""")
    [call] = heard.calls
    assert call.code_interpreter.input == "s = 'openaichatgpt'\ns[::-1]"
    assert [output.logs for output in call.code_interpreter.outputs] == ["'tpgtahcianepo'\n"]
    assert len(heard.deltas) > 2
    assert "'tpgtahcianepo'" in answer(sdk, thread.id)
    ask(sdk, thread.id, assistant.id, """call code_interpreter {"code": "s.upper()"}""")
    assert "'OPENAICHATGPT'" in answer(sdk, thread.id)


def test_attached_file_is_read_and_a_written_one_is_downloaded(sdk: openai.OpenAI) -> None:
    assistant = sdk.beta.assistants.create(model="offline", tools=[{"type": "code_interpreter"}])
    file = sdk.files.create(file=("sales.csv", b"n\n1\n2\n"), purpose="assistants")
    thread = sdk.beta.threads.create(tool_resources={"code_interpreter": {"file_ids": [file.id]}})
    code = "import pandas as pd; d = pd.read_csv('sales.csv'); d.sum().to_csv('sum.csv'); int(d.n.sum())"
    ask(sdk, thread.id, assistant.id, f'call code_interpreter {{"code": "{code}"}}')
    assert "3" in answer(sdk, thread.id)
    [made] = sdk.files.list(purpose="assistants_output").data
    assert made.filename == "sum.csv"
    assert sdk.files.content(made.id).read() == b",0\nn,3\n"


def test_thread_that_is_deleted_takes_its_session_along(coder: RunningServer, sdk: openai.OpenAI) -> None:
    assistant = sdk.beta.assistants.create(model="offline", tools=[{"type": "code_interpreter"}])
    thread = sdk.beta.threads.create()
    ask(sdk, thread.id, assistant.id, """call code_interpreter {"code": "1"}""")

    async def sessions() -> int:
        return len(coder.parts.sandbox._seats)

    assert coder.call(sessions) == 1
    sdk.beta.threads.delete(thread.id)
    assert coder.call(sessions) == 0
