"""Files that come with messages, and what they do to the thread's tools."""

from typing import Any

import pytest

from tests.support.stories import Story
from threadkeep.upstream.scripted import Say

CODE, SEARCH = {"type": "code_interpreter"}, {"type": "file_search"}


def attach(story: Story, thread: str, *attachments: dict[str, Any]) -> Any:
    return story.post(f"{thread}/messages", {"role": "user", "content": "x", "attachments": list(attachments)})


def test_an_attachment_for_code_becomes_the_threads_file_once(story: Story) -> None:
    thread = story.thread()

    message = attach(
        story, thread, {"file_id": "file-a", "tools": [CODE, SEARCH]}, {"file_id": "file-b", "tools": [CODE]}
    )
    attach(story, thread, {"file_id": "file-a", "tools": [CODE]})

    assert message["attachments"] == [
        {"file_id": "file-a", "tools": [CODE, SEARCH]},
        {"file_id": "file-b", "tools": [CODE]},
    ]
    assert story.get(thread)["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a", "file-b"]}}


@pytest.mark.parametrize("attachment", [{"file_id": "file-a"}, {"file_id": "file-a", "tools": [SEARCH]}])
def test_an_attachment_for_nothing_or_for_search_stays_with_its_message(
    story: Story, attachment: dict[str, Any]
) -> None:
    thread = story.thread()

    message = attach(story, thread, attachment)

    assert message["attachments"] == [{"file_id": "file-a", "tools": attachment.get("tools", [])}]
    assert story.get(thread)["tool_resources"] == {}


def test_what_the_thread_has_already_stays(story: Story) -> None:
    resources = {"code_interpreter": {"file_ids": ["file-a"]}, "file_search": {"vector_store_ids": ["vs_1"]}}
    thread = f"/threads/{story.post('/threads', {'tool_resources': resources, 'metadata': {'a': '1'}})['id']}"

    attach(story, thread, {"file_id": "file-b", "tools": [CODE]})

    after = story.get(thread)
    assert after["tool_resources"]["code_interpreter"] == {"file_ids": ["file-a", "file-b"]}
    assert (after["tool_resources"]["file_search"], after["metadata"]) == ({"vector_store_ids": ["vs_1"]}, {"a": "1"})


def test_a_new_threads_messages_bring_theirs(story: Story) -> None:
    message = {"role": "user", "content": "x", "attachments": [{"file_id": "file-a", "tools": [CODE]}]}

    thread = story.post("/threads", {"messages": [message]})

    assert thread["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a"]}}
    assert story.get(f"/threads/{thread['id']}") == thread


def test_a_run_has_what_its_additional_messages_bring(story: Story) -> None:
    story.model.says(Say("Hello."))
    thread = story.thread("Hi")
    message = {"role": "user", "content": "x", "attachments": [{"file_id": "file-a", "tools": [CODE]}]}

    run = story.run_to_end(thread, additional_messages=[message])

    assert run["tool_resources"] == {"code_interpreter": {"file_ids": ["file-a"]}}


def test_more_files_than_code_takes_are_refused_and_nothing_is_stored(story: Story) -> None:
    thread = story.thread()
    attachments = [{"file_id": f"file-{number}", "tools": [CODE]} for number in range(21)]

    status, message = story.refused(f"{thread}/messages", {"role": "user", "content": "x", "attachments": attachments})

    assert status == 400
    assert "at most 20 files" in message
    assert story.messages(thread) == []
    attach(story, thread, *attachments[:20])
