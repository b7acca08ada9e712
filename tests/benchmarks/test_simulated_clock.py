"""Laws of the clock that scaling is judged by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.simulated_clock import Clockwork, SimulatedWorkers, TimedJob

SECONDS = st.lists(st.integers(1, 50).map(float), min_size=1, max_size=30)


def run(n: int, seconds: list[float], how: Clockwork | None = None) -> SimulatedWorkers:
    crew = SimulatedWorkers(n, how or Clockwork())
    crew.run([TimedJob(own) for own in seconds])
    return crew


@given(SECONDS)
def test_one_worker_takes_the_sum(seconds: list[float]) -> None:
    assert run(1, seconds).clock == sum(seconds)


@given(SECONDS, st.integers(1, 40))
def test_greedy_workers_stay_within_grahams_bound(seconds: list[float], n: int) -> None:
    clock = run(n, seconds).clock

    least = max(sum(seconds) / n, *seconds)
    # Graham (1969): a list schedule is at most 2 - 1/n times the best.
    assert least - 1e-9 <= clock <= sum(seconds) / n + (1 - 1 / n) * max(seconds) + 1e-9


def test_what_is_at_hand_is_not_prepared_again() -> None:
    crew = SimulatedWorkers(1, Clockwork(preparation=10.0))

    crew.run([TimedJob(1.0, ("a", "b")), TimedJob(1.0, ("b", "c"))])

    assert crew.clock == 2 + 3 * 10
    assert crew.prepared == 30


def test_what_is_kept_is_what_was_used_last() -> None:
    crew = SimulatedWorkers(1, Clockwork(preparation=10.0, capacity=2))

    for need in "abcca":
        crew.run([TimedJob(1.0, (need,))])

    assert crew.prepared == 40


def test_each_worker_prepares_for_itself() -> None:
    crew = SimulatedWorkers(2, Clockwork(preparation=10.0))

    crew.run([TimedJob(1.0, ("a",)), TimedJob(1.0, ("a",))])

    assert crew.clock == 11
    assert crew.prepared == 20


@pytest.mark.parametrize("n", [1, 4])
def test_the_driver_takes_results_one_by_one(n: int) -> None:
    crew = run(n, [1.0] * 4, Clockwork(per_job=0.5))

    assert crew.clock == 4 / n + 4 * 0.5
