"""A run's event log as server-sent events.

A reader is a position in the log. Whatever has come since goes out in one piece, as fast as the client takes it: a slow
one makes its own pieces larger and holds up nobody. A client that leaves takes its reader with it, never the run.
"""

import asyncio
from collections.abc import Callable
from typing import Final, get_args

import msgspec
from starlette.types import Receive, Send

from threadkeep.api.call import V2
from threadkeep.api.errors import ErrorResponse, failed, refusal
from threadkeep.api.run_steps import shown
from threadkeep.contract.events import Event, EventName
from threadkeep.contract.run_steps import Include, RunStep
from threadkeep.contract.wire import Object
from threadkeep.logs import Log
from threadkeep.runs.follow import EventLog

log = Log(__name__)

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies of the nginx kind would else collect the stream before they pass it on.
    (b"x-accel-buffering", b"no"),
]
# Without an empty line behind it: to OpenAI's Python SDK that is an event without data once it has seen an `id:`, and
# it fails to read it.
KEEP_ALIVE: Final = b": keep-alive\n"
DONE: Final = b"event: done\ndata: [DONE]\n\n"

# What stands between the number of an event and its object.
_NAMED: Final[dict[EventName, bytes]] = {name: f"\nevent: {name}\ndata: ".encode() for name in get_args(EventName)}
_encoder: Final = msgspec.json.Encoder()


class EventStream:
    """An answer that follows ``events`` from behind number ``position`` until the log is closed."""

    __slots__ = ("_events", "_include", "_keep_alive_s", "_last_sent", "_position")

    def __init__(
        self,
        events: EventLog,
        *,
        keep_alive_s: float,
        position: int | None = None,
        include: list[Include] | None = None,
    ) -> None:
        self._events = events
        self._include = include
        self._position = events.base if position is None else position
        self._keep_alive_s = keep_alive_s
        self._last_sent = 0.0

    async def answer(
        self,
        receive: Receive,
        send: Send,
        request_id: str,
        told: Callable[[Event], tuple[EventName, Object]] = V2.told,
    ) -> None:
        """Sends the stream. ``told`` puts each event into the words of the version that the client speaks."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        self._last_sent = asyncio.get_running_loop().time()
        follow = asyncio.create_task(self._follow(send, told))
        attend = asyncio.create_task(self._attend(receive, send))
        try:
            await asyncio.wait((follow, attend), return_when=asyncio.FIRST_COMPLETED)
        finally:
            follow.cancel()
            attend.cancel()
            ends = await asyncio.gather(follow, attend, return_exceptions=True)
        if (failure := next((end for end in ends if isinstance(end, Exception)), None)) is not None:
            # The status has been sent long since; this is the way left to say it, and clients raise it as an error.
            if (refused := refusal(failure, request_id)).status >= 500:
                log.error("stream_failed", error=failure)
            await send({"type": "http.response.body", "body": _error_frame(refused.body)})

    async def _follow(self, send: Send, told: Callable[[Event], tuple[EventName, Object]]) -> None:
        """Sends the log to its end."""
        loop, events = asyncio.get_running_loop(), self._events
        while True:
            piece = bytearray()
            # Asked before the log is read: what is appended between the two is not lost.
            is_last = events.closed
            for event in events.since(self._position):
                self._position += 1
                piece += b"id: %d" % self._position
                if type(event.object) is RunStep:
                    event = Event(event.name, shown(event.object, self._include))  # noqa: PLW2901
                name, said = told(event)
                piece += _NAMED[name]
                _encoder.encode_into(said, piece, -1)
                piece += b"\n\n"
            if is_last:
                piece += DONE if events.failure is None else _error_frame(failed(events.failure))
            if piece:
                # Waits while the client's connection is full; the log goes on growing without us.
                await send({"type": "http.response.body", "body": bytes(piece), "more_body": not is_last})
                self._last_sent = loop.time()
            if is_last:
                return
            await events.wait(self._position)

    async def _attend(self, receive: Receive, send: Send) -> None:
        """Returns when the client has left; until then sends a comment whenever the stream has been silent long."""
        loop = asyncio.get_running_loop()
        while True:
            silent_until = self._last_sent + self._keep_alive_s
            try:
                async with asyncio.timeout_at(silent_until):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                return
            except TimeoutError:
                if loop.time() >= self._last_sent + self._keep_alive_s:
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                    self._last_sent = loop.time()


def _error_frame(body: ErrorResponse) -> bytes:
    return b"event: error\ndata: " + _encoder.encode(body) + b"\n\n"
