"""Tell how long a candidate was trained before it was measured."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = "ac_measurement"
UNIQUE = "uq_ac_measurement"
COLUMNS = ["trial_id", "split", "draw", "first", "sequences"]


def upgrade() -> None:
    # SQLite changes no constraint of a table that is there: the table is copied.
    with op.batch_alter_table(TABLE) as table:
        table.add_column(sa.Column("trained", sa.Integer, nullable=False, server_default="0"))
        table.drop_constraint(UNIQUE, type_="unique")
        table.create_unique_constraint(UNIQUE, [*COLUMNS, "trained"])


def downgrade() -> None:
    op.execute(f"DELETE FROM {TABLE} WHERE trained > 0")  # noqa: S608 (a constant)
    with op.batch_alter_table(TABLE) as table:
        table.drop_constraint(UNIQUE, type_="unique")
        table.create_unique_constraint(UNIQUE, COLUMNS)
        table.drop_column("trained")
