"""Which of several answers to one prompt is given."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def most_likely(_texts: Sequence[str], likelihoods: Sequence[float]) -> int:
    """Return the place of the answer that its model found likeliest."""
    return max(range(len(likelihoods)), key=likelihoods.__getitem__)


def most_frequent(texts: Sequence[str], likelihoods: Sequence[float]) -> int:
    """Return the place of the answer said most often, the likeliest of those said as often.

    Answers are the same one if their words are, whatever their case and their last full stop.
    """
    words = [" ".join(text.split()).casefold().rstrip(".") for text in texts]
    votes = Counter(words)
    return max(range(len(texts)), key=lambda place: (votes[words[place]], likelihoods[place]))


Selector = Callable[[Sequence[str], Sequence[float]], int]
SELECTORS: Mapping[str, Selector] = {"likelihood": most_likely, "majority": most_frequent}
"""By their names in the space of decodings."""


def mean_log_likelihood(tokens: Sequence[int], logits: Sequence[Tensor]) -> float:
    """Return the mean log-likelihood, in nats, of some tokens.

    Args:
        logits: (V,) each; those behind the last token are left out.
    """
    steps = [step.float() for step in logits[: len(tokens)]]
    logs = torch.stack(steps).log_softmax(-1)  # (T, V)
    own = torch.tensor(tokens, device=logs.device)[:, None]
    return float(logs.gather(-1, own).mean())
