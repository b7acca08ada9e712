"""Keep who runs each study, and what each trial lost, so that the best are found at once."""

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ac_study", sa.Column("driver", sa.String))
    op.add_column("ac_study", sa.Column("beat_at", sa.String))
    op.add_column(
        "ac_trial", sa.Column("sequences", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column("ac_trial", sa.Column("loss", sa.Double))
    _fill()
    op.create_index(
        "ix_ac_trial_best", "ac_trial", ["study_id", sa.text("sequences DESC"), "loss"]
    )


def _fill() -> None:
    """Sum up what trials lost on the search text."""
    measurement = sa.table(
        "ac_measurement",
        sa.column("trial_id", sa.BigInteger),
        sa.column("split", sa.String),
        sa.column("kl", sa.LargeBinary),
    )
    trial = sa.table(
        "ac_trial",
        sa.column("id", sa.BigInteger),
        sa.column("sequences", sa.Integer),
        sa.column("loss", sa.Double),
    )
    connection = op.get_bind()
    query = sa.select(measurement.c.trial_id, measurement.c.kl)
    query = query.where(measurement.c.split == "search", measurement.c.kl.is_not(None))
    sums: dict[int, tuple[int, float]] = {}
    for row in connection.execute(query):
        losses = np.frombuffer(row.kl, "<f8")
        if np.isfinite(losses).all():
            n, total = sums.get(row.trial_id, (0, 0.0))
            sums[row.trial_id] = n + len(losses), total + float(losses.sum())
    if sums:
        change = sa.update(trial).where(trial.c.id == sa.bindparam("own"))
        connection.execute(
            change.values(sequences=sa.bindparam("n"), loss=sa.bindparam("mean")),
            [{"own": own, "n": n, "mean": total / n} for own, (n, total) in sums.items()],
        )


def downgrade() -> None:
    op.drop_index("ix_ac_trial_best", "ac_trial")
    op.drop_column("ac_trial", "loss")
    op.drop_column("ac_trial", "sequences")
    op.drop_column("ac_study", "beat_at")
    op.drop_column("ac_study", "driver")
