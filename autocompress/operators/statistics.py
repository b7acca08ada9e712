"""Gathers what operators need to know about the inputs of each site, from the dense model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autocompress.operators.base import Statistics
from autocompress.spaces.base import SiteKind


@torch.inference_mode()
def gather(
    model: PreTrainedModel, layers: Sequence[int], sequences: Tensor
) -> dict[tuple[int, SiteKind], Statistics]:
    """Return the statistics of the sites of some layers.

    Args:
        sequences: (sequences, T) token ids, on the model's device.
    """
    sums: dict[tuple[int, SiteKind], Tensor] = {}
    handles = []
    for layer in layers:
        block = model.model.layers[layer]
        for kind, linear in (
            (SiteKind.ATTENTION, block.self_attn.o_proj),
            (SiteKind.MLP, block.mlp.down_proj),
        ):
            handles.append(linear.register_forward_pre_hook(_adder(sums, (layer, kind))))
    try:
        for batch in sequences.split(4):
            model.model(batch, use_cache=False)
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
