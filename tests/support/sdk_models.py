"""Every object the server answers, held against the openai SDK's own models, strictly: the right type, not a close one.

The SDK itself never checks what it reads. A field of ours that its model does not know is reported too, unless it is in
`ALLOWED`, with its reason.
"""

import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from openai.types import Model, VectorStore, VectorStoreDeleted
    from openai.types.beta import Assistant, AssistantDeleted, AssistantStreamEvent, Thread, ThreadDeleted
    from openai.types.beta.threads import Message, MessageDeleted, MessageDeltaEvent, Run
    from openai.types.beta.threads.runs import RunStep, RunStepDeltaEvent
    from openai.types.shared import ErrorObject
    from openai.types.vector_stores import VectorStoreFile, VectorStoreFileBatch, VectorStoreFileDeleted

MODELS: dict[str, type[BaseModel]] = {
    "assistant": Assistant,
    "assistant.deleted": AssistantDeleted,
    "thread": Thread,
    "thread.deleted": ThreadDeleted,
    "thread.message": Message,
    "thread.message.deleted": MessageDeleted,
    "thread.message.delta": MessageDeltaEvent,
    "thread.run": Run,
    "thread.run.step": RunStep,
    "thread.run.step.delta": RunStepDeltaEvent,
    "model": Model,
    "vector_store": VectorStore,
    "vector_store.deleted": VectorStoreDeleted,
    "vector_store.file": VectorStoreFile,
    "vector_store.file.deleted": VectorStoreFileDeleted,
    "vector_store.files_batch": VectorStoreFileBatch,
}

# Fields that the SDK's models do not have, and why the server sends them all the same.
ALLOWED: dict[str, str] = {
    "Run.tool_resources": "real run objects carried it; users look there for what a run worked on",
    "Run.reasoning_effort": "the effective setting, echoed like every other",
    "Assistant.reasoning_effort": "shown when it was given: else nobody could read it back",
    "RunStep.expires_at": "what the service really answered, in place of the schema's expired_at",
    "Usage.prompt_token_details": "later payloads of the service had it, spelt so",
    "Usage.completion_tokens_details": "likewise: reasoning tokens are seen nowhere else",
    "FileCitation.quote": "the older libraries read it without asking whether it is there",
}


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    return TypeAdapter[Any](model)


def check_object(found: Mapping[str, Any]) -> None:
    """Fails unless the SDK's model of the object, a list's items or an error's envelope takes it as it is."""
    if "error" in found:
        check_error(found)
        return
    kind = found["object"]
    if kind == "list":
        for one in found["data"]:
            check_object(one)
        return
    _check(MODELS[kind], found)


def check_error(found: Mapping[str, Any]) -> None:
    assert set(found) == {"error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    _check(ErrorObject, found["error"])


def check_event(name: str, data: Mapping[str, Any]) -> None:
    """Fails unless the SDK's union of stream events has one that takes the name together with the object."""
    event = _adapter(AssistantStreamEvent).validate_python({"event": name, "data": data}, strict=True)
    assert event.event == name
    _refuse_unknown(event.data)


def _check(model: type[BaseModel], found: Mapping[str, Any]) -> None:
    _refuse_unknown(_adapter(model).validate_python(found, strict=True))


def _refuse_unknown(found: object) -> None:
    unknown = sorted(set(_unknown(found)) - set(ALLOWED))
    assert not unknown, f"fields that the SDK does not know: {unknown}"


def _unknown(found: object) -> Iterator[str]:
    if isinstance(found, BaseModel):
        for name in found.model_extra or ():
            yield f"{type(found).__name__}.{name}"
        for name in type(found).model_fields:
            yield from _unknown(getattr(found, name))
    elif isinstance(found, list):
        for one in found:  # pyright: ignore[reportUnknownVariableType]
            yield from _unknown(one)  # pyright: ignore[reportUnknownArgumentType]
