"""Lets models choose from choices that nothing before has read."""

from collections.abc import Sequence

import numpy as np

from autocompress.export.evaluation import Estimate
from autocompress.export.right_choices import RightChoices
from autocompress.pipeline.decoding_opened import looks
from autocompress.pipeline.intervals import mean_interval, share_interval
from autocompress.pipeline.observer import Observer
from autocompress.workers.decoding_session import CHOOSING
from autocompress.workers.tune_alone import Alone


def choose(alone: Alone, models: Sequence[int], n: int, observer: Observer) -> list[np.ndarray]:
    """Have models choose from the first n choices; return the scores of each, (n,)."""
    if not n:
        return []
    observer.stage("choices")
    parts = alone.measure({CHOOSING: models}, looks(0, n), lambda done: observer.advance(done, n))
    return [
        np.concatenate([np.asarray(part[CHOOSING][at]) for part in parts])
        for at in range(len(models))
    ]


def right_choices(own: np.ndarray, other: np.ndarray | None = None) -> RightChoices:
    """Return how often a model chose right, beside another where there is one.

    Args:
        own: (n,) scores, and `other` too, of the same items.
    """
    if other is None:
        return RightChoices(len(own), _share(own), None, None)
    apart = own - other
    difference = Estimate(float(apart.mean()), mean_interval(apart))
    return RightChoices(len(own), _share(own), _share(other), difference)


def _share(scores: np.ndarray) -> Estimate:
    return Estimate(float(scores.mean()), share_interval(round(scores.sum()), len(scores)))
