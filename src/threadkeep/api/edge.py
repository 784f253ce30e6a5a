"""The outermost layer: every request gets its id, its headers, its log line, and an answer in the envelope.

Plain ASGI on purpose: a middleware that wraps the request in a task of its own costs more than all of this.
"""

import os
import time
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from threadkeep.api.answers import send_object
from threadkeep.api.call import ClientGone
from threadkeep.api.errors import refusal
from threadkeep.logs import Log, bound
from threadkeep.metrics import REQUESTS

log = Log(__name__)

TRACE: Final = "threadkeep.trace"
MAX_LOGGED_PATH: Final = 200
# So many lines a second are written of requests that were refused; the rest is counted. Whoever floods the server with
# nonsense does not fill its disk too.
MAX_REFUSAL_LINES: Final = 100


class Trace:
    """What is known of a request for its log line; filled in on its way inwards."""

    __slots__ = ("operation", "project", "request_id", "route")

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.route: str | None = None
        self.operation: str | None = None
        self.project: str | None = None


class Refusals:
    """Which refused requests are worth a line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._written = 0
        self._omitted = 0

    def is_worth_a_line(self) -> bool:
        """Called once for each; tells in a line of its own how many were not, in the second before."""
        if (now := self._clock()) - self._since >= 1:
            if self._omitted:
                log.warning("requests_not_logged", count=self._omitted)
            self._since, self._written, self._omitted = now, 0, 0
        if self._written >= MAX_REFUSAL_LINES:
            self._omitted += 1
            return False
        self._written += 1
        return True


class Edge:
    """Wraps the whole application. Nothing that is raised inside gets past it, save cancellation."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._refusals = Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter_ns()
        trace = scope[TRACE] = Trace(f"req_{os.urandom(16).hex()}")
        # 0 until the answer has begun.
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", trace.request_id.encode()),
                    (b"openai-processing-ms", b"%d" % ((time.perf_counter_ns() - began) // 1_000_000)),
                    (b"openai-version", b"2020-10-01"),
                ]
            await send(message)

        with bound(request_id=trace.request_id):
            try:
                await self._app(scope, receive, send_on)
            except ClientGone:
                log.debug("client_gone", route=trace.route, project=trace.project)
                return
            except Exception as error:
                refused = refusal(error, trace.request_id)
                if refused.status == 500:
                    log.error("request_failed", route=trace.route, operation=trace.operation, error=error)
                elif refused.status > 500:
                    log.warning("request_refused", route=trace.route, operation=trace.operation, error=error)
                if status:
                    # The answer had begun: returning now cuts the connection, which tells the client it is not whole.
                    return
                await send_object(send_on, refused.body, refused.status, refused.headers)
            REQUESTS.add(str(status))
            if not 400 <= status < 500 or self._refusals.is_worth_a_line():
                _log_request(scope, trace, status, time.perf_counter_ns() - began)


def _log_request(scope: Scope, trace: Trace, status: int, took_ns: int) -> None:
    method: str = scope["method"]
    # Reading is what pollers do all day long.
    write = log.debug if status < 400 and method in ("GET", "HEAD") else log.info
    # The route, not the path: ids can be looked up by the request's own lines. An unrouted path is worth seeing.
    route = trace.route or f"{scope['path'][:MAX_LOGGED_PATH]} (no route)"
    write(
        "request",
        method=method,
        route=route,
        operation=trace.operation,
        status=status,
        ms=took_ns // 1000 / 1000,
        project=trace.project,
    )
