"""The server's side of one box. Whatever comes out of a box may be the work of the code that runs in it.

A frame is refused by its header, before its bytes are read; what is no answer to what was asked, is too much, or does
not come in time ends the box for good. Text is cleaned, pictures are not decoded, paths are data and never opened here.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final, Literal, NamedTuple

import msgspec

from threadkeep.contract.errors import ThreadkeepError
from threadkeep.sandbox import inside
from threadkeep.sandbox.limits import Limits

How = Literal["ok", "error", "timeout", "died"]


class Logs(NamedTuple):
    """What the code printed, its last expression and its tracebacks, in the order of their writing."""

    text: str


class Picture(NamedTuple):
    media_type: str
    content: bytes


Output = Logs | Picture


class Ended(NamedTuple):
    # error: a traceback was among the logs. timeout: it was stopped at a limit of time. died: the process went.
    how: How
    # For the model; None when there is nothing that the logs do not say.
    note: str | None


class SeenFile(NamedTuple):
    # Relative to /mnt/data.
    path: str
    size: int
    mtime_ns: int
    inode: int


class BoxFailed(ThreadkeepError):
    """The box is dead, or did what no box does. It is never used again."""


class FileRefused(ThreadkeepError):
    """The box could not do this with a file, and goes on: no room, no such file, or it changed meanwhile."""


class _Ending(msgspec.Struct, frozen=True):
    how: Literal["ok", "error", "died"]
    why: Literal["cpu", "inodes", "broken"] | None
    status: int
    cut_bytes: int


_MAGIC: Final = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
# Beyond what is shown: frames cost time, whatever is in them.
_MOST_FRAMES: Final = 20_000
_KILLED: Final = "variables are lost, files are kept"
_read_ending = msgspec.json.Decoder(_Ending).decode
_read_files = msgspec.json.Decoder(list[tuple[str, int, int, int]]).decode


class _Text:
    """Makes text of bytes that come in pieces: no escape sequences of terminals, no NUL, nothing that is no Unicode."""

    _ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
    _BEGUN = re.compile(r"\x1b(?:\[[0-?]{0,40}[ -/]{0,10}|\][^\x07\x1b]{0,200}\x1b?)?\Z")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, some: bytes, *, final: bool = False) -> str:
        text = self._held + self._decoder.decode(some, final)
        self._held = ""
        if "\x1b" in text:
            text = self._ESCAPE.sub("", text)
            if not final and (begun := self._BEGUN.search(text)) is not None:
                self._held, text = text[begun.start() :], text[: begun.start()]
            # What begins a sequence that never ends would take what follows for its rest.
            text = text.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


class _Call:
    """Code that executes."""

    def __init__(self, number: int, tell: Callable[[Output], None], limits: Limits) -> None:
        self.number = number
        self.ended: asyncio.Future[_Ending] = asyncio.get_running_loop().create_future()
        self._tell = tell
        self._limits = limits
        self._text = _Text()
        self._text_bytes = 0
        self._pictures = 0
        self._frames = 0

    def hear(self, kind: int, content: bytes) -> None:
        self._frames += 1
        if self._frames > _MOST_FRAMES or self.ended.done():
            raise inside.Broken("more than was asked for")
        if kind == inside.TEXT:
            self._text_bytes += len(content)
            if self._text_bytes > self._limits.output_bytes:
                raise inside.Broken("more text than there may be")
            self._say(self._text.feed(content))
        elif kind == inside.PICTURE:
            self._pictures += 1
            media_type = inside.PICTURES.get(content[0] if content else 0)
            if self._pictures > self._limits.images or media_type is None:
                raise inside.Broken("pictures that were not asked for")
            if content.startswith(_MAGIC[media_type], 1):
                self._tell(Picture(media_type, content[1:]))
        elif kind == inside.ENDED:
            try:
                ending = _read_ending(content)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise inside.Broken("an end that is none") from error
            self._say(self._text.feed(b"", final=True))
            self.ended.set_result(ending)
        else:
            raise inside.Broken("an answer to another question")

    def _say(self, text: str) -> None:
        if text:
            self._tell(Logs(text))


class Box:
    """One isolated machine. One caller at a time; made by `Bubblewrap.start`, and closed by whoever has it last."""

    def __init__(self, process: asyncio.subprocess.Process, limits: Limits, pid: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to: asyncio.StreamWriter = process.stdin
        self._from: asyncio.StreamReader = process.stdout
        self._limits = limits
        self._number = 0
        self._call: _Call | None = None
        # The one answer that is waited for, and those that nobody waits for any more.
        self._answer: tuple[int, asyncio.Future[tuple[int, bytes]]] | None = None
        self._given_up: set[int] = set()
        self._stopping: str | None = None
        self._end: str | None = None
        self._ended = asyncio.Event()
        self._hello: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # The first process in the box, as the host numbers it.
        self.pid = pid
        self._pidfd: int | None = None
        with contextlib.suppress(OSError):
            # Else it has ended already, which is soon heard.
            self._pidfd = os.pidfd_open(pid)
        self._longest = {
            inside.HELLO: inside.SMALL_BYTES,
            inside.TEXT: inside.TEXT_BYTES,
            inside.PICTURE: limits.image_bytes + 1,
            inside.ENDED: inside.SMALL_BYTES,
            # A path has at most 255 bytes for each folder, and most have few.
            inside.ANSWER: 64 * 1024 + limits.listed_files * 4096,
            inside.REFUSED: inside.SMALL_BYTES,
            inside.PIECE: inside.PIECE_BYTES,
        }
        self._closing: asyncio.Task[None] | None = None
        self._listening = asyncio.create_task(self._listen(), name="sandbox-box")

    @property
    def is_alive(self) -> bool:
        return self._end is None

    @property
    def end(self) -> str | None:
        """Why the box is no more, for the log."""
        return self._end

    async def meet(self) -> None:
        """Waits until the box says that it is ready. Raises `BoxFailed`."""
        done, _ = await asyncio.wait({self._hello}, timeout=self._limits.start_s)
        if not done:
            self.kill("it was not ready in time")
        await self._hello

    # --- running code

    async def execute(self, code: str, tell: Callable[[Output], None], *, timeout_s: float) -> Ended:
        """Runs code; `tell` is given its outputs as they come.

        When cancelled, the code has stopped before `CancelledError` leaves. When the box dies meanwhile the call has
        `died`, and `is_alive` is false; a box that was dead before raises `BoxFailed`.
        """
        encoded = code.encode("utf-8", "replace")
        if len(encoded) > self._limits.code_bytes:
            return Ended("error", f"The code was not run: it is longer than {self._limits.code_bytes} bytes.")
        self._check()
        call = self._call = _Call(self._next(), tell, self._limits)
        self._stopping = None
        try:
            await self._send(inside.EXECUTE, call.number, encoded)
            done, _ = await asyncio.wait({call.ended}, timeout=timeout_s)
            if not done:
                self._stopping = "timeout"
                await self._stop(call, self._limits.interrupt_s, self._limits.reset_s)
        except asyncio.CancelledError:
            await _to_the_end(asyncio.create_task(self._stop(call, 0.3, 0.5)))
            raise
        except BoxFailed:
            pass
        finally:
            self._call = None
        return self._ending(call, timeout_s)

    def stop(self, note: str) -> None:
        """Ends what runs, by force; `execute` returns `died` with this note. Files are kept."""
        if self._call is not None and self._stopping is None and self.is_alive:
            self._stopping = note
            self._reset(self._call)

    async def _stop(self, call: _Call, interrupt_s: float, reset_s: float) -> None:
        if self.is_alive and not call.ended.done():
            self._to.write(inside.frame(inside.INTERRUPT, call.number))
            await asyncio.wait({call.ended}, timeout=interrupt_s)
        if self.is_alive and not call.ended.done():
            self._reset(call)
            await asyncio.wait({call.ended}, timeout=reset_s)
        if not call.ended.done():
            self.kill("it did not stop")

    def _reset(self, call: _Call) -> None:
        number = self._next()
        # Its answer comes after the call's end.
        self._given_up.add(number)
        self._to.write(inside.frame(inside.RESET, number, inside.CALL.pack(call.number)))

    def _ending(self, call: _Call, timeout_s: float) -> Ended:
        if not call.ended.done() or call.ended.cancelled():
            if self._stopping == "timeout":
                return Ended("timeout", f"Execution was stopped after {timeout_s:g} s. The session is lost.")
            said = self._stopping or "The session ended unexpectedly."
            return Ended("died", said)
        ending = call.ended.result()
        if ending.why == "inodes":
            self.kill("it had too many files")
        notes: list[str] = []
        how: How = ending.how
        if self._stopping == "timeout":
            how = "timeout"
            notes.append(f"Execution was stopped after {timeout_s:g} s.")
        elif ending.why == "cpu":
            how = "timeout"
            notes.append(f"Execution was stopped after {self._limits.cpu_s:g} s of processor time.")
        elif self._stopping is not None and ending.how == "died":
            # Whoever stopped it says what became of it.
            return Ended("died", self._stopping)
        elif ending.why == "inodes":
            notes.append(f"There were more than {self._limits.inodes} files; the session is lost.")
        elif ending.how == "died":
            notes.append(f"The Python process ended ({_cause(ending.status)}).")
        if ending.how == "died" and ending.why != "inodes":
            notes.append(f"A new process was started: {_KILLED}.")
        if ending.cut_bytes > 0:
            notes.append(f"The output was cut after {self._limits.output_bytes} bytes; {ending.cut_bytes} more came.")
        return Ended(how, " ".join(notes) or None)

    # --- files

    async def put(self, path: str, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Writes a file below /mnt/data, with its folders; it is there wholly or not. Raises `FileRefused`."""
        self._check()
        await self._ask(inside.PUT, msgspec.json.encode([path, size]), inside.ANSWER)
        number = self._next()
        is_whole = False
        try:
            async for piece in pieces:
                view = memoryview(piece)
                while view:
                    await self._send(inside.BYTES, number, bytes(view[: inside.PIECE_BYTES // 4]))
                    view = view[inside.PIECE_BYTES // 4 :]
            is_whole = True
        finally:
            if not is_whole and self.is_alive:
                self._to.write(inside.frame(inside.PUT_STOP, number))
        await self._ask(inside.PUT_END, b"", inside.ANSWER)

    async def link(self, path: str, other: str) -> None:
        """Gives a file a second name. Raises `FileRefused`."""
        await self._ask(inside.LINK, msgspec.json.encode([path, other]), inside.ANSWER)

    async def files(self) -> list[SeenFile]:
        """The regular files below /mnt/data, as many as the limits allow."""
        content = await self._ask(inside.LIST, b"", inside.ANSWER)
        try:
            found = [SeenFile(*each) for each in _read_files(content)]
            if len(found) > self._limits.listed_files:
                raise inside.Broken("too many files")
            for file in found:
                inside.parts_of(file.path, self._limits.depth)
                if not 0 <= file.size <= self._limits.file_bytes or len(file.path) > 4096:
                    raise inside.Broken("a file that cannot be")
        except (msgspec.MsgspecError, UnicodeError, RecursionError, inside.Refusal, inside.Broken) as error:
            raise self._lied(error) from error
        return found

    async def read(self, file: SeenFile) -> AsyncGenerator[bytes]:
        """Exactly `file.size` bytes, or `FileRefused` when it has changed or gone."""
        offset = 0
        while offset < file.size:
            length = min(inside.PIECE_BYTES, file.size - offset)
            asked = msgspec.json.encode([*file, offset, length])
            piece = await self._ask(inside.READ, asked, inside.PIECE)
            if len(piece) != length:
                raise self._lied(inside.Broken("a piece of another length"))
            yield piece
            offset += length

    # --- the line

    async def close(self) -> None:
        """Afterwards no process of the box is there."""
        self.kill("it was closed")
        if self._closing is None:
            self._closing = asyncio.create_task(self._wait(), name="sandbox-close")
        await _to_the_end(self._closing)

    def kill(self, why: str) -> None:
        """Ends the box at once; `close` still has to be awaited."""
        if self._end is None:
            self._end = why
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                # The launcher buries it, and ends by itself then.
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            elif self._process.returncode is None and not self.pid:
                self._process.kill()
        self._to.close()
        self._ended.set()
        failure = BoxFailed("The sandbox has ended.")
        if not self._hello.done():
            self._hello.set_exception(failure)
            self._hello.exception()
        if self._answer is not None and not self._answer[1].done():
            self._answer[1].set_exception(failure)
        if self._call is not None and not self._call.ended.done():
            self._call.ended.cancel()

    async def _wait(self) -> None:
        self._listening.cancel()
        await asyncio.wait({self._listening})
        if self._pidfd is not None:
            # The kernel says so when the last process of its namespace is gone.
            loop = asyncio.get_running_loop()
            gone = loop.create_future()
            fd, self._pidfd = self._pidfd, None
            loop.add_reader(fd, lambda: gone.done() or gone.set_result(None))
            await asyncio.wait({gone}, timeout=10)
            loop.remove_reader(fd)
            os.close(fd)
        # asyncio's process has ended when its pipes have, and a pipe that is full and not read never does.
        ending = [self._process.wait(), *(_drain(stream) for stream in (self._from, self._process.stderr))]
        _, left = await asyncio.wait([asyncio.ensure_future(each) for each in ending], timeout=10)
        for each in left:
            each.cancel()
        transport: Any = getattr(self._process, "_transport", None)
        if transport is not None:
            transport.close()

    async def _listen(self) -> None:
        frames = 0
        try:
            while True:
                kind, number, length = inside.HEADER.unpack(await self._from.readexactly(inside.HEADER.size))
                if length > self._longest.get(kind, -1):
                    raise inside.Broken(f"a frame of kind {kind} with {length} bytes")
                content = await self._from.readexactly(length) if length else b""
                self._hear(kind, number, content)
                frames += 1
                if frames % 16 == 0:
                    # What is there already is read without a wait; others want their turn.
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, OSError):
            self.kill("it ended by itself")
        except inside.Broken as error:
            self.kill(f"it broke the protocol: {error}")

    def _hear(self, kind: int, number: int, content: bytes) -> None:
        call, answer = self._call, self._answer
        if kind == inside.HELLO and number == 0 and not self._hello.done():
            self._hello.set_result(None)
        elif call is not None and number == call.number:
            try:
                call.hear(kind, content)
            except inside.Broken:
                raise
            except Exception as error:
                # The caller's own: `execute` raises it.
                if not call.ended.done():
                    call.ended.set_exception(error)
                self.kill("an output could not be taken")
        elif answer is not None and number == answer[0] and not answer[1].done():
            answer[1].set_result((kind, content))
        elif number in self._given_up:
            self._given_up.discard(number)
        else:
            raise inside.Broken("an answer that nobody asked for")

    async def _ask(self, kind: int, content: bytes, expected: int) -> bytes:
        self._check()
        number = self._next()
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answer = (number, answer)
        try:
            await self._send(kind, number, content)
            done, _ = await asyncio.wait({answer}, timeout=self._limits.reply_s)
            if not done:
                self.kill("it did not answer")
                raise BoxFailed("The sandbox did not answer.")
            said, content = answer.result()
        finally:
            self._answer = None
            if not answer.done():
                self._given_up.add(number)
        if said == inside.REFUSED:
            raise FileRefused(_Text().feed(content, final=True)[:200])
        if said != expected:
            raise self._lied(inside.Broken("an answer to another question"))
        return content

    async def _send(self, kind: int, number: int, content: bytes) -> None:
        self._check()
        self._to.write(inside.frame(kind, number, content))
        try:
            async with asyncio.timeout(self._limits.reply_s):
                await self._to.drain()
        except (TimeoutError, OSError) as error:
            self.kill("it does not listen")
            raise BoxFailed("The sandbox does not listen.") from error

    def _check(self) -> None:
        if self._end is not None:
            raise BoxFailed("The sandbox has ended.")

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _lied(self, error: Exception) -> BoxFailed:
        self.kill(f"it broke the protocol: {error}")
        return BoxFailed("The sandbox broke its protocol.")


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(number).name}"
        return f"killed by signal {number}"
    return f"exit code {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else "for no known reason"


async def _drain(stream: asyncio.StreamReader | None) -> None:
    with contextlib.suppress(OSError):
        while stream is not None and await stream.read(256 * 1024):
            pass


async def _to_the_end(task: asyncio.Task[None]) -> None:
    """Awaits work that a cancellation does not cut short; it is bounded by itself."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({task})
    task.result()
