"""createMessage, listMessages, getMessage, modifyMessage, deleteMessage."""

from typing import Any

import httpx2
import pytest

from tests.support.refusals import invalid, refused


@pytest.fixture
def thread(client: httpx2.Client) -> str:
    """The path of an empty thread."""
    return f"/threads/{client.post('/threads').json()['id']}"


def add(client: httpx2.Client, thread: str, content: object = "hello", **fields: object) -> dict[str, Any]:
    answer = client.post(f"{thread}/messages", json={"role": "user", "content": content, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_create_answers_the_message(client: httpx2.Client, thread: str) -> None:
    message = add(client, thread, metadata={"a": 1})

    assert message.pop("id").startswith("msg_")
    created_at = message.pop("created_at")
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
        "attachments": [],
        "metadata": {"a": "1"},
    }


def test_create_keeps_parts_and_attachments(client: httpx2.Client, thread: str) -> None:
    message = add(
        client,
        thread,
        [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
            {"type": "image_file", "image_file": {"file_id": "file-a"}},
        ],
        attachments=[
            {"file_id": "file-b", "tools": [{"type": "code_interpreter"}]},
            {"file_id": "file-c"},
        ],
    )

    assert message["content"] == [
        {"type": "text", "text": {"value": "look", "annotations": []}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_file", "image_file": {"file_id": "file-a", "detail": "auto"}},
    ]
    assert message["attachments"] == [
        {"file_id": "file-b", "tools": [{"type": "code_interpreter"}]},
        {"file_id": "file-c", "tools": []},
    ]
    assert client.get(f"{thread}/messages/{message['id']}").json() == message


@pytest.mark.parametrize("text", ["", "ünïcödé 😀", 'quote " backslash \\ \n\t', "</script>", "a" * 256_000])
def test_create_keeps_text_as_it_is(client: httpx2.Client, thread: str, text: str) -> None:
    message = add(client, thread, text)

    assert client.get(f"{thread}/messages/{message['id']}").json()["content"][0]["text"]["value"] == text


def test_create_refuses_text_that_is_too_long(client: httpx2.Client, thread: str) -> None:
    body = {"role": "user", "content": "x" * 256_001}

    assert refused(client.post(f"{thread}/messages", json=body), 400) == invalid(
        "Invalid 'content': string too long. Expected a string with maximum length 256000, "
        "but got a string with length 256001 instead.",
        param="content",
        code="string_above_max_length",
    )


def test_create_refuses_the_system_role(client: httpx2.Client, thread: str) -> None:
    error = refused(client.post(f"{thread}/messages", json={"role": "system", "content": "x"}), 400)

    assert error == invalid(
        "Invalid value: 'system'. Supported values are: 'user' and 'assistant'.", param="role", code="invalid_value"
    )


def test_create_in_an_unknown_thread(client: httpx2.Client) -> None:
    error = refused(client.post("/threads/thread_x/messages", json={"role": "user", "content": "x"}), 404)

    assert error == invalid("No thread found with id 'thread_x'.")


def test_list_is_newest_first(client: httpx2.Client, thread: str) -> None:
    made = [add(client, thread)["id"] for _ in range(3)]

    page = client.get(f"{thread}/messages").json()

    assert [message["id"] for message in page["data"]] == made[::-1]


def test_list_of_a_run_leaves_what_others_wrote(client: httpx2.Client, thread: str) -> None:
    add(client, thread)

    assert client.get(f"{thread}/messages?run_id=run_x").json()["data"] == []


def test_list_of_a_malformed_run_id(client: httpx2.Client, thread: str) -> None:
    error = refused(client.get(f"{thread}/messages?run_id=nonsense"), 400)

    assert error["param"] == "run_id"


def test_list_of_an_unknown_thread(client: httpx2.Client) -> None:
    error = refused(client.get("/threads/thread_x/messages"), 404)

    assert error == invalid("No thread found with id 'thread_x'.")


def test_a_thread_is_missed_before_its_message(client: httpx2.Client, thread: str) -> None:
    assert refused(client.get("/threads/thread_x/messages/msg_x"), 404) == invalid(
        "No thread found with id 'thread_x'."
    )
    assert refused(client.get(f"{thread}/messages/msg_x"), 404) == invalid("No message found with id 'msg_x'.")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_message_belongs_to_its_thread_only(client: httpx2.Client, thread: str, method: str) -> None:
    message_id = add(client, thread)["id"]
    other = client.post("/threads").json()["id"]

    error = refused(client.request(method, f"/threads/{other}/messages/{message_id}"), 404)

    assert error == invalid(f"No message found with id '{message_id}'.")
    assert client.get(f"{thread}/messages/{message_id}").status_code == 200


def test_modify_changes_the_metadata_only(client: httpx2.Client, thread: str) -> None:
    message = add(client, thread, metadata={"a": "1"})

    modified = client.post(f"{thread}/messages/{message['id']}", json={"metadata": {"b": False}}).json()

    assert modified == {**message, "metadata": {"b": "false"}}
    assert client.get(f"{thread}/messages/{message['id']}").json() == modified


def test_modify_refuses_other_fields(client: httpx2.Client, thread: str) -> None:
    message = add(client, thread)

    error = refused(client.post(f"{thread}/messages/{message['id']}", json={"content": "x"}), 400)

    assert error == invalid("Unknown parameter: 'content'.", param="content", code="unknown_parameter")


def test_delete_removes_the_message(client: httpx2.Client, thread: str) -> None:
    message_id = add(client, thread)["id"]

    answer = client.delete(f"{thread}/messages/{message_id}")

    assert answer.json() == {"id": message_id, "object": "thread.message.deleted", "deleted": True}
    assert refused(client.get(f"{thread}/messages/{message_id}"), 404) == invalid(
        f"No message found with id '{message_id}'."
    )
    refused(client.delete(f"{thread}/messages/{message_id}"), 404)


def test_delete_in_an_unknown_thread(client: httpx2.Client) -> None:
    error = refused(client.delete("/threads/thread_x/messages/msg_x"), 404)

    assert error == invalid("No thread found with id 'thread_x'.")
