"""What it costs to have Threadkeep between an application and its model server when requests only go through.

    .venv/bin/python benchmarks/passthrough.py [--rounds 200]

Streams the same answers from the fake model server directly and through the server, by turns. Two figures: how much
later the first byte of an answer comes, one stream at a time; and how much CPU time of the server's process goes into
one chunk, sixteen streams at a time, where every chunk comes alone. Every answer is held against the direct one.

The sparser the chunks, the dearer each: the processor wakes up for it and finds its caches cold. Of each figure, 10 to
15 µs are the kernel's, for a bare relay of TCP on the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import uvloop

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

from benchmarks.bench import (  # noqa: E402 - found by the line above
    Connection,
    Watched,
    WrongAnswer,
    measured,
    model_server,
    threadkeep,
    unchunked,
)

WORDS = 200
AT_ONCE = 16
PAUSES_MS = (2, 5, 20)
# The first chunk has the first word, and the last one brings the finish reason, the usage and [DONE] along.
CHUNKS = WORDS + 1


async def stream(connection: Connection, model: str) -> tuple[float, bytes]:
    """How long the first byte of the body took, and the body."""
    began = time.perf_counter()
    pieces = await connection.stream(
        "/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    )
    return pieces[0].at - began, unchunked(pieces)


async def first_bytes(direct_url: str, through_url: str, rounds: int) -> None:
    model = "words-1-1ms"
    async with Connection(direct_url) as direct, Connection(through_url) as through:
        _, expected = await stream(direct, model)
        times: dict[Connection, list[float]] = {direct: [], through: []}
        for number in range(rounds + 10):
            for connection in (direct, through):
                taken, body = await stream(connection, model)
                if body != expected:
                    raise WrongAnswer(body.decode())
                if number >= 10:
                    times[connection].append(taken)
    shown = [statistics.quantiles(times[connection], n=20) for connection in (direct, through)]
    for name, at in (("median", 9), ("p95", 18)):
        before, after = shown[0][at] * 1000, shown[1][at] * 1000
        print(
            f"first byte, 1 at a time, {name:6}: {before:6.2f} ms direct, {after:6.2f} ms through, "
            f"{after - before:+.2f} ms"
        )


async def chunks(direct_url: str, through_url: str, process: int, rounds: int, pause_ms: int) -> None:
    model = f"words-{WORDS}-{pause_ms}ms"
    async with Connection(direct_url) as direct:
        _, expected = await stream(direct, model)

    async def one(_: int) -> None:
        async with Connection(through_url) as through:
            _, body = await stream(through, model)
        if body != expected:
            raise WrongAnswer(body.decode())

    await measured(None, AT_ONCE, AT_ONCE, one)
    figures = await measured(Watched(process, None), AT_ONCE, max(rounds // 2, AT_ONCE), one)
    count = len(figures.times) * CHUNKS
    print(
        f"CPU, {AT_ONCE} at a time, a chunk every {pause_ms:2} ms in each: "
        f"{figures.server_cpu_s / count * 1e6:5.1f} µs a chunk"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What passing through costs.")
    parser.add_argument("--rounds", type=int, default=200)
    rounds: int = parser.parse_args().rounds
    with (
        tempfile.TemporaryDirectory() as folder,
        model_server() as model_url,
        threadkeep(model_url, Path(folder), None) as (url, process),
    ):
        uvloop.run(first_bytes(model_url, url, rounds))
        for pause_ms in PAUSES_MS:
            uvloop.run(chunks(model_url, url, process, rounds, pause_ms))


if __name__ == "__main__":
    main()
