"""Steps of a run."""

import builtins

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import not_found
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.contract.run_steps import RunStep
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import run_steps

_decoder = msgspec.json.Decoder(RunStep)
_in_run = (run_steps.c.project_id == PROJECT, run_steps.c.run_id == text("run"))
_one = (*_in_run, run_steps.c.thread_id == text("thread"), run_steps.c.id == text("id_"))

INSERT = Statement(
    sa.insert(run_steps).values(
        project_id=PROJECT, thread_id=text("thread"), run_id=text("run"), id=text("id_"), object=text("json")
    )
)
GET = Statement(sa.select(run_steps.c.object).where(*_one))
REPLACE = Statement(sa.update(run_steps).where(*_one).values(object=text("json")))
END = Statement(sa.update(run_steps).where(*_one).values(object=text("json"), told=number("told")))
TOLD = Statement(sa.select(run_steps.c.id, run_steps.c.told).where(*_in_run, run_steps.c.told.is_not(None)))
ALL = Statement(sa.select(run_steps.c.object).where(*_in_run).order_by(run_steps.c.id))
LAST_ID = Statement(sa.select(run_steps.c.id).where(*_in_run).order_by(run_steps.c.id.desc()).limit(1))
LIST = Listing(
    sa.select(run_steps.c.object).where(*_in_run, run_steps.c.thread_id == text("thread")), run_steps.c.id, _decoder
)


class RunSteps:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, step: RunStep) -> None:
        self._bound.run(INSERT, thread=step.thread_id, run=step.run_id, id_=step.id, json=encode(step))

    def get(self, thread_id: str, run_id: str, step_id: str) -> RunStep:
        if (row := self._bound.row(GET, thread=thread_id, run=run_id, id_=step_id)) is None:
            raise not_found("run step", step_id)
        return _decoder.decode(row[0])

    def replace(self, step: RunStep) -> None:
        if not self._bound.run(REPLACE, thread=step.thread_id, run=step.run_id, id_=step.id, json=encode(step)):
            raise not_found("run step", step.id)

    def end(self, step: RunStep, *, told: int | None) -> None:
        """As ``replace``, for a step that has ended: ``told`` is the number of the event that says so, if any does."""
        one = {"thread": step.thread_id, "run": step.run_id, "id_": step.id}
        if not self._bound.run(END, **one, json=encode(step), told=told):
            raise not_found("run step", step.id)

    def told(self, run_id: str) -> dict[str, int]:
        """Under which numbers the steps' ends were told, by step id."""
        return dict(self._bound.rows(TOLD, run=run_id))

    def list(self, thread_id: str, run_id: str, query: ListQuery) -> Page[RunStep]:
        return LIST.page(self._bound, query, thread=thread_id, run=run_id)

    def all(self, run_id: str) -> builtins.list[RunStep]:
        """Oldest first."""
        return [_decoder.decode(row[0]) for row in self._bound.rows(ALL, run=run_id)]

    def last_id(self, run_id: str) -> str | None:
        row = self._bound.row(LAST_ID, run=run_id)
        return None if row is None else row[0]
