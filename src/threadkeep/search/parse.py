"""Files to text, in child processes: whatever a file does to a library, it happens there and to this file alone.

    bytes ─▶ unnamed temporary file ─▶ a child (`search.parser`) ─▶ frames ─▶ pieces of text

A child has limits on memory and CPU, no environment, no other file of ours, low priority, and ends with its parent. It
serves one file after another, since starting one costs more than most files do; after a failure, or when it has grown,
the next file gets a new one.
"""

import asyncio
import json
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import IO, Any, Final, Literal, Self

import msgspec

from threadkeep.contract.errors import ThreadkeepError, Unavailable
from threadkeep.logs import Log
from threadkeep.search.formats import Parser

log = Log(__name__)

ErrorCode = Literal["unsupported_file", "invalid_file", "server_error"]

_HEAD: Final = struct.Struct(">cI")
_MAX_FRAME_BYTES: Final = 1024**2
_SPOOL_BYTES: Final = 1024**2
# For a child whose pipe is closed already to be gone.
_END_S: Final = 5.0


class ParseFailed(ThreadkeepError):
    """This file has no text to search; becomes its ``last_error``. The message holds nothing of its content."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code


class ParseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one file may cost."""

    # Of a child's address space, where the system keeps such a limit (Linux does).
    memory_bytes: int = 1024**3
    # Of CPU; and as much again as the child adds for each MB of the file: see `search.parser`.
    cpu_s: float = 15.0
    # That the child may take, by the clock, not counting the time in which nobody asks for its text.
    wall_s: float = 900.0
    # Of UTF-8. Of what one file of the greatest size can hold in any encoding, so only bombs reach it.
    text_bytes: int = 2 * 1024**3
    # A child that waits so long for a file ends.
    idle_s: float = 60.0
    # After so many files, or grown to so much, a child is replaced.
    files: int = 500
    worn_bytes: int = 256 * 1024**2


class Parsers:
    """Reads files, at most ``children`` at a time; the others wait their turn."""

    def __init__(
        self, *, children: int = 1, limits: ParseLimits | None = None, spool_folder: Path | None = None
    ) -> None:
        """``spool_folder`` takes temporary files without names; without it the system's."""
        self._limits = limits or ParseLimits()
        self._spool_folder = spool_folder
        self._turns = asyncio.Semaphore(children)
        self._idle: list[_Child] = []
        self._closed = False

    async def parse(self, pieces: AsyncIterable[bytes], parser: Parser) -> AsyncGenerator[str, None]:
        """The text of the file that ``pieces`` make, piece by piece as it is read.

        `ParseFailed` may come after some of the text; `Unavailable` while the disk has no room for the file. What
        ``pieces`` raise is raised. Close it to stop early.
        """
        with self._open_spool() as spool:
            await _spool(pieces, spool)
            async with self._turns:
                child = await self._asked(spool.fileno(), parser)
                is_sound = False
                try:
                    async with aclosing(child.read()) as texts:
                        async for text in texts:
                            yield text
                    is_sound = not self._closed and not child.is_worn
                finally:
                    if is_sound:
                        self._put_back(child)
                    else:
                        await asyncio.shield(child.end())

    async def close(self) -> None:
        """Idle children are gone when this returns; one at work goes with its file."""
        self._closed = True
        idle, self._idle = self._idle, []
        for child in idle:
            await child.end()

    def _open_spool(self) -> IO[bytes]:
        try:
            return tempfile.TemporaryFile(dir=self._spool_folder, buffering=0)
        except OSError as error:
            raise Unavailable("The server has no room to read the file.") from error

    async def _asked(self, file: int, parser: Parser) -> "_Child":
        """A child that has begun to read the file."""
        while self._idle:
            child = self._idle.pop()
            if child.ask(file, parser):
                return child
            await child.end()
        try:
            child = await _Child.start(self._limits)
        except OSError as error:
            log.error("parser_not_started", error=error)
            raise ParseFailed("server_error", "The server could not start to read the file.") from error
        # If it is gone already, `read` says so.
        child.ask(file, parser)
        return child

    def _put_back(self, child: "_Child") -> None:
        self._idle.append(child)
        child.sleep(self._limits.idle_s, self._retire)

    def _retire(self, child: "_Child") -> None:
        if child in self._idle:
            self._idle.remove(child)
            child.kill()


_TOO_LONG: Final = "Reading the file takes longer than is allowed."
# How libraries in C and Rust end when there is no memory, or when a file leads them astray.
_CRASHES: Final = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGTRAP, signal.SIGFPE)


class _Child:
    """A process that reads files, one at a time."""

    def __init__(self, process: asyncio.subprocess.Process, requests: socket.socket, limits: ParseLimits) -> None:
        assert process.stdout is not None
        self._process = process
        self._frames = process.stdout
        self._requests = requests
        self._limits = limits
        self._idle: asyncio.TimerHandle | None = None
        self._files = 0
        self._memory_bytes = 0

    @classmethod
    async def start(cls, limits: ParseLimits) -> Self:
        ours, theirs = socket.socketpair()
        told = json.dumps({"parent": os.getpid(), "memory_bytes": limits.memory_bytes})
        program = Path(__file__).with_name("parser.py")
        environment = {
            "LC_ALL": "C.UTF-8",
            # Each thread would have an arena of 64 MB of address space.
            "MALLOC_ARENA_MAX": "1",
            "RAYON_NUM_THREADS": "1",
        }
        # Where some builds of Python find their own library.
        environment.update((name, os.environ[name]) for name in ("LD_LIBRARY_PATH",) if name in os.environ)
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    *("-I", "-B", "-X", "utf8", program, told),
                    stdin=theirs.fileno(),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment,
                    cwd="/",
                    # Ctrl+C in a terminal is for the server, which may want to finish what it began.
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        return cls(process, ours, limits)

    @property
    def is_worn(self) -> bool:
        """The next file should have a new one."""
        return self._files >= self._limits.files or self._memory_bytes > self._limits.worn_bytes

    def sleep(self, idle_s: float, retire: Callable[["_Child"], None]) -> None:
        """Calls ``retire`` if it is not asked for anything until then."""
        self._idle = asyncio.get_running_loop().call_later(idle_s, retire, self)

    def ask(self, file: int, parser: Parser) -> bool:
        """Whether it was there to be asked; ``read`` gives the answer."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        self._files += 1
        request = json.dumps({"parser": parser, "cpu_s": self._limits.cpu_s}).encode() + b"\n"
        try:
            # Never waits: nothing else is on its way to the child.
            socket.send_fds(self._requests, [request], [file])
        except OSError:
            return False
        return self._process.returncode is None and not self._frames.at_eof()

    def kill(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._requests.close()
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> int:
        """It is gone when this returns: the exit code."""
        # To kill one that is about to end by itself can cost its exit code.
        if not await self._ends_by_itself():
            self.kill()
            # What it said and nobody asked for keeps its pipe open, and asyncio waits for the pipe too.
            while await self._frames.read(_MAX_FRAME_BYTES):
                pass
        return await self._process.wait()

    async def _ends_by_itself(self) -> bool:
        self._requests.close()
        if not self._frames.at_eof():
            return False
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def read(self) -> AsyncGenerator[str, None]:
        """The text of the file that it was asked for; after `ParseFailed` nothing more may be asked of this child."""
        left_s = self._limits.wall_s
        left_bytes = self._limits.text_bytes
        clock = asyncio.get_running_loop().time
        while True:
            asked_at = clock()
            try:
                async with asyncio.timeout(left_s):
                    kind, payload = await self._frame()
            except TimeoutError:
                raise ParseFailed("invalid_file", _TOO_LONG) from None
            except asyncio.IncompleteReadError:
                raise await self._failure() from None
            left_s -= clock() - asked_at
            match kind:
                case b"T":
                    left_bytes -= len(payload)
                    if left_bytes < 0:
                        raise ParseFailed("invalid_file", "The file contains more text than is allowed.")
                    yield payload.decode("utf-8", "replace")
                case b"E":
                    self._memory_bytes = int(_told(payload).get("memory_bytes", 0))
                    return
                case b"F":
                    raise ParseFailed("invalid_file", str(_told(payload).get("message"))[:500])
                case _:
                    raise ParseFailed("invalid_file", _ASTRAY)

    async def _frame(self) -> tuple[bytes, bytes]:
        kind, size = _HEAD.unpack(await self._frames.readexactly(_HEAD.size))
        if size > _MAX_FRAME_BYTES:
            raise ParseFailed("invalid_file", _ASTRAY)
        return kind, await self._frames.readexactly(size)

    async def _failure(self) -> ParseFailed:
        """Why it ended without a word."""
        code = await self.end()
        log.warning("parser_ended", exit_code=code)
        if -code == signal.SIGXCPU:
            return ParseFailed("invalid_file", _TOO_LONG)
        if -code in _CRASHES:
            return ParseFailed("invalid_file", _ASTRAY)
        return ParseFailed("server_error", "The server failed to read the file. Please try again.")


_ASTRAY: Final = "The file is damaged, or takes more memory to read than is allowed."


def _told(payload: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(payload, type=dict[str, Any])
    except msgspec.DecodeError:
        return {}


async def _spool(pieces: AsyncIterable[bytes], spool: IO[bytes]) -> None:
    waiting: list[bytes] = []
    size = 0
    async for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _SPOOL_BYTES:
            await asyncio.to_thread(_write, spool, b"".join(waiting))
            waiting, size = [], 0
    await asyncio.to_thread(_write, spool, b"".join(waiting))


def _write(spool: IO[bytes], content: bytes) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[spool.write(left) :]
    except OSError as error:
        raise Unavailable("The server has no room to read the file.") from error
