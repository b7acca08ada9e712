"""Make the table of latency profiles, which all studies of a database share."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ac_profile",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("about", JSON, nullable=False),
        sa.Column("measured_at", sa.String, nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_profile"),
        sa.UniqueConstraint("key", name="uq_ac_profile"),
    )


def downgrade() -> None:
    op.drop_table("ac_profile")
