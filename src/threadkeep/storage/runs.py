"""Runs of a thread. The database keeps two promises here: one active run for each thread, and one winner of a move."""

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import IllegalMove, InvalidRequest, Unavailable, not_found
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.run_status import RunStatus
from threadkeep.contract.runs import Run
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import ACTIVE_RUN, runs

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
    sa.update(runs)
    .where(*_one, runs.c.status == text("was"))
    .values(status=text("status"), object=text("json"), told=sa.func.coalesce(number("told"), runs.c.told))
)
TOLD = Statement(sa.select(runs.c.told).where(*_one))
ACTIVE = Statement(sa.select(runs.c.object).where(*_in_thread, ACTIVE_RUN))
LAST_ID = Statement(sa.select(runs.c.id).where(*_in_thread).order_by(runs.c.id.desc()).limit(1))
LIST = Listing(sa.select(runs.c.object).where(*_in_thread), runs.c.id, _decoder)

_INSERT_ATTEMPTS = 5


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

    def replace(self, run: Run, was: RunStatus, *, told: int | None = None) -> None:
        """Writes the run anew if its status is still ``was``; else somebody moved it first: `IllegalMove`.

        ``told``: the number of the event that tells its end.
        """
        if not self._bound.run(
            REPLACE, thread=run.thread_id, id_=run.id, was=was, status=run.status, json=encode(run), told=told
        ):
            raise IllegalMove(run.id, was, run.status)

    def told(self, thread_id: str, run_id: str) -> int | None:
        """The number of the event that told the run's end."""
        row = self._bound.row(TOLD, thread=thread_id, id_=run_id)
        return None if row is None else row[0]

    def active(self, thread_id: str) -> Run | None:
        """The one run of the thread that has not ended."""
        row = self._bound.row(ACTIVE, thread=thread_id)
        return None if row is None else _decoder.decode(row[0])

    def last_id(self, thread_id: str) -> str | None:
        row = self._bound.row(LAST_ID, thread=thread_id)
        return None if row is None else row[0]

    def list(self, thread_id: str, query: ListQuery) -> Page[Run]:
        return LIST.page(self._bound, query, thread=thread_id)
