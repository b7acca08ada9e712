"""Keep what each trial lost on the search text as numbers, so that the best are found at once."""

import numpy as np
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("ac_measurement", sa.Column("loss", sa.Double))
    op.add_column(
        "ac_trial", sa.Column("sequences", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column("ac_trial", sa.Column("loss", sa.Double))
    measurement = sa.table(
        "ac_measurement",
        sa.column("id", sa.BigInteger),
        sa.column("trial_id", sa.BigInteger),
        sa.column("split", sa.String),
        sa.column("sequences", sa.Integer),
        sa.column("kl", sa.LargeBinary),
        sa.column("loss", sa.Double),
    )
    trial = sa.table(
        "ac_trial",
        sa.column("id", sa.BigInteger),
        sa.column("sequences", sa.Integer),
        sa.column("loss", sa.Double),
    )
    connection = op.get_bind()
    known = connection.execute(
        sa.select(measurement.c.id, measurement.c.kl).where(measurement.c.kl.is_not(None))
    ).all()
    if known:
        change = sa.update(measurement).where(measurement.c.id == sa.bindparam("row"))
        connection.execute(
            change.values(loss=sa.bindparam("mean")),
            [{"row": row.id, "mean": _mean(row.kl)} for row in known],
        )
    read = (measurement.c.trial_id == trial.c.id) & (measurement.c.split == "search")
    read &= measurement.c.loss.is_not(None)
    n = sa.select(sa.func.sum(measurement.c.sequences)).where(read).scalar_subquery()
    total = sa.func.sum(measurement.c.loss * measurement.c.sequences)
    mean = sa.select(total / sa.func.sum(measurement.c.sequences)).where(read).scalar_subquery()
    connection.execute(sa.update(trial).values(sequences=sa.func.coalesce(n, 0), loss=mean))
    op.create_index("ix_ac_trial_best", "ac_trial", ["study_id", "sequences", "loss"])


def _mean(packed: bytes) -> float | None:
    with np.errstate(all="ignore"):
        mean = float(np.frombuffer(packed, "<f8").mean())
    return mean if np.isfinite(mean) else None


def downgrade() -> None:
    op.drop_index("ix_ac_trial_best", "ac_trial")
    op.drop_column("ac_trial", "loss")
    op.drop_column("ac_trial", "sequences")
    op.drop_column("ac_measurement", "loss")
