"""From a matched path to an endpoint and back: key, beta header, ids, then the endpoint, then its answer.

The one place that asks which version of the API a call speaks; everything further in speaks the second.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from starlette.routing import PARAM_REGEX
from starlette.types import Receive, Scope, Send

from threadkeep.api.answers import Answer, Document, send_document, send_object
from threadkeep.api.assistants_v1 import V1
from threadkeep.api.auth import presented_host, presented_key, spoken_version
from threadkeep.api.call import V2, Call, Context, Version
from threadkeep.api.download import Download
from threadkeep.api.edge import TRACE, Trace
from threadkeep.api.errors import MethodNotAllowed
from threadkeep.api.event_stream import HEADERS, EventStream
from threadkeep.api.passthrough import PassThrough
from threadkeep.contract.errors import NotFound, ThreadkeepError
from threadkeep.contract.ids import Prefix
from threadkeep.contract.reading import check_id
from threadkeep.contract.wire import Object, Request
from threadkeep.metrics import STREAMS

Endpoint = Callable[[Call], Awaitable[Object | Answer[Object] | EventStream | Download | PassThrough]]
PublicEndpoint = Callable[[Context], Awaitable[Answer[Object] | Document]]


class FormBody(NamedTuple):
    """A form (multipart/form-data) with one file in it."""

    file: str
    # What else the form says.
    fields: type[Request] | None = None


class Operation(NamedTuple):
    """One row of the list of routes."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    # As the contract spells it.
    id: str
    endpoint: Endpoint
    # Whether the operation belongs to the beta that `OpenAI-Beta` chooses a version of. Clients send a header of their
    # own making with the others too, and there it means nothing.
    in_beta: bool = True
    # What the endpoint reads of the body and of the query, if it does; what it answers stands in its annotation. For
    # the document that describes the operations, and for the tests that hold every answer against its type.
    body: type[Request] | FormBody | None = None
    query: type[Request] | None = None
    # Whether it is ours, beside the contract.
    is_extension: bool = False
    # The only version that has the operation; None: every one.
    only: Literal["v1", "v2"] | None = None


VERSIONS: Final = {version.name: version for version in (V1, V2)}

# What the ids in paths begin with; a parameter that is not here may be anything.
ID_PREFIXES: Final[dict[str, Prefix]] = {
    "assistant_id": "asst",
    "thread_id": "thread",
    "message_id": "msg",
    "run_id": "run",
    "step_id": "step",
    "upload_id": "upload",
    "vector_store_id": "vs",
    "batch_id": "vsfb",
}


class Resource:
    """The operations of one path."""

    def __init__(self, context: Context, path: str, operations: Sequence[Operation]) -> None:
        self._context = context
        self._path = path
        by_method: dict[str, Operation] = {operation.method: operation for operation in operations}
        if "GET" in by_method:
            # The server leaves the body away, and keeps its length.
            by_method["HEAD"] = by_method["GET"]
        self._by_method = by_method
        self._allow = ", ".join(sorted([*by_method, "OPTIONS"]))
        self._ids: list[tuple[str, Prefix]] = [
            (name, ID_PREFIXES[name]) for name, _ in PARAM_REGEX.findall(path) if name in ID_PREFIXES
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace: Trace = scope[TRACE]
        trace.route = self._path
        method: str = scope["method"]
        operation = self._by_method.get(method)
        if operation is None:
            if method == "OPTIONS":
                await send_nothing(send, self._allow)
                return
            raise MethodNotAllowed(method, self._allow)
        trace.operation = operation.id
        headers = headers_of(scope)
        trace.project = project = await self._context.authenticate(presented_key(headers), presented_host(headers))
        version = self._version(operation, headers) if operation.in_beta else V2
        path: dict[str, str] = scope["path_params"]
        for name, prefix in self._ids:
            check_id(name, path[name], prefix)
        call = Call(self._context, project, path, headers, scope, receive, version)
        try:
            await self._answer(call, operation, send, trace)
        finally:
            call.release()

    async def _answer(self, call: Call, operation: Operation, send: Send, trace: Trace) -> None:
        version = call.version
        try:
            answered = await operation.endpoint(call)
        except ThreadkeepError as error:
            if (blamed := version.blamed(error)) is not error:
                raise blamed from error
            raise
        if isinstance(answered, EventStream) and call.method == "HEAD":
            # A reader would hold the answer up until the run has ended.
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            await send({"type": "http.response.body", "body": b""})
        elif isinstance(answered, EventStream):
            # It goes on for long after the request that it began with.
            call.release()
            STREAMS.now += 1
            try:
                await answered.answer(call.receive, send, trace.request_id, version.told, call.extensions)
            finally:
                STREAMS.now -= 1
        elif isinstance(answered, PassThrough):
            await answered.answer(call.receive, send, trace.request_id)
        elif isinstance(answered, Answer):
            await send_object(send, version.shown(answered.object), answered.status, answered.headers)
        elif isinstance(answered, Download):
            await answered.answer(call.receive, send, is_head=call.method == "HEAD")
        else:
            await send_object(send, version.shown(answered))

    def _version(self, operation: Operation, headers: Mapping[bytes, bytes]) -> Version:
        name = spoken_version(headers.get(b"openai-beta"), is_strict=self._context.strict_beta)
        if operation.only not in (None, name):
            raise NotFound(
                f"Not found: the operation {operation.id} belongs to another version of the Assistants API. "
                f"It answers to the header 'OpenAI-Beta: assistants={operation.only}'."
            )
        return VERSIONS[name]


class Public:
    """A path that can be read without a key."""

    def __init__(self, context: Context, path: str, endpoint: PublicEndpoint) -> None:
        self._context = context
        self._path = path
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        trace: Trace = scope[TRACE]
        trace.route = self._path
        method: str = scope["method"]
        if method in ("GET", "HEAD"):
            answered = await self._endpoint(self._context)
            if isinstance(answered, Document):
                await send_document(send, answered)
            else:
                await send_object(send, answered.object, answered.status, answered.headers)
        elif method == "OPTIONS":
            await send_nothing(send, "GET, HEAD, OPTIONS")
        else:
            raise MethodNotAllowed(method, "GET, HEAD, OPTIONS")


async def send_nothing(send: Send, allow: str) -> None:
    """The answer to ``OPTIONS``. No word of other origins: a web page has no business with somebody's key here."""
    await send({"type": "http.response.start", "status": 204, "headers": [(b"allow", allow.encode())]})
    await send({"type": "http.response.body", "body": b""})


def headers_of(scope: Scope) -> Mapping[bytes, bytes]:
    """Headers by lower-case name; one that is sent several times counts as the list of its values."""
    raw: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(raw)
    if len(headers) != len(raw):
        headers.clear()
        for name, value in raw:
            headers[name] = headers[name] + b", " + value if name in headers else value
    return headers
