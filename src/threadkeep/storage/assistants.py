"""Assistants of a project."""

import builtins

import msgspec
import sqlalchemy as sa

from threadkeep.contract.assistants import Assistant
from threadkeep.contract.errors import not_found
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import assistants

_decoder = msgspec.json.Decoder(Assistant)
_one = (assistants.c.project_id == PROJECT, assistants.c.id == text("id_"))

INSERT = Statement(sa.insert(assistants).values(project_id=PROJECT, id=text("id_"), object=text("json")))
GET = Statement(sa.select(assistants.c.object).where(*_one))
LOCK = Statement(sa.select(assistants.c.object).where(*_one).with_for_update(key_share=True))
REPLACE = Statement(sa.update(assistants).where(*_one).values(object=text("json")))
# A scan: few files are deleted, and a column for this would cost every write.
NAMING = Statement(
    sa.select(assistants.c.id)
    .where(
        assistants.c.project_id == PROJECT, assistants.c.id > text("after"), assistants.c.object.like(text("pattern"))
    )
    .order_by(assistants.c.id)
    .limit(number("limit"))
)
DELETE = Statement(sa.delete(assistants).where(*_one))
LIST = Listing(sa.select(assistants.c.object).where(assistants.c.project_id == PROJECT), assistants.c.id, _decoder)


class Assistants:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, assistant: Assistant) -> None:
        self._bound.run(INSERT, id_=assistant.id, json=encode(assistant))

    def find(self, assistant_id: str) -> Assistant | None:
        row = self._bound.row(GET, id_=assistant_id)
        return None if row is None else _decoder.decode(row[0])

    def get(self, assistant_id: str) -> Assistant:
        if (assistant := self.find(assistant_id)) is None:
            raise not_found("assistant", assistant_id)
        return assistant

    def lock(self, assistant_id: str) -> Assistant:
        """The assistant as it is, and it stays so until the transaction ends: for changing a part of it."""
        if (row := self._bound.row(LOCK, id_=assistant_id)) is None:
            raise not_found("assistant", assistant_id)
        return _decoder.decode(row[0])

    def replace(self, assistant: Assistant) -> None:
        if not self._bound.run(REPLACE, id_=assistant.id, json=encode(assistant)):
            raise not_found("assistant", assistant.id)

    def naming(self, file_id: str, *, after: str = "", limit: int = 50) -> builtins.list[str]:
        """Ids, in order from ``after`` on, of those that name the file somewhere."""
        return [row[0] for row in self._bound.rows(NAMING, pattern=f'%"{file_id}"%', after=after, limit=limit)]

    def delete(self, assistant_id: str) -> bool:
        """Whether there was such an assistant."""
        return self._bound.run(DELETE, id_=assistant_id) > 0

    def list(self, query: ListQuery) -> Page[Assistant]:
        return LIST.page(self._bound, query)
