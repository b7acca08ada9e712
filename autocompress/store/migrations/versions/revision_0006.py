"""Keep what decodings answered to task items."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ac_answers",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("trial_id", ROW_ID, nullable=False),
        sa.Column("split", sa.String, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("items", sa.Integer, nullable=False),
        sa.Column("payload", JSON),
        sa.Column("error", sa.Text),
        sa.Column("recorded_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_answers"),
        sa.ForeignKeyConstraint(["trial_id"], ["ac_trial.id"], name="fk_ac_answers_trial_id"),
        sa.UniqueConstraint("trial_id", "split", "first", "items", name="uq_ac_answers"),
        sa.CheckConstraint(
            "(payload IS NULL) = (error IS NOT NULL)", name="ck_ac_answers_outcome"
        ),
    )


def downgrade() -> None:
    op.drop_table("ac_answers")
