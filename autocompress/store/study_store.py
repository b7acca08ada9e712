"""Studies in SQL: how one is made, found and written to."""

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from autocompress.errors import StoreError, StudyHeld
from autocompress.store import schema
from autocompress.store.base import (
    AnswerRecord,
    Event,
    Json,
    Record,
    StudyRow,
    StudyState,
    TrialLoss,
)
from autocompress.store.claims import in_words, is_gone
from autocompress.store.database import (
    INSERTS,
    masked,
    open_database,
    reading,
    sqlite_file,
    writing,
)
from autocompress.store.plain_json import plain
from autocompress.store.riding_out import ridden_out
from autocompress.store.rows import (
    from_record,
    now,
    storable,
    study_query,
    to_record,
    to_study,
    trial_key,
)
from autocompress.trial import Fidelity, Genotype, Split


class SqlStudyStore:
    """A study in a database that stays open until `close`; implements `StudyStore`.

    A lost connection is waited for: each method may be done twice and is done once.
    """

    def __init__(self, engine: sa.Engine, study_id: int) -> None:
        self._engine = engine
        self._study_id = study_id
        self._is_lost = False

    @ridden_out
    def row(self) -> StudyRow:
        """Return the study as stored."""
        query = study_query().where(schema.study.c.id == self._study_id)
        with reading(self._engine) as connection:
            return to_study(connection.execute(query).one())

    @ridden_out
    def record(self, records: Sequence[Record], losses: Sequence[TrialLoss] = ()) -> None:
        """Add measured shards, all or none; a repetition changes nothing, but heals an error.

        A shard that is there with an error takes a measurement that comes later: an error is tried
        again on resume.

        Args:
            losses: What trials of these shards lose now, for `best`.

        Raises:
            StoreError: If a record holds neither a measurement nor an error, or both.
            StudyHeld: If another driver took the study over, because this one was long silent.
        """
        if self._is_lost:
            raise StudyHeld("Another driver took the study over: this one was silent too long.")
        if not records:
            return
        insert = INSERTS[self._engine.dialect.name]
        table = schema.measurement
        add_trial = insert(schema.trial)
        read = {name: add_trial.excluded[name] for name in ("sequences", "loss")}
        add_trial = add_trial.on_conflict_do_update(
            index_elements=["study_id", "key"],
            set_=read,
            where=add_trial.excluded.sequences > schema.trial.c.sequences,
        )
        trial_id = (
            sa.select(schema.trial.c.id)
            .where(schema.trial.c.study_id == self._study_id)
            .where(schema.trial.c.key == sa.bindparam("trial_key"))
            .scalar_subquery()
        )
        add = insert(table).values(trial_id=trial_id)
        outcome = ("kl", "nll", "tokens", "error", "seconds", "recorded_at")
        add = add.on_conflict_do_update(
            index_elements=["trial_id", "split", "draw", "first", "sequences", "trained"],
            set_={name: add.excluded[name] for name in outcome},
            where=table.c.error.is_not(None) & add.excluded.error.is_(None),
        )
        recorded_at = now()
        trials: dict[Genotype, tuple[int, float | None]] = {
            record.genotype: (0, None) for record in records
        }
        trials |= {own.genotype: (own.sequences, own.loss) for own in losses}
        with writing(self._engine) as connection:
            connection.execute(
                add_trial,
                [
                    {
                        "study_id": self._study_id,
                        "key": trial_key(genotype),
                        "genotype": genotype.to_bytes(),
                        "sequences": sequences,
                        "loss": loss,
                    }
                    for genotype, (sequences, loss) in trials.items()
                ],
            )
            connection.execute(
                add, [from_record(record) | {"recorded_at": recorded_at} for record in records]
            )

    @ridden_out
    def measurements(self) -> dict[tuple[Genotype, Fidelity], Record]:
        """Return every shard recorded, with its measurement or its error, oldest first."""
        query = (
            sa.select(schema.trial.c.genotype, schema.measurement)
            .join(schema.measurement, schema.measurement.c.trial_id == schema.trial.c.id)
            .where(schema.trial.c.study_id == self._study_id)
            .order_by(schema.measurement.c.id)
        )
        with reading(self._engine) as connection:
            records = [to_record(row) for row in connection.execute(query)]
        return {(record.genotype, record.fidelity): record for record in records}

    @ridden_out
    def record_answers(self, record: AnswerRecord) -> None:
        """Add what a decoding made of items; a repetition changes nothing, but heals an error.

        Raises:
            StudyHeld: If another driver took the study over, because this one was long silent.
        """
        if self._is_lost:
            raise StudyHeld("Another driver took the study over: this one was silent too long.")
        insert = INSERTS[self._engine.dialect.name]
        key = trial_key(record.genotype)
        trial = {
            "study_id": self._study_id,
            "key": key,
            "genotype": record.genotype.to_bytes(),
            "sequences": 0,
            "loss": None,
        }
        own = sa.select(schema.trial.c.id).where(
            schema.trial.c.study_id == self._study_id, schema.trial.c.key == key
        )
        table = schema.answers
        add = insert(table).values(
            trial_id=own.scalar_subquery(),
            split=record.split.value,
            first=record.first,
            items=record.items,
            payload=None if record.payload is None else plain("answers", record.payload),
            error=None if record.error is None else storable(record.error),
            recorded_at=now(),
        )
        add = add.on_conflict_do_update(
            index_elements=["trial_id", "split", "first", "items"],
            set_={name: add.excluded[name] for name in ("payload", "error", "recorded_at")},
            where=table.c.error.is_not(None) & add.excluded.error.is_(None),
        )
        with writing(self._engine) as connection:
            connection.execute(insert(schema.trial).values(trial).on_conflict_do_nothing())
            connection.execute(add)

    @ridden_out
    def answers(self) -> list[AnswerRecord]:
        """Return all that decodings made of items, in the order it was added."""
        table = schema.answers
        query = (
            sa.select(schema.trial.c.genotype, table)
            .join(table, table.c.trial_id == schema.trial.c.id)
            .where(schema.trial.c.study_id == self._study_id)
            .order_by(table.c.id)
        )
        with reading(self._engine) as connection:
            return [
                AnswerRecord(
                    Genotype.from_bytes(row.genotype),
                    Split(row.split),
                    row.first,
                    row.items,
                    row.payload,
                    row.error,
                )
                for row in connection.execute(query)
            ]

    @ridden_out
    def best(self, n: int) -> list[TrialLoss]:
        """Return n trials: those that were read furthest first, and of these the least losses."""
        trial = schema.trial
        query = (
            sa.select(trial.c.genotype, trial.c.sequences, trial.c.loss)
            .where(trial.c.study_id == self._study_id, trial.c.sequences > 0)
            .order_by(trial.c.sequences.desc(), trial.c.loss)
            .limit(n)
        )
        with reading(self._engine) as connection:
            return [
                TrialLoss(Genotype.from_bytes(row.genotype), row.sequences, row.loss)
                for row in connection.execute(query)
            ]

    @ridden_out
    def save_document(self, name: str, payload: Mapping[str, Json]) -> None:
        """Keep a named JSON document, replacing an earlier one."""
        add = INSERTS[self._engine.dialect.name](schema.document)
        add = add.on_conflict_do_update(
            index_elements=["study_id", "name"], set_={"payload": add.excluded.payload}
        )
        row = {"study_id": self._study_id, "name": name, "payload": plain(name, payload)}
        with writing(self._engine) as connection:
            connection.execute(add, row)

    @ridden_out
    def document(self, name: str) -> Mapping[str, Json] | None:
        """Return a named document, or None."""
        table = schema.document
        query = sa.select(table.c.payload).where(
            table.c.study_id == self._study_id, table.c.name == name
        )
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one_or_none()

    def add_event(self, event: Event) -> None:
        """Append an event."""
        self._append(event.kind, plain(event.kind, event.payload), [])

    @ridden_out
    def _append(self, kind: str, payload: Mapping[str, Json], tried: list[int]) -> None:
        """Append an event, unless it is there.

        Args:
            tried: Positions that this very event may have taken, unacknowledged.
        """
        table = schema.event
        owned = table.c.study_id == self._study_id
        last = sa.select(sa.func.coalesce(sa.func.max(table.c.position), -1)).where(owned)
        known = sa.select(table.c.kind, table.c.payload).where(owned)
        with writing(self._engine) as connection:
            # The lock on the study keeps two writers from taking one position (SQLite has one).
            connection.execute(
                sa.select(schema.study.c.id)
                .where(schema.study.c.id == self._study_id)
                .with_for_update()
            )
            for row in connection.execute(known.where(table.c.position.in_(tried))):
                if (row.kind, row.payload) == (kind, payload):
                    return
            position = connection.execute(last).scalar_one() + 1
            tried.append(position)
            connection.execute(
                sa.insert(table).values(
                    study_id=self._study_id, position=position, kind=kind, payload=payload
                )
            )

    @ridden_out
    def events(self) -> list[Event]:
        """Return all events in the order they were added."""
        table = schema.event
        query = (
            sa.select(table.c.kind, table.c.payload)
            .where(table.c.study_id == self._study_id)
            .order_by(table.c.position)
        )
        with reading(self._engine) as connection:
            return [Event(row.kind, row.payload) for row in connection.execute(query)]

    @ridden_out
    def finish(self, state: StudyState, report: Mapping[str, Json] | None) -> None:
        """Set the final state and report; `RUNNING` opens a finished study again.

        Raises:
            StoreError: If the report holds NaN, an infinity or what JSON has no word for.
        """
        values = {
            "state": state.value,
            "finished_at": None if state is StudyState.RUNNING else now(),
            "report": None if report is None else plain("report", report),
        }
        table = schema.study
        with writing(self._engine) as connection:
            connection.execute(sa.update(table).where(table.c.id == self._study_id).values(values))

    @ridden_out
    def hold(self, claimant: str) -> None:
        """Have a claimant be the only one that drives the study.

        Raises:
            StudyHeld: If another does, and is not gone.
        """
        table = schema.study
        own = table.c.id == self._study_id
        query = sa.select(table.c.name, table.c.driver, table.c.beat_at).where(own)
        with writing(self._engine) as connection:
            row = connection.execute(query.with_for_update()).one()
            driver = row.driver
            if driver not in (None, claimant) and not is_gone(
                driver, row.beat_at, datetime.now(UTC)
            ):
                raise StudyHeld(
                    f"Study {row.name!r} is being run by {in_words(driver)}, last heard of at "
                    f"{row.beat_at}: stop that one, or let it end."
                )
            change = sa.update(table).where(own)
            connection.execute(change.values(driver=claimant, beat_at=now()))

    @ridden_out
    def beat(self, claimant: str) -> bool:
        """Say that the study goes on; False if its claimant holds it no longer."""
        with writing(self._engine) as connection:
            change = self._held(claimant).values(beat_at=now())
            holds = connection.execute(change).rowcount == 1
        self._is_lost = not holds
        return holds

    @ridden_out
    def release(self, claimant: str) -> None:
        """Let another drive the study."""
        with writing(self._engine) as connection:
            connection.execute(self._held(claimant).values(driver=None, beat_at=None))

    def _held(self, claimant: str) -> sa.Update:
        table = schema.study
        return sa.update(table).where(table.c.id == self._study_id, table.c.driver == claimant)

    @ridden_out
    def discard(self) -> None:
        """Delete the study and all that belongs to it."""
        own_trials = sa.select(schema.trial.c.id).where(schema.trial.c.study_id == self._study_id)
        with writing(self._engine) as connection:
            for table in (schema.measurement, schema.answers):
                connection.execute(sa.delete(table).where(table.c.trial_id.in_(own_trials)))
            for table in (schema.trial, schema.document, schema.event):
                connection.execute(sa.delete(table).where(table.c.study_id == self._study_id))
            connection.execute(sa.delete(schema.study).where(schema.study.c.id == self._study_id))

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()


def create_study(url: str, name: str, spec: Mapping[str, Json]) -> SqlStudyStore:
    """Add a running study, making the database where there is none.

    Raises:
        StoreError: If the name is taken, or the database cannot be opened.
    """
    values = {
        "name": name,
        "state": StudyState.RUNNING.value,
        "created_at": now(),
        "spec": plain("spec", spec),
    }
    with contextlib.ExitStack() as undo:
        engine = open_database(url)
        undo.callback(engine.dispose)
        add = INSERTS[engine.dialect.name](schema.study).values(values).on_conflict_do_nothing()
        with writing(engine) as connection:
            study_id = connection.execute(add.returning(schema.study.c.id)).scalar_one_or_none()
        if study_id is None:
            raise StoreError(
                f"Study {name!r} exists already in {masked(url)}; continue it with "
                f"`autocompress resume {name}` or choose another --study."
            )
        undo.pop_all()
    return SqlStudyStore(engine, study_id)


def open_study(url: str, name: str) -> SqlStudyStore:
    """Open a study that exists, leaving its state as it is.

    Raises:
        StoreError: If there is none of this name, or the database cannot be opened.
    """
    if _is_missing(url):
        raise StoreError(_unknown(name, [], url))
    with contextlib.ExitStack() as undo:
        engine = open_database(url)
        undo.callback(engine.dispose)
        query = sa.select(schema.study.c.name, schema.study.c.id).order_by(
            schema.study.c.id.desc()
        )
        with reading(engine) as connection:
            ids = {row.name: row.id for row in connection.execute(query)}
        if name not in ids:
            raise StoreError(_unknown(name, list(ids), url))
        undo.pop_all()
    return SqlStudyStore(engine, ids[name])


def list_studies(url: str) -> list[StudyRow]:
    """Return all studies, newest first; none, and no new file, where there is no database.

    Raises:
        StoreError: If the database cannot be opened.
    """
    if _is_missing(url):
        return []
    engine = open_database(url)
    try:
        with reading(engine) as connection:
            query = study_query().order_by(schema.study.c.id.desc())
            return [to_study(row) for row in connection.execute(query)]
    finally:
        engine.dispose()


def find_study(url: str, name: str) -> StudyRow | None:
    """Return a study as stored; None if there is none of this name.

    Raises:
        StoreError: If the database cannot be opened.
    """
    if _is_missing(url):
        return None
    engine = open_database(url)
    try:
        with reading(engine) as connection:
            query = study_query().where(schema.study.c.name == name)
            row = connection.execute(query).one_or_none()
        return None if row is None else to_study(row)
    finally:
        engine.dispose()


def _is_missing(url: str) -> bool:
    file = sqlite_file(url)
    return file is not None and not file.exists()


def _unknown(name: str, known: Sequence[str], url: str) -> str:
    if not known:
        return f"Unknown study {name!r}: {masked(url)} holds no study."
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"Unknown study {name!r}{hint} Known in {masked(url)}: {', '.join(known)}."
