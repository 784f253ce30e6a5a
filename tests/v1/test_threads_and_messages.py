"""Threads and messages in the first beta: text with file_ids, and the files of a message as objects of their own."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused


@pytest.fixture
def thread(v1: httpx2.Client) -> str:
    """The path of an empty thread."""
    return f"/threads/{v1.post('/threads').json()['id']}"


def add(v1: httpx2.Client, thread: str, content: object = "hello", **fields: object) -> dict[str, Any]:
    answer = v1.post(f"{thread}/messages", json={"role": "user", "content": content, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


# Threads


def test_a_thread_is_created_retrieved_modified_and_deleted(v1: httpx2.Client) -> None:
    thread = v1.post("/threads", json={"metadata": {"modified_today": True, "score": 4.5}}).json()

    assert sorted(thread) == ["created_at", "id", "metadata", "object"]
    assert thread["metadata"] == {"modified_today": "true", "score": "4.5"}
    assert v1.get(f"/threads/{thread['id']}").json() == thread
    modified = v1.post(f"/threads/{thread['id']}", json={"metadata": {"a": False}}).json()
    assert modified == {**thread, "metadata": {"a": "false"}}
    assert v1.delete(f"/threads/{thread['id']}").json() == {
        "id": thread["id"],
        "object": "thread.deleted",
        "deleted": True,
    }


def test_a_thread_begins_with_messages_and_their_files(v1: httpx2.Client, client: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "a", "file_ids": ["file-a"]}, {"role": "assistant", "content": "b"}]

    id_ = v1.post("/threads", json={"messages": messages}).json()["id"]

    found = v1.get(f"/threads/{id_}/messages?order=asc").json()["data"]
    assert [(message["role"], message["file_ids"]) for message in found] == [("user", ["file-a"]), ("assistant", [])]


def test_modifying_a_thread_leaves_the_resources_of_the_second_beta(v1: httpx2.Client, client: httpx2.Client) -> None:
    resources = {"code_interpreter": {"file_ids": ["file-a"]}}
    before = client.post("/threads", json={"tool_resources": resources}).json()

    modified = v1.post(f"/threads/{before['id']}", json={"metadata": {"a": "b"}}).json()

    assert "tool_resources" not in modified
    assert client.get(f"/threads/{before['id']}").json() == {**before, "metadata": {"a": "b"}}


def test_threads_are_listed_in_the_first_betas_form(v1: httpx2.Client, thread: str) -> None:
    [found] = v1.get("/threads").json()["data"]

    assert sorted(found) == ["created_at", "id", "metadata", "object"]


# Messages


def test_create_answers_the_first_betas_object(v1: httpx2.Client, thread: str) -> None:
    message = add(v1, thread, file_ids=["file-a", "file-b"], metadata={"a": 1})

    id_, created_at = message.pop("id"), message.pop("created_at")
    assert message == {
        "object": "thread.message",
        "thread_id": thread.removeprefix("/threads/"),
        "status": "completed",
        "incomplete_details": None,
        "completed_at": created_at,
        "incomplete_at": None,
        "role": "user",
        "content": [{"type": "text", "text": {"value": "hello", "annotations": []}}],
        "assistant_id": None,
        "run_id": None,
        "file_ids": ["file-a", "file-b"],
        "metadata": {"a": "1"},
    }
    assert v1.get(f"{thread}/messages/{id_}").json() == {"id": id_, "created_at": created_at, **message}


def test_the_second_beta_sees_attachments_for_both_tools(v1: httpx2.Client, client: httpx2.Client, thread: str) -> None:
    id_ = add(v1, thread, file_ids=["file-a"])["id"]

    message = client.get(f"{thread}/messages/{id_}").json()

    assert message["attachments"] == [
        {"file_id": "file-a", "tools": [{"type": "code_interpreter"}, {"type": "file_search"}]}
    ]
    assert "file_ids" not in message


def test_a_message_of_the_second_beta_is_shown_in_the_words_of_the_first(
    v1: httpx2.Client, client: httpx2.Client, thread: str
) -> None:
    body = {
        "role": "user",
        "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            {"type": "image_file", "image_file": {"file_id": "file-a", "detail": "high"}},
        ],
        "attachments": [
            {"file_id": "file-b", "tools": [{"type": "code_interpreter"}]},
            {"file_id": "file-c"},
            {"file_id": "file-b", "tools": [{"type": "code_interpreter"}]},
        ],
    }
    id_ = client.post(f"{thread}/messages", json=body).json()["id"]

    message = v1.get(f"{thread}/messages/{id_}").json()

    assert message["content"] == [
        {"type": "text", "text": {"value": "look", "annotations": []}},
        {"type": "text", "text": {"value": "https://example.com/a.png", "annotations": []}},
        {"type": "image_file", "image_file": {"file_id": "file-a"}},
    ]
    assert message["file_ids"] == ["file-b", "file-c"]
    assert "attachments" not in message


def test_list_is_newest_first_and_paged(v1: httpx2.Client, thread: str) -> None:
    made = [add(v1, thread, file_ids=["file-a"])["id"] for _ in range(7)][::-1]

    page = v1.get(f"{thread}/messages?limit=5").json()

    assert [message["id"] for message in page["data"]] == made[:5]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[0], made[4], True)
    assert all(message["file_ids"] == ["file-a"] for message in page["data"])


def test_modify_changes_the_metadata_only(v1: httpx2.Client, client: httpx2.Client, thread: str) -> None:
    message = add(v1, thread, file_ids=["file-a"])
    before = client.get(f"{thread}/messages/{message['id']}").json()

    modified = v1.post(f"{thread}/messages/{message['id']}", json={"metadata": {"a": True}}).json()

    assert modified == {**message, "metadata": {"a": "true"}}
    assert client.get(f"{thread}/messages/{message['id']}").json() == {**before, "metadata": {"a": "true"}}


def test_delete_works_in_both_betas(v1: httpx2.Client, client: httpx2.Client, thread: str) -> None:
    for speaker in (v1, client):
        id_ = add(v1, thread)["id"]
        deleted = speaker.delete(f"{thread}/messages/{id_}").json()
        assert deleted == {"id": id_, "object": "thread.message.deleted", "deleted": True}
        refused(v1.get(f"{thread}/messages/{id_}"), 404)


# Files of a message


def test_files_of_a_message_are_listed_and_retrieved(v1: httpx2.Client, thread: str) -> None:
    message = add(v1, thread, file_ids=["file-a", "file-b"])
    files = f"{thread}/messages/{message['id']}/files"

    page = v1.get(files).json()

    assert page == {
        "object": "list",
        "data": [
            {
                "id": id_,
                "object": "thread.message.file",
                "created_at": message["created_at"],
                "message_id": message["id"],
            }
            for id_ in ("file-b", "file-a")
        ],
        "first_id": "file-b",
        "last_id": "file-a",
        "has_more": False,
    }
    assert v1.get(f"{files}/file-a").json() == page["data"][1]
    assert [file["id"] for file in v1.get(f"{files}?order=asc&limit=1").json()["data"]] == ["file-a"]


def test_files_of_a_message_of_the_second_beta(v1: httpx2.Client, client: httpx2.Client, thread: str) -> None:
    body = {"role": "user", "content": "x", "attachments": [{"file_id": "file-a"}]}
    id_ = client.post(f"{thread}/messages", json=body).json()["id"]

    assert [file["id"] for file in v1.get(f"{thread}/messages/{id_}/files").json()["data"]] == ["file-a"]


def test_what_is_missed_first(v1: httpx2.Client, thread: str) -> None:
    id_ = add(v1, thread)["id"]

    for more in ("", "/file-a"):
        assert refused(v1.get(f"/threads/thread_x/messages/{id_}/files{more}"), 404) == invalid(
            "No thread found with id 'thread_x'."
        )
        assert refused(v1.get(f"{thread}/messages/msg_x/files{more}"), 404) == invalid(
            "No message found with id 'msg_x'."
        )
    assert refused(v1.get(f"{thread}/messages/{id_}/files/file-a"), 404) == invalid(
        f"No file found with id 'file-a' in message '{id_}'."
    )


def test_files_of_messages_are_neither_added_nor_deleted(v1: httpx2.Client, thread: str) -> None:
    files = f"{thread}/messages/{add(v1, thread, file_ids=['file-a'])['id']}/files"

    assert v1.post(files, json={"file_id": "file-b"}).status_code == 405
    assert v1.delete(f"{files}/file-a").status_code == 405


# Refusals name what the client sent

REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"file_ids": ["file-a"] * 11},
        (
            "Invalid '{}file_ids': array too long. Expected an array with maximum length 10, "
            "but got an array with length 11 instead."
        ),
        "file_ids",
        "array_above_max_length",
    ),
    (
        {"file_ids": [None]},
        "Invalid type for '{}file_ids[0]': expected a string, but got null instead.",
        "file_ids[0]",
        "invalid_type",
    ),
    (
        {"file_ids": 7},
        "Invalid type for '{}file_ids': expected an array of strings, but got an integer instead.",
        "file_ids",
        "invalid_type",
    ),
    (
        {"content": [{"type": "text", "text": "x"}]},
        "Invalid type for '{}content': expected a string, but got an array instead.",
        "content",
        "invalid_type",
    ),
    (
        {"content": ""},
        "Invalid '{}content': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        "content",
        "empty_string",
    ),
    ({"attachments": []}, "Unknown parameter: '{}attachments'.", "attachments", "unknown_parameter"),
    (
        {"role": "system"},
        "Invalid value: 'system'. Supported values are: 'user' and 'assistant'.",
        "role",
        "invalid_value",
    ),
]


@pytest.mark.parametrize(("fields", "message", "param", "code"), REFUSED, ids=[param for _, _, param, _ in REFUSED])
def test_messages_are_refused_wherever_they_stand(
    v1: httpx2.Client, thread: str, fields: dict[str, Any], message: str, param: str, code: str
) -> None:
    body = {"role": "user", "content": "x", **fields}
    assistant = {"assistant_id": "asst_x"}

    for path, whole, place in (
        (f"{thread}/messages", body, ""),
        ("/threads", {"messages": [body]}, "messages[0]."),
        (f"{thread}/runs", {**assistant, "additional_messages": [body]}, "additional_messages[0]."),
        ("/threads/runs", {**assistant, "thread": {"messages": [body]}}, "thread.messages[0]."),
    ):
        error = refused(v1.post(path, json=whole), 400)
        assert error == invalid(message.replace("{}", place), param=place + param, code=code)


@pytest.mark.parametrize("path", ["", "/{id}"])
def test_threads_have_no_tool_resources(v1: httpx2.Client, thread: str, path: str) -> None:
    url = "/threads" + path.replace("/{id}", thread.removeprefix("/threads"))

    assert refused(v1.post(url, json={"tool_resources": {}}), 400) == invalid(
        "Unknown parameter: 'tool_resources'.", param="tool_resources", code="unknown_parameter"
    )


def test_a_message_takes_only_metadata_later(v1: httpx2.Client, thread: str) -> None:
    message = add(v1, thread)

    for name in ("file_ids", "attachments"):
        assert refused(v1.post(f"{thread}/messages/{message['id']}", json={name: []}), 400) == invalid(
            f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter"
        )
