"""A model server that plays a script, over real HTTP: for testing what an application does with good and bad answers.

    script = [Say("Hel", "lo"), [Call("get_weather", {"city": "Oslo"}), Usage(12, 5)], Status(500)]
    with ScriptedUpstream(script) as upstream:
        …  # a server whose upstream is `upstream.url`
    assert upstream.requests[0].body["messages"][-1]["content"] == "Hi"

Every request to ``/chat/completions`` (or ``/completions``, ``/embeddings``, ``/moderations``) takes the next entry of
the script: a step, a list of steps, or a function that gets the ``Received`` request and returns steps. What a
well-behaved server adds at the end (finish reason, usage when asked for, ``[DONE]``) is added unless the steps say
otherwise. A request beyond the script is answered 500 and says so.

It runs in a thread of its own, so it serves synchronous tests, asynchronous ones and servers in other processes alike;
it is a context manager of both kinds. A ``Gate`` stops it at an exact point until the test lets it go on.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

# ---------------------------------------------------------------- steps


@dataclass(frozen=True, init=False)
class Say:
    """Text, one delta per piece."""

    pieces: tuple[str, ...]

    def __init__(self, *pieces: str) -> None:
        object.__setattr__(self, "pieces", pieces)


@dataclass(frozen=True)
class Think:
    """Thoughts, in a field beside the text."""

    text: str
    field: Literal["reasoning_content", "reasoning"] = "reasoning_content"


@dataclass(frozen=True)
class Refuse:
    text: str


@dataclass(frozen=True)
class Call:
    """A tool call whose arguments come in ``fragments`` pieces.

    The rest is how servers differ: no ``id``, no ``index`` or always the same, everything on every delta, arguments
    that are an object instead of a string.
    """

    name: str
    arguments: Any = field(default_factory=dict[str, Any])
    id: str | None = "auto"
    index: int | Literal["auto"] | None = "auto"
    fragments: int = 3
    repeats_id: bool = False
    as_object: bool = False


@dataclass(frozen=True)
class Finish:
    """The finish reason; left to itself the answer ends with ``stop``, or ``tool_calls`` after a call."""

    reason: str | None


@dataclass(frozen=True)
class Usage:
    """The usage to report, in place of the counted one."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class NoUsage:
    """Reports no usage, although it may have been asked for."""


@dataclass(frozen=True)
class NoDone:
    """Ends the answer without ``[DONE]``."""


@dataclass(frozen=True)
class Pause:
    seconds: float


@dataclass(frozen=True)
class Raw:
    """Bytes as they are: comments, broken JSON, events of one's own. Empty: only the head of the answer is sent."""

    data: bytes


@dataclass(frozen=True)
class Chunk:
    """One event with this object as its data."""

    data: Mapping[str, Any]


@dataclass(frozen=True)
class Cut:
    """The connection is closed in the midst of the answer; as the first step, before it."""


@dataclass(frozen=True)
class Hang:
    """Nothing more comes; before the first step: not even the head of the answer. Ends when the client leaves."""


@dataclass(frozen=True)
class LineEnds:
    """From here on events end with this instead of LF."""

    with_: str


@dataclass(frozen=True)
class Status:
    """An HTTP answer that is no stream: ``body`` is text, or an object sent as JSON; by default OpenAI's envelope."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content_type: str = "application/json"


@dataclass(frozen=True)
class Whole:
    """A ``chat.completion`` object: the answer of a server that does not stream."""

    content: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()


class Gate:
    """A step where the script waits for the test.

    ``with ScriptedUpstream([[Say("a"), gate := Gate(), Say("b")]])``: the test calls ``gate.wait_reached()`` (or awaits
    ``gate.reached()``), looks at what it wants to see, and calls ``gate.release()``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reached = threading.Event()
        self._is_open = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def wait_reached(self, timeout_s: float = 30) -> None:
        if not self._reached.wait(timeout_s):
            raise TimeoutError(f"the script did not reach the gate within {timeout_s:g} seconds")

    async def reached(self, timeout_s: float = 30) -> None:
        await asyncio.to_thread(self.wait_reached, timeout_s)

    def release(self) -> None:
        """Opens the gate, for good; may be called before it is reached."""
        with self._lock:
            self._is_open = True
            for loop, event in self._waiting:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    async def pass_through(self) -> None:
        event = asyncio.Event()
        with self._lock:
            if self._is_open:
                event.set()
            self._waiting.append((asyncio.get_running_loop(), event))
        self._reached.set()
        await event.wait()


Step = (
    Say | Think | Refuse | Call | Finish | Usage | NoUsage | NoDone | Pause | Raw | Chunk | Cut | Hang | LineEnds
    | Status | Whole | Gate
)  # fmt: skip
Entry = Step | Sequence[Step] | Callable[["Received"], "Step | Sequence[Step]"]


# ---------------------------------------------------------------- what was received

_ANSWERED = ("/completions", "/embeddings", "/moderations")


class Received:
    """A request, and what became of it."""

    def __init__(self, path: str, query: dict[str, str], headers: dict[str, str], raw: bytes) -> None:
        self.path = path
        self.query = query
        # Names in lower case.
        self.headers = headers
        # The body as it came.
        self.raw = raw
        self.body: dict[str, Any] = json.loads(raw or b"{}")
        # The client left before the answer was complete.
        self.aborted = False
        self._ended = threading.Event()

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    def wait_ended(self, timeout_s: float = 30) -> None:
        """Until the answer is complete or the client has left."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"the request did not end within {timeout_s:g} seconds")

    async def ended(self, timeout_s: float = 30) -> None:
        await asyncio.to_thread(self.wait_ended, timeout_s)

    def end(self, *, aborted: bool) -> None:
        if not self._ended.is_set():
            self.aborted = aborted
            self._ended.set()


# ---------------------------------------------------------------- the server


class ScriptedUpstream:
    """The server; ``url`` is the base URL to configure as an upstream."""

    def __init__(
        self,
        script: Sequence[Entry] = (),
        *,
        repeat: bool = False,
        refuses: Mapping[str, str] | None = None,
        models: Sequence[str] = ("scripted",),
        port: int = 0,
    ) -> None:
        """``repeat`` begins the script again at its end. ``refuses`` maps request fields to the message of the 400 that
        a request with such a field is answered; it takes no entry of the script."""
        self.requests: list[Received] = []
        self.connections = 0
        self.host = "127.0.0.1"
        # 0: any that is free.
        self.port = port
        self.models = models
        self.refuses = dict(refuses or {})
        self._script = list(script)
        self._repeat = repeat
        self._next = 0
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self.open_connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def extend(self, *entries: Entry) -> None:
        """Adds entries to the end of the script."""
        self._script.extend(entries)

    def wait_for_requests(self, count: int, timeout_s: float = 30) -> list[Received]:
        """Until so many requests have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {count} requests came within {timeout_s:g} seconds")
            return list(self.requests)

    async def received(self, count: int, timeout_s: float = 30) -> list[Received]:
        return await asyncio.to_thread(self.wait_for_requests, count, timeout_s)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="scripted-upstream", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Closes every connection, also those in the midst of an answer."""
        if self._loop is not None and self._stopping is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join(30)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def entry_for(self, request: Received) -> list[Step]:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        for name, message in self.refuses.items():
            if name in request.body:
                return [Status(400, _envelope(400, message, "invalid_request_error"))]
        if self._repeat and self._script:
            entry: Entry = self._script[self._next % len(self._script)]
        elif self._next < len(self._script):
            entry = self._script[self._next]
        else:
            return [Status(500, _envelope(500, f"the script has no entry for request {len(self.requests)}", "script"))]
        self._next += 1
        if callable(entry):
            entry = entry(request)
        return list(entry) if isinstance(entry, Sequence) else [entry]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # handed to whoever waits in start()
            self._failure = error
            raise
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server = await self._loop.create_server(lambda: _Connection(self), self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        try:
            await self._stopping.wait()
        finally:
            server.close()
            for connection in list(self.open_connections):
                await connection.give_up()
            await server.wait_closed()


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection: as much of the protocol as clients of model servers use."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self._upstream = upstream
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._upstream.connections += 1
        self._upstream.open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.open_connections.discard(self)
        self._writable.set()
        if self._answering is not None:
            self._answering.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._answering is None:
            self._take_request()

    async def give_up(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._answering is not None:
            self._answering.cancel()
            await asyncio.wait([self._answering])

    def _take_request(self) -> None:
        head, found, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = bytearray(rest[length:])
        method, target, _ = first.split(" ", 2)
        self._answering = asyncio.get_running_loop().create_task(self._answer(method, target, headers, rest[:length]))
        self._answering.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering = None
        if not task.cancelled() and (error := task.exception()) is not None:
            if self._transport is not None:
                self._transport.abort()
            if not isinstance(error, ConnectionError):
                raise error
        if self._transport is not None and not self._transport.is_closing():
            self._take_request()

    async def _answer(self, method: str, target: str, headers: dict[str, str], raw: bytes) -> None:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if method == "GET" and parts.path.endswith("/models"):
            data = [{"id": m, "object": "model", "created": 1, "owned_by": "scripted"} for m in self._upstream.models]
            await self._send_whole(Status(200, {"object": "list", "data": data}))
            return
        if method != "POST" or not parts.path.endswith(_ANSWERED):
            await self._send_whole(Status(404, _envelope(404, f"no such path: {parts.path}", "not_found")))
            return
        request = Received(parts.path, query, headers, raw)
        finished = False
        try:
            await _Answer(self, request, self._upstream.entry_for(request)).play()
            finished = True
        finally:
            request.end(aborted=not finished)

    async def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()

    def cut(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _send_whole(self, answer: Status) -> None:
        await self.write(_whole(answer))


class _Answer:
    """Plays the steps of one answer."""

    def __init__(self, connection: _Connection, request: Received, steps: Sequence[Step]) -> None:
        self._connection = connection
        self._steps = steps
        self._model = str(request.body.get("model"))
        options: Any = request.body.get("stream_options")
        self._wants_usage = isinstance(options, dict) and options.get("include_usage") is True  # pyright: ignore[reportUnknownMemberType]
        self._line_end = "\n"
        self._has_begun = False
        self._calls = 0
        self._pieces = 0
        self._usage: Usage | None = None
        self._finish: Finish | None = None
        self._reports_usage = True
        self._ends_with_done = True

    async def play(self) -> None:
        for step in self._steps:
            match step:
                case Status() | Whole():
                    await self._connection.write(_whole(self._completion(step) if isinstance(step, Whole) else step))
                    return
                case Cut():
                    self._connection.cut()
                    return
                case Hang():
                    await asyncio.Event().wait()
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Gate():
                    await step.pass_through()
                case LineEnds(line_end):
                    self._line_end = line_end
                case Usage():
                    self._usage = step
                case NoUsage():
                    self._reports_usage = False
                case NoDone():
                    self._ends_with_done = False
                case Finish():
                    self._finish = step
                case _:
                    await self._stream(step)
        await self._end()

    async def _stream(self, step: Say | Think | Refuse | Call | Raw | Chunk) -> None:
        match step:
            case Say(pieces):
                for piece in pieces:
                    await self._delta({"content": piece})
            case Think(text, name):
                await self._delta({name: text})
            case Refuse(text):
                await self._delta({"refusal": text})
            case Call():
                for delta in self._call(step):
                    await self._delta({"tool_calls": [delta]})
            case Chunk(data):
                await self._event(json.dumps(data))
            case Raw(data):
                await self._begin()
                await self._send(data)

    def _call(self, call: Call) -> list[dict[str, Any]]:
        position = self._calls
        self._calls += 1
        identifier = f"call_{position}" if call.id == "auto" else call.id
        index = position if call.index == "auto" else call.index
        if call.as_object:
            pieces: list[Any] = [call.arguments]
        else:
            text = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
            size = max(1, -(-len(text) // max(call.fragments, 1)))
            pieces = [text[i : i + size] for i in range(0, len(text), size)] or [""]
        deltas: list[dict[str, Any]] = []
        for number, piece in enumerate(pieces):
            delta: dict[str, Any] = {"type": "function", "function": {"arguments": piece}}
            if number == 0 or call.repeats_id:
                delta["function"]["name"] = call.name
                if identifier is not None:
                    delta["id"] = identifier
            if index is not None:
                delta["index"] = index
            deltas.append(delta)
        return deltas

    async def _end(self) -> None:
        reason = self._finish.reason if self._finish is not None else "tool_calls" if self._calls else "stop"
        if reason is not None:
            await self._delta({}, reason)
        if self._reports_usage and (self._wants_usage or self._usage is not None):
            await self._event(json.dumps({**self._frame(), "choices": [], "usage": self._usage_object()}))
        if self._ends_with_done:
            await self._event("[DONE]")
        await self._begin()
        await self._connection.write(b"0\r\n\r\n")

    def _usage_object(self) -> dict[str, Any]:
        usage = self._usage or Usage(10, self._pieces)
        return {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        }

    def _completion(self, whole: Whole) -> Status:
        message = {"role": "assistant", "content": whole.content}
        if whole.tool_calls:
            message["tool_calls"] = list(whole.tool_calls)  # type: ignore[assignment]
        reason = self._finish.reason if self._finish is not None else "tool_calls" if whole.tool_calls else "stop"
        choice = {"index": 0, "message": message, "finish_reason": reason}
        body = {**self._frame(), "object": "chat.completion", "choices": [choice], "usage": self._usage_object()}
        return Status(200, body)

    def _frame(self) -> dict[str, Any]:
        return {
            "id": "chatcmpl-scripted",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": self._model,
        }

    async def _delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> None:
        self._pieces += 1
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        await self._event(json.dumps({**self._frame(), "choices": [choice]}))

    async def _event(self, data: str) -> None:
        await self._begin()
        await self._send(f"data: {data}{self._line_end}{self._line_end}".encode())

    async def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            await self._connection.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )

    async def _send(self, data: bytes) -> None:
        if data:  # an empty piece would be the end of the body
            await self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))
        # Gives the event loop its turn, so that every delta is a write of its own, as with a real model.
        await asyncio.sleep(0)


def _envelope(status: int, message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _whole(answer: Status) -> bytes:
    body = answer.body
    if body is None:
        body = _envelope(answer.status, f"scripted failure {answer.status}", "scripted")
    raw: bytes = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"Content-Type": answer.content_type, "Content-Length": str(len(raw)), **answer.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Scripted\r\n{lines}\r\n".encode("latin-1") + raw
