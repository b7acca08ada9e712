"""Sessions without a model that measure, fail, die or hang as the genotype's only level says."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from autocompress.errors import ModelError
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workers.base import BuildJob, Measured, Session, Shard

RAISES, RAISES_UNPICKLABLE, DIES_ONCE, DIES, HANGS, MEETS, WAITS = range(200, 207)


class UnpicklableError(Exception):
    """Fails when it is loaded: its `__init__` takes two arguments, pickle hands it one."""

    def __init__(self, first: str, second: str) -> None:
        """Keep the text."""
        super().__init__(f"{first} {second}")


def shard(level: int) -> Shard:
    """Return a shard that a toy session answers as `level` says."""
    return Shard((Genotype((level,)),), Fidelity(Split.SEARCH, draw=0, first=0, sequences=1))


def wait_to_go(marks: Path) -> None:
    """Leave a mark and wait until the folder holds `go`."""
    (marks / f"{os.getpid()}.waits").touch()
    while not (marks / "go").exists():
        threading.Event().wait(0.01)


@dataclass(frozen=True)
class ToySession:
    """Answers by level; `marks` is a folder where it leaves traces."""

    marks: Path

    def build(self, job: BuildJob) -> int:
        """Return the worker's process id, to tell workers apart."""
        return os.getpid()

    def measure(self, shard: Shard) -> Measured:
        """Return the level as the loss, and the worker's thread count as its tokens."""
        (level,) = shard.genotypes[0].levels
        if level == RAISES:
            raise ValueError("the toy broke")
        if level == RAISES_UNPICKLABLE:
            raise UnpicklableError("no", "way")
        once = self.marks / "died"
        if level == DIES or (level == DIES_ONCE and not once.exists()):
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if level == HANGS:
            (self.marks / f"{os.getpid()}.hangs").touch()
            threading.Event().wait()
        if level == MEETS:
            # Two workers measure it, each once: neither answers before the other has come.
            (self.marks / f"{os.getpid()}.meets").touch()
            while len(list(self.marks.glob("*.meets"))) < 2:
                threading.Event().wait(0.01)
        if level == WAITS:
            wait_to_go(self.marks)
        threads = int(os.environ["OMP_NUM_THREADS"])
        return (Measurement((float(level),), (0.0,), threads),)


@dataclass(frozen=True)
class ToyFactory:
    """Makes toy sessions."""

    marks: Path

    def __call__(self) -> Session:
        """Make one."""
        return ToySession(self.marks)


@dataclass(frozen=True)
class WaitingFactory:
    """Takes its time, as a large model does, until the folder holds `go`."""

    marks: Path

    def __call__(self) -> Session:
        """Wait and make a toy session."""
        wait_to_go(self.marks)
        return ToySession(self.marks)


@dataclass(frozen=True)
class RaisingFactory:
    """Makes no session."""

    def __call__(self) -> Session:
        """Raise what a bad model raises."""
        raise ModelError("no such model")


@dataclass(frozen=True)
class DyingFactory:
    """Ends its worker, as a model that does not fit in memory does."""

    def __call__(self) -> Session:
        """End the process."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True)
class DyingOnceFactory:
    """Ends the first worker that it runs in."""

    marks: Path

    def __call__(self) -> Session:
        """End the process, or make a toy session."""
        once = self.marks / "died"
        if not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ToySession(self.marks)
