"""Measures how strongly a model's own loss pulls at each weight: the `G` of symbolic metrics."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autocompress.errors import EvaluationError, SpecError
from autocompress.models.surgery import ShapedModel

PAPER_SCALE = 100.0
PAPER_SEQUENCES = 128
"""Pruner-Zero (arXiv:2406.02924) takes the root of the sum, over 128 sequences, of the squares of
100 times the gradient of a sequence's mean loss."""

Gradients = dict[int, tuple[Tensor, ...]]
"""For each site, of each of its linear layers (rows, columns) float32."""


def gather_gradients(shaped: ShapedModel, sites: Sequence[int], sequences: Tensor) -> Gradients:
    """Return the gradients of some sites' weights in the dense model, by Pruner-Zero's measure.

    What is read is taken as 128 sequences, however many there are, so that a formula that adds
    gradients to something else says the same of more text and of less.
    Memory: the activations of one sequence, and of the sites their weights twice, in float32 once.

    Args:
        sequences: (sequences, T) token ids, on the model's device.

    Raises:
        SpecError: If the model is streamed.
        EvaluationError: If a gradient is no finite number.
    """
    if shaped.is_streamed:
        raise SpecError("A model that is streamed has no gradients: leave G out of the formula.")
    shaped.apply_dense()
    weights = [linear.weight for index in sites for linear in shaped.linears(index)]
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    for weight in weights:
        weight.requires_grad_(True)
    try:
        for ids in sequences:
            with torch.enable_grad():
                logits = shaped.model(ids[None], use_cache=False).logits
                loss = summed_loss(logits, ids[None]) / (len(ids) - 1)
            for total, own in zip(sums, torch.autograd.grad(loss, weights), strict=True):
                total += own.float().square()
    finally:
        for weight in weights:
            weight.requires_grad_(False)
    scale = PAPER_SCALE * (PAPER_SEQUENCES / len(sequences)) ** 0.5
    roots = iter([total.sqrt_().mul_(scale) for total in sums])
    found = {index: tuple(next(roots) for _ in shaped.linears(index)) for index in sites}
    wrong = [
        str(shaped.space.sites[index].layer)
        for index, own in found.items()
        if not all(bool(gradient.isfinite().all()) for gradient in own)
    ]
    if wrong:
        raise EvaluationError(
            f"`gradients are finite` must hold for a formula of G, but layers {', '.join(wrong)} "
            "have others; try --dtype float32."
        )
    return found


def summed_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Return how unlikely (B, T) token ids are to (B, T, V) logits, summed, in nats."""
    return nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
