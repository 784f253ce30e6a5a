"""Runs: create (alone or with a thread), list, retrieve, modify, cancel, submit tool outputs; streamed when asked."""

import time
from typing import Annotated

from msgspec import Meta, field

from threadkeep.api.answers import Answer, Headers
from threadkeep.api.call import Call
from threadkeep.api.event_stream import EventStream
from threadkeep.api.threads import in_thread, page_in_thread
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.reading import check_id, read_query
from threadkeep.contract.run_status import TERMINAL
from threadkeep.contract.run_steps import Include
from threadkeep.contract.runs import (
    CreateRunRequest,
    CreateThreadAndRunRequest,
    ModifyRunRequest,
    Run,
    SubmitToolOutputsRequest,
)
from threadkeep.contract.wire import MAX_INTEGER, Request
from threadkeep.runs.follow import EventLog
from threadkeep.runs.lifecycle import Started
from threadkeep.runs.streams import Follower
from threadkeep.storage.outcomes import Once

# How long a client that polls should wait: short for a run that has just begun, which a person waits for, longer for
# one that takes its time anyway.
POLL_FIRST_MS = 50
POLL_LAST_MS = 500
POLL_SLOWER_MS_PER_S = 50


EventNumber = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class CreateRunQuery(Request):
    """``createRun``: ``include[]`` names what the stream leaves out otherwise."""

    include: list[Include] | None = None


class StreamQuery(Request):
    """``streamRun``: where to go on, and what the stream leaves out otherwise."""

    # The number of the last event that the client has. The header `Last-Event-ID` counts first: what reconnects by
    # itself sends it with the address that it was given in the beginning.
    after: EventNumber | None = None
    include: list[Include] | None = None


class StreamHeaders(Request):
    last_event_id: EventNumber | None = field(default=None, name="Last-Event-ID")


async def create_run(call: Call) -> Answer[Run] | EventStream:
    include = call.query(CreateRunQuery).include
    request = await call.body(CreateRunRequest)
    check_id("assistant_id", request.assistant_id, "asst")
    started = await call.context.runs.create(
        call.project, call.path["thread_id"], request, once=await _once(call, request.stream)
    )
    return _started(call, started, request.stream, include)


async def create_thread_and_run(call: Call) -> Answer[Run] | EventStream:
    request = await call.body(CreateThreadAndRunRequest)
    check_id("assistant_id", request.assistant_id, "asst")
    started = await call.context.runs.create_thread_and_run(
        call.project, request, once=await _once(call, request.stream)
    )
    return _started(call, started, request.stream)


async def submit_tool_outputs(call: Call) -> Answer[Run] | EventStream:
    request = await call.body(SubmitToolOutputsRequest)
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    started = await call.context.runs.submit_tool_outputs(
        call.project, thread_id, run_id, request, once=await _once(call, request.stream)
    )
    return _started(call, started, request.stream)


async def list_runs(call: Call) -> Page[Run]:
    thread_id = call.path["thread_id"]
    query = call.page(ListQuery, "run")
    return await call.read(lambda tx: page_in_thread(tx, thread_id, tx.runs.list(thread_id, query)))


async def get_run(call: Call) -> Answer[Run]:
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    return _polled(await call.read(lambda tx: in_thread(tx, thread_id, lambda: tx.runs.get(thread_id, run_id))))


async def stream_run(call: Call) -> EventStream:
    """The events of a run, from the beginning or from where a stream of it was left, whichever node executes the run.
    It ends when the run has ended or waits for its client."""
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    query = call.query(StreamQuery)
    last = call.headers.get(b"last-event-id", b"").decode("latin-1")
    position = read_query(StreamHeaders, [("Last-Event-ID", last)]).last_event_id
    position = (query.after or 0) if position is None else position
    follower = await call.context.runs.join(call.project, thread_id, run_id, position)
    return _streamed(call, follower, thread_id, run_id, position, query.include)


async def modify_run(call: Call) -> Run:
    request = await call.body(ModifyRunRequest)
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    return await call.context.runs.modify(call.project, thread_id, run_id, request, once=await call.once())


async def cancel_run(call: Call) -> Answer[Run]:
    thread_id, run_id = call.path["thread_id"], call.path["run_id"]
    return _polled(await call.context.runs.cancel(call.project, thread_id, run_id, once=await call.once()))


async def _once(call: Call, stream: bool | None) -> Once | None:
    """A stream is not repeated: what it said is not kept."""
    return None if stream else await call.once()


def _started(
    call: Call, started: Started, stream: bool | None, include: list[Include] | None = None
) -> Answer[Run] | EventStream:
    if stream:
        return _streamed(call, started.events, started.run.thread_id, started.run.id, started.base, include)
    return _polled(started.run)


def _streamed(
    call: Call,
    events: EventLog | Follower,
    thread_id: str,
    run_id: str,
    position: int,
    include: list[Include] | None,
) -> EventStream:
    limits = call.context.limits
    return EventStream(
        events,
        keep_alive_s=limits.keep_alive_s,
        stalled_s=limits.stalled_s,
        position=position,
        path=f"/v1/threads/{thread_id}/runs/{run_id}/stream",
        include=include,
    )


def _polled(run: Run) -> Answer[Run]:
    """The run, and when to ask again."""
    if run.status in TERMINAL:
        return Answer(run)
    return Answer(run, headers=_poll_after(time.time() - run.created_at))


def _poll_after(age_s: float) -> Headers:
    wait_ms = min(max(POLL_FIRST_MS, round(age_s * POLL_SLOWER_MS_PER_S)), POLL_LAST_MS)
    return ((b"openai-poll-after-ms", b"%d" % wait_ms),)
