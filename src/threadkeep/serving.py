"""Connections: the bounds on each and on all of them, and how they end when the server stops.

Told to stop, the server goes through four phases:

    retired     readiness says so, and every answer is its connection's last; connections are taken (``drain_delay_s``)
    draining    no connection is taken any more; runs end within ``grace_s``, or are handed over
    last words  whoever still reads is told where the rest will be
    cut         what is left

A request is never lost to a connection that is closed under it: one that was made is taken, and one that is kept is
closed with an answer that says so, or when nobody has used it for a while. A second signal ends the first two phases
at once, a third the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from threadkeep.logs import Log

log = Log(__name__)

# Longer than clients and load balancers keep a connection that they do not use: they close it, not we.
IDLE_CONNECTION_S = 75
# How long the head of a request (its first line and headers) may be, and how long it may take to arrive.
MAX_HEAD_BYTES = 65_536
HEAD_S = 30.0
# How long the rest of a body is still read, and thrown away, that was answered before it was whole: a connection closed
# under a client that sends may cost it the answer.
LINGER_S = 10.0
# How long a client may take nothing of an answer before the kernel gives the connection up, where the kernel can.
TAKES_NOTHING_S = 120.0
# So many connections beyond the bound are taken and told that they are too many; further ones are cut without a word.
REFUSED_CONNECTIONS = 256
# How long one of those may take to ask and to read the refusal.
REFUSAL_S = 5.0
# How often a log line says how many were refused.
TELL_S = 10.0

# While the server stops: how long a kept connection may be idle before it is closed. A client that uses it often uses
# it within this time, and learns from the answer that it was the last.
KEPT_S = 0.5
# How long handing over may take once the grace period is over. The database answers, if only that it is away, in ten.
HAND_OVER_S = 12.0
# Between the last words to the readers and the end of their connections.
LAST_WORDS_S = 5.0
# How long after a second signal the process ends in any case.
AT_ONCE_S = 5.0
# How long after all phases the rest of the parts may take to close before the process ends without them.
CLOSING_S = 30.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What the settings say of connections."""

    connections: int
    # How long connections are still taken after the order to stop, for load balancers to see that the server stops.
    drain_delay_s: float = 0.0
    grace_s: float


class Node(Protocol):
    """What is behind the connections. Told to stop, it is called in this order."""

    def retire(self) -> None:
        """Says that requests should go elsewhere. Those that come all the same are answered as ever."""
        ...

    async def drain(self, grace_s: float) -> None:
        """Takes no new work, and returns when what was under way has ended or was handed over.

        It may be called again meanwhile, with less patience.
        """
        ...

    async def let_go(self) -> None:
        """Ends the answers that would go on for as long as something elsewhere does."""
        ...


def default_connections() -> int:
    """Half of the files that this process may have open: a stream is a connection of a client and one of ours."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 10_000 if soft == resource.RLIM_INFINITY else max(16, min(10_000, soft // 2 - REFUSED_CONNECTIONS))


class _State(ServerState):
    """What the connections of one server share."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.is_stopping = False
        self._refused = 0
        self._told_at = float("-inf")

    def tell_of_refusal(self, now: float) -> None:
        """Logs that connections are refused, and not each."""
        self._refused += 1
        if now - self._told_at >= TELL_S:
            log.warning("connections_refused", count=self._refused, limit=self.most)
            self._refused, self._told_at = 0, now


class HttpServer(uvicorn.Server):
    """uvicorn's, with a bound on connections, and an end of our own."""

    def __init__(self, app: ASGIApp, node: Node, bounds: Bounds, *, on_ready: Callable[[], object]) -> None:
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_CONNECTION_S,
        )
        super().__init__(config)
        self.server_state: _State = _State(bounds.connections)
        self._node = node
        self._bounds = bounds
        self._on_ready = on_ready
        self._signals = 0
        self._is_hurried = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # What is there by now stays to the end: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
        # What a stream allocates is freed by counting references; looking for cycles after every few words costs more
        # than it finds (about a tenth of the CPU of a streamed run).
        gc.set_threshold(10_000, 20, 20)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop, bounds = asyncio.get_running_loop(), self._bounds
        everything_s = bounds.drain_delay_s + bounds.grace_s + HAND_OVER_S + LAST_WORDS_S + CLOSING_S
        loop.call_later(everything_s, _give_up, "something would not end")
        self._node.retire()
        self.server_state.is_stopping = True
        for connection in self._connections:
            connection.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_hurried.wait(), bounds.drain_delay_s)
        await self._stop_listening(sockets or ())
        for connection in self._connections:
            connection.close_when_unused(KEPT_S)
        drained = asyncio.create_task(self._node.drain(bounds.grace_s))
        served = asyncio.create_task(self._until_unconnected())
        await self._or_hurry([drained, served], bounds.grace_s)
        if self._is_hurried.is_set():
            # Cuts the grace period of the one that is under way.
            drained = asyncio.gather(drained, self._node.drain(0))
        await asyncio.wait([drained], timeout=HAND_OVER_S)
        await self._node.let_go()
        await asyncio.wait([served], timeout=LAST_WORDS_S)
        await self._cut()
        served.cancel()
        await asyncio.gather(served, return_exceptions=True)
        if drained.done() and (error := drained.exception()) is not None:
            raise error

    async def _or_hurry(self, tasks: Sequence[asyncio.Task[None]], timeout_s: float) -> None:
        """Returns when all of them are done, the time is up, or somebody is in a hurry."""
        hurried = asyncio.create_task(self._is_hurried.wait())
        done = asyncio.ensure_future(asyncio.wait(tasks))
        await asyncio.wait([done, hurried], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (done, hurried):
            waiting.cancel()
        await asyncio.gather(done, hurried, return_exceptions=True)

    async def _stop_listening(self, listeners: Sequence[socket.socket]) -> None:
        """From here on connections are refused. Those that were made before, and nobody has taken yet, are taken:
        with the listener they would be cut, perhaps with a request in them."""
        kept = [listener.dup() for listener in listeners]
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        # The loop lets go of them with its next turn.
        await asyncio.sleep(0)
        made: list[socket.socket] = []
        for listener in kept:
            listener.setblocking(False)
            with listener, contextlib.suppress(OSError):
                while True:
                    made.append(listener.accept()[0])
        loop = asyncio.get_running_loop()
        for connection in made:
            with contextlib.suppress(OSError):
                await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> HttpProtocol:
        return HttpProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def _until_unconnected(self) -> None:
        # uvicorn keeps both in plain sets.
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)

    async def _cut(self) -> None:
        connections, tasks = self._connections, list(self.server_state.tasks)
        if connections or tasks:
            log.warning("connections_cut", count=len(connections))
        for connection in connections:
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def _connections(self) -> list[HttpProtocol]:
        return cast("list[HttpProtocol]", list(self.server_state.connections))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.should_exit = True
        match self._signals:
            case 1 if sig == signal.SIGINT:
                # Somebody at a terminal, with no load balancer.
                self._bounds = Bounds(connections=self._bounds.connections, grace_s=self._bounds.grace_s)
            case 1:
                pass
            case 2:
                self._loop.call_soon_threadsafe(self._hurry)
            case _:
                _give_up("a third signal")

    def _hurry(self) -> None:
        log.warning("stopping_at_once")
        self._is_hurried.set()
        self._loop.call_later(AT_ONCE_S, _give_up, "it was to stop at once")

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's raises the signal again in the end; to us a stop that was asked for is a success."""
        self._loop = asyncio.get_running_loop()
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


def _give_up(reason: str) -> None:
    """Whatever is stored stands; whatever is leased here is taken over when the lease has run out."""
    log.error("stopped_unfinished", reason=reason)
    os._exit(1)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, with bounds on a request's head, in bytes and in time, and with refusals in the contract's envelope.

    uvicorn itself keeps what a client sends as its head, however long it is, for as long as the client likes.
    """

    server_state: _State
    # One connection more than there may be: it is told so, and no more.
    _is_too_many = False
    _is_refused = False
    _head_bytes = 0
    # How many heads have ended on this connection.
    _heads = 0
    _is_in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _unused_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            milliseconds = int(TAKES_NOTHING_S * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        head_s, too_many = HEAD_S, len(self.connections) - self.server_state.most
        if too_many > 0:
            self.server_state.tell_of_refusal(self.loop.time())
            if too_many > REFUSED_CONNECTIONS:
                transport.abort()
                return
            self._is_too_many, head_s = True, min(HEAD_S, REFUSAL_S)
        self._head_timer = self.loop.call_later(head_s, self.timeout_keep_alive_handler)
        if self.server_state.is_stopping:
            self.close_when_unused(KEPT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_head()
        self._end_of_body()
        if self._unused_timer is not None:
            self._unused_timer.cancel()
        super().connection_lost(exc)

    def stop(self) -> None:
        """The server stops. An answer that has not begun says that it is the connection's last."""
        # The newest request is at the left; None until the first has come.
        cycle = cast("RequestResponseCycle | None", self.pipeline[0][0] if self.pipeline else self.cycle)
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def close_when_unused(self, after_s: float) -> None:
        """Closes the connection unless it is used until then; the next request on it gets its last answer."""
        if self._unused_timer is not None:
            self._unused_timer.cancel()
        self._unused_timer = self.loop.call_later(after_s, self._close_unused)

    def _close_unused(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        is_used = self._head_bytes > 0 or bool(self.pipeline) or (cycle is not None and not cycle.response_complete)
        if not is_used and not self.transport.is_closing():
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        was_in_head, heads = self._is_in_head, self._heads
        super().data_received(data)
        # A whole request may come at once: its body does not count.
        if was_in_head and self._is_in_head and self._heads == heads:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(431, "Request Header Fields Too Large", "The request's headers are too large.")
            elif self._head_timer is None:
                # A later request on the same connection.
                self._head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"threadkeep.last_words": {"prepare": self._prepare_last_words}}

    def _prepare_last_words(self) -> None:
        """What is sent next is not held back, however full the connection is, and the connection ends with it."""
        self.cycle.keep_alive = False
        self.flow.resume_writing()

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a chunked body in the form of headers is none: uvicorn would take it for some, whatever a
        # proxy thought of it, and keep it however much it is.
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._heads += 1
        self._end_of_head()
        # Whoever watches over the server still learns how it is.
        if self._is_too_many and not self.url.startswith((b"/health/", b"/metrics")):
            self._is_refused = True
            self._refuse(503, "Service Unavailable", "The server has too many connections. Try again later.")
            return
        super().on_headers_complete()
        if self.server_state.is_stopping or self._is_too_many:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._end_of_body()
        if not self._is_refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)
        if self.server_state.is_stopping and not self.transport.is_closing():
            # The answer had begun when the server was told to stop, and could not say that it is the last.
            self.close_when_unused(KEPT_S)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "Bad Request", msg)

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as if it had not asked; that is no news."""

    def _end_of_head(self) -> None:
        self._is_in_head = False
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_of_body(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None

    def _refuse(self, status: int, reason: str, message: str) -> None:
        if self.transport.is_closing():
            return
        # None until the first request has come.
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            # In the midst of an answer these would only be more of its bytes.
            self.transport.close()
            return
        kind, retry = ("server_error", "retry-after: 1\r\n") if status == 503 else ("invalid_request_error", "")
        error: dict[str, Any] = {"message": message, "type": kind, "param": None, "code": None}
        body = msgspec.json.encode({"error": error})
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{retry}"
            f"x-request-id: req_{os.urandom(16).hex()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        if self._is_refused and self.transport.can_write_eof():
            # What the client still sends is read and thrown away: closed under it, it would lose the refusal.
            self.transport.write_eof()
            self._linger_timer = self.loop.call_later(min(LINGER_S, REFUSAL_S), self.transport.close)
        else:
            self.transport.close()
