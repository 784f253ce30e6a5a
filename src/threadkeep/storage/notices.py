"""What nodes tell each other through PostgreSQL's NOTIFY: hints, soon and in order. What counts stands in the tables.

Never part of a transaction that writes: a NOTIFY takes a lock of the whole cluster from its commit's beginning to its
end. A thread with a connection of its own says what was told since it last spoke, in one statement; another listens.
"""

from __future__ import annotations

import asyncio
import hashlib
import select
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from threadkeep.logs import Log
from threadkeep.storage.schema import PostgresPlace, place_of

if TYPE_CHECKING:
    import psycopg

log = Log(__name__)

# From node, key, body.
Hear = Callable[[str, str, str], None]

# What is told within this time after a statement goes into the next one: one NOTIFY for each word of a model would
# be more than PostgreSQL passes on.
BATCH_S = 0.012
# Of a payload; PostgreSQL takes less than 8,000.
MAX_PAYLOAD_BYTES = 7_999
# What may wait to be sent, and what may wait to be heard. More is dropped, and whoever listens learns of the gap.
MAX_WAITING_BYTES = 8 << 20
# Parts of a batch whose end has not come yet, of all nodes together.
MAX_PARTS_BYTES = 16 << 20
# What a notice, or a batch, costs beside its text.
OVERHEAD_BYTES = 200
# Between attempts to reach a database that is away.
PAUSE_S = 0.5
# Nodes whose last batch's number is remembered. They come and go under new names.
MAX_SOURCES = 1_000
# At most this long is waited for a thread that hangs in a dead connection.
_PATIENCE_S = 6.0

_ALL = "threadkeep"


class Notices(Protocol):
    """What nodes tell each other through the database, soon and in order.

    Hints only: a node may miss some, and what is missed stands in the tables. Nobody hears himself.
    """

    node: str

    def tell(self, topic: str, key: str = "", body: str = "", *, to: str | None = None) -> None:
        """Tells all other nodes, or one of them; returns at once, from any thread.

        Nothing is kept for a database that is away: a hint is of use now or not at all.
        """
        ...

    def on(self, topic: str, hear: Hear) -> None:
        """``hear`` is called on the event loop with the node that told, the key and the body."""
        ...

    def on_gap(self, hear: Callable[[], None]) -> None:
        """``hear`` is called on the event loop when something may have been missed, and whenever listening begins."""
        ...

    async def close(self) -> None:
        """Says what is still to be said, if that can be done at once, and hears nothing any more."""
        ...


def open_notices(database_url: str | None, node: str) -> Notices:
    """The notices of the node, in the running event loop. On an embedded database it is the only one."""
    place = None if database_url is None else place_of(database_url, Path())
    return PostgresNotices(place.url, node) if isinstance(place, PostgresPlace) else Alone(node)


class Alone:
    """Of the only node: there is nobody to talk to. See `Notices`."""

    def __init__(self, node: str) -> None:
        self.node = node

    def tell(self, topic: str, key: str = "", body: str = "", *, to: str | None = None) -> None:
        pass

    def on(self, topic: str, hear: Hear) -> None:
        pass

    def on_gap(self, hear: Callable[[], None]) -> None:
        pass

    async def close(self) -> None:
        pass


class Notice(NamedTuple):
    topic: str
    key: str
    body: str

    @property
    def size(self) -> int:
        # Nearly: what is written is longer where it has characters beyond ASCII.
        return len(self.topic) + len(self.key) + len(self.body) + OVERHEAD_BYTES


class PostgresNotices:
    """See `Notices`."""

    def __init__(self, url: str, node: str) -> None:
        self.node = node
        self._url = url
        self._loop = asyncio.get_running_loop()
        self._hears: dict[str, list[Hear]] = {}
        self._hear_gaps: list[Callable[[], None]] = []
        self._closed = threading.Event()
        # What is to be said, by channel. What is for all and what is for one keep their order: a new stretch begins
        # where they alternate.
        self._stretches: deque[dict[str, list[Notice]]] = deque()
        self._waiting_bytes = 0
        self._told = threading.Condition()
        # Channels to which something was not said: their next batch skips a number.
        self._omitted: set[str] = set()
        # What was heard and has not reached the event loop yet; None: there may be a gap.
        self._heard: deque[Heard | None] = deque()
        self._heard_bytes = 0
        self._is_awake = False
        self._hearing = threading.Lock()
        self._connections: dict[str, psycopg.Connection[Any]] = {}
        self._threads = [
            threading.Thread(target=work, args=(name,), name=f"notices-{name}", daemon=True)
            for name, work in (("speak", self._speak), ("listen", self._listen))
        ]
        for thread in self._threads:
            thread.start()

    def tell(self, topic: str, key: str = "", body: str = "", *, to: str | None = None) -> None:
        notice = Notice(topic, key, body)
        channel = _ALL if to is None else channel_of(to)
        if to == self.node or self._closed.is_set():
            return
        with self._told:
            if self._waiting_bytes + notice.size > MAX_WAITING_BYTES:
                self._omitted.add(channel)
                return
            self._waiting_bytes += notice.size
            stretches = self._stretches
            if not stretches or (_ALL in stretches[-1]) != (channel == _ALL):
                stretches.append({})
            stretches[-1].setdefault(channel, []).append(notice)
            self._told.notify()

    def on(self, topic: str, hear: Hear) -> None:
        self._hears.setdefault(topic, []).append(hear)

    def on_gap(self, hear: Callable[[], None]) -> None:
        self._hear_gaps.append(hear)

    async def close(self) -> None:
        if self._closed.is_set():
            return
        self._closed.set()
        with self._told:
            self._told.notify()
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        speaking, listening = self._threads
        # What was told last is worth a moment; a connection that hangs is not.
        self._cut("listen")
        speaking.join(1.0)
        self._cut("speak")
        until = time.monotonic() + _PATIENCE_S
        for thread in (speaking, listening):
            thread.join(max(0.0, until - time.monotonic()))

    def _cut(self, name: str) -> None:
        """Ends the connection under the thread that waits for it."""
        if (connection := self._connections.get(name)) is not None:
            from threadkeep.storage.postgres import cut  # noqa: PLC0415 - the embedded shape does without

            cut(connection)

    # --- speaking, in a thread

    def _speak(self, name: str) -> None:
        numbers = Numbers()
        last_spoken = 0.0
        is_away = False
        while True:
            with self._told:
                while not self._stretches and not self._closed.is_set():
                    self._told.wait()
                if not self._stretches:
                    break
            # Whoever is the first for a while is not made to wait.
            if (pause_s := last_spoken + BATCH_S - time.monotonic()) > 0:
                time.sleep(pause_s)
            last_spoken = time.monotonic()
            try:
                self._say(name, self._take(numbers))
                if is_away:
                    is_away = False
                    log.info("notices_spoken_again")
            except Exception as error:
                # The batches had their numbers: whoever listens learns that something is missing.
                self._forget(name)
                if self._closed.is_set():
                    break
                if not is_away:
                    is_away = True
                    log.warning("notices_not_spoken", error=error)
                self._closed.wait(PAUSE_S)
                # What was told meanwhile is no news by the time it could be said.
                self._take(numbers)
        self._forget(name)

    def _take(self, numbers: Numbers) -> list[tuple[str, str]]:
        """What is to be said, as channels with payloads."""
        with self._told:
            stretches, omitted = list(self._stretches), self._omitted
            self._stretches.clear()
            self._omitted = set()
            self._waiting_bytes = 0
        batches = [batch for stretch in stretches for batch in stretch.items()]
        said = [
            (channel, payload)
            for channel, notices in batches
            for payload in payloads_of(self.node, numbers.next(channel), notices)
        ]
        for channel in omitted:
            numbers.next(channel)
            # Nothing, under the number after the next: the gap is heard at once.
            said += [(channel, payload) for payload in payloads_of(self.node, numbers.next(channel), [])]
        return said

    def _say(self, name: str, said: list[tuple[str, str]]) -> None:
        connection = self._connections.get(name)
        if connection is None:
            connection = self._connected(name)
            # A hint need not outlive the server's power.
            connection.execute("SET synchronous_commit = off")
        channels, payloads = zip(*said, strict=True)
        # `unnest` keeps the order, and so does the database.
        connection.execute(
            "SELECT pg_notify(c, p) FROM unnest(%s::text[], %s::text[]) AS said(c, p)", [list(channels), list(payloads)]
        )

    def _connected(self, name: str) -> psycopg.Connection[Any]:
        from threadkeep.storage.postgres import connect  # noqa: PLC0415 - the embedded shape does without

        self._connections[name] = connection = connect(self._url)
        return connection

    def _forget(self, name: str) -> None:
        if (connection := self._connections.pop(name, None)) is not None:
            connection.close()

    # --- listening, in a thread

    def _listen(self, name: str) -> None:
        from psycopg import sql  # noqa: PLC0415 - the embedded shape does without

        is_away = False
        while not self._closed.is_set():
            try:
                connection = self._connected(name)
                for channel in (_ALL, channel_of(self.node)):
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                if is_away:
                    is_away = False
                    log.info("notices_heard_again")
                self._pass_on(None)
                self._hear_out(connection)
            except Exception as error:
                # Whatever it was, the thread outlives it: polling alone is slow.
                if not is_away and not self._closed.is_set():
                    is_away = True
                    log.warning("notices_not_heard", error=error)
            self._forget(name)
            self._closed.wait(PAUSE_S)

    def _hear_out(self, connection: psycopg.Connection[Any]) -> None:
        """Passes on what comes, until it is closed or the connection breaks."""
        batches = Batches(self.node)
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        # What came together with an answer is there already.
        while not self._closed.is_set():
            for notify in connection.notifies(timeout=0):
                heard, is_gap = batches.feed(notify.channel, notify.payload)
                if is_gap:
                    self._pass_on(None)
                if heard is not None:
                    self._pass_on(heard)
            poll.poll()

    def _pass_on(self, heard: Heard | None) -> None:
        with self._hearing:
            if heard is not None and self._heard_bytes + heard.size > MAX_WAITING_BYTES:
                heard = None
            if heard is None:
                if self._heard and self._heard[-1] is None:
                    return
            else:
                self._heard_bytes += heard.size
            self._heard.append(heard)
            if self._is_awake:
                return
            self._is_awake = True
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # The loop is closed: nobody listens any more.
            self._heard.clear()

    def _deliver(self) -> None:
        with self._hearing:
            waiting = list(self._heard)
            self._heard.clear()
            self._heard_bytes = 0
            self._is_awake = False
        if self._closed.is_set():
            return
        for heard in waiting:
            if heard is None:
                for hear_gap in self._hear_gaps:
                    _call(hear_gap)
                continue
            for topic, key, body in heard.notices:
                for hear in self._hears.get(topic, ()):
                    _call(hear, heard.node, key, body)


def _call(hear: Callable[..., None], *said: str) -> None:
    try:
        hear(*said)
    except Exception as error:
        log.error("notice_failed", error=error)


def channel_of(node: str) -> str:
    """The channel that only the node listens to. An identifier has 63 bytes at most, a host's name may have more."""
    return f"{_ALL}_{hashlib.sha256(node.encode()).hexdigest()[:24]}"


# --- payloads: `node number part parts ` and a part of the batch's JSON


def payloads_of(node: str, number: int, notices: Sequence[Notice]) -> Iterator[str]:
    """A batch as payloads that PostgreSQL takes. The number makes each different: of two equal ones it drops one."""
    batch = msgspec.json.encode(notices)
    room = MAX_PAYLOAD_BYTES - len(f"{node} {number} 999999 999999 ".encode())
    cuts = [0]
    while cuts[-1] < len(batch):
        cut = min(cuts[-1] + room, len(batch))
        # Not within a character.
        while cut < len(batch) and batch[cut] & 0xC0 == 0x80:
            cut -= 1
        cuts.append(cut)
    parts = len(cuts) - 1
    for part in range(parts):
        yield f"{node} {number} {part} {parts} {batch[cuts[part] : cuts[part + 1]].decode()}"


class Numbers:
    """The numbers of batches, for each channel from 1 on."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, int] = OrderedDict()

    def next(self, channel: str) -> int:
        self._last[channel] = number = self._last.get(channel, 0) + 1
        self._last.move_to_end(channel)
        if len(self._last) > MAX_SOURCES:
            # Should that node still be there, it hears of a gap that is none.
            self._last.popitem(last=False)
        return number


class Heard(NamedTuple):
    """A batch, whole."""

    node: str
    notices: list[Notice]
    size: int


class Torn:
    """The parts of a batch that have come so far."""

    __slots__ = ("number", "size", "texts")

    def __init__(self, number: int) -> None:
        self.number = number
        self.texts: list[str] = []
        self.size = 0


_decoder = msgspec.json.Decoder(list[Notice])


class Batches:
    """Puts payloads together again, and knows when some are missing. Of one connection: a new one begins anew."""

    def __init__(self, node: str) -> None:
        self._node = node
        # The last batch's number, by node and channel; whoever was heard last stands at the end.
        self._numbers: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._torn: OrderedDict[tuple[str, str], Torn] = OrderedDict()
        self._torn_bytes = 0

    def feed(self, channel: str, payload: str) -> tuple[Heard | None, bool]:
        """The batch that is whole with the payload, and whether something before it was missing."""
        try:
            node, number_, part_, parts_, text = payload.split(" ", 4)
            number, part, parts = int(number_), int(part_), int(parts_)
        except ValueError:
            # Somebody else's: a database may be used by others too.
            return None, False
        if node == self._node:
            return None, False
        source, is_gap = (node, channel), False
        if part == 0:
            is_torn = self._drop(source)
            is_gap = is_torn or self._numbers.get(source, number - 1) != number - 1
            self._numbers[source] = number
            self._numbers.move_to_end(source)
            if len(self._numbers) > MAX_SOURCES:
                self._numbers.popitem(last=False)
        if parts > 1:
            torn = self._torn.setdefault(source, Torn(number))
            if torn.number != number or len(torn.texts) != part:
                self._drop(source)
                return None, True
            torn.texts.append(text)
            torn.size += len(text)
            self._torn_bytes += len(text)
            while self._torn_bytes > MAX_PARTS_BYTES:
                is_gap = self._drop(next(iter(self._torn)))
            if part + 1 < parts:
                return None, is_gap
            text = "".join(torn.texts)
            if not self._drop(source):
                # It alone was too much.
                return None, True
        try:
            return Heard(node, _decoder.decode(text), len(text) + OVERHEAD_BYTES), is_gap
        except msgspec.MsgspecError:
            # A later version's, perhaps.
            return None, True

    def _drop(self, source: tuple[str, str]) -> bool:
        """Whether there was something."""
        if (torn := self._torn.pop(source, None)) is None:
            return False
        self._torn_bytes -= torn.size
        return True
