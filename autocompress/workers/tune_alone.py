"""Measures one trial in one process of the cluster, beside nothing else; imports Ray."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from autocompress.errors import EngineError
from autocompress.workers.patience import Patience
from autocompress.workers.tune import Share, Values, in_ray, one_line, share_of

TELL_SECONDS: Final = 30.0
"""Of waiting for room, after which that is told: a process takes some of them to start."""
ROOM_SECONDS: Final = Patience().first
"""Of waiting for room, after which nobody is taken to make any."""
PART_SECONDS: Final = 24 * 3600.0
"""For one part, after which its process is taken to hang: it may hold all items of a task."""

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
            EngineError: If it cannot be measured, or takes more than `PART_SECONDS`.
        """
        import ray

        parts: list[Part] = []
        try:
            for first, end in itertools.pairwise(looks):
                part = self._actor.measure.remote(values, first, end)
                parts.append(ray.get(part, timeout=PART_SECONDS))
                told(end - looks[0])
        except ray.exceptions.RayTaskError as error:
            raise EngineError(f"Nothing could be measured: {one_line(error.cause)}.") from error
        except ray.exceptions.GetTimeoutError:
            raise EngineError(
                f"What measures gave no answer for {PART_SECONDS:g} seconds and was stopped."
            ) from None
        except ray.exceptions.RayError as error:
            raise EngineError(f"What measures died: {one_line(error)}.") from error
        return parts


@contextlib.contextmanager
def measuring_alone(
    make: Make, address: str | None, waits: Callable[[str], None]
) -> Iterator[Alone]:
    """Start a process that measures, and end it.

    Args:
        waits: Is told once what is waited for, if others hold it.

    Raises:
        EngineError: If the cluster cannot be reached, or has no room for so long that nobody can
            be expected to make any.
    """
    with in_ray(address):
        import ray

        share = share_of(1)
        remote: Any = ray.remote(_Measuring)
        actor = remote.options(num_cpus=share.cpus, num_gpus=share.gpus).remote(make, share)
        try:
            _wait_for_room(actor, share, waits)
            yield Alone(actor)
        finally:
            ray.kill(actor)


def _wait_for_room(actor: Any, share: Share, waits: Callable[[str], None]) -> None:
    import ray

    here = [actor.arrive.remote()]
    if ray.wait(here, timeout=TELL_SECONDS)[0]:
        return
    gpus = f" and {share.gpus:g} GPUs" if share.gpus else ""
    waits(f"{share.cpus} CPUs{gpus} of one node of the Ray cluster, which others hold")
    if not ray.wait(here, timeout=ROOM_SECONDS)[0]:
        raise EngineError(
            f"No node of the Ray cluster had {share.cpus} CPUs{gpus} free for {ROOM_SECONDS:g} "
            "seconds. Add nodes or wait until others are done, and go on."
        )


class _Measuring:
    """Measures in a process of its own."""

    def __init__(self, make: Make, share: Share) -> None:
        self._make = make
        self._share = share
        self._measuring: Measuring | None = None

    def arrive(self) -> None:
        """Answer: there was room."""

    def measure(self, values: Values, first: int, end: int) -> Part:
        """Return what a trial makes of items `[first, end)`."""
        if self._measuring is None:
            self._measuring = self._make(self._share)
        return self._measuring.measure(values, first, end)
