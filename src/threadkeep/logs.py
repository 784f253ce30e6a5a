"""What the server says about itself: one event per line, each with a stable ``action`` and its ids as fields.

    log = Log(__name__)
    with bound(request_id=request_id):
        log.info("run_created", run_id=run.id, thread_id=run.thread_id)

Contents of messages and files, and keys, are never given to a log; the secrets that ``configure`` is told of are struck
out of every line all the same. A line is bounded, and an error stream that is closed or that nobody reads costs lines,
never the server. Any room may import this module; it imports none.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Iterable, Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Literal

import msgspec

Field = str | int | float | bool | None
Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "human", "json"]

LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

MAX_FIELD_CHARS = 1_000
MAX_TRACEBACK_CHARS = 6_000
MAX_LINE_BYTES = 16_384
# Lines kept while the reader of a pipe is slow; then the oldest go.
MAX_WAITING_LINES = 1_000
# What a pipe that says it is writable takes without blocking (PIPE_BUF on Linux; POSIX promises 512, macOS has 512).
_PIECE_BYTES = select.PIPE_BUF

_bound: ContextVar[Mapping[str, Field]] = ContextVar("threadkeep_log_fields", default={})  # noqa: B039 - never changed


class bound:  # noqa: N801 - used as a verb, like contextlib.suppress
    """Inside, every line of this task (and of tasks started by it) carries these fields too."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: Field) -> None:
        self._fields = fields
        self._token: Token[Mapping[str, Field]] | None = None

    def __enter__(self) -> None:
        self._token = _bound.set({**_bound.get(), **self._fields})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _bound.reset(self._token)


class Log:
    """A module's log. ``action`` is what happened, in words that never change; ``message``, for people, may be empty.

    An ``error`` is given with its type and text; at level error with its traceback too.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, action: str, message: str = "", /, *, error: BaseException | None = None, **fields: Field) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):
            self._write(logging.DEBUG, action, message, error, fields)

    def info(self, action: str, message: str = "", /, *, error: BaseException | None = None, **fields: Field) -> None:
        if self._logger.isEnabledFor(logging.INFO):
            self._write(logging.INFO, action, message, error, fields)

    def warning(
        self, action: str, message: str = "", /, *, error: BaseException | None = None, **fields: Field
    ) -> None:
        if self._logger.isEnabledFor(logging.WARNING):
            self._write(logging.WARNING, action, message, error, fields)

    def error(self, action: str, message: str = "", /, *, error: BaseException | None = None, **fields: Field) -> None:
        if self._logger.isEnabledFor(logging.ERROR):
            self._write(logging.ERROR, action, message, error, fields)

    def _write(
        self, level: int, action: str, message: str, error: BaseException | None, fields: dict[str, Field]
    ) -> None:
        # Made here and not by logging's own methods: those look for the caller's line, which costs more than the rest.
        raised = (type(error), error, error.__traceback__) if error is not None else None
        record = logging.LogRecord(self._logger.name, level, "", 0, message, None, raised)
        record.__dict__["action"] = action
        record.__dict__["fields"] = fields
        self._logger.handle(record)


def configure(level: Level = "info", form: Format = "auto", *, secrets: Iterable[str] = (), fd: int = 2) -> None:
    """Sends everything that is logged in this process, by us or by a library, to ``fd``. May be called again."""
    try:
        is_terminal = os.isatty(fd)
    except OSError:
        is_terminal = False
    if form == "human" or (form == "auto" and is_terminal):
        coloured = is_terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        formatter: logging.Formatter = _Human(coloured)
    else:
        formatter = _Json()
    lines = _Lines(fd, tuple(sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)))
    lines.setFormatter(formatter)
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old, _Lines):
            root.removeHandler(old)
    root.addHandler(lines)
    # Libraries say at "info" what concerns nobody; "debug" brings that too, but never their own debugging.
    root.setLevel(logging.INFO if level == "debug" else max(LEVELS[level], logging.WARNING))
    logging.getLogger("threadkeep").setLevel(LEVELS[level])
    logging.captureWarnings(True)
    # A log line that cannot be written is dropped; logging's own complaint would go to the same stream.
    logging.raiseExceptions = False


# --- forms


_STANDARD = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {"action", "message", "taskName"}


def _fields_of(record: logging.LogRecord) -> tuple[str, str, dict[str, Field]]:
    """Action, message, and the fields with the bound ones first.

    A record of ``logging``'s own methods says its action and fields with ``extra``; one that does not, a library's, is
    given its logger's name as action.
    """
    said = record.__dict__
    own: dict[str, Field] | None = said.get("fields")
    if own is not None:
        return said["action"], str(record.msg), {**_bound.get(), **own}
    extra = {name: value for name, value in said.items() if name not in _STANDARD}
    return said.get("action", record.name), record.getMessage(), {**_bound.get(), **extra}


def _cut(text: str, limit: int = MAX_FIELD_CHARS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _error_of(record: logging.LogRecord) -> tuple[str | None, str | None]:
    """The error in one line, and its traceback when the level is worth one."""
    if not record.exc_info or record.exc_info[1] is None:
        return None, None
    error = record.exc_info[1]
    line = _cut(f"{type(error).__name__}: {error}")
    if record.levelno < logging.ERROR:
        return line, None
    import traceback  # noqa: PLC0415 - most starts never need it

    whole = "".join(traceback.format_exception(error, limit=-30)).rstrip()
    # The end says what happened.
    return line, whole if len(whole) <= MAX_TRACEBACK_CHARS else f"…{whole[-MAX_TRACEBACK_CHARS:]}"


class _Json(logging.Formatter):
    # Lines come many to a second.
    _second = 0
    _second_shown = ""

    def format(self, record: logging.LogRecord) -> str:
        action, message, fields = _fields_of(record)
        second = int(record.created)
        if second != self._second:
            self._second, self._second_shown = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        line: dict[str, Field] = {
            "at": f"{self._second_shown}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "action": action,
            "logger": record.name,
        }
        if message:
            line["message"] = _cut(message)
        for name, value in fields.items():
            line.setdefault(name, _plain(value))
        error, trace = _error_of(record)
        if error is not None:
            line["error"] = error
        if trace is not None:
            line["traceback"] = trace
        encoded = msgspec.json.encode(line)
        if len(encoded) > MAX_LINE_BYTES:
            # Too many fields: what identifies the event stays, and the line stays JSON.
            kept = {name: line[name] for name in ("at", "level", "action", "logger")}
            encoded = msgspec.json.encode({**kept, "cut_bytes": len(encoded)})
        return encoded.decode()


def _plain(value: object) -> Field:
    if isinstance(value, str):
        # msgspec refuses lone surrogates.
        return _cut(value) if value.isascii() else _cut(value).encode("utf-8", "replace").decode()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return _cut(str(value))


_COLOURS = {"debug": "2", "info": "36", "warning": "33", "error": "31", "critical": "31;1"}


class _Human(logging.Formatter):
    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        action, message, fields = _fields_of(record)
        level = record.levelname.lower()
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        error, trace = _error_of(record)
        words = [self._paint(f"{clock}.{int(record.msecs):03d}", "2"), self._paint(f"{level:<7}", _COLOURS[level])]
        words.append(self._paint(action, "1"))
        if message:
            words.append(_one_line(_cut(message)))
        words += [f"{self._paint(name + '=', '2')}{_one_line(str(_plain(value)))}" for name, value in fields.items()]
        if error is not None:
            words.append(_one_line(error))
        line = "  ".join(words)
        if len(line) > MAX_LINE_BYTES // 4:
            line = _cut(line, MAX_LINE_BYTES // 4)
        if trace is not None:
            # The one thing that reads better on several lines; indented, so that an event still begins at the left.
            line += "".join(f"\n    {self._paint(row, '2')}" for row in trace.splitlines())
        return line

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._coloured else text


def _one_line(text: str) -> str:
    """Nobody writes a second event, or to the terminal itself, through a value."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# --- the stream


class _Lines(logging.Handler):
    """Writes lines to a descriptor without ever waiting for it.

    A pipe that nobody reads would block the event loop, and with it the server, at the first full buffer. So a line is
    written in pieces that a writable descriptor takes at once; what does not go now goes before the next line, and when
    too much waits the oldest lines are dropped and counted.
    """

    def __init__(self, fd: int, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._fd = fd
        self._secrets = secrets
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            for secret in self._secrets:
                if secret in line:
                    line = line.replace(secret, "***")
            self._waiting.append(line.encode("utf-8", "replace") + b"\n")
            self._write_what_goes()
        except Exception:  # a line is never worth the request that it tells of
            self._dropped += 1

    def _write_what_goes(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            written = 0
            while written < len(line) and self._is_writable():
                try:
                    written += os.write(self._fd, line[written : written + _PIECE_BYTES])
                except BlockingIOError:
                    break
                except OSError:  # closed, or its reader is gone: nobody will ever read these
                    self._dropped += len(self._waiting)
                    self._waiting.clear()
                    return
            if written < len(line):
                self._waiting[0] = line[written:]
                break
            self._waiting.popleft()
        while len(self._waiting) > MAX_WAITING_LINES:
            # Not the first: it may be half written, and its second half alone would be no line.
            del self._waiting[1]
            self._dropped += 1
        if self._dropped and not self._waiting:
            dropped, self._dropped = self._dropped, 0
            note = logging.LogRecord("threadkeep.logs", logging.WARNING, "", 0, "", None, None)
            note.__dict__["action"] = "log_lines_dropped"
            note.__dict__["fields"] = {"count": dropped}
            self._waiting.append(self.format(note).encode() + b"\n")
            self._write_what_goes()

    def _is_writable(self) -> bool:
        if self._poll is None:
            return True
        return bool(self._poll.poll(0))
