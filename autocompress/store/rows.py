"""How studies and records become rows, and rows studies and records."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from autocompress.errors import StoreError
from autocompress.store import schema
from autocompress.store.base import Record, StudyRow, StudyState
from autocompress.trial import Fidelity, Genotype, Measurement, Split


def study_query() -> sa.Select[Any]:
    """Return the query whose rows `to_study` reads."""
    n_trials = (
        sa.select(sa.func.count())
        .where(schema.trial.c.study_id == schema.study.c.id)
        .scalar_subquery()
    )
    return sa.select(schema.study, n_trials.label("n_trials"))


def to_study(row: sa.Row[Any]) -> StudyRow:
    """Return the study that a row of `study_query` holds."""
    return StudyRow(
        name=row.name,
        state=StudyState(row.state),
        created_at=row.created_at,
        spec=row.spec,
        n_trials=row.n_trials,
        report=row.report,
    )


def from_record(record: Record) -> dict[str, object]:
    """Return the columns of a record; `trial_key` stands for the row of its genotype.

    Raises:
        StoreError: If it holds neither a measurement nor an error, or both.
    """
    measurement, fidelity = record.measurement, record.fidelity
    if (measurement is None) == (record.error is None):
        raise StoreError(
            "`a record holds a measurement or an error` must hold, but that of genotype "
            f"{record.genotype.key} holds {'neither' if measurement is None else 'both'}."
        )
    return {
        "trial_key": trial_key(record.genotype),
        "split": fidelity.split.value,
        "draw": fidelity.draw,
        "first": fidelity.first,
        "sequences": fidelity.sequences,
        "trained": fidelity.trained,
        "kl": None if measurement is None else _floats_to_bytes(measurement.kl),
        "nll": None if measurement is None else _floats_to_bytes(measurement.nll),
        "tokens": None if measurement is None else measurement.tokens,
        "error": None if record.error is None else storable(record.error),
        "seconds": record.seconds,
    }


def to_record(row: sa.Row[Any]) -> Record:
    """Return the record that a measurement's row, joined with its genotype, holds."""
    return Record(
        genotype=Genotype.from_bytes(row.genotype),
        fidelity=Fidelity(Split(row.split), row.draw, row.first, row.sequences, row.trained),
        measurement=None
        if row.kl is None
        else Measurement(_bytes_to_floats(row.kl), _bytes_to_floats(row.nll), row.tokens),
        error=row.error,
        seconds=row.seconds,
    )


def _floats_to_bytes(values: Sequence[float]) -> bytes:
    return np.asarray(values, "<f8").tobytes()


def _bytes_to_floats(packed: bytes) -> tuple[float, ...]:
    return tuple(np.frombuffer(packed, "<f8").tolist())


def trial_key(genotype: Genotype) -> str:
    """Return the name of a genotype within its study."""
    # Longer than `Genotype.key`: 48 bits would meet themselves somewhere in millions of trials.
    return hashlib.blake2b(genotype.to_bytes(), digest_size=16).hexdigest()


def storable(text: str) -> str:
    """Return a text as every database takes it."""
    # An error may quote anything; half a character or a NUL in it must not cost the whole shard.
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def now() -> str:
    """Return the time in UTC, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
