"""Executes runs: the model is asked, the tools that run here are called, and the model is asked again, until it answers
or calls what the client must carry out.

The handler of due work of kind ``run``. Starting, going on after tool outputs and going on after a crash are the same
path: everything needed is in the stored steps.
"""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from typing import Any, Final, NamedTuple, TypeVar

from threadkeep.contract.errors import (
    IllegalMove,
    LeaseLost,
    NotFound,
    ThreadkeepError,
    ToolFailed,
    Unavailable,
    UpstreamFailed,
)
from threadkeep.contract.ids import new_id
from threadkeep.contract.run_steps import (
    CodeInterpreterToolCall,
    CodeOutputImage,
    FileSearchToolCall,
    FunctionToolCall,
    MessageCreationDetails,
    RunStep,
)
from threadkeep.contract.runs import LastError, Run, RunIncompleteDetails, Usage
from threadkeep.files.contents import Contents
from threadkeep.logs import Log, bound
from threadkeep.metrics import RUNS, UPSTREAM_CALLS
from threadkeep.runs import pictures
from threadkeep.runs import prompt as prompts
from threadkeep.runs.annotations import Annotator
from threadkeep.runs.follow import EventLog
from threadkeep.runs.journal import Journal
from threadkeep.runs.moves import total
from threadkeep.runs.patience import Patience
from threadkeep.runs.prompt import Prompt, TokenLimitReached
from threadkeep.runs.reply import ArgumentsAdded, CallStarted, RefusalAdded, Reply, TextAdded
from threadkeep.runs.streams import SHUTTING_DOWN, THREAD_DELETED, Streams
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.work import Followed
from threadkeep.tools.toolbox import CallContext, HostedToolCall, Toolbox, Tools
from threadkeep.upstream.chat import ChatMessage, ChatRequest
from threadkeep.upstream.upstreams import Upstream, Upstreams
from threadkeep.worker import Held

log = Log(__name__)

T = TypeVar("T")

# A run in whose execution so many nodes have died is not tried again: it may be what kills them.
MAX_DEATHS: Final = 3
# A model that never comes to an answer calls tools for ever.
MAX_TOOL_STEPS: Final = 100
# The model is left this share of its window for the answer, unless the run says how much it wants.
_ANSWER_SHARE: Final = 4
_ANSWER_TOKENS: Final = 4096
_MAX_SHORTENINGS: Final = 6

# What the stream of a run is told that does not end here.
_WENT_ON_ELSEWHERE: Final = "The run is not executed here any more. Join its stream again, or poll it, for the answer."
_ENDLESS: Final = "The model's answer did not end: it was stopped when it was longer than any answer is."
_FAILED_HERE: Final = "The server had an error processing your request."

SOMETHING_WENT_WRONG: Final = LastError(code="server_error", message="Sorry, something went wrong.")


class Prepared(NamedTuple):
    """What the node that created a run, or continued it, knows of it already."""

    run: Run
    events: EventLog


class Execution:
    """Executes runs on this node."""

    def __init__(
        self,
        store: Store,
        upstreams: Upstreams,
        contents: Contents,
        tools: Tools,
        streams: Streams,
        *,
        lease_s: float,
    ) -> None:
        self._store = store
        self._upstreams = upstreams
        self._contents = contents
        self._tools = tools
        self._lease_s = lease_s
        self._streams = streams

    async def handle(self, held: Held) -> None:
        """Does what the run needs next, until it has ended, waits for its client, or is another node's."""
        with bound(run_id=held.lease.item.key, thread_id=held.lease.item.thread):
            try:
                journal = await self._open(held)
            except BaseException:
                if isinstance(held.prepared, Prepared):
                    held.prepared.events.close(_FAILED_HERE)
                raise
            try:
                await self._execute(held, journal)
            except asyncio.CancelledError:
                await self._hand_over(held, journal)
                raise
            except LeaseLost:
                journal.events.close(await self._why_lost(journal))
                raise
            except Unavailable:
                # The database stayed away for as long as the run had. Who comes first when it is back ends the run.
                journal.events.close(_WENT_ON_ELSEWHERE)
                raise
            except BaseException:
                journal.events.close(_FAILED_HERE)
                raise
            journal.events.close()
            RUNS.add(journal.run.status)
            log.info("run_settled", status=journal.run.status)

    async def _open(self, held: Held) -> Journal:
        item, prepared = held.lease.item, held.prepared
        thread_id = item.thread or ""
        if isinstance(prepared, Prepared) and prepared.run.started_at is None:
            # Made here a moment ago: it has no steps yet.
            return Journal(self._store, held, self._lease_s, prepared.run, [], prepared.events)

        def read(tx: Transaction) -> tuple[Run, list[RunStep], Followed | None, bool]:
            followed = None if isinstance(prepared, Prepared) else tx.work.followed(item.kind, item.key)
            run = tx.runs.get(thread_id, item.key)
            is_waiting = run.status == "queued" and tx.runs.is_waiting(thread_id, run.id)
            return run, tx.steps.all(run.id), followed, is_waiting

        run, steps, followed, is_waiting = await Patience(None)(lambda _: self._store.read(item.project, read))
        if isinstance(prepared, Prepared):
            events = prepared.events
        else:
            events = self._streams.take_over(run.id, 0 if followed is None else followed.told)
        return Journal(self._store, held, self._lease_s, run, steps, events, is_waiting=is_waiting)

    async def _hand_over(self, held: Held, journal: Journal) -> None:
        """The server stops, or the lease is gone: another node goes on from what is stored."""
        journal.patience.end()
        await journal.idle()
        if held.settled:
            journal.events.close()
            return
        try:
            await journal.hand_over()
        except LeaseLost:
            journal.events.close(await self._why_lost(journal))
            return
        except ThreadkeepError as error:
            log.warning("hand_over_failed", error=error)
        journal.events.close(SHUTTING_DOWN)

    async def _why_lost(self, journal: Journal) -> str:
        """Where the lease went, in words for those who follow the run."""
        try:
            await self._store.read(journal.project, lambda tx: tx.threads.get(journal.run.thread_id))
        except NotFound:
            return THREAD_DELETED
        except ThreadkeepError as error:
            log.warning("lost_lease_unexplained", error=error)
        return _WENT_ON_ELSEWHERE

    async def _execute(self, held: Held, journal: Journal) -> None:
        run = journal.run
        if run.status == "cancelling":
            await journal.end("cancelled")
        elif run.expires_at is not None and time.time() >= run.expires_at:
            await journal.end("expired")
        elif run.status == "requires_action":
            await journal.wait()
        elif journal.is_waiting:
            await journal.wait()
            # Those who follow the run go on waiting.
            journal.events.close(_WENT_ON_ELSEWHERE)
        elif held.lease.attempts >= MAX_DEATHS:
            log.error("run_given_up", attempts=held.lease.attempts)
            await journal.end("failed", last_error=SOMETHING_WENT_WRONG)
        else:
            await self._until_stopped(held, journal)

    async def _until_stopped(self, held: Held, journal: Journal) -> None:
        """The run goes on, unless somebody cancels it or its time runs out first."""
        run = journal.run
        turn = asyncio.create_task(self._go_on(journal))
        interrupted = asyncio.create_task(held.interrupted.wait())
        try:
            left_s = None if run.expires_at is None else run.expires_at - time.time()
            await asyncio.wait((turn, interrupted), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            turn_ended = turn.done()
            if turn_ended:
                await turn
        except IllegalMove:
            # Somebody moved the run first: the table lets that only be a cancel.
            turn_ended = False
        except asyncio.CancelledError:
            # Whoever must stop does not wait for the database to come back.
            journal.patience.end()
            raise
        finally:
            turn.cancel()
            interrupted.cancel()
            # Whatever a turn that was stopped still raises, the end of the run meets the same.
            await asyncio.gather(turn, interrupted, return_exceptions=True)
        # A milestone on its way when the turn was stopped counts: it may have been the last.
        await journal.idle()
        if not turn_ended and not held.settled:
            await journal.reread()
            await journal.end("cancelled" if journal.run.status == "cancelling" else "expired")

    async def _go_on(self, journal: Journal) -> None:
        """Turn after turn, until the run has ended or waits for its client."""
        try:
            # The prompt is read and the model asked while the store writes that the run began.
            beginning = asyncio.create_task(journal.begin())
            try:
                context = CallContext(journal.project, journal.run, journal.write)
                toolbox = await journal.patience(lambda _: self._tools.of(context))
                if await self._take_up_calls(journal, toolbox, beginning):
                    return
                while await self._turn(journal, toolbox, beginning):
                    pass
            finally:
                await beginning
        except TokenLimitReached as limit:
            await journal.end("incomplete", incomplete_details=RunIncompleteDetails(reason=limit.limit))
        except UpstreamFailed as failure:
            # Without where in the program it came up: a server that is away fails many runs, each for the same reason.
            log.warning("upstream_failed", cause=failure.message, code=failure.code)
            await journal.end("failed", last_error=LastError(code=failure.code, message=failure.message))
        except ToolFailed as failure:
            log.warning("tool_failed", error=failure)
            await journal.end("failed", last_error=LastError(code=failure.code, message=failure.message))
        except (LeaseLost, IllegalMove, Unavailable):
            raise
        except Exception as error:
            # A defect of ours ends the run; it never leaves it open.
            log.error("run_failed", error=error)
            await journal.end("failed", last_error=SOMETHING_WENT_WRONG)

    async def _turn(self, journal: Journal, toolbox: Toolbox, beginning: asyncio.Task[None]) -> bool:
        """One call of the model and what follows from it; whether another is to follow."""
        reply, usage = await self._reply(journal, toolbox, beginning)
        if reply.finish_reason == "content_filter":
            refused = LastError(code="invalid_prompt", message="The answer was stopped by the model's content filter.")
            await journal.end("failed", usage=usage, last_error=refused, message_reason="content_filter")
        elif reply.finish_reason == "length":
            cut = RunIncompleteDetails(reason="max_completion_tokens")
            await journal.end("incomplete", usage=usage, incomplete_details=cut)
        elif not reply.calls:
            await journal.end("completed", usage=usage)
        elif all(isinstance(call, FunctionToolCall) for call in journal.calls):
            await journal.require_action(usage)
        else:
            return await self._carry_out(journal, toolbox, usage)
        return False

    async def _take_up_calls(self, journal: Journal, toolbox: Toolbox, beginning: asyncio.Task[None]) -> bool:
        """Carries out what another node had begun to; whether the run waits for its client then."""
        await beginning
        return await journal.take_up_calls() and not await self._carry_out(journal, toolbox, None)

    async def _carry_out(self, journal: Journal, toolbox: Toolbox, usage: Usage | None) -> bool:
        """Carries out the calls of tools that run here; whether that were all. ``usage``: of the model call that made
        them, unless they are stored with it already.
        """

        async def call(index: int, asked: HostedToolCall) -> None:
            if isinstance(asked, FileSearchToolCall):
                # It changes nothing, and tells nothing before it has found something.
                answered = await journal.patience(lambda _: toolbox.call(index, asked, journal.tell))
            else:
                answered = await toolbox.call(index, asked, journal.tell)
            journal.answer(index, answered)

        if journal.writes_message:
            await journal.close_message()
        calls = list(enumerate(journal.calls))
        here = [call(index, asked) for index, asked in calls if not isinstance(asked, FunctionToolCall)]
        await _all(*([] if usage is None else [journal.ask(usage)]), *here)
        if any(isinstance(asked, FunctionToolCall) for _, asked in calls):
            await journal.require_action(None)
            return False
        await journal.close_calls()
        if sum(step.type == "tool_calls" for step in journal.steps) >= MAX_TOOL_STEPS:
            raise ToolFailed(f"The model called tools {MAX_TOOL_STEPS} times and came to no answer.")
        return True

    async def _reply(self, journal: Journal, toolbox: Toolbox, beginning: asyncio.Task[None]) -> tuple[Reply, Usage]:
        """Asks the model and writes its answer down as it comes. A thread too long for it is shortened once more."""
        run = journal.run
        try:
            upstream = self._upstreams.for_model(run.model)
        except NotFound as unknown:
            raise UpstreamFailed("server_error", unknown.message) from unknown
        used = total([step.usage for step in journal.steps if step.usage is not None])
        room = _completion_room(run, used)
        budget = _budget(run, upstream, used)
        for _ in range(_MAX_SHORTENINGS):
            prompt = await self._prompt(journal, toolbox, budget)
            messages = await journal.patience(lambda _, prompt=prompt: self._with_images(prompt, run, upstream))
            request = prompts.request(run, prompt, messages, toolbox, max_completion_tokens=room)
            try:
                listening = self._listen(journal, upstream, request, prompt, toolbox, beginning)
                return await _counted(upstream, listening)
            except UpstreamFailed as failure:
                # Once something of the answer was shown it is too late to ask again.
                if journal.writes_message or journal.writes_calls or not prompt.droppable:
                    raise
                if not failure.context_exceeded:
                    raise
                budget = prompt.tokens // 2
        raise UpstreamFailed("invalid_prompt", "The thread does not fit the model's context window.")

    async def _prompt(self, journal: Journal, toolbox: Toolbox, budget: int) -> Prompt:
        run = journal.run
        return await journal.read(
            lambda tx: prompts.build(
                tx, run, journal.steps, toolbox, budget=budget, hard_limit=run.max_prompt_tokens is not None
            )
        )

    async def _with_images(self, prompt: Prompt, run: Run, upstream: Upstream) -> list[ChatMessage]:
        """The prompt's messages with the images that they show, for a model that can see them."""
        if prompt.has_images and not upstream.sees(run.model):
            raise UpstreamFailed(
                "invalid_prompt",
                f"The model '{run.model}' cannot see images, and messages of this thread show some. Use a model that "
                "can, or delete those messages.",
            )
        return await pictures.filled_in(prompt.messages, prompt.shown, self._contents)

    async def _open_message(self, journal: Journal, toolbox: Toolbox) -> None:
        """A message, which begins with the pictures that were shown since the last one."""
        marks = await journal.patience(lambda _: toolbox.marks(journal.steps))
        annotator = Annotator(marks.links, marks.citations) if marks.links or marks.citations else None
        await journal.open_message(_pictures_to_show(journal.steps), annotator)

    async def _listen(
        self,
        journal: Journal,
        upstream: Upstream,
        request: ChatRequest,
        prompt: Prompt,
        toolbox: Toolbox,
        beginning: asyncio.Task[None],
    ) -> tuple[Reply, Usage]:
        reply = Reply()
        deadline = None
        if journal.run.expires_at is not None:
            deadline = time.monotonic() + journal.run.expires_at - time.time()
        async with aclosing(upstream.stream(request, deadline=deadline)) as chunks_as_read:
            async for chunks in chunks_as_read:
                await beginning
                for chunk in chunks:
                    for added in reply.feed(chunk):
                        match added:
                            case TextAdded() | RefusalAdded():
                                if not journal.writes_message:
                                    await self._open_message(journal, toolbox)
                                journal.add_text(added)
                            case CallStarted(index, name):
                                if journal.writes_message:
                                    await journal.close_message()
                                if not journal.writes_calls:
                                    await journal.open_calls()
                                journal.start_call(toolbox.read(name, index, new_id("call")))
                            case ArgumentsAdded(index, arguments):
                                journal.add_arguments(index, arguments)
                journal.publish()
                if reply.is_endless:
                    raise UpstreamFailed("server_error", _ENDLESS)
        await beginning
        journal.finish_calls()
        if not reply.calls and not journal.writes_message:
            # A model that said nothing still answered: clients look for a message, with a part in it.
            await self._open_message(journal, toolbox)
            journal.add_text(TextAdded(""))
        return reply, reply.usage or _estimated(prompt, reply)


async def _counted(upstream: Upstream, listening: Coroutine[Any, Any, T]) -> T:
    """What comes of it, for the metrics."""
    outcome = "stopped"
    try:
        listened = await listening
        outcome = "answered"
        return listened
    except UpstreamFailed as failure:
        outcome = failure.code
        raise
    finally:
        UPSTREAM_CALLS.add(upstream.name, outcome)


async def _all(*works: Coroutine[Any, Any, None]) -> None:
    """Does all of them at once. When one fails, or is cancelled, none goes on behind its back."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _pictures_to_show(steps: Sequence[RunStep]) -> list[str]:
    """The pictures of calls that no message has shown yet, by file id."""
    shown: list[str] = []
    for step in steps:
        if isinstance(step.step_details, MessageCreationDetails):
            shown = []
            continue
        for call in step.step_details.tool_calls:
            if isinstance(call, CodeInterpreterToolCall):
                outputs = call.code_interpreter.outputs
                shown += [output.image.file_id for output in outputs if isinstance(output, CodeOutputImage)]
    return shown


def _completion_room(run: Run, used: Usage) -> int | None:
    """What the run may still generate; the limit is for all its model calls together."""
    if run.max_completion_tokens is None:
        return None
    if used.completion_tokens >= run.max_completion_tokens:
        raise TokenLimitReached("max_completion_tokens")
    return run.max_completion_tokens - used.completion_tokens


def _budget(run: Run, upstream: Upstream, used: Usage) -> int:
    """How long the prompt may be, in tokens."""
    window = upstream.context_window(run.model)
    answer = run.max_completion_tokens or min(_ANSWER_TOKENS, window // _ANSWER_SHARE)
    budget = max(window - answer, window // _ANSWER_SHARE)
    if run.max_prompt_tokens is not None:
        if used.prompt_tokens >= run.max_prompt_tokens:
            raise TokenLimitReached("max_prompt_tokens")
        budget = min(budget, run.max_prompt_tokens - used.prompt_tokens)
    return budget


def _estimated(prompt: Prompt, reply: Reply) -> Usage:
    """For an upstream that does not count."""
    completion = reply.length // 4 + 1
    return Usage(prompt_tokens=prompt.tokens, completion_tokens=completion, total_tokens=prompt.tokens + completion)
