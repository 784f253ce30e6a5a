"""Files of the first beta and ``retrieval``: they reach a vector store, which the second beta sees."""

import time
from typing import Any

import httpx2

from tests.support.refusals import refused

PATIENCE_S = 60
RETRIEVAL = {"type": "retrieval"}
CODE = {"type": "code_interpreter"}


def upload(client: httpx2.Client, name: str = "a.txt") -> str:
    answer = client.post("/files", data={"purpose": "assistants"}, files={"file": (name, b"One lantern.")})
    return answer.json()["id"]


def create(v1: httpx2.Client, **fields: Any) -> str:
    answer = v1.post("/assistants", json={"model": "offline", **fields})
    assert answer.status_code == 200, answer.text
    return f"/assistants/{answer.json()['id']}"


def searched(client: httpx2.Client, path: str) -> set[str]:
    """The files that the assistant or thread searches."""
    resources = client.get(path).json()["tool_resources"]
    store_ids = resources.get("file_search", {}).get("vector_store_ids", [])
    return {file["id"] for one in store_ids for file in client.get(f"/vector_stores/{one}/files").json()["data"]}


def test_files_of_an_assistant_that_retrieves_are_searched(v1: httpx2.Client, client: httpx2.Client) -> None:
    first, second = upload(client), upload(client)
    path = create(v1, tools=[RETRIEVAL], file_ids=[first])
    assert searched(client, path) == {first}

    v1.post(path, json={"file_ids": [second]}).raise_for_status()
    assert searched(client, path) == {second}
    v1.post(f"{path}/files", json={"file_id": first}).raise_for_status()
    assert searched(client, path) == {first, second}
    v1.delete(f"{path}/files/{second}").raise_for_status()

    assert searched(client, path) == {first}
    assert v1.get(path).json()["file_ids"] == [first]


def test_files_are_searched_from_when_the_assistant_retrieves(v1: httpx2.Client, client: httpx2.Client) -> None:
    file_id = upload(client)
    path = create(v1, tools=[CODE], file_ids=[file_id])
    assert searched(client, path) == set()

    v1.post(path, json={"tools": [RETRIEVAL]}).raise_for_status()

    assert searched(client, path) == {file_id}


def test_a_file_that_cannot_be_searched_is_refused_to_an_assistant_that_retrieves(
    v1: httpx2.Client, client: httpx2.Client
) -> None:
    body = {"model": "offline", "tools": [RETRIEVAL], "file_ids": [upload(client, "a.bin")]}

    error = refused(v1.post("/assistants", json=body), 400)

    assert (error["param"], error["code"]) == ("file_ids", "unsupported_file")


def test_files_of_a_message_are_searched_where_they_can_be(v1: httpx2.Client, client: httpx2.Client) -> None:
    text, picture = upload(client), upload(client, "a.png")
    thread = f"/threads/{v1.post('/threads', json={}).json()['id']}"
    body = {"role": "user", "content": "x", "file_ids": [text, picture]}

    message = v1.post(f"{thread}/messages", json=body).json()

    assert message["file_ids"] == [text, picture]
    assert searched(client, thread) == {text}
    assert client.get(thread).json()["tool_resources"]["code_interpreter"] == {"file_ids": [text, picture]}
    [store_id] = client.get(thread).json()["tool_resources"]["file_search"]["vector_store_ids"]
    deadline = time.monotonic() + PATIENCE_S
    while client.get(f"/vector_stores/{store_id}").json()["status"] != "completed":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert len(client.post(f"/vector_stores/{store_id}/search", json={"query": "lantern"}).json()["data"]) == 1
