from collections import Counter

import numpy as np

from benchmarks.speculation import two_samples

CELLS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def drawn(shares: list[float], seed: int) -> Counter[tuple[int, ...]]:
    counts = np.random.default_rng(seed).multinomial(500, shares)
    return Counter(dict(zip(CELLS, counts.tolist(), strict=True)))


def test_draws_of_one_distribution_are_not_told_apart() -> None:
    shares = [0.5, 0.3, 0.195, 0.005]

    ones, others = ([drawn(shares, seed), drawn(shares, seed + 1)] for seed in (0, 2))

    assert two_samples(ones, others)["p"] > 1e-3


def test_draws_of_two_distributions_are_told_apart_by_any_prompt() -> None:
    same, other = [0.5, 0.3, 0.1, 0.1], [0.3, 0.5, 0.1, 0.1]

    found = two_samples([drawn(same, 0), drawn(same, 1)], [drawn(same, 2), drawn(other, 3)])

    assert found["p"] < 1e-4
