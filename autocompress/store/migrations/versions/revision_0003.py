"""Make the tables of schedules and of their runs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ac_schedule",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("cron", sa.String, nullable=False),
        sa.Column("zone", sa.String, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("settings", JSON, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_schedule"),
        sa.UniqueConstraint("name", name="uq_ac_schedule"),
    )
    op.create_table(
        "ac_run",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("schedule_id", ROW_ID, nullable=False),
        sa.Column("due_at", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("claimed_by", sa.String, nullable=False),
        sa.Column("claimed_at", sa.String, nullable=False),
        sa.Column("beat_at", sa.String, nullable=False),
        sa.Column("finished_at", sa.String),
        sa.Column("verdict", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_ac_run"),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["ac_schedule.id"], name="fk_ac_run_schedule_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("schedule_id", "due_at", name="uq_ac_run"),
    )


def downgrade() -> None:
    op.drop_table("ac_run")
    op.drop_table("ac_schedule")
