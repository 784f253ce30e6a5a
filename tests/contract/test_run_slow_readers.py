"""Readers of a stream that do not read: they hold nobody up, and cost next to nothing."""

import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.databases import Database
from tests.support.nodes import Node, begun, node
from tests.support.stories import ScriptedModels
from threadkeep.upstream.scripted import Gate, Say

PIECES, PIECE_BYTES = 400, 20_000
TEXT_BYTES = PIECES * PIECE_BYTES


def memory_of(at: Node) -> int:
    """Resident, in bytes."""
    lines = Path(f"/proc/{at.program.process.pid}/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(kilobytes) * 1024


def join_and_read_nothing(at: Node, path: str) -> socket.socket:
    url = urlsplit(at.program.url)
    connection = socket.socket()
    # As little as the kernel takes on behalf of a client.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((url.hostname, url.port))
    connection.sendall(
        f"GET /v1{path}/stream HTTP/1.1\r\nhost: {url.netloc}\r\nauthorization: Bearer any\r\n\r\n".encode()
    )
    return connection


def test_fifty_readers_that_read_nothing_hold_nobody_up_and_cost_no_copy_of_the_stream(
    sqlite_database: Database, scripted_models: ScriptedModels
) -> None:
    model = scripted_models.new_model()
    gates = Gate(), Gate()
    piece = "x" * PIECE_BYTES
    model.says([Say("Hi"), gates[0], *(Say(piece) for _ in range(PIECES)), gates[1], Say("bye")])
    with node(sqlite_database, scripted_models) as server, ExitStack() as idle, begun(server, model) as stream:
        stream.until("thread.message.delta")
        for _ in range(50):
            idle.enter_context(join_and_read_nothing(server, stream.run_path))
        before = memory_of(server)
        gates[0].release()
        stream.until("thread.message.delta", count=PIECES)
        gates[1].release()
        stream.rest()
        grown = memory_of(server) - before

        assert stream.names()[-2:] == ["thread.run.completed", "done"]
        # The text is there a few times (the log, the message, what is stored); not once for each reader.
        assert grown < 15 * TEXT_BYTES
