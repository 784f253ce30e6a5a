"""Files, uploads and their parts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    op.create_table(
        "files",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("purpose", identifier, nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("blobs", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "id", name="files_pkey"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="files_projects_fkey", ondelete="CASCADE"),
    )
    op.create_index("files_project_id_purpose_id_idx", "files", ["project_id", "purpose", "id"])

    op.create_table(
        "uploads",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("file_expires_s", sa.BigInteger(), nullable=True),
        sa.Column("completed_from", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("project_id", "id", name="uploads_pkey"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="uploads_projects_fkey", ondelete="CASCADE"),
    )
    op.create_table(
        "upload_parts",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("upload_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "upload_id", "id", name="upload_parts_pkey"),
        sa.ForeignKeyConstraint(
            ["project_id", "upload_id"],
            ["uploads.project_id", "uploads.id"],
            name="upload_parts_uploads_fkey",
            ondelete="CASCADE",
        ),
    )
