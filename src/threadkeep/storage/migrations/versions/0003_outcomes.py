"""Outcomes of requests with an Idempotency-Key."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

    op.create_table(
        "outcomes",
        sa.Column("project_id", identifier, nullable=False),
        sa.Column("id", identifier, nullable=False),
        sa.Column("request", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "id", name="outcomes_pkey"),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name="outcomes_projects_fkey", ondelete="CASCADE"),
    )
