"""The page of limits says what the program does."""

from pathlib import Path

import pytest

from threadkeep import logs, serving
from threadkeep.api import auth, call, edge, event_stream
from threadkeep.contract import reading, uploads
from threadkeep.runs import execution, idle_threads, line, reply, streams
from threadkeep.search import embed, parse, stores
from threadkeep.storage import blobs, engine, notices, vectors
from threadkeep.upstream import client, sse

PAGE = (Path(__file__).parents[2] / "docs/explanation/limits.md").read_text(encoding="utf-8")
KIB, MIB = 1024, 1024**2


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a kept connection nobody uses", f"{serving.IDLE_CONNECTION_S} s"),
        ("connections of clients", f"From {serving.REFUSED_CONNECTIONS} more on"),
        ("connections of clients", f"less {serving.REFUSED_CONNECTIONS}, from 16 to 10,000"),
        ("runs that wait behind", f"| {line.MAX_WAITING} |"),
        ("a thread in which nothing", f"{idle_threads._BATCH} in a transaction"),
        ("a request's first line and headers", f"{serving.MAX_HEAD_BYTES // KIB} KiB, {serving.HEAD_S:g} s"),
        ("a JSON body", f"{call.Limits().body_s:g} s"),
        ("all bodies longer than", f"{call.Limits().all_bodies_bytes // MIB} MiB"),
        ("all bodies longer than", f"{call.MAX_READ_AT_ONCE // KIB} KiB"),
        ("nesting and number of values", f"{reading.MAX_DEPTH}, {reading.MAX_VALUES:,}"),
        ("parameters of a query", f"{call.MAX_QUERY_FIELDS}"),
        ("an answer that a client does not take", f"{serving.TAKES_NOTHING_S:g} s"),
        ("a request to the store", f"{engine.MAX_WAITING:,}"),
        ("a file, a part of an upload", f"{uploads.MAX_PART_BYTES // MIB} MiB"),
        ("memory while it arrives", f"{blobs.PIECE_BYTES // MIB} MiB"),
        ("memory while it arrives", f"parts of {blobs.S3Blobs._PART_BYTES // MIB} MiB"),
        ("parts of an upload", f"{uploads.MAX_PARTS:,}"),
        ("reading a file for search", f"{parse.ParseLimits().memory_bytes // 1024**3} GiB"),
        ("files of a vector store", f"{stores.MAX_FILES:,}"),
        ("rounds of hosted tools", f"{execution.MAX_TOOL_STEPS}"),
        ("nodes that die with a run", f"{execution.MAX_DEATHS}"),
        (
            "an answer of a model server",
            f"{reply._MOST_CHARACTERS // MIB} Mi characters, {reply._MOST_PIECES:,} pieces",
        ),
        ("what waits in a connection", f"one piece of {event_stream.PIECE_BYTES // KIB} KiB"),
        ("a reader whose connection", f"{call.Limits().stalled_s:g} s; {event_stream.REST_S:g} s"),
        ("logs of runs that have ended", f"{streams.KEPT_BYTES // MIB} MiB"),
        ("what another node is sent", f"{streams.WINDOW_BYTES // KIB} KiB"),
        ("an event of a model server", f"{sse.MAX_EVENT_BYTES // MIB} MiB"),
        ("keys that were looked up", f"{auth.MAX_REMEMBERED:,}"),
        ("what model servers taught", f"{client._MOST_REMEMBERED:,}"),
        ("vectors of questions", f"{embed._KEPT_QUERIES:,}"),
        ("vectors of stores", f"{vectors.CACHED_BYTES // MIB} MiB"),
        ("notices that wait", f"{notices.MAX_WAITING_BYTES // MIB} MiB"),
        ("parts that wait", f"{notices.MAX_PARTS_BYTES // MIB} MiB"),
        ("a line", f"{logs.MAX_LINE_BYTES // KIB} KiB; a field {logs.MAX_FIELD_CHARS:,} characters"),
        ("lines that wait for a slow reader", f"{logs.MAX_WAITING_LINES:,}"),
        ("lines of refused requests", f"{edge.MAX_REFUSAL_LINES} a second"),
    ],
)
def test_the_page_says_the_bound_that_the_program_has(row: str, said: str) -> None:
    [found] = [each for each in PAGE.splitlines() if each.startswith(f"| {row}")]

    assert said in found
