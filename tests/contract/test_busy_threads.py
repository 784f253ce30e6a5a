"""`if_active`, beyond the contract: what becomes of runs and messages for a thread with an active run."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.databases import execute
from tests.support.stories import FUNCTION, PATIENCE_S, Story, call_ids
from threadkeep.runs.follow import KIND
from threadkeep.runs.line import MAX_WAITING
from threadkeep.upstream.scripted import Call, Gate, Say, Status

ENQUEUE = {"if_active": "enqueue"}
INTERRUPT = {"if_active": "interrupt"}


@pytest.fixture
def gate(story: Story) -> Gate:
    """Closed in the midst of the first answer."""
    gate = Gate()
    story.model.says([Say("Hel"), gate, Say("lo")])
    return gate


def asked(story: Story, number: int) -> list[str]:
    """What the model was sent with its request of this number."""
    return [message["content"] for message in story.model.requests[number]["messages"]]


def user(text: str, **fields: object) -> dict[str, object]:
    return {"role": "user", "content": text, **fields}


def path_of(thread: str, run: Any) -> str:
    return f"{thread}/runs/{run['id']}"


def half_answered(story: Story, thread: str) -> Any:
    """A run that has said the first half of its answer, to a client who has left."""
    with story.streaming_run(thread) as stream:
        stream.until("thread.message.delta")
        return stream.run


# ---------------------------------------------------------------- runs behind the active one


def test_an_enqueued_run_begins_when_the_one_before_it_is_over(story: Story, gate: Gate) -> None:
    story.model.says(Say("Again"))
    thread = story.thread("Hi")
    first = story.create_run(thread)
    gate.wait_reached()

    second = story.create_run(thread, **ENQUEUE)

    assert (second["status"], second["started_at"]) == ("queued", None)
    assert story.get(path_of(thread, second))["status"] == "queued"
    gate.release()
    assert story.until(path_of(thread, first))["status"] == "completed"
    assert story.until(path_of(thread, second))["status"] == "completed"
    assert asked(story, 1) == ["Hi", "Hello"]
    assert story.texts(thread) == [("user", "Hi"), ("assistant", "Hello"), ("assistant", "Again")]


@pytest.mark.parametrize("if_active", ["enqueue", "interrupt", "reject", None])
def test_on_an_idle_thread_a_run_begins_at_once(story: Story, if_active: str | None) -> None:
    story.model.says(Say("Hello"))
    thread = story.thread("Hi")

    assert story.stream_run(thread, if_active=if_active).names()[:3] == [
        "thread.run.created",
        "thread.run.queued",
        "thread.run.in_progress",
    ]


@pytest.mark.parametrize("if_active", ["reject", None])
def test_to_reject_is_the_contract(story: Story, gate: Gate, if_active: str | None) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)
    thread_id = thread.removeprefix("/threads/")

    assert story.refused_run(thread, if_active=if_active) == story.refused_run(thread)
    assert story.refused(f"{thread}/messages", user("Wait", if_active=if_active)) == (
        400,
        f"Can't add messages to {thread_id} while a run {run['id']} is active.",
    )
    gate.release()


def test_runs_wait_in_the_order_in_which_they_came(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    texts = [f"Answer {number}" for number in range(5)]
    story.model.says(*map(Say, texts))

    runs = [story.create_run(thread, **ENQUEUE) for _ in texts]

    gate.release()
    assert [story.until(path_of(thread, run))["status"] for run in runs] == ["completed"] * 5
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello", *texts]
    listed = story.get(f"{thread}/runs?order=asc")["data"][1:]
    assert [run["id"] for run in listed] == [run["id"] for run in runs]


def test_of_an_enqueued_run_the_stream_goes_on_when_its_turn_comes(story: Story, gate: Gate) -> None:
    story.model.says(Say("Again"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    with story.streaming_run(thread, **ENQUEUE) as stream:
        stream.until("thread.run.queued")
        gate.release()
        stream.rest()

    assert stream.names()[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert (stream.names()[-1], stream.text) == ("done", "Again")


def test_too_many_runs_that_wait_are_refused(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)
    gate.wait_reached()
    waiting = [story.create_run(thread, **ENQUEUE) for _ in range(MAX_WAITING)]

    refused = story.refused_run(thread, **ENQUEUE)

    thread_id = thread.removeprefix("/threads/")
    message = f"Thread {thread_id} already has 16 runs waiting for the active run {run['id']}."
    assert refused == (400, message)
    assert story.post(f"{path_of(thread, waiting[7])}/cancel")["status"] == "cancelling"
    assert story.create_run(thread, **ENQUEUE)["status"] == "queued"
    story.http.delete(thread)
    gate.release()


def test_a_refused_interruption_interrupts_nothing(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    run = story.create_run(thread)
    gate.wait_reached()
    for _ in range(MAX_WAITING):
        story.create_run(thread, **ENQUEUE)

    assert story.refused_run(thread, **INTERRUPT)[0] == 400

    assert story.get(path_of(thread, run))["status"] == "in_progress"
    story.http.delete(thread)
    gate.release()


def test_a_run_that_waits_can_be_cancelled(story: Story, gate: Gate) -> None:
    story.model.says(Say("Third"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    second, third = story.create_run(thread, **ENQUEUE), story.create_run(thread, **ENQUEUE)

    assert story.post(f"{path_of(thread, second)}/cancel")["status"] == "cancelling"

    ended = story.get(path_of(thread, second))
    assert (ended["status"], ended["started_at"], ended["usage"]["total_tokens"]) == ("cancelled", None, 0)
    assert ended["cancelled_at"] is not None
    assert story.refused(f"{path_of(thread, second)}/cancel")[1] == "Cannot cancel run with status 'cancelled'."
    gate.release()
    assert story.until(path_of(thread, third))["status"] == "completed"
    assert story.texts(thread)[-1] == ("assistant", "Third")


def test_the_stream_of_a_run_that_waits_ends_with_its_cancel(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    with story.streaming_run(thread, **ENQUEUE) as stream:
        run = stream.until("thread.run.queued").data
        story.post(f"{path_of(thread, run)}/cancel")
        stream.rest()

    assert stream.names()[2:] == ["thread.run.cancelling", "thread.run.cancelled", "done"]
    gate.release()


def test_metadata_of_a_run_that_waits_can_change(story: Story, gate: Gate) -> None:
    story.model.says(Say("Again"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    second = story.create_run(thread, **ENQUEUE)

    changed = story.post(path_of(thread, second), {"metadata": {"a": "b"}})

    assert (changed["status"], changed["metadata"]) == ("queued", {"a": "b"})
    gate.release()
    ended = story.until(path_of(thread, second))
    assert (ended["status"], ended["metadata"]) == ("completed", {"a": "b"})


def test_work_that_is_due_ahead_of_its_turn_goes_on_waiting(story: Story, gate: Gate) -> None:
    story.model.says(Say("Again"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    with story.streaming_run(thread, **ENQUEUE) as stream:
        run = stream.until("thread.run.queued").data
        story.server.write(None, lambda tx: tx.work.touch(KIND, run["id"]))
        given_back = (run["id"], run["expires_at"] * 1000, None)
        deadline = time.monotonic() + PATIENCE_S
        while given_back not in story.server.read(
            None, lambda tx: execute(tx, "SELECT key, due_at, lease_token FROM work")
        ):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        gate.release()
        stream.rest()

    assert stream.names()[:3] == ["thread.run.created", "thread.run.queued", "thread.run.in_progress"]
    assert stream.text == "Again"


def test_a_run_that_waits_takes_no_tool_outputs(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    story.create_run(thread)
    second = story.create_run(thread, **ENQUEUE)

    outputs = {"tool_outputs": [{"tool_call_id": "call_1", "output": "x"}]}

    refused = story.refused(f"{path_of(thread, second)}/submit_tool_outputs", outputs)
    assert refused == (400, 'Runs in status "queued" do not accept tool outputs.')
    gate.release()


@pytest.mark.parametrize("ending", ["cancelled", "failed"])
def test_however_a_run_ends_the_next_one_begins(story: Story, ending: str) -> None:
    gate = Gate()
    story.model.says([gate, Say("Hello") if ending == "cancelled" else Status(400)], Say("Again"))
    thread = story.thread("Hi")
    first = story.create_run(thread)
    gate.wait_reached()
    second = story.create_run(thread, **ENQUEUE)

    if ending == "cancelled":
        story.post(f"{path_of(thread, first)}/cancel")
    gate.release()

    assert story.until(path_of(thread, first))["status"] == ending
    assert story.until(path_of(thread, second))["status"] == "completed"


def test_a_run_that_awaits_its_client_keeps_others_waiting(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says(Call("get_weather", {"city": "Oslo"}), Say("Rain"), Say("Snow"))
    thread = story.thread("Weather?")
    first = story.run_to_end(thread)

    second = story.create_run(thread, **ENQUEUE)
    story.post(f"{thread}/messages", user("And tomorrow?", **ENQUEUE))
    story.submit(path_of(thread, first), {call_ids(first)[0]: "rain"})

    assert story.until(path_of(thread, second))["status"] == "completed"
    assert [text for _, text in story.texts(thread)] == ["Weather?", "Rain", "Snow", "And tomorrow?"]
    assert asked(story, 2) == ["Weather?", "Rain"]


def test_a_deleted_thread_takes_what_waits_along(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    second = story.create_run(thread, **ENQUEUE)

    assert story.http.delete(thread).status_code == 200

    assert story.http.get(path_of(thread, second)).status_code == 404
    gate.release()


def test_an_enqueued_run_that_is_asked_for_twice_waits_once(story: Story, gate: Gate) -> None:
    thread = story.thread("Hi")
    assistant = story.assistant()
    story.create_run(thread)
    gate.wait_reached()
    story.http.headers["idempotency-key"] = "once"

    one, two = [story.post(f"{thread}/runs", {"assistant_id": assistant, **ENQUEUE}) for _ in range(2)]

    del story.http.headers["idempotency-key"]
    assert one == two
    assert len(story.get(f"{thread}/runs")["data"]) == 2
    story.http.delete(thread)
    gate.release()


# ---------------------------------------------------------------- messages behind the active run


def test_an_enqueued_message_stands_behind_all_that_the_active_run_writes(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    gate = Gate()
    call = Call("get_weather", {"city": "Oslo"})
    story.model.says([Say("Let me look."), gate, call], Say("It rains."), Say("You are welcome."))
    thread = story.thread("Weather?")
    first = story.create_run(thread)
    gate.wait_reached()

    message = story.post(f"{thread}/messages", user("Thanks", **ENQUEUE))

    assert story.get(f"{thread}/messages/{message['id']}") == message
    gate.release()
    waiting = story.until(path_of(thread, first))
    story.submit(path_of(thread, first), {call_ids(waiting)[0]: "rain"})
    assert story.until(path_of(thread, first))["status"] == "completed"
    texts = ["Weather?", "Let me look.", "It rains.", "Thanks"]
    assert [text for _, text in story.texts(thread)] == texts
    assert [sent for number in (0, 1) for sent in asked(story, number) if sent == "Thanks"] == []
    assert story.run_to_end(thread)["status"] == "completed"
    assert asked(story, 2) == texts
    assert [text for _, text in story.texts(thread)] == [*texts, "You are welcome."]


def test_a_message_and_a_run_that_are_enqueued_answer_in_turn(story: Story, gate: Gate) -> None:
    story.model.says(Say("Fine"), Say("Bye"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    story.post(f"{thread}/messages", user("How are you?", **ENQUEUE))
    second = story.create_run(thread, **ENQUEUE)
    story.post(f"{thread}/messages", user("Good night", **ENQUEUE))
    third = story.create_run(thread, **ENQUEUE)

    gate.release()
    assert story.until(path_of(thread, second))["status"] == "completed"
    assert story.until(path_of(thread, third))["status"] == "completed"
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello", "How are you?", "Fine", "Good night", "Bye"]
    assert asked(story, 1) == ["Hi", "Hello", "How are you?"]
    assert asked(story, 2) == ["Hi", "Hello", "How are you?", "Fine", "Good night"]


def test_a_thread_is_in_the_order_of_its_times(story: Story, gate: Gate) -> None:
    story.model.says(Say("Fine"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    story.post(f"{thread}/messages", user("How are you?", **ENQUEUE))
    second = story.create_run(thread, **ENQUEUE)
    story.post(f"{thread}/messages", user("Good night", **ENQUEUE))
    gate.release()
    story.until(path_of(thread, second))

    messages = story.messages(thread)

    times = [message["created_at"] for message in messages]
    assert (len(times), times) == (5, sorted(times))
    newest_first = story.get(f"{thread}/messages")["data"]
    assert newest_first == messages[::-1]


def test_additional_messages_of_an_enqueued_run_come_ahead_of_it(story: Story, gate: Gate) -> None:
    story.model.says(Say("Fine"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()

    second = story.create_run(thread, additional_messages=[user("How"), user("are you?")], **ENQUEUE)

    gate.release()
    assert story.until(path_of(thread, second))["status"] == "completed"
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello", "How", "are you?", "Fine"]
    assert asked(story, 0) == ["Hi"]


def test_an_enqueued_message_can_be_deleted_before_its_turn(story: Story, gate: Gate) -> None:
    story.model.says(Say("Again"))
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    message = story.post(f"{thread}/messages", user("Oops", **ENQUEUE))
    second = story.create_run(thread, **ENQUEUE)

    assert story.http.delete(f"{thread}/messages/{message['id']}").status_code == 200

    gate.release()
    story.until(path_of(thread, second))
    assert asked(story, 1) == ["Hi", "Hello"]
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hello", "Again"]


@pytest.mark.parametrize("if_active", ["enqueue", "interrupt"])
def test_a_message_with_an_idempotency_key_is_added_once(story: Story, gate: Gate, if_active: str) -> None:
    thread = story.thread("Hi")
    story.create_run(thread)
    gate.wait_reached()
    story.http.headers["idempotency-key"] = f"message-{if_active}"

    one, two = [story.post(f"{thread}/messages", user("Once", if_active=if_active)) for _ in range(2)]

    del story.http.headers["idempotency-key"]
    gate.release()
    assert one == two
    assert [message["id"] for message in story.messages(thread) if message["role"] == "user"][1:] == [one["id"]]


def test_on_an_idle_thread_a_message_is_added_at_once(story: Story) -> None:
    thread = story.thread("Hi")

    for if_active in ("enqueue", "interrupt", "reject", None):
        story.post(f"{thread}/messages", user(str(if_active), if_active=if_active))

    assert [text for _, text in story.texts(thread)] == ["Hi", "enqueue", "interrupt", "reject", "None"]


# ---------------------------------------------------------------- in place of the active run


def test_an_interrupting_run_takes_the_place_of_the_active_one(story: Story, gate: Gate) -> None:
    story.model.says(Say("Better"))
    thread = story.thread("Hi")
    first = half_answered(story, thread)

    second = story.create_run(thread, **INTERRUPT)

    assert second["status"] == "queued"
    assert story.until(path_of(thread, first), "cancelled")["status"] == "cancelled"
    assert story.until(path_of(thread, second))["status"] == "completed"
    [cut] = story.get(f"{thread}/messages?run_id={first['id']}")["data"]
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "run_cancelled"})
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hel", "Better"]
    gate.release()


def test_an_interrupting_message_stands_behind_what_was_written(story: Story, gate: Gate) -> None:
    story.model.says(Say("Sorry"))
    thread = story.thread("Hi")
    first = half_answered(story, thread)

    story.post(f"{thread}/messages", user("Stop", **INTERRUPT))
    second = story.create_run(thread, **ENQUEUE)

    assert story.until(path_of(thread, second))["status"] == "completed"
    assert story.get(path_of(thread, first))["status"] == "cancelled"
    assert [text for _, text in story.texts(thread)] == ["Hi", "Hel", "Stop", "Sorry"]
    assert asked(story, 1) == ["Hi", "Hel", "Stop"]
    gate.release()


def test_what_interrupts_is_next_and_what_waits_goes_on_waiting(story: Story, gate: Gate) -> None:
    story.model.says(Say("Urgent answer"), Say("Answer"))
    thread = story.thread("Hi")
    half_answered(story, thread)
    story.post(f"{thread}/messages", user("First", **ENQUEUE))
    patient = story.create_run(thread, **ENQUEUE)
    story.post(f"{thread}/messages", user("Last", **ENQUEUE))

    urgent = story.create_run(thread, additional_messages=[user("Urgent"), user("Really")], **INTERRUPT)

    assert story.until(path_of(thread, urgent))["status"] == "completed"
    assert story.until(path_of(thread, patient))["status"] == "completed"
    said = ["Hi", "Hel", "First", "Urgent", "Really"]
    assert asked(story, 1) == said
    assert asked(story, 2) == [*said, "Urgent answer"]
    assert [text for _, text in story.texts(thread)] == [*said, "Urgent answer", "Answer", "Last"]
    gate.release()


def test_a_run_that_awaits_its_client_is_interrupted_at_once(story: Story) -> None:
    story.assistant(tools=[FUNCTION])
    story.model.says(Call("get_weather", {"city": "Oslo"}), Say("Never mind"))
    thread = story.thread("Weather?")
    first = story.run_to_end(thread)

    second = story.create_run(thread, **INTERRUPT)

    assert story.until(path_of(thread, second))["status"] == "completed"
    assert story.get(path_of(thread, first))["status"] == "cancelled"
    refused = story.refused(
        f"{path_of(thread, first)}/submit_tool_outputs",
        {"tool_outputs": [{"tool_call_id": call_ids(first)[0], "output": "rain"}]},
    )
    assert refused == (400, 'Runs in status "cancelled" do not accept tool outputs.')


# ---------------------------------------------------------------- where it is not


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/threads/runs", {"assistant_id": "asst_1", "if_active": "enqueue"}, "if_active"),
        ("/threads", {"messages": [user("Hi", if_active="enqueue")]}, "messages[0].if_active"),
        ("/threads", {"if_active": "enqueue"}, "if_active"),
    ],
)
def test_where_nothing_can_be_active_it_is_unknown(
    story: Story, path: str, body: dict[str, object], param: str
) -> None:
    answer = story.http.post(path, json=body)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unknown_parameter", param)


@pytest.mark.parametrize("place", ["runs", "messages"])
def test_other_values_are_refused(story: Story, place: str) -> None:
    body = user("Hi") if place == "messages" else {"assistant_id": "asst_1"}

    answer = story.http.post(f"{story.thread()}/{place}", json={**body, "if_active": "rollback"})

    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "if_active", "invalid_value")
    assert error["message"] == (
        "Invalid value: 'rollback'. Supported values are: 'reject', 'enqueue', and 'interrupt'."
    )


# ---------------------------------------------------------------- races


def test_of_many_runs_at_once_all_have_their_turn(story: Story) -> None:
    thread, assistant = story.thread("Hi"), story.assistant()
    story.model.says(*[Say("Hello")] * 12)

    def create(_: int) -> Any:
        answer = story.http.post(f"{thread}/runs", json={"assistant_id": assistant, **ENQUEUE})
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(12) as clients:
        runs = list(clients.map(create, range(12)))

    assert [story.until(path_of(thread, run))["status"] for run in runs] == ["completed"] * 12
    assert [text for _, text in story.texts(thread)] == ["Hi", *["Hello"] * 12]


def test_messages_and_runs_race_with_the_ends_of_runs(story: Story) -> None:
    """Runs end in no time while many clients add to the thread: nothing is refused, nothing is left waiting."""
    thread, assistant = story.thread("Hi"), story.assistant()
    story.model.says(*[Say("Hello")] * 40)

    def talk(client: int) -> list[Any]:
        runs: list[Any] = []
        for number in range(5):
            text = user(f"{client}.{number}", **ENQUEUE)
            assert story.http.post(f"{thread}/messages", json=text).status_code == 200
            answer = story.http.post(f"{thread}/runs", json={"assistant_id": assistant, **ENQUEUE})
            assert answer.status_code == 200, answer.text
            runs.append(answer.json())
            if number % 2:
                story.until(path_of(thread, runs[-1]))
        return runs

    with ThreadPoolExecutor(8) as clients:
        runs = [run for made in clients.map(talk, range(8)) for run in made]

    assert {story.until(path_of(thread, run))["status"] for run in runs} == {"completed"}
    listed = story.get(f"{thread}/messages?order=asc&limit=100")["data"]
    assert len(listed) == 1 + 40 + 40
    for client in range(8):
        texts = [message["content"][0]["text"]["value"] for message in listed if message["role"] == "user"]
        assert [text for text in texts if text.startswith(f"{client}.")] == [f"{client}.{at}" for at in range(5)]
    # Each run was sent what stood ahead of it when it began, and the answer stands right behind that.
    for request in story.model.requests:
        assert len(request["messages"]) <= len(listed)


def test_interruptions_at_once_leave_no_run_behind(story: Story) -> None:
    thread, assistant = story.thread("Hi"), story.assistant()
    story.model.says(*[Say("Hello")] * 24)

    def interrupt(_: int) -> Any:
        answer = story.http.post(f"{thread}/runs", json={"assistant_id": assistant, **INTERRUPT})
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as clients:
        runs = list(clients.map(interrupt, range(16)))

    ended = {story.until(path_of(thread, run), "completed", "cancelled")["status"] for run in runs}
    assert "completed" in ended
    assert story.run_to_end(thread)["status"] == "completed"
