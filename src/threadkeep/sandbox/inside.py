"""The first process of a box: it alone holds the line to the server, and never runs a line of the user's code.

    server ══ fd 0, 1 ══ this (PID 1) ══ three pipes ══ executor (forked; runs the code) ── what the code starts

It gives its rights up, imports what code usually wants, forks the executor, passes text and pictures on, keeps files in
and out, reaps. Everything the executor says may be forged by the code that runs in it: it is bounded here, and again in
`box.py`. When the server goes, the line ends, this process ends, and the kernel ends all others with it.

Runs as a script in the sandbox's environment, so it imports the standard library alone. The server imports it for the
protocol: a frame is a header, `HEADER`, and so many bytes.
"""
# Files are reached from descriptors of their folders, for which pathlib has no words.
# ruff: noqa: PTH100, PTH120, PTH123, PTH208

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import importlib
import io
import json
import os
import resource
import select
import signal
import stat
import struct
import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterator
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

# Kind, number of the request, length of what follows.
HEADER = struct.Struct(">BII")
CALL = struct.Struct(">I")

# --- to the box
EXECUTE = 1  # UTF-8, the code. Answered with TEXT and PICTURE, then ENDED.
INTERRUPT = 2  # of the request with this number, if it still executes
# Content: `CALL`, a number; nothing happens unless this one executes. 0: in any case. All processes but the first end,
# files stay; the code that executed has ENDED, then ANSWER.
RESET = 3
PUT = 4  # JSON [path, size], answered; then BYTES, then PUT_END, which is answered again
BYTES = 5
PUT_END = 6
PUT_STOP = 7  # not answered
LINK = 8  # JSON [path, other]
LIST = 9
READ = 10  # JSON [path, size, mtime_ns, inode, offset, length]. Answered with PIECE or REFUSED.

# --- from the box
HELLO = 32  # everything is imported, and code can run
TEXT = 33
PICTURE = 34  # a byte of `PICTURES`, then the picture
ENDED = 35  # JSON
ANSWER = 36  # JSON
REFUSED = 37  # UTF-8, why; the box goes on
PIECE = 38

# --- between the first process and the executor, beside EXECUTE, PICTURE and ENDED
READY = 64
SEEN = 65  # the picture has its place in the output: what is printed from now on comes after it

PICTURES = {1: "image/png", 2: "image/jpeg"}

SMALL_BYTES = 64 * 1024
PIECE_BYTES = 1024 * 1024
TEXT_BYTES = 64 * 1024

DATA = "/mnt/data"
# Text waits so long for more, so that a loop of prints is not a frame each.
_GATHER_S = 0.02


class Frame(NamedTuple):
    kind: int
    number: int
    content: bytes


class Broken(Exception):
    """The other side does not keep to the protocol."""


class Refusal(Exception):
    """This cannot be done; everything else goes on."""


class Frames:
    """Makes frames of bytes as they come. What is too long is refused by its header, before its bytes are there."""

    def __init__(self, longest: dict[int, int]) -> None:
        self._longest = longest
        self._bytes = bytearray()

    def feed(self, some: bytes) -> Iterator[Frame]:
        self._bytes += some
        while len(self._bytes) >= HEADER.size:
            kind, number, length = HEADER.unpack_from(self._bytes)
            if length > self._longest.get(kind, -1):
                raise Broken(f"a frame of kind {kind} with {length} bytes")
            end = HEADER.size + length
            if len(self._bytes) < end:
                return
            content = bytes(memoryview(self._bytes)[HEADER.size : end])
            del self._bytes[:end]
            yield Frame(kind, number, content)


def frame(kind: int, number: int, content: bytes = b"") -> bytes:
    return HEADER.pack(kind, number, len(content)) + content


def parts_of(path: str, depth: int) -> list[str]:
    """A path below `DATA` in its parts. Raises `Refusal` for one that could mean another place."""
    parts = path.split("/")
    if len(parts) > depth:
        raise Refusal("the path has too many folders")
    for part in parts:
        if part in ("", ".", "..") or "\0" in part or len(os.fsencode(part)) > 255:
            raise Refusal("no such path is possible")
    return parts


# --- what follows runs in the box only


class Options:
    """What `Bubblewrap` says on the command line. Nothing in it is secret: the code can read it."""

    def __init__(self, text: str) -> None:
        options: dict[str, Any] = json.loads(text)
        # As whom code runs; None: a user namespace has seen to it.
        self.uid: int | None = options["uid"]
        self.modules: list[str] = options["modules"]
        self.code_bytes: int = options["code_bytes"]
        self.output_bytes: int = options["output_bytes"]
        self.images: int = options["images"]
        self.image_bytes: int = options["image_bytes"]
        self.cpu_s: float = options["cpu_s"]
        self.interrupt_s: float = options["interrupt_s"]
        self.memory_bytes: int = options["memory_bytes"]
        self.processes: int = options["processes"]
        self.open_files: int = options["open_files"]
        self.file_bytes: int = options["file_bytes"]
        self.disk_bytes: int = options["disk_bytes"]
        self.inodes: int = options["inodes"]
        self.listed_files: int = options["listed_files"]
        self.depth: int = options["depth"]


class Executor(NamedTuple):
    pid: int
    # Its stdout and stderr; what it says of itself; what it is told.
    text: int
    said: int
    told: int
    frames: Frames


class Call:
    """The code that executes."""

    def __init__(self, number: int, cpu_s: float) -> None:
        self.number = number
        self.cpu_s_before = cpu_s
        self.text = bytearray()
        self.text_since = 0.0
        self.text_bytes = 0
        self.cut_bytes = 0
        self.pictures = 0
        self.why: str | None = None
        self.is_interrupted = False
        self.kill_at: float | None = None
        self.is_interrupted = False


class Put(NamedTuple):
    number: int
    fd: int
    folder: int
    part: str
    name: str
    size: int


class Supervisor:
    def __init__(self, options: Options, commands: int, answers: int) -> None:
        self._options = options
        self._commands = commands
        self._answers = answers
        self._frames = Frames({
            EXECUTE: options.code_bytes, INTERRUPT: 0, RESET: CALL.size, PUT: SMALL_BYTES, BYTES: PIECE_BYTES,
            PUT_END: 0, PUT_STOP: 0, LINK: SMALL_BYTES, LIST: 0, READ: SMALL_BYTES,
        })  # fmt: skip
        self._data = os.open(DATA, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folders = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in ("/tmp", "/dev/shm", "/home/sandbox")]
        self._put: Put | None = None
        # Why the file that is put cannot be.
        self._put_refusal: str | None = None
        self._put_bytes = 0
        self._call: Call | None = None
        self._to_executor = bytearray()
        self._executor: Executor | None = None
        self._is_ready = False
        self._writes_to: int | None = None
        # Why the executor is to be replaced: at the loop's next turn, so that it is forked from nowhere deep.
        self._replace: str | None = None
        self._status = 0
        self._poll = select.poll()
        self._wakeup, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        # A handler for this one only: the kernel gives the first process no signal that it has no handler for.
        signal.signal(signal.SIGCHLD, _ignore)
        self._poll.register(self._commands, select.POLLIN)
        self._poll.register(self._wakeup, select.POLLIN)

    def run(self) -> NoReturn:
        self._start_executor()
        look_at = 0.0
        while True:
            events = dict(self._poll.poll(self._patience_ms(look_at)))
            if self._wakeup in events:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wakeup, 4096)
            self._hear_executor(events)
            self._reap()
            if self._replace is not None:
                self._restart(self._replace)
            self._tell_executor()
            if self._commands in events:
                some = os.read(self._commands, 256 * 1024)
                if not some:
                    os._exit(0)
                for each in self._frames.feed(some):
                    self._obey(each)
            now = time.monotonic()
            if self._call is not None and self._call.text and now >= self._call.text_since + _GATHER_S:
                self._send_text(self._call)
            if now >= look_at:
                look_at = now + (0.25 if self._call is not None else 1.0)
                self._watch(now)

    def _patience_ms(self, look_at: float) -> float:
        now = time.monotonic()
        until = look_at if self._call is None else min(look_at, now + 0.25)
        if self._call is not None and self._call.text:
            until = min(until, self._call.text_since + _GATHER_S)
        return max(0.0, until - now) * 1000

    def _send(self, kind: int, number: int, content: bytes | bytearray = b"") -> None:
        # Waits when the server does not read: there is nothing else worth doing then.
        view = memoryview(HEADER.pack(kind, number, len(content)) + content)
        while view:
            try:
                view = view[os.write(self._answers, view) :]
            except OSError:
                os._exit(0)

    def _say(self, kind: int, number: int, content: object) -> None:
        self._send(kind, number, json.dumps(content).encode())

    # --- the executor

    def _start_executor(self) -> None:
        text, text_in = os.pipe2(os.O_CLOEXEC)
        said, said_in = os.pipe2(os.O_CLOEXEC)
        told_out, told = os.pipe2(os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.fcntl(text, fcntl.F_SETPIPE_SZ, 512 * 1024)
        with warnings.catch_warnings():
            # Libraries have threads for arithmetics; they know how to be forked.
            warnings.simplefilter("ignore")
            pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                _be_executor(self._options, text_in, said_in, told_out)
            os._exit(1)
        for fd in (text_in, said_in, told_out):
            os.close(fd)
        for fd in (text, said, told):
            os.set_blocking(fd, False)
        frames = Frames({READY: 0, PICTURE: self._options.image_bytes + 1, ENDED: SMALL_BYTES})
        self._executor = Executor(pid, text, said, told, frames)
        self._poll.register(text, select.POLLIN)
        self._poll.register(said, select.POLLIN)

    def _close_executor(self) -> None:
        executor, self._executor = self._executor, None
        self._to_executor.clear()
        if executor is not None:
            for fd in (executor.text, executor.said):
                self._poll.unregister(fd)
            if self._writes_to is not None:
                self._poll.unregister(self._writes_to)
                self._writes_to = None
            for fd in (executor.text, executor.said, executor.told):
                os.close(fd)

    def _tell_executor(self) -> None:
        executor = self._executor
        if executor is None:
            return
        while self._to_executor:
            try:
                del self._to_executor[: os.write(executor.told, self._to_executor[:65536])]
            except BlockingIOError:
                break
            except OSError:  # it closed its end: it will be found dead, or silent
                self._to_executor.clear()
        if self._to_executor and self._writes_to is None:
            self._poll.register(executor.told, select.POLLOUT)
            self._writes_to = executor.told
        elif not self._to_executor and self._writes_to is not None:
            self._poll.unregister(self._writes_to)
            self._writes_to = None

    def _hear_executor(self, events: dict[int, int]) -> None:
        executor = self._executor
        if executor is None:
            return
        if executor.text in events:
            self._read_text(executor, 256 * 1024)
        if executor.said in events:
            try:
                some = os.read(executor.said, 256 * 1024)
                if not some:
                    raise Broken("closed its pipe")
                for each in executor.frames.feed(some):
                    # What was printed before this was said is in the pipe: it goes first.
                    self._read_all_text(executor)
                    self._hear(each)
                    if len(self._to_executor) > self._options.code_bytes + SMALL_BYTES:
                        raise Broken("it does not listen")
                    if each.kind == PICTURE:
                        self._to_executor += frame(SEEN, each.number)
            except BlockingIOError:
                pass
            except Broken:
                self._replace = "broken"

    def _hear(self, said: Frame) -> None:
        call = self._call
        if said.kind == READY:
            if not self._is_ready:
                self._is_ready = True
                self._send(HELLO, 0)
        elif call is None or said.number != call.number:
            return
        elif said.kind == PICTURE:
            if said.content[:1] and said.content[0] in PICTURES and call.pictures < self._options.images:
                call.pictures += 1
                self._send_text(call)
                self._send(PICTURE, call.number, said.content)
        else:
            if call.is_interrupted:
                self._end_others()
            # Between two looks code may make more than it may, and end.
            self._count_files()
            self._end_call("error" if said.content == b"error" else "ok")

    def _end_others(self) -> None:
        """What code has started goes with it when it is interrupted: it may ignore that, or not have been told."""
        for _ in range(100):
            others = [pid for pid in _running() if self._executor is not None and pid != self._executor.pid]
            if not others:
                return
            for pid in others:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
        # They come faster than they go.
        self._replace = ""

    def _end_call(self, how: str, status: int = 0) -> None:
        call = self._call
        if call is None:
            return
        if call.is_interrupted and self._executor is not None:
            # What it started goes too, and says its last words while they are still its own.
            self._kill_others(self._executor.pid)
            self._read_all_text(self._executor)
        self._call = None
        self._send_text(call)
        end = {"how": how, "why": call.why, "status": status, "cut_bytes": call.cut_bytes}
        self._say(ENDED, call.number, end)

    def _read_all_text(self, executor: Executor) -> None:
        # What is there now, and no more: a process in the background may never stop writing.
        waiting = bytearray(4)
        fcntl.ioctl(executor.text, 0x541B, waiting)  # FIONREAD
        left = int.from_bytes(waiting, sys.byteorder)
        while left > 0:
            read = self._read_text(executor, min(left, 256 * 1024))
            if not read:
                break
            left -= read

    def _read_text(self, executor: Executor, length: int) -> int:
        try:
            some = os.read(executor.text, length)
        except BlockingIOError:
            return 0
        if not some:
            # Every process closed it, so nothing will ever be printed again.
            self._replace = self._replace or "broken"
        call = self._call
        if call is not None and some:
            room = self._options.output_bytes - call.text_bytes
            kept = some[:room]
            call.cut_bytes += len(some) - len(kept)
            call.text_bytes += len(kept)
            if kept and not call.text:
                call.text_since = time.monotonic()
            call.text += kept
            if len(call.text) >= TEXT_BYTES:
                self._send_text(call)
        return len(some)

    def _send_text(self, call: Call) -> None:
        while call.text:
            self._send(TEXT, call.number, call.text[:TEXT_BYTES])
            del call.text[:TEXT_BYTES]

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._executor is not None and pid == self._executor.pid:
                self._status = status
                self._replace = ""

    def _restart(self, why: str) -> None:
        """Ends everything but this process, and what executes with it, and starts anew."""
        ended = kill_all()
        if self._executor is not None:
            self._status = ended.get(self._executor.pid, self._status)
            self._read_all_text(self._executor)
        self._close_executor()
        self._replace = None
        if self._call is not None:
            self._call.why = self._call.why or why or None
        self._end_call("died", self._status)
        if not self._is_ready:
            # It would go on so for ever: the environment is broken.
            os._exit(1)
        self._start_executor()

    # --- what the server wants

    def _obey(self, asked: Frame) -> None:
        kind, number, content = asked
        try:
            if kind == EXECUTE:
                self._execute(number, content)
            elif kind == INTERRUPT:
                if self._call is not None and self._call.number == number:
                    self._interrupt()
            elif kind == RESET:
                (executing,) = CALL.unpack(content)
                if executing in (0, self._call.number if self._call is not None else 0):
                    self._restart("")
                self._say(ANSWER, number, None)
            elif kind in (PUT, BYTES, PUT_END, PUT_STOP):
                self._take(kind, number, content)
            elif kind == LINK:
                path, other = json.loads(content)
                self._link(path, other)
                self._say(ANSWER, number, None)
            elif kind == LIST:
                self._say(ANSWER, number, self._list())
            else:
                self._send(PIECE, number, self._read(*json.loads(content)))
        except Refusal as refusal:
            self._send(REFUSED, number, str(refusal).encode())
        except OSError as error:
            self._send(REFUSED, number, (error.strerror or "it failed").encode())

    def _execute(self, number: int, code: bytes) -> None:
        if self._call is not None:
            raise Refusal("something executes")
        self._call = Call(number, self._cpu_s())
        self._to_executor += frame(EXECUTE, number, code)
        self._tell_executor()

    def _kill_others(self, executor: int) -> None:
        # Without /proc nobody knows them; they end with the box.
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc"):
                if name.isdigit() and int(name) not in (1, executor):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(int(name), signal.SIGKILL)

    def _interrupt(self) -> None:
        if self._call is not None:
            self._call.is_interrupted = True
        if self._executor is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._executor.pid, signal.SIGINT)

    def _count_files(self) -> None:
        used = 0
        for fd in (self._data, *self._folders):
            room = os.fstatvfs(fd)
            used += room.f_files - room.f_ffree
        if used > self._options.inodes:
            # Only the end of the file systems gives the memory back.
            if self._call is not None:
                self._call.why = "inodes"
            self._end_call("died")
            os._exit(3)

    def _watch(self, now: float) -> None:
        self._count_files()
        call = self._call
        if call is None:
            return
        if call.kill_at is None and self._cpu_s() - call.cpu_s_before > self._options.cpu_s:
            call.why = "cpu"
            call.kill_at = now + self._options.interrupt_s
            self._interrupt()
        elif call.kill_at is not None and now >= call.kill_at:
            self._restart("cpu")

    def _cpu_s(self) -> float:
        """Of all processes there are, and of those that were and were waited for."""
        reaped = resource.getrusage(resource.RUSAGE_CHILDREN)
        ticks = 0
        found = False
        with contextlib.suppress(OSError):
            for name in os.listdir("/proc"):
                if name.isdigit() and name != "1":
                    with contextlib.suppress(OSError, ValueError, IndexError):
                        with open(f"/proc/{name}/stat", "rb") as file:
                            fields = file.read().rpartition(b")")[2].split()
                        ticks += sum(int(field) for field in fields[11:15])
                        found = True
        seconds = ticks / os.sysconf("SC_CLK_TCK")
        if not found and self._executor is not None:
            # Without /proc: the kernel's number for the clock of a process.
            with contextlib.suppress(OSError):
                seconds = time.clock_gettime((~self._executor.pid << 3) | 2)
        return reaped.ru_utime + reaped.ru_stime + seconds

    # --- files: from the descriptor of /mnt/data down, never through a link

    @contextlib.contextmanager
    def _folder(self, parts: list[str], *, make: bool = False) -> Generator[int]:
        fd = os.dup(self._data)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _take(self, kind: int, number: int, content: bytes) -> None:
        if kind == PUT:
            self._stop_put()
            self._put_refusal = None
            self._put_bytes = 0
            self._begin_put(number, *json.loads(content))
            self._say(ANSWER, number, None)
        elif kind == PUT_STOP:
            self._stop_put()
        elif kind == BYTES:
            if self._put is not None:
                try:
                    view = memoryview(content)
                    while view:
                        view = view[os.write(self._put.fd, view) :]
                    self._put_bytes += len(content)
                except OSError as error:
                    self._put_refusal = error.strerror or "it failed"
                    self._stop_put()
        else:
            put = self._put
            if put is None:
                raise Refusal(self._put_refusal or "nothing was put")
            try:
                if self._put_bytes != put.size:
                    raise Refusal("it has another size than was said")
                os.replace(put.part, put.name, src_dir_fd=put.folder, dst_dir_fd=put.folder)
                self._put = None
                os.close(put.fd)
                os.close(put.folder)
            finally:
                self._stop_put()
            self._say(ANSWER, number, None)

    def _begin_put(self, number: int, path: str, size: int) -> None:
        *folders, name = parts_of(path, self._options.depth)
        room = os.fstatvfs(self._data)
        if size > room.f_bavail * room.f_frsize:
            raise Refusal("no space left")
        with self._folder(folders, make=True) as folder:
            part = f".{number}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)
            fd = os.open(part, flags, 0o644, dir_fd=folder)
            self._put = Put(number, fd, os.dup(folder), part, name, size)

    def _stop_put(self) -> None:
        put, self._put = self._put, None
        if put is not None:
            with contextlib.suppress(OSError):
                os.unlink(put.part, dir_fd=put.folder)
            os.close(put.fd)
            os.close(put.folder)

    def _link(self, path: str, other: str) -> None:
        *from_folders, from_name = parts_of(path, self._options.depth)
        *to_folders, to_name = parts_of(other, self._options.depth)
        with self._folder(from_folders) as source, self._folder(to_folders, make=True) as target:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(to_name, dir_fd=target)
            os.link(from_name, to_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)

    def _list(self) -> list[list[str | int]]:
        """Regular files. Together they claim no more than the disk holds, each with all of its names."""
        found: list[list[str | int]] = []
        room = self._options.disk_bytes
        counted: set[int] = set()
        # Entries that are no files cost time as well.
        looks = 20 * self._options.listed_files
        folders: list[list[str]] = [[]]
        while folders:
            parts = folders.pop(0)
            try:
                with self._folder(parts) as fd, os.scandir(fd) as entries:
                    for entry in entries:
                        looks -= 1
                        if looks < 0:
                            return found
                        name = entry.name
                        try:
                            name.encode()
                            seen = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        except (UnicodeEncodeError, OSError):
                            continue
                        if stat.S_ISDIR(seen.st_mode):
                            if len(parts) < self._options.depth - 1:
                                folders.append([*parts, name])
                            continue
                        if not stat.S_ISREG(seen.st_mode) or seen.st_size > self._options.file_bytes:
                            continue
                        if seen.st_ino not in counted:
                            if seen.st_size > room:
                                continue
                            room -= seen.st_size
                            counted.add(seen.st_ino)
                        if len(found) >= self._options.listed_files:
                            return found
                        found.append(["/".join([*parts, name]), seen.st_size, seen.st_mtime_ns, seen.st_ino])
            except OSError:
                continue
        return found

    def _read(self, path: str, size: int, mtime_ns: int, inode: int, offset: int, length: int) -> bytes:
        *folders, name = parts_of(path, self._options.depth)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with self._folder(folders) as folder:
            fd = os.open(name, flags, dir_fd=folder)
        try:
            seen = os.fstat(fd)
            if not stat.S_ISREG(seen.st_mode):
                raise Refusal("it is no file")
            if (seen.st_size, seen.st_mtime_ns, seen.st_ino) != (size, mtime_ns, inode):
                raise Refusal("it has changed")
            some = os.pread(fd, min(length, PIECE_BYTES), offset)
            if len(some) != min(length, PIECE_BYTES):
                raise Refusal("it has changed")
            return some
        finally:
            os.close(fd)


def _ignore(*_: object) -> None:
    pass


# The module `executor`, imported before the first fork.
_executor: ModuleType


def _running() -> list[int]:
    """All processes but this one, without those that have ended; none where there is no /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and name != "1":
                with contextlib.suppress(OSError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                    if file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X"):
                        found.append(int(name))
    return found


def kill_all() -> dict[int, int]:
    """Ends every process of the box but this one, and waits until none is left. How each child ended."""
    ended: dict[int, int] = {}
    while True:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(-1, signal.SIGKILL)
        try:
            while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                ended[reaped[0]] = reaped[1]
        except ChildProcessError:
            return ended
        time.sleep(0.0005)


def _be_executor(options: Options, text: int, said: int, told: int) -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    # As Python has it: a pipe that nobody reads and a file that is too large are errors, and end no process.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    # Away from 0, 1 and 2 first, then in one row: everything above is closed, the line to the server before all.
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (null, text, text, said, told)]
    for target, fd in enumerate(high):
        os.dup2(fd, target, inheritable=target < 3)
    os.closerange(5, max(high) + 4096)
    libc_prctl(4, 1)  # PR_SET_DUMPABLE: else its own /proc/self is closed to it
    # When the machine runs out of memory, code goes before anything else does.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")
    for name, most in (
        # Not 0: only this much keeps the kernel from giving a core to a program of the host's (core_pattern).
        ("RLIMIT_CORE", 1),
        ("RLIMIT_DATA", options.memory_bytes // 4 * 3),
        ("RLIMIT_AS", options.memory_bytes * 2),
        ("RLIMIT_NPROC", options.processes),
        ("RLIMIT_NOFILE", options.open_files),
        ("RLIMIT_FSIZE", options.file_bytes),
        ("RLIMIT_MEMLOCK", 1024 * 1024),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_SIGPENDING", 256),
        ("RLIMIT_RTPRIO", 0),
        ("RLIMIT_NICE", 0),
    ):
        kind = getattr(resource, name, None)
        if kind is not None:
            _, hard = resource.getrlimit(kind)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (least, least))
    os.nice(5)
    # Children of the code's have no part in what is said here.
    os.register_at_fork(after_in_child=lambda: os.closerange(3, 5))
    _executor.run(ExecutorsLine(said=3, told=4), options.images, options.image_bytes)


class ExecutorsLine:
    """The executor's end of its pipes; `executor.Line` says what each is for."""

    def __init__(self, *, said: int, told: int) -> None:
        self._said = said
        self._told = io.FileIO(told, "r")
        self._has = io.BufferedReader(self._told)
        self._showing = threading.Lock()

    def ready(self) -> None:
        self._write(READY, 0, b"")

    def asked(self) -> tuple[int, str] | None:
        while (told := self._read()) is not None:
            if told.kind == EXECUTE:
                return told.number, told.content.decode("utf-8", "replace")
        return None

    def picture(self, number: int, kind: int, content: bytes) -> None:
        with self._showing:
            self._write(PICTURE, number, bytes([kind]) + content)
            self._read()

    def _read(self) -> Frame | None:
        header = self._has.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        kind, number, length = HEADER.unpack(header)
        return Frame(kind, number, self._has.read(length))

    def ended(self, number: int, *, has_failed: bool) -> None:
        self._write(ENDED, number, b"error" if has_failed else b"ok")

    def _write(self, kind: int, number: int, content: bytes) -> None:
        view = memoryview(frame(kind, number, content))
        while view:
            view = view[os.write(self._said, view) :]


# --- rights


def libc_prctl(option: int, value: int) -> None:
    import ctypes  # noqa: PLC0415 - the server imports this module too, and needs none of it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def give_up_rights(uid: int | None) -> None:
    """Afterwards this process and all that come from it can never have a right again."""
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    libc_prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    if uid is not None:
        for capability in range(64):
            try:
                libc_prctl(24, capability)  # PR_CAPBSET_DROP
            except OSError as error:
                if error.errno == errno.EINVAL:  # there are no more
                    break
                raise
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if libc.prctl(47, 4, 0, 0, 0) != 0:  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL
        raise OSError(ctypes.get_errno(), "ambient capabilities stay")
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    if libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities stay")
    # The change of the user has cleared it. For a server that has gone meanwhile, the line to it has ended.
    libc_prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if select.select([0], [], [], 0)[0]:
        os._exit(0)
    # Nobody of the same user reads this process's memory, or opens the line to the server through /proc.
    libc_prctl(4, 0)  # PR_SET_DUMPABLE


def main() -> NoReturn:
    options = Options(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    give_up_rights(options.uid)
    os.umask(0o022)
    # Nothing that a library prints while it is imported may get between the frames.
    commands, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (0, 1))
    os.dup2(2, 1)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.set_blocking(commands, True)
    os.set_blocking(answers, True)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    global _executor  # noqa: PLW0603
    _executor = importlib.import_module("executor")
    # The code may have a module of this name.
    del sys.modules["executor"], sys.path[0]
    _executor.prepare(options.modules)
    os.dup2(null, 1)
    os.dup2(null, 2)
    gc.collect()
    # What is there now is shared with every executor: a collector that looks at it would copy it.
    gc.freeze()
    Supervisor(options, commands, answers).run()


if __name__ == "__main__":
    main()
