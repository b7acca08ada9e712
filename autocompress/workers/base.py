"""The contract between a search and the workers that measure its candidates."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from autocompress.trial import Fidelity, Genotype, Measurement


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work and of re-run: siblings on a fixed run of sequences."""

    genotypes: tuple[Genotype, ...]
    fidelity: Fidelity


Measured = tuple[Measurement, ...]
"""What a worker returns of a shard: a measurement for each candidate, in the shard's order."""


@dataclass(frozen=True, slots=True)
class BuildJob:
    """The unit of level building: all levels of the sites of these layers."""

    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Utilisation:
    """What one worker has done, or did until it died.

    Args:
        worker: Machine, process and, if it was given some, GPUs.
        jobs: Builds and shards that it answered.
        busy: The share of its time, while there was work, from being given a job to its answer's
            being taken.
    """

    worker: str
    jobs: int
    busy: float


class Session(Protocol):
    """One loaded model in one worker."""

    def build(self, job: BuildJob) -> int:
        """Build the missing levels into the level database; return how many were built."""

    def measure(self, shard: Shard) -> Measured:
        """Measure one shard; return its candidates' measurements in order.

        A pure function of the shard: the same in every worker, whatever was measured before. (Of
        trained candidates on a GPU but for rounding.)
        """


SessionFactory = Callable[[], Session]
"""Makes a session inside the worker; must be picklable (a dataclass with `__call__`)."""


class WorkerPool(Protocol):
    """Workers that each hold a session.

    A job that raises yields its exception in place of a result. A worker that dies is replaced and
    its job is given to another worker once; if that one dies too, it yields `EvaluationError`.
    Workers lost with their node are nobody's fault: their jobs are given to others three times.
    Where there is room for fewer workers than `n_workers`, fewer work.
    Closing, or the death of the driver, ends every worker.
    """

    @property
    def n_workers(self) -> int:
        """How many workers measure at a time."""

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[int, int | Exception]]:
        """Yield (index of the job, levels built or the exception), as jobs finish."""

    def measure(self, shards: Sequence[Shard]) -> Iterator[tuple[int, Measured | Exception]]:
        """Yield (index of the shard, its measurements or the exception), as shards finish."""

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Return what each worker has done so far, also after the pool was closed."""

    def close(self) -> None:
        """End all workers; may be called twice."""
