"""Messages of a thread."""

from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import not_found
from threadkeep.contract.messages import Message
from threadkeep.contract.paging import ListQuery, Page
from threadkeep.storage.paging import HIGHEST, LOWEST, Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, text
from threadkeep.storage.tables import messages
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
LAST_ID = Statement(sa.select(messages.c.id).where(*_in_thread).order_by(messages.c.id.desc()).limit(1))
LIST = Listing(sa.select(messages.c.object).where(*_in_thread), messages.c.id, _decoder)
LIST_OF_RUN = Listing(
    sa.select(messages.c.object).where(*_in_thread, messages.c.run_id == text("run")), messages.c.id, _decoder
)


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

    def last_id(self, thread_id: str) -> str | None:
        """The id that the next message's must lie behind, see `contract.ids.id_after`."""
        row = self._bound.row(LAST_ID, thread=thread_id)
        return None if row is None else row[0]

    def newest_first(self, thread_id: str, before: str | None = None) -> Iterator[Message]:
        """The thread backwards, from ahead of ``before``, fetched as far as it is read: only inside the transaction."""
        high = HIGHEST if before is None else before
        while True:
            rows = self._bound.rows(LIST.down, thread=thread_id, low=LOWEST, high=high, limit=_BLOCK)
            for row in rows:
                message = _decoder.decode(row[0])
                high = message.id
                yield message
            if len(rows) < _BLOCK:
                return
