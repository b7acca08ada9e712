"""Times configurations as files that an engine opens, some of them in one process at a time."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.evaluators.base import Latency, Timer
from autocompress.evaluators.latency_rows import Spent, median_spent
from autocompress.evaluators.profile import Ratios
from autocompress.evaluators.subprocess_call import Progress
from autocompress.spaces.base import Choice, Site
from autocompress.workload import Workload

MOST_FILES = 30
DECODE_STEPS = 16


@dataclass(frozen=True, slots=True)
class Turns:
    """How files take turns.

    Args:
        most_bytes: Of files that are there at a time.
        between: Files between two runs of the reference.
    """

    most_bytes: int = 2**32
    between: int = 2


Write = Callable[[Sequence[Choice], Path], object]
"""Writes the model with some choices into a new file."""


class FileStopwatch:
    """An engine with kernels for settings, and what it opens.

    Args:
        reference: The file, or the folder, that changes are timed beside: a model whose sites are
            all dense.
        write: Makes the files of configurations, or their folders, which are gone when they are
            timed.
        scratch: Folder for them.
    """

    # Settings differ by less than shapes.
    rounds = 15

    def __init__(
        self,
        engine: Timer,
        reference: Path,
        write: Write,
        workload: Workload,
        scratch: Path,
        turns: Turns | None = None,
    ) -> None:
        self._engine = engine
        self._reference = reference
        self._write = write
        # The first tokens stand for all: what a setting saves does not depend on the cache.
        self._workload = dataclasses.replace(
            workload, generated=min(workload.generated, DECODE_STEPS + 1)
        )
        self._scratch = scratch
        self._turns = turns or Turns()

    def runs(
        self,
        site: Site,  # noqa: ARG002  # all that a file can hold has a kernel
        change: Choice,  # noqa: ARG002
    ) -> bool:
        """Whether the engine has a kernel for a setting."""
        return True

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        """Time configurations in shuffled order, the reference after every other of them."""
        order = np.random.default_rng([seed, 7]).permutation(len(plans))
        size = self._at_once()
        pairs: list[list[Spent]] = [[] for _ in plans]
        dense: list[Spent] = []
        for first in range(0, len(order), size):
            some = order[first : first + size]

            def advance(done: int, total: int, before: int = first, n: int = len(some)) -> None:
                progress(round((before + n * done / total) * rounds), len(plans) * rounds)

            own, beside = self._timed([plans[index] for index in some], rounds, advance)
            dense += [run for runs in beside for run in runs]
            for place, index in enumerate(some):
                turn = place // self._turns.between
                before, after = beside[turn], beside[turn + 1]
                runs = zip(own[place], before, after, strict=True)
                pairs[index] = [run.beside(b, a) for run, b, a in runs]
        progress(len(plans) * rounds, len(plans) * rounds)
        return Ratios(median_spent(dense), pairs)

    def beside(self, file: Path, rounds: int) -> Spent:
        """Return the ratio of another file's time to the reference's, timed in turn."""
        turns = [self._reference, file, self._reference]
        found = self._engine.latency(turns, self._workload, rounds)
        before, own, after = map(_runs, found)
        runs = zip(own, before, after, strict=True)
        return median_spent([run.beside(b, a) for run, b, a in runs])

    def _at_once(self) -> int:
        """Return how many files are open at a time, beside the reference."""
        files = [file for file in (self._reference, *self._reference.rglob("*")) if file.is_file()]
        size = max(1, sum(file.stat().st_size for file in files))
        return min(MOST_FILES, max(1, self._turns.most_bytes // size - 1))

    def _timed(
        self, plans: Sequence[Sequence[Choice]], rounds: int, progress: Progress
    ) -> tuple[list[list[Spent]], list[list[Spent]]]:
        """Return the runs of each plan, and those of the reference around every few of them."""
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            files = [
                Path(folder) / f"{number}{self._reference.suffix}" for number in range(len(plans))
            ]
            turns = [self._reference]
            between = self._turns.between
            for first in range(0, len(plans), between):
                for number in range(first, min(first + between, len(plans))):
                    self._write(plans[number], files[number])
                    turns.append(files[number])
                turns.append(self._reference)
            found = self._engine.latency(turns, self._workload, rounds, progress)
        timed = list(zip(turns, map(_runs, found), strict=True))
        own = [runs for path, runs in timed if path != self._reference]
        return own, [runs for path, runs in timed if path == self._reference]


def _runs(latency: Latency) -> list[Spent]:
    return [Spent(*run) for run in zip(latency.prefill, latency.decode, strict=True)]
