"""The composition root: the one place that knows which concrete parts make a server, and in which order they stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from threadkeep import __version__, api
from threadkeep.files import contents, files, uploads
from threadkeep.logs import Log
from threadkeep.runs.execution import KIND, Execution
from threadkeep.runs.lifecycle import Runs
from threadkeep.runs.outcomes import OutcomeExpiry
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import Environment, Installation
from threadkeep.sandbox.selftest import Off, Tier
from threadkeep.sandbox.sessions import Sessions, State, machine_bytes, room
from threadkeep.search.embed import Embedder
from threadkeep.search.ingest import Ingestion
from threadkeep.search.parse import Parsers
from threadkeep.search.query import Search
from threadkeep.search.rerank import Reranker
from threadkeep.settings import Settings
from threadkeep.storage import DEFAULT_PROJECT_ID, Notices, Store, open_blobs, open_notices, open_store
from threadkeep.storage.outcomes import OUTCOME
from threadkeep.tools.code_interpreter import CodeInterpreter
from threadkeep.tools.file_search import FileSearch
from threadkeep.tools.toolbox import Tools
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.retrieval import EmbeddingServer, RerankServer
from threadkeep.upstream.upstreams import Upstreams
from threadkeep.worker import Worker, new_node

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
# Between the end of the grace period and the end of the last connections.
LAST_WORDS_S = 5
SWITCHED_OFF = Off("it is switched off", "Start the server with --code-interpreter auto.")


class Server(NamedTuple):
    """The started parts of one node. ``app`` answers requests."""

    store: Store
    notices: Notices
    upstreams: Upstreams
    worker: Worker
    # Of its own: no file ever takes the place of a run.
    ingester: Worker
    runs: Runs
    contents: contents.Contents
    uploads: uploads.Uploads
    sandbox: Sessions
    # Of the environment that code runs in; at work when it was missing and the settings say so.
    installation: Installation
    ingestion: Ingestion
    search: Search
    app: ASGIApp

    @property
    def sandbox_state(self) -> State:
        """Whether code can run; an installation that has only just begun is known."""
        return Off(*self.installation.absence()) if self.installation.is_at_work else self.sandbox.state

    async def drain(self, grace_s: float) -> None:
        """Takes no new work, lets runs end within the grace period, hands the rest over, and lets their readers go."""
        log.info("draining", grace_s=grace_s)
        # What is ingested goes on elsewhere at once, at hardly any loss.
        await asyncio.gather(self.worker.drain(grace_s), self.ingester.drain(0))
        await self.runs.close()


def tier_of(settings: Settings, environment: Environment) -> Tier:
    """What isolates code, as the settings have it."""
    return Bubblewrap(environment, settings.limits)


def sessions_of(settings: Settings, installation: Installation, tell: Callable[[State], None]) -> Sessions:
    """Where code runs, not yet started. What the settings leave open follows from the machine's memory."""
    there = room(machine_bytes())
    return Sessions(
        lambda environment: tier_of(settings, environment),
        settings.environment_place,
        settings.sandbox_packages,
        settings.limits,
        pool=there.pool if settings.sandbox_pool is None else settings.sandbox_pool,
        maximum=there.sessions if settings.sandbox_sessions is None else settings.sandbox_sessions,
        total_bytes=there.total_bytes,
        absence=installation.absence,
        tell=tell,
    )


@asynccontextmanager
async def open_server(
    settings: Settings,
    *,
    takes_any_key: bool,
    on_sandbox: Callable[[State], None] = lambda state: None,
    on_installation: Callable[[str], None] = lambda line: None,
) -> AsyncGenerator[Server, None]:
    """The server, for as long as the context lasts; ``takes_any_key``: while no key was ever made, every key is good.

    ``on_sandbox`` is told whenever code begins or ceases to run, ``on_installation`` how far its environment is.
    Each part stops before those it stands on: the work first, then the ways to the models, the database last.
    """
    async with AsyncExitStack() as parts:
        store = await open_store(settings.database_url, settings.data_dir, connections=settings.database_connections)
        parts.push_async_callback(store.close)
        notices = open_notices(settings.database_url, new_node())
        parts.push_async_callback(notices.close)
        blobs = await open_blobs(settings.blobs_url, settings.data_dir)
        parts.push_async_callback(blobs.close)
        upstreams = Upstreams(settings.upstreams, user_agent=f"threadkeep/{__version__}")
        parts.push_async_callback(upstreams.close)
        bytes_of_files = contents.Contents(store, blobs)
        installation = Installation(settings.environment_place, settings.sandbox_packages, on_installation)
        parts.push_async_callback(installation.close)
        sandbox = sessions_of(settings, installation, on_sandbox)
        parts.push_async_callback(sandbox.close)
        if settings.code_interpreter == "off":
            sandbox.stay_off(SWITCHED_OFF)
        else:
            if settings.sandbox_install:
                installation.start()
            sandbox.start()
        embedder = _embedder(settings, store, upstreams)
        search = Search(store, embedder, _reranker(settings, upstreams))
        tools = Tools(
            code_interpreter=CodeInterpreter(sandbox, store, bytes_of_files, settings.limits),
            file_search=FileSearch(store, search),
        )
        execution = Execution(store, upstreams, bytes_of_files, tools, lease_s=settings.lease_seconds)
        verbs_of_uploads = uploads.Uploads(store, bytes_of_files)
        worker = Worker(
            store,
            {
                KIND: execution.handle,
                contents.BLOB: bytes_of_files.handle,
                files.FILE: files.Expiry(store).handle,
                uploads.UPLOAD: verbs_of_uploads.handle,
                OUTCOME: OutcomeExpiry(store).handle,
            },
            node=notices.node,
            max_concurrent=settings.max_concurrent_runs,
            lease_s=settings.lease_seconds,
        )
        parsers = Parsers(children=settings.max_concurrent_files, spool_folder=settings.data_dir)
        parts.push_async_callback(parsers.close)
        ingestion = Ingestion(
            store,
            bytes_of_files,
            parsers,
            lease_s=settings.lease_seconds,
            max_file_tokens=settings.max_file_tokens,
            embed=embedder,
        )
        ingester = Worker(
            store,
            ingestion.handlers,
            node=f"{notices.node}-files",
            max_concurrent=settings.max_concurrent_files,
            lease_s=settings.lease_seconds,
        )
        ingestion.use(ingester)
        runs = Runs(store, worker, execution, run_expires_s=settings.run_expires_seconds)
        parts.push_async_callback(runs.close)
        context = api.Context(
            store=store,
            runs=runs,
            contents=bytes_of_files,
            uploads=verbs_of_uploads,
            ingestion=ingestion,
            search=search,
            upstreams=upstreams,
            authenticate=api.Authenticator(store, open_project=DEFAULT_PROJECT_ID if takes_any_key else None),
            version=__version__,
            strict_beta=settings.strict_beta,
            cors_origins=settings.cors_origins,
            health=[
                api.HealthPart("database", lambda: store.read(None, lambda tx: tx.keys.any())),
                api.HealthPart("blobs", bytes_of_files.check),
                api.code_interpreter(lambda: sandbox.state, is_needed=settings.code_interpreter == "on"),
            ],
            limits=api.Limits(
                body_bytes=settings.max_request_bytes,
                file_bytes=settings.max_file_bytes,
                keep_alive_s=settings.keep_alive_seconds,
            ),
            refuses_assistants_downloads=settings.assistants_downloads == "refuse",
            on_thread_deleted=sandbox.end,
        )
        worker.start()
        ingester.start()
        # Whoever serves has drained by then; this is for a server that never came to serve.
        parts.push_async_callback(worker.drain, 0)
        parts.push_async_callback(ingester.drain, 0)
        if embedder is not None:
            embedder.start(ingester.wake)
            parts.push_async_callback(embedder.close)
        yield Server(
            store,
            notices,
            upstreams,
            worker,
            ingester,
            runs,
            bytes_of_files,
            verbs_of_uploads,
            sandbox,
            installation,
            ingestion,
            search,
            api.build(context),
        )


def _embedder(settings: Settings, store: Store, upstreams: Upstreams) -> Embedder | None:
    if (model := settings.embedding_model) is None:
        return None
    if settings.embedding_url is None:
        server = upstreams.configured_for(model)
        # `read_settings` has seen to it that there is one.
        assert server is not None
    else:
        config = UpstreamConfig(name="embeddings", url=settings.embedding_url, api_key=settings.embedding_api_key)
        server = upstreams.server(config)
    return Embedder(store, EmbeddingServer(server), model, dimensions=settings.embedding_dimensions)


def _reranker(settings: Settings, upstreams: Upstreams) -> Reranker | None:
    if settings.rerank_url is None:
        return None
    server = upstreams.server(UpstreamConfig(name="rerank", url=settings.rerank_url, api_key=settings.rerank_api_key))
    return Reranker(RerankServer(server, settings.rerank_model))


# --- HTTP


async def serve(server: Server, settings: Settings, listener: socket.socket, on_ready: Callable[[], object]) -> None:
    """Answers requests on the bound ``listener`` until SIGTERM or SIGINT, then drains. ``on_ready``: it accepts."""
    config = uvicorn.Config(
        server.app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=IDLE_CONNECTION_S,
        timeout_graceful_shutdown=settings.grace_seconds + LAST_WORDS_S,
    )

    http = HttpServer(config, on_ready=on_ready, drain=lambda: server.drain(settings.grace_seconds))
    await http.serve(sockets=[listener])


class HttpServer(uvicorn.Server):
    """uvicorn's; told to stop, it drains while connections end, and then returns."""

    def __init__(
        self, config: uvicorn.Config, *, on_ready: Callable[[], object], drain: Callable[[], Awaitable[object]]
    ) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._drain = drain

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
        # Both at once: streams end because the runs that they follow end or are handed over.
        await asyncio.gather(self._drain(), super().shutdown(sockets))

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """uvicorn's raises the signal again in the end; to us a stop that was asked for is a success."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, with bounds on a request's head, in bytes and in time, and with refusals in the contract's envelope.

    uvicorn itself keeps what a client sends as its head, however long it is, for as long as the client likes.
    """

    _head_bytes = 0
    # How many heads have ended on this connection.
    _heads = 0
    _is_in_head = True
    _head_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        connection: socket.socket | None = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            milliseconds = int(TAKES_NOTHING_S * 1000)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_of_head()
        self._end_of_body()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
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

    def on_header(self, name: bytes, value: bytes) -> None:
        # What comes behind a chunked body in the form of headers is none: uvicorn would take it for some, whatever a
        # proxy thought of it, and keep it however much it is.
        if self._is_in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._heads += 1
        self._end_of_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._is_in_head = True
        self._end_of_body()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)

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
        error: dict[str, Any] = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = msgspec.json.encode({"error": error})
        head = (
            f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: req_{os.urandom(16).hex()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
