"""Files that come with messages, and what they do to the thread's tools."""

from typing import Any

import pytest
from msgspec.structs import replace

from tests.files.conftest import Tenant
from tests.support.stories import Story
from threadkeep.upstream.scripted import Say

CODE, SEARCH = {"type": "code_interpreter"}, {"type": "file_search"}
WEEK_S = 7 * 24 * 3600


def attach(story: Story, thread: str, *attachments: dict[str, Any]) -> Any:
    return story.post(f"{thread}/messages", {"role": "user", "content": "x", "attachments": list(attachments)})


def store_of(story: Story, thread: str) -> Any:
    """The thread's one vector store."""
    [store_id] = story.get(thread)["tool_resources"]["file_search"]["vector_store_ids"]
    return story.get(f"/vector_stores/{store_id}")


def files_of(story: Story, store: Any) -> set[str]:
    return {file["id"] for file in story.get(f"/vector_stores/{store['id']}/files")["data"]}


def test_an_attachment_for_code_becomes_the_threads_file_once(story: Story) -> None:
    thread = story.thread()

    message = attach(story, thread, {"file_id": "file-a", "tools": [CODE]}, {"file_id": "file-b", "tools": [CODE]})
    attach(story, thread, {"file_id": "file-a", "tools": [CODE]})

    assert message["attachments"] == [
        {"file_id": "file-a", "tools": [CODE]},
        {"file_id": "file-b", "tools": [CODE]},
    ]
    assert story.get(thread)["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a", "file-b"]}}


def test_an_attachment_for_nothing_stays_with_its_message(story: Story) -> None:
    thread = story.thread()

    message = attach(story, thread, {"file_id": "file-a"})

    assert message["attachments"] == [{"file_id": "file-a", "tools": []}]
    assert story.get(thread)["tool_resources"] == {}


def test_an_attachment_for_search_makes_the_threads_store_for_a_week(story: Story, owner: Tenant) -> None:
    thread, file_id = story.thread(), owner.upload()

    message = attach(story, thread, {"file_id": file_id, "tools": [SEARCH, CODE]})

    assert message["attachments"] == [{"file_id": file_id, "tools": [SEARCH, CODE]}]
    store = store_of(story, thread)
    assert store["expires_after"] == {"anchor": "last_active_at", "days": 7}
    assert store["expires_at"] == store["last_active_at"] + WEEK_S
    assert files_of(story, store) == {file_id}
    assert story.get(thread)["tool_resources"]["code_interpreter"] == {"file_ids": [file_id]}


def test_the_next_attachments_extend_the_store(story: Story, owner: Tenant) -> None:
    thread, first, second = story.thread(), owner.upload(), owner.upload()
    attach(story, thread, {"file_id": first, "tools": [SEARCH]})
    before = store_of(story, thread)

    attach(story, thread, {"file_id": second, "tools": [SEARCH]}, {"file_id": first, "tools": [SEARCH]})

    assert store_of(story, thread)["id"] == before["id"]
    assert files_of(story, before) == {first, second}


def test_a_store_that_the_thread_was_given_is_extended_too(story: Story, owner: Tenant) -> None:
    store, file_id = story.post("/vector_stores", {}), owner.upload()
    resources = {"file_search": {"vector_store_ids": [store["id"]]}}
    thread = f"/threads/{story.post('/threads', {'tool_resources': resources})['id']}"

    attach(story, thread, {"file_id": file_id, "tools": [SEARCH]})

    assert store_of(story, thread)["expires_at"] is None
    assert files_of(story, store) == {file_id}


def test_a_store_that_was_deleted_is_replaced(story: Story, owner: Tenant) -> None:
    thread, file_id = story.thread(), owner.upload()
    attach(story, thread, {"file_id": file_id, "tools": [SEARCH]})
    gone = store_of(story, thread)["id"]
    owner.http.delete(f"/vector_stores/{gone}").raise_for_status()

    attach(story, thread, {"file_id": file_id, "tools": [SEARCH]})

    assert store_of(story, thread)["id"] != gone
    assert files_of(story, store_of(story, thread)) == {file_id}


def test_a_file_that_cannot_be_searched_is_refused_with_its_message(story: Story, owner: Tenant) -> None:
    thread, file_id = story.thread(), owner.upload(name="a.bin")
    body = {"role": "user", "content": "x", "attachments": [{"file_id": file_id, "tools": [SEARCH]}]}

    status, message = story.refused(f"{thread}/messages", body)

    assert (status, message) == (
        400,
        (
            "Files with extensions [.bin] are not supported for retrieval. "
            "See https://platform.openai.com/docs/assistants/tools/file-search/supported-files"
        ),
    )
    assert story.messages(thread) == []
    assert story.get("/vector_stores")["data"] == []


def test_what_the_thread_has_already_stays(story: Story) -> None:
    store_id = story.post("/vector_stores", {})["id"]
    resources = {"code_interpreter": {"file_ids": ["file-a"]}, "file_search": {"vector_store_ids": [store_id]}}
    thread = f"/threads/{story.post('/threads', {'tool_resources': resources, 'metadata': {'a': '1'}})['id']}"

    attach(story, thread, {"file_id": "file-b", "tools": [CODE]})

    after = story.get(thread)
    assert after["tool_resources"]["code_interpreter"] == {"file_ids": ["file-a", "file-b"]}
    assert after["tool_resources"]["file_search"] == {"vector_store_ids": [store_id]}
    assert after["metadata"] == {"a": "1"}


@pytest.mark.parametrize("tool", [CODE, SEARCH])
def test_a_new_threads_messages_bring_theirs(story: Story, owner: Tenant, tool: dict[str, str]) -> None:
    file_id = owner.upload()
    message = {"role": "user", "content": "x", "attachments": [{"file_id": file_id, "tools": [tool]}]}

    thread = story.post("/threads", {"messages": [message]})

    assert story.get(f"/threads/{thread['id']}") == thread
    if tool == CODE:
        assert thread["tool_resources"] == {"code_interpreter": {"file_ids": [file_id]}}
    else:
        assert files_of(story, store_of(story, f"/threads/{thread['id']}")) == {file_id}


def test_a_threads_helper_makes_a_store_for_a_week(story: Story, owner: Tenant) -> None:
    file_id = owner.upload()
    new = {"file_ids": [file_id], "metadata": {"of": "thread"}, "chunking_strategy": {"type": "auto"}}

    thread = story.post("/threads", {"tool_resources": {"file_search": {"vector_stores": [new]}}})

    store = store_of(story, f"/threads/{thread['id']}")
    assert store["expires_at"] == store["last_active_at"] + WEEK_S
    assert store["metadata"] == {"of": "thread"}
    assert files_of(story, store) == {file_id}


def test_a_run_has_what_its_additional_messages_bring(story: Story, owner: Tenant) -> None:
    story.model.says(Say("Hello."))
    thread, file_id = story.thread("Hi"), owner.upload()
    message = {"role": "user", "content": "x", "attachments": [{"file_id": file_id, "tools": [CODE, SEARCH]}]}

    run = story.run_to_end(thread, additional_messages=[message])

    assert run["tool_resources"] == {
        "code_interpreter": {"file_ids": [file_id]},
        "file_search": {"vector_store_ids": [store_of(story, thread)["id"]]},
    }


def test_more_files_than_code_takes_are_refused_and_nothing_is_stored(story: Story) -> None:
    thread = story.thread()
    attachments = [{"file_id": f"file-{number}", "tools": [CODE]} for number in range(21)]

    status, message = story.refused(f"{thread}/messages", {"role": "user", "content": "x", "attachments": attachments})

    assert status == 400
    assert "at most 20 files" in message
    assert story.messages(thread) == []
    attach(story, thread, *attachments[:20])


def test_a_run_of_a_thread_whose_store_has_expired_fails_and_says_why(story: Story, owner: Tenant) -> None:
    story.assistant(tools=[SEARCH])
    thread, file_id = story.thread("Hi"), owner.upload()
    attach(story, thread, {"file_id": file_id, "tools": [SEARCH]})
    store_id = store_of(story, thread)["id"]
    expired = owner.read(lambda tx: tx.vector_stores.get(store_id))
    owner.write(lambda tx: tx.vector_stores.replace(replace(expired, expires_at=expired.created_at - 1)))

    run = story.run_to_end(thread)

    assert (run["status"], run["last_error"]["code"]) == ("failed", "invalid_prompt")
    assert f"vector store '{store_id}' has expired" in run["last_error"]["message"]


def test_a_run_is_a_use_of_the_stores(story: Story, owner: Tenant) -> None:
    story.model.says(Say("Hello."))
    story.assistant(tools=[SEARCH])
    thread, file_id = story.thread("Hi"), owner.upload()
    attach(story, thread, {"file_id": file_id, "tools": [SEARCH]})
    before = store_of(story, thread)
    stored = owner.read(lambda tx: tx.vector_stores.get(before["id"]))
    older = replace(stored, last_active_at=stored.created_at - 3600, expires_at=stored.created_at + WEEK_S - 3600)
    owner.write(lambda tx: tx.vector_stores.replace(older))

    story.run_to_end(thread)

    assert store_of(story, thread)["last_active_at"] >= before["last_active_at"]
