"""createThread, getThread, modifyThread, deleteThread; and the list of threads, which is ours."""

from typing import Any

import httpx2

from tests.support.refusals import invalid, refused


def create(client: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = client.post("/threads", json=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: httpx2.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["data"]]


def test_create_needs_no_body(client: httpx2.Client) -> None:
    thread = client.post("/threads").json()

    assert thread.pop("id").startswith("thread_")
    assert isinstance(thread.pop("created_at"), int)
    assert thread == {"object": "thread", "metadata": {}, "tool_resources": {}}


def test_create_with_messages_keeps_their_order(client: httpx2.Client) -> None:
    thread = create(
        client,
        messages=[
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two", "metadata": {"n": 2}},
            {"role": "user", "content": [{"type": "text", "text": "three"}]},
        ],
    )

    messages = client.get(f"/threads/{thread['id']}/messages?order=asc").json()["data"]
    assert [message["content"][0]["text"]["value"] for message in messages] == ["one", "two", "three"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert messages[1]["metadata"] == {"n": "2"}


def test_create_names_the_path_of_what_it_refuses(client: httpx2.Client) -> None:
    messages = [{"role": "user", "content": "one"}, {"role": "human", "content": "two"}]

    error = refused(client.post("/threads", json={"messages": messages}), 400)

    assert error == invalid(
        "Invalid value: 'human'. Supported values are: 'user' and 'assistant'.",
        param="messages[1].role",
        code="invalid_value",
    )


def test_create_that_is_refused_leaves_nothing(client: httpx2.Client) -> None:
    resources: dict[str, Any] = {"file_search": {"vector_stores": [{"file_ids": ["file-none"]}]}}

    refused(client.post("/threads", json={"tool_resources": resources}), 404)

    assert ids(client.get("/threads")) == []
    assert ids(client.get("/vector_stores")) == []


def test_scalars_in_metadata_become_strings(client: httpx2.Client) -> None:
    thread = create(client, metadata={"modified_today": True, "feedback_rating": 4.5, "n": 3, "s": "s"})

    assert thread["metadata"] == {"modified_today": "true", "feedback_rating": "4.5", "n": "3", "s": "s"}


def test_nested_metadata_is_refused(client: httpx2.Client) -> None:
    error = refused(client.post("/threads", json={"metadata": {"k": {"a": 1}}}), 400)

    assert error == invalid(
        "Invalid type for 'metadata.k': expected a string, but got an object instead.",
        param="metadata.k",
        code="invalid_type",
    )


def test_retrieve_answers_what_create_answered(client: httpx2.Client) -> None:
    thread = create(client, metadata={"a": "b"}, tool_resources={"code_interpreter": {"file_ids": ["file-a"]}})

    assert client.get(f"/threads/{thread['id']}").json() == thread


def test_retrieve_of_an_unknown_one(client: httpx2.Client) -> None:
    assert refused(client.get("/threads/thread_x"), 404) == invalid("No thread found with id 'thread_x'.")


def test_retrieve_with_an_id_of_another_kind(client: httpx2.Client) -> None:
    error = refused(client.get("/threads/undefined"), 400)

    assert error == invalid(
        "Invalid 'thread_id': 'undefined'. Expected an ID that begins with 'thread'.",
        param="thread_id",
        code="invalid_value",
    )


def test_retrieve_with_characters_no_id_has(client: httpx2.Client) -> None:
    error = refused(client.get("/threads/thread_%00"), 400)

    assert error["param"] == "thread_id"


def test_modify_replaces_the_metadata_and_leaves_the_rest(client: httpx2.Client) -> None:
    thread = create(client, metadata={"a": "1"}, tool_resources={"code_interpreter": {"file_ids": ["file-a"]}})

    modified = client.post(f"/threads/{thread['id']}", json={"metadata": {"b": 2}}).json()

    assert modified == {**thread, "metadata": {"b": "2"}}
    assert client.get(f"/threads/{thread['id']}").json() == modified


def test_modify_without_metadata_leaves_it_and_null_empties_it(client: httpx2.Client) -> None:
    thread = create(client, metadata={"a": "1"})

    assert client.post(f"/threads/{thread['id']}", json={}).json() == thread
    assert client.post(f"/threads/{thread['id']}", json={"metadata": None}).json()["metadata"] == {}


def test_modify_accepts_nulls_inside_tool_resources(client: httpx2.Client) -> None:
    thread = create(client)

    resources = {"code_interpreter": {"file_ids": ["file-a"]}, "file_search": None}
    modified = client.post(f"/threads/{thread['id']}", json={"tool_resources": resources}).json()

    assert modified["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a"]}}


def test_modify_of_an_unknown_one(client: httpx2.Client) -> None:
    error = refused(client.post("/threads/thread_x", json={"metadata": {}}), 404)

    assert error == invalid("No thread found with id 'thread_x'.")


def test_delete_takes_its_messages_along(client: httpx2.Client) -> None:
    thread_id = create(client, messages=[{"role": "user", "content": "hi"}])["id"]

    answer = client.delete(f"/threads/{thread_id}")

    assert answer.json() == {"id": thread_id, "object": "thread.deleted", "deleted": True}
    gone = invalid(f"No thread found with id '{thread_id}'.")
    assert refused(client.get(f"/threads/{thread_id}"), 404) == gone
    assert refused(client.get(f"/threads/{thread_id}/messages"), 404) == gone
    assert refused(client.delete(f"/threads/{thread_id}"), 404) == gone


def test_list_is_newest_first(client: httpx2.Client) -> None:
    made = [create(client)["id"] for _ in range(3)]

    assert ids(client.get("/threads")) == made[::-1]
    assert ids(client.get("/threads?order=asc")) == made


def test_list_finds_by_metadata(client: httpx2.Client) -> None:
    both = create(client, metadata={"user": "ada", "kind": "draft"})["id"]
    one = create(client, metadata={"user": "ada"})["id"]
    create(client, metadata={"user": "bob", "kind": "draft"})

    assert ids(client.get("/threads", params={"metadata[user]": "ada"})) == [one, both]
    assert ids(client.get("/threads", params={"metadata[user]": "ada", "metadata[kind]": "draft"})) == [both]
    assert ids(client.get("/threads", params={"metadata[user]": "eve"})) == []


def test_list_follows_modified_metadata(client: httpx2.Client) -> None:
    thread_id = create(client, metadata={"user": "ada"})["id"]

    client.post(f"/threads/{thread_id}", json={"metadata": {"user": "bob"}})

    assert ids(client.get("/threads", params={"metadata[user]": "ada"})) == []
    assert ids(client.get("/threads", params={"metadata[user]": "bob"})) == [thread_id]


def test_list_finds_by_words_of_one_message(client: httpx2.Client) -> None:
    found = create(client, messages=[{"role": "user", "content": "The Quick brown fox"}])["id"]
    create(client, messages=[{"role": "user", "content": "quick"}, {"role": "user", "content": "fox"}])

    assert ids(client.get("/threads", params={"q": "fox QUICK"})) == [found]
    assert ids(client.get("/threads", params={"q": "quickly"})) == []


def test_list_takes_words_as_words_and_not_as_a_query(client: httpx2.Client) -> None:
    create(client, messages=[{"role": "user", "content": "one"}])

    for words in ['"', "one OR two", "one*", "one & !two", "NEAR(one two)", "' -- "]:
        assert client.get("/threads", params={"q": words}).status_code == 200, words
    assert ids(client.get("/threads", params={"q": "one OR two"})) == []
