"""Files that code wrote, by thread and path."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    op.create_table(
        "code_files",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("thread_id", identifier, nullable=False),
        sa.Column("path", identifier, nullable=False),
        sa.Column("file_id", identifier, nullable=False),
        sa.PrimaryKeyConstraint("project_id", "thread_id", "path", name="code_files_pkey"),
        sa.ForeignKeyConstraint(
            ["project_id", "thread_id"],
            ["threads.project_id", "threads.id"],
            name="code_files_threads_fkey",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "file_id"],
            ["files.project_id", "files.id"],
            name="code_files_files_fkey",
            ondelete="CASCADE",
        ),
    )
    op.create_index("code_files_project_id_file_id_idx", "code_files", ["project_id", "file_id"])
