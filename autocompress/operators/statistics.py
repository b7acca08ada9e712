"""Gathers what operators need to know about the inputs of each site, from the dense model."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import Statistics
from autocompress.operators.levels import SiteStatistics
from autocompress.spaces.base import Choice, Site

SEQUENCES_AT_ONCE = 4

Upstream = Callable[[Site], Choice]
"""What a site is set to before its output goes on to the sites after it."""


def dense(site: Site) -> Choice:
    """Leave a site as it is: no site sees the error of those before it."""
    return Choice(site.units, site.units)


@torch.inference_mode()
def gather(
    shaped: ShapedModel,
    sites: Sequence[int],
    sequences: Tensor,
    upstream: Upstream = dense,
    looked_at: Upstream = dense,
) -> Iterator[tuple[int, SiteStatistics]]:
    """Yield the statistics of some sites, one by one, each dense while it is looked at.

    One walk over the sites with all sequences, so that a streamed model's tensors come once. A
    site goes on as `upstream` wants it only when the next one is asked for: what that needs of
    the site can be built in between.
    Memory: (sequences, T, hidden) in the model's number format, twice. Token embedding and head
    are left dense.

    Args:
        sites: Indices into the space's sites. What reads the residual stream is looked at only
            where a site's weights may be stored otherwise.
        sequences: (sequences, T) token ids, on the model's device.
        looked_at: What a site is set to instead, while it is looked at.
    """
    # Levels are those of the weights alone: studies that store the embedding otherwise share them.
    shaped.put_dense_ends()
    stepper = Stepper(shaped)
    states = [stepper.embed(batch) for batch in sequences.split(SEQUENCES_AT_ONCE)]
    for index, site in enumerate(shaped.space.sites[: max(sites) + 1]):
        onward = upstream(site)
        if index in sites:
            shaped.set(index, looked_at(site))
            statistics, after = _observed(shaped, stepper, index, states)
            yield index, statistics
            if onward == looked_at(site):
                states = after
                continue
        shaped.set(index, onward)
        states = [stepper.run(index, batch) for batch in states]


def _observed(
    shaped: ShapedModel, stepper: Stepper, index: int, states: Sequence[Tensor]
) -> tuple[SiteStatistics, list[Tensor]]:
    """Run a site; return what its linear layers read, and what comes after it."""
    linears = shaped.linears(index)
    output = _Sum(linears[-1])
    is_stored = any(gene.group for gene in shaped.space.sites[index].genes)
    inputs = _Sum(linears[0]) if is_stored else None
    try:
        after = [stepper.run(index, batch) for batch in states]
    finally:
        for own in (output, inputs):
            if own is not None:
                own.remove()
    return SiteStatistics(inputs.mean() if inputs else None, output.mean()), after


class _Sum:
    """Adds up x xᵀ of a linear layer's inputs as long as it is not removed."""

    def __init__(self, linear: nn.Linear) -> None:
        self._sum: Tensor | None = None
        self._tokens = 0
        self.remove: Callable[[], None] = linear.register_forward_pre_hook(self._add).remove

    def mean(self) -> Statistics:
        """Return the mean over tokens, a Hessian of (columns, columns) float32."""
        if self._sum is None:
            raise ValueError("nothing was run")
        return Statistics(self._sum / self._tokens)

    def _add(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).float()  # (tokens, columns)
        self._sum = x.T @ x if self._sum is None else self._sum + x.T @ x
        self._tokens += len(x)
