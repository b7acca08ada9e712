"""The tables of the store, as the code reads them; `migrations` makes them."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

# Integer, since SQLite numbers rows by itself only for an INTEGER PRIMARY KEY.
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# None is NULL, not the JSON word null, so that `IS NULL` finds a study without a report.
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

study = sa.Table(
    "ac_study",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    # Times are ISO 8601 in UTC, as text: SQLite has no type for them that keeps the zone.
    sa.Column("created_at", sa.String, nullable=False),
    sa.Column("finished_at", sa.String),
    sa.Column("spec", JSON, nullable=False),
    sa.Column("report", JSON),
    # Who runs it, and when it was last heard of: two drivers would ask for each other's shards.
    sa.Column("driver", sa.String),
    sa.Column("beat_at", sa.String),
    sa.UniqueConstraint("name"),
)

trial = sa.Table(
    "ac_trial",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("study_id", ROW_ID, sa.ForeignKey("ac_study.id"), nullable=False),
    # A digest of the genotype: PostgreSQL indexes no value beyond about 2,700 bytes.
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("genotype", sa.LargeBinary, nullable=False),
    # Of the search text: sequences read, and the mean loss on them.
    sa.Column("sequences", sa.Integer, nullable=False, server_default="0"),
    sa.Column("loss", sa.Double),
    sa.UniqueConstraint("study_id", "key"),
)
# In the order of the best: those read furthest first, and of these the least losses.
sa.Index("ix_ac_trial_best", trial.c.study_id, trial.c.sequences.desc(), trial.c.loss)

measurement = sa.Table(
    "ac_measurement",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("trial_id", ROW_ID, sa.ForeignKey("ac_trial.id"), nullable=False),
    sa.Column("split", sa.String, nullable=False),
    sa.Column("draw", sa.Integer, nullable=False),
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("sequences", sa.Integer, nullable=False),
    # Tokens that the candidate was trained on before it was read.
    sa.Column("trained", sa.Integer, nullable=False, server_default="0"),
    # Float64, little-endian, one a sequence: a loss comes back to the last bit.
    sa.Column("kl", sa.LargeBinary),
    sa.Column("nll", sa.LargeBinary),
    sa.Column("tokens", sa.Integer),
    sa.Column("error", sa.Text),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("recorded_at", sa.String, nullable=False),
    sa.UniqueConstraint("trial_id", "split", "draw", "first", "sequences", "trained"),
    sa.CheckConstraint("(kl IS NULL) = (error IS NOT NULL)", name="outcome"),
)

answers = sa.Table(
    "ac_answers",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("trial_id", ROW_ID, sa.ForeignKey("ac_trial.id"), nullable=False),
    sa.Column("split", sa.String, nullable=False),
    # Of the split's items: the first that was answered, and how many.
    sa.Column("first", sa.Integer, nullable=False),
    sa.Column("items", sa.Integer, nullable=False),
    sa.Column("payload", JSON),
    sa.Column("error", sa.Text),
    sa.Column("recorded_at", sa.String, nullable=False),
    sa.UniqueConstraint("trial_id", "split", "first", "items"),
    sa.CheckConstraint("(payload IS NULL) = (error IS NOT NULL)", name="outcome"),
)

document = sa.Table(
    "ac_document",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("study_id", ROW_ID, sa.ForeignKey("ac_study.id"), nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("payload", JSON, nullable=False),
    sa.UniqueConstraint("study_id", "name"),
)

event = sa.Table(
    "ac_event",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("study_id", ROW_ID, sa.ForeignKey("ac_study.id"), nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("payload", JSON, nullable=False),
    sa.UniqueConstraint("study_id", "position"),
)

profile = sa.Table(
    "ac_profile",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    # A digest of `about`, which says what the times depend on.
    sa.Column("key", sa.String(64), nullable=False),
    sa.Column("about", JSON, nullable=False),
    sa.Column("measured_at", sa.String, nullable=False),
    sa.Column("payload", JSON, nullable=False),
    sa.UniqueConstraint("key"),
)

schedule = sa.Table(
    "ac_schedule",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("cron", sa.String, nullable=False),
    # Of the IANA database: what the cron expression's hours are.
    sa.Column("zone", sa.String, nullable=False),
    sa.Column("spec", JSON, nullable=False),
    sa.Column("settings", JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.UniqueConstraint("name"),
)

run = sa.Table(
    "ac_run",
    metadata,
    sa.Column("id", ROW_ID, primary_key=True),
    sa.Column(
        "schedule_id", ROW_ID, sa.ForeignKey("ac_schedule.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("due_at", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    # Who runs it, and when it was last heard of: a run whose scheduler died is taken over.
    sa.Column("claimed_by", sa.String, nullable=False),
    sa.Column("claimed_at", sa.String, nullable=False),
    sa.Column("beat_at", sa.String, nullable=False),
    sa.Column("finished_at", sa.String),
    sa.Column("verdict", JSON),
    # Of several schedulers on one database, one inserts a firing and runs it.
    sa.UniqueConstraint("schedule_id", "due_at"),
)
