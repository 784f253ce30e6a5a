"""A load balancer: it picks nodes that say they are ready, and does no more for a request than real ones do.

As nginx and HAProxy by default it keeps connections to its nodes, sends a request again to another node when the
connection was refused, and one that is idempotent also when the connection ended before the first byte of an answer.
Any other request that goes wrong is the client's, with 502.
"""

import asyncio
import contextlib
import threading
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

IDEMPOTENT = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
PIECE = 65_536
PATIENCE_S = 60.0


class Head(NamedTuple):
    """The first line and the fields of a request or an answer."""

    first: str
    fields: list[tuple[str, str]]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key.lower() == name), None)

    def encoded(self, **fields: str) -> bytes:
        """With ``connection`` left out: that is each connection's own affair."""
        kept = [(name, value) for name, value in self.fields if name.lower() != "connection"]
        lines = [self.first, *(f"{name}: {value}" for name, value in (*kept, *fields.items()))]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Kept(NamedTuple):
    """A connection to a node."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class NoAnswer(Exception):
    """The connection ended before the first byte of an answer."""


class Balancer:
    """Of the nodes at the ``urls``, which may change while it works. `balancing` starts one."""

    def __init__(self, *, check_s: float) -> None:
        self.urls: list[str] = []
        self.url = ""
        # Answers by status, and what else happened, by what it was.
        self.counts: Counter[str] = Counter()
        # By node.
        self.answered: Counter[str] = Counter()
        self._check_s = check_s
        self._ready: list[str] = []
        self._turn = 0
        self._kept: dict[str, deque[Kept]] = {}
        self._changed = threading.Condition()

    def until_ready(self, *urls: str) -> None:
        """Waits until exactly these nodes are."""
        with self._changed:
            assert self._changed.wait_for(lambda: sorted(self._ready) == sorted(urls), PATIENCE_S), self._ready

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=PIECE, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        checking = asyncio.create_task(self._check())
        started.set()
        await stop.wait()
        server.close()
        checking.cancel()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for each in (each for kept in self._kept.values() for each in kept):
            each.writer.close()

    async def _check(self) -> None:
        while True:
            asked = list(self.urls)
            found = await asyncio.gather(*(self._is_ready(url) for url in asked))
            with self._changed:
                self._ready = [url for url, is_ready in zip(asked, found, strict=True) if is_ready]
                self._changed.notify_all()
            await asyncio.sleep(self._check_s)

    async def _is_ready(self, url: str) -> bool:
        try:
            async with asyncio.timeout(5):
                node = await self._connect(url)
                node.writer.write(b"GET /health/ready HTTP/1.1\r\nhost: balancer\r\nconnection: close\r\n\r\n")
                answer = await node.reader.readline()
                node.writer.close()
                return b" 200 " in answer
        except (OSError, TimeoutError):
            return False

    async def _connect(self, url: str) -> Kept:
        parts = urlsplit(url)
        return Kept(*await asyncio.open_connection(parts.hostname, parts.port, limit=PIECE))

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _head(reader)) is not None:
                body = await reader.readexactly(int(request.get("content-length") or 0))
                await self._pass_on(request, body, writer)
        except (OSError, asyncio.IncompleteReadError):
            self.counts["client gone"] += 1
        finally:
            writer.close()

    async def _pass_on(self, request: Head, body: bytes, client: asyncio.StreamWriter) -> None:
        is_idempotent = request.first.split()[0] in IDEMPOTENT
        tried: set[str] = set()
        while candidates := [url for url in self._ready if url not in tried]:
            self._turn += 1
            url = candidates[self._turn % len(candidates)]
            try:
                node = self._take(url) or await self._connect(url)
            except OSError:
                self.counts["refused"] += 1
                tried.add(url)
                continue
            try:
                await self._exchange(url, node, request, body, client)
                return
            except NoAnswer:
                node.writer.close()
                tried.add(url)
                self.counts["no answer"] += 1
                if not is_idempotent:
                    break
        self.counts["502"] += 1
        client.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
        await client.drain()

    def _take(self, url: str) -> Kept | None:
        kept = self._kept.get(url, deque())
        while kept:
            node = kept.pop()
            # As nginx does: one that the node has closed meanwhile is no connection any more.
            if not node.reader.at_eof() and node.reader.exception() is None:
                return node
            node.writer.close()
        return None

    async def _exchange(self, url: str, node: Kept, request: Head, body: bytes, client: asyncio.StreamWriter) -> None:
        try:
            node.writer.write(request.encoded() + body)
            await node.writer.drain()
            answer = await _head(node.reader)
        except (OSError, asyncio.IncompleteReadError):
            answer = None
        if answer is None:
            raise NoAnswer
        self.counts[answer.first.split()[1]] += 1
        self.answered[url] += 1
        client.write(answer.encoded())
        is_chunked = (answer.get("transfer-encoding") or "").lower() == "chunked"
        try:
            if is_chunked:
                await _pass_chunks(node.reader, client)
            elif not request.first.startswith("HEAD "):
                client.write(await node.reader.readexactly(int(answer.get("content-length") or 0)))
            await client.drain()
        except (OSError, asyncio.IncompleteReadError):
            self.counts["cut"] += 1
            node.writer.close()
            raise
        if (answer.get("connection") or "").lower() == "close":
            node.writer.close()
        else:
            self._kept.setdefault(url, deque()).append(node)


async def _head(reader: asyncio.StreamReader) -> Head | None:
    """None: the connection ended instead, in order."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    first, *lines = raw.decode("latin-1").split("\r\n")[:-2]
    return Head(first, [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])


async def _pass_chunks(reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        client.write(line + await reader.readexactly(size + 2))
        await client.drain()
        if not size:
            return


@contextmanager
def balancing(*, check_s: float = 0.05) -> Generator[Balancer, None, None]:
    """A balancer that looks after its nodes every ``check_s``, in a thread of its own."""
    balancer, started, stop = Balancer(check_s=check_s), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    def main() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(balancer.serve(started, stop))

    thread = threading.Thread(target=main, name="balancer", daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield balancer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE_S)
