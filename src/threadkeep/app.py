"""The composition root: the one place that knows which concrete parts make a server, and in which order they stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from starlette.types import ASGIApp

from threadkeep import __version__, api
from threadkeep.files import contents, files, uploads
from threadkeep.logs import Log
from threadkeep.metrics import STREAMS, Gauge, Lag, of_process
from threadkeep.runs.execution import Execution
from threadkeep.runs.follow import KIND
from threadkeep.runs.idle_threads import KIND as IDLE_THREADS
from threadkeep.runs.idle_threads import IdleThreads
from threadkeep.runs.lifecycle import Runs
from threadkeep.runs.outcomes import OutcomeExpiry
from threadkeep.runs.streams import Streams
from threadkeep.sandbox.bubblewrap import Bubblewrap
from threadkeep.sandbox.environment import Environment, Installation
from threadkeep.sandbox.selftest import Off, Tier
from threadkeep.sandbox.sessions import Sessions, State, machine_bytes, room
from threadkeep.search.embed import Embedder
from threadkeep.search.ingest import Ingestion
from threadkeep.search.parse import Parsers
from threadkeep.search.query import Search
from threadkeep.search.rerank import Reranker
from threadkeep.serving import Bounds, HttpServer, default_connections
from threadkeep.settings import Settings
from threadkeep.storage import DEFAULT_PROJECT_ID, Notices, Store, open_blobs, open_notices, open_store
from threadkeep.storage.notices import Alone
from threadkeep.storage.outcomes import OUTCOME
from threadkeep.tools.code_interpreter import CodeInterpreter
from threadkeep.tools.file_search import FileSearch
from threadkeep.tools.toolbox import Tools
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.retrieval import EmbeddingServer, RerankServer
from threadkeep.upstream.upstreams import Upstreams
from threadkeep.worker import Handle, Lanes, Worker, new_node

log = Log(__name__)

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
    # Set when the server was told to stop.
    stopping: asyncio.Event

    @property
    def sandbox_state(self) -> State:
        """Whether code can run; an installation that has only just begun is known."""
        return Off(*self.installation.absence()) if self.installation.is_at_work else self.sandbox.state

    # The three steps of a stop: see `serving.Node`.

    def retire(self) -> None:
        """Says that requests should go elsewhere; those that come all the same are answered as ever."""
        log.info("draining")
        self.stopping.set()

    async def drain(self, grace_s: float) -> None:
        """Takes no new work, lets runs end within the grace period, and hands the rest over."""
        # What is ingested goes on elsewhere at once, at hardly any loss.
        await asyncio.gather(self.worker.drain(grace_s), self.ingester.drain(0))
        if isinstance(self.notices, Alone):
            # What is left is nobody's until the next start: its readers would wait for nothing.
            await self.runs.close()

    async def let_go(self) -> None:
        """Ends the streams of runs that go on elsewhere; their readers are told where."""
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
        lag = Lag()
        parts.callback(lag.close)
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
        streams = Streams(store, notices, retention_s=settings.stream_retention)
        parts.push_async_callback(streams.close)
        execution = Execution(store, upstreams, bytes_of_files, tools, streams, lease_s=settings.lease_seconds)
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
            notices=notices,
            node=notices.node,
            max_concurrent=settings.max_concurrent_runs,
            lease_s=settings.lease_seconds,
            lanes=Lanes({upstream.name: upstream.config.max_concurrent for upstream in upstreams.configured}),
        )
        on_thread_deleted = _on_thread_deleted(notices, worker, sandbox)
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
        in_background: dict[str, Handle] = {}
        if settings.thread_ttl_days is not None:
            idle_threads = IdleThreads(store, ttl_s=settings.thread_ttl_days * 86_400, on_deleted=on_thread_deleted)
            await idle_threads.start()
            in_background[IDLE_THREADS] = idle_threads.handle
        ingester = Worker(
            store,
            {**ingestion.handlers, **in_background},
            notices=notices,
            node=f"{notices.node}-files",
            max_concurrent=settings.max_concurrent_files,
            lease_s=settings.lease_seconds,
        )
        ingestion.use(ingester)
        runs = Runs(
            store, worker, streams, run_expires_s=settings.run_expires_seconds, lane_of=upstreams.configured_name
        )
        parts.push_async_callback(runs.close)
        stopping = asyncio.Event()
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
                api.accepting(stopping.is_set),
                api.HealthPart("database", lambda: store.read(None, lambda tx: tx.keys.any())),
                api.HealthPart("blobs", bytes_of_files.check),
                api.upstreams(lambda: upstreams.troubles),
                api.code_interpreter(lambda: sandbox.state, is_needed=settings.code_interpreter == "on"),
            ],
            gauges=_gauges(store, upstreams, worker, ingester, sandbox, lag),
            limits=api.Limits(
                body_bytes=settings.max_request_bytes,
                file_bytes=settings.max_file_bytes,
                keep_alive_s=settings.keep_alive_seconds,
            ),
            refuses_assistants_downloads=settings.assistants_downloads == "refuse",
            on_thread_deleted=on_thread_deleted,
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
            stopping,
        )


def _on_thread_deleted(notices: Notices, worker: Worker, sandbox: Sessions) -> Callable[[str, str], None]:
    """What is called with the project and the thread that was deleted: what goes on for it ends, on every node."""

    def end_here(project: str, thread_id: str) -> None:
        worker.doubt(thread_id)
        sandbox.end(project, thread_id)

    def end_everywhere(project: str, thread_id: str) -> None:
        end_here(project, thread_id)
        notices.tell("thread.deleted", thread_id, project)

    notices.on("thread.deleted", lambda _node, thread_id, project: end_here(project, thread_id))
    return end_everywhere


def _gauges(
    store: Store, upstreams: Upstreams, worker: Worker, ingester: Worker, sandbox: Sessions, lag: Lag
) -> list[Gauge]:
    return [
        Gauge("threadkeep_info", "What runs.", lambda: {(__version__,): 1}, labels=("version",)),
        Gauge(
            "threadkeep_runs_held", "Runs that this node executes, and small work beside them.", lambda: worker.count
        ),
        Gauge(
            "threadkeep_runs_waiting",
            "Runs that are due and that no node executes, of the whole database: every node says the same.",
            lambda: store.read(None, lambda tx: tx.work.waiting(KIND)),
        ),
        Gauge(
            "threadkeep_upstream_runs_held",
            "Runs that this node executes, by the upstream that answers them.",
            lambda: {(lane,): count for lane, count in worker.lanes.held.items()},
            labels=("upstream",),
        ),
        Gauge(
            "threadkeep_upstream_attempts_total",
            "Requests that runs sent to upstreams, each repetition counted: answered, refused, limited (429), failed "
            "(5xx), unreachable, silent, cut; spared were not sent.",
            lambda: {
                (upstream.name, outcome): count
                for upstream in upstreams.configured
                for outcome, count in upstream.outcomes.items()
            },
            labels=("upstream", "outcome"),
            kind="counter",
        ),
        Gauge(
            "threadkeep_upstream_left_alone",
            "Whether the upstream, or some of its models, are not asked for the moment because they fail.",
            lambda: {(upstream.name,): bool(upstream.troubles) for upstream in upstreams.configured},
            labels=("upstream",),
        ),
        Gauge(
            "threadkeep_files_held",
            "Files that this node takes in, and small work beside them.",
            lambda: ingester.count,
        ),
        Gauge("threadkeep_streams_open", "Streams that are being sent.", lambda: STREAMS.now),
        Gauge(
            "threadkeep_sandbox_sessions", "Threads that have a session of the code interpreter.", lambda: sandbox.count
        ),
        Gauge(
            "threadkeep_event_loop_lag_seconds",
            "How late the process came at worst to something due, in the last 15 to 30 seconds.",
            lambda: lag.worst,
        ),
        *of_process(),
    ]


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


async def serve(server: Server, settings: Settings, listener: socket.socket, on_ready: Callable[[], object]) -> None:
    """Answers requests on the bound ``listener`` until SIGTERM or SIGINT, then drains. ``on_ready``: it accepts."""
    most = settings.max_connections
    bounds = Bounds(
        connections=default_connections() if most is None else most,
        drain_delay_s=settings.drain_delay_seconds,
        grace_s=settings.grace_seconds,
    )
    await HttpServer(server.app, server, bounds, on_ready=on_ready).serve(sockets=[listener])
