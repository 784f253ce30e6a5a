"""What the model is sent: as much of the thread as fits, then what this run did."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.databases import Database
from tests.support.objects import a_message, a_run, a_step, a_thread, a_toolbox
from threadkeep.contract.run_steps import (
    CalledFunction,
    FunctionToolCall,
    MessageCreation,
    MessageCreationDetails,
    RunStep,
    ToolCallsDetails,
)
from threadkeep.contract.runs import Run
from threadkeep.contract.tools import TruncationStrategy
from threadkeep.runs.prompt import Prompt, TokenLimitReached, build, estimate_tokens
from threadkeep.storage import Store, Transaction, open_store
from threadkeep.upstream.chat import AssistantMessage, SystemMessage, ToolMessage, UserMessage

PROJECT = "proj_default"


@pytest_asyncio.fixture
async def sqlite_store(sqlite_database: Database) -> AsyncIterator[Store]:
    store = await open_store(None, sqlite_database.data_dir)
    yield store
    await store.close()


async def prompt_of(
    store: Store, texts: list[str], *, budget: int = 10_000, hard_limit: bool = False, **run: Any
) -> Prompt:
    thread = a_thread()

    def write(tx: Transaction) -> Prompt:
        tx.threads.insert(thread)
        for text in texts:
            tx.messages.insert(a_message(thread.id, text))
        return build(tx, a_run(thread.id, **run), [], a_toolbox(), budget=budget, hard_limit=hard_limit)

    return await store.write(PROJECT, write)


def said(prompt: Prompt) -> list[Any]:
    return [message.content for message in prompt.messages]


async def test_the_thread_is_sent_in_order_after_the_instructions(sqlite_store: Store) -> None:
    prompt = await prompt_of(sqlite_store, ["one", "two"], instructions="Be kind.")

    assert prompt.messages == [SystemMessage("Be kind."), UserMessage("one"), UserMessage("two")]
    assert (prompt.dropped, prompt.droppable) == (False, True)


async def test_the_oldest_are_dropped_to_fit_the_budget(sqlite_store: Store) -> None:
    prompt = await prompt_of(sqlite_store, ["a" * 400, "b" * 400, "c" * 400], budget=250)

    assert [text[0] for text in said(prompt)] == ["b", "c"]
    assert prompt.dropped
    assert prompt.tokens <= 250


async def test_the_instructions_are_never_dropped(sqlite_store: Store) -> None:
    prompt = await prompt_of(sqlite_store, ["a" * 400, "b" * 400], budget=150, instructions="x" * 400)

    assert [text[0] for text in said(prompt)] == ["x", "b"]


async def test_over_a_hard_limit_there_is_no_prompt(sqlite_store: Store) -> None:
    with pytest.raises(TokenLimitReached) as reached:
        await prompt_of(sqlite_store, ["a" * 4000], budget=250, hard_limit=True)

    assert reached.value.limit == "max_prompt_tokens"


async def test_only_the_last_messages(sqlite_store: Store) -> None:
    strategy = TruncationStrategy(type="last_messages", last_messages=2)

    prompt = await prompt_of(sqlite_store, ["one", "two", "three"], truncation_strategy=strategy)

    assert said(prompt) == ["two", "three"]
    assert not prompt.droppable


async def test_a_long_thread_is_read_only_as_far_as_it_fits(sqlite_store: Store) -> None:
    prompt = await prompt_of(sqlite_store, [f"{number} " + "x" * 390 for number in range(1000)], budget=500)

    assert [text.split()[0] for text in said(prompt)] == ["996", "997", "998", "999"]


async def test_what_the_run_did_comes_last_and_is_always_sent(sqlite_store: Store) -> None:
    thread = a_thread()
    run = a_run(thread.id)

    def write(tx: Transaction) -> Prompt:
        tx.threads.insert(thread)
        tx.messages.insert(a_message(thread.id, "Weather? " + "x" * 4000))
        ahead = a_message(thread.id, "Let me look.", role="assistant", run_id=run.id)
        half = a_message(thread.id, "half", status="in_progress", role="assistant", run_id=run.id)
        tx.messages.insert(ahead)
        tx.messages.insert(half)
        steps = [spoken(run, ahead.id), answered(run), spoken(run, half.id, status="in_progress")]
        return build(tx, run, steps, a_toolbox(), budget=1, hard_limit=False)

    prompt = await sqlite_store.write(PROJECT, write)

    question, asked, answer = prompt.messages
    assert isinstance(question, UserMessage)
    assert isinstance(asked, AssistantMessage)
    assert isinstance(asked.tool_calls, list)
    assert (asked.content, asked.tool_calls[0].id) == ("Let me look.", "call_1")
    assert answer == ToolMessage("call_1", "sun")


async def test_a_message_that_was_deleted_meanwhile_is_left_out(sqlite_store: Store) -> None:
    thread = a_thread()
    run = a_run(thread.id)

    def write(tx: Transaction) -> Prompt:
        tx.threads.insert(thread)
        return build(tx, run, [spoken(run, "msg_gone"), answered(run)], a_toolbox(), budget=100, hard_limit=False)

    prompt = await sqlite_store.write(PROJECT, write)

    assert [type(message) for message in prompt.messages] == [AssistantMessage, ToolMessage]


def spoken(run: Run, message_id: str, status: Any = "completed") -> RunStep:
    details = MessageCreationDetails(message_creation=MessageCreation(message_id=message_id))
    return a_step(run, step_details=details, status=status)


def answered(run: Run) -> RunStep:
    call = FunctionToolCall(id="call_1", function=CalledFunction(name="f", arguments="{}", output="sun"))
    return a_step(run, type="tool_calls", status="completed", step_details=ToolCallsDetails(tool_calls=[call]))


@pytest.mark.parametrize(("text", "tokens"), [("", 1), ("four" * 10, 11), ("слово", 6), ("日本語", 4), ("a日b", 2)])
def test_tokens_are_estimated_by_script(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
