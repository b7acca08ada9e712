"""What the dense model predicts, kept as its k likeliest tokens and one bucket for the rest."""

from dataclasses import dataclass

import torch
from torch import Tensor

# A probability below what float32 tells from nothing, so that no logarithm is infinite. Raising
# the student's rest to it can only lower the divergence: it stays a lower bound.
LEAST = 2.0**-23


@dataclass(frozen=True, slots=True)
class Teacher:
    """The dense model's predictions on one sequence.

    Args:
        tokens: (T - 1, k) int32 ids of the likeliest tokens, the likeliest first.
        log_probabilities: (T - 1, k) of those, float32.
        rest: (T - 1) probability of all other tokens; None if k is the vocabulary.
    """

    tokens: Tensor
    log_probabilities: Tensor
    rest: Tensor | None

    @property
    def bytes(self) -> int:
        """What it takes to keep."""
        held = (self.tokens, self.log_probabilities, self.rest)
        return sum(t.numel() * t.element_size() for t in held if t is not None)


def summarize(logits: Tensor, k: int) -> Teacher:
    """Keep the k likeliest tokens of each position.

    Args:
        logits: (T - 1, V) float32.
    """
    k = min(k, logits.shape[-1])
    top = logits.topk(k, dim=-1)
    log_probabilities = top.values - log_total(logits)  # (T - 1, k)
    rest = None
    if k < logits.shape[-1]:
        rest = (1.0 - log_probabilities.exp().sum(-1)).clamp_min(0.0)
    return Teacher(top.indices.int(), log_probabilities, rest)


def losses(teacher: Teacher, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the KL divergence from the teacher and the likelihood of the text, each (T - 1).

    With tokens merged into a bucket the divergence is a lower bound of the full one (the log sum
    inequality), and equals it where k is the vocabulary.

    Args:
        logits: (T - 1, V) float32, of the candidate.
        targets: (T - 1) ids of the tokens that follow.
    """
    total = log_total(logits)  # (T - 1, 1)
    student = logits.gather(1, teacher.tokens.long()) - total  # (T - 1, k)
    kl = (teacher.log_probabilities.exp() * (teacher.log_probabilities - student)).sum(-1)
    if teacher.rest is not None:
        rest = (1.0 - student.exp().sum(-1)).clamp_min(LEAST)
        kl = kl + torch.xlogy(teacher.rest, teacher.rest) - teacher.rest * rest.log()
    nll = (total - logits.gather(1, targets[:, None])).squeeze(1)
    return kl, nll


def log_total(logits: Tensor) -> Tensor:
    """Return the logarithm of the summed exponentials of each row, (T - 1, 1).

    torch's own `logsumexp` takes eight times as long on a CPU as its parts do.
    """
    largest = logits.amax(-1, keepdim=True)
    return (logits - largest).exp().sum(-1, keepdim=True).log() + largest
