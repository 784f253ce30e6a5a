"""Vector stores over plain HTTP: what is refused and in which words, and what is answered before anything is read."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused


def store(client: httpx2.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/vector_stores", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def upload(client: httpx2.Client, name: str = "a.txt") -> str:
    answer = client.post("/files", data={"purpose": "assistants"}, files={"file": (name, b"hello")})
    return answer.json()["id"]


def test_a_new_store_is_empty_and_completed(client: httpx2.Client) -> None:
    made = store(client)

    assert made.pop("id").startswith("vs_")
    assert made.pop("created_at") == made.pop("last_active_at")
    assert made == {
        "object": "vector_store",
        "name": "",
        "usage_bytes": 0,
        "file_counts": {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0},
        "status": "completed",
        "expires_at": None,
        "metadata": {},
    }


def test_nulls_mean_nothing_was_given(client: httpx2.Client) -> None:
    made = store(client, name=None, file_ids=None, expires_after=None, chunking_strategy=None, metadata=None)

    assert (made["name"], made["metadata"], made["expires_at"]) == ("", {}, None)


def test_what_is_not_there_is_not_found(client: httpx2.Client) -> None:
    one, file_id = store(client)["id"], upload(client)
    path = f"/vector_stores/{one}"

    unknown = invalid("No vector store found with id 'vs_none'.")
    for method, below in (("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/files"), ("GET", f"/files/{file_id}")):
        assert refused(client.request(method, f"/vector_stores/vs_none{below}"), 404) == unknown
    assert refused(client.post("/vector_stores/vs_none/search", json={"query": "x"}), 404) == unknown
    assert refused(client.post("/vector_stores/vs_none/files", json={"file_id": file_id}), 404) == unknown
    missing = invalid(f"No file found with id '{file_id}' in vector store '{one}'.")
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/content")):
        assert refused(client.request(method, f"{path}/files/{file_id}{below}"), 404) == missing
    assert refused(client.post(f"{path}/files/{file_id}", json={"attributes": None}), 404) == missing
    batch = invalid("No file batch found with id 'vsfb_none'.")
    for method, below in (("GET", ""), ("POST", "/cancel"), ("GET", "/files")):
        assert refused(client.request(method, f"{path}/file_batches/vsfb_none{below}"), 404) == batch
    no_file = invalid("No such File object: file-none", param="id")
    assert refused(client.post(f"{path}/files", json={"file_id": "file-none"}), 404) == no_file
    assert refused(client.post("/vector_stores", json={"file_ids": ["file-none"]}), 404) == no_file
    assert [each["id"] for each in client.get("/vector_stores").json()["data"]] == [one]


def test_ids_in_the_path_have_their_form(client: httpx2.Client) -> None:
    assert refused(client.get("/vector_stores/undefined"), 400) == invalid(
        "Invalid 'vector_store_id': 'undefined'. Expected an ID that begins with 'vs'.",
        param="vector_store_id",
        code="invalid_value",
    )
    error = refused(client.get("/vector_stores/vs_a/file_batches/x"), 400)
    assert (error["param"], error["code"]) == ("batch_id", "invalid_value")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"chunking_strategy": {"type": "static"}}, "chunking_strategy.static"),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 99, "chunk_overlap_tokens": 0},
                }
            },
            "chunking_strategy.static.max_chunk_size_tokens",
        ),
        (
            {
                "chunking_strategy": {
                    "type": "static",
                    "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 51},
                }
            },
            "chunking_strategy.static.chunk_overlap_tokens",
        ),
        ({"expires_after": {"anchor": "last_active_at", "days": 366}}, "expires_after.days"),
        ({"expires_after": {"anchor": "created_at", "days": 3}}, "expires_after.anchor"),
        ({"file_ids": ["file-a"] * 501}, "file_ids"),
        ({"files": []}, "files"),
    ],
)
def test_a_request_that_breaks_the_contract_is_refused(client: httpx2.Client, body: dict[str, Any], param: str) -> None:
    assert refused(client.post("/vector_stores", json=body), 400)["param"] == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": []}, "query"),
        ({"query": ["x"] * 33}, "query"),
        ({"query": "x", "max_num_results": 51}, "max_num_results"),
        ({"query": "x", "ranking_options": {"score_threshold": 1.5}}, "ranking_options.score_threshold"),
        ({"query": "x", "filters": {"type": "like", "key": "a", "value": "b"}}, "filters.type"),
    ],
)
def test_a_search_that_breaks_the_contract_is_refused(client: httpx2.Client, body: dict[str, Any], param: str) -> None:
    path = f"/vector_stores/{store(client)['id']}/search"

    assert refused(client.post(path, json=body), 400)["param"] == param


def test_a_search_of_nothing_finds_nothing_and_says_what_was_asked(client: httpx2.Client) -> None:
    path = f"/vector_stores/{store(client)['id']}/search"

    answer = client.post(path, json={"query": ["one", "two"]}).json()

    assert answer == {
        "object": "vector_store.search_results.page",
        "search_query": ["one", "two"],
        "data": [],
        "has_more": False,
        "next_page": None,
    }


def test_files_that_cannot_be_searched_refuse_the_whole(client: httpx2.Client) -> None:
    good, bad, nameless = upload(client), upload(client, "a.bin"), upload(client, "README")
    path = f"/vector_stores/{store(client)['id']}"

    error = refused(client.post(f"{path}/file_batches", json={"file_ids": [good, bad, nameless]}), 400)

    assert error == invalid(
        "Files with extensions [.bin, none] are not supported for retrieval. "
        "See https://platform.openai.com/docs/assistants/tools/file-search/supported-files",
        param="file_ids",
        code="unsupported_file",
    )
    assert client.get(path).json()["file_counts"]["total"] == 0


def test_a_file_given_twice_is_there_once(client: httpx2.Client) -> None:
    file_id, path = upload(client), f"/vector_stores/{store(client)['id']}"

    batch = client.post(f"{path}/file_batches", json={"file_ids": [file_id, file_id]}).json()
    again = client.post(f"{path}/files", json={"file_id": file_id, "attributes": {"a": 1}}).json()

    assert batch["file_counts"]["total"] == 1
    assert client.get(path).json()["file_counts"]["total"] == 1
    assert again["attributes"] == {"a": 1}


def test_attributes_are_replaced_whole_and_null_empties_them(client: httpx2.Client) -> None:
    file_id, one = upload(client), store(client)["id"]
    path = f"/vector_stores/{one}/files"
    client.post(path, json={"file_id": file_id, "attributes": {"a": "1", "b": 2}})

    replaced = client.post(f"{path}/{file_id}", json={"attributes": {"c": True}}).json()["attributes"]
    emptied = client.post(f"{path}/{file_id}", json={"attributes": None}).json()["attributes"]

    assert (replaced, emptied) == ({"c": True}, {})
    error = refused(client.post(f"{path}/{file_id}", json={"attributes": {"a": ["b"]}}), 400)
    assert (error["param"], error["code"]) == ("attributes.a", "invalid_type")


def test_a_request_made_again_with_its_key_makes_one_store(client: httpx2.Client) -> None:
    headers = {"idempotency-key": "one"}

    first, second = (client.post("/vector_stores", json={"name": "a"}, headers=headers).json() for _ in range(2))

    assert first["id"] == second["id"]
    assert len(client.get("/vector_stores").json()["data"]) == 1
