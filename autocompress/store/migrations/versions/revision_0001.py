"""Make the tables of studies, trials, measurements, documents and events."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Spelled out and not taken from `schema`: a released revision must not change with it.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    op.create_table(
        "ac_study",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.String, nullable=False),
        sa.Column("finished_at", sa.String),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("report", JSON),
        sa.PrimaryKeyConstraint("id", name="pk_ac_study"),
        sa.UniqueConstraint("name", name="uq_ac_study"),
    )
    op.create_table(
        "ac_trial",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("study_id", ROW_ID, nullable=False),
        sa.Column("key", sa.String(32), nullable=False),
        sa.Column("genotype", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_trial"),
        sa.ForeignKeyConstraint(["study_id"], ["ac_study.id"], name="fk_ac_trial_study_id"),
        sa.UniqueConstraint("study_id", "key", name="uq_ac_trial"),
    )
    op.create_table(
        "ac_measurement",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("trial_id", ROW_ID, nullable=False),
        sa.Column("split", sa.String, nullable=False),
        sa.Column("draw", sa.Integer, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("sequences", sa.Integer, nullable=False),
        sa.Column("kl", sa.LargeBinary),
        sa.Column("nll", sa.LargeBinary),
        sa.Column("tokens", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("recorded_at", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_measurement"),
        sa.ForeignKeyConstraint(["trial_id"], ["ac_trial.id"], name="fk_ac_measurement_trial_id"),
        sa.UniqueConstraint(
            "trial_id", "split", "draw", "first", "sequences", name="uq_ac_measurement"
        ),
        sa.CheckConstraint(
            "(kl IS NULL) = (error IS NOT NULL)", name=op.f("ck_ac_measurement_outcome")
        ),
    )
    op.create_table(
        "ac_document",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("study_id", ROW_ID, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_document"),
        sa.ForeignKeyConstraint(["study_id"], ["ac_study.id"], name="fk_ac_document_study_id"),
        sa.UniqueConstraint("study_id", "name", name="uq_ac_document"),
    )
    op.create_table(
        "ac_event",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("study_id", ROW_ID, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ac_event"),
        sa.ForeignKeyConstraint(["study_id"], ["ac_study.id"], name="fk_ac_event_study_id"),
        sa.UniqueConstraint("study_id", "position", name="uq_ac_event"),
    )


def downgrade() -> None:
    for table in ("ac_event", "ac_document", "ac_measurement", "ac_trial", "ac_study"):
        op.drop_table(table)
