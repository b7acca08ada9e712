"""A winner that is faster than it must be gets levels back, and keeps the target."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.pipeline.aiming import CLOSE, MOST_EASED, STEP, Attempt, Timed
from autocompress.pipeline.easing import Losses, ease, nearer_to_dense
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.search.base import Task
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit, sum_of_sites
from autocompress.spaces.making import make_space
from autocompress.trial import Fidelity, Genotype, Measurement, Split, Trial

SPACE = make_space(6, 4, 256, depth=True, width=True)
SITES = sum_of_sites(SPACE, 4.0, lambda _, choice: choice.kept / choice.total)
HALF = 0.005
"""Of a measured interval, as a share."""


class Machine:
    """Measures candidates: so many times as fast as predicted, give or take.

    Args:
        weights: What a level of each gene loses.
    """

    def __init__(self, bias: float, noise: float, weights: Sequence[float]) -> None:
        self.bias = bias
        self.noise = noise
        self.weights = weights
        self.timed: list[Genotype] = []

    @property
    def reads(self) -> tuple[Losses, Losses]:
        """Its losses, of a few sequences as of the whole text."""
        return self.losses, self.losses

    def losses(self, candidates: Sequence[Genotype]) -> list[Trial]:
        return [self.trial(own) for own in candidates]

    def trial(self, genotype: Genotype) -> Trial:
        kl = sum(w * level**2 for w, level in zip(self.weights, genotype.levels, strict=True))
        reading = Fidelity(Split.SELECTION, 0, 0, 1)
        return Trial(genotype, reading, Measurement((kl,), (kl,), 1))

    def speedup(self, genotype: Genotype) -> float:
        drawn = np.random.default_rng(list(genotype.levels)).uniform(-1, 1)
        predicted = SITES.dense / SITES.of(SPACE.entries(genotype))
        return predicted * self.bias * (1 + self.noise * drawn)

    def attempt(self, aim: float, room: Constraint, trial: Trial) -> Attempt:
        self.timed.append(trial.genotype)
        median = self.speedup(trial.genotype)
        interval = (median * (1 - HALF), median * (1 + HALF))
        measured = MeasuredSpeedup(median, interval, (median, 1.0), (1.0, 1.0), ())
        timed = Timed(SITES, 1.0, 4.0)
        return Attempt(aim, Task(room, 0, 16, 8), trial, timed.reached(measured), measured)


def none(_: Constraint) -> list[Genotype]:
    return []


weights = st.lists(st.floats(0.01, 1.0), min_size=len(SPACE.genes), max_size=len(SPACE.genes))
levels = st.tuples(*(st.integers(0, len(gene.settings) - 1) for gene in SPACE.genes))


def winner(machine: Machine, genotype: Genotype, limits: tuple[Limit, ...] = ()) -> Attempt:
    """Return a winner of so many levels as it was measured."""
    predicted = SITES.of(SPACE.entries(genotype))
    room = Constraint(SPACE, (Limit(SITES, predicted), *limits))
    first = machine.attempt(SITES.dense / predicted, room, machine.trial(genotype))
    machine.timed.clear()
    return first


@given(st.floats(0.9, 1.1), st.floats(0, 0.04), st.floats(0.7, 1.0), weights, levels)
def test_what_is_taken_back_keeps_the_target_and_loses_less(
    bias: float, noise: float, share: float, weights: list[float], levels: tuple[int, ...]
) -> None:
    machine = Machine(bias, noise, weights)
    first = winner(machine, SPACE.canonical(Genotype(levels)))
    timed = Timed(SITES, share * first.reached.interval[0], 4.0)

    tried = list(ease(first, timed, *machine.reads, none, machine.attempt))

    kept = [first, *(own for own in tried if own.clears(timed.target))]
    assert len(tried) <= MOST_EASED
    assert all(a.winner.loss > b.winner.loss for a, b in itertools.pairwise(kept))
    assert all(own.winner.loss < first.winner.loss for own in tried)
    if first.reached.median <= CLOSE * timed.target:
        assert not tried


@given(st.floats(0.9, 1.1), st.floats(0.7, 1.0), weights, levels)
def test_where_neighbours_are_as_fast_as_told_none_is_left_that_meets_the_target(
    bias: float, share: float, weights: list[float], levels: tuple[int, ...]
) -> None:
    machine = Machine(bias, 0.0, weights)
    first = winner(machine, SPACE.canonical(Genotype(levels)))
    timed = Timed(SITES, share * first.reached.interval[0], 4.0)

    tried = list(ease(first, timed, *machine.reads, none, machine.attempt))

    last = tried[-1] if tried else first
    slower = [
        own
        for own in nearer_to_dense(SPACE, last.winner.genotype)
        if machine.trial(own).loss < last.winner.loss
    ]
    fast = [own for own in slower if machine.speedup(own) * (1 - HALF) > timed.target * STEP]
    assert last.reached.median <= CLOSE * timed.target or not fast


def test_half_of_the_levels_are_taken_back_where_all_are_too_many() -> None:
    machine = Machine(1.0, 0.0, [1.0] * len(SPACE.genes))
    first = winner(machine, Genotype((2,) * len(SPACE.genes)))
    timed = Timed(SITES, 0.8 * first.reached.interval[0], 4.0)
    machine.bias = 0.9

    tried = list(ease(first, timed, *machine.reads, none, machine.attempt))

    taken = [sum(first.winner.genotype.levels) - sum(own.levels) for own in machine.timed]
    assert not tried[0].clears(timed.target)
    assert taken[1] == taken[0] // 2


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_no_other_limit_is_exceeded(share: float) -> None:
    machine = Machine(1.0, 0.0, [1.0] * len(SPACE.genes))
    genotype = Genotype((2,) * len(SPACE.genes))
    stored = dataclasses.replace(SITES, fixed=0.0)
    most = stored.of(SPACE.entries(genotype)) * (1 + share)
    first = winner(machine, genotype, (Limit(AdditiveCost(0.0, stored.menus), most),))
    timed = Timed(SITES, 0.8 * first.reached.interval[0], 4.0)

    tried = list(ease(first, timed, *machine.reads, none, machine.attempt))

    assert bool(tried) is (share > 0)


@given(st.floats(0.95, 1.05), st.floats(0, 0.04), weights, levels, st.lists(levels, max_size=3))
def test_the_end_loses_no_more_than_a_simple_candidate_that_meets_the_target(
    bias: float,
    noise: float,
    weights: list[float],
    levels: tuple[int, ...],
    others: list[tuple[int, ...]],
) -> None:
    machine = Machine(bias, noise, weights)
    first = winner(machine, SPACE.canonical(Genotype(levels)))
    timed = Timed(SITES, 0.8 * first.reached.interval[0], 4.0, most_eased=100)
    found = [SPACE.canonical(Genotype(own)) for own in others]

    def simple(room: Constraint) -> list[Genotype]:
        return [own for own in found if room.violation(own) <= 0]

    tried = list(ease(first, timed, *machine.reads, simple, machine.attempt))

    kept = [first, *(own for own in tried if own.clears(timed.target))]
    assert len({own.winner.genotype for own in tried}) == len(tried)
    for own in tried:
        assert own.winner.loss < first.winner.loss
    if len(kept) > 1:
        missed = {own.winner.genotype for own in tried} - {own.winner.genotype for own in kept}
        met = [own for own in simple(kept[-1].task.constraint) if own not in missed]
        assert all(kept[-1].winner.loss <= machine.trial(own).loss for own in met)


def test_a_simple_candidate_that_misses_the_target_costs_no_step_of_the_winner() -> None:
    machine = Machine(1.0, 0.0, [1.0] * len(SPACE.genes))
    genotype = Genotype((2,) * len(SPACE.genes))
    first = winner(machine, genotype)
    timed = Timed(SITES, 0.8 * first.reached.interval[0], 4.0)
    without = list(ease(first, timed, *machine.reads, none, machine.attempt))

    tried = list(ease(first, timed, *machine.reads, lambda _: [SPACE.dense], machine.attempt))

    assert not tried[0].clears(timed.target)
    assert [own.winner for own in tried[1:]] == [own.winner for own in without]
