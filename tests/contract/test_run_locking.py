"""One active run on a thread: what is refused meanwhile, what is not, and how runs and steps are listed."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.stories import FUNCTION, Story
from threadkeep.upstream.scripted import Call, Gate, Say


@pytest.fixture
def gate(story: Story) -> Gate:
    gate = Gate()
    story.model.says([gate, Say("Hello")], Say("Again"))
    return gate


def test_a_second_run_is_refused_and_names_the_first(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)

    refused = story.refused_run(thread)

    thread_id = thread.removeprefix("/threads/")
    assert refused == (400, f"Thread {thread_id} already has an active run {run['id']}.")
    gate.release()
    assert story.until(f"{thread}/runs/{run['id']}")["status"] == "completed"
    assert story.run_to_end(thread)["status"] == "completed"


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_message_is_refused_and_names_the_run(story: Story, gate: Gate, role: str) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)

    refused = story.refused(f"{thread}/messages", {"role": role, "content": "Wait"})

    thread_id = thread.removeprefix("/threads/")
    assert refused == (400, f"Can't add messages to {thread_id} while a run {run['id']} is active.")
    gate.release()
    story.until(f"{thread}/runs/{run['id']}")
    story.post(f"{thread}/messages", {"role": role, "content": "Now"})


def test_the_lock_holds_while_the_client_is_awaited(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says(Call("get_weather", {"city": "Oslo"}))
    thread = story.thread("Weather?")
    run = story.run_to_end(thread)

    assert story.refused(f"{thread}/messages", {"role": "user", "content": "Wait"})[1].endswith(
        f"while a run {run['id']} is active."
    )
    assert story.refused_run(thread)[1].endswith(f"already has an active run {run['id']}.")


def test_additional_messages_of_a_refused_run_are_not_kept(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)

    story.refused_run(thread, additional_messages=[{"role": "user", "content": "Lost"}])

    gate.release()
    story.until(f"{thread}/runs/{run['id']}")
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello"]


def test_of_many_runs_at_once_one_wins(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    assistant = story.assistant()

    def create(_: int) -> int:
        return story.http.post(f"{thread}/runs", json={"assistant_id": assistant}).status_code

    with ThreadPoolExecutor(8) as clients:
        statuses = list(clients.map(create, range(8)))

    assert sorted(statuses) == [200, *[400] * 7]
    gate.release()


def test_metadata_and_reads_are_not_locked(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)

    changed = story.post(thread, {"metadata": {"a": "b"}})
    story.post(f"{thread}/runs/{run['id']}", {"metadata": {"c": "d"}})

    assert changed["metadata"] == {"a": "b"}
    assert len(story.messages(thread)) == 1
    gate.release()
    ended = story.until(f"{thread}/runs/{run['id']}")
    assert (ended["status"], ended["metadata"]) == ("completed", {"c": "d"})


def test_metadata_given_to_a_message_while_it_is_written_stays(story: Story) -> None:
    story.model.says([Say("Hel"), gate := Gate(), Say("lo")])
    thread = story.thread("Hi")

    with story.streaming_run(thread) as stream:
        message_id = stream.until("thread.message.delta").data["id"]
        story.post(f"{thread}/messages/{message_id}", {"metadata": {"a": "b"}})
        gate.release()
        stream.rest()

    message = stream.data("thread.message.completed")
    assert (message["metadata"], message["content"][0]["text"]["value"]) == ({"a": "b"}, "Hello")


def test_other_threads_run_on(story: Story, gate: Gate) -> None:
    story.create_run(story.thread("Hi"))
    gate.wait_reached()

    assert story.run_to_end(story.thread("Hi"))["status"] == "completed"
    gate.release()


def test_runs_are_listed_newest_first(story: Story) -> None:
    story.model.says(*[Say("Hello")] * 3)
    thread = story.thread("Hi")
    runs = [story.run_to_end(thread)["id"] for _ in range(3)]

    page = story.get(f"{thread}/runs?limit=2")

    assert [run["id"] for run in page["data"]] == [runs[2], runs[1]]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (runs[2], runs[1], True)
    rest = story.get(f"{thread}/runs?after={page['last_id']}")
    assert ([run["id"] for run in rest["data"]], rest["has_more"]) == ([runs[0]], False)
    oldest_first = story.get(f"{thread}/runs?order=asc&before={runs[2]}")
    assert [run["id"] for run in oldest_first["data"]] == runs[:2]


def test_steps_are_listed_newest_first(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says([Say("Let me look."), Call("get_weather", {"city": "Oslo"})])
    asked = story.stream_run(story.thread("Weather?"))

    page = story.get(f"{asked.run_path}/steps")

    assert [step["type"] for step in page["data"]] == ["tool_calls", "message_creation"]
    assert story.get(f"{asked.run_path}/steps?limit=1")["has_more"] is True


def test_messages_can_be_listed_by_run(story: Story) -> None:
    story.model.says(Say("One"), Say("Two"))
    thread = story.thread("Hi")
    first, second = story.run_to_end(thread), story.run_to_end(thread)

    [message] = story.get(f"{thread}/messages?run_id={second['id']}")["data"]

    assert message["content"][0]["text"]["value"] == "Two"
    assert first["id"] != second["id"]


def test_runs_and_steps_of_other_projects_are_not_found(story: Story) -> None:
    story.model.says(Say("Hello"))
    thread = story.thread("Hi")
    run = story.run_to_end(thread)
    path = f"{thread}/runs/{run['id']}"
    [step] = story.steps(path)

    with story.server.client() as stranger:
        for place in (path, f"{path}/steps", f"{path}/steps/{step['id']}", f"{thread}/runs"):
            assert stranger.get(place).status_code == 404
        for verb in ("cancel", "submit_tool_outputs"):
            assert (
                stranger.post(f"{path}/{verb}", json={"tool_outputs": []} if verb != "cancel" else {}).status_code
                == 404
            )


@pytest.mark.parametrize("place", ["", "/cancel", "/steps", "/steps/step_unknown"])
def test_an_unknown_run_is_not_found(story: Story, place: str) -> None:
    thread = story.thread("Hi")
    path = f"{thread}/runs/run_unknown{place}"

    answer = story.http.post(path, json={}) if place == "/cancel" else story.http.get(path)

    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "No run found with id 'run_unknown'.")
