"""Server-sent events from bytes, for streams of many small events.

The outcome is independent of how the network splits the bytes. The usual read, one or more whole
``data: …\\n\\n`` blocks, costs one split and one slice per event; everything else takes the slow road.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    """One event exceeds the limit: the peer does not speak event streams, or means harm."""


class EventParser:
    """``feed`` every read, then ``end`` once. Both return the ``data`` of the events that became complete, in order.

    Event names and ids are dropped: Chat Completions has no use for them. A field ``error:`` counts as data, because
    old llama.cpp servers report failures with it.
    """

    __slots__ = ("_after_cr", "_held", "_held_bytes", "_limit", "_started")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        # The beginning of an event whose end has not come yet, in the pieces as they came: joining at every read
        # would make a large event cost its square.
        self._held: list[bytes] = []
        self._held_bytes = 0
        # The previous read ended in CR, already taken for a line end: a LF that begins the next read belongs to it.
        self._after_cr = False
        self._started = False

    def feed(self, read: bytes) -> list[bytes]:
        if not self._started or self._after_cr or b"\r" in read:
            read = self._normalise(read)
        held = self._held
        if held:
            if b"\n\n" not in read and not (read.startswith(b"\n") and held[-1].endswith(b"\n")):
                self._hold(read)
                return []
            held.append(read)
            read = b"".join(held)
            held.clear()
            self._held_bytes = 0
        events = read.split(b"\n\n")
        rest = events.pop()
        if rest:
            self._hold(rest)
        found: list[bytes] = []
        for event in events:
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif (data := _data(event)) is not None:
                found.append(data)
        return found

    def end(self) -> list[bytes]:
        """The stream has ended. A last event without its blank line is handed out too; whether it is whole is for
        the reader of its JSON to see."""
        event = b"".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        data = _data(event) if event else None
        return [] if data is None else [data]

    def _hold(self, piece: bytes) -> None:
        if not piece:
            return
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > self._limit:
            raise EventTooLarge

    def _normalise(self, read: bytes) -> bytes:
        """Makes LF the only line end, and takes a byte order mark off the beginning."""
        if not self._started:
            # Held back until it can't be a byte order mark any more: three bytes at most.
            read = b"".join(self._held) + read
            self._held.clear()
            self._held_bytes = 0
            if len(read) < len(_BOM) and _BOM.startswith(read):
                self._hold(read)
                return b""
            self._started = True
            read = read.removeprefix(_BOM)
        if self._after_cr and read:
            self._after_cr = False
            read = read.removeprefix(b"\n")
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return read


def _data(event: bytes) -> bytes | None:
    """The ``data`` of one event, its lines joined by LF; None for an event without any (comments, pings)."""
    lines: list[bytes] = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data" or name == b"error":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
