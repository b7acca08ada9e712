"""Gathers what operators need to know about the inputs of each site, from the dense model."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import Statistics
from autocompress.operators.levels import SiteStatistics
from autocompress.spaces.base import Choice

SEQUENCES_AT_ONCE = 4


@torch.inference_mode()
def gather(
    shaped: ShapedModel, sites: Sequence[int], sequences: Tensor
) -> dict[int, SiteStatistics]:
    """Return the statistics of some sites; the model is left dense up to the last of them.

    One walk over the sites with all sequences, so that a streamed model's tensors come once.
    Memory: (sequences, T, hidden) in the model's number format, twice.

    Args:
        sites: Indices into the space's sites. What reads the residual stream is looked at only
            where a site's weights may be stored otherwise.
        sequences: (sequences, T) token ids, on the model's device.
    """
    stepper = Stepper(shaped)
    found: dict[int, SiteStatistics] = {}
    states = [stepper.embed(batch) for batch in sequences.split(SEQUENCES_AT_ONCE)]
    for index, site in enumerate(shaped.space.sites[: max(sites) + 1]):
        shaped.set(index, Choice(site.units, site.units))
        linears = shaped.linears(index)
        sums = [_Sum(linears[-1])] if index in sites else []
        if index in sites and any(gene.group for gene in site.genes):
            sums.append(_Sum(linears[0]))
        try:
            states = [stepper.run(index, batch) for batch in states]
        finally:
            for own in sums:
                own.remove()
        if sums:
            output, *inputs = (Statistics(own.total() / sequences.numel()) for own in sums)
            found[index] = SiteStatistics(inputs[0] if inputs else None, output)
    return found


class _Sum:
    """Adds up x xᵀ of a linear layer's inputs as long as it is not removed."""

    def __init__(self, linear: nn.Linear) -> None:
        self._sum: Tensor | None = None
        self.remove: Callable[[], None] = linear.register_forward_pre_hook(self._add).remove

    def total(self) -> Tensor:
        """Return the sum, (columns, columns) float32."""
        if self._sum is None:
            raise ValueError("nothing was run")
        return self._sum

    def _add(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).float()  # (tokens, columns)
        self._sum = x.T @ x if self._sum is None else self._sum + x.T @ x
