"""What was taken from files: passages of text, once for everything in a project that holds the same.

A content that no file of a store points to any more goes piece by piece, see `Contents.unused` and `Contents.drop`.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from threadkeep.contract.errors import NotFound
from threadkeep.contract.vector_stores import VectorStoreFileError
from threadkeep.storage.paging import encode
from threadkeep.storage.statements import PROJECT, Bound, Row, Statement, Upsert, number, text
from threadkeep.storage.tables import contents, passages, vector_store_files

_error_decoder = msgspec.json.Decoder(VectorStoreFileError)
_c = contents.c
_zero = sa.literal_column("0", sa.Integer)
_one = (_c.project_id == PROJECT, _c.number == number("content"))
_content = sa.select(_c.number, _c.key, _c.status, _c.error, _c.passages, _c.bytes, _c.progress)
# A content of the project: what the other tables know it by, if it is.
CONTENT = sa.select(_c.number).where(*_one).scalar_subquery()

INSERT = Statement(
    postgresql.insert(contents)
    .values(project_id=PROJECT, key=text("key_"), status=text("status"), passages=_zero, bytes=_zero)
    .on_conflict_do_nothing(index_elements=["project_id", "key"])
    .inline()
)
# Shared: `drop` waits for it, others that use the same content do not.
FIND = Statement(_content.where(_c.project_id == PROJECT, _c.key == text("key_")).with_for_update(read=True))
GET = Statement(_content.where(*_one))
APPEND = Statement(
    sa.update(contents)
    .where(*_one, _c.status == text("was"), _c.passages == number("position"))
    .values(passages=_c.passages + number("count"), bytes=_c.bytes + number("bytes_"), progress=text("progress"))
)
END = Statement(
    sa.update(contents)
    .where(*_one, _c.status == text("was"))
    .values(status=text("status"), error=text("error"), progress=sa.null())
)
INSERT_PASSAGES = Upsert(passages)
PASSAGES = Statement(
    sa.select(
        passages.c.content,
        passages.c.position,
        passages.c.text,
        passages.c.start,
        passages.c.end,
        passages.c.tokens,
    )
    .where(passages.c.content == CONTENT, passages.c.position >= number("first"))
    .order_by(passages.c.position)
    .limit(number("limit"))
)
_is_used = (
    sa.select(vector_store_files.c.file_id)
    .where(vector_store_files.c.project_id == PROJECT, vector_store_files.c.content == _c.number)
    .exists()
)
UNUSED = Statement(sa.select(_c.number).where(_c.project_id == PROJECT, ~_is_used).limit(number("limit")))
LOCK = Statement(sa.select(_c.status).where(*_one).with_for_update())
IS_USED = Statement(sa.select(_c.number).where(*_one, _is_used))
# Nobody finds it by its key from now on, so nobody begins to use it.
HIDE = Statement(sa.update(contents).where(*_one).values(status=text("status"), key=text("key_")))
DELETE_PASSAGES = Statement(
    sa.delete(passages).where(
        passages.c.content == CONTENT,
        passages.c.position.in_(
            sa.select(passages.c.position)
            .where(passages.c.content == CONTENT)
            .order_by(passages.c.position)
            .limit(number("most"))
        ),
    )
)
DELETE = Statement(sa.delete(contents).where(*_one))

ContentStatus = Literal["in_progress", "ready", "failed", "dropped"]


class Content(NamedTuple):
    number: int
    key: str
    # in_progress -> ready | failed
    status: ContentStatus
    # Why it failed.
    error: VectorStoreFileError | None
    # How many there are by now, and their size in UTF-8.
    passages: int
    bytes: int
    # Where reading goes on, in the reader's own words; None: at the beginning.
    progress: str | None


class NewPassage(NamedTuple):
    text: str
    # In characters of the whole text, the end exclusive.
    start: int
    end: int
    tokens: int


class Passage(NamedTuple):
    content: int
    position: int
    text: str
    start: int
    end: int
    tokens: int


class Contents:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def ensure(self, key: str) -> Content:
        """The content with this key, made if there was none; it is not dropped before the transaction ends.

        Whoever makes a file point to it does so in the same transaction.
        """
        while (row := self._bound.row(FIND, key_=key)) is None:
            self._bound.run(INSERT, key_=key, status="in_progress")
        return _read(row)

    def find(self, number: int) -> Content | None:
        row = self._bound.row(GET, content=number)
        return None if row is None else _read(row)

    def get(self, number: int) -> Content:
        if (content := self.find(number)) is None:
            raise _gone(number)
        return content

    def append(self, number: int, position: int, new: Sequence[NewPassage], progress: str | None) -> None:
        """Adds passages behind the last one, which ``position`` counts; `NotFound` if it is not so any more.

        Characters that a database can't keep (NUL) become spaces: offsets stay right.
        """
        texts = [passage.text.replace("\0", " ") for passage in new]
        changed = self._bound.run(
            APPEND,
            content=number,
            was="in_progress",
            position=position,
            count=len(new),
            bytes_=sum(len(string.encode()) for string in texts),
            progress=progress,
        )
        if not changed:
            raise _gone(number)
        self._bound.upsert(
            INSERT_PASSAGES,
            {
                "content": [number] * len(new),
                "position": [position + index for index in range(len(new))],
                "start": [passage.start for passage in new],
                "end": [passage.end for passage in new],
                "tokens": [passage.tokens for passage in new],
                "text": texts,
            },
        )

    def finish(self, number: int) -> None:
        """All passages are there."""
        if not self._bound.run(END, content=number, was="in_progress", status="ready", error=None):
            raise _gone(number)

    def fail(self, number: int, error: VectorStoreFileError) -> None:
        """There will be no (more) passages: the file can't be read."""
        if not self._bound.run(END, content=number, was="in_progress", status="failed", error=encode(error)):
            raise _gone(number)

    def passages(self, number: int, first: int = 0, limit: int = 256) -> list[Passage]:
        """Passages in order, from position ``first``."""
        return [Passage(*row) for row in self._bound.rows(PASSAGES, content=number, first=first, limit=limit)]

    def read(self, places: Sequence[tuple[int, int]]) -> list[Passage]:
        """The passages at these contents and positions, in this order; what is gone meanwhile is left out."""
        found: list[Passage] = []
        for content, position in places:
            rows = self._bound.rows(PASSAGES, content=content, first=position, limit=1)
            found += [Passage(*row) for row in rows if row[1] == position]
        return found

    def unused(self, limit: int = 100) -> list[int]:
        """Contents that no file points to: what `drop` takes away."""
        return [row[0] for row in self._bound.rows(UNUSED, limit=limit)]

    def drop(self, number: int, most: int = 2000) -> bool:
        """Takes away about so many passages of a content that no file points to; whether there is nothing to do any
        more: it is gone, or in use."""
        # First the lock, then the question: somebody who has just begun to use it has committed by then.
        if (row := self._bound.row(LOCK, content=number)) is None:
            return True
        if self._bound.row(IS_USED, content=number) is not None:
            return True
        if row[0] != "dropped":
            self._bound.run(HIDE, content=number, status="dropped", key_=f"dropped {number}")
        if self._bound.run(DELETE_PASSAGES, content=number, most=most) >= most:
            return False
        self._bound.run(DELETE, content=number)
        return True


def _read(row: Row) -> Content:
    number, key, status, error, count, size, progress = row
    return Content(number, key, status, None if error is None else _error_decoder.decode(error), count, size, progress)


def _gone(number: int) -> NotFound:
    return NotFound(f"The content {number} is not there, or is not what it was.")
