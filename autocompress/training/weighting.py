"""Draws the text to train on where a compressed model is worst.

PASER's idea (arXiv:2502.12594): what a model lost is uneven over capabilities, so train it on more
of what it lost most. There, instructions are clustered; here neighbours in the text are alike.
"""

from collections.abc import Callable
from typing import Final

import numpy as np

SEGMENTS: Final = 32
PROBES: Final = 4
"""Sequences of a segment by which it is judged: 32 x 4 cost as much as a few validations."""
DIGITS: Final = 2
"""Of a weight: sums that differ in their last bits draw the same text."""


def drawn_by_loss(
    text: np.ndarray, n: int, loss_of: Callable[[np.ndarray], float], seed: int
) -> np.ndarray:
    """Return n sequences, none twice, drawn in proportion to what is lost around them.

    Args:
        text: (N, T) token ids in the order of their documents; of fewer than n, all are returned.
        loss_of: The mean loss on (M, T) token ids.
    """
    if n >= len(text):
        return text
    rng = np.random.default_rng([seed, len(text)])
    weights = np.ones(len(text))
    for part in np.array_split(np.arange(len(text)), min(SEGMENTS, len(text))):
        probes = rng.choice(part, min(PROBES, len(part)), replace=False)
        weights[part] = loss_of(text[probes])
    # What loses nothing here and now is read now and then all the same.
    weights = np.maximum(np.round(weights / weights.mean(), DIGITS), 10.0**-DIGITS)
    return np.asarray(text[rng.choice(len(text), n, replace=False, p=weights / weights.sum())])
