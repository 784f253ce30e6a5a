"""Projects, keys, assistants, threads, messages, runs, steps and work."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    row_id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    active = sa.text("status IN ('cancelling', 'in_progress', 'queued', 'requires_action')")
    is_sqlite = op.get_bind().dialect.name == "sqlite"

    projects = op.create_table(
        "projects",
        sa.Column("id", identifier, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="projects_pkey"),
        sa.UniqueConstraint("name", name="projects_name_key"),
    )
    op.bulk_insert(projects, [{"id": "proj_default", "name": "default", "created_at": int(time.time())}])

    op.create_table(
        "keys",
        sa.Column("id", identifier, nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="keys_pkey"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="keys_projects_fkey", ondelete="CASCADE"),
        sa.UniqueConstraint("hash", name="keys_hash_key"),
    )
    op.create_index("keys_project_id_idx", "keys", ["project_id"])

    for table in ("assistants", "threads"):
        op.create_table(
            table,
            sa.Column("project_id", identifier, nullable=False),
            sa.Column("id", identifier, nullable=False),
            sa.Column("object", sa.Text(), nullable=False),
            sa.PrimaryKeyConstraint("project_id", "id", name=f"{table}_pkey"),
            sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=f"{table}_projects_fkey", ondelete="CASCADE"),
        )

    def belongs_to_thread(table: str) -> sa.ForeignKeyConstraint:
        return sa.ForeignKeyConstraint(
            ["project_id", "thread_id"],
            ["threads.project_id", "threads.id"],
            name=f"{table}_threads_fkey",
            ondelete="CASCADE",
        )

    op.create_table(
        "thread_metadata",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("key", identifier, nullable=False),
        sa.Column("value", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "key", "value", "thread_id", name="thread_metadata_pkey"),
        belongs_to_thread("thread_metadata"),
        sqlite_with_rowid=False,
    )
    op.create_index("thread_metadata_project_id_thread_id_idx", "thread_metadata", ["project_id", "thread_id"])

    op.create_table(
        "messages",
        sa.Column("row_id", row_id, sa.Identity(), nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("run_id", identifier, nullable=True),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("words", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("row_id", name="messages_pkey"),
        belongs_to_thread("messages"),
        sa.UniqueConstraint("project_id", "thread_id", "id", name="messages_project_id_thread_id_id_key"),
    )
    op.create_index(
        "messages_run_idx",
        "messages",
        ["project_id", "thread_id", "run_id", "id"],
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    if is_sqlite:
        search_in_sqlite()
    else:
        op.create_index(
            "messages_words_idx", "messages", [sa.text("string_to_array(words, ' ')")], postgresql_using="gin"
        )

    op.create_table(
        "runs",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "id", name="runs_pkey"),
        belongs_to_thread("runs"),
    )
    op.create_index("runs_project_id_thread_id_id_idx", "runs", ["project_id", "thread_id", "id"])
    op.create_index(
        "runs_active_idx",
        "runs",
        ["project_id", "thread_id"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )

    op.create_table(
        "run_steps",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=False),
        sa.Column("run_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "run_id", "id", name="run_steps_pkey"),
        sa.ForeignKeyConstraint(
            ["project_id", "run_id"],
            ["runs.project_id", "runs.id"],
            name="run_steps_runs_fkey",
            ondelete="CASCADE",
        ),
    )

    op.create_table(
        "work",
        sa.Column("kind", identifier, nullable=False),
        sa.Column("key", identifier, nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_node", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("interrupted", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("kind", "key", name="work_pkey"),
        belongs_to_thread("work"),
    )
    op.create_index("work_due_at_idx", "work", ["due_at"])
    op.create_index("work_lease_node_idx", "work", ["lease_node"])
    op.create_index("work_project_id_thread_id_idx", "work", ["project_id", "thread_id"])


def search_in_sqlite() -> None:
    # The index keeps no text of its own: it reads `messages.words` where it must, and is told of every change by
    # triggers, which also fire for rows that go with their thread. No positions (detail=none): words are looked up
    # one by one. The words come distinct and folded, so the tokenizer only has to split at spaces; "ascii" takes
    # every character beyond ASCII for part of a word.
    op.execute(
        """
        CREATE VIRTUAL TABLE message_words USING fts5(
            words, content='messages', content_rowid='row_id', detail=none, columnsize=0,
            tokenize="ascii tokenchars '_'"
        )
        """
    )
    op.execute(
        """
        CREATE TRIGGER messages_words_insert AFTER INSERT ON messages WHEN new.words IS NOT NULL BEGIN
            INSERT INTO message_words (rowid, words) VALUES (new.row_id, new.words);
        END
        """
    )
    op.execute(
        """
        CREATE TRIGGER messages_words_delete AFTER DELETE ON messages WHEN old.words IS NOT NULL BEGIN
            INSERT INTO message_words (message_words, rowid, words) VALUES ('delete', old.row_id, old.words);
        END
        """
    )
    op.execute(
        """
        CREATE TRIGGER messages_words_update AFTER UPDATE OF words ON messages WHEN old.words IS NOT new.words BEGIN
            INSERT INTO message_words (message_words, rowid, words)
                SELECT 'delete', old.row_id, old.words WHERE old.words IS NOT NULL;
            INSERT INTO message_words (rowid, words) SELECT new.row_id, new.words WHERE new.words IS NOT NULL;
        END
        """
    )
