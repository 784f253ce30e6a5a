"""The verbs of runs: create, create with a thread, modify, cancel, submit tool outputs. Whoever asks, they happen here.

Each verb is one transaction; execution starts on this node at once where there is room, because its listener is here.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, NamedTuple, Self

import msgspec
from msgspec import UNSET

from threadkeep.contract.assistants import Assistant
from threadkeep.contract.errors import InvalidRequest
from threadkeep.contract.events import STEP_EVENTS, Event
from threadkeep.contract.ids import created_at, id_after
from threadkeep.contract.messages import AddMessageRequest, IfActive, Message
from threadkeep.contract.run_status import ACTIVE
from threadkeep.contract.run_steps import FunctionToolCall, RunStep, ToolCallsDetails
from threadkeep.contract.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    ModifyRunRequest,
    Run,
    RunOverrides,
    SubmitToolOutputsRequest,
)
from threadkeep.contract.threads import CreateThreadRequest, Thread
from threadkeep.contract.tools import ToolResources, TruncationStrategy
from threadkeep.logs import Log
from threadkeep.runs import resources
from threadkeep.runs.conversation import add_message, append_messages, create_thread
from threadkeep.runs.execution import Prepared
from threadkeep.runs.follow import KIND, EventLog
from threadkeep.runs.line import Spot, wait
from threadkeep.runs.moves import advance, cancel_waiting
from threadkeep.runs.streams import Follower, Streams
from threadkeep.storage.outcomes import Once, do_once
from threadkeep.storage.runs import Line
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.work import Lease, LeaseTerms, WorkItem
from threadkeep.worker import Worker

log = Log(__name__)

# How much a refusal says of tool outputs that a client submitted. The most calls of a reply fit in.
_SHOWN: Final = 10_000


class Begun(NamedTuple):
    """What a transaction wrote that begins a run, or makes it go on."""

    run: Run
    events: list[Event]
    # The number of the event before these.
    base: int = 0
    # Its turn has not come: there is nothing to do yet.
    waits: bool = False


class Started(NamedTuple):
    """A run that goes on, and where its events appear from here on."""

    run: Run
    # From behind which number.
    base: int
    events: EventLog | Follower


class Runs:
    """The verbs, on one store and one worker. A verb with ``once`` is carried out once, however often it is asked for;
    then it answers what it answered the first time."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        streams: Streams,
        *,
        run_expires_s: int,
        lane_of: Callable[[str], str | None] = lambda model: None,
    ) -> None:
        """``lane_of``: the lane of a model's runs, see ``Worker``."""
        self._store = store
        self._worker = worker
        self._streams = streams
        self._run_expires_s = run_expires_s
        self._lane_of = lane_of

    async def create(
        self, project: str, thread_id: str, request: CreateRunRequest, *, once: Once | None = None
    ) -> Started:
        """``createRun``."""

        stop = _Cancel(self._worker, project) if request.if_active == "interrupt" else None

        def write(tx: Transaction) -> Begun:
            thread = tx.threads.lock(thread_id)
            line = _line(tx, thread_id, request.if_active, stop)
            run = self._insert(tx, thread, request, named=None, line=line)
            events = [Event("thread.run.created", run), Event("thread.run.queued", run)]
            return Begun(run, events, waits=line is not None)

        return await self._start(project, write, once, is_followed=bool(request.stream), stop=stop)

    async def add_message(
        self, project: str, thread_id: str, request: AddMessageRequest, *, once: Once | None = None
    ) -> Message:
        """``createMessage`` with ``if_active``: on a busy thread the message stands behind the active run."""
        stop = _Cancel(self._worker, project) if request.if_active == "interrupt" else None

        def add(tx: Transaction) -> Message:
            thread = tx.threads.lock(thread_id)
            if (line := _line(tx, thread_id, request.if_active, stop)) is None:
                return add_message(tx, thread_id, request)
            spot = Spot(tx, thread_id, line, request.if_active or "reject")
            _, [message] = append_messages(tx, thread, [request], spot)
            return message

        def write(tx: Transaction) -> Message:
            if stop is not None:
                stop.afresh()
            message, _ = do_once(tx, once, Message, lambda: add(tx))
            return message

        async def commit_and_interrupt() -> Message:
            with stop or nullcontext():
                return await self._store.write(project, write)

        return await asyncio.shield(asyncio.create_task(commit_and_interrupt()))

    async def create_thread_and_run(
        self, project: str, request: CreateThreadAndRunRequest, *, once: Once | None = None
    ) -> Started:
        """``createThreadAndRun``."""

        def write(tx: Transaction) -> Begun:
            thread = create_thread(tx, request.thread or CreateThreadRequest())
            named = resources.modified(tx, thread.tool_resources, request.tool_resources or UNSET)
            run = self._insert(tx, thread, request, named=named)
            created = Event("thread.created", thread)
            return Begun(run, [created, Event("thread.run.created", run), Event("thread.run.queued", run)])

        return await self._start(project, write, once, is_followed=bool(request.stream))

    async def submit_tool_outputs(
        self,
        project: str,
        thread_id: str,
        run_id: str,
        request: SubmitToolOutputsRequest,
        *,
        once: Once | None = None,
    ) -> Started:
        """``submitToolOutputs``: all outputs at once; the run is queued again."""

        def write(tx: Transaction) -> Begun:
            tx.threads.get(thread_id)
            # The work first, as everybody does who holds both. What is refused below takes the numbers back.
            before = tx.work.tell(KIND, tx.runs.get(thread_id, run_id).id, events=2)
            run = tx.runs.lock(thread_id, run_id)
            # Past its time a run is expired, even where the worker has not come round to it yet.
            status = "expired" if run.status in ACTIVE and (run.expires_at or 0) <= created_at() else run.status
            if status != "requires_action":
                raise InvalidRequest(f'Runs in status "{status}" do not accept tool outputs.')
            step = _answered(tx, run, request)
            tx.steps.end(step, told=before + 1)
            run = advance(tx, run, "queued")
            return Begun(run, [Event(STEP_EVENTS["completed"], step), Event("thread.run.queued", run)], before)

        return await self._start(project, write, once, is_followed=bool(request.stream), again=True)

    async def cancel(self, project: str, thread_id: str, run_id: str, *, once: Once | None = None) -> Run:
        """``cancelRun``: answers at once; the holder of the run stops and ends it."""
        stop = _Cancel(self._worker, project)

        def cancel(tx: Transaction) -> Run:
            tx.threads.get(thread_id)
            stop.reach(tx, tx.runs.get(thread_id, run_id))
            run = tx.runs.lock(thread_id, run_id)
            if run.status not in ("queued", "in_progress", "requires_action"):
                raise InvalidRequest(f"Cannot cancel run with status '{run.status}'.")
            if run.status == "queued" and tx.runs.is_waiting(thread_id, run_id):
                return cancel_waiting(tx, run)
            return stop.cancel(tx, run)

        def write(tx: Transaction) -> Run:
            stop.afresh()
            run, _ = do_once(tx, once, Run, lambda: cancel(tx))
            return run

        async def commit_and_interrupt() -> Run:
            with stop:
                return await self._store.write(project, write)

        return await asyncio.shield(asyncio.create_task(commit_and_interrupt()))

    async def modify(
        self, project: str, thread_id: str, run_id: str, request: ModifyRunRequest, *, once: Once | None = None
    ) -> Run:
        """``modifyRun``: its metadata."""

        def write(tx: Transaction) -> Run:
            tx.threads.get(thread_id)
            run = tx.runs.lock(thread_id, run_id)
            if request.metadata is not UNSET:
                run = msgspec.structs.replace(run, metadata=request.metadata or {})
                tx.runs.rewrite(run)
            return run

        run, _ = await self._store.write(project, lambda tx: do_once(tx, once, Run, lambda: write(tx)))
        return run

    async def join(self, project: str, thread_id: str, run_id: str, position: int) -> Follower:
        """The events of a run behind number ``position``, wherever it is executed, or was."""
        return await self._streams.join(project, thread_id, run_id, position)

    async def close(self) -> None:
        """Lets those go who follow runs; the runs go on."""
        await self._streams.close()

    def _insert(
        self,
        tx: Transaction,
        thread: Thread,
        request: RunOverrides,
        *,
        named: ToolResources | None,
        line: Line | None = None,
    ) -> Run:
        """``named``: the resources that the request names for the run; without any they are the thread's. The
        assistant's are there in any case. ``line``: what the run waits behind.
        """
        assistant = tx.assistants.get(request.assistant_id)
        if_active: IfActive = "reject"
        if isinstance(request, CreateRunRequest):
            if_active = request.if_active or if_active
            # Ahead of the run: an active one refuses both together.
            if messages := request.additional_messages:
                thread, _ = append_messages(tx, thread, messages, Spot(tx, thread.id, line, if_active))
        run = _new_run(
            tx,
            thread.id,
            assistant,
            request,
            resources=resources.together(assistant.tool_resources, thread.tool_resources if named is None else named),
            expires_s=self._run_expires_s,
        )
        if line is None:
            tx.runs.insert(run)
        else:
            wait(tx, run, line, if_active)
        resources.use_stores(tx, run)
        return run

    async def _start(
        self,
        project: str,
        write: Callable[[Transaction], Begun],
        once: Once | None,
        *,
        is_followed: bool,
        again: bool = False,
        stop: "_Cancel | None" = None,
    ) -> Started:
        async def commit_and_begin() -> Started:
            with stop or nullcontext():
                return await self._commit_and_begin(
                    project, write, once, is_followed=is_followed, again=again, stop=stop
                )

        # Shielded: between the commit and the start of the work lies no point at which a caller may give up.
        return await asyncio.shield(asyncio.create_task(commit_and_begin()))

    async def _commit_and_begin(
        self,
        project: str,
        write: Callable[[Transaction], Begun],
        once: Once | None,
        *,
        is_followed: bool,
        again: bool,
        stop: "_Cancel | None",
    ) -> Started:
        """Commits ``write`` together with the work to be done, leased to this node where it has room for it."""
        terms = self._worker.offer()

        def with_work(tx: Transaction) -> tuple[Run, Begun | None, bool]:
            """None: the run was begun by an earlier request of the same."""
            if stop is not None:
                stop.afresh()
            written: list[Begun] = []

            def begin() -> Run:
                written.append(write(tx))
                return written[-1].run

            run, is_repeated = do_once(tx, once, Run, begin)
            if is_repeated:
                return run, None, False
            [begun] = written
            lane = self._lane_of(run.model)
            taken = None if begun.waits else self._worker.enter(terms, lane)
            if again:
                return run, begun, tx.work.touch(KIND, run.id, lease=taken)
            expires_at_ms = None if run.expires_at is None else run.expires_at * 1000
            tx.work.insert(
                KIND,
                run.id,
                thread=run.thread_id,
                # One whose turn has not come is due when it comes; or else when its time is over.
                due_at_ms=expires_at_ms if begun.waits else None,
                overdue_at_ms=expires_at_ms,
                lane=lane,
                lease=taken,
                told=len(begun.events),
            )
            return run, begun, taken is not None

        try:
            run, begun, leased = await self._store.write(project, with_work)
        except BaseException as error:
            self._worker.decline(terms, after=error)
            raise
        if begun is None:
            self._worker.decline(terms)
            events = EventLog()
            events.close("The run was begun by an earlier request.")
            return Started(run, 0, events)
        events = self._streams.open(run.id, begun.base)
        events.is_followed = is_followed
        events.append(begun.events)
        if terms is not None and leased:
            self._worker.adopt(_lease(project, run, terms), Prepared(run, events))
        else:
            self._worker.decline(terms)
            self._streams.begun_elsewhere(events)
            self._worker.wake()
        log.info("run_continued" if again else "run_created", run_id=run.id, thread_id=run.thread_id, here=leased)
        return Started(run, begun.base, events if leased else self._streams.follow(project, run, events))


class _Cancel:
    """A cancel that becomes part of a transaction. As a context around its commit, it sees to it that the run ends:
    at once on this node where nobody works on it, even if there is no room for a turn; else by whoever does.
    """

    def __init__(self, worker: Worker, project: str) -> None:
        self._worker = worker
        self._project = project
        self._terms: LeaseTerms | None = None
        self._run: Run | None = None
        self._leased = False

    def afresh(self) -> None:
        """To be called when the transaction begins: it may be run again, and come to something else."""
        self._run, self._leased = None, False

    def reach(self, tx: Transaction, run: Run) -> None:
        """Asks whoever executes the run to stop. First of all: like them the transaction holds the work before it holds
        the run, or the two might wait for each other.
        """
        tx.work.interrupt(KIND, run.id)

    def cancel(self, tx: Transaction, run: Run) -> Run:
        """The run, which was reached and is held by the transaction, cancelling."""
        self._run = run = advance(tx, run, "cancelling")
        self._leased = self._terms is not None and tx.work.touch(KIND, run.id, lease=self._terms)
        return run

    def __enter__(self) -> Self:
        self._terms = self._worker.insist()
        return self

    def __exit__(self, _kind: object, failure: BaseException | None, _trace: object) -> None:
        if failure is None and self._run is not None and self._terms is not None and self._leased:
            self._worker.adopt(_lease(self._project, self._run, self._terms), None)
            return
        self._worker.decline(self._terms, after=failure)
        if failure is None and self._run is not None:
            self._worker.interrupt(KIND, self._run.id)


def _line(tx: Transaction, thread_id: str, if_active: IfActive | None, stop: _Cancel | None) -> Line | None:
    """The line to stand in; None where there is none, or the request does not want to. The caller holds the thread.

    With ``stop`` the active run is cancelled.
    """
    if if_active in (None, "reject"):
        return None
    reached: str | None = None
    if stop is not None and (active := tx.runs.active(thread_id)) is not None and active.status != "cancelling":
        stop.reach(tx, active)
        reached = active.id
    if (line := tx.runs.lock_line(thread_id)) is None:
        return None
    if stop is not None and line.active.status != "cancelling":
        if line.active.id != reached:
            # That one has ended meanwhile.
            stop.reach(tx, line.active)
        stop.cancel(tx, line.active)
    return line


def _lease(project: str, run: Run, terms: LeaseTerms) -> Lease:
    item = WorkItem(kind=KIND, key=run.id, project=project, thread=run.thread_id)
    return Lease(item=item, token=terms.token, attempts=0, until_ms=0, interrupted=False)


def _new_run(
    tx: Transaction,
    thread_id: str,
    assistant: Assistant,
    request: RunOverrides,
    *,
    resources: ToolResources,
    expires_s: int,
) -> Run:
    """The run with its effective settings: the request's where it names any, else the assistant's."""
    instructions = assistant.instructions if request.instructions is None else request.instructions
    if isinstance(request, CreateRunRequest) and request.additional_instructions:
        instructions = "\n\n".join(filter(None, (instructions, request.additional_instructions)))
    now = created_at()
    return Run(
        id=id_after("run", tx.runs.last_id(thread_id)),
        created_at=now,
        assistant_id=assistant.id,
        thread_id=thread_id,
        status="queued",
        required_action=None,
        last_error=None,
        expires_at=now + expires_s,
        started_at=None,
        cancelled_at=None,
        failed_at=None,
        completed_at=None,
        incomplete_details=None,
        model=request.model or assistant.model,
        instructions=instructions or "",
        tools=assistant.tools if request.tools is None else request.tools,
        tool_resources=resources,
        metadata=request.metadata or {},
        usage=None,
        temperature=assistant.temperature if request.temperature is None else request.temperature,
        top_p=assistant.top_p if request.top_p is None else request.top_p,
        max_prompt_tokens=request.max_prompt_tokens,
        max_completion_tokens=request.max_completion_tokens,
        truncation_strategy=request.truncation_strategy or TruncationStrategy(type="auto"),
        tool_choice=request.tool_choice or "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False,
        response_format=request.response_format or assistant.response_format,
        reasoning_effort=request.reasoning_effort or assistant.reasoning_effort,
    )


def _answered(tx: Transaction, run: Run, request: SubmitToolOutputsRequest) -> RunStep:
    """The step that waits for the client, completed with its outputs; refused unless there is one for every call."""
    assert run.required_action is not None
    expected = [call.id for call in run.required_action.submit_tool_outputs.tool_calls]
    outputs = {given.tool_call_id: given.output or "" for given in request.tool_outputs}
    got = [given.tool_call_id for given in request.tool_outputs]
    if set(outputs) != set(expected) or len(got) != len(expected):
        refused = f"Expected tool outputs for call_ids {expected}, got {got}"
        raise InvalidRequest(refused if len(refused) <= _SHOWN else f"{refused[:_SHOWN]}…")
    [step] = [
        step
        for step in tx.steps.all(run.id)
        if step.status == "in_progress" and isinstance(step.step_details, ToolCallsDetails)
    ]
    assert isinstance(step.step_details, ToolCallsDetails)
    calls = [
        msgspec.structs.replace(call, function=msgspec.structs.replace(call.function, output=outputs[call.id]))
        if isinstance(call, FunctionToolCall) and call.id in outputs
        else call
        for call in step.step_details.tool_calls
    ]
    return msgspec.structs.replace(
        step, status="completed", completed_at=created_at(), step_details=ToolCallsDetails(tool_calls=calls)
    )
