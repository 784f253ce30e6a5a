"""What the clients of the chaos suite take for sent, and what not: on that stands every verdict."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.chaos.clients import Balancer, NeverSent, NoAnswer, Tally, new_session

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class Closing:
    """A server that answers the first request of a connection, and closes it at the second without a word."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (ANSWER, b""):
            head = await reader.readuntil(b"\r\n\r\n")
            self.received.append(head.decode().split(" ", 1)[0])
            writer.write(answer)
        writer.close()


@pytest_asyncio.fixture
async def closing() -> AsyncIterator[Closing]:
    closing = Closing()
    server = await asyncio.start_server(closing.serve, "127.0.0.1", 0)
    async with server:
        closing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield closing


async def test_a_request_that_got_no_answer_is_not_sent_again_behind_our_back(closing: Closing) -> None:
    async with new_session() as session:
        balancer = Balancer([closing.url], session, Tally())
        assert (await balancer.ask(closing.url, "GET", "/threads")).status == 200

        with pytest.raises(NoAnswer):
            await balancer.ask(closing.url, "DELETE", "/threads/thread_1")

    assert closing.received == ["GET", "DELETE"]


async def test_where_nobody_listens_nothing_was_sent(closing: Closing) -> None:
    async with new_session() as session:
        balancer = Balancer(["http://127.0.0.1:1"], session, Tally())

        with pytest.raises(NeverSent):
            await balancer.ask("http://127.0.0.1:1", "DELETE", "/threads/thread_1")
