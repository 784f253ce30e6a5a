"""Assistants in the first beta: file_ids, the retrieval tool, and the files of an assistant as objects of their own."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused
from tests.support.server import RunningServer
from threadkeep.contract.files import File

RETRIEVAL = {"type": "retrieval"}
CODE = {"type": "code_interpreter"}
FUNCTION: dict[str, Any] = {
    "type": "function",
    "function": {"name": "f", "parameters": {"type": "object", "properties": {}}},
}


def create(v1: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = v1.post("/assistants", json={"model": "offline", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_create_answers_the_first_betas_object(v1: httpx2.Client) -> None:
    given: dict[str, Any] = {
        "name": "n",
        "description": "d",
        "instructions": "i",
        "tools": [CODE, RETRIEVAL, FUNCTION],
        "file_ids": ["file-a", "file-b"],
        "metadata": {"a": True, "b": 1.5},
    }

    assistant = create(v1, **given, temperature=0.5, top_p=0.5, response_format={"type": "text"})

    id_, created_at = assistant.pop("id"), assistant.pop("created_at")
    assert id_.startswith("asst_")
    assert isinstance(created_at, int)
    assert assistant == {
        "object": "assistant",
        "model": "offline",
        **given,
        "metadata": {"a": "true", "b": "1.5"},
    }
    found = {**assistant, "id": id_, "created_at": created_at}
    assert v1.get(f"/assistants/{id_}").json() == found
    assert v1.get("/assistants").json() == {
        "object": "list",
        "data": [found],
        "first_id": id_,
        "last_id": id_,
        "has_more": False,
    }


def test_the_least_there_is(v1: httpx2.Client) -> None:
    assistant = create(v1)

    assert assistant["tools"] == []
    assert assistant["file_ids"] == []
    assert assistant["metadata"] == {}


def test_the_second_beta_sees_tool_resources_and_file_search(v1: httpx2.Client, client: httpx2.Client) -> None:
    id_ = create(v1, tools=[RETRIEVAL, CODE], file_ids=["file-a"], temperature=0.5, response_format="none")["id"]

    assistant = client.get(f"/assistants/{id_}").json()

    assert assistant["tools"] == [{"type": "file_search"}, CODE]
    assert assistant["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a"]}}
    assert assistant["temperature"] == 0.5
    assert assistant["response_format"] == "auto"


def test_an_assistant_of_the_second_beta_is_shown_without_what_is_new(v1: httpx2.Client, client: httpx2.Client) -> None:
    strict = {"type": "function", "function": {**FUNCTION["function"], "strict": True}}
    search = {"type": "file_search", "file_search": {"max_num_results": 3}}
    store_id = client.post("/vector_stores", json={}).json()["id"]
    given: dict[str, Any] = {
        "tools": [search, strict],
        "tool_resources": {
            "code_interpreter": {"file_ids": ["file-a"]},
            "file_search": {"vector_store_ids": [store_id]},
        },
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
    }
    id_ = client.post("/assistants", json={"model": "offline", **given}).json()["id"]

    assistant = v1.get(f"/assistants/{id_}").json()

    assert sorted(assistant) == [
        "created_at",
        "description",
        "file_ids",
        "id",
        "instructions",
        "metadata",
        "model",
        "name",
        "object",
        "tools",
    ]
    assert assistant["tools"] == [RETRIEVAL, FUNCTION]
    assert assistant["file_ids"] == ["file-a"]


def test_modify_leaves_what_the_first_beta_cannot_name(v1: httpx2.Client, client: httpx2.Client) -> None:
    store_id = client.post("/vector_stores", json={}).json()["id"]
    given: dict[str, Any] = {
        "tools": [{"type": "file_search", "file_search": {"max_num_results": 3}}],
        "tool_resources": {
            "code_interpreter": {"file_ids": ["file-a"]},
            "file_search": {"vector_store_ids": [store_id]},
        },
    }
    before = client.post("/assistants", json={"model": "offline", **given}).json()

    v1.post(f"/assistants/{before['id']}", json={"name": "other"})

    assert client.get(f"/assistants/{before['id']}").json() == {**before, "name": "other"}


def test_modify_replaces_the_files_and_the_tools(v1: httpx2.Client, client: httpx2.Client) -> None:
    store_id = client.post("/vector_stores", json={}).json()["id"]
    given = {"code_interpreter": {"file_ids": ["file-a"]}, "file_search": {"vector_store_ids": [store_id]}}
    id_ = client.post("/assistants", json={"model": "offline", "tool_resources": given}).json()["id"]

    modified = v1.post(f"/assistants/{id_}", json={"file_ids": ["file-b", "file-c"], "tools": [RETRIEVAL]}).json()

    assert modified["file_ids"] == ["file-b", "file-c"]
    assert modified["tools"] == [RETRIEVAL]
    assert client.get(f"/assistants/{id_}").json()["tool_resources"] == {
        "code_interpreter": {"file_ids": ["file-b", "file-c"]},
        "file_search": {"vector_store_ids": [store_id]},
    }
    assert v1.post(f"/assistants/{id_}", json={"file_ids": []}).json()["file_ids"] == []


def test_delete(v1: httpx2.Client) -> None:
    id_ = create(v1)["id"]

    assert v1.delete(f"/assistants/{id_}").json() == {"id": id_, "object": "assistant.deleted", "deleted": True}
    refused(v1.get(f"/assistants/{id_}"), 404)


# Files of an assistant


def test_a_file_is_added_listed_retrieved_and_taken_away(v1: httpx2.Client, client: httpx2.Client) -> None:
    assistant = create(v1, file_ids=["file-a"])
    files = f"/assistants/{assistant['id']}/files"

    added = v1.post(files, json={"file_id": "file-b"}).json()

    assert added == {
        "id": "file-b",
        "object": "assistant.file",
        "created_at": assistant["created_at"],
        "assistant_id": assistant["id"],
    }
    assert v1.get(f"{files}/file-b").json() == added
    assert [file["id"] for file in v1.get(files).json()["data"]] == ["file-b", "file-a"]
    assert v1.delete(f"{files}/file-a").json() == {"id": "file-a", "object": "assistant.file.deleted", "deleted": True}
    assert v1.get(f"/assistants/{assistant['id']}").json()["file_ids"] == ["file-b"]
    resources = client.get(f"/assistants/{assistant['id']}").json()["tool_resources"]
    assert resources == {"code_interpreter": {"file_ids": ["file-b"]}}


def test_a_file_came_to_an_assistant_when_both_were_there(
    server: RunningServer, client: httpx2.Client, v1: httpx2.Client
) -> None:
    assistant = create(v1, file_ids=["file-later"])
    later = assistant["created_at"] + 100
    file = File(id="file-later", bytes=0, created_at=later, filename="a.txt", purpose="assistants", status="processed")
    server.write(server.project_of(client), lambda tx: tx.files.insert(file, []))

    assert v1.get(f"/assistants/{assistant['id']}/files/file-later").json()["created_at"] == later


def test_a_file_that_is_there_already_is_not_added_again(v1: httpx2.Client) -> None:
    id_ = create(v1, file_ids=["file-a"])["id"]

    assert v1.post(f"/assistants/{id_}/files", json={"file_id": "file-a"}).json()["id"] == "file-a"
    assert v1.get(f"/assistants/{id_}").json()["file_ids"] == ["file-a"]


def test_a_twenty_first_file_is_refused(v1: httpx2.Client) -> None:
    id_ = create(v1, file_ids=[f"file-{number}" for number in range(20)])["id"]

    error = refused(v1.post(f"/assistants/{id_}/files", json={"file_id": "file-x"}), 400)

    assert error == invalid(
        f"Assistant {id_} has 20 files already; more than 20 are not allowed.",
        param="file_id",
        code="array_above_max_length",
    )
    assert len(v1.get(f"/assistants/{id_}").json()["file_ids"]) == 20


def test_files_come_in_pages(v1: httpx2.Client) -> None:
    files = f"/assistants/{create(v1, file_ids=[f'file-{n}' for n in range(5)])['id']}/files"

    def page(query: str) -> tuple[list[str], bool]:
        found = v1.get(f"{files}?{query}").json()
        ids = [file["id"] for file in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        return ids, found["has_more"]

    assert page("limit=2") == (["file-4", "file-3"], True)
    assert page("limit=2&after=file-3") == (["file-2", "file-1"], True)
    assert page("limit=2&after=file-1") == (["file-0"], False)
    assert page("order=asc&limit=2") == (["file-0", "file-1"], True)
    assert page("order=asc&after=file-4") == ([], False)
    assert page("order=asc&before=file-3&limit=2") == (["file-1", "file-2"], True)
    assert page("order=asc&after=file-0&before=file-3") == (["file-1", "file-2"], False)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_file_that_is_not_the_assistants(v1: httpx2.Client, method: str) -> None:
    id_ = create(v1, file_ids=["file-a"])["id"]

    error = refused(v1.request(method, f"/assistants/{id_}/files/file-b"), 404)

    assert error == invalid(f"No file found with id 'file-b' in assistant '{id_}'.")


@pytest.mark.parametrize("file_id", ["%00", "file-" + "a" * 5_000, "%ff", "..%2f..", "undefined"])
def test_hostile_ids_of_files_are_not_found(v1: httpx2.Client, file_id: str) -> None:
    id_ = create(v1, file_ids=["file-a"])["id"]

    for method in ("GET", "DELETE"):
        answer = v1.request(method, f"/assistants/{id_}/files/{file_id}")
        assert (answer.status_code, len(answer.content) < 400) == (404, True)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "file_ids": ["file-\\u0000"]}',
        b'{"model": "m", "file_ids": ["\\ud800"]}',
        b'{"model": "m", "file_ids": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
        b'{"model": "m", "file_ids": [[]]}',
        b'{"model": "m", "file_ids": true}',
        b'{"model": "m", "tools": [{"type": "retrieval", "type": "function"}]}',
        b'{"model": "m", "tools": [null]}',
        b"[]",
        b'"x"',
    ],
)
def test_hostile_bodies_are_refused(v1: httpx2.Client, body: bytes) -> None:
    for path in ("/assistants", f"/assistants/{create(v1)['id']}"):
        refused(v1.post(path, content=body), 400)


def test_the_assistant_is_missed_before_its_file(v1: httpx2.Client) -> None:
    missing = invalid("No assistant found with id 'asst_x'.")

    assert refused(v1.get("/assistants/asst_x/files"), 404) == missing
    assert refused(v1.get("/assistants/asst_x/files/file-a"), 404) == missing
    assert refused(v1.delete("/assistants/asst_x/files/file-a"), 404) == missing
    assert refused(v1.post("/assistants/asst_x/files", json={"file_id": "file-a"}), 404) == missing


# Refusals name what the client sent

REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"file_ids": ["file-a"] * 21},
        (
            "Invalid 'file_ids': array too long. Expected an array with maximum length 20, "
            "but got an array with length 21 instead."
        ),
        "file_ids",
        "array_above_max_length",
    ),
    (
        {"file_ids": "file-a"},
        "Invalid type for 'file_ids': expected an array of strings, but got a string instead.",
        "file_ids",
        "invalid_type",
    ),
    (
        {"file_ids": ["file-a", 1]},
        "Invalid type for 'file_ids[1]': expected a string, but got an integer instead.",
        "file_ids[1]",
        "invalid_type",
    ),
    (
        {"file_ids": {"a": 1}},
        "Invalid type for 'file_ids': expected an array of strings, but got an object instead.",
        "file_ids",
        "invalid_type",
    ),
    (
        {"tools": [{"type": "file_search"}]},
        "Invalid value: 'file_search'. Supported values are: 'code_interpreter', 'retrieval', and 'function'.",
        "tools[0].type",
        "invalid_value",
    ),
    (
        {"tools": [{"type": "retrieval", "file_search": {}}]},
        "Unknown parameter: 'tools[0].file_search'.",
        "tools[0].file_search",
        "unknown_parameter",
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "Unknown parameter: 'tools[0].function.strict'.",
        "tools[0].function.strict",
        "unknown_parameter",
    ),
    ({"tool_resources": {}}, "Unknown parameter: 'tool_resources'.", "tool_resources", "unknown_parameter"),
    (
        {"reasoning_effort": "low"},
        "Unknown parameter: 'reasoning_effort'.",
        "reasoning_effort",
        "unknown_parameter",
    ),
    (
        {"response_format": {"type": "json_schema"}},
        "Invalid value: 'json_schema'. Supported values are: 'text' and 'json_object'.",
        "response_format.type",
        "invalid_value",
    ),
    (
        {"metadata": {"a": []}},
        "Invalid type for 'metadata.a': expected a string, but got an array instead.",
        "metadata.a",
        "invalid_type",
    ),
]


@pytest.mark.parametrize(("fields", "message", "param", "code"), REFUSED, ids=[param for _, _, param, _ in REFUSED])
def test_create_and_modify_refuse(
    v1: httpx2.Client, fields: dict[str, Any], message: str, param: str, code: str
) -> None:
    id_ = create(v1)["id"]

    for path, more in (("/assistants", {"model": "offline"}), (f"/assistants/{id_}", {})):
        error = refused(v1.post(path, json={**more, **fields}), 400)
        assert error == invalid(message, param=param, code=code)


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "Missing required parameter: 'file_id'.", "file_id"),
        ({"file_id": 1}, "Invalid type for 'file_id': expected a string, but got an integer instead.", "file_id"),
        ({"file_id": "x"}, "Invalid 'file_id': 'x'. Expected an ID that begins with 'file'.", "file_id"),
        ({"file_id": "file-a", "b": 1}, "Unknown parameter: 'b'.", "b"),
    ],
)
def test_adding_a_file_refuses(v1: httpx2.Client, body: object, message: str, param: str) -> None:
    id_ = create(v1)["id"]

    error = refused(v1.post(f"/assistants/{id_}/files", json=body), 400)

    assert (error["message"], error["param"]) == (message, param)


@pytest.mark.parametrize("query", ["after=file-x", "before=file-x"])
def test_a_cursor_that_is_not_in_the_list_is_refused(v1: httpx2.Client, query: str) -> None:
    id_ = create(v1, file_ids=["file-a"])["id"]

    name = query.partition("=")[0]
    assert refused(v1.get(f"/assistants/{id_}/files?{query}"), 400) == invalid(
        f"Invalid '{name}': there is no file 'file-x' in this list.", param=name, code="invalid_value"
    )
