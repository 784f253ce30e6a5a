"""Where the events of a run can be followed from: this node's logs, another node's, or the stored objects.

    Follower ─┬─ a log of this node: of a run that is executed here, or was
              ├─ a mirror: a log that another node fills, one for all readers here
              └─ the run told again from the store, where no node has the log any more

Logs are stretches of a run's life. A follower goes from one to the next by number, wherever that is. Nodes ask each
other by notices, which may be lost: who asks asks again, and the store is looked at beneath it.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from threadkeep.contract.errors import InvalidRequest, NotFound, Unavailable
from threadkeep.contract.events import RUN_EVENTS, Event, EventName, EventObject, object_of
from threadkeep.contract.run_status import TERMINAL
from threadkeep.contract.runs import Run
from threadkeep.logs import Log
from threadkeep.runs.follow import KIND, EventLog
from threadkeep.runs.retelling import Retold, is_settled, last_told, retell
from threadkeep.storage.notices import Alone, Notices
from threadkeep.storage.store import Store, Transaction
from threadkeep.storage.work import EPOCH, Followed

log = Log(__name__)

# How often the store is looked at for a run that no node executes, or whose node does not answer.
LOOK_S: Final = 0.5
# How long a node may take to say that it has a log. Who has the lease has it; of a run that is over anybody may.
ANSWER_S: Final = 0.5
ANYBODY_S: Final = 0.15
# A mirror says this often that it is still read, and is sent nothing more when it has not said so for a while.
RENEW_S: Final = 2.0
FORGET_S: Final = 6.0
# A node that is silent for so long, though asked, does not fill its mirrors any more.
SILENT_S: Final = 3 * RENEW_S
# How much is sent in one notice, and how much before the mirror has said that it arrived.
BATCH_BYTES: Final = 64 * 1024
WINDOW_BYTES: Final = 512 * 1024
# What comes within this time goes in one notice.
GATHER_S: Final = 0.01
# Finished logs are kept up to this much together, the oldest go first.
KEPT_BYTES: Final = 16 * 1024 * 1024

# What the stream of a run is told that does not end here.
SHUTTING_DOWN: Final = (
    "The server is shutting down. The run goes on; join its stream again, or poll it, for the answer."
)
THREAD_DELETED: Final = "The thread was deleted."
_BEGUN_ELSEWHERE: Final = "The run is executed at another node."
_UNREAD: Final = "Nobody reads it."

_SILENT: Final = "The node that executes the run says nothing."
_GONE: Final = "The node that executed the run has its events no more."
# In place of the number of the last event: there is no such log.
_ABSENT: Final = -1
# How many events are put into one notice, however short they are.
_BATCH_EVENTS: Final = 1_000
# What is missing is not asked for again before an answer can have come.
_ANEW_S: Final = 0.1
# A mirror that was made a moment ago may find its first reader yet.
_YOUNG_S: Final = 1.0
# How long the beginning of a run is, up to where it is queued: with the thread, if it was made with it.
_BEGINNING: Final = 3

_TOLD: Final = "stream.told"
_FOLLOW: Final = "stream.follow"
_WHO: Final = "stream.who"
_HAVE: Final = "stream.have"
_TAKEN: Final = "run.taken"
_ENDS: Final = {RUN_EVENTS[status] for status in TERMINAL}


class _Ask(msgspec.Struct):
    """A mirror wants what comes after a number, or says that it has everything up to there."""

    mirror: str
    after: int
    # Whether it is to be sent from there on, whatever was sent already.
    anew: bool = False


class _Batch(msgspec.Struct):
    """Events for a mirror, numbered from behind ``base`` on."""

    mirror: str
    base: int
    events: list[tuple[EventName, msgspec.Raw]]
    # The number of the last event of the log.
    last: int
    closed: bool = False
    failure: str | None = None


_encoder: Final = msgspec.json.Encoder()
_read_ask: Final = msgspec.json.Decoder(_Ask)
_read_batch: Final = msgspec.json.Decoder(_Batch)
_readers: Final[dict[type[EventObject], msgspec.json.Decoder[EventObject]]] = {}


def _said(body: msgspec.Struct) -> str:
    return _encoder.encode(body).decode()


def _event(name: EventName, raw: msgspec.Raw) -> Event:
    kind = object_of(name)
    reader = _readers.get(kind)
    if reader is None:
        reader = _readers[kind] = msgspec.json.Decoder(kind)
    return Event(name, reader.decode(raw))


class Mirror(EventLog):
    """A log that another node has."""

    __slots__ = (
        "_asked_at",
        "_heard_at",
        "_made_at",
        "_notices",
        "_opening",
        "_unacknowledged",
        "heard_last",
        "node",
        "readers",
        "run_id",
        "token",
    )

    def __init__(
        self, notices: Notices, run_id: str, position: int, node: str, on_close: Callable[[EventLog], object]
    ) -> None:
        super().__init__(position, on_close)
        self.is_followed = True
        self.run_id = run_id
        self.node = node
        self.token = secrets.token_hex(8)
        self.readers = 0
        # How far the log was when it was heard of last.
        self.heard_last = position
        self._notices = notices
        self._opening: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._made_at = self._heard_at = time.monotonic()
        self._asked_at = 0.0
        self._unacknowledged = 0

    @property
    def is_open(self) -> bool:
        """Whether the other node has said something."""
        return self._opening.done()

    @property
    def is_unread(self) -> bool:
        return not self.readers and time.monotonic() - self._made_at > _YOUNG_S

    @property
    def is_silent(self) -> bool:
        """Whether the other node was asked in vain."""
        return time.monotonic() - self._heard_at > SILENT_S

    async def opened(self) -> bool:
        """Whether the other node has such a log, and says so soon."""
        try:
            return await asyncio.wait_for(self._opening, ANSWER_S)
        except TimeoutError:
            return False

    def begin(self, batch: _Batch) -> bool:
        """The first answer; whether there is such a log."""
        if not self._opening.cancelled():
            self._opening.set_result(batch.last != _ABSENT)
        # What was asked for may be older than the log.
        self.base = batch.base
        return batch.last != _ABSENT

    def ask(self, *, anew: bool = False) -> None:
        """Says how far it is; ``anew``: something is missing."""
        now = time.monotonic()
        if anew:
            if now - self._asked_at < _ANEW_S:
                # What was sent since the last time has to arrive first.
                return
            self._asked_at = now
        self._unacknowledged = 0
        self._notices.tell(_FOLLOW, self.run_id, _said(_Ask(self.token, self.last, anew)), to=self.node)

    def doubt(self) -> None:
        """The other node may not be there any more: if it says nothing, this log ends."""
        doubted_at = time.monotonic()

        def give_up() -> None:
            if self._heard_at < doubted_at:
                self.close(_SILENT)

        self._asked_at = 0.0
        self.ask(anew=True)
        asyncio.get_running_loop().call_later(ANSWER_S, give_up)

    def hear(self, batch: _Batch, size: int) -> None:
        """Takes what is new; asks for what is missing."""
        if self.closed:
            return
        self._heard_at = time.monotonic()
        if batch.last == _ABSENT:
            # It had the log, and stops: that is not the end of the run.
            self.close(_GONE)
            return
        self.heard_last = batch.last
        if batch.base > self.last:
            self.ask(anew=True)
            return
        self.append([_event(name, raw) for name, raw in batch.events[self.last - batch.base :]])
        if batch.closed and self.last >= batch.last:
            self.close(batch.failure)
            return
        self._unacknowledged += size
        if self._unacknowledged > WINDOW_BYTES // 4:
            self.ask()


class _Sender:
    """Sends a log to one mirror, for as long as that says that it is read."""

    def __init__(self, notices: Notices, node: str, run_id: str, events: EventLog, asked: _Ask) -> None:
        self._notices = notices
        self._node = node
        self._run_id = run_id
        self._events = events
        self._mirror = asked.mirror
        # Up to which number it was sent.
        self._sent = self._start(asked.after)
        self._end_sent = False
        self._until = time.monotonic() + FORGET_S
        self._sent_at = 0.0
        # What is on its way: up to which number, and how long it was.
        self._on_its_way: deque[tuple[int, int]] = deque()
        self._asked = asyncio.Event()

    def heed(self, asked: _Ask) -> None:
        """The mirror says how far it is."""
        now = time.monotonic()
        self._until = now + FORGET_S
        while self._on_its_way and self._on_its_way[0][0] <= asked.after:
            self._on_its_way.popleft()
        if asked.anew or (asked.after < self._sent and now - self._sent_at > RENEW_S / 2):
            self._sent, self._end_sent = self._start(asked.after), False
            self._on_its_way.clear()
        sent_at = self._sent_at
        self._send_some()
        if self._sent_at == sent_at and (asked.anew or now - sent_at > RENEW_S / 2):
            # Nothing new: that the node is still there is worth a word.
            self._tell(self._sent, [])
        self._asked.set()

    async def send(self) -> None:
        """Sends what comes, until nobody says any more that he reads it."""
        events = self._events
        self._tell_next()
        while (left_s := self._until - time.monotonic()) > 0:
            # What comes within a moment goes together.
            await asyncio.sleep(GATHER_S)
            self._send_some()
            self._asked.clear()
            waits = self._asked.wait() if self._end_sent or self._sent < events.last else events.wait(self._sent)
            try:
                await asyncio.wait_for(waits, left_s)
            except TimeoutError:
                continue

    def _start(self, after: int) -> int:
        return min(max(after, self._events.base), self._events.last)

    def _send_some(self) -> None:
        events = self._events
        while not self._end_sent and (self._sent < events.last or events.closed):
            if sum(size for _, size in self._on_its_way) >= WINDOW_BYTES:
                return
            self._tell_next()

    def _tell_next(self) -> None:
        base, size, said = self._sent, 0, list[tuple[EventName, msgspec.Raw]]()
        for event in self._events.since(base, _BATCH_EVENTS):
            raw = _encoder.encode(event.object)
            said.append((event.name, msgspec.Raw(raw)))
            size += len(raw)
            if size > BATCH_BYTES:
                break
        self._sent = base + len(said)
        if said:
            self._on_its_way.append((self._sent, size))
        self._tell(base, said)

    def _tell(self, base: int, said: list[tuple[EventName, msgspec.Raw]]) -> None:
        events = self._events
        self._end_sent = events.closed and self._sent == events.last
        failure = events.failure if self._end_sent else None
        batch = _Batch(self._mirror, base, said, events.last, closed=self._end_sent, failure=failure)
        self._sent_at = time.monotonic()
        self._notices.tell(_TOLD, self._run_id, _said(batch), to=self._node)


class Ended(NamedTuple):
    """There is nothing more to follow: the run has ended, or waits for its client; or, with a failure, why else."""

    failure: str | None = None


class _Look(NamedTuple):
    """What the store has of a run."""

    run: Run
    # Of a run that is settled the number of its last event, where that is known.
    last: int | None
    followed: Followed | None


class Streams:
    """The logs of this node, and the ways to those of others."""

    def __init__(self, store: Store, notices: Notices, *, retention_s: float) -> None:
        self._store = store
        self._notices = notices
        self._retention_s = retention_s
        self.is_closed = False
        # By run, in the order in which they were begun.
        self._logs: dict[str, list[EventLog]] = {}
        # Finished ones that may be asked for again: until when, of which run, and how large they are.
        self._kept: deque[tuple[float, str, EventLog, int]] = deque()
        self._kept_bytes = 0
        self._dropping: asyncio.TimerHandle | None = None
        # Followers who wait for a log of their run.
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._mirrors: dict[str, Mirror] = {}
        self._tending: asyncio.Task[None] | None = None
        # One at a time asks for a log of a run: the others then find what it found.
        self._asking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        # Who has a log: by the name of the question.
        self._questions: dict[str, asyncio.Future[str]] = {}
        self._senders: dict[tuple[str, str], tuple[_Sender, asyncio.Task[None]]] = {}
        notices.on(_FOLLOW, self._hear_ask)
        notices.on(_TOLD, self._hear_batch)
        notices.on(_WHO, self._hear_question)
        notices.on(_HAVE, self._hear_answer)
        notices.on(_TAKEN, self._hear_taken)
        notices.on_gap(self._ask_anew)

    def open(self, run_id: str, base: int = 0) -> EventLog:
        """A log of this node, of what is told of the run from behind number ``base`` on."""
        opened = EventLog(base, partial(self._closed, run_id))
        self._add(run_id, opened)
        return opened

    def begun_elsewhere(self, events: EventLog) -> None:
        """No node has room for the run yet; whichever will have it goes on behind ``events``."""
        events.close(_BEGUN_ELSEWHERE)

    def take_over(self, run_id: str, base: int) -> EventLog:
        """As ``open``, of a run that this node executes from now on, and did not begin."""
        opened = self.open(run_id, base)
        # Its listener may be at the node that began it, and ask for it when it is over already.
        opened.is_followed = not self.is_alone
        self._doubt(run_id, self._notices.node)
        self._notices.tell(_TAKEN, run_id)
        return opened

    def follow(self, project: str, run: Run, begun: EventLog) -> "Follower":
        """A run that another node executes, until it ends or waits for its client the first time; ``begun``: how it
        begins."""
        return Follower(self, self._store, project, run.thread_id, run.id, begun=begun)

    async def join(self, project: str, thread_id: str, run_id: str, position: int) -> "Follower":
        """A run from behind number ``position`` on, wherever it is; refused when there is no such number yet."""
        look = await self._store.read(project, lambda tx: _look(tx, thread_id, run_id))
        follower = Follower(self, self._store, project, thread_id, run_id)
        if self.find(run_id, position) is None:
            await self._check(look, position)
        return follower

    async def _check(self, look: _Look, position: int) -> None:
        run_id = look.run.id
        last = look.last
        if last is None and not is_settled(look.run):
            node = None if look.followed is None else self.elsewhere(look.followed)
            here = [
                each.last for each in self._logs.get(run_id, ()) if not each.closed and not isinstance(each, Mirror)
            ]
            # A log of ours may be one of a run that we have lost and do not know it yet.
            if here and node is None:
                last = max(here)
            elif look.followed is not None:
                mirror = None if node is None else await self.mirror(run_id, position, node)
                # Up to here a node that died may have told.
                epoch_end = (look.followed.told // EPOCH + 1) * EPOCH - 1
                last = epoch_end if mirror is None else mirror.heard_last if isinstance(mirror, Mirror) else mirror.last
        if last is not None and position > last:
            raise InvalidRequest(
                f"Invalid number of an event: {position}. The last event of run {run_id} has the number {last}.",
                code="invalid_value",
            )

    def find(self, run_id: str, position: int) -> EventLog | None:
        """A log in which to go on behind number ``position``."""
        return next((each for each in reversed(self._logs.get(run_id, ())) if each.holds(position)), None)

    def ahead(self, run_id: str, position: int) -> int | None:
        """Behind which number a log begins, that has nothing of what comes directly after ``position``."""
        return min((each.base for each in self._logs.get(run_id, ()) if each.base > position), default=None)

    async def mirror(self, run_id: str, position: int, node: str | None) -> EventLog | None:
        """The log that ``node``, or any node, has of the run behind ``position``, or later; None: it says nothing."""
        async with self._asking.setdefault(run_id, asyncio.Lock()):
            # Another reader may have asked meanwhile.
            if (found := self.find(run_id, position) or self._later_mirror(run_id, position, node)) is not None:
                return found
            if node is None and (node := await self._anybody(run_id, position)) is None:
                return None
            mirror = Mirror(self._notices, run_id, position, node, partial(self._closed, run_id))
            self._mirrors[mirror.token] = mirror
            mirror.ask()
            is_open = False
            try:
                is_open = await mirror.opened()
            finally:
                # Also when whoever asked has left meanwhile: what was heard for him is nobody's.
                if not is_open:
                    mirror.close(_UNREAD)
                    self._mirrors.pop(mirror.token, None)
            if not is_open:
                return None
            if self._tending is None:
                self._tending = asyncio.create_task(self._tend())
            return mirror

    def _later_mirror(self, run_id: str, position: int, node: str | None) -> Mirror | None:
        mirrors = (each for each in self._logs.get(run_id, ()) if isinstance(each, Mirror) and not each.closed)
        return next((each for each in mirrors if each.node == node and each.base > position), None)

    @property
    def is_alone(self) -> bool:
        """Whether there are no other nodes."""
        return isinstance(self._notices, Alone)

    def elsewhere(self, followed: Followed) -> str | None:
        """The other node that executes the run."""
        is_elsewhere = followed.is_live and followed.node != self._notices.node
        return followed.node if is_elsewhere and not self.is_alone else None

    async def wait(self, run_id: str, arrival: "asyncio.Future[None]") -> None:
        """Returns when there is a log of the run on this node that was not there when ``arrival`` was made, when a node
        has begun with it, or after a while."""
        try:
            await asyncio.wait((arrival,), timeout=LOOK_S)
        finally:
            self.forget(run_id, arrival)

    def arrival(self, run_id: str) -> "asyncio.Future[None]":
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(run_id, set()).add(made)
        return made

    def forget(self, run_id: str, arrival: "asyncio.Future[None]") -> None:
        if (waiting := self._waiting.get(run_id)) is not None:
            waiting.discard(arrival)
            if not waiting:
                del self._waiting[run_id]

    async def close(self) -> None:
        """Lets all followers go; the runs go on."""
        self.is_closed = True
        for mirror in [*self._mirrors.values()]:
            mirror.close(SHUTTING_DOWN)
        for run_id in [*self._waiting]:
            self._wake(run_id)
        if self._dropping is not None:
            self._dropping.cancel()
        tasks = [task for _, task in self._senders.values()]
        if self._tending is not None:
            tasks.append(self._tending)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- which logs there are

    def _add(self, run_id: str, events: EventLog) -> None:
        self._logs.setdefault(run_id, []).append(events)
        if self._waiting:
            self._wake(run_id)

    def _wake(self, run_id: str) -> None:
        for arrival in self._waiting.get(run_id, ()):
            if not arrival.done():
                arrival.set_result(None)

    def _closed(self, run_id: str, events: EventLog) -> None:
        if not events.is_followed or not self._retention_s or events.failure == _UNREAD or events.last == events.base:
            self._drop(run_id, events)
            return
        size = events.size
        self._kept.append((time.monotonic() + self._retention_s, run_id, events, size))
        self._kept_bytes += size
        self._drop_old()

    def _drop_in_time(self) -> None:
        self._dropping = None
        self._drop_old()

    def _drop_old(self) -> None:
        now = time.monotonic()
        while self._kept and (self._kept[0][0] <= now or self._kept_bytes > KEPT_BYTES):
            _, run_id, events, size = self._kept.popleft()
            self._kept_bytes -= size
            self._drop(run_id, events)
        if self._kept and self._dropping is None and not self.is_closed:
            loop = asyncio.get_running_loop()
            self._dropping = loop.call_later(self._kept[0][0] - now, self._drop_in_time)

    def _drop(self, run_id: str, events: EventLog) -> None:
        if (logs := self._logs.get(run_id)) is not None and events in logs:
            logs.remove(events)
            if not logs:
                del self._logs[run_id]

    # --- what other nodes have

    async def _anybody(self, run_id: str, position: int) -> str | None:
        """A node that has what comes behind ``position``."""
        question = secrets.token_hex(8)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._questions[question] = answer
        try:
            self._notices.tell(_WHO, run_id, _said(_Ask(question, position)))
            return await asyncio.wait_for(answer, ANYBODY_S)
        except TimeoutError:
            return None
        finally:
            del self._questions[question]

    def _hear_question(self, node: str, run_id: str, body: str) -> None:
        asked = _read_ask.decode(body)
        if self._own(run_id, asked.after) is not None:
            self._notices.tell(_HAVE, run_id, body, to=node)

    def _hear_answer(self, node: str, _run_id: str, body: str) -> None:
        answer = self._questions.get(_read_ask.decode(body).mirror)
        if answer is not None and not answer.done():
            answer.set_result(node)

    def _hear_batch(self, _node: str, run_id: str, body: str) -> None:
        batch = _read_batch.decode(body)
        if (mirror := self._mirrors.get(batch.mirror)) is not None:
            if not mirror.is_open and mirror.begin(batch):
                self._add(run_id, mirror)
            mirror.hear(batch, len(body))

    def _hear_taken(self, node: str, run_id: str, _body: str) -> None:
        self._doubt(run_id, node)
        self._wake(run_id)

    def _doubt(self, run_id: str, taken_by: str) -> None:
        """The run goes on at ``taken_by``. Other nodes that we mirror it from may have died."""
        for events in self._logs.get(run_id, ()):
            if isinstance(events, Mirror) and not events.closed and events.node != taken_by:
                events.doubt()

    def _ask_anew(self) -> None:
        for mirror in self._mirrors.values():
            mirror.ask(anew=True)

    async def _tend(self) -> None:
        """Says that mirrors are read, and ends those that are not."""
        while self._mirrors:
            await asyncio.sleep(RENEW_S)
            for mirror in [*self._mirrors.values()]:
                if mirror.is_unread:
                    mirror.close(_UNREAD)
                elif mirror.is_silent:
                    mirror.close(_SILENT)
                if mirror.closed:
                    del self._mirrors[mirror.token]
                else:
                    mirror.ask()
        self._tending = None

    # --- what other nodes want

    def _own(self, run_id: str, position: int) -> EventLog | None:
        """A log of ours to go on in behind ``position``: the whole of it is here, or comes here first."""
        logs = (each for each in reversed(self._logs.get(run_id, ())) if each.holds(position))
        return next((each for each in logs if not isinstance(each, Mirror)), None)

    def _hear_ask(self, node: str, run_id: str, body: str) -> None:
        asked = _read_ask.decode(body)
        if (known := self._senders.get((node, asked.mirror))) is not None:
            return known[0].heed(asked)
        own = [each for each in self._logs.get(run_id, ()) if not isinstance(each, Mirror)]
        found = self._own(run_id, asked.after)
        if found is None:
            # What comes later; else what there is, to say how far that is.
            later = [each for each in own if each.base > asked.after]
            found = later[0] if later else own[-1] if own else None
        if found is None or self.is_closed:
            absent = _Batch(asked.mirror, asked.after, [], _ABSENT, closed=True)
            return self._notices.tell(_TOLD, run_id, _said(absent), to=node)
        found.is_followed = True
        sender = _Sender(self._notices, node, run_id, found, asked)
        task = asyncio.create_task(sender.send())
        self._senders[node, asked.mirror] = sender, task
        task.add_done_callback(lambda _: self._senders.pop((node, asked.mirror), None))
        return None


def _look(tx: Transaction, thread_id: str, run_id: str) -> _Look:
    tx.threads.get(thread_id)
    run = tx.runs.get(thread_id, run_id)
    return _Look(run, last_told(tx, run), tx.work.followed(KIND, run_id))


class Follower:
    """One reader's way through the logs of a run. ``next`` is asked for what comes, until it is `Ended`."""

    def __init__(
        self,
        streams: Streams,
        store: Store,
        project: str,
        thread_id: str,
        run_id: str,
        *,
        begun: EventLog | None = None,
    ) -> None:
        self._streams = streams
        self._store = store
        self._project = project
        self._thread_id = thread_id
        self._run_id = run_id
        # What it begins with: it ends where the run waits for its client, even if that has answered meanwhile.
        self._begun = begun
        self._is_once = begun is not None
        self._current: EventLog | None = None
        self._is_over = False
        # Whether it was asked for in vain at all nodes.
        self._is_nowhere = streams.is_alone

    async def next(self, position: int) -> EventLog | Retold | Ended:
        """In what to go on behind number ``position``."""
        finished = self._current
        self.close()
        if self._begun is not None:
            self._current, self._begun = self._begun, None
            return self._current
        if self._is_over or (finished is not None and self._is_end(finished, position)):
            return Ended()
        while not self._streams.is_closed:
            # Ahead of the look: what arrives meanwhile is not waited for.
            arrival = self._streams.arrival(self._run_id)
            try:
                if (going_on := await self._look_for(position)) is not None:
                    return going_on
                await self._streams.wait(self._run_id, arrival)
            except NotFound:
                return Ended(THREAD_DELETED)
            except Unavailable as error:
                # That it is away the store says itself, once; every reader looks again and again.
                log.debug("stream_not_found", error=error, run_id=self._run_id)
                await self._streams.wait(self._run_id, arrival)
            finally:
                self._streams.forget(self._run_id, arrival)
        return Ended(SHUTTING_DOWN)

    def close(self) -> None:
        """Nobody reads the log any more that ``next`` named last."""
        if isinstance(self._current, Mirror):
            self._current.readers -= 1
        self._current = None

    def _is_end(self, finished: EventLog, position: int) -> bool:
        if not finished.closed or finished.failure is not None or position != finished.last:
            return False
        return self._is_once or (finished.last > finished.base and finished.since(position - 1)[0].name in _ENDS)

    def _take(self, events: EventLog) -> EventLog:
        events.is_followed = True
        if isinstance(events, Mirror):
            events.readers += 1
        self._current = events
        return events

    def _here(self, position: int) -> EventLog | None:
        found = self._streams.find(self._run_id, position)
        return None if found is None else self._take(found)

    async def _look_for(self, position: int) -> EventLog | Retold | Ended | None:
        """None: nowhere yet."""
        streams, run_id = self._streams, self._run_id
        if (here := self._here(position)) is not None:
            return here
        look = await self._store.read(self._project, lambda tx: _look(tx, self._thread_id, run_id))
        if is_settled(look.run):
            if look.last is not None and position >= look.last:
                return Ended()
            if streams.ahead(run_id, position) is None:
                return await self._from_anybody(position) or await self._retold(position)
        elif streams.ahead(run_id, position) is None and look.followed is not None:
            node = streams.elsewhere(look.followed)
            if look.followed.node is None and position < look.followed.told:
                # Nobody tells of it at the moment, so that this is how far was told.
                return await self._retold(position, look.followed.told)
            if node is None or await streams.mirror(run_id, position, node) is None:
                return None
            if (here := self._here(position)) is not None:
                return here
        if (ahead := streams.ahead(run_id, position)) is None:
            return None
        # That a run was begun is told again word for word.
        from_anybody = await self._from_anybody(position) if ahead > _BEGINNING else None
        return from_anybody or await self._retold(position, ahead)

    async def _from_anybody(self, position: int) -> EventLog | None:
        if self._is_nowhere:
            return None
        self._is_nowhere = await self._streams.mirror(self._run_id, position, None) is None
        return self._here(position)

    async def _retold(self, position: int, upto: int | None = None) -> Retold:
        retold = await self._store.read(
            self._project, lambda tx: retell(tx, self._thread_id, self._run_id, position, upto)
        )
        self._is_over = retold.is_all
        return retold
