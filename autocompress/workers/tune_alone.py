"""Measures one trial in one process of the cluster, beside nothing else; imports Ray."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from autocompress.errors import EngineError
from autocompress.workers.tune import Share, Values, in_ray, one_line, share_of

Part = Mapping[str, Any]
"""What was measured of a trial's items, as plain data."""


class Measuring(Protocol):
    """Measures in a process of the cluster, trial after trial."""

    def measure(self, values: Values, first: int, end: int) -> Part:
        """Return what a trial makes of items `[first, end)`."""


Make = Callable[[Share], Measuring]
"""Makes what measures, once for each process; must be picklable."""


class Alone:
    """Measures in one process of the cluster, with all of a node's cores, beside nothing else."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def measure(
        self, values: Values, looks: Sequence[int], told: Callable[[int], None]
    ) -> list[Part]:
        """Measure one trial from each look to the next.

        Args:
            looks: From the first item on, such as (0, 8, 12) for the first twelve in two parts.
            told: Is told after how many items it is.

        Raises:
            EngineError: If it cannot be measured.
        """
        import ray

        parts: list[Part] = []
        try:
            for first, end in itertools.pairwise(looks):
                parts.append(ray.get(self._actor.measure.remote(values, first, end)))
                told(end - looks[0])
        except ray.exceptions.RayTaskError as error:
            raise EngineError(f"Nothing could be measured: {one_line(error.cause)}.") from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"What measures died: {one_line(error)}.") from error
        return parts


@contextlib.contextmanager
def measuring_alone(make: Make, address: str | None) -> Iterator[Alone]:
    """Start a process that measures, and end it.

    Raises:
        EngineError: If the cluster cannot be reached.
    """
    with in_ray(address):
        import ray

        share = share_of(1)
        remote: Any = ray.remote(_Measuring)
        actor = remote.options(num_cpus=share.cpus, num_gpus=share.gpus).remote(make, share)
        try:
            yield Alone(actor)
        finally:
            ray.kill(actor)


class _Measuring:
    """Measures in a process of its own."""

    def __init__(self, make: Make, share: Share) -> None:
        self._measuring = make(share)

    def measure(self, values: Values, first: int, end: int) -> Part:
        """Return what a trial makes of items `[first, end)`."""
        return self._measuring.measure(values, first, end)
