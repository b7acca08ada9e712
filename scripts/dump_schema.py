"""Dump a database of one revision of the schema, with a row in every table, for the tests.

    python scripts/dump_schema.py 0002 postgresql+psycopg://root@127.0.0.1:5432/test

writes tests/store/schemas/0002.sqlite.sql and 0002.postgresql.sql. A released revision is dumped
once: what it made must be brought up to date for ever. `pg_dump` must be on the PATH.
"""

import re
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from alembic import command

from autocompress.store.database import migration_config
from autocompress.store.rows import trial_key
from autocompress.trial import Genotype

FOLDER = Path(__file__).parents[1] / "tests" / "store" / "schemas"
LEVELS = Genotype((0, 3, 1))
ROWS: dict[str, dict[str, object]] = {
    "ac_study": {
        "name": "old",
        "state": "finished",
        "created_at": "2026-11-01T02:00:00+00:00",
        "finished_at": "2026-11-01T02:10:00+00:00",
        "spec": '{"model": "m", "target_speedup": 2.0}',
        "report": '{"met": true}',
    },
    "ac_trial": {
        "study_id": 1,
        "key": trial_key(LEVELS),
        "genotype": LEVELS.to_bytes(),
        "sequences": 2,
        "loss": 0.15,
    },
    "ac_measurement": {
        "trial_id": 1,
        "split": "search",
        "draw": 0,
        "first": 0,
        "sequences": 2,
        "kl": np.array([0.1, 0.2], "<f8").tobytes(),
        "nll": np.array([2.5, 2.6], "<f8").tobytes(),
        "tokens": 127,
        "error": None,
        "seconds": 0.25,
        "recorded_at": "2026-11-01T02:05:00+00:00",
    },
    "ac_answers": {
        "trial_id": 1,
        "split": "search",
        "first": 0,
        "items": 2,
        "payload": '{"scores": [1.0, 0.0]}',
        "error": None,
        "recorded_at": "2026-11-01T02:06:00+00:00",
    },
    "ac_document": {"study_id": 1, "name": "winner", "payload": '{"levels": [0, 3, 1]}'},
    "ac_event": {
        "study_id": 1,
        "position": 0,
        "kind": "stop",
        "payload": '{"phase": 0}',
    },
    "ac_schedule": {
        "name": "nightly",
        "cron": "0 2 * * *",
        "zone": "Europe/Berlin",
        "spec": '{"model": "m", "target_speedup": 2.0}',
        "settings": '{"output": "out"}',
        "created_at": "2026-11-01T00:00:00+00:00",
    },
    "ac_run": {
        "schedule_id": 1,
        "due_at": "2026-11-01T01:00:00+00:00",
        "state": "finished",
        "claimed_by": "host:1:1.00:a",
        "claimed_at": "2026-11-01T01:00:00+00:00",
        "beat_at": "2026-11-01T01:00:00+00:00",
        "finished_at": "2026-11-01T01:10:00+00:00",
        "verdict": '{"outcome": "KEPT"}',
    },
    "ac_profile": {
        "key": "0" * 64,
        "about": '{"engine": "torch"}',
        "measured_at": "2026-11-01T02:01:00+00:00",
        "payload": "{}",
    },
}
"""A row of each table, number 1 of it; columns that a revision does not have yet are left out."""


def main() -> None:
    """Dump the revision named on the command line, for both databases."""
    revision, server = sys.argv[1:]
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "studies.db"
        _fill(f"sqlite:///{file}", revision)
        with sqlite3.connect(file) as connection:
            lines = list(connection.iterdump())
    _write(revision, "sqlite", lines)
    schema = f"dump_{uuid.uuid4().hex}"
    engine = sa.create_engine(server)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    url = sa.make_url(server).update_query_dict({"options": f"-csearch_path={schema}"})
    try:
        _fill(url.render_as_string(hide_password=False), revision)
        own = re.sub(r"\+\w+", "", server, count=1)
        options = ["--schema", schema, "--inserts", "--no-owner", "--no-privileges"]
        run = subprocess.run(
            ["pg_dump", *options, own], check=True, capture_output=True, text=True
        )
    finally:
        with engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(schema, cascade=True))
    # The tables go wherever the search path points; what psql alone understands goes nowhere.
    text = run.stdout.replace(f"{schema}.", "")
    left_out = ("--", "SET ", "\\", "SELECT pg_catalog.set_config", "CREATE SCHEMA")
    _write(revision, "postgresql", [t for t in text.splitlines() if not t.startswith(left_out)])


def _fill(url: str, revision: str) -> None:
    """Make the tables of a revision, and a row in each."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        command.upgrade(migration_config(connection), revision)
        known = sa.inspect(connection)
        for table, row in ROWS.items():
            if table in known.get_table_names():
                columns = {column["name"] for column in known.get_columns(table)}
                own = {name: value for name, value in row.items() if name in columns}
                names = sa.table(table, *(sa.column(name) for name in own))
                connection.execute(sa.insert(names).values(own))
    engine.dispose()


def _write(revision: str, kind: str, lines: list[str]) -> None:
    text = "\n".join(line for line in lines if line.strip())
    (FOLDER / f"{revision}.{kind}.sql").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
