"""The checks of the chaos suite find what they are there to find: in histories that are known to be good or bad."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.chaos.ledger import (
    Asked,
    Fault,
    Heard,
    MessageRecord,
    Plan,
    RunKind,
    RunRecord,
    StoreRecord,
    ThreadRecord,
    ThreadSeen,
    check_objects,
    check_prompts,
    check_store_files,
    check_thread,
    check_while_busy,
)


class Story:
    """A thread with two messages and a run that ended well, as a client recorded it and as the server shows it."""

    def __init__(self, kind: RunKind = "say") -> None:
        self.plan = Plan("run1", kind, pieces=2, pause_ms=0)
        self.run = RunRecord("run1", id="run_1", made="done", plan=self.plan, metadata={"token": "run1"})
        self.run.asked_at = 1000.0
        if kind in ("call", "say_and_call"):
            self.run.output, self.run.outputs_came = "sun", "done"
        self.thread = ThreadRecord("thread1", id="thread_1", made="done", metadata={"token": "thread1"})
        for token in ("message1", "message2"):
            self.thread.messages[token] = MessageRecord(
                token, id=f"msg_{token}", made="done", text=f"{token} hello end"
            )
        self.thread.runs["run1"] = self.run
        texts = self.plan.texts(self.run.output)
        answers = iter([_message(f"msg_a{number}", "assistant", text) for number, text in enumerate(texts)])
        steps = [_step(number, type_, self.run.output) for number, type_ in enumerate(self.plan.steps)]
        users = [_message(record.id or "", "user", record.text) for record in self.thread.messages.values()]
        run: Any = {
            "id": "run_1",
            "status": "completed",
            "metadata": {"token": "run1"},
            "failed_at": None,
            "last_error": None,
            "incomplete_details": None,
        }
        self.seen = ThreadSeen({"metadata": {"token": "thread1"}}, [*users, *answers], [run], {"run_1": steps})

    @property
    def stored(self) -> Any:
        return self.seen.runs[0]

    @property
    def answers(self) -> list[Any]:
        return [message for message in self.seen.messages if message["role"] == "assistant"]

    def faults(self, *deaths: float) -> list[Fault]:
        return check_thread(self.thread, self.seen, deaths=deaths)

    def kinds(self, *deaths: float) -> set[str]:
        return {fault.kind for fault in self.faults(*deaths)}

    def hear(self) -> Heard:
        """What a reader of the whole run hears."""
        heard = Heard(is_done=True)
        events: list[tuple[str, Any]] = [("thread.run.created", {**self.stored, "status": "queued"})]
        for message in self.answers:
            events.append(("thread.message.created", {**message, "content": []}))
            for word in text_pieces(message):
                delta = {"content": [{"type": "text", "text": {"value": word}}]}
                events.append(("thread.message.delta", {"id": message["id"], "delta": delta}))
            events.append(("thread.message.completed", deepcopy(message)))
        events.append(("thread.run.completed", deepcopy(self.stored)))
        heard.events = [(number, name, data) for number, (name, data) in enumerate(events, 1)]
        self.run.heard.append(heard)
        return heard


def text_pieces(message: Any) -> list[str]:
    text = message["content"][0]["text"]["value"]
    return [text[:5], text[5:]]


def _message(id_: str, role: str, text: str) -> Any:
    return {
        "id": id_,
        "role": role,
        "status": "completed",
        "run_id": "run_1" if role == "assistant" else None,
        "metadata": {},
        "content": [{"type": "text", "text": {"value": text}}],
    }


def _step(number: int, type_: str, output: str | None) -> Any:
    details: Any = {"message_creation": {"message_id": "msg_a"}}
    if type_ == "tool_calls":
        call = {"type": "function", "id": "call_1", "function": {"name": "look_up", "output": output}}
        details = {"tool_calls": [call if output else {"type": "file_search", "id": "call_1"}]}
    return {"id": f"step_{number}", "type": type_, "status": "completed", "step_details": details}


@pytest.mark.parametrize("kind", ["say", "call", "say_and_call", "search"])
def test_a_thread_as_it_should_be_has_no_fault(kind: RunKind) -> None:
    story = Story(kind)
    story.hear()

    assert story.faults() == []
    assert check_while_busy(story.thread, story.seen) == []


def test_a_thread_that_is_gone_is_lost() -> None:
    assert [fault.kind for fault in check_thread(Story().thread, None)] == ["lost"]


def test_a_thread_that_may_have_been_deleted_may_be_gone() -> None:
    story = Story()
    story.thread.deleted = "unknown"

    assert check_thread(story.thread, None) == []


def test_a_deleted_thread_that_is_there_is_a_lost_deletion() -> None:
    story = Story()
    story.thread.deleted = "done"

    assert story.kinds() == {"lost"}


def _lose_a_message(story: Story) -> None:
    del story.seen.messages[0]


def _double_a_message(story: Story) -> None:
    story.seen.messages.insert(1, story.seen.messages[0])


def _swap_messages(story: Story) -> None:
    story.seen.messages[:2] = reversed(story.seen.messages[:2])


def _alter_a_message(story: Story) -> None:
    story.seen.messages[0] = _message("msg_message1", "user", "message1 hallo end")


def _add_a_message_of_nobody(story: Story) -> None:
    story.seen.messages.insert(0, _message("msg_0", "user", "stranger says"))


def _bring_back_a_message(story: Story) -> None:
    story.thread.messages["message1"].deleted = "done"


def _lose_metadata(story: Story) -> None:
    story.thread.wrote_metadata({"token": "thread1", "changed": "1"}, "done")


def _lose_the_run(story: Story) -> None:
    story.seen.runs.clear()
    del story.seen.messages[2:]


def _double_the_run(story: Story) -> None:
    story.seen.runs.append({**story.stored, "id": "run_2"})
    story.seen.steps["run_2"] = story.seen.steps["run_1"]


def _leave_it_active(story: Story) -> None:
    story.stored["status"] = "in_progress"


def _fail_it(story: Story) -> None:
    story.stored["status"] = "failed"


def _cancel_it_unasked(story: Story) -> None:
    story.stored["status"] = "cancelled"


def _forget_its_cancel(story: Story) -> None:
    story.run.cancel = "done"


def _expire_it(story: Story) -> None:
    story.stored["status"] = "expired"


def _double_its_answer(story: Story) -> None:
    story.seen.messages.append(_message("msg_b", "assistant", story.plan.texts(story.run.output)[-1]))


def _lose_its_answer(story: Story) -> None:
    story.seen.messages.pop()


def _cut_its_answer(story: Story) -> None:
    story.seen.messages[-1]["content"][0]["text"]["value"] = "run1/1: "


def _repeat_a_step(story: Story) -> None:
    story.seen.steps["run_1"].append(story.seen.steps["run_1"][0])


def _leave_a_step_open(story: Story) -> None:
    story.seen.steps["run_1"][-1]["status"] = "in_progress"


def _leave_a_message_open(story: Story) -> None:
    story.seen.messages[-1]["status"] = "in_progress"


def _leave_a_message_of_no_run(story: Story) -> None:
    story.seen.messages[-1]["run_id"] = "run_9"


@pytest.mark.parametrize(
    ("doctor", "kind"),
    [
        (_lose_a_message, "lost"),
        (_double_a_message, "duplicated"),
        (_swap_messages, "wrong"),
        (_alter_a_message, "wrong"),
        (_add_a_message_of_nobody, "wrong"),
        (_bring_back_a_message, "lost"),
        (_lose_metadata, "lost"),
        (_lose_the_run, "lost"),
        (_double_the_run, "duplicated"),
        (_leave_it_active, "stuck"),
        (_fail_it, "wrong"),
        (_cancel_it_unasked, "wrong"),
        (_forget_its_cancel, "lost"),
        (_expire_it, "wrong"),
        (_double_its_answer, "duplicated"),
        (_lose_its_answer, "lost"),
        (_cut_its_answer, "wrong"),
        (_repeat_a_step, "duplicated"),
        (_leave_a_step_open, "stuck"),
        (_leave_a_message_open, "stuck"),
        (_leave_a_message_of_no_run, "wrong"),
    ],
)
def test_a_doctored_thread_is_found(doctor: Callable[[Story], None], kind: str) -> None:
    story = Story()

    doctor(story)

    assert kind in story.kinds()


@pytest.mark.parametrize("output", ["rain", None])
def test_a_tool_output_that_is_another_or_none_is_lost(output: str | None) -> None:
    story = Story("call")
    story.seen.steps["run_1"][0]["step_details"]["tool_calls"][0]["function"]["output"] = output

    assert story.kinds() == {"lost"}


def test_what_got_no_answer_may_be_there_or_not() -> None:
    story = Story()
    story.thread.messages["message3"] = MessageRecord("message3", made="unknown", text="message3 hello end")
    story.thread.wrote_metadata({"token": "thread1", "changed": "1"}, "unknown")

    assert story.faults() == []
    story.seen.messages.insert(0, _message("msg_3", "user", "message3 hello end"))
    story.seen.thread["metadata"]["changed"] = "1"
    assert story.faults() == []


def test_what_got_no_answer_is_not_there_twice() -> None:
    story = Story()
    story.thread.messages["message3"] = MessageRecord("message3", made="unknown", text="message3 hello end")
    story.seen.messages += [_message("msg_3", "user", "message3 hello end")] * 2

    assert story.kinds() == {"duplicated"}


def test_a_run_may_fail_once_it_has_met_three_deaths_but_not_before() -> None:
    story = Story()
    story.stored.update(status="failed", failed_at=1010)

    assert story.kinds(1001.0, 1002.0) == {"wrong"}
    assert story.kinds(1001.0, 1002.0, 1020.0) == {"wrong"}
    assert story.kinds(1001.0, 1002.0, 1003.0) == set()


def test_a_cancelled_run_keeps_the_beginning_of_its_answer() -> None:
    story = Story()
    story.run.cancel = "unknown"
    story.stored["status"] = "cancelled"
    story.seen.messages[-1]["status"] = "incomplete"
    story.seen.messages[-1]["content"][0]["text"]["value"] = "run1/1: wo"

    assert story.faults() == []
    story.seen.messages[-1]["content"][0]["text"]["value"] = "another"
    assert story.kinds() == {"wrong"}


def test_two_active_runs_on_a_thread_are_found() -> None:
    story = Story()
    story.thread.runs["run2"] = RunRecord("run2", made="done")
    story.seen.runs = [
        {**story.stored, "status": "queued"},
        {**story.stored, "id": "run_2", "status": "requires_action", "metadata": {"token": "run2"}},
    ]

    assert [fault.kind for fault in check_while_busy(story.thread, story.seen)] == ["wrong"]


# ---------------------------------------------------------------- streams


def _skip_an_event(heard: Heard) -> None:
    del heard.events[2]


def _repeat_an_event(heard: Heard) -> None:
    heard.events.insert(3, heard.events[2])


def _lose_a_delta(heard: Heard) -> None:
    del heard.events[2]
    heard.events = [(number, name, data) for number, (_, name, data) in enumerate(heard.events, 1)]


def _take_text_back(heard: Heard) -> None:
    heard.events[2][2]["delta"]["content"][0]["text"]["value"] = "never said"


def _end_it_otherwise(heard: Heard) -> None:
    heard.events[-1][2]["status"] = "failed"


def _end_it_twice(heard: Heard) -> None:
    number, name, data = heard.events[-1]
    heard.events.append(((number or 0) + 1, name, data))


def _end_it_too_soon(heard: Heard) -> None:
    heard.events.pop()


def _end_it_silently(heard: Heard) -> None:
    heard.is_done, heard.ended_silently = False, True


@pytest.mark.parametrize(
    "doctor",
    [
        _skip_an_event,
        _repeat_an_event,
        _lose_a_delta,
        _take_text_back,
        _end_it_otherwise,
        _end_it_twice,
        _end_it_too_soon,
        _end_it_silently,
    ],
)
def test_a_doctored_stream_is_found(doctor: Callable[[Heard], None]) -> None:
    story = Story()
    heard = story.hear()

    doctor(heard)

    assert story.faults() != []


def test_what_is_rebuilt_from_the_store_may_repeat_numbers_but_they_never_fall() -> None:
    story = Story()
    heard = story.hear()
    heard.events = [(1 if number == 2 else number, name, data) for number, name, data in heard.events]

    assert story.faults() == []
    heard.events[1] = (0, *heard.events[1][1:])
    assert "duplicated" in story.kinds()


def test_a_message_may_be_told_again_from_its_beginning_after_a_takeover() -> None:
    story = Story()
    heard = story.hear()
    begun = heard.events[:3]
    rest = [(1_000_000 + number, name, data) for number, (_, name, data) in enumerate(heard.events[1:])]
    heard.events = [*begun, *rest]

    assert story.faults(1001.0) == []
    assert story.kinds() == {"lost"}


def test_readers_who_hear_something_else_under_one_number_are_found() -> None:
    story = Story()
    story.hear()
    other = story.hear()
    other.events[0] = (1, "thread.run.created", {**other.events[0][2], "expires_at": 7})

    assert story.kinds() == {"wrong"}
    assert story.kinds(1001.0) == set()


def test_a_run_that_speaks_ahead_of_what_was_there_before_it_is_found() -> None:
    story = Story()
    story.run.must_see = ["message1", "message2"]

    assert story.faults() == []
    story.seen.messages.insert(0, story.seen.messages.pop())
    assert story.kinds() == {"wrong"}


def test_a_run_that_speaks_behind_what_was_put_behind_it_is_found() -> None:
    story = Story()
    story.run.must_not_see = ["message2"]

    assert story.kinds() == {"wrong"}
    story.seen.messages.insert(1, story.seen.messages.pop())
    assert story.faults() == []


def test_runs_that_wait_behind_another_are_no_active_ones() -> None:
    story = Story()
    story.thread.has_line = True
    for number, status in enumerate(("in_progress", "queued", "queued"), 2):
        story.thread.runs[f"run{number}"] = RunRecord(f"run{number}", made="done")
        metadata = {"token": f"run{number}"}
        story.seen.runs.append({**story.stored, "id": f"run_{number}", "status": status, "metadata": metadata})

    assert check_while_busy(story.thread, story.seen) == []
    story.seen.runs[-1]["status"] = "cancelling"
    assert [fault.kind for fault in check_while_busy(story.thread, story.seen)] == ["wrong"]


# ---------------------------------------------------------------- the rest


def test_a_thread_made_twice_is_found() -> None:
    thread = Story().thread

    assert [fault.kind for fault in check_objects([thread], ["thread1", "thread1"], "thread")] == ["duplicated"]


@pytest.mark.parametrize(
    ("listed", "kinds"),
    [
        (["file_1"], []),
        (["file_1", "file_2"], []),
        ([], ["lost"]),
        (["file_1", "file_1"], ["duplicated"]),
        (["file_1", "file_3"], ["wrong"]),
    ],
)
def test_files_of_a_vector_store(listed: list[str], kinds: list[str]) -> None:
    record = StoreRecord("store1", made="done", files={"file_1": "done", "file_2": "unknown"})

    assert [fault.kind for fault in check_store_files(record, listed)] == kinds


@pytest.mark.parametrize(
    ("shown", "kinds"),
    [
        (("message1", "message2"), []),
        (("message1", "message2", "message3"), ["wrong"]),
        (("message1", "other", "message2"), []),
        (("message2",), ["lost"]),
        (("message1", "message2", "message2"), ["duplicated"]),
        (("message2", "message1"), ["wrong"]),
    ],
)
def test_what_the_model_was_shown(shown: tuple[str, ...], kinds: list[str]) -> None:
    story = Story()
    story.run.must_see = ["message1", "message2"]
    story.run.must_not_see = ["message3"]

    found = check_prompts(story.run, [Asked(0, "node-1", shown)], story.thread.messages)

    assert [fault.kind for fault in found] == kinds
