import pytest
from msgspec.structs import replace

from tests.support.objects import a_message, a_run, a_step, a_thread, an_assistant
from threadkeep.contract.errors import NotFound
from threadkeep.contract.ids import id_after, new_id
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.threads import Thread
from threadkeep.storage import Transaction
from threadkeep.storage.runs import Line


def test_assistant_is_stored_changed_and_deleted(tx: Transaction) -> None:
    assistant = an_assistant(name="Ada", metadata={"team": "maths"})
    tx.assistants.insert(assistant)
    assert tx.assistants.get(assistant.id) == assistant

    renamed = replace(assistant, name="Augusta")
    tx.assistants.replace(renamed)
    assert tx.assistants.find(assistant.id) == renamed
    assert tx.assistants.lock(assistant.id) == renamed
    assert tx.assistants.list(ListQuery()).data == [renamed]

    assert tx.assistants.delete(assistant.id)
    assert not tx.assistants.delete(assistant.id)
    assert tx.assistants.find(assistant.id) is None


def test_unknown_objects_are_not_found_in_the_words_of_the_contract(tx: Transaction, thread: Thread) -> None:
    run = a_run(thread.id)
    with pytest.raises(NotFound, match=r"^No assistant found with id 'asst_x'\.$"):
        tx.assistants.get("asst_x")
    with pytest.raises(NotFound, match=r"^No thread found with id 'thread_x'\.$"):
        tx.threads.get("thread_x")
    with pytest.raises(NotFound, match=r"^No thread found with id 'thread_x'\.$"):
        tx.threads.lock("thread_x")
    with pytest.raises(NotFound, match=r"^No message found with id 'msg_x'\.$"):
        tx.messages.get(thread.id, "msg_x")
    with pytest.raises(NotFound, match=r"^No run found with id 'run_x'\.$"):
        tx.runs.get(thread.id, "run_x")
    with pytest.raises(NotFound, match=r"^No run step found with id 'step_x'\.$"):
        tx.steps.get(thread.id, run.id, "step_x")


def test_what_was_deleted_cannot_be_written_again(tx: Transaction, thread: Thread) -> None:
    with pytest.raises(NotFound):
        tx.assistants.replace(an_assistant())
    with pytest.raises(NotFound):
        tx.threads.replace(a_thread())
    with pytest.raises(NotFound):
        tx.messages.replace(a_message(thread.id))
    with pytest.raises(NotFound):
        tx.steps.replace(a_step(a_run(thread.id)))


def test_message_is_stored_changed_and_deleted(tx: Transaction, thread: Thread) -> None:
    message = a_message(thread.id, 'Grüße, "welt" \\ \x01 😀')
    tx.messages.insert(message)
    assert tx.messages.get(thread.id, message.id) == message

    changed = replace(message, metadata={"read": "true"})
    tx.messages.replace(changed)
    assert tx.messages.lock(thread.id, message.id) == changed

    assert tx.messages.delete(thread.id, message.id)
    assert not tx.messages.delete(thread.id, message.id)


def test_message_is_not_found_through_another_thread(tx: Transaction, thread: Thread) -> None:
    other = a_thread()
    tx.threads.insert(other)
    message = a_message(thread.id)
    tx.messages.insert(message)
    with pytest.raises(NotFound):
        tx.messages.get(other.id, message.id)
    assert not tx.messages.delete(other.id, message.id)


def test_ids_within_a_thread_rise_although_a_clock_went_back(tx: Transaction, thread: Thread) -> None:
    from_the_future = f"msg_zz{new_id('msg')[6:]}"
    tx.messages.insert(a_message(thread.id, "first", id=from_the_future))
    assert tx.messages.last_id(thread.id) == from_the_future

    after = id_after("msg", tx.messages.last_id(thread.id))
    tx.messages.insert(a_message(thread.id, "second", id=after))
    assert [message.id for message in tx.messages.list(thread.id, ListQuery()).data] == [after, from_the_future]


def test_last_ids_of_nothing_are_null(tx: Transaction, thread: Thread) -> None:
    assert tx.messages.last_id(thread.id) is None
    assert tx.runs.last_id(thread.id) is None
    assert tx.steps.last_id("run_x") is None


def test_messages_of_one_run_are_listed(tx: Transaction, thread: Thread) -> None:
    mine = a_message(thread.id, "mine", role="assistant", run_id="run_1")
    for message in (mine, a_message(thread.id, "another's", run_id="run_2"), a_message(thread.id, "nobody's")):
        tx.messages.insert(message)
    assert tx.messages.list(thread.id, ListQuery(), run_id="run_1").data == [mine]


def test_thread_is_read_backwards_beyond_one_block(tx: Transaction, thread: Thread) -> None:
    messages = [a_message(thread.id, str(number)) for number in range(250)]
    for message in messages:
        tx.messages.insert(message)
    backwards = [message.id for message in reversed(messages)]
    assert [message.id for message in tx.messages.seen_by(thread.id, "run_x")] == backwards
    assert next(tx.messages.seen_by(thread.id, "run_x")) == messages[-1]


def test_run_does_not_see_what_stands_behind_it(tx: Transaction, thread: Thread) -> None:
    run = a_run(thread.id)
    tx.runs.insert(run)
    messages = [a_message(thread.id, str(number)) for number in range(250)]
    for message in messages:
        tx.messages.insert(message)

    tx.runs.put_ahead_of(Line(run, []), messages[150].id)

    seen = [message.id for message in tx.messages.seen_by(thread.id, run.id)]
    assert seen == [message.id for message in reversed(messages[:150])]
    assert tx.messages.place_for(thread.id, run.id) == (messages[149].id, messages[150].id)
    assert tx.messages.last_id(thread.id, before=messages[3].id) == messages[2].id


def test_steps_of_a_run_come_oldest_first(tx: Transaction, thread: Thread) -> None:
    run = a_run(thread.id)
    tx.runs.insert(run)
    first, second = a_step(run), a_step(run)
    tx.steps.insert(first)
    tx.steps.insert(second)
    assert tx.steps.all(run.id) == [first, second]
    assert tx.steps.last_id(run.id) == second.id
    assert tx.steps.list(thread.id, run.id, ListQuery()).data == [second, first]
    assert tx.steps.list("thread_x", run.id, ListQuery()).data == []

    done = replace(first, status="completed")
    tx.steps.replace(done)
    assert tx.steps.get(thread.id, run.id, first.id) == done


def test_deleting_a_thread_takes_everything_in_it_along(tx: Transaction, thread: Thread) -> None:
    other = a_thread(user="ada")
    tx.threads.insert(other)
    tx.messages.insert(a_message(other.id, "findable"))
    run = a_run(other.id)
    tx.runs.insert(run)
    tx.steps.insert(a_step(run))
    tx.work.insert("run", run.id, thread=other.id)

    assert tx.threads.delete(other.id)
    assert not tx.threads.delete(other.id)
    assert tx.messages.list(other.id, ListQuery()).data == []
    assert tx.runs.find(other.id, run.id) is None
    assert tx.steps.all(run.id) == []
    assert tx.work.claim("node", ["run"], 10, 60) == []
    assert tx.threads.list(ListQuery(), {"user": "ada"}, None).data == []
    assert tx.threads.list(ListQuery(), {}, "findable").data == []
    assert tx.threads.list(ListQuery(), {}, None).data == [thread]


def test_transaction_without_a_project_shows_no_objects(tx: Transaction) -> None:
    unbound = Transaction(tx._connection, None)
    with pytest.raises(RuntimeError, match="without a project"):
        _ = unbound.threads
