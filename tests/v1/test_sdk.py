"""openai 1.20.0 itself, in its own environment: what its helpers make of the first beta's streams and files."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.support.environments import environment
from tests.support.server import RunningServer
from tests.support.stories import ScriptedModels
from threadkeep.upstream.scripted import Call, Finish, Say

PROGRAM = """
import asyncio, json, sys

from openai import AssistantEventHandler, AsyncOpenAI, OpenAI

base_url, api_key, model = sys.argv[1:]
client = OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
threads, runs = client.beta.threads, client.beta.threads.runs
told = {}


class Handler(AssistantEventHandler):
    def __init__(self):
        super().__init__()
        self.heard = []

    def on_text_delta(self, delta, snapshot):
        self.heard.append(["text", delta.value, snapshot.value])

    def on_tool_call_done(self, tool_call):
        self.heard.append(["call", tool_call.type, tool_call.function.arguments])

    def on_run_step_done(self, step):
        self.heard.append(["step", step.type, step.status])

    def on_message_done(self, message):
        self.heard.append(["message", message.status, message.file_ids])


function = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
assistant = client.beta.assistants.create(model=model, tools=[function, {"type": "retrieval"}], file_ids=["file-a"])
thread = threads.create(messages=[{"role": "user", "content": "Hi", "file_ids": ["file-b"]}])

asking = Handler()
with runs.create_and_stream(thread_id=thread.id, assistant_id=assistant.id, event_handler=asking) as stream:
    stream.until_done()
waiting = asking.current_run
[call] = waiting.required_action.submit_tool_outputs.tool_calls
answering = Handler()
with runs.submit_tool_outputs_stream(
    run_id=waiting.id,
    thread_id=thread.id,
    tool_outputs=[{"tool_call_id": call.id, "output": "1"}],
    event_handler=answering,
) as stream:
    stream.until_done()
told["asked"], told["answered"] = asking.heard, answering.heard

# Its polling knows no run that ends as incomplete.
cut = runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20)
told["cut"] = [cut.status, cut.incomplete_details.reason, cut.file_ids]
told["steps"] = [step.type for step in runs.steps.list(waiting.id, thread_id=thread.id, order="asc")]

files = client.beta.assistants.files
told["added"] = files.create(assistant.id, file_id="file-c").id
told["files"] = [file.id for file in files.list(assistant.id, limit=1)]
told["file"] = files.retrieve("file-a", assistant_id=assistant.id).assistant_id == assistant.id
told["deleted"] = files.delete("file-a", assistant_id=assistant.id).object
told["left"] = client.beta.assistants.retrieve(assistant.id).file_ids


async def asynchronously():
    async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        async with client.beta.threads.create_and_run_stream(
            assistant_id=assistant.id, thread={"messages": [{"role": "user", "content": "Hi"}]}
        ) as stream:
            return "".join([delta async for delta in stream.text_deltas])


told["async"] = asyncio.run(asynchronously())
print(json.dumps(told))
"""


@pytest.fixture
def told(stage: RunningServer, scripted_models: ScriptedModels) -> dict[str, Any]:
    """What the program printed."""
    model = scripted_models.new_model()
    model.says(Call("f", {}, fragments=1))
    model.says(Say("Hel", "lo"))
    model.says([Say("Hel"), Finish("length")])
    model.says(Say("By", "e"))
    done = subprocess.run(
        [environment("openai-1.20"), "-I", "-c", PROGRAM, stage.base_url, stage.new_key(), model.name],
        env={**os.environ, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_helpers_of_the_last_sdk_that_spoke_it(told: dict[str, Any]) -> None:
    assert told == {
        "asked": [["call", "function", "{}"]],
        "answered": [
            ["step", "tool_calls", "completed"],
            ["text", "Hel", "Hel"],
            ["text", "lo", "Hello"],
            ["message", "completed", []],
            ["step", "message_creation", "completed"],
        ],
        "cut": ["completed", "max_completion_tokens", ["file-a", "file-b"]],
        "steps": ["tool_calls", "message_creation"],
        "added": "file-c",
        "files": ["file-c", "file-a"],
        "file": True,
        "deleted": "assistant.file.deleted",
        "left": ["file-c"],
        "async": "Bye",
    }
