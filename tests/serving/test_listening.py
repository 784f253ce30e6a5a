"""Connections at the moment in which the server ceases to listen."""

import asyncio
import socket

from starlette.types import Receive, Scope, Send

from threadkeep.serving import Bounds, HttpServer

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


class NothingBehind:
    def retire(self) -> None:
        self.is_retired = True

    async def drain(self, grace_s: float) -> None: ...

    async def let_go(self) -> None: ...


async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_a_connection_that_was_made_and_not_yet_taken_is_answered() -> None:
    ready = asyncio.Event()
    http = HttpServer(hello, NothingBehind(), Bounds(connections=10, grace_s=30), on_ready=ready.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = listener.getsockname()
        serving = asyncio.create_task(http._serve([listener]))
        await ready.wait()
        # In one turn of the loop: the kernel makes the connection, and nobody takes it before the listener is closed.
        with socket.create_connection(place) as waiting:
            waiting.sendall(REQUEST)
            await http._stop_listening([listener])
            waiting.setblocking(False)
            answer = b""
            async with asyncio.timeout(60):
                while not answer.endswith(b"hello"):
                    answer += await asyncio.get_running_loop().sock_recv(waiting, 65536)
        serving.cancel()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
