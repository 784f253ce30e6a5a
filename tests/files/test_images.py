"""Images on their way to the model, and runs that fail because there is nothing to show."""

import base64
from typing import Any

import pytest

from tests.files.conftest import Tenant
from tests.files.due import expire_file
from tests.support.stories import Story
from threadkeep.upstream.scripted import Say, Status

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
WEBP = b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0/\0\0\0\x10\x07\x10\x11\x11\x88\x88\xfe\x07\0"


def image_file(file_id: str, **more: str) -> dict[str, Any]:
    return {"type": "image_file", "image_file": {"file_id": file_id, **more}}


def show(story: Story, thread: str, *parts: dict[str, Any], **more: Any) -> str:
    return story.post(f"{thread}/messages", {"role": "user", "content": list(parts), **more})["id"]


def failed(story: Story, thread: str) -> dict[str, str]:
    run = story.run_to_end(thread)
    assert run["status"] == "failed", run
    return run["last_error"]


def test_an_uploaded_image_reaches_the_model_as_a_data_url(story: Story, owner: Tenant) -> None:
    story.model.says(Say("A dot."))
    thread = story.thread()
    text = {"type": "text", "text": "What is this?"}
    show(story, thread, text, image_file(owner.upload(PNG, "no-extension", "vision"), detail="high"))

    run = story.run_to_end(thread)

    assert run["status"] == "completed", run["last_error"]
    [user] = story.model.asked["messages"]
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    assert user == {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        ],
    }


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff\xe0JFIF", "jpeg"), (b"GIF89a...", "gif"), (b"GIF87a...", "gif"), (WEBP, "webp")],
)
def test_what_kind_of_image_it_is_its_bytes_say(story: Story, owner: Tenant, content: bytes, kind: str) -> None:
    story.model.says(Say("I see."))
    thread = story.thread()
    show(story, thread, image_file(owner.upload(content, "liar.exe", "assistants")))

    assert story.run_to_end(thread)["status"] == "completed"
    [user] = story.model.asked["messages"]
    assert user["content"][0]["image_url"]["url"].startswith(f"data:image/{kind};base64,")


def test_a_link_reaches_the_model_as_it_is(story: Story) -> None:
    story.model.says(Say("I see."))
    thread = story.thread()
    link = {"url": "https://example.com/a.png", "detail": "low"}
    show(story, thread, {"type": "image_url", "image_url": link})

    assert story.run_to_end(thread)["status"] == "completed"
    [user] = story.model.asked["messages"]
    assert user["content"] == [{"type": "image_url", "image_url": link}]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "ftp://example.com/a.png", "a.png", ""])
def test_a_link_that_leads_nowhere_in_the_web_is_refused(story: Story, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}

    answer = story.http.post("/threads", json={"messages": [{"role": "user", "content": [part]}]})

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[0].image_url.url", "invalid_value")


@pytest.mark.parametrize("url", ["HTTP://example.com/a.png", f"data:image/png;base64,{base64.b64encode(PNG).decode()}"])
def test_a_link_may_hold_the_image_itself(story: Story, url: str) -> None:
    story.model.says(Say("I see."))
    thread = story.thread()
    show(story, thread, {"type": "image_url", "image_url": {"url": url}})

    assert story.run_to_end(thread)["status"] == "completed"
    [user] = story.model.asked["messages"]
    assert user["content"][0]["image_url"]["url"] == url


def test_each_of_several_images_stands_in_its_place(story: Story, owner: Tenant) -> None:
    story.model.says(Say("I see."))
    story.assistant(instructions="Look.")
    thread = story.thread("First")
    png, webp = owner.upload(PNG, purpose="vision"), owner.upload(WEBP, purpose="vision")
    show(story, thread, image_file(png), {"type": "text", "text": "between"}, image_file(webp))
    show(story, thread, image_file(webp))

    assert story.run_to_end(thread)["status"] == "completed"
    _, *users = story.model.asked["messages"]
    assert users[0]["content"] == "First"
    parts: list[Any] = [part for user in users[1:] for part in user["content"]]
    kinds = [part.get("text") or part["image_url"]["url"].partition(";")[0] for part in parts]
    assert kinds == ["data:image/png", "between", "data:image/webp", "data:image/webp"]


def test_an_assistants_image_is_not_shown_to_the_model(story: Story) -> None:
    story.model.says(Say("Hello."))
    thread = story.thread()
    content = [{"type": "text", "text": "Here it is."}, image_file("file-gone")]
    story.post(f"{thread}/messages", {"role": "assistant", "content": content})
    show(story, thread, {"type": "text", "text": "Thanks."})

    assert story.run_to_end(thread)["status"] == "completed"
    assert [message["content"] for message in story.model.asked["messages"]] == ["Here it is.", "Thanks."]


@pytest.mark.parametrize("how", ["unknown", "deleted", "expired", "of another project"])
def test_an_image_that_is_gone_fails_the_run_by_name(story: Story, owner: Tenant, how: str) -> None:
    thread = story.thread()
    file_id = owner.upload(PNG, purpose="vision") if how != "unknown" else "file-unknown"
    if how == "of another project":
        with Tenant(story.server) as other:
            file_id = other.upload(PNG, purpose="vision")
    message_id = show(story, thread, image_file(file_id))
    if how == "deleted":
        owner.http.delete(f"/files/{file_id}").raise_for_status()
    elif how == "expired":
        expire_file(owner, file_id)

    error = failed(story, thread)

    assert error["code"] == "invalid_prompt"
    assert file_id in error["message"]
    assert message_id in error["message"]
    assert story.model.requests == []
    assert story.get(f"{thread}/messages/{message_id}")["content"] == [image_file(file_id, detail="auto")]


def test_after_the_message_is_deleted_the_thread_goes_on(story: Story) -> None:
    story.model.says(Say("Hello."))
    thread = story.thread("Hi")
    message_id = show(story, thread, image_file("file-gone"))
    failed(story, thread)

    story.http.delete(f"{thread}/messages/{message_id}").raise_for_status()

    assert story.run_to_end(thread)["status"] == "completed"


@pytest.mark.parametrize("content", [b"", b"just text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"RIFF....WAVE"])
def test_a_file_that_is_no_image_fails_the_run(story: Story, owner: Tenant, content: bytes) -> None:
    thread = story.thread()
    file_id = owner.upload(content, "image.png", "vision")
    show(story, thread, image_file(file_id))

    error = failed(story, thread)

    assert error["code"] == "invalid_prompt"
    assert "no image" in error["message"]


def test_a_model_that_cannot_see_is_not_asked(story: Story, owner: Tenant) -> None:
    story.model = story.models.new_model("blind")
    thread = story.thread()
    show(story, thread, image_file(owner.upload(PNG, purpose="vision")))

    error = failed(story, thread)

    assert (error["code"], story.model.requests) == ("invalid_prompt", [])
    assert "cannot see images" in error["message"]


def test_what_a_model_server_says_of_images_is_the_runs_error(story: Story, owner: Tenant) -> None:
    story.model.says(Status(400, '{"error": {"message": "image input is not supported by this model"}}'))
    thread = story.thread()
    show(story, thread, image_file(owner.upload(PNG, purpose="vision")))

    error = failed(story, thread)

    assert error["code"] == "invalid_prompt"
    assert "image input is not supported" in error["message"]


def test_images_beyond_what_a_prompt_holds_are_left_out_with_their_messages(
    story: Story, owner: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadkeep.runs import pictures

    monkeypatch.setattr(pictures, "MAX_PROMPT_BYTES", 2 * len(PNG))
    story.model.says(Say("I see."))
    thread = story.thread("Hi")
    file_id = owner.upload(PNG, purpose="vision")
    for _ in range(3):
        show(story, thread, image_file(file_id))

    assert story.run_to_end(thread)["status"] == "completed"
    assert len(story.model.asked["messages"]) == 2

    show(story, thread, *[image_file(file_id)] * 3)
    assert "too large together" in failed(story, thread)["message"]
