"""Reads a file as ingestion does: bytes in pieces, text in pieces."""

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from threadkeep.search.formats import Parser
from threadkeep.search.parse import Parsers


async def in_pieces(content: bytes, size: int = 1024**2) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def repeated(piece: bytes, count: int) -> AsyncGenerator[bytes, None]:
    """A file too large to be held."""
    for _ in range(count):
        yield piece


async def text_of(parsers: Parsers, content: bytes, parser: Parser) -> str:
    async with aclosing(parsers.parse(in_pieces(content), parser)) as texts:
        return "".join([text async for text in texts])


def children() -> list[int]:
    """Processes that this one started to read files and that have not ended."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            command = status.with_name("cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields["PPid"] == str(os.getpid()) and b"search/parser.py" in command:
            found.append(int(status.parent.name))
    return found


def peak_memory_bytes(child: int) -> int:
    """The most that a process ever held."""
    (line,) = [line for line in Path(f"/proc/{child}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
