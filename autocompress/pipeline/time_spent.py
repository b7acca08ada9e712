"""Adds up what the runs of a study take, however each of them ends."""

import time
from collections.abc import Mapping
from typing import Final

from autocompress.pipeline.observer import Observer, Values
from autocompress.store.base import StudyState, StudyStore

TIME_SPENT: Final = "time spent"
"""The document with the seconds of all runs, and after how many of them what was reached."""
KEPT_SECONDS: Final = 5.0
"""After which what was spent is recorded: a killed run loses no more of it."""


class TimeSpent:
    """An observer that passes on what it is told, and records how long a study took by then.

    What has finished costs no more where it is written out again.
    """

    def __init__(self, store: StudyStore, observer: Observer) -> None:
        known = store.document(TIME_SPENT)
        reached = (known or {}).get("reached")
        self._store = store
        self._observer = observer
        self._before = 0.0 if known is None else float(str(known["seconds"]))
        self._reached = {
            str(what): float(str(after))
            for what, after in (reached.items() if isinstance(reached, Mapping) else ())
        }
        self._is_over = known is not None and store.row().state is StudyState.FINISHED
        self._started = self._kept = time.monotonic()

    @property
    def seconds(self) -> float:
        """What the study has taken so far, in all runs."""
        return self._before + (0.0 if self._is_over else time.monotonic() - self._started)

    def keep(self) -> float:
        """Record what the study has taken so far, and return it."""
        self._kept, seconds = time.monotonic(), self.seconds
        self._store.save_document(TIME_SPENT, {"seconds": seconds, "reached": dict(self._reached)})
        return seconds

    def reached(self, what: str) -> float:
        """Return after how many seconds something was come to, in the run that first did."""
        if what not in self._reached:
            self._reached[what] = self.seconds
            self.keep()
        return self._reached[what]

    def stage(self, name: str) -> None:
        """Say that a stage begins."""
        self.keep()
        self._observer.stage(name)

    def advance(self, done: int, total: int) -> None:
        """Say how far the present stage has come."""
        if time.monotonic() - self._kept >= KEPT_SECONDS:
            self.keep()
        self._observer.advance(done, total)

    def tell(self, kind: str, values: Values) -> None:
        """Say something that happened."""
        self._observer.tell(kind, values)
