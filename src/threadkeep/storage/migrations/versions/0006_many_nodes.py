"""How far a run was told: the numbers of its events go on wherever it goes on."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    for table in ("runs", "run_steps", "work"):
        op.add_column(table, sa.Column("told", sa.BigInteger(), nullable=True))
