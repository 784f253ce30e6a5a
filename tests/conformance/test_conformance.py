"""The server held against its own contract: every operation, every event, in both betas, on both databases.

Whoever adds an operation adds it to the walk, or `test_…_walks_every_operation` says which is missing.
"""

import json
import time
from typing import Any

import msgspec
import pytest

from tests.conformance.strict import problems
from tests.conformance.walk import EVENTS, Beta, Walk, operations_of
from tests.support.databases import Database
from tests.support.objects import a_run
from tests.support.server import RunningServer, serving
from threadkeep.api import answers, event_stream
from threadkeep.api.routes import REFERENCE
from threadkeep.contract.runs import Run
from threadkeep.settings import Settings

PATIENCE_S = 60

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

# Events that never come, and why.
UNHEARD: dict[Beta, dict[str, str]] = {
    "v2": {},
    "v1": {"thread.run.incomplete": "the first beta had no such status: the run is told as completed"},
}


def document() -> dict[str, Any]:
    """As it is published."""
    return json.loads(msgspec.json.encode(REFERENCE.document()))


def walk_assistants(walk: Walk, file_id: str) -> str:
    own: dict[str, Any] = (
        {"file_ids": [file_id]} if walk.beta == "v1" else {"temperature": 0.5, "response_format": {"type": "text"}}
    )
    made = walk.ask(
        "createAssistant",
        model="offline",
        name="Helper",
        description="Helps.",
        instructions="Be brief.",
        tools=[{"type": "code_interpreter"}, WEATHER],
        metadata={"a": True, "b": 1.5},
        **own,
    )
    one = {"assistant_id": made["id"]}
    if walk.beta == "v2":
        walk.ask(
            "createAssistant",
            model="offline",
            reasoning_effort="low",
            tools=[{"type": "file_search", "file_search": {"max_num_results": 3}}],
            tool_resources={"code_interpreter": {"file_ids": [file_id]}},
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        )
    walk.ask("listAssistants", params={"limit": 1, "order": "asc"})
    walk.ask("getAssistant", one)
    walk.ask("modifyAssistant", one, instructions="Be briefer.", metadata=None)
    walk.refused("getAssistant", 404, {"assistant_id": "asst_none"})
    walk.refused("createAssistant", 400, name="no model")
    if walk.beta == "v1":
        walk_assistant_files(walk, one, file_id)
    spare = walk.ask("createAssistant", model="offline")
    walk.ask("deleteAssistant", {"assistant_id": spare["id"]})
    return made["id"]


def walk_assistant_files(walk: Walk, one: dict[str, str], file_id: str) -> None:
    walk.ask("deleteAssistantFile", {**one, "file_id": file_id})
    walk.ask("createAssistantFile", one, file_id=file_id)
    walk.ask("listAssistantFiles", one)
    walk.ask("getAssistantFile", {**one, "file_id": file_id})


def walk_threads(walk: Walk, file_id: str) -> str:
    attached: dict[str, Any] = (
        {"file_ids": [file_id]}
        if walk.beta == "v1"
        else {"attachments": [{"file_id": file_id, "tools": [{"type": "code_interpreter"}]}]}
    )
    made = walk.ask("createThread", messages=[{"role": "user", "content": "Hello", **attached}], metadata={"a": "b"})
    one = {"thread_id": made["id"]}
    walk.ask("getThread", one)
    walk.ask("modifyThread", one, metadata={"c": 1})
    walk.ask("listThreads", params={"metadata[c]": "1", "q": "hello"})
    walk.refused("getThread", 404, {"thread_id": "thread_none"})
    [message] = walk.ask("listMessages", one)["data"]
    said = {**one, "message_id": message["id"]}
    walk.ask("getMessage", said)
    walk.ask("modifyMessage", said, metadata={"read": True})
    if walk.beta == "v1":
        walk.ask("listMessageFiles", said)
        walk.ask("getMessageFile", {**said, "file_id": file_id})
    else:
        parts = [
            {"type": "text", "text": "Look:"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        ]
        walk.ask("createMessage", one, role="user", content=parts)
    spare = walk.ask("createMessage", one, role="user", content="Not this.", metadata={"x": "y"})
    walk.ask("deleteMessage", {**one, "message_id": spare["id"]})
    walk.refused("getMessage", 404, {**one, "message_id": spare["id"]})
    spare = walk.ask("createThread")
    walk.ask("deleteThread", {"thread_id": spare["id"]})
    return made["id"]


def a_thread(walk: Walk, text: str) -> dict[str, str]:
    return {"thread_id": walk.ask("createThread", messages=[{"role": "user", "content": text}])["id"]}


def walk_runs(walk: Walk, assistant_id: str) -> None:
    """Ends in every way a run can end, but for expiry."""
    begun = {"messages": [{"role": "user", "content": "say: one two three"}]}
    walk.hear("createThreadAndRun", assistant_id=assistant_id, thread=begun)
    walk_calls(walk, assistant_id)
    for text in ("finish: length", "fail: rate_limit_exceeded too fast", "finish: content_filter"):
        thread = a_thread(walk, text)
        walk.hear("createRun", thread, assistant_id=assistant_id)
        [run] = walk.ask("listRuns", thread)["data"]
        one = {**thread, "run_id": run["id"]}
        walk.ask("getRun", one)
        assert walk.hear("streamRun", one)[-1][1]["status"] == run["status"]
        walk.ask("listRunSteps", one)
        walk.ask("listMessages", thread, params={"run_id": run["id"]})
        walk.ask("modifyRun", one, metadata={"seen": True})
    thread = a_thread(walk, "count to 1000")
    with walk.follow("createRun", thread, assistant_id=assistant_id, model="offline-slow") as events:
        cancelled = False
        run: Any = None
        for name, data in events:
            if name.startswith("thread.run.") and data["object"] == "thread.run":
                run = data
            if name == "thread.message.delta" and not cancelled:
                cancelled = True
                walk.ask("cancelRun", {**thread, "run_id": run["id"]})
    walk.ask("listMessages", thread)


def walk_calls(walk: Walk, assistant_id: str) -> None:
    thread = a_thread(walk, 'call get_weather {"city": "Oslo"}\ncall get_weather {"city": "Rome"}')
    for streams in (True, False):
        run = walk.hear("createRun", thread, assistant_id=assistant_id)[-1][1]
        one = {**thread, "run_id": run["id"]}
        calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
        outputs = [{"tool_call_id": call["id"], "output": "4 degrees"} for call in calls]
        walk.hear("streamRun", one)
        [waiting] = walk.ask("listRunSteps", one)["data"]
        walk.ask("getRunStep", {**one, "step_id": waiting["id"]})
        if streams:
            walk.hear("submitToolOuputsToRun", one, tool_outputs=outputs)
        else:
            walk.ask("submitToolOuputsToRun", one, tool_outputs=outputs)
            deadline = time.monotonic() + PATIENCE_S
            while walk.ask("getRun", one)["status"] != "completed":
                assert time.monotonic() < deadline
                time.sleep(0.01)
        walk.ask("listRunSteps", one, params={"include[]": "step_details.tool_calls[*].file_search.results[*].content"})
    thread = a_thread(walk, "call get_weather")
    run = walk.hear("createRun", thread, assistant_id=assistant_id)[-1][1]
    walk.ask("cancelRun", {**thread, "run_id": run["id"]})
    walk.refused("submitToolOuputsToRun", 400, {**thread, "run_id": run["id"]}, tool_outputs=[])


def walk_files(walk: Walk) -> str:
    made = walk.ask("createFile", files={"file": ("notes.txt", b"hello")}, data={"purpose": "assistants"})
    lasting = {"purpose": "user_data", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    spare = walk.ask("createFile", files={"file": ("spare.txt", b"spare")}, data=lasting)
    walk.ask("listFiles", params={"purpose": "assistants"})
    walk.ask("retrieveFile", {"file_id": made["id"]})
    assert walk.ask("downloadFile", {"file_id": made["id"]}) == b"hello"
    walk.ask("deleteFile", {"file_id": spare["id"]})
    walk.refused("retrieveFile", 404, {"file_id": spare["id"]})
    walk.refused("createFile", 400, data={"purpose": "assistants"})
    return made["id"]


def walk_uploads(walk: Walk) -> None:
    described: dict[str, Any] = {"filename": "a.txt", "purpose": "assistants", "bytes": 5, "mime_type": "text/plain"}
    one = {"upload_id": walk.ask("createUpload", **described)["id"]}
    part = walk.ask("addUploadPart", one, files={"data": ("part", b"hello")})
    walk.ask("completeUpload", one, part_ids=[part["id"]])
    spare = walk.ask("createUpload", **described)
    walk.ask("cancelUpload", {"upload_id": spare["id"]})


def walk_models(walk: Walk) -> None:
    walk.ask("listModels")
    walk.ask("retrieveModel", {"model": "offline"})
    asked: dict[str, Any] = {"model": "offline", "messages": [{"role": "user", "content": "Hello"}]}
    walk.ask("createChatCompletion", **asked)
    walk.ask("createDeploymentChatCompletion", {"deployment": "offline"}, **asked)


# What the offline model does not answer: the operation is there, and says so.
ONLY_UPSTREAM = {
    "createCompletion",
    "createEmbedding",
    "createModeration",
    "createDeploymentCompletion",
    "createDeploymentEmbedding",
}


def walk_vector_stores(walk: Walk, file_id: str) -> None:
    made = walk.ask(
        "createVectorStore",
        name="Handbooks",
        description="What is written down.",
        file_ids=[file_id],
        expires_after={"anchor": "last_active_at", "days": 1},
        metadata={"a": True},
    )
    one = {"vector_store_id": made["id"]}
    walk.refused("getVectorStore", 404, {"vector_store_id": "vs_none"})
    walk.ask("listVectorStores", params={"limit": 1})
    walk.ask("modifyVectorStore", one, name=None, expires_after=None, metadata=None)
    file = {**one, "file_id": file_id}
    until(walk, "getVectorStoreFile", file, "completed")
    walk.ask("updateVectorStoreFileAttributes", file, attributes={"a": "b", "c": 1.5, "d": True})
    walk.ask("listVectorStoreFiles", one, params={"filter": "completed"})
    walk.ask("retrieveVectorStoreFileContent", file)
    comparison = {"type": "eq", "key": "a", "value": "b"}
    options = {"ranker": "none", "score_threshold": 0.0}
    found = walk.ask("searchVectorStore", one, query=["Hello", "x"], filters=comparison, ranking_options=options)
    assert found["data"]
    walk.ask("deleteVectorStoreFile", file)
    walk.refused("getVectorStoreFile", 404, file)
    static = {"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 50}}
    walk.ask("createVectorStoreFile", one, file_id=file_id, attributes=None, chunking_strategy=static)
    batch = {**one, "batch_id": walk.ask("createVectorStoreFileBatch", one, file_ids=[file_id])["id"]}
    walk.ask("listFilesInVectorStoreBatch", batch)
    until(walk, "getVectorStoreFileBatch", batch, "completed")
    walk.ask("cancelVectorStoreFileBatch", batch)
    walk.ask("getVectorStore", one)
    walk.ask("deleteVectorStore", one)


def until(walk: Walk, operation_id: str, path: dict[str, str], status: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (found := walk.ask(operation_id, path))["status"] != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def walk_upstream(walk: Walk) -> None:
    deployment = {"deployment": "offline"}
    walk.refused("createCompletion", 404, model="offline", prompt="x")
    walk.refused("createEmbedding", 404, model="offline", input="x")
    walk.refused("createModeration", 404, input="x")
    walk.refused("createDeploymentCompletion", 404, deployment, prompt="x")
    walk.refused("createDeploymentEmbedding", 404, deployment, input="x")


def walk_expiry(walk: Walk) -> None:
    """On a server whose runs last a second or two: time to begin to answer, and not to end."""
    assistant_id = walk.ask("createAssistant", model="offline-slow")["id"]
    heard = walk.hear("createRun", a_thread(walk, "count to 1000"), assistant_id=assistant_id)
    assert heard[-1][0] == "thread.run.expired"


def walk_all(walk: Walk) -> None:
    file_id = walk_files(walk)
    walk_uploads(walk)
    assistant_id = walk_assistants(walk, file_id)
    walk_threads(walk, file_id)
    walk_runs(walk, assistant_id)
    walk_vector_stores(walk, file_id)
    walk_models(walk)
    walk_upstream(walk)


@pytest.mark.parametrize("beta", ["v2", "v1"])
def test_everything_the_server_says_is_of_its_type(server: RunningServer, beta: Beta) -> None:
    with server.client() as client:
        walk = Walk(client, beta, document())
        walk_all(walk)
    assert walk.wrong == [], "\n".join(walk.wrong)
    assert operations_of(beta) - walk.asked - ONLY_UPSTREAM == set(), "operations that the walk does not ask for"
    ends = {"thread.run.expired", "thread.run.step.expired"}
    assert EVENTS - walk.heard - ends - UNHEARD[beta].keys() == set(), "events that the walk does not hear"
    assert walk.heard & UNHEARD[beta].keys() == set()


@pytest.mark.parametrize("beta", ["v2", "v1"])
def test_the_events_of_a_run_that_expires_are_of_their_types(database: Database, beta: Beta) -> None:
    settings = Settings(data_dir=database.data_dir, database_url=database.url, run_expires_seconds=2)
    with serving(settings) as server, server.client() as client:
        walk = Walk(client, beta, document())
        walk_expiry(walk)
    assert walk.wrong == [], "\n".join(walk.wrong)
    assert walk.heard >= {"thread.run.expired", "thread.run.step.expired", "thread.message.incomplete"}


# --- that it can fail


RUN: dict[str, Any] = json.loads(msgspec.json.encode(a_run("thread_x")))


def test_a_run_as_it_is_has_no_problems() -> None:
    assert problems(RUN, Run) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("created_at", "1700000000"),
        ("created_at", 1700000000.5),
        ("created_at", True),
        ("status", "done"),
        ("object", "run"),
        ("metadata", {"a": 1}),
        ("tools", [{"type": "retrieval"}]),
        ("tools", [{"type": "code_interpreter", "more": 1}]),
        ("truncation_strategy", {"type": "auto"}),
        ("truncation_strategy", None),
        ("surprise", None),
    ],
)
def test_a_field_of_the_wrong_type_or_of_none_is_a_problem(field: str, value: object) -> None:
    [problem] = problems({**RUN, field: value}, Run)
    assert field in problem


@pytest.mark.parametrize("field", [field for field in RUN if field != "reasoning_effort"])
def test_a_field_that_is_missing_is_a_problem(field: str) -> None:
    assert problems({name: value for name, value in RUN.items() if name != field}, Run) == [f".{field} is missing"]


class Misspelling:
    """An encoder of a server that says a little less, and a little else, than it promises."""

    def encode(self, told: object) -> bytes:
        return msgspec.json.encode(told).replace(b'"metadata":', b'"metadatum":')

    def encode_into(self, told: object, piece: bytearray, _: int) -> None:
        piece += self.encode(told)


def test_the_walk_tells_operation_and_event(sqlite_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite_server.client() as client:
        walk = Walk(client, "v2", document())
        assistant_id = walk.ask("createAssistant", model="offline")["id"]
        thread = a_thread(walk, "say: hello")
        assert walk.wrong == []
        monkeypatch.setattr(answers, "_encoder", Misspelling())
        monkeypatch.setattr(event_stream, "_encoder", Misspelling())
        walk.ask("getThread", thread)
        walk.hear("createRun", thread, assistant_id=assistant_id)
    assert {
        "getThread: .metadata is missing",
        "getThread: .metadatum is not in Thread",
        "getThread, by the document: .metadata is missing",
        "createRun → thread.run.completed: .metadata is missing",
        "createRun → thread.message.completed: .metadatum is not in Message",
        "createRun → thread.message.completed, by the document: .metadata is missing",
    } <= set(walk.wrong)
