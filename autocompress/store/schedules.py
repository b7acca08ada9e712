"""Schedules and their runs in SQL: a firing belongs to whoever inserts it first."""

import contextlib
import difflib
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from autocompress.errors import StoreError
from autocompress.store import schema
from autocompress.store.base import Json
from autocompress.store.database import INSERTS, open_database, reading, writing
from autocompress.store.plain_json import plain
from autocompress.store.riding_out import ridden_out
from autocompress.store.rows import now


class RunState(enum.StrEnum):
    """How far a firing has come."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    MISSED = "missed"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A search that is run again and again.

    Args:
        cron: Five fields, in the hours of the zone.
        zone: A name of the IANA database.
        spec: Of the search, checked.
        settings: What is done with what it finds.
        created_at: ISO 8601 in UTC; earlier firings are none.
    """

    id: int
    name: str
    cron: str
    zone: str
    spec: Mapping[str, Json]
    settings: Mapping[str, Json]
    created_at: str


@dataclass(frozen=True, slots=True)
class Run:
    """One firing of a schedule.

    Args:
        due_at: When it was to begin, ISO 8601 in UTC.
        verdict: What came of it, with reasons; None until it has ended.
    """

    id: int
    schedule_id: int
    due_at: str
    state: RunState
    claimed_by: str
    claimed_at: str
    beat_at: str
    finished_at: str | None
    verdict: Mapping[str, Json] | None


class ScheduleStore:
    """The schedules of a database, open until `close`."""

    def __init__(self, url: str) -> None:
        """Open the database, made where there is none.

        Raises:
            StoreError: If it cannot be opened.
        """
        self._engine = open_database(url)

    def add(
        self,
        name: str,
        cron: str,
        zone: str,
        spec: Mapping[str, Json],
        settings: Mapping[str, Json],
    ) -> Schedule:
        """Add a schedule.

        Raises:
            StoreError: If the name is taken.
        """
        values = {
            "name": name,
            "cron": cron,
            "zone": zone,
            "spec": plain("spec", spec),
            "settings": plain("settings", settings),
            "created_at": now(),
        }
        add = INSERTS[self._engine.dialect.name](schema.schedule)
        add = add.values(values).on_conflict_do_nothing()
        with writing(self._engine) as connection:
            own = connection.execute(add.returning(schema.schedule.c.id)).scalar_one_or_none()
        if own is None:
            raise StoreError(
                f"Schedule {name!r} exists already: take it away with `autocompress schedule "
                f"remove {name}`, or choose another --name."
            )
        return self.named(name)

    @ridden_out
    def all(self) -> list[Schedule]:
        """Return all schedules, by name."""
        query = sa.select(schema.schedule).order_by(schema.schedule.c.name)
        with reading(self._engine) as connection:
            return [Schedule(**row) for row in connection.execute(query).mappings()]

    def named(self, name: str) -> Schedule:
        """Return a schedule.

        Raises:
            StoreError: If there is none of that name.
        """
        known = {schedule.name: schedule for schedule in self.all()}
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            said = f"Known: {', '.join(known)}." if known else "There is no schedule."
            raise StoreError(f"Unknown schedule {name!r}{hint} {said}")
        return known[name]

    def remove(self, name: str) -> None:
        """Take a schedule away, and what is known of its runs; what it published stays.

        Raises:
            StoreError: If there is none of that name, or a run of it goes on.
        """
        own = self.named(name)
        if any(run.state is RunState.RUNNING for run in self.runs(own.id)):
            raise StoreError(f"Schedule {name!r} is running: try again when it has ended.")
        with writing(self._engine) as connection:
            connection.execute(sa.delete(schema.run).where(schema.run.c.schedule_id == own.id))
            connection.execute(sa.delete(schema.schedule).where(schema.schedule.c.id == own.id))

    @ridden_out
    def runs(self, schedule_id: int) -> list[Run]:
        """Return the firings of a schedule, the first first."""
        table = schema.run
        query = sa.select(table).where(table.c.schedule_id == schedule_id)
        query = query.order_by(table.c.due_at, table.c.id)
        with reading(self._engine) as connection:
            return [_run(row) for row in connection.execute(query).mappings()]

    def find_run(self, number: int) -> tuple[Schedule, Run]:
        """Return a run by its number, with its schedule.

        Raises:
            StoreError: If there is none of that number.
        """
        for schedule in self.all():
            for run in self.runs(schedule.id):
                if run.id == number:
                    return schedule, run
        raise StoreError(f"There is no run {number}.")

    @ridden_out
    def claim(
        self, schedule_id: int, due_at: datetime, claimant: str, state: RunState = RunState.RUNNING
    ) -> Run | None:
        """Take a firing, or leave it to who took it before: None.

        Args:
            claimant: Names who asks, and nobody else.
        """
        at = due_at.astimezone(UTC).isoformat(timespec="seconds")
        values = {
            "schedule_id": schedule_id,
            "due_at": at,
            "state": state.value,
            "claimed_by": claimant,
            "claimed_at": now(),
            "beat_at": now(),
            "finished_at": None if state is RunState.RUNNING else now(),
        }
        table = schema.run
        add = INSERTS[self._engine.dialect.name](table).values(values).on_conflict_do_nothing()
        query = sa.select(table).where(table.c.schedule_id == schedule_id, table.c.due_at == at)
        with writing(self._engine) as connection:
            connection.execute(add)
            found = _run(connection.execute(query).mappings().one())
        # Ours, whether it was inserted now or by a try whose answer was lost.
        return found if found.claimed_by == claimant else None

    @ridden_out
    def take_over(self, run: Run, claimant: str) -> bool:
        """Take a run from who died of it; False if somebody else was faster."""
        table = schema.run
        change = sa.update(table).values(claimed_by=claimant, beat_at=now())
        change = change.where(
            table.c.id == run.id,
            table.c.state == RunState.RUNNING.value,
            table.c.claimed_by.in_([run.claimed_by, claimant]),
        )
        with writing(self._engine) as connection:
            return connection.execute(change).rowcount == 1

    @ridden_out
    def beat(self, run: Run, claimant: str) -> bool:
        """Say that a run goes on; False if somebody else has taken it over, or it has ended."""
        with writing(self._engine) as connection:
            change = self._own(run, claimant).values(beat_at=now())
            return connection.execute(change).rowcount == 1

    def _own(self, run: Run, claimant: str) -> sa.Update:
        """Return the change of a run that goes on, if it is still its claimant's."""
        table = schema.run
        return sa.update(table).where(
            table.c.id == run.id,
            table.c.claimed_by == claimant,
            table.c.state == RunState.RUNNING.value,
        )

    @ridden_out
    def finish(
        self, run: Run, claimant: str, state: RunState, verdict: Mapping[str, Json]
    ) -> None:
        """Record what came of a run, unless somebody else has taken it over."""
        values = {
            "state": state.value,
            "finished_at": now(),
            "verdict": plain("verdict", verdict),
        }
        with writing(self._engine) as connection:
            connection.execute(self._own(run, claimant).values(values))

    def close(self) -> None:
        """Release the connections."""
        self._engine.dispose()


@contextlib.contextmanager
def open_schedules(url: str) -> Iterator[ScheduleStore]:
    """Open the schedules of a database.

    Raises:
        StoreError: If it cannot be opened.
    """
    store = ScheduleStore(url)
    try:
        yield store
    finally:
        store.close()


def _run(row: sa.RowMapping) -> Run:
    return Run(**{**row, "state": RunState(row["state"])})
