"""A model server that costs next to nothing, so that a benchmark measures what stands in front of it.

    .venv/bin/python benchmarks/model_server.py [--port PORT]

It speaks as much of Chat Completions as a benchmark needs: every answer is streamed, is ``w0 w1 w2 …``, one word an
event, and is always the same, so that a reader can check that no word was lost, doubled or moved. The model's name
says what to do: ``words-200`` answers with 200 words in one piece, ``words-200-20ms`` sends one every 20 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from functools import cache
from typing import cast

import uvloop

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
MODEL = re.compile(r"words-(\d+)(?:-(\d+)ms)?")
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def expected(words: int) -> str:
    """The text of an answer."""
    return " ".join(f"w{number}" for number in range(words))


def _event(data: bytes) -> bytes:
    """One event in a chunk of its own, as real model servers send them."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _chunk(**fields: object) -> bytes:
    whole = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1760000000, **fields}
    return _event(json.dumps(whole, separators=(",", ":")).encode())


@cache
def _answer(model: str, words: int) -> tuple[bytes, ...]:
    """An event for each word, and what ends the answer as the last piece."""

    def choice(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]
        return _chunk(model=model, choices=choices, usage=None)

    texts = [f"w{number}" if number == 0 else f" w{number}" for number in range(words)]
    events = [choice({"content": text}) for text in texts]
    events[0] = choice({"role": "assistant", "content": ""}) + events[0]
    usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
    end = choice({}, "stop") + _chunk(model=model, choices=[], usage=usage) + _event(b"[DONE]") + b"0\r\n\r\n"
    return (*events, end)


class Connection(asyncio.Protocol):
    """HTTP/1.1 with kept connections; bodies have a length; one request at a time."""

    def __init__(self) -> None:
        self._read = b""
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in deed and not in name.
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._read += data
        self._take()

    def _take(self) -> None:
        while not self._answering:
            head, end, rest = self._read.partition(b"\r\n\r\n")
            length = int(found[1]) if (found := LENGTH.search(head)) else 0
            if not end or len(rest) < length:
                return
            body, self._read = rest[:length], rest[length:]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if not path.endswith(b"/chat/completions"):
            models = b'{"object":"list","data":[]}'
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
            self._transport.write(head % len(models) + models)
            return
        model: str = json.loads(body)["model"]
        asked = MODEL.fullmatch(model)
        words, pause_ms = (int(asked[1]), int(asked[2] or 0)) if asked else (200, 0)
        pieces = _answer(model, words)
        if not pause_ms:
            self._transport.write(HEAD + b"".join(pieces))
            return
        self._answering = True
        self._transport.write(HEAD)
        self._send(pieces, 0, pause_ms / 1000, self._loop.time())

    def _send(self, pieces: tuple[bytes, ...], number: int, pause_s: float, began: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(pieces[number])
        number += 1
        if number < len(pieces):
            # By the clock and not by the last one: lateness does not add up.
            self._loop.call_at(began + number * pause_s, self._send, pieces, number, pause_s, began)
        else:
            self._answering = False
            self._take()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A model server that costs next to nothing.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    uvloop.run(serve(parser.parse_args().port))
