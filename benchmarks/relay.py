"""CPU time of reading a model's stream, per chunk: parse and decode alone, and with the HTTP client around them.

    .venv/bin/python benchmarks/relay.py

The first figure reads chunks from memory, one chunk per read (the worst case: every delta arrives alone) and many per
read. The second counts this process only; the scripted model server runs in another.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import aclosing

import uvloop

from threadkeep.upstream.answer import AnswerReader
from threadkeep.upstream.chat import ChatRequest, UserMessage
from threadkeep.upstream.config import UpstreamConfig
from threadkeep.upstream.failures import Place
from threadkeep.upstream.scripted import Pause, Say, ScriptedUpstream, Step
from threadkeep.upstream.upstreams import Upstreams

PLACE = Place("bench", "127.0.0.1", "model", frozenset())
DELTAS = 200

OPENAI = (
    b'data: {"id":"chatcmpl-BaX0b2c3d4e5f6g7h8i9j0","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_0123456789","choices":'
    b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null,'
    b'"obfuscation":"a1b2c3d4e5"}\n\n'
)
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def parse_and_decode(chunks_per_read: int) -> float:
    """Microseconds of CPU per chunk; the best of several rounds, because the others measure the machine."""
    reads = [OPENAI * chunks_per_read] * (2000 // chunks_per_read)
    best = float("inf")
    for _ in range(20):
        answer = AnswerReader(PLACE)
        began = time.process_time()
        for read in reads:
            answer.take(read)
        best = min(best, time.process_time() - began)
        answer.take(END)
        answer.end()
    return best / 2000 * 1e6


async def relay(url: str, runs: int, at_once: int) -> tuple[float, float]:
    """Microseconds of this process's CPU per delta, the client included; and how many deltas came in one read."""
    reads = 0
    upstreams = Upstreams([UpstreamConfig(name="bench", url=url)])
    request = ChatRequest(model="m", messages=[UserMessage("hi")])

    async def one() -> None:
        nonlocal reads
        async with aclosing(upstreams.for_model("m").stream(request)) as answer:
            async for _ in answer:
                reads += 1

    async def several() -> None:
        for _ in range(runs // at_once):
            await one()

    await one()
    reads = 0
    began = time.process_time()
    await asyncio.gather(*(several() for _ in range(at_once)))
    spent = time.process_time() - began
    await upstreams.close()
    deltas = runs // at_once * at_once * DELTAS
    return spent / deltas * 1e6, deltas / reads


def serve() -> None:
    """The model server's process: answers until its standard input closes. It pauses after every delta, so that
    every delta is a read of its own."""
    steps: list[Step] = [step for _ in range(DELTAS) for step in (Say(" word"), Pause(0.002))]
    with ScriptedUpstream([steps], repeat=True) as upstream:
        print(upstream.url, flush=True)
        sys.stdin.read()


def main() -> None:
    for chunks_per_read in (1, 10):
        print(f"parse and decode, {chunks_per_read:2} a read: {parse_and_decode(chunks_per_read):5.2f} µs a chunk")
    with subprocess.Popen(
        [sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        for runs, at_once in ((16, 1), (160, 16)):
            spent, together = uvloop.run(relay(url, runs, at_once))
            print(f"with the HTTP client, {at_once:2} at once: {spent:5.1f} µs a delta ({together:.1f} deltas a read)")
        server.communicate("")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
