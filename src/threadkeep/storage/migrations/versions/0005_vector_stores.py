"""Vector stores: what files say, in which stores it is searched, and the index of its words."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    double: sa.Double[float] = sa.Double()
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

    def belongs(table: str, column: str, to: str, ondelete: str | None = "CASCADE") -> sa.ForeignKeyConstraint:
        parent = to.split(".", maxsplit=1)[0]
        return sa.ForeignKeyConstraint([column], [to], name=f"{table}_{parent}_fkey", ondelete=ondelete)

    op.create_table(
        "contents",
        sa.Column("number", number, sa.Identity(), nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("key", identifier, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("passages", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="contents_pkey"),
        belongs("contents", "project_id", "projects.id"),
        sa.UniqueConstraint("project_id", "key", name="contents_project_id_key_key"),
    )
    op.create_table(
        "passages",
        sa.Column("content", number, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("content", "position", name="passages_pkey"),
        belongs("passages", "content", "contents.number"),
    )
    op.create_table(
        "vectors",
        sa.Column("content", number, nullable=False),
        sa.Column("model", identifier, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("content", "model", "position", name="vectors_pkey"),
        sa.ForeignKeyConstraint(
            ["content", "position"],
            ["passages.content", "passages.position"],
            name="vectors_passages_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index("vectors_content_position_idx", "vectors", ["content", "position"])
    op.create_table(
        "vector_stores",
        sa.Column("number", number, sa.Identity(), nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("in_progress", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_active_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("next_number", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("vectors_version", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("number", name="vector_stores_pkey"),
        belongs("vector_stores", "project_id", "projects.id"),
        sa.UniqueConstraint("project_id", "id", name="vector_stores_project_id_id_key"),
    )
    op.create_table(
        "vector_store_files",
        sa.Column("store", number, nullable=False),
        sa.Column("file_id", identifier, nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("batch_id", identifier, nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("usage_bytes", sa.BigInteger(), nullable=False),
        sa.Column("content", number, nullable=True),
        sa.Column("indexed", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("store", "file_id", name="vector_store_files_pkey"),
        belongs("vector_store_files", "store", "vector_stores.number"),
        belongs("vector_store_files", "content", "contents.number", ondelete=None),
    )
    for columns in (
        ["store", "status", "file_id"],
        ["project_id", "file_id"],
        ["content"],
        ["store", "batch_id", "file_id"],
    ):
        op.create_index(f"vector_store_files_{'_'.join(columns)}_idx", "vector_store_files", columns)
    op.create_table(
        "vector_store_attributes",
        sa.Column("store", number, nullable=False),
        sa.Column("file_id", identifier, nullable=False),
        sa.Column("key", identifier, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("number", double, nullable=False),
        sa.Column("text", identifier, nullable=False),
        sa.PrimaryKeyConstraint("store", "file_id", "key", name="vector_store_attributes_pkey"),
        sa.ForeignKeyConstraint(
            ["store", "file_id"],
            ["vector_store_files.store", "vector_store_files.file_id"],
            name="vector_store_attributes_vector_store_files_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index(
        "vector_store_attributes_value_idx", "vector_store_attributes", ["store", "key", "kind", "number", "text"]
    )
    op.create_table(
        "vector_store_batches",
        sa.Column("store", number, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("in_progress", sa.Integer(), nullable=False),
        sa.Column("completed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cancelled", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("store", "id", name="vector_store_batches_pkey"),
        belongs("vector_store_batches", "store", "vector_stores.number"),
    )
    op.create_table(
        "vector_store_spans",
        sa.Column("store", number, nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("file_id", identifier, nullable=False),
        sa.Column("content", number, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("store", "first", name="vector_store_spans_pkey"),
        belongs("vector_store_spans", "store", "vector_stores.number"),
    )
    op.create_index("vector_store_spans_store_file_id_idx", "vector_store_spans", ["store", "file_id"])
    op.create_table(
        "vector_store_blocks",
        sa.Column("store", number, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("lengths", sa.LargeBinary(), nullable=False),
        sa.Column("dead", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("store", "block", name="vector_store_blocks_pkey"),
        belongs("vector_store_blocks", "store", "vector_stores.number"),
    )
    op.create_table(
        "vector_store_postings",
        sa.Column("store", number, nullable=False),
        sa.Column("block", sa.BigInteger(), nullable=False),
        sa.Column("term", identifier, nullable=False),
        sa.Column("packed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("store", "block", "term", name="vector_store_postings_pkey"),
        sqlite_with_rowid=False,
    )
