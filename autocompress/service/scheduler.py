"""Fires schedules: claims what is due, and runs it, one run at a time.

Models are timed while they run: two runs at once on one machine would spoil both measurements.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

from autocompress.errors import SpecError, StoreError
from autocompress.service.firings import due, firings
from autocompress.service.process_group import signal_all
from autocompress.store.base import Json
from autocompress.store.claims import BEAT_SECONDS, claimant, is_gone
from autocompress.store.schedules import Run, RunState, Schedule, ScheduleStore

GRACE_SECONDS = 30.0
"""For a run's process to end that was asked to, before it is killed: others wait for it."""
LOOK_SECONDS: Final = 5.0
"""Between two looks at what is due."""
MOST_TRIES: Final = 3
"""Processes that one run may cost before it is given up."""

Say = Callable[[str, dict[str, Json]], None]


class Scheduler:
    """One of any number of schedulers on a database: each firing is run by one of them."""

    def __init__(self, storage: str, store: ScheduleStore, say: Say) -> None:
        """Do nothing yet.

        Args:
            say: Is told what happens: a kind of event, and its values.
        """
        self._storage = storage
        self._store = store
        self._say = say
        self._name = claimant()

    def forever(self) -> None:
        """Run what is due, until interrupted.

        A database that is away or locked is told of and waited for: what ran then goes on after.
        """
        while True:
            try:
                has_run = self.step(datetime.now(UTC))
            except StoreError as error:
                self._say("problem", {"error": " ".join(str(error).split())})
                has_run = False
            if not has_run:
                time.sleep(LOOK_SECONDS)

    def step(self, now: datetime) -> bool:
        """Run the schedule whose firing has waited longest; False if nothing is due.

        What was missed while no scheduler ran is run once: the last of a schedule's firings, the
        ones before are recorded as missed.
        """
        waiting: list[tuple[datetime, str, Schedule]] = []
        for schedule in self._store.all():
            try:
                since = self._waits_since(schedule, now)
            except SpecError as error:
                # Of one schedule: the others are run all the same.
                said = " ".join(str(error).split())
                self._say("problem", {"schedule": schedule.name, "error": said})
                continue
            if since is not None:
                waiting.append((since, schedule.name, schedule))
        # By name alone, a schedule whose runs last longer than its interval would always be next.
        for _, _, schedule in sorted(waiting, key=lambda own: own[:2]):
            run = self._next(schedule, now)
            if run is not None:
                self.carry_out(schedule, run)
                return True
        return False

    def _waits_since(self, schedule: Schedule, now: datetime) -> datetime | None:
        """Return the first firing that nobody has run or runs; None if there is none.

        Raises:
            SpecError: If the schedule's expression or zone cannot be read here.
        """
        runs = self._store.runs(schedule.id)
        for run in runs:
            if run.state is RunState.RUNNING:
                return datetime.fromisoformat(run.due_at) if self._is_left(run, now) else None
        first = next(firings(schedule.cron, schedule.zone, _last_due(schedule, runs)))
        return first if first <= now else None

    def _is_left(self, run: Run, now: datetime) -> bool:
        """Whether nobody carries a run out: this scheduler does one at a time, and looks between.

        It claimed one that it does not carry out if the database was away in the midst of it.
        """
        return run.claimed_by == self._name or is_gone(run.claimed_by, run.beat_at, now)

    def _next(self, schedule: Schedule, now: datetime) -> Run | None:
        """Claim what is to be run of a schedule: one run at a time."""
        runs = self._store.runs(schedule.id)
        for run in runs:
            if run.state is RunState.RUNNING:
                if not self._is_left(run, now) or not self._store.take_over(run, self._name):
                    return None
                self._say("taken over", {"schedule": schedule.name, "due_at": run.due_at})
                return run
        waiting = due(schedule.cron, schedule.zone, _last_due(schedule, runs), now)
        for missed in waiting[:-1]:
            if self._store.claim(schedule.id, missed, self._name, RunState.MISSED):
                self._say("missed", {"schedule": schedule.name, "due_at": missed.isoformat()})
        return self._store.claim(schedule.id, waiting[-1], self._name) if waiting else None

    def claim_now(self, schedule: Schedule) -> Run | None:
        """Take a firing that no cron expression asked for; None while another run goes on."""
        if any(run.state is RunState.RUNNING for run in self._store.runs(schedule.id)):
            return None
        return self._store.claim(schedule.id, datetime.now(UTC).replace(microsecond=0), self._name)

    def carry_out(self, schedule: Schedule, run: Run) -> RunState:
        """Run a claimed firing to its end, in processes of its own.

        One that dies is begun again, and goes on with what the store holds.
        """
        self._say("run", {"schedule": schedule.name, "due_at": run.due_at})
        state, tries = RunState.RUNNING, 0
        while state is RunState.RUNNING:
            status = self._process(run)
            tries += 1
            now = self._store.find_run(run.id)[1]
            state = now.state
            if now.claimed_by != self._name:
                break
            if state is RunState.RUNNING:
                self._say("died", {"schedule": schedule.name, "status": status})
                if tries == MOST_TRIES:
                    state = RunState.FAILED
                    said = f"{MOST_TRIES} processes died of it, the last with {status}"
                    self._store.finish(run, self._name, state, {"error": said})
        self._say("ended", {"schedule": schedule.name, "state": state.value})
        return state

    def _process(self, run: Run) -> int:
        """Run one process to its end, saying now and then that it goes on."""
        command = [sys.executable, "-m", "autocompress.service.nightly", self._storage]
        command += [str(run.id), self._name, str(os.getpid())]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(BEAT_SECONDS)
                if not self._store.beat(run, self._name):
                    # Somebody took it over, or it has just ended.
                    return _end(process)
        except BaseException:
            # The run goes on another time, where it is now.
            _end(process)
            raise


def _end(process: "subprocess.Popen[bytes]") -> int:
    """End a process and all that it began: at first by asking."""
    signal_all(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    signal_all(process, signal.SIGKILL)
    return process.wait()


def _last_due(schedule: Schedule, runs: Sequence[Run]) -> datetime:
    """Return the last firing that was run or missed; where none was, when the schedule began."""
    last = max((run.due_at for run in runs), default=schedule.created_at)
    return datetime.fromisoformat(last)
