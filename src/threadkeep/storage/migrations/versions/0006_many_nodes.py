"""Many nodes: how far a run was told, so that the numbers of its events go on wherever it goes on; what each connection
has committed; and what work waits for together with other work. Runs that wait for the one before them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    identifier = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    for table in ("runs", "run_steps", "work"):
        op.add_column(table, sa.Column("told", sa.BigInteger(), nullable=True))
    op.add_column("work", sa.Column("lane", sa.Text(), nullable=True))
    # Null for runs of before: they expire where there is room.
    op.add_column("work", sa.Column("overdue_at", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("place", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("ahead_of", identifier, nullable=True))
    waiting = sa.text("status = 'waiting'")
    op.create_index(
        "runs_waiting_idx",
        "runs",
        ["project_id", "thread_id", "place"],
        unique=True,
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_table(
        "commits",
        sa.Column("writer", identifier, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer", name="commits_pkey"),
    )
