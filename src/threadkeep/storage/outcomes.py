"""What requests with an `Idempotency-Key` came to, so that the same request once more comes to the same.

The outcome is written in the transaction that brings it about: either both are there or neither. So no crash leaves a
request done and not remembered, and of several at once the database lets one in and the others see what it did. A
request that fails leaves nothing behind, and may be made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import InvalidRequest, Unavailable
from threadkeep.contract.wire import Object
from threadkeep.storage.paging import encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, text
from threadkeep.storage.tables import outcomes

if TYPE_CHECKING:
    from threadkeep.storage.transaction import Transaction

M = TypeVar("M", bound=Object)

# Due work: an outcome's time is over. Its key is the project and the outcome's id.
OUTCOME: Final = "outcome"
KEPT_S: Final = 24 * 3600

_one = (outcomes.c.project_id == PROJECT, outcomes.c.id == text("id_"))

INSERT = Statement(
    postgresql.insert(outcomes)
    .values(project_id=PROJECT, id=text("id_"), request=text("request"), object=text("json"))
    .on_conflict_do_nothing()
)
KEEP = Statement(sa.update(outcomes).where(*_one).values(object=text("json")))
FIND = Statement(sa.select(outcomes.c.request, outcomes.c.object).where(*_one))
DELETE = Statement(sa.delete(outcomes).where(*_one))


class Once(NamedTuple):
    """A request that is to be carried out once however often it is made."""

    # Of the client's key, a hash.
    id: str
    # Of all that the request says, a hash.
    request: str


class Outcome(NamedTuple):
    request: str
    # JSON of what the request made.
    object: str


class Outcomes:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, once: Once) -> bool:
        """Whether there was none yet. While another transaction inserts the same, this waits for it."""
        return self._bound.run(INSERT, id_=once.id, request=once.request, json="") > 0

    def keep(self, outcome_id: str, made: Object) -> None:
        self._bound.run(KEEP, id_=outcome_id, json=encode(made))

    def find(self, outcome_id: str) -> Outcome | None:
        row = self._bound.row(FIND, id_=outcome_id)
        return None if row is None else Outcome(*row)

    def delete(self, outcome_id: str) -> bool:
        return self._bound.run(DELETE, id_=outcome_id) > 0


def do_once(tx: Transaction, once: Once | None, kind: type[M], do: Callable[[], M]) -> tuple[M, bool]:
    """What ``do`` makes; or, if the request was carried out before, what it made then. The second: whether it was.

    Everything that the request changes must be changed by ``do``. Refused when the key was another request's.
    """
    if once is None:
        return do(), False
    if tx.outcomes.insert(once):
        made = do()
        tx.outcomes.keep(once.id, made)
        tx.work.insert(OUTCOME, f"{tx.project}/{once.id}", due_at_ms=round((time.time() + KEPT_S) * 1000))
        return made, False
    if (earlier := tx.outcomes.find(once.id)) is None:
        # Its time was over between the two.
        raise Unavailable
    if earlier.request != once.request:
        raise InvalidRequest(
            "This Idempotency-Key was used for another request. Use a new key, or repeat that request unchanged.",
            code="idempotency_key_reused",
        )
    return msgspec.json.decode(earlier.object, type=kind), True
