"""Tells what a run does, one line of JSON an event, with the names that find it again."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from autocompress.pipeline.observer import Values

PROGRESS_SECONDS = 10.0


class EventLog:
    """An observer that writes to standard output.

    Args:
        names: What every line carries: schedule, study.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._stage = ""
        self._last = 0.0

    def stage(self, name: str) -> None:
        """Write that a stage begins."""
        self._stage = name
        self.tell("stage", {"stage": name})

    def advance(self, done: int, total: int) -> None:
        """Write how far the stage has come, now and then."""
        now = time.monotonic()
        if now - self._last >= PROGRESS_SECONDS:
            self._last = now
            self.tell("progress", {"stage": self._stage, "done": done, "total": total})

    def tell(self, kind: str, values: Values) -> None:
        """Write what happened."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "event": kind, **self._names, **values}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
