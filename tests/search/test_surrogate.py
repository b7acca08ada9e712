"""The surrogate recovers what a loss is made of, and knows what it does not know."""

import itertools
import math

import numpy as np
import pytest

from autocompress.search import surrogate as surrogates
from autocompress.search.surrogate import Observation, Surrogate
from autocompress.spaces.making import make_space
from autocompress.trial import Measurement
from tests.search.synthetic import SPACE, loss_of

SINGLES = [
    [loss_of(SPACE.genotype([0] * i + [entry] + [0] * (5 - i))) for entry in range(len(menu))]
    for i, menu in enumerate(SPACE.menus)
]
EVERYONE = np.asarray(list(itertools.product(*(range(len(m)) for m in SPACE.menus)))[1:])
LOG_LOSSES = np.log([loss_of(SPACE.genotype(tuple(map(int, e)))) for e in EVERYONE])


def observe(rows: np.ndarray, noise: float = 1e-6, shift: float = 0.0) -> list[Observation]:
    rng = np.random.default_rng(1)
    return [
        Observation(
            tuple(map(int, EVERYONE[row])),
            (0 if row % 2 else 1, 8),
            float(LOG_LOSSES[row] + math.sqrt(noise) * rng.standard_normal() + shift * (row % 2)),
            noise,
        )
        for row in rows
    ]


def some(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(EVERYONE), n, replace=False)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def test_it_learns_interactions_that_single_changes_do_not_show() -> None:
    additive = np.log([sum(SINGLES[s][e] for s, e in enumerate(row)) for row in EVERYONE])

    surrogate = Surrogate(SPACE, SINGLES, observe(some(120)))

    rest = np.setdiff1d(np.arange(len(EVERYONE)), some(120))
    learned = correlation(surrogate.mean(EVERYONE[rest]), LOG_LOSSES[rest])
    assert learned > 0.98
    assert learned > correlation(additive[rest], LOG_LOSSES[rest])


def test_what_all_lose_is_no_part_of_what_is_learned() -> None:
    wanted = np.log([0.5 + sum(SINGLES[s][e] for s, e in enumerate(row)) for row in EVERYONE])
    seen = some(30)
    observed = [
        Observation(tuple(map(int, EVERYONE[row])), (0, 8), float(wanted[row]), 1e-6)
        for row in seen
    ]
    rest = np.setdiff1d(np.arange(len(EVERYONE)), seen)

    def missed(base: float) -> float:
        surrogate = Surrogate(SPACE, SINGLES, observed, base=base)
        expected = surrogate.mean(EVERYONE[rest]) + surrogate.constant((0, 8))
        return float(np.abs(expected - wanted[rest]).mean())

    assert missed(0.5) < 0.01 < missed(0.0)


def test_a_drift_learns_losses_that_level_off_along_a_range() -> None:
    additive = np.log([sum(SINGLES[s][e] for s, e in enumerate(row)) for row in EVERYONE])
    levelling = 0.5 * additive
    seen = some(80)
    observed = [
        Observation(tuple(map(int, EVERYONE[row])), (0, 8), float(levelling[row]), 1e-6)
        for row in seen
    ]
    rest = np.setdiff1d(np.arange(len(EVERYONE)), seen)

    def missed(drift: float) -> float:
        surrogate = Surrogate(SPACE, SINGLES, observed, drift)
        expected = surrogate.mean(EVERYONE[rest]) + surrogate.constant((0, 8))
        return float(np.abs(expected - levelling[rest]).mean())

    assert missed(0.4) < 0.8 * missed(0.0)


def test_readings_differ_by_a_constant_that_counts_for_nothing() -> None:
    plain = Surrogate(SPACE, SINGLES, observe(some(120)))
    shifted = Surrogate(SPACE, SINGLES, observe(some(120), shift=3.0))

    found = shifted.mean(EVERYONE) - plain.mean(EVERYONE)

    # The prior of a reading's constant is wide, not flat: it takes a little of the shift back.
    assert np.ptp(found) < 0.01


def test_samples_scatter_more_where_less_was_measured() -> None:
    one_layer = np.flatnonzero((EVERYONE[:, 2:] == 0).all(axis=1))
    surrogate = Surrogate(SPACE, SINGLES, observe(one_layer))

    drawn = surrogate.sample(EVERYONE, 400, np.random.default_rng(0)).std(axis=0)

    others = np.flatnonzero((EVERYONE[:, :2] == 0).all(axis=1))
    assert drawn[others].mean() > 2 * drawn[one_layer].mean()


def test_samples_centre_on_the_mean() -> None:
    surrogate = Surrogate(SPACE, SINGLES, observe(some(60)))

    drawn = surrogate.sample(EVERYONE, 4000, np.random.default_rng(0))

    error = np.abs(drawn.mean(axis=0) - surrogate.mean(EVERYONE))
    # Five standard errors of a mean of 4,000.
    assert (error < 5 * drawn.std(axis=0) / math.sqrt(4000) + 1e-9).all()


def test_an_estimate_trusts_exact_measurements_and_doubts_noisy_ones() -> None:
    rows = some(100)
    odd = observe(rows)
    odd[0] = Observation(odd[0].levels, odd[0].reading, odd[0].log_loss + 0.2, odd[0].noise)
    noisy = [Observation(o.levels, o.reading, o.log_loss, 1.0) for o in odd]
    candidate = EVERYONE[rows[:1]]

    exact = Surrogate(SPACE, SINGLES, odd)
    doubted = Surrogate(SPACE, SINGLES, noisy)

    trusted = float((exact.estimate(candidate) - exact.mean(candidate))[0])
    assert trusted > 0.05
    assert abs(float((doubted.estimate(candidate) - doubted.mean(candidate))[0])) < trusted / 10


def test_a_failed_single_change_leaves_finite_predictions() -> None:
    singles = [list(row) for row in SINGLES]
    singles[0][2] = math.inf

    surrogate = Surrogate(SPACE, singles, observe(some(30)))

    assert np.isfinite(surrogate.mean(EVERYONE)).all()


def test_large_spaces_have_weights_for_neighbours_only() -> None:
    space = make_space(60, 1, 128, depth=True, width=False)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (40, 120))
    observations = [
        Observation(tuple(map(int, row)), (0, 8), float(row.sum()), 1e-4) for row in rows
    ]

    surrogate = Surrogate(space, [[0.0, 1.0]] * 120, observations)

    assert surrogate.mean(rows).shape == (40,)


def test_nothing_observed_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an observation"):
        Surrogate(SPACE, SINGLES, [])


def test_noise_falls_with_what_is_read_and_is_gone_where_all_text_is() -> None:
    rng = np.random.default_rng(0)
    whole = {
        tuple(map(int, row)): Measurement(tuple(rng.lognormal(size=16)), (1.0,) * 16, 15)
        for row in EVERYONE[:8]
    }
    part = {row: Measurement(m.kl[:4], m.nll[:4], 15) for row, m in whole.items()}

    found = surrogates.observe({(0, 4): part, (0, 16): whole}, available=16)
    more = surrogates.observe({(0, 4): part, (0, 16): whole}, available=10**9)

    noise = {o.reading: o.noise for o in found}
    assert noise[0, 16] == 0.0
    assert {o.reading: o.noise for o in more}[0, 4] == pytest.approx(noise[0, 4] / (1 - 4 / 16))


def test_a_candidate_read_on_all_text_is_estimated_as_measured() -> None:
    rows = EVERYONE[some(40)]
    exact = [
        Observation(tuple(map(int, r)), (0, 16), float(i % 7), 0.0) for i, r in enumerate(rows)
    ]

    estimates = Surrogate(SPACE, SINGLES, exact).estimate(rows)

    # Up to the constant of the reading.
    differences = estimates - [o.log_loss for o in exact]
    assert np.ptp(differences) < 1e-6
