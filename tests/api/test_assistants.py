"""createAssistant, listAssistants, getAssistant, modifyAssistant, deleteAssistant."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        "strict": True,
    },
}

EVERYTHING: dict[str, Any] = {
    "model": "offline",
    "name": "Tutor",
    "description": "Explains",
    "instructions": "Be kind.",
    "reasoning_effort": "low",
    "tools": [{"type": "code_interpreter"}, {"type": "file_search", "file_search": {"max_num_results": 5}}, WEATHER],
    "tool_resources": {"code_interpreter": {"file_ids": ["file-abc"]}, "file_search": {"vector_store_ids": []}},
    "metadata": {"course": "maths"},
    "temperature": 0.2,
    "top_p": 0.9,
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
}


def create(client: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = client.post("/assistants", json={"model": "offline", **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_create_echoes_the_defaults(client: httpx2.Client) -> None:
    assistant = create(client)

    assert assistant.pop("id").startswith("asst_")
    assert isinstance(assistant.pop("created_at"), int)
    assert assistant == {
        "object": "assistant",
        "name": None,
        "description": None,
        "model": "offline",
        "instructions": None,
        "tools": [],
        "tool_resources": {},
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "response_format": "auto",
    }


def test_create_echoes_everything_given(client: httpx2.Client) -> None:
    assistant = create(client, **EVERYTHING)

    assert {name: assistant[name] for name in EVERYTHING} == EVERYTHING


def test_create_takes_null_for_every_optional_field(client: httpx2.Client) -> None:
    assistant = create(client, **{name: None for name in EVERYTHING if name != "model"})

    assert assistant["temperature"] == 1.0
    assert assistant["tools"] == []
    assert "reasoning_effort" not in assistant


def test_create_without_model_names_it(client: httpx2.Client) -> None:
    error = refused(client.post("/assistants"), 400)

    assert error == invalid("Missing required parameter: 'model'.", param="model", code="missing_required_parameter")


def test_create_refuses_fields_of_the_first_version(client: httpx2.Client) -> None:
    error = refused(client.post("/assistants", json={"model": "offline", "file_ids": []}), 400)

    assert error == invalid("Unknown parameter: 'file_ids'.", param="file_ids", code="unknown_parameter")


def test_create_makes_a_vector_store_on_the_way(client: httpx2.Client) -> None:
    resources: dict[str, Any] = {"file_search": {"vector_stores": [{"file_ids": [], "metadata": {"a": "b"}}]}}

    assistant = create(client, tool_resources=resources)

    [store_id] = assistant["tool_resources"]["file_search"]["vector_store_ids"]
    store = client.get(f"/vector_stores/{store_id}").json()
    assert (store["metadata"], store["expires_at"]) == ({"a": "b"}, None)


def test_a_store_that_is_not_there_is_not_named(client: httpx2.Client) -> None:
    resources = {"file_search": {"vector_store_ids": ["vs_none"]}}
    unknown = invalid("No vector store found with id 'vs_none'.")

    assert refused(client.post("/assistants", json={"model": "offline", "tool_resources": resources}), 404) == unknown
    path = f"/assistants/{create(client)['id']}"
    assert refused(client.post(path, json={"tool_resources": resources}), 404) == unknown


def test_an_assistant_keeps_the_name_of_a_store_that_went(client: httpx2.Client) -> None:
    store_id = client.post("/vector_stores", json={}).json()["id"]
    resources = {"file_search": {"vector_store_ids": [store_id]}}
    path = f"/assistants/{create(client, tool_resources=resources)['id']}"
    client.delete(f"/vector_stores/{store_id}").raise_for_status()

    assert client.post(path, json={"tool_resources": resources}).json()["tool_resources"] == resources


def test_retrieve_answers_what_create_answered(client: httpx2.Client) -> None:
    assistant = create(client, **EVERYTHING)

    assert client.get(f"/assistants/{assistant['id']}").json() == assistant


def test_retrieve_of_an_unknown_one(client: httpx2.Client) -> None:
    assert refused(client.get("/assistants/asst_x"), 404) == invalid("No assistant found with id 'asst_x'.")


def test_modify_leaves_what_it_does_not_name(client: httpx2.Client) -> None:
    assistant = create(client, **EVERYTHING)

    modified = client.post(f"/assistants/{assistant['id']}", json={"name": "Coach"}).json()

    assert modified == {**assistant, "name": "Coach"}
    assert client.get(f"/assistants/{assistant['id']}").json() == modified


def test_modify_without_a_body_changes_nothing(client: httpx2.Client) -> None:
    assistant = create(client, **EVERYTHING)

    assert client.post(f"/assistants/{assistant['id']}").json() == assistant


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ("name", None),
        ("description", None),
        ("instructions", None),
        ("tools", []),
        ("tool_resources", {}),
        ("metadata", {}),
        ("temperature", 1.0),
        ("top_p", 1.0),
        ("response_format", "auto"),
    ],
)
def test_modify_to_null_resets(client: httpx2.Client, field: str, default: object) -> None:
    assistant = create(client, **EVERYTHING)

    modified = client.post(f"/assistants/{assistant['id']}", json={field: None}).json()

    assert modified == {**assistant, field: default}


def test_modify_of_the_reasoning_effort_to_null_leaves_it_out(client: httpx2.Client) -> None:
    assistant = create(client, **EVERYTHING)

    modified = client.post(f"/assistants/{assistant['id']}", json={"reasoning_effort": None}).json()

    del assistant["reasoning_effort"]
    assert modified == assistant


def test_modify_refuses_to_take_the_model_away(client: httpx2.Client) -> None:
    assistant = create(client)

    error = refused(client.post(f"/assistants/{assistant['id']}", json={"model": None}), 400)

    assert error["param"] == "model"
    assert error["code"] == "invalid_type"


def test_modify_replaces_the_metadata_whole(client: httpx2.Client) -> None:
    assistant = create(client, metadata={"a": "1", "b": "2"})

    modified = client.post(f"/assistants/{assistant['id']}", json={"metadata": {"c": True}}).json()

    assert modified["metadata"] == {"c": "true"}


def test_modify_of_one_tools_resources_leaves_the_others(client: httpx2.Client) -> None:
    store_id = client.post("/vector_stores", json={}).json()["id"]
    resources: dict[str, Any] = {
        "code_interpreter": {"file_ids": ["file-abc"]},
        "file_search": {"vector_store_ids": [store_id]},
    }
    assistant = create(client, tool_resources=resources)

    resources = {"code_interpreter": {"file_ids": []}, "file_search": {"vector_store_ids": None}}
    modified = client.post(f"/assistants/{assistant['id']}", json={"tool_resources": resources}).json()

    assert modified["tool_resources"] == {
        "code_interpreter": {"file_ids": []},
        "file_search": {"vector_store_ids": [store_id]},
    }


def test_modify_of_an_unknown_one(client: httpx2.Client) -> None:
    error = refused(client.post("/assistants/asst_x", json={"name": "x"}), 404)

    assert error == invalid("No assistant found with id 'asst_x'.")


def test_delete_removes_it(client: httpx2.Client) -> None:
    assistant_id = create(client)["id"]

    answer = client.delete(f"/assistants/{assistant_id}")

    assert answer.json() == {"id": assistant_id, "object": "assistant.deleted", "deleted": True}
    refused(client.get(f"/assistants/{assistant_id}"), 404)
    refused(client.delete(f"/assistants/{assistant_id}"), 404)
    assert client.get("/assistants").json()["data"] == []
