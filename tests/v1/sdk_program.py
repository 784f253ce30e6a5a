# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
# Runs in an environment with openai 1.20.0, which the rest of the tests do not see.
"""Holds objects and events against the models of openai 1.20.0: a line of JSON in, a line with what is wrong out."""

import json
import sys
from typing import Any

from openai.types.beta import Assistant, AssistantDeleted, AssistantStreamEvent, Thread, ThreadDeleted
from openai.types.beta.assistants import AssistantFile, FileDeleteResponse
from openai.types.beta.threads import Message, MessageDeltaEvent, Run
from openai.types.beta.threads.messages import MessageFile
from openai.types.beta.threads.runs import RunStep, RunStepDeltaEvent
from pydantic import BaseModel, TypeAdapter

MODELS = {
    "assistant": Assistant,
    "assistant.deleted": AssistantDeleted,
    "assistant.file": AssistantFile,
    "assistant.file.deleted": FileDeleteResponse,
    "thread": Thread,
    "thread.deleted": ThreadDeleted,
    "thread.message": Message,
    "thread.message.delta": MessageDeltaEvent,
    "thread.message.file": MessageFile,
    "thread.run": Run,
    "thread.run.step": RunStep,
    "thread.run.step.delta": RunStepDeltaEvent,
}
# In the specification, though not yet in this SDK.
ALLOWED = {"Run": {"top_p"}}
ADAPTERS: dict[str, Any] = {name: TypeAdapter(model) for name, model in MODELS.items()}
EVENTS: Any = TypeAdapter(AssistantStreamEvent)


def check(event: str | None, data: dict[str, Any]) -> None:
    if event is not None:
        found = EVENTS.validate_python({"event": event, "data": data}, strict=True)
        assert found.event == event, f"{event} was taken for {found.event}"
        refuse_unknown(found.data)
    elif data["object"] == "list":
        for one in data["data"]:
            check(None, one)
    else:
        refuse_unknown(ADAPTERS[data["object"]].validate_python(data, strict=True))


def refuse_unknown(found: object) -> None:
    if isinstance(found, list):
        for one in found:
            refuse_unknown(one)
    elif isinstance(found, BaseModel):
        unknown = sorted(set(found.model_extra or ()) - ALLOWED.get(type(found).__name__, set()))
        assert not unknown, f"{type(found).__name__} does not know {unknown}"
        for name in type(found).model_fields:
            refuse_unknown(getattr(found, name))


for line in sys.stdin:
    try:
        check(**json.loads(line))
    except Exception as error:
        print(json.dumps(str(error)), flush=True)
    else:
        print("null", flush=True)
