"""Runs of a thread. The database keeps two promises here: one active run for each thread, and one winner of a move.

Behind the active run others may wait, in a line. Whoever adds to the line, or ends the active run, holds its row: so
the line is never without a head: either the end of the run sees who was added, or whoever adds sees that it has ended.
"""

from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import IllegalMove, InvalidRequest, Unavailable, not_found
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.runs import Run
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, Value, number, text
from threadkeep.storage.tables import ACTIVE_RUN, WAITING_RUN, runs

_decoder = msgspec.json.Decoder(Run)
_in_thread = (runs.c.project_id == PROJECT, runs.c.thread_id == text("thread"))
_one = (*_in_thread, runs.c.id == text("id_"))

# DO NOTHING where the partial unique index refuses: an error would end the transaction in PostgreSQL, and the id of
# the active run is still to be read. (SQLite's compiler speaks this clause too.)
INSERT = Statement(
    postgresql.insert(runs)
    .values(project_id=PROJECT, thread_id=text("thread"), id=text("id_"), status=text("status"), object=text("json"))
    .on_conflict_do_nothing(index_elements=["project_id", "thread_id"], index_where=ACTIVE_RUN)
)
GET = Statement(sa.select(runs.c.object).where(*_one))
LOCK = Statement(sa.select(runs.c.object).where(*_one).with_for_update(key_share=True))
# Compare and set: whoever moved first has changed the status, and this changes no row.
REPLACE = Statement(
    sa.update(runs).where(*_one, runs.c.status == text("was")).values(status=text("status"), object=text("json"))
)
TOLD = Statement(sa.select(runs.c.told).where(*_one))
ACTIVE = Statement(sa.select(runs.c.object).where(*_in_thread, ACTIVE_RUN))
LAST_ID = Statement(sa.select(runs.c.id).where(*_in_thread).order_by(runs.c.id.desc()).limit(1))
LIST = Listing(sa.select(runs.c.object).where(*_in_thread), runs.c.id, _decoder)

_waiting = sa.literal_column("'waiting'", sa.Text)
_queued = sa.literal_column("'queued'", sa.Text)
INSERT_WAITING = Statement(
    sa.insert(runs).values(
        project_id=PROJECT,
        thread_id=text("thread"),
        id=text("id_"),
        status=_waiting,
        object=text("json"),
        place=number("place"),
        ahead_of=text("ahead_of"),
    )
)
REWRITE = Statement(sa.update(runs).where(*_one).values(object=text("json")))
_ended = {"status": text("status"), "object": text("json"), "told": number("told")}
END = Statement(sa.update(runs).where(*_one, runs.c.status == text("was")).values(_ended).returning(runs.c.place))
END_WAITING = Statement(sa.update(runs).where(*_one, WAITING_RUN).values(_ended))
LOCK_ACTIVE = Statement(sa.select(runs.c.object).where(*_in_thread, ACTIVE_RUN).with_for_update(key_share=True))
WAITING = Statement(
    sa.select(runs.c.id, runs.c.place, runs.c.ahead_of).where(*_in_thread, WAITING_RUN).order_by(runs.c.place)
)
IS_WAITING = Statement(sa.select(runs.c.id).where(*_one, WAITING_RUN))
NEXT = Statement(sa.select(runs.c.id).where(*_in_thread, WAITING_RUN).order_by(runs.c.place).limit(1))
BEGIN_TURN = Statement(sa.update(runs).where(*_one, WAITING_RUN).values(status=_queued))
LEAD = Statement(
    sa.update(runs).where(*_one, runs.c.place.is_(None)).values(place=sa.literal_column("0", sa.BigInteger))
)
PUT_AHEAD = Statement(
    sa.update(runs)
    .where(*_one, sa.or_(runs.c.ahead_of.is_(None), runs.c.ahead_of > text("message")))
    .values(ahead_of=text("message"))
)
PUT_ALL_AHEAD = Statement(
    sa.update(runs).where(*_in_thread, WAITING_RUN, runs.c.ahead_of.is_(None)).values(ahead_of=text("message"))
)

_INSERT_ATTEMPTS = 5
_LOCK_ATTEMPTS = 20


class Waiting(NamedTuple):
    """A run whose turn has not come."""

    id: str
    place: int
    # See the table.
    ahead_of: str | None


class Line(NamedTuple):
    """The active run of a thread, held until the transaction ends, and those behind it, the next one first."""

    active: Run
    waiting: list[Waiting]


class Runs:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, run: Run) -> None:
        """Adds the run, or says which run of the thread is still active."""
        for _ in range(_INSERT_ATTEMPTS):
            if self._bound.run(INSERT, thread=run.thread_id, id_=run.id, status=run.status, json=encode(run)):
                return
            if (active := self.active(run.thread_id)) is not None:
                raise InvalidRequest(f"Thread {run.thread_id} already has an active run {active.id}.")
            # The run in the way ended between the two statements.
        raise Unavailable

    def find(self, thread_id: str, run_id: str) -> Run | None:
        row = self._bound.row(GET, thread=thread_id, id_=run_id)
        return None if row is None else _decoder.decode(row[0])

    def get(self, thread_id: str, run_id: str) -> Run:
        if (run := self.find(thread_id, run_id)) is None:
            raise not_found("run", run_id)
        return run

    def lock(self, thread_id: str, run_id: str) -> Run:
        """The run as it is, and it stays so until the transaction ends."""
        if (row := self._bound.row(LOCK, thread=thread_id, id_=run_id)) is None:
            raise not_found("run", run_id)
        return _decoder.decode(row[0])

    def replace(self, run: Run, was: RunStatus) -> None:
        """Writes the run anew, which goes on, if its status is still ``was``; else somebody moved it first:
        `IllegalMove`.
        """
        if not self._bound.run(REPLACE, thread=run.thread_id, id_=run.id, was=was, status=run.status, json=encode(run)):
            raise IllegalMove(run.id, was, run.status)

    def told(self, thread_id: str, run_id: str) -> int | None:
        """The number of the event that told the run's end."""
        row = self._bound.row(TOLD, thread=thread_id, id_=run_id)
        return None if row is None else row[0]

    def rewrite(self, run: Run) -> None:
        """Writes the run anew, which this transaction holds; it has not moved."""
        self._bound.run(REWRITE, thread=run.thread_id, id_=run.id, json=encode(run))

    def end(self, run: Run, was: RunStatus, *, told: int | None = None) -> bool:
        """As ``replace``, of a run that is over now, also one that waits; whether somebody may stand behind it.

        ``told``: the number of the event that tells its end.
        """
        values: dict[str, Value] = {
            "thread": run.thread_id,
            "id_": run.id,
            "status": run.status,
            "json": encode(run),
            "told": told,
        }
        if rows := self._bound.rows(END, was=was, **values):
            return rows[0][0] is not None
        if was != "queued" or not self._bound.run(END_WAITING, **values):
            raise IllegalMove(run.id, was, run.status)
        return False

    # The line.

    def lock_line(self, thread_id: str) -> Line | None:
        """The line of a thread that the caller has locked; None, and that it stays, while no run is active."""
        for _ in range(_LOCK_ATTEMPTS):
            if (row := self._bound.row(LOCK_ACTIVE, thread=thread_id)) is not None:
                waiting = [Waiting(*each) for each in self._bound.rows(WAITING, thread=thread_id)]
                return Line(_decoder.decode(row[0]), waiting)
            # The one that was active may have ended while this waited for it, and the next one have come up.
            if self.active(thread_id) is None:
                return None
        raise Unavailable

    def insert_waiting(self, run: Run, line: Line, place: int, *, ahead_of: str | None) -> None:
        """Adds the run to the line, which the transaction holds."""
        self._bound.run(LEAD, thread=run.thread_id, id_=line.active.id)
        self._bound.run(
            INSERT_WAITING, thread=run.thread_id, id_=run.id, json=encode(run), place=place, ahead_of=ahead_of
        )

    def put_ahead_of(self, line: Line, message_id: str) -> None:
        """The active run stands ahead of the message, unless it stands ahead of an earlier one anyway."""
        self._bound.run(PUT_AHEAD, thread=line.active.thread_id, id_=line.active.id, message=message_id)

    def put_all_ahead_of(self, line: Line, message_id: str) -> None:
        """All that stand in line do, those that wait too."""
        self.put_ahead_of(line, message_id)
        self._bound.run(PUT_ALL_AHEAD, thread=line.active.thread_id, message=message_id)

    def next(self, thread_id: str) -> str | None:
        """The id of the run that is next in line."""
        row = self._bound.row(NEXT, thread=thread_id)
        return None if row is None else row[0]

    def begin_turn(self, thread_id: str, run_id: str) -> bool:
        """The waiting run is the active one from here on; the one before it has ended in this transaction. False: it
        does not wait any more.
        """
        return self._bound.run(BEGIN_TURN, thread=thread_id, id_=run_id) > 0

    def is_waiting(self, thread_id: str, run_id: str) -> bool:
        return self._bound.row(IS_WAITING, thread=thread_id, id_=run_id) is not None

    def active(self, thread_id: str) -> Run | None:
        """The one run of the thread that has not ended."""
        row = self._bound.row(ACTIVE, thread=thread_id)
        return None if row is None else _decoder.decode(row[0])

    def last_id(self, thread_id: str) -> str | None:
        row = self._bound.row(LAST_ID, thread=thread_id)
        return None if row is None else row[0]

    def list(self, thread_id: str, query: ListQuery) -> Page[Run]:
        return LIST.page(self._bound, query, thread=thread_id)
