"""Threads of a project, and how they are found by metadata and by words said in them."""

import builtins
from functools import cache

import msgspec
import sqlalchemy as sa

from threadkeep.contract.errors import not_found
from threadkeep.contract.ids import first_id
from threadkeep.contract.paging import ListQuery, Page, page_of
from threadkeep.contract.threads import Thread
from threadkeep.storage.paging import Listing, encode
from threadkeep.storage.statements import PROJECT, Bound, Statement, Value, number, text
from threadkeep.storage.tables import ACTIVE_RUN, messages, runs, thread_metadata, threads
from threadkeep.storage.words import HasWords, Unindexed, words_of

_decoder = msgspec.json.Decoder(Thread)
_one = (threads.c.project_id == PROJECT, threads.c.id == text("id_"))
# No thread carries more pairs than this, so no thread has more of them asked for.
_MAX_PAIRS = 16

INSERT = Statement(sa.insert(threads).values(project_id=PROJECT, id=text("id_"), object=text("json")))
GET = Statement(sa.select(threads.c.object).where(*_one))
# NO KEY UPDATE: as exclusive among lockers, but rows that refer to the thread may be written beside it.
LOCK = Statement(sa.select(threads.c.object).where(*_one).with_for_update(key_share=True))
REPLACE = Statement(sa.update(threads).where(*_one).values(object=text("json")))
# A scan: few files are deleted, and a column for this would cost every write.
NAMING = Statement(
    sa.select(threads.c.id)
    .where(threads.c.project_id == PROJECT, threads.c.id > text("after"), threads.c.object.like(text("pattern")))
    .order_by(threads.c.id)
    .limit(number("limit"))
)
_is_idle = sa.and_(
    threads.c.id < text("before_thread"),
    ~sa.exists().where(
        messages.c.project_id == PROJECT,
        messages.c.thread_id == threads.c.id,
        messages.c.id >= text("before_message"),
    ),
    ~sa.exists().where(
        runs.c.project_id == PROJECT,
        runs.c.thread_id == threads.c.id,
        sa.or_(runs.c.id >= text("before_run"), ACTIVE_RUN),
    ),
)
# Those looked at are limited, not those found: where none is idle, nobody looks at a million of them in one statement.
IDLE = Statement(
    sa.select(threads.c.id, _is_idle)
    .where(threads.c.project_id == PROJECT, threads.c.id > text("after"), threads.c.id < text("before_thread"))
    .order_by(threads.c.id)
    .limit(number("limit"))
)
IS_IDLE = Statement(sa.select(threads.c.id).where(*_one, _is_idle))
DELETE = Statement(sa.delete(threads).where(*_one))
INSERT_PAIR = Statement(
    sa.insert(thread_metadata).values(project_id=PROJECT, thread_id=text("id_"), key=text("key"), value=text("value"))
)
DELETE_PAIRS = Statement(
    sa.delete(thread_metadata).where(
        thread_metadata.c.project_id == PROJECT, thread_metadata.c.thread_id == text("id_")
    )
)


@cache
def listing(pairs: int, has_words: bool) -> Listing[Thread]:
    """Threads that carry so many pairs of metadata, and, when asked for, words in one of their messages."""
    select = sa.select(threads.c.object).where(threads.c.project_id == PROJECT)
    key = threads.c.id
    if has_words:
        # The words lead: few messages have them.
        said = (
            sa.select(messages.c.thread_id)
            .where(Unindexed(messages.c.project_id) == PROJECT, HasWords())
            .distinct()
            .subquery("said")
        )
        select = select.join(said, said.c.thread_id == threads.c.id)
        key = said.c.thread_id
    # Else the first pair leads: its index holds the threads in order, and the limit ends the walk early.
    for index in range(pairs):
        pair = thread_metadata.alias(f"pair_{index}")
        select = select.join(pair, (pair.c.project_id == PROJECT) & (pair.c.thread_id == threads.c.id)).where(
            pair.c.key == text(f"key_{index}"), pair.c.value == text(f"value_{index}")
        )
        if index == 0 and not has_words:
            key = pair.c.thread_id
    return Listing(select, key, _decoder)


class Threads:
    __slots__ = ("_bound",)

    def __init__(self, bound: Bound) -> None:
        self._bound = bound

    def insert(self, thread: Thread) -> None:
        self._bound.run(INSERT, id_=thread.id, json=encode(thread))
        self._insert_pairs(thread)

    def find(self, thread_id: str) -> Thread | None:
        row = self._bound.row(GET, id_=thread_id)
        return None if row is None else _decoder.decode(row[0])

    def get(self, thread_id: str) -> Thread:
        if (thread := self.find(thread_id)) is None:
            raise not_found("thread", thread_id)
        return thread

    def lock(self, thread_id: str) -> Thread:
        """The thread, and until the transaction ends nobody else gets it from here.

        Whoever adds to a thread locks it first: ids within a thread rise only when they are given one by one.
        """
        if (row := self._bound.row(LOCK, id_=thread_id)) is None:
            raise not_found("thread", thread_id)
        return _decoder.decode(row[0])

    def replace(self, thread: Thread) -> None:
        if not self._bound.run(REPLACE, id_=thread.id, json=encode(thread)):
            raise not_found("thread", thread.id)
        self._bound.run(DELETE_PAIRS, id_=thread.id)
        self._insert_pairs(thread)

    def naming(self, file_id: str, *, after: str = "", limit: int = 50) -> builtins.list[str]:
        """Ids, in order from ``after`` on, of those that name the file somewhere."""
        return [row[0] for row in self._bound.rows(NAMING, pattern=f'%"{file_id}"%', after=after, limit=limit)]

    def idle(self, before: float, *, after: str = "", limit: int = 500) -> tuple[str | None, builtins.list[str]]:
        """Of the next threads behind ``after``, those in which nothing has happened since ``before``, in unix seconds:
        neither the thread nor a message nor a run was made, and no run is active. First, behind which thread to go on;
        None: there are no more.
        """
        rows = self._bound.rows(IDLE, after=after, limit=limit, **_before(before))
        return rows[-1][0] if len(rows) == limit else None, [row[0] for row in rows if row[1]]

    def is_idle(self, thread_id: str, before: float) -> bool:
        return self._bound.row(IS_IDLE, id_=thread_id, **_before(before)) is not None

    def delete(self, thread_id: str) -> bool:
        """Whether there was such a thread. Its messages, runs, steps and work go with it."""
        return self._bound.run(DELETE, id_=thread_id) > 0

    def list(self, query: ListQuery, metadata: dict[str, str], words: str | None) -> Page[Thread]:
        """Threads that carry all of ``metadata`` and have a message with all of ``words`` in it.

        Words are whole words in any case; a text without a word in it is found nowhere.
        """
        values: dict[str, Value] = {}
        for index, (key, value) in enumerate(metadata.items()):
            values[f"key_{index}"] = key
            values[f"value_{index}"] = value
        if words is not None:
            values["words"] = words_of(words)
        if values.get("words") == "" or len(metadata) > _MAX_PAIRS:
            return page_of(list[Thread](), lambda thread: thread.id, has_more=False)
        return listing(len(metadata), words is not None).page(self._bound, query, **values)

    def _insert_pairs(self, thread: Thread) -> None:
        for key, value in thread.metadata.items():
            self._bound.run(INSERT_PAIR, id_=thread.id, key=key, value=value)


def _before(before: float) -> dict[str, Value]:
    return {
        "before_thread": first_id("thread", before),
        "before_message": first_id("msg", before),
        "before_run": first_id("run", before),
    }
