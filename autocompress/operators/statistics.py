"""Gathers what operators need to know about the inputs of each site, from the dense model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import Statistics
from autocompress.spaces.base import Choice, SiteKind

SEQUENCES_AT_ONCE = 4


@torch.inference_mode()
def gather(
    shaped: ShapedModel, layers: Sequence[int], sequences: Tensor
) -> dict[tuple[int, SiteKind], Statistics]:
    """Return the statistics of the sites of some layers; the model is left dense up to the last.

    One walk over the sites with all sequences, so that a streamed model's tensors come once.
    Memory: (sequences, T, hidden) in the model's number format, twice.

    Args:
        sequences: (sequences, T) token ids, on the model's device.
    """
    stepper = Stepper(shaped)
    sums: dict[tuple[int, SiteKind], Tensor] = {}
    states = [stepper.embed(batch) for batch in sequences.split(SEQUENCES_AT_ONCE)]
    for index, site in enumerate(shaped.space.sites):
        if site.layer > max(layers):
            break
        shaped.set(index, Choice(site.units, site.units))
        handles = []
        if site.layer in layers:
            output = shaped.output_projection(index)
            handles.append(output.register_forward_pre_hook(_adder(sums, (site.layer, site.kind))))
        try:
            states = [stepper.run(index, batch) for batch in states]
        finally:
            for handle in handles:
                handle.remove()
    return {site: Statistics(total / sequences.numel()) for site, total in sums.items()}


def _adder(
    sums: dict[tuple[int, SiteKind], Tensor], site: tuple[int, SiteKind]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that adds x xᵀ of a linear layer's inputs to a site's sum."""

    def add(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).float()  # (tokens, columns)
        sums[site] = sums[site] + x.T @ x if site in sums else x.T @ x

    return add
