"""Workers and a pool that measure nothing: what is left is the cost of everything around them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from autocompress.trial import Measurement
from autocompress.workers.base import BuildJob, Measured, Session, Shard, Utilisation


def recorded(shard: Shard) -> Measured:
    """Return losses of the shape that a real session returns."""
    n = shard.fidelity.sequences
    return tuple(Measurement((0.1,) * n, (2.1,) * n, 255) for _ in shard.genotypes)


class NullSession:
    """Answers at once."""

    def build(self, job: BuildJob) -> int:  # noqa: ARG002  # The contract's.
        """Build nothing."""
        return 0

    def measure(self, shard: Shard) -> Measured:
        """Return made-up losses."""
        return recorded(shard)


@dataclass(frozen=True, slots=True)
class NullFactory:
    """Makes sessions that answer at once."""

    def __call__(self) -> Session:
        """Make one."""
        return NullSession()


class NullPool:
    """Answers in this process, and keeps what it was asked, a list for each batch."""

    def __init__(self) -> None:
        self.asked: list[list[Shard]] = []

    @property
    def n_workers(self) -> int:
        """One: the caller."""
        return 1

    def build(self, jobs: Sequence[BuildJob]) -> Iterator[tuple[int, int | Exception]]:
        """Build nothing."""
        yield from ((index, 0) for index, _ in enumerate(jobs))

    def measure(self, shards: Sequence[Shard]) -> Iterator[tuple[int, Measured | Exception]]:
        """Yield made-up losses in the order of the shards."""
        if shards:
            self.asked.append(list(shards))
        for index, shard in enumerate(shards):
            yield index, recorded(shard)

    def utilisation(self) -> tuple[Utilisation, ...]:
        """Tell of no workers."""
        return ()

    def close(self) -> None:
        """Nothing is held."""
