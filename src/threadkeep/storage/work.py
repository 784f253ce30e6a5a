"""Due work and the leases on it: at most one node works on an item, and every item is worked on until it is finished.

    insert ─▶ due ──claim──▶ leased ──finish──▶ (gone)
               ▲                │
               └──── release ───┤
               └── lease ran out┘   claimed again, by anybody, with one attempt more

Work belongs to no project's view: a node claims what is due in all of them, and each item says whose it is.
The database's clock is the only clock. A lease that ran out is still its holder's until another takes it over, and
`fence` then stops the old holder: both change the same row, so one of them loses.
"""

import secrets
from collections.abc import Sequence
from functools import cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import LeaseLost
from threadkeep.storage.statements import Connection, NowMs, Statement, Value, number, text
from threadkeep.storage.tables import work

# With every death of a holder, and whenever it is not known how far was told, the numbers of a run's events go on
# behind the next multiple of this.
EPOCH: Final = 1_000_000


class WorkItem(NamedTuple):
    kind: str
    key: str
    project: str
    # The thread it goes with when that is deleted.
    thread: str | None
    # What may keep it waiting together with other work: a node holds only so much of one lane. None: it never waits.
    lane: str | None = None


class LeaseTerms(NamedTuple):
    """A lease that somebody asks for: ``token`` is secret to the holder and new for every lease."""

    token: str
    node: str
    lease_s: float


class Lease(NamedTuple):
    item: WorkItem
    token: str
    # How often a node died at it: 0 for work that never was in a dead node's hands.
    attempts: int
    until_ms: int
    # Somebody asked to stop.
    interrupted: bool


class Followed(NamedTuple):
    """What those know of the work who only follow it."""

    # The number of the last event that is certain to have been told.
    told: int
    # Who has the lease; None while nobody does.
    node: str | None
    is_live: bool


class Renewal(NamedTuple):
    kind: str
    key: str
    token: str
    interrupted: bool


# Longer than the clock has run.
_FOR_EVER_MS: Final = 10**15

_now = NowMs()
_one = (work.c.kind == text("kind_"), work.c.key == text("key_"))
_held = (*_one, work.c.lease_token == text("token"))
_until = _now + number("lease_ms")
_next_million = sa.literal_column(f"(told / {EPOCH} + 1) * {EPOCH}", sa.BigInteger)
_unleased = {"lease_until": sa.null(), "lease_token": sa.null(), "lease_node": sa.null()}
_leased = {"lease_until": _until, "lease_token": text("token"), "lease_node": text("node")}
_new: dict[str, sa.ColumnElement[Any]] = {
    "kind": text("kind_"),
    "key": text("key_"),
    "project_id": text("project_"),
    "thread_id": text("thread"),
    "due_at": sa.func.coalesce(number("due_at_ms"), _now),
    "attempts": sa.literal_column("0", sa.Integer),
    "interrupted": sa.false(),
    "told": number("told"),
    "lane": text("lane"),
    "overdue_at": number("overdue_at_ms"),
}

INSERT = Statement(sa.insert(work).values(_new | _unleased))
INSERT_LEASED = Statement(sa.insert(work).values(_new | _leased))
INSERT_ABSENT = Statement(postgresql.insert(work).values(_new | _unleased).on_conflict_do_nothing())
INSERT_ABSENT_LEASED = Statement(postgresql.insert(work).values(_new | _leased).on_conflict_do_nothing())
# Changes the row in any case: whoever holds it can't end it before this transaction has ended.
ENSURE = Statement(
    postgresql.insert(work)
    .values(_new | _unleased)
    .on_conflict_do_update(index_elements=["kind", "key"], set_={"due_at": _now})
)
EXISTS = Statement(sa.select(work.c.kind).where(*_one))
FENCE = Statement(sa.update(work).where(*_held).values(lease_until=_until))
RENEW = Statement(
    sa.update(work)
    .where(work.c.lease_node == text("node"))
    .values(lease_until=_until)
    .returning(work.c.kind, work.c.key, work.c.lease_token, work.c.interrupted)
)
RELEASE = Statement(
    sa.update(work)
    .where(*_held)
    # An interrupt that came too late for the holder to hear of makes the work due at once.
    .values(
        due_at=sa.case((work.c.interrupted, _now), else_=sa.func.coalesce(number("due_at_ms"), _now)),
        told=sa.func.coalesce(number("told"), work.c.told),
        **_unleased,
    )
)
GIVE_BACK = Statement(
    sa.update(work)
    .where(*_held)
    .values(
        due_at=sa.case((work.c.interrupted, _now), else_=sa.func.coalesce(number("due_at_ms"), _now)),
        told=_next_million,
        **_unleased,
    )
)
# The lease keeps its token but has run out: the next claim counts it as a death of its holder. It is the node's no
# more, whose next renewal would else make it live again.
ABANDON = Statement(
    sa.update(work)
    .where(*_held)
    .values(lease_until=sa.literal_column("0"), lease_node=sa.null(), due_at=_now + number("delay_ms"))
)
FINISH = Statement(sa.delete(work).where(*_held))
WITHDRAW = Statement(sa.delete(work).where(*_one, work.c.lease_token.is_(None)))
REMOVE = Statement(sa.delete(work).where(*_one))
REMOVE_UNDER = Statement(
    sa.delete(work).where(work.c.kind == text("kind_"), work.c.key >= text("low"), work.c.key < text("high"))
)
TOUCH = Statement(sa.update(work).where(*_one).values(due_at=_now))
TELL = Statement(
    sa.update(work)
    .where(*_one)
    # Nobody counted from the beginning: whatever was told has numbers below the first multiple.
    .values(told=sa.func.coalesce(work.c.told, sa.literal_column(str(EPOCH))) + number("events"))
    .returning(work.c.told)
)
FOLLOWED = Statement(sa.select(work.c.told, work.c.lease_node, work.c.lease_until >= _now).where(*_one))
TOUCH_LEASING = Statement(sa.update(work).where(*_one, work.c.lease_token.is_(None)).values(due_at=_now, **_leased))
INTERRUPT = Statement(sa.update(work).where(*_one).values(interrupted=sa.true(), due_at=_now))


def _due(kinds: int, full: int | None, spare_ms: sa.ColumnElement[int] | int = 0) -> list[sa.ColumnElement[bool]]:
    """Of so many kinds, held by nobody alive, and in none of so many lanes (None: in no lane at all), unless it is over
    as soon as it is looked at. Leases that ran out less than ``spare_ms`` ago count as held."""
    due = [
        work.c.due_at <= _now,
        sa.or_(work.c.lease_token.is_(None), work.c.lease_until < _now - spare_ms),
        work.c.kind.in_([text(f"kind_{index}") for index in range(kinds)]),
    ]
    is_over = sa.or_(work.c.interrupted, work.c.overdue_at <= _now)
    if full is None:
        due.append(is_over)
    elif full:
        lanes = [text(f"lane_{index}") for index in range(full)]
        due.append(sa.or_(work.c.lane.is_(None), work.c.lane.not_in(lanes), is_over))
    return due


WAITING = Statement(
    sa.select(sa.func.count()).where(
        work.c.due_at <= _now,
        sa.or_(work.c.lease_token.is_(None), work.c.lease_until < _now),
        work.c.kind == text("kind_"),
    )
)


@cache
def due_of(kinds: int, full: int | None) -> Statement:
    """Whether anything of so many kinds is due, so many lanes apart."""
    return Statement(sa.select(work.c.kind).where(*_due(kinds, full)).limit(1))


@cache
def claim_of(kinds: int, full: int | None) -> Statement:
    """The claim for so many kinds of work, so many lanes apart."""
    due = (
        sa.select(work.c.kind, work.c.key)
        .where(*_due(kinds, full, spare_ms=number("spare_ms")))
        .order_by(work.c.due_at)
        .limit(number("limit"))
        # Nodes that claim at once pass over each other's rows. SQLite has no such clause and needs none.
        .with_for_update(skip_locked=True)
        # Not a plain subquery: PostgreSQL might run it again for each row, and lock more than the limit.
        .cte("due")
    )
    return Statement(
        sa.update(work)
        .where(sa.tuple_(work.c.kind, work.c.key).in_(sa.select(due.c.kind, due.c.key)))
        .values(
            attempts=work.c.attempts
            + sa.case(
                (work.c.lease_token.is_(None), sa.literal_column("0", sa.Integer)),
                else_=sa.literal_column("1", sa.Integer),
            ),
            # A node that died may have told more than anybody knows: those numbers are never given again.
            told=sa.case((work.c.lease_token.is_(None), work.c.told), else_=_next_million),
            **_leased,
        )
        .returning(
            work.c.kind,
            work.c.key,
            work.c.project_id,
            work.c.thread_id,
            work.c.attempts,
            work.c.lease_until,
            work.c.interrupted,
            work.c.lane,
        )
    )


class Work:
    __slots__ = ("_connection", "_project")

    def __init__(self, connection: Connection, project: str | None) -> None:
        self._connection = connection
        self._project = project

    def insert(
        self,
        kind: str,
        key: str,
        *,
        thread: str | None = None,
        due_at_ms: int | None = None,
        overdue_at_ms: int | None = None,
        lane: str | None = None,
        lease: LeaseTerms | tuple[str, str, float] | None = None,
        told: int | None = None,
    ) -> None:
        """New work of the transaction's project, due at once when no time is given, leased already when asked for;
        ``told``: the number of the last event that tells of it being made; ``overdue_at_ms``: from then on it is over
        as soon as it is looked at."""
        values = self._values(
            kind, key, thread=thread, due_at_ms=due_at_ms, overdue_at_ms=overdue_at_ms, lane=lane, told=told
        )
        if lease is None:
            self._connection.run(INSERT, values)
        else:
            self._connection.run(INSERT_LEASED, values | _terms(lease))

    def insert_absent(self, kind: str, key: str, *, lease: LeaseTerms | tuple[str, str, float] | None = None) -> bool:
        """As ``insert``, unless there is such work already; whether it was inserted."""
        values = self._values(kind, key)
        if self._connection.row(EXISTS, {"kind_": kind, "key_": key}) is not None:
            # Asked first: inserting would wait for whoever works on it.
            return False
        if lease is None:
            return self._connection.run(INSERT_ABSENT, values) > 0
        return self._connection.run(INSERT_ABSENT_LEASED, values | _terms(lease)) > 0

    def ensure(self, kind: str, key: str) -> None:
        """There is such work, and it is due now: after this transaction somebody looks at it."""
        self._connection.run(ENSURE, self._values(kind, key))

    def claim(
        self,
        node: str,
        kinds: Sequence[str],
        limit: int,
        lease_s: float,
        *,
        full: Sequence[str] | None = (),
        spares: bool = False,
    ) -> list[Lease]:
        """Leases to ``node`` what is due and held by nobody alive, the longest due first. Of the lanes that are
        ``full`` (None: all are, and whatever has no lane) only what was interrupted or is overdue: that is over as soon
        as it is looked at.

        An attempt is counted only when a lease ran out: a claim in peace is none. ``spares``: leases that ran out are
        left alone. Their holders may live, and renew them in a moment.
        """
        token = secrets.token_hex(16)
        rows = self._connection.rows(
            claim_of(len(kinds), None if full is None else len(full)),
            _choice(kinds, full)
            | {"limit": limit, "spare_ms": _FOR_EVER_MS if spares else 0}
            | _terms((token, node, lease_s)),
        )
        return [
            Lease(WorkItem(kind, key, project, thread, lane), token, attempts, until_ms, bool(interrupted))
            for kind, key, project, thread, attempts, until_ms, interrupted, lane in rows
        ]

    def any_due(self, kinds: Sequence[str], *, full: Sequence[str] | None = ()) -> bool:
        """Whether a claim would find something. A read: cheaper than a claim that finds nothing."""
        return (
            self._connection.row(due_of(len(kinds), None if full is None else len(full)), _choice(kinds, full))
            is not None
        )

    def waiting(self, kind: str) -> int:
        """How much of the kind is due and held by nobody alive."""
        row = self._connection.row(WAITING, {"kind_": kind})
        return 0 if row is None else row[0]

    def abandon(self, lease: Lease, *, delay_s: float) -> None:
        """Lets anybody claim the work after ``delay_s``, as if its holder had died: the attempt is counted."""
        item = lease.item
        values: dict[str, Value] = {
            "kind_": item.kind,
            "key_": item.key,
            "token": lease.token,
            "delay_ms": _ms(delay_s),
        }
        self._connection.run(ABANDON, values)

    def fence(self, kind: str, key: str, token: str, lease_s: float) -> None:
        """Holds the lease until the transaction ends, and renews it; `LeaseLost` if it is another's by now.

        The first statement of every transaction that writes on the strength of the lease.
        """
        values: dict[str, Value] = {"kind_": kind, "key_": key, "token": token, "lease_ms": _ms(lease_s)}
        if not self._connection.run(FENCE, values):
            raise LeaseLost(kind, key)

    def renew(self, node: str, lease_s: float) -> list[Renewal]:
        """Renews all leases of the node and lists them.

        What the node works on and is not listed, it has lost. What is listed and the node does not know of (its
        claim's answer never arrived), it must release, or nobody would ever work on it.
        """
        rows = self._connection.rows(RENEW, {"node": node, "lease_ms": _ms(lease_s)})
        return [Renewal(kind, key, token, bool(interrupted)) for kind, key, token, interrupted in rows]

    def release(
        self, kind: str, key: str, token: str, *, due_at_ms: int | None = None, told: int | None = None
    ) -> None:
        """Gives the lease back; the work is due again then, or at once. Interrupted work is always due at once.
        ``told``: the number of the last event that was told of it, where that is known for certain."""
        values: dict[str, Value] = {"kind_": kind, "key_": key, "token": token, "due_at_ms": due_at_ms, "told": told}
        if not self._connection.run(RELEASE, values):
            raise LeaseLost(kind, key)

    def give_back(self, kind: str, key: str, token: str, *, due_at_ms: int | None = None) -> None:
        """As ``release``, where nobody knows how far was told of it: its numbers go on as behind a death."""
        values: dict[str, Value] = {"kind_": kind, "key_": key, "token": token, "due_at_ms": due_at_ms}
        if not self._connection.run(GIVE_BACK, values):
            raise LeaseLost(kind, key)

    def finish(self, kind: str, key: str, token: str) -> None:
        if not self._connection.run(FINISH, {"kind_": kind, "key_": key, "token": token}):
            raise LeaseLost(kind, key)

    def withdraw(self, kind: str, key: str) -> bool:
        """Removes work that nobody has begun; whether there was such."""
        return self._connection.run(WITHDRAW, {"kind_": kind, "key_": key}) > 0

    def remove(self, kind: str, key: str) -> bool:
        """Removes work whoever holds it: the holder's next ``fence`` fails. Whether there was such."""
        return self._connection.run(REMOVE, {"kind_": kind, "key_": key}) > 0

    def remove_under(self, kind: str, prefix: str) -> None:
        """As ``remove``, all work whose key begins so."""
        # The last character's successor: above every key that begins with the prefix, and below all others.
        high = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self._connection.run(REMOVE_UNDER, {"kind_": kind, "low": prefix, "high": high})

    def touch(self, kind: str, key: str, *, lease: LeaseTerms | tuple[str, str, float] | None = None) -> bool:
        """Makes the work due now and, if ``lease`` is given and nobody holds it, leases it; whether it did."""
        one: dict[str, Value] = {"kind_": kind, "key_": key}
        if lease is not None and self._connection.run(TOUCH_LEASING, one | _terms(lease)):
            return True
        self._connection.run(TOUCH, one)
        return False

    def tell(self, kind: str, key: str, events: int) -> int:
        """Takes the next numbers for so many events of work that nobody is telling of; the number before the first."""
        row = self._connection.row(TELL, {"kind_": kind, "key_": key, "events": events})
        return 0 if row is None else row[0] - events

    def followed(self, kind: str, key: str) -> Followed | None:
        """What there is to know of it without a lease; None when there is no such work."""
        row = self._connection.row(FOLLOWED, {"kind_": kind, "key_": key})
        return None if row is None else Followed(EPOCH if row[0] is None else row[0], row[1], bool(row[2]))

    def interrupt(self, kind: str, key: str) -> None:
        """Asks whoever holds the work, or takes it next, to stop; it is due now."""
        self._connection.run(INTERRUPT, {"kind_": kind, "key_": key})

    def _values(
        self,
        kind: str,
        key: str,
        *,
        thread: str | None = None,
        due_at_ms: int | None = None,
        overdue_at_ms: int | None = None,
        lane: str | None = None,
        told: int | None = None,
    ) -> dict[str, Value]:
        return {
            "kind_": kind,
            "key_": key,
            "project_": self._project,
            "thread": thread,
            "due_at_ms": due_at_ms,
            "overdue_at_ms": overdue_at_ms,
            "lane": lane,
            "told": told,
        }


def _choice(kinds: Sequence[str], full: Sequence[str] | None) -> dict[str, Value]:
    chosen: dict[str, Value] = {f"kind_{index}": kind for index, kind in enumerate(kinds)}
    return chosen | {f"lane_{index}": lane for index, lane in enumerate(full or ())}


def _terms(lease: tuple[str, str, float]) -> dict[str, Value]:
    token, node, lease_s = lease
    return {"token": token, "node": node, "lease_ms": _ms(lease_s)}


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
