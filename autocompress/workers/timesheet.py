"""What each worker has done, of the time in which there was something to do."""

import time
from collections.abc import Hashable
from dataclasses import dataclass

from autocompress.workers.base import Utilisation


@dataclass(slots=True)
class _Row:
    worker: str
    since: float
    until: float | None = None
    seconds: float = 0.0
    jobs: int = 0


class Timesheet:
    """Counts the jobs of workers, and the time that they took.

    What is not a run is nobody's time: then the search does what needs no workers.
    """

    def __init__(self) -> None:
        self._rows: list[_Row] = []
        self._living: dict[Hashable, _Row] = {}
        # Seconds of the runs before, and when the present one began.
        self._before = 0.0
        self._began: float | None = None

    def begin_run(self) -> None:
        """Count from now on."""
        self.end_run()
        self._began = time.monotonic()

    def end_run(self) -> None:
        """Count no longer, if it was counted."""
        self._before, self._began = self._now(), None

    def arrive(self, worker: Hashable, place: str) -> None:
        """Begin a worker's row."""
        self._living[worker] = _Row(place, self._now())
        self._rows.append(self._living[worker])

    def add(self, worker: Hashable, seconds: float, jobs: int) -> None:
        """Count what a worker spent, and the jobs that it did."""
        row = self._living[worker]
        row.seconds += seconds
        row.jobs += jobs

    def leave(self, worker: Hashable) -> None:
        """End a worker's row, if it has one."""
        if row := self._living.pop(worker, None):
            row.until = self._now()

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Return what all workers have done that ever arrived, the first first."""
        now = self._now()
        told = []
        for row in self._rows:
            time_there = (now if row.until is None else row.until) - row.since
            busy = min(1.0, row.seconds / time_there) if time_there > 0 else 0.0
            told.append(Utilisation(row.worker, row.jobs, busy))
        return tuple(told)

    def _now(self) -> float:
        """Return the seconds of all runs so far."""
        return self._before + (0.0 if self._began is None else time.monotonic() - self._began)
