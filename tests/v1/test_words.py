"""What the server cannot be brought to answer yet, and what must never be forgotten in the tables."""

import json
from typing import Any, get_args

import msgspec
import pytest

from tests.support.objects import CREATED_AT
from tests.v1.conftest import SdkModels
from threadkeep.api import assistants_v1
from threadkeep.api.routes import OPERATIONS
from threadkeep.contract.errors import InvalidRequest, NotFound, RateLimited
from threadkeep.contract.events import Event, EventObject
from threadkeep.contract.messages import (
    ImageFile,
    ImageFileContentDelta,
    ImageUrl,
    ImageUrlContentDelta,
    MessageDelta,
    MessageDeltaContent,
    ModifyMessageRequest,
)
from threadkeep.contract.run_steps import (
    CodeInterpreterCall,
    CodeInterpreterToolCall,
    CodeOutputImage,
    CodeOutputLogs,
    FileSearchCall,
    FileSearchResult,
    FileSearchToolCall,
    FileSearchToolCallDelta,
    OutputImage,
    RunStep,
    RunStepDelta,
    RunStepDeltaDetails,
    ToolCallsDelta,
    ToolCallsDetails,
)
from threadkeep.contract.runs import ModifyRunRequest, SubmitToolOutputsRequest
from threadkeep.contract.wire import Object

# Requests of the beta that were the same in the first.
SAME = {ModifyMessageRequest, ModifyRunRequest, SubmitToolOutputsRequest, assistants_v1.CreateAssistantFileRequest}


def as_json(found: Object) -> Any:
    return json.loads(msgspec.json.encode(found))


def test_every_request_of_the_beta_is_upgraded_or_known_to_be_the_same() -> None:
    asked = {operation.body for operation in OPERATIONS if operation.in_beta and operation.body is not None}

    assert asked == set(assistants_v1.UPGRADES) | SAME


def test_every_object_that_is_streamed_is_downgraded() -> None:
    assert set(get_args(EventObject)) <= set(assistants_v1.DOWNGRADES)


def test_a_search_is_told_as_an_empty_retrieval(sdk: SdkModels) -> None:
    result = FileSearchResult(file_id="file-a", file_name="a.txt", score=0.5)
    step = RunStep(
        id="step_a",
        created_at=CREATED_AT,
        run_id="run_a",
        assistant_id="asst_a",
        thread_id="thread_a",
        type="tool_calls",
        status="completed",
        cancelled_at=None,
        completed_at=CREATED_AT,
        expires_at=None,
        expired_at=None,
        failed_at=None,
        last_error=None,
        step_details=ToolCallsDetails(
            tool_calls=[
                FileSearchToolCall(id="call_a", file_search=FileSearchCall(results=[result])),
                CodeInterpreterToolCall(
                    id="call_b",
                    code_interpreter=CodeInterpreterCall(
                        input="1",
                        outputs=[CodeOutputLogs(logs="1"), CodeOutputImage(image=OutputImage(file_id="file-b"))],
                    ),
                ),
            ]
        ),
        metadata={},
        usage=None,
    )

    name, shown = assistants_v1.told(Event("thread.run.step.completed", step))

    found = as_json(shown)
    sdk.check(found, name)
    search, code = found["step_details"]["tool_calls"]
    assert search == {"type": "retrieval", "id": "call_a", "retrieval": {}}
    assert code == as_json(step)["step_details"]["tool_calls"][1]


@pytest.mark.parametrize("id_", ["call_a", msgspec.UNSET])
def test_the_deltas_of_a_search_are_those_of_a_retrieval(sdk: SdkModels, id_: str | msgspec.UnsetType) -> None:
    call = FileSearchToolCallDelta(index=0, id=id_, file_search=FileSearchCall())
    delta = RunStepDelta(id="step_a", delta=RunStepDeltaDetails(step_details=ToolCallsDelta(tool_calls=[call])))

    name, shown = assistants_v1.told(Event("thread.run.step.delta", delta))

    found = as_json(shown)
    sdk.check(found, name)
    assert found["delta"]["step_details"]["tool_calls"] == [
        {"type": "retrieval", "index": 0, "retrieval": {}, **({} if id_ is msgspec.UNSET else {"id": id_})}
    ]


def test_the_deltas_of_images(sdk: SdkModels) -> None:
    delta = MessageDelta(
        id="msg_a",
        delta=MessageDeltaContent(
            content=[
                ImageFileContentDelta(index=0, image_file=ImageFile(file_id="file-a")),
                ImageUrlContentDelta(index=1, image_url=ImageUrl(url="https://example.com/a.png")),
            ]
        ),
    )

    name, shown = assistants_v1.told(Event("thread.message.delta", delta))

    found = as_json(shown)
    sdk.check(found, name)
    assert found["delta"]["content"] == [
        {"type": "image_file", "index": 0, "image_file": {"file_id": "file-a"}},
        {"type": "text", "index": 1, "text": {"value": "https://example.com/a.png"}},
    ]


@pytest.mark.parametrize(
    ("said", "param", "told", "named"),
    [
        ("Invalid 'attachments[3].file_id'.", "attachments[3].file_id", "Invalid 'file_ids[3]'.", "file_ids[3]"),
        (
            "No 'thread.messages[1].attachments[0]'.",
            "thread.messages[1].attachments[0]",
            "No 'thread.messages[1].file_ids[0]'.",
            "thread.messages[1].file_ids[0]",
        ),
        (
            "Bad 'tool_resources.code_interpreter.file_ids[2]'.",
            "tool_resources.code_interpreter.file_ids[2]",
            "Bad 'file_ids[2]'.",
            "file_ids[2]",
        ),
        ("The tool 'file_search' is away.", "tools", "The tool 'retrieval' is away.", "tools"),
    ],
)
@pytest.mark.parametrize("kind", [InvalidRequest, NotFound])
def test_refusals_from_below_are_put_into_the_first_betas_words(
    kind: type[InvalidRequest] | type[NotFound], said: str, param: str, told: str, named: str
) -> None:
    blamed = assistants_v1.blamed(kind(said, param=param, code="c"))

    assert isinstance(blamed, kind)
    assert (blamed.message, blamed.param, blamed.code) == (told, named, "c")


def test_other_refusals_stay_as_they_are() -> None:
    for error in (InvalidRequest("x", param="name"), RateLimited("slow", retry_after_s=1)):
        assert assistants_v1.blamed(error) is error
