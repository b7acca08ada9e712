"""End-to-end times become a speedup with its interval, on as many repeats as it takes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from autocompress.evaluators.base import Latency
from autocompress.evaluators.subprocess_call import Progress, nobody
from autocompress.pipeline.latency import ROUNDS, measure_speedup, spread
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.spaces.cost import AdditiveCost
from autocompress.spaces.making import make_space
from autocompress.spec import TIMING_PROCESSES
from autocompress.workload import Mix, Phase, Workload


class Stopwatch:
    """An engine whose second checkpoint is so many times as fast, give or take.

    Args:
        spread: Of the repeats of a process.
        apart: Of processes: what all repeats of one have in common.
    """

    def __init__(self, speedup: float, spread: float, apart: float = 0.0) -> None:
        self.calls = 0
        self._speedup = speedup
        self._spread = spread
        self._apart = apart
        self._rng = np.random.default_rng(0)

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        common = 1 + self._apart * self._rng.standard_normal()
        noise = common * (1 + self._spread * self._rng.standard_normal(repeats))
        self.calls += 1
        first = (100.0,) * repeats
        second = tuple((100.0 / self._speedup * noise).tolist())
        return [Latency(first, first, first, 1), Latency(second, second, second, 1)]


def measured(engine: Stopwatch, target: float | None) -> tuple[float, tuple[float, float]]:
    def is_open(found: MeasuredSpeedup) -> bool:
        return target is not None and found.interval[0] < target <= found.median

    found = measure_speedup(engine, Path("a"), Path("b"), Mix(), is_open)
    return found.median, found.interval


@pytest.mark.parametrize("target", [None, 1.5, 2.5])
def test_a_clear_answer_takes_one_round(target: float | None) -> None:
    engine = Stopwatch(2.0, 0.02)

    median, (low, high) = measured(engine, target)

    assert engine.calls == TIMING_PROCESSES
    assert low < median < high
    assert median == pytest.approx(2.0, rel=0.02)


def test_a_target_inside_the_interval_takes_more_processes() -> None:
    engine = Stopwatch(2.0, 0.0, 0.02)
    median, (once, _) = measured(Stopwatch(2.0, 0.0, 0.02), None)

    measured(engine, (once + median) / 2)

    assert TIMING_PROCESSES < engine.calls <= ROUNDS * TIMING_PROCESSES


def test_intervals_hold_the_speedup_where_processes_differ_more_than_repeats() -> None:
    engine = Stopwatch(2.0, 0.002, 0.02)

    intervals = [measured(engine, None)[1] for _ in range(400)]

    held = sum(low <= 2.0 <= high for low, high in intervals)
    assert 0.91 <= held / len(intervals) <= 0.98


class Phases:
    """An engine whose second checkpoint is three times as fast in one phase alone."""

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        slow, fast = (30.0,) * repeats, (10.0,) * repeats
        return [Latency(slow, slow, slow, 1), Latency(slow, fast, slow, 1)]


@pytest.mark.parametrize(
    ("mix", "speedup"),
    [("decode", 3.0), ("prefill", 1.0), ("1x8+8", 1.0), ("1*decode,1*prefill", 60 / 40)],
)
def test_what_counts_of_the_workloads_is_compared(mix: str, speedup: float) -> None:
    parsed = Mix.parse(mix)

    found = measure_speedup(Phases(), Path("a"), Path("b"), parsed)

    assert found.median == pytest.approx(speedup)
    assert found.milliseconds[0] == pytest.approx(30.0)
    assert found.shares == pytest.approx(
        [1 / 3 if workload.phase is Phase.DECODE else 1.0 for workload in parsed.workloads]
    )
    assert found.milliseconds[1] == pytest.approx(30.0 / speedup)
    assert found.compressed_interval == pytest.approx((30.0 / speedup, 30.0 / speedup))
    assert found.first_token == ((30.0, 30.0),) * len(parsed.parts)
    assert found.further_token == ((30.0, 10.0),) * len(parsed.parts)


def test_what_is_timed_is_spread_from_where_a_search_begins() -> None:
    space = make_space(3, 2, 64, depth=True, width=False)
    cost = AdditiveCost(20.0, ((1.0, 0.0),) * len(space.menus))

    # What all candidates save is no configuration that could be told from another.
    assert spread(space, cost.saving(10.0), 12, 0) == spread(
        space, AdditiveCost(10.0, cost.menus), 12, 0
    )


@pytest.mark.parametrize("whole_layers", [False, True])
def test_what_is_timed_always_has_something_left(whole_layers: bool) -> None:
    """Also where the least that could be left is too slow for the speedup that is drawn."""
    space = make_space(3, 2, 64, depth=True, width=False, whole_layers=whole_layers)
    cost = AdditiveCost(2.0, ((1.0, 0.0),) * len(space.menus))

    found = spread(space, cost, 12, 0)

    assert len(found) == 12
    assert all(
        any(not choice.is_dropped for choice in space.choices(genotype)) for genotype in found
    )
