"""Messages of a thread."""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import not_found
from threadkeep.contract.messages import Message
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.storage.paging import HIGHEST, Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, number, text
from threadkeep.storage.tables import messages, runs
from threadkeep.storage.words import words_of_message

_decoder = msgspec.json.Decoder(Message)
_in_thread = (messages.c.project_id == PROJECT, messages.c.thread_id == text("thread"))
_one = (*_in_thread, messages.c.id == text("id_"))
# How many messages a prompt is given at a time while it reads a thread backwards.
_BLOCK = 100

INSERT = Statement(
    sa.insert(messages)
    .values(
        project_id=PROJECT,
        thread_id=text("thread"),
        id=text("id_"),
        run_id=text("run"),
        object=text("json"),
        words=text("words"),
    )
    .inline()
)
GET = Statement(sa.select(messages.c.object).where(*_one))
LOCK = Statement(sa.select(messages.c.object).where(*_one).with_for_update(key_share=True))
REPLACE = Statement(sa.update(messages).where(*_one).values(object=text("json"), words=text("words")))
DELETE = Statement(sa.delete(messages).where(*_one))
_last_id = sa.select(messages.c.id).where(*_in_thread).order_by(messages.c.id.desc()).limit(1)
_before = messages.c.id < text("high")
LAST_ID = Statement(_last_id)
LAST_ID_BEFORE = Statement(_last_id.where(_before))
# Where what a run reads and writes ends: at the first message that stands behind it.
_highest = sa.literal_column(f"'{HIGHEST}'", sa.Text)
_run = (runs.c.project_id == PROJECT, runs.c.thread_id == text("thread"), runs.c.id == text("run"))
_end_of_run = sa.func.coalesce(sa.select(runs.c.ahead_of).where(*_run).scalar_subquery(), _highest)
# In one statement: of a message that is put behind the run at this moment either both are seen, or neither is.
SEEN_BY_RUN = Statement(
    sa.select(messages.c.object)
    .where(*_in_thread, _before, messages.c.id < _end_of_run)
    .order_by(messages.c.id.desc())
    .limit(number("limit"))
)
# The run's row is held from here on: whoever puts a message behind the run holds it too, and looks for the last message
# only then.
PLACE_FOR_RUN = Statement(
    sa.select(
        _last_id.where(messages.c.id < sa.func.coalesce(runs.c.ahead_of, _highest)).correlate(runs).scalar_subquery(),
        runs.c.ahead_of,
    )
    .where(*_run)
    .with_for_update(key_share=True, of=runs)
)
LIST = Listing(sa.select(messages.c.object).where(*_in_thread), messages.c.id, _decoder)
LIST_OF_RUN = Listing(
    sa.select(messages.c.object).where(*_in_thread, messages.c.run_id == text("run")), messages.c.id, _decoder
)


class Place(NamedTuple):
    """Where a run's next message goes: after ``last`` and before ``end``, by id; None where there is no such one."""

    last: str | None
    end: str | None


class Messages:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, message: Message) -> None:
        self._bound.run(
            INSERT,
            thread=message.thread_id,
            id_=message.id,
            run=message.run_id,
            json=encode(message),
            words=words_of_message(message),
        )

    def get(self, thread_id: str, message_id: str) -> Message:
        if (row := self._bound.row(GET, thread=thread_id, id_=message_id)) is None:
            raise not_found("message", message_id)
        return _decoder.decode(row[0])

    def lock(self, thread_id: str, message_id: str) -> Message:
        """The message as it is, and it stays so until the transaction ends: for changing a part of it."""
        if (row := self._bound.row(LOCK, thread=thread_id, id_=message_id)) is None:
            raise not_found("message", message_id)
        return _decoder.decode(row[0])

    def replace(self, message: Message) -> None:
        """Writes the message anew; its words are searched once it is no longer in progress."""
        words = words_of_message(message)
        if not self._bound.run(REPLACE, thread=message.thread_id, id_=message.id, json=encode(message), words=words):
            raise not_found("message", message.id)

    def delete(self, thread_id: str, message_id: str) -> bool:
        """Whether there was such a message."""
        return self._bound.run(DELETE, thread=thread_id, id_=message_id) > 0

    def list(self, thread_id: str, query: ListQuery, run_id: str | None = None) -> Page[Message]:
        if run_id is None:
            return LIST.page(self._bound, query, thread=thread_id)
        return LIST_OF_RUN.page(self._bound, query, thread=thread_id, run=run_id)

    def last_id(self, thread_id: str, *, before: str | None = None) -> str | None:
        """The id that the next message's must lie behind, see `contract.ids.id_after`; of those ahead of ``before``."""
        if before is None:
            row = self._bound.row(LAST_ID, thread=thread_id)
        else:
            row = self._bound.row(LAST_ID_BEFORE, thread=thread_id, high=before)
        return None if row is None else row[0]

    def place_for(self, thread_id: str, run_id: str) -> Place:
        """Where the run's next message goes, and that stays so until the transaction ends."""
        if (row := self._bound.row(PLACE_FOR_RUN, thread=thread_id, run=run_id)) is None:
            raise not_found("run", run_id)
        return Place(*row)

    def seen_by(self, thread_id: str, run_id: str) -> Iterator[Message]:
        """The thread backwards, but for what stands behind the run, fetched as far as it is read: only inside the
        transaction.
        """
        high = HIGHEST
        while True:
            rows = self._bound.rows(SEEN_BY_RUN, thread=thread_id, run=run_id, high=high, limit=_BLOCK)
            for row in rows:
                message = _decoder.decode(row[0])
                high = message.id
                yield message
            if len(rows) < _BLOCK:
                return
