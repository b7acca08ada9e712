"""Decides what is deployed: a new model only where it was measured to be better."""

import contextlib
import enum
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from autocompress.errors import ExportError, SpecError
from autocompress.export.render import write_texts
from autocompress.pipeline.intervals import mean_interval
from autocompress.store.base import Json
from autocompress.store.holding import LOOK_SECONDS, PATIENCE_SECONDS
from autocompress.trial import Measurement

CURRENT: Final = "current"
"""The link to what is deployed."""
HISTORY: Final = "history"
VERDICT: Final = "verdict.json"
LOCK: Final = ".lock"

Interval = tuple[float, float]


class Outcome(enum.StrEnum):
    """What a run did to what is deployed."""

    PROMOTED = "PROMOTED"
    KEPT = "KEPT"
    REGRESSED = "REGRESSED"


@dataclass(frozen=True, slots=True)
class Deployed:
    """What is deployed, measured again before the search.

    Args:
        broken: Why it does not load; None if it does.
        promised: KL with its interval, and speedup with its, when it was published.
        measurement: On the report text, now.
        speedup: The interval over the dense model, now; None where it cannot be timed beside it.
        least_speedup: What the target asks of the clock; None if it asks nothing.
        milliseconds: The interval of a request, now.
        most_milliseconds: What the target asks of that.
    """

    broken: str | None
    promised_kl: Interval | None = None
    promised_speedup: Interval | None = None
    measurement: Measurement | None = None
    speedup: Interval | None = None
    least_speedup: float | None = None
    milliseconds: Interval | None = None
    most_milliseconds: float | None = None

    @property
    def is_too_slow(self) -> bool:
        """Whether it misses what the target asks of the clock, beyond the interval."""
        least, most = self.least_speedup, self.most_milliseconds
        if self.milliseconds is not None and most is not None and self.milliseconds[0] > most:
            return True
        return self.speedup is not None and least is not None and self.speedup[1] < least

    @property
    def complaints(self) -> tuple[str, ...]:
        """What it no longer keeps, beyond the intervals."""
        if self.broken is not None:
            return (f"the deployed model does not load: {self.broken}",)
        found = []
        if self.speedup is not None:
            if self.is_too_slow:
                asked = f"{self.least_speedup:.2f}x" if self.least_speedup else "its latency"
                took = "" if self.milliseconds is None else f" ({_told(self.milliseconds, ' ms')})"
                found.append(
                    f"the deployed model misses the target of {asked}: it measures "
                    f"{_told(self.speedup, 'x')}{took}"
                )
            elif self.promised_speedup and self.speedup[1] < self.promised_speedup[0]:
                found.append(
                    f"the deployed model measures {_told(self.speedup, 'x')}, published with "
                    f"{_told(self.promised_speedup, 'x')}"
                )
        if self.measurement is not None and self.promised_kl is not None:
            own = mean_interval(np.asarray(self.measurement.kl))
            if own[0] > self.promised_kl[1]:
                found.append(
                    f"the deployed model loses KL {_told(own)}, published with "
                    f"{_told(self.promised_kl)}"
                )
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the search found, measured beside what is deployed.

    Args:
        lacking: Why it cannot be published; None if it can.
        deployed: The deployed model on the same text, in the same run.
        faster: The interval of the deployed model's time over the new one's, of runs in turn.
    """

    lacking: str | None
    measurement: Measurement | None = None
    deployed: Measurement | None = None
    faster: Interval | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a run, with reasons."""

    outcome: Outcome
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it as plain values."""
        return {"outcome": self.outcome.value, "reasons": list(self.reasons)}


def decide(deployed: Deployed | None, found: Candidate) -> Verdict:
    """Return the verdict: a new model takes the place of another that measures worse, or none.

    Better is a KL whose paired interval lies below; or one that cannot be told apart, with a time
    whose interval lies below.

    Args:
        deployed: None if nothing is.
    """
    complaints = () if deployed is None else deployed.complaints
    stays = Outcome.REGRESSED if complaints else Outcome.KEPT
    if found.lacking is not None:
        return Verdict(stays, (*complaints, found.lacking))
    if deployed is None:
        return Verdict(Outcome.PROMOTED, ("nothing was deployed before",))
    if deployed.broken is not None or found.deployed is None or found.measurement is None:
        return Verdict(Outcome.PROMOTED, complaints or ("the deployed model was not measured",))
    if deployed.is_too_slow:
        return Verdict(Outcome.PROMOTED, (*complaints, "the new model meets the target, measured"))
    more = mean_interval(np.asarray(found.measurement.kl) - np.asarray(found.deployed.kl))
    difference = f"KL minus the deployed model's: {_told(more, digits=4)}, paired"
    if more[1] < 0:
        return Verdict(Outcome.PROMOTED, (*complaints, f"the new model loses less: {difference}"))
    if more[0] > 0:
        return Verdict(stays, (*complaints, f"the new model loses more: {difference}"))
    if found.faster is not None and found.faster[0] > 1:
        faster = f"the new model is {_told(found.faster)} times as fast"
        said = f"{faster}, and its loss cannot be told apart: {difference}"
        return Verdict(Outcome.PROMOTED, (*complaints, said))
    return Verdict(stays, (*complaints, f"no improvement beyond the interval: {difference}"))


def unless_changed(verdict: Verdict, began_with: Path | None, now: Path | None) -> Verdict:
    """Return a verdict that promotes nothing where something else is deployed by now.

    A search takes hours, and a person may roll back in the midst of it: the new model was measured
    beside what is deployed no more, and to promote it would undo what was done on purpose.
    """
    if verdict.outcome is not Outcome.PROMOTED or now == began_with:
        return verdict
    before, after = (None if own is None else own.name for own in (began_with, now))
    said = f"rolled back meanwhile: {before or 'nothing'} was deployed when the run began, now "
    return Verdict(Outcome.KEPT, (*verdict.reasons, f"{said}{after or 'nothing'} is"))


@contextlib.contextmanager
def locked(output: Path) -> Iterator[Path]:
    """Let no other run change what is deployed, until the block ends.

    Raises:
        ExportError: If another does that now and does not end within `PATIENCE_SECONDS`, or the
            folder cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / LOCK).open("w")
    except OSError as error:
        raise _unwritable(output, error) from error
    with lock:
        _lock(lock, output)
        yield output


def _lock(lock: IO[str], output: Path) -> None:
    """Lock a file now, or when the run that has locked it has ended.

    A run whose scheduler died lives on for some seconds, and may be gone on with before that.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise ExportError(f"Another run works on {output}.") from error
            time.sleep(LOOK_SECONDS)
        except OSError as error:
            raise _unwritable(output, error) from error
        else:
            return


def _unwritable(path: Path, error: OSError) -> ExportError:
    return ExportError(f"Cannot write {path}: {error.strerror}.")


def current(output: Path) -> Path | None:
    """Return the folder that is deployed; None if nothing is."""
    link = output / CURRENT
    return link.resolve() if link.is_dir() else None


def promote(output: Path, folder: Path) -> None:
    """Let the link point to a folder of the history; readers see the old one or the new one.

    Raises:
        ExportError: If it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".current-", dir=output) as scratch:
            link = Path(scratch) / CURRENT
            link.symlink_to(os.path.relpath(folder, output))
            link.replace(output / CURRENT)
    except OSError as error:
        raise _unwritable(output / CURRENT, error) from error


def keep_verdict(folder: Path, told: Mapping[str, Json]) -> None:
    """Write a verdict beside what it is about."""
    write_texts({VERDICT: json.dumps(told, indent=2, allow_nan=False) + "\n"}, folder)


def read_verdict(folder: Path) -> Mapping[str, Json]:
    """Return the verdict of a folder of the history; empty if there is none."""
    try:
        read = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def roll_back(output: Path) -> Path:
    """Deploy again what was deployed before; return its folder.

    Raises:
        SpecError: If nothing was, or it is gone.
        ExportError: If the link cannot be written.
    """
    now = current(output)
    if now is None:
        raise SpecError(f"Nothing is deployed in {output}.")
    before = read_verdict(now).get("replaced")
    if before is None:
        raise SpecError(f"Nothing was deployed in {output} before {now.name}.")
    folder = output / HISTORY / Path(str(before)).name
    if not folder.is_dir():
        raise SpecError(f"{before}, which was deployed before {now.name}, is kept no more.")
    promote(output, folder)
    return folder


def clear_history(output: Path, keep: int) -> list[str]:
    """Delete all but the newest folders of the history; return the names of those that went.

    What is deployed stays, and what it replaced: a roll-back must find it.
    """
    history = output / HISTORY
    if not history.is_dir():
        return []
    now = current(output)
    safe = set() if now is None else {now.name, str(read_verdict(now).get("replaced"))}
    # Studies are named by the time that they were due at.
    folders = (folder for folder in history.iterdir() if folder.is_dir())
    names = sorted(folder.name for folder in folders if not folder.name.startswith("."))
    gone = [name for name in names[:-keep] if name not in safe]
    for name in gone:
        shutil.rmtree(history / name, ignore_errors=True)
    return gone


def _told(interval: Interval, unit: str = "", digits: int = 3) -> str:
    return f"[{interval[0]:.{digits}f}{unit}, {interval[1]:.{digits}f}{unit}]"
