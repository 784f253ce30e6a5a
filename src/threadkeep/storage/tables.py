"""The tables, once, for both databases. The migrations must lead to exactly these; a test compares them.

projects
├── keys
├── assistants
├── files                 what they contain lies in blobs, see `blobs`
├── outcomes              of requests with an Idempotency-Key, for a day
├── uploads
│   └── upload_parts      until the upload is completed: then their blobs are the file's
├── contents              what was taken from files, once for all stores that hold the same
│   ├── passages          their text, in pieces
│   └── vectors           of the passages; in PostgreSQL the table `passage_vectors`, see `vectors`
├── vector_stores
│   ├── vector_store_files
│   │   └── vector_store_attributes    one row for each, so that files are found by them
│   ├── vector_store_batches
│   ├── vector_store_spans             which passages are a store's, under which numbers
│   └── vector_store_blocks            the same, 512 numbers a row: how long the passages are
│       └── vector_store_postings      which of the 512 have a word
└── threads
    ├── thread_metadata   one row for each pair, so that threads are found by their metadata
    ├── messages          their words are searched: SQLite `message_words` (FTS5), PostgreSQL a GIN index
    ├── runs
    │   └── run_steps
    ├── code_files        what its code wrote, by path
    └── work              what is due, and who holds it; a row without a thread belongs to none

An object is stored as the JSON text of its contract struct. Beside it stand only the columns that a query needs.
Every key begins with the project: two projects may hold the same id and never see each other's.
Ids compare as bytes (collation C): they are made to sort by time that way.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import UserDefinedType

from threadkeep.contract.run_status import ACTIVE

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(referred_table_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)


class HalfVector(UserDefinedType[str]):
    """pgvector's `halfvec` of any number of dimensions."""

    cache_ok = True

    def get_col_spec(self, **_options: Any) -> str:
        return "halfvec"


_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite numbers rows by itself only where the type is spelt INTEGER.
_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

ACTIVE_RUN = sa.text(f"status IN ({', '.join(repr(status) for status in sorted(ACTIVE))})")
WAITING_RUN = sa.text("status = 'waiting'")


def _id(name: str, *, primary_key: bool = False, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, _ID, primary_key=primary_key, nullable=nullable)


projects = sa.Table(
    "projects",
    metadata,
    _id("id", primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    _id("id", primary_key=True),
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True),
    # SHA-256 in hexadecimal. The key itself is shown once and kept nowhere; it has 256 random bits, so that neither
    # salt nor a slow hash would add anything.
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    # The end of the key, for its owner to tell keys apart.
    sa.Column("hint", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # Null while the key is good. The row stays: a server on which a key was ever made never again accepts any key.
    sa.Column("revoked_at", sa.BigInteger, nullable=True),
)

assistants = sa.Table(
    "assistants",
    metadata,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    _id("id", primary_key=True),
    sa.Column("object", sa.Text, nullable=False),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    _id("id", primary_key=True),
    sa.Column("purpose", _ID, nullable=False),
    # Unix seconds; null for a file that stays.
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    sa.Column("object", sa.Text, nullable=False),
    # The keys and sizes of its blobs in order, as JSON: what it contains is these, one after the other.
    sa.Column("blobs", sa.Text, nullable=False),
    sa.Index(None, "project_id", "purpose", "id"),
)

uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    _id("id", primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    # What is asked of the file to come; null for one that stays.
    sa.Column("file_expires_s", sa.BigInteger, nullable=True),
    # The part ids that completed it, as JSON, for a client that asks again; null until then.
    sa.Column("completed_from", sa.Text, nullable=True),
)

upload_parts = sa.Table(
    "upload_parts",
    metadata,
    _id("project_id", primary_key=True),
    _id("upload_id", primary_key=True),
    _id("id", primary_key=True),
    sa.Column("blob", sa.Text, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.ForeignKeyConstraint(["project_id", "upload_id"], ["uploads.project_id", "uploads.id"], ondelete="CASCADE"),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    # Of the client's key, SHA-256 in hexadecimal: it may be long, and it may be a secret.
    _id("id", primary_key=True),
    # The same of the request.
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
)

contents = sa.Table(
    "contents",
    metadata,
    sa.Column("number", _ROW_ID, sa.Identity(), primary_key=True),
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    # Says what was read and how: equal keys have equal passages.
    sa.Column("key", _ID, nullable=False),
    # in_progress -> ready | failed
    sa.Column("status", sa.Text, nullable=False),
    # Why it failed, as JSON; null otherwise.
    sa.Column("error", sa.Text, nullable=True),
    # How many passages are stored; more come while it is in progress.
    sa.Column("passages", sa.BigInteger, nullable=False),
    # Of the passages' text, in UTF-8.
    sa.Column("bytes", sa.BigInteger, nullable=False),
    # Where whoever reads the file goes on after the last stored passage, in its own words; null: at the beginning.
    sa.Column("progress", sa.Text, nullable=True),
    sa.UniqueConstraint("project_id", "key"),
)

passages = sa.Table(
    "passages",
    metadata,
    sa.Column("content", _ROW_ID, sa.ForeignKey("contents.number", ondelete="CASCADE"), primary_key=True),
    # From 0, without gaps.
    sa.Column("position", sa.Integer, primary_key=True),
    # In the text that was taken from the file, in characters, the end exclusive.
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("end", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
)

vectors = sa.Table(
    "vectors",
    metadata,
    sa.Column("content", _ROW_ID, primary_key=True),
    sa.Column("model", _ID, primary_key=True),
    # Of the first passage; those of the next ones follow. All go when the first one does.
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    # `count` vectors of length 1, in float16, one after the other.
    sa.Column("packed", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["content", "position"], ["passages.content", "passages.position"], ondelete="CASCADE"),
    sa.Index(None, "content", "position"),
)

# The same in PostgreSQL, in pgvector's type. No migration makes it: it is there when the extension is, which may be
# later, or never. See `schema`.
passage_vectors = sa.Table(
    "passage_vectors",
    sa.MetaData(),
    sa.Column("content", sa.BigInteger, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("model", _ID, primary_key=True),
    sa.Column("embedding", HalfVector, nullable=False),
)

vector_stores = sa.Table(
    "vector_stores",
    metadata,
    # What the index calls it: short.
    sa.Column("number", _ROW_ID, sa.Identity(), primary_key=True),
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    _id("id"),
    # What the client set. The counts, times and the size in it mean nothing: the columns have them.
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("in_progress", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Integer, nullable=False),
    sa.Column("usage_bytes", sa.BigInteger, nullable=False),
    # Unix seconds, both; null for a store that stays.
    sa.Column("last_active_at", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=True),
    # The number that the next passage gets. Numbers are never given twice.
    sa.Column("next_number", sa.BigInteger, nullable=False),
    # Whose vectors are searched; null: only words are.
    sa.Column("model", sa.Text, nullable=True),
    # Changes when vectors of passages change that were there before.
    sa.Column("vectors_version", sa.BigInteger, nullable=False),
    # Null while the store is there. One that was deleted is seen by nobody while what it held is cleared away.
    sa.Column("deleted_at", sa.BigInteger, nullable=True),
    sa.UniqueConstraint("project_id", "id"),
)


def _store() -> sa.Column[int]:
    return sa.Column("store", _ROW_ID, sa.ForeignKey("vector_stores.number", ondelete="CASCADE"), primary_key=True)


vector_store_files = sa.Table(
    "vector_store_files",
    metadata,
    _store(),
    _id("file_id", primary_key=True),
    _id("project_id"),
    # Null for a file that came alone.
    _id("batch_id", nullable=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("usage_bytes", sa.BigInteger, nullable=False),
    # Null until it is known what the file holds.
    sa.Column("content", _ROW_ID, sa.ForeignKey("contents.number"), nullable=True),
    # How many of the content's passages are in the index.
    sa.Column("indexed", sa.BigInteger, nullable=False),
    sa.Index(None, "store", "status", "file_id"),
    sa.Index(None, "project_id", "file_id"),
    sa.Index(None, "content"),
    sa.Index(None, "store", "batch_id", "file_id"),
)

vector_store_attributes = sa.Table(
    "vector_store_attributes",
    metadata,
    sa.Column("store", _ROW_ID, primary_key=True),
    _id("file_id", primary_key=True),
    sa.Column("key", _ID, primary_key=True),
    # 0: a text, 1: a number, 2: a boolean, in `number`.
    sa.Column("kind", sa.SmallInteger, nullable=False),
    # 0 and empty where the kind has none, so that one index serves all kinds.
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("text", _ID, nullable=False),
    sa.ForeignKeyConstraint(
        ["store", "file_id"], ["vector_store_files.store", "vector_store_files.file_id"], ondelete="CASCADE"
    ),
    sa.Index("vector_store_attributes_value_idx", "store", "key", "kind", "number", "text"),
)

vector_store_batches = sa.Table(
    "vector_store_batches",
    metadata,
    _store(),
    _id("id", primary_key=True),
    _id("project_id"),
    sa.Column("object", sa.Text, nullable=False),
    sa.Column("in_progress", sa.Integer, nullable=False),
    sa.Column("completed", sa.Integer, nullable=False),
    sa.Column("failed", sa.Integer, nullable=False),
    sa.Column("cancelled", sa.Integer, nullable=False),
)

vector_store_spans = sa.Table(
    "vector_store_spans",
    metadata,
    _store(),
    # The number of the first passage; the next ones follow, in the content as well.
    sa.Column("first", sa.BigInteger, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    _id("file_id"),
    sa.Column("content", _ROW_ID, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Index(None, "store", "file_id"),
)

vector_store_blocks = sa.Table(
    "vector_store_blocks",
    metadata,
    _store(),
    # The numbers from 512 times this.
    sa.Column("block", sa.BigInteger, primary_key=True),
    # How many words each passage has, in 16 bits each; 0: no passage has that number any more.
    sa.Column("lengths", sa.LargeBinary, nullable=False),
    # How many passages are still in the postings and should not be.
    sa.Column("dead", sa.Integer, nullable=False),
)

vector_store_postings = sa.Table(
    "vector_store_postings",
    metadata,
    # Without a foreign key: it would be looked up for every word of every passage. The rows go with their block.
    sa.Column("store", _ROW_ID, primary_key=True),
    sa.Column("block", sa.BigInteger, primary_key=True),
    sa.Column("term", _ID, primary_key=True),
    # Which passages of the block have the term, and how often, in 16 bits each, see `passages`.
    sa.Column("packed", sa.LargeBinary, nullable=False),
    # One tree instead of two.
    sqlite_with_rowid=False,
)

threads = sa.Table(
    "threads",
    metadata,
    sa.Column("project_id", _ID, sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    _id("id", primary_key=True),
    sa.Column("object", sa.Text, nullable=False),
)


def _in_thread(*, nullable: bool = False) -> tuple[sa.Column[str], sa.Column[str], sa.ForeignKeyConstraint]:
    return (
        _id("project_id"),
        _id("thread_id", nullable=nullable),
        sa.ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
    )


thread_metadata = sa.Table(
    "thread_metadata",
    metadata,
    _id("project_id", primary_key=True),
    sa.Column("key", _ID, primary_key=True),
    sa.Column("value", _ID, primary_key=True),
    _id("thread_id", primary_key=True),
    sa.ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
    sa.Index(None, "project_id", "thread_id"),
    # The rows are nothing but their key: one tree instead of two.
    sqlite_with_rowid=False,
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("row_id", _ROW_ID, sa.Identity(), primary_key=True),
    *_in_thread(),
    _id("id"),
    # The run that wrote the message; null for a client's.
    _id("run_id", nullable=True),
    sa.Column("object", sa.Text, nullable=False),
    # The distinct words of the text, see `words`; null while the message is still being written. Last, so that
    # reading the object does not page through it.
    sa.Column("words", sa.Text, nullable=True),
    sa.UniqueConstraint("project_id", "thread_id", "id"),
)
sa.Index(
    "messages_run_idx",
    messages.c.project_id,
    messages.c.thread_id,
    messages.c.run_id,
    messages.c.id,
    sqlite_where=messages.c.run_id.is_not(None),
    postgresql_where=messages.c.run_id.is_not(None),
)
# SQLite has the virtual table `message_words` instead, which is made by the migration alone: SQLAlchemy has no word
# for such tables.
sa.Index(
    "messages_words_idx",
    sa.text("string_to_array(words, ' ')"),
    postgresql_using="gin",
    _table=messages,
).ddl_if(dialect="postgresql")

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("project_id", _ID, primary_key=True),
    _id("thread_id"),
    _id("id", primary_key=True),
    # As in the object; but "waiting" while the run, "queued" in the object, stands behind another one of its thread.
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("object", sa.Text, nullable=False),
    # The number of the last event of the run, once it has ended.
    sa.Column("told", sa.BigInteger, nullable=True),
    # Among those that wait the lowest is next. Null where no run ever stood behind this one, nor this behind another.
    sa.Column("place", sa.BigInteger, nullable=True),
    # The first message of the thread that stands behind the run: what it reads and writes lies before. Null: none does.
    _id("ahead_of", nullable=True),
    sa.ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
    sa.Index(None, "project_id", "thread_id", "id"),
    # One active run for each thread: this index is the rule, whatever the code believes.
    sa.Index(
        "runs_active_idx",
        "project_id",
        "thread_id",
        unique=True,
        sqlite_where=ACTIVE_RUN,
        postgresql_where=ACTIVE_RUN,
    ),
    sa.Index(
        "runs_waiting_idx",
        "project_id",
        "thread_id",
        "place",
        unique=True,
        sqlite_where=WAITING_RUN,
        postgresql_where=WAITING_RUN,
    ),
)

run_steps = sa.Table(
    "run_steps",
    metadata,
    sa.Column("project_id", _ID, primary_key=True),
    _id("thread_id"),
    _id("run_id", primary_key=True),
    _id("id", primary_key=True),
    sa.Column("object", sa.Text, nullable=False),
    # The number of the event that told the step's end; null while it has none, and where nobody was told.
    sa.Column("told", sa.BigInteger, nullable=True),
    sa.ForeignKeyConstraint(["project_id", "run_id"], ["runs.project_id", "runs.id"], ondelete="CASCADE"),
)

code_files = sa.Table(
    "code_files",
    metadata,
    _id("project_id", primary_key=True),
    _id("thread_id", primary_key=True),
    # Relative to /mnt/data.
    sa.Column("path", _ID, primary_key=True),
    _id("file_id"),
    sa.ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
    sa.ForeignKeyConstraint(["project_id", "file_id"], ["files.project_id", "files.id"], ondelete="CASCADE"),
    # For the deletion of a file.
    sa.Index(None, "project_id", "file_id"),
)

work = sa.Table(
    "work",
    metadata,
    _id("kind", primary_key=True),
    _id("key", primary_key=True),
    # A thread that is deleted takes its work along: whoever holds a lease on it learns so at its next fence.
    *_in_thread(nullable=True),
    # Both in milliseconds since 1970 by the database's clock, the only one that all nodes share.
    sa.Column("due_at", sa.BigInteger, nullable=False),
    # Null while nobody holds the lease. A lease that ran out keeps its columns until another node takes it over.
    # Deliberately without an index: a renewal then touches no index in PostgreSQL (a HOT update).
    sa.Column("lease_until", sa.BigInteger, nullable=True),
    sa.Column("lease_token", sa.Text, nullable=True),
    sa.Column("lease_node", sa.Text, nullable=True),
    # How often a node died holding the lease.
    sa.Column("attempts", sa.Integer, nullable=False),
    # Somebody asked the holder to stop. Stays set: whoever takes the work over must hear of it too.
    sa.Column("interrupted", sa.Boolean, nullable=False),
    # For a run: every event that was told of it has this number at most, except those of whoever holds the lease. Null
    # for other work, and for a run of a version that did not count.
    sa.Column("told", sa.BigInteger, nullable=True),
    # What may keep the work waiting together with other work: for a run, the upstream that answers it. Null: nothing.
    sa.Column("lane", sa.Text, nullable=True),
    # From then on the work is over as soon as it is looked at, and nodes without room take it too. Milliseconds as
    # above; null for work that never is.
    sa.Column("overdue_at", sa.BigInteger, nullable=True),
    sa.Index(None, "due_at"),
    sa.Index(None, "lease_node"),
    sa.Index(None, "project_id", "thread_id"),
)

# PostgreSQL only: what each writer has committed last, so that it can learn what became of a commit whose answer was
# lost. SQLite is in this process, and answers always.
commits = sa.Table(
    "commits",
    metadata,
    # A connection's name, which a new process makes up anew.
    sa.Column("writer", _ID, primary_key=True),
    # Of its last transaction that was committed. Changed in each, so deliberately without an index (a HOT update).
    sa.Column("number", sa.BigInteger, nullable=False),
    # Unix seconds by the writer's clock: rows of writers that are no more go a day later.
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)
