"""What the dense model predicts, kept as its k likeliest tokens and one bucket for the rest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# So that no logarithm is infinite. Raising the student's rest to it can only lower the divergence:
# it stays a lower bound.
LEAST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Teacher:
    """The dense model's predictions on one sequence, or on several, one after the other.

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

    def part(self, first: int, end: int) -> "Teacher":
        """Return what it says of some positions."""
        rest = None if self.rest is None else self.rest[first:end]
        return Teacher(self.tokens[first:end], self.log_probabilities[first:end], rest)


def joined(teachers: Sequence[Teacher]) -> Teacher:
    """Return what several say of their positions, one after the other; all keep as many tokens."""
    if len(teachers) == 1:
        return teachers[0]
    rests = [teacher.rest for teacher in teachers if teacher.rest is not None]
    return Teacher(
        torch.cat([teacher.tokens for teacher in teachers]),
        torch.cat([teacher.log_probabilities for teacher in teachers]),
        torch.cat(rests) if rests else None,
    )


def summarize(logits: Tensor, k: int) -> Teacher:
    """Keep the k likeliest tokens of each position.

    Args:
        logits: (T - 1, V) float32.
    """
    k = min(k, logits.shape[-1])
    tokens = logits.topk(k, dim=-1).indices
    log_probabilities, rest, _ = _parts(logits, tokens)
    return Teacher(tokens.int(), log_probabilities, rest if k < logits.shape[-1] else None)


def losses(teacher: Teacher, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the KL divergence from the teacher and the likelihood of the text, each (T - 1).

    With tokens merged into a bucket the divergence is a lower bound of the full one (the log sum
    inequality), and equals it where k is the vocabulary.

    Args:
        logits: (T - 1, V) float32, of the candidate.
        targets: (T - 1) ids of the tokens that follow.
    """
    student, rest, total = _parts(logits, teacher.tokens.long())
    kl = (teacher.log_probabilities.exp() * (teacher.log_probabilities - student)).sum(-1)
    if teacher.rest is not None:
        kl = kl + torch.xlogy(teacher.rest, teacher.rest)
        kl = kl - teacher.rest * rest.clamp_min(LEAST).log()
    nll = (total - logits.gather(1, targets[:, None])).squeeze(1)
    return kl, nll


def mean_losses(teacher: Teacher, logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the means of `losses` over a sequence, nats a token."""
    kl, nll = losses(teacher, logits, targets)
    mean = float(kl.mean())
    # Rounding may take the divergence of equal models a hair below zero.
    return (max(mean, 0.0) if math.isfinite(mean) else mean), float(nll.mean())


def _parts(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log probabilities (T - 1, k) of tokens, what is left, log of the whole (T - 1, 1).

    What is left, (T - 1), is summed over the other tokens: 1 less the probability of some would
    hold nothing but rounding where they are nearly all of it. The whole is the sum of the logits'
    exponentials; torch's own `logsumexp` takes eight times as long on a CPU as its parts do.
    """
    largest = logits.amax(-1, keepdim=True)
    exponentials = (logits - largest).exp()
    whole = exponentials.sum(-1, keepdim=True)
    total = whole.log() + largest
    rest = exponentials.scatter_(1, tokens, 0.0).sum(-1, keepdim=True) / whole
    return logits.gather(1, tokens) - total, rest.squeeze(1), total
