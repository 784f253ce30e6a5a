"""One request as an endpoint sees it, and what every endpoint may reach."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope

from threadkeep.api.errors import BodyTooSlow
from threadkeep.contract.errors import InvalidRequest, ThreadkeepError, TooLarge, Unavailable
from threadkeep.contract.events import Event, EventName
from threadkeep.contract.files import MAX_FILE_BYTES
from threadkeep.contract.ids import Prefix
from threadkeep.contract.paging import ListQuery
from threadkeep.contract.reading import check_id, read_json, read_query
from threadkeep.contract.wire import Object
from threadkeep.files.contents import Contents
from threadkeep.files.uploads import Uploads
from threadkeep.metrics import Gauge
from threadkeep.runs.lifecycle import Runs
from threadkeep.search.ingest import Ingestion
from threadkeep.search.query import Search
from threadkeep.storage.outcomes import Once, do_once
from threadkeep.storage.store import Store, Transaction
from threadkeep.upstream.upstreams import Upstreams

T = TypeVar("T")
M = TypeVar("M", bound=Object)
Q = TypeVar("Q", bound=ListQuery)

MAX_QUERY_FIELDS = 100
# Longer bodies are read in a thread: by then that costs less than it spares the others.
MAX_READ_AT_ONCE = 64 * 1024
MAX_IDEMPOTENCY_KEY = 255


class LargeBodies:
    """How many bytes of large bodies all requests together hold at once. Small ones, which are most, do not count.

    One request's body is bounded by itself; many at once would still be more than the machine has.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Takes room that ``give`` returns, or refuses the request for now."""
        if self.held + size > self._limit:
            raise Unavailable("The server is taking too many large requests at once. Please try again.")
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class HealthPart(NamedTuple):
    """Something that the server stands on. ``check`` returns when it is well and raises when it is not.

    What tells more of itself returns a ``health.PartState``.
    """

    name: str
    check: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may cost before anybody has looked into it."""

    # A text holds 256,000 characters of up to twelve bytes each, escaped, and create thread takes several.
    body_bytes: int = 16 * 1024 * 1024
    # How much of large bodies is held at once, of all requests together.
    all_bodies_bytes: int = 256 * 1024 * 1024
    # How long a body may take to arrive; a file's next piece, to arrive or to be taken.
    body_s: float = 60.0
    # How long a file may be.
    file_bytes: int = MAX_FILE_BYTES
    # How slowly a file may arrive, from `body_s` on. The largest takes 15 hours, less than a blob without a row lives.
    least_bytes_per_s: int = 10_000
    # How long a stream may be silent before a comment keeps proxies and clients from giving it up.
    keep_alive_s: float = 15.0
    # How long the client of a stream may take nothing of it.
    stalled_s: float = 30.0


def _nothing(_project: str, _thread_id: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts of the server that endpoints use; ``app`` puts them together."""

    store: Store
    runs: Runs
    contents: Contents
    uploads: Uploads
    ingestion: Ingestion
    search: Search
    upstreams: Upstreams
    # The project that a presented key (None: none was presented) belongs to, or `Unauthenticated`; the second argument
    # is the `Host` that the client asked for.
    authenticate: Callable[[str | None, str | None], Awaitable[str]]
    version: str
    # Whether a call of the beta must say which version it speaks.
    strict_beta: bool = False
    # Web pages of which origins may read the answers.
    cors_origins: Collection[str] = ()
    # What `GET /health/ready` asks.
    health: Sequence[HealthPart] = ()
    # What `GET /metrics` asks, beside what is counted.
    gauges: Sequence[Gauge] = ()
    limits: Limits = Limits()
    large_bodies: LargeBodies = field(init=False)
    # As OpenAI did: what was uploaded for assistants does not come back.
    refuses_assistants_downloads: bool = False

    # Told of a thread that is no more, after its project, so that what nodes hold for it goes too.
    on_thread_deleted: Callable[[str, str], None] = _nothing

    def __post_init__(self) -> None:
        # However small the bound on all of them: one that may be sent is taken.
        most = max(self.limits.all_bodies_bytes, self.limits.body_bytes)
        object.__setattr__(self, "large_bodies", LargeBodies(most))


class Read(Protocol):
    def __call__(self, kind: type[T], raw: bytes, /) -> T: ...


class Version(NamedTuple):
    """How a version of the API is spoken. Whatever is not in here knows the second only."""

    name: Literal["v1", "v2"]
    # The request in a body.
    read: Read
    # An object as it is answered, an event as it is streamed, a refusal as it is worded.
    shown: Callable[[Object], Object]
    told: Callable[[Event], tuple[EventName, Object]]
    blamed: Callable[[ThreadkeepError], ThreadkeepError]


def _same(thing: T) -> T:
    return thing


V2: Final = Version(name="v2", read=read_json, shown=_same, told=_same, blamed=_same)


class ClientGone(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


class Call:
    """One authenticated request. The ids in ``path`` have the form that their names ask for."""

    __slots__ = ("_holds", "_raw", "_receive", "_scope", "context", "headers", "path", "project", "version")

    def __init__(
        self,
        context: Context,
        project: str,
        path: Mapping[str, str],
        headers: Mapping[bytes, bytes],
        scope: Scope,
        receive: Receive,
        version: Version,
    ) -> None:
        self.context = context
        self.project = project
        self.path = path
        self.headers = headers
        self.version = version
        self._scope = scope
        self._receive = receive
        # The body, once it was read, and what it takes of the room for large ones.
        self._raw: bytes | None = None
        self._holds = 0

    @property
    def method(self) -> str:
        return self._scope["method"]

    @property
    def receive(self) -> Receive:
        """What the client still sends, and that it has left."""
        return self._receive

    @property
    def extensions(self) -> Mapping[str, Any]:
        """What the server can do beyond the protocol."""
        return self._scope.get("extensions", {})

    async def body(self, kind: type[T]) -> T:
        """The JSON body as a ``kind``. No body at all is an empty object: what may be left out may all be left out."""
        return await reading(await self.raw_body(), lambda raw: self.version.read(kind, raw))

    def query(self, kind: type[T]) -> T:
        return read_query(kind, self._query_pairs())

    def page(self, kind: type[Q], prefix: Prefix) -> Q:
        """The query of a list whose objects' ids begin with ``prefix``: its cursors are such ids."""
        query = self.query(kind)
        if query.after is not None:
            check_id("after", query.after, prefix)
        if query.before is not None:
            check_id("before", query.before, prefix)
        return query

    def _query_pairs(self) -> list[tuple[str, str]]:
        raw: bytes = self._scope["query_string"]
        if not raw:
            return []
        try:
            return parse_qsl(raw.decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise InvalidRequest(f"Too many query parameters: at most {MAX_QUERY_FIELDS} are accepted.") from None

    async def read(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` finds in the caller's project."""
        return await self.context.store.read(self.project, fn)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """What ``fn`` returns, once all it wrote is durable. It may be run more than once."""
        return await self.context.store.write(self.project, fn)

    async def write_once(self, kind: type[M], fn: Callable[[Transaction], M]) -> M:
        """As ``write``, for the one write of an operation whose ``Idempotency-Key`` counts: made again, the request
        writes nothing and gets what ``fn`` returned the first time."""
        once = await self.once()
        made, _ = await self.write(lambda tx: do_once(tx, once, kind, lambda: fn(tx)))
        return made

    async def once(self) -> Once | None:
        """What the request's ``Idempotency-Key`` asks for; None where there is none."""
        if not (key := self.headers.get(b"idempotency-key")):
            return None
        if len(key) > MAX_IDEMPOTENCY_KEY:
            raise InvalidRequest(
                f"Invalid 'Idempotency-Key': at most {MAX_IDEMPOTENCY_KEY} characters are accepted.",
                code="string_above_max_length",
            )
        said = (self._scope["method"].encode(), self._scope["path"].encode(), self.version.name.encode())
        request = hashlib.sha256(b"\n".join((*said, await self.raw_body())))
        return Once(hashlib.sha256(key).hexdigest(), request.hexdigest())

    async def stream(self, max_bytes: int, *, told: TooLarge) -> AsyncGenerator[bytes, None]:
        """The body as it arrives; ``told`` is raised when it is longer than ``max_bytes``."""
        if (length := self.headers.get(b"content-length")) is not None and int(length) > max_bytes:
            raise told
        limits, clock = self.context.limits, asyncio.get_running_loop().time
        began, size = clock(), 0
        while True:
            try:
                async with asyncio.timeout(limits.body_s):
                    message = await self._receive()
            except TimeoutError:
                raise _too_slow() from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message.get("body", b"")
            size += len(piece)
            if size > max_bytes:
                raise told
            if clock() - began > limits.body_s + size / limits.least_bytes_per_s:
                raise _too_slow()
            yield piece
            if not message.get("more_body"):
                return

    async def raw_body(self) -> bytes:
        """The body, whatever it is. It may be asked for again."""
        if self._raw is None:
            self._raw = await self._read_body()
        return self._raw

    def release(self) -> None:
        """Lets go of the body: nothing asks for it any more."""
        self._raw = None
        if self._holds:
            self.context.large_bodies.give(self._holds)
            self._holds = 0

    def _hold(self, size: int) -> None:
        """Counts a body of which so much has come."""
        if size > MAX_READ_AT_ONCE:
            self.context.large_bodies.take(size - self._holds)
            self._holds = size

    async def _read_body(self) -> bytes:
        limit = self.context.limits.body_bytes
        # A length that is not a number never gets here: the parser refuses it.
        if (length := self.headers.get(b"content-length")) is not None and int(length) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self.context.limits.body_s):
                message = await self._receive()
                if message["type"] == "http.request" and not message.get("more_body"):
                    body: bytes = message["body"]
                    if len(body) > limit:
                        raise _too_large(limit)
                    return body
                pieces = bytearray()
                while True:
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    pieces += message.get("body", b"")
                    # Counted as well: a chunked body announces no length.
                    if len(pieces) > limit:
                        raise _too_large(limit)
                    self._hold(len(pieces))
                    if not message.get("more_body"):
                        return bytes(pieces)
                    message = await self._receive()
        except TimeoutError:
            raise _too_slow() from None


async def reading(raw: bytes, read: Callable[[bytes], T]) -> T:
    """What ``read`` makes of a body, however long that takes, with nobody kept waiting for it."""
    if len(raw) <= MAX_READ_AT_ONCE:
        return read(raw)
    return await asyncio.to_thread(read, raw)


def _too_slow() -> BodyTooSlow:
    return BodyTooSlow("The request's body did not arrive in time.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request body is too large: at most {limit} bytes are accepted.")
