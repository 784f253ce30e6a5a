"""A run's events as server-sent events.

A reader is a position in the run's log. Whatever has come since goes out in one piece, as fast as the client takes it:
a slow one makes its own pieces larger, up to a bound, and holds up nobody. A client that leaves takes its reader with
it, never the run; one that takes nothing for long is let go, and told how to come back.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, get_args

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
from threadkeep.runs.retelling import Retold
from threadkeep.runs.streams import Follower

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

# A piece goes out when it is this long; the next one waits until the client has taken most of it.
PIECE_BYTES: Final = 64 * 1024
# How many events are looked at in one go.
_EVENTS: Final = 2_000
# How long a client may take for the rest once the log has ended: until then the log is kept for it.
REST_S: Final = 120.0
# Of a server that can still say something where a client takes nothing: without waiting, as the connection's last.
LAST_WORDS: Final = "threadkeep.last_words"
_LAST_WORDS_S: Final = 1.0

_NONE: Final[Mapping[str, Any]] = {}

Told = Callable[[Event], tuple[EventName, Object]]

# What stands between the number of an event and its object.
_NAMED: Final[dict[EventName, bytes]] = {name: f"\nevent: {name}\ndata: ".encode() for name in get_args(EventName)}
_encoder: Final = msgspec.json.Encoder()


class EventStream:
    """An answer that follows ``events`` from behind number ``position`` until nothing more will come.

    ``path``: where the stream can be joined again.
    """

    __slots__ = (
        "_events",
        "_include",
        "_keep_alive_s",
        "_last_sent",
        "_path",
        "_position",
        "_rest_by",
        "_sending_since",
        "_sent",
        "_stalled_s",
    )

    def __init__(
        self,
        events: EventLog | Follower,
        *,
        keep_alive_s: float,
        position: int,
        path: str,
        stalled_s: float = 30.0,
        include: list[Include] | None = None,
    ) -> None:
        self._events = events
        self._include = include
        self._path = path
        # What was put into pieces, and what of that the server has taken.
        self._position = self._sent = position
        self._keep_alive_s = keep_alive_s
        self._stalled_s = stalled_s
        self._last_sent = 0.0
        # Since when a piece waits for the client; None while none does.
        self._sending_since: float | None = None
        self._rest_by: float | None = None

    async def answer(
        self, receive: Receive, send: Send, request_id: str, told: Told = V2.told, extensions: Mapping[str, Any] = _NONE
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
        failure = next((end for end in ends if isinstance(end, Exception)), None)
        if isinstance(failure, _TooSlow):
            await self._cut(send, failure, extensions)
        elif failure is not None:
            # The status has been sent long since; this is the way left to say it, and clients raise it as an error.
            if (refused := refusal(failure, request_id)).status >= 500:
                log.error("stream_failed", error=failure)
            await send({"type": "http.response.body", "body": _error_frame(refused.body)})

    async def _follow(self, send: Send, told: Told) -> None:
        """Sends everything to its end."""
        follower = self._events
        if isinstance(follower, EventLog):
            await self._follow_log(follower, send, told, is_all=True)
            return
        try:
            while True:
                match await follower.next(self._position):
                    case EventLog() as events:
                        await self._follow_log(events, send, told, is_all=False)
                    case Retold(events=retold, last=last):
                        await self._retell(retold, send, told)
                        self._position = last
                    case ended:
                        await self._send(send, _end(ended.failure), is_last=True)
                        return
        finally:
            follower.close()

    async def _follow_log(self, events: EventLog, send: Send, told: Told, *, is_all: bool) -> None:
        """Sends the log to its end; ``is_all``: and the end of the stream."""
        # What is asked for at every event.
        include, encode = self._include, _encoder.encode_into
        while True:
            piece = bytearray()
            # Asked before the log is read: what is appended between the two is not lost.
            is_closed = events.closed
            position = self._position
            for event in events.since(position, _EVENTS):
                position += 1
                piece += b"id: %d" % position
                if type(event.object) is RunStep:
                    event = Event(event.name, shown(event.object, include))  # noqa: PLW2901
                name, said = told(event)
                piece += _NAMED[name]
                encode(said, piece, -1)
                piece += b"\n\n"
                if len(piece) > PIECE_BYTES:
                    break
            self._position = position
            is_last = is_closed and position == events.last
            if is_last and is_all:
                piece += _end(events.failure)
            if piece:
                if is_closed and self._rest_by is None:
                    self._rest_by = asyncio.get_running_loop().time() + REST_S
                # Waits while the client's connection is full; the log goes on growing without us.
                await self._send(send, piece, is_last=is_last and is_all)
            if is_last:
                self._rest_by = None
                return
            await events.wait(position)

    async def _retell(self, retold: Sequence[tuple[int, Event]], send: Send, told: Told) -> None:
        piece = bytearray()
        for number, event in retold:
            self._position = number
            if type(event.object) is RunStep:
                event = Event(event.name, shown(event.object, self._include))  # noqa: PLW2901
            name, said = told(event)
            piece += b"id: %d" % number + _NAMED[name]
            _encoder.encode_into(said, piece, -1)
            piece += b"\n\n"
            if len(piece) > PIECE_BYTES:
                await self._send(send, piece)
                piece = bytearray()
        if piece:
            await self._send(send, piece)

    async def _send(self, send: Send, piece: bytes | bytearray, *, is_last: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self._sending_since = loop.time()
        await send({"type": "http.response.body", "body": bytes(piece), "more_body": not is_last})
        self._sent = self._position
        self._sending_since = None
        self._last_sent = loop.time()

    async def _attend(self, receive: Receive, send: Send) -> None:
        """Returns when the client has left; until then sends a comment whenever the stream has been silent long."""
        loop = asyncio.get_running_loop()
        while True:
            since = self._sending_since
            wait_s = self._stalled_s if since is not None else min(self._keep_alive_s, self._stalled_s)
            try:
                async with asyncio.timeout_at((self._last_sent if since is None else since) + wait_s):
                    while (await receive())["type"] != "http.disconnect":
                        pass
                return
            except TimeoutError:
                self._check_pace(loop.time())
                if self._sending_since is None and loop.time() >= self._last_sent + self._keep_alive_s:
                    # The piece before it may fill the connection.
                    try:
                        async with asyncio.timeout(self._stalled_s):
                            await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                    except TimeoutError:
                        raise self._stalled() from None
                    self._last_sent = loop.time()

    def _check_pace(self, now: float) -> None:
        if self._sending_since is not None and now >= self._sending_since + self._stalled_s:
            raise self._stalled()
        if self._rest_by is not None and now >= self._rest_by:
            raise _TooSlow(f"The connection did not take the rest of the stream within {REST_S:g} seconds.")

    def _stalled(self) -> "_TooSlow":
        return _TooSlow(f"The connection took nothing for {self._stalled_s:g} seconds.")

    async def _cut(self, send: Send, reason: "_TooSlow", extensions: Mapping[str, Any]) -> None:
        log.info("stream_cut", error=reason)
        back = f" To go on, GET {self._path} with the header Last-Event-ID: {self._sent}."
        if (extension := extensions.get(LAST_WORDS)) is not None:
            extension["prepare"]()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await send({"type": "http.response.body", "body": _error_frame(failed(f"{reason}{back}"))})


class _TooSlow(Exception):
    """The client is not taking the stream: what is kept for it would be kept for ever."""


def _end(failure: str | None) -> bytes:
    return DONE if failure is None else _error_frame(failed(failure))


def _error_frame(body: ErrorResponse) -> bytes:
    return b"event: error\ndata: " + _encoder.encode(body) + b"\n\n"
