"""Which decoding to try next: near the untuned at first, then what a linear model expects most of.

What nobody tuned is right more often than not, and of many parameters drawn alike from their menus
some are nearly always harmful: so the first decodings change few. From then on a ridge regression
of the logarithm of the objective, on what each parameter is set to, ranks the neighbours of the
leaders: what helped alone is joined.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from autocompress.spaces.decoding import UNTUNED, DecodingSpace, Value
from autocompress.trial import Genotype

FIRST_TRIALS: Final = 10
MOST_MOVES: Final = 3
"""From the untuned at first, and from a leader later."""
NEIGHBOURS: Final = 300
RIDGE: Final = 0.5


def first_proposal(space: DecodingSpace, rng: np.random.Generator) -> Genotype:
    """Return the untuned decoding with one to three parameters changed."""
    return _moved(space, space.genotype({}), rng)


def next_proposal(
    space: DecodingSpace,
    scores: Mapping[Genotype, float],
    leaders: Sequence[Genotype],
    rng: np.random.Generator,
) -> Genotype | None:
    """Return the neighbour of a leader of which most is expected, none of those that are known.

    Args:
        scores: What decodings came to, less being better, all above 0 and of one unit.
    """
    found = {
        _moved(space, leaders[int(rng.integers(len(leaders)))], rng) for _ in range(NEIGHBOURS)
    }
    new = sorted(found - scores.keys(), key=lambda own: own.levels)
    if not new:
        return None
    known = list(scores)
    features = [_features(space.values(own)) for own in [*known, *new]]
    names = sorted({name for own in features for name in own})
    places = {name: at for at, name in enumerate(names)}
    rows = np.zeros((len(features), len(names)))
    for row, own in enumerate(features):
        rows[row, [places[name] for name in own]] = 1.0
    targets = np.log([scores[own] for own in known])
    measured, unmeasured = rows[: len(known)], rows[len(known) :]
    middle = targets.mean()
    system = measured.T @ measured + RIDGE * np.eye(len(names))
    weights = np.linalg.solve(system, measured.T @ (targets - middle))
    return new[int(np.argmin(unmeasured @ weights))]


def _moved(space: DecodingSpace, start: Genotype, rng: np.random.Generator) -> Genotype:
    found = start
    for _ in range(int(rng.integers(1, MOST_MOVES + 1))):
        found = space.neighbour(found, rng)
    return found


def _features(values: Mapping[str, Value]) -> list[tuple[str, str]]:
    """Return what of a decoding is not untuned."""
    return [(name, str(value)) for name, value in values.items() if value != UNTUNED[name]]
