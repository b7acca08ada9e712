"""Scores every menu entry by rule, without measuring a candidate: lower is better to compress.

Knows neither budgets nor strategies: what follows from the scores is theirs.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from autocompress.errors import EvaluationError
from autocompress.models.surgery import LevelSource
from autocompress.spaces.base import SUB_BLOCKS, Bundle, Choice, SearchSpace, Site, SiteKind

SEQUENCES_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Window:
    """The neighbouring layers that are best dropped together, of all windows of as many layers.

    Args:
        start: The first of the layers [start, start + n_layers).
        distance: Angle between the residual streams before and after them, in half turns: 0 to 1.
    """

    n_layers: int
    start: int
    distance: float


@torch.inference_mode()
def block_influence(model: PreTrainedModel, space: SearchSpace, ids: Tensor) -> list[list[float]]:
    """Return for each entry of each menu how far its bundle turns the residual stream.

    The block influence of ShortGPT (arXiv:2403.03853): the mean over tokens of 1 - cos of the
    hidden states before and after. The paper takes it over whole layers and drops the lowest, as
    here where layers are dropped as a whole. Two things are ours: else it is taken over
    sub-blocks, that is the residual stream before and after the attention, or before and after
    the MLP; and an entry that keeps the share s of a site's units is charged (1 - s) times the
    score of dropping the site.

    Args:
        model: Dense.
        ids: (sequences, T) token ids, on the model's device.

    Raises:
        EvaluationError: If a score is not finite.
    """
    spans = [(_point(own.sites[0]), _point(own.sites[-1]) + 1) for own in space.bundles]
    sums = [0.0] * len(spans)
    seen: dict[int, Tensor] = {}

    def add(point: int, stream: Tensor) -> None:
        after = functional.normalize(stream.float(), dim=-1)  # (B, T, hidden)
        for index, (start, end) in enumerate(spans):
            if end == point:
                # |after - before|² / 2 is 1 - cos, and does not round small scores away.
                sums[index] += float((after - seen[start]).square().sum()) / 2
        seen[point] = after
        seen.pop(point - 2, None)

    _read_stream(model, ids, add)
    drops = [own / ids.numel() for own in sums]
    check_finite((str(own), drop) for own, drop in zip(space.bundles, drops, strict=True))
    return [
        [(1 - _share(bundle, entry.choices)) * drop for entry in menu]
        for bundle, menu, drop in zip(space.bundles, space.menus, drops, strict=True)
    ]


@torch.inference_mode()
def window_cosine(model: PreTrainedModel, space: SearchSpace, ids: Tensor) -> list[Window]:
    """Return the best window of each number of layers, from 1 to all but one, ascending.

    The similarity of Gromov et al. (arXiv:2403.17887): arccos(cos) / π between the inputs of
    layers l and l + n at the last token of each sequence, as a mean over sequences; what the
    final norm reads counts as the input of layer L. The paper admits every window; here one holds
    only layers whose two sites the space can drop, and a number of layers that has no such window
    is left out. The lowest start wins a tie. Distances of windows do not add up.

    Memory: (L + 1, sequences, hidden) in float32, about four times.

    Args:
        model: Dense.
        ids: (sequences, T) token ids without padding, on the model's device.

    Raises:
        EvaluationError: If a distance is not finite.
    """
    n_layers = len(model.model.layers)
    inputs: list[list[Tensor]] = [[] for _ in range(n_layers + 1)]

    def keep(point: int, stream: Tensor) -> None:
        layer, is_inside = divmod(point, 2)
        if not is_inside:
            inputs[layer].append(functional.normalize(stream[:, -1].float(), dim=-1))

    _read_stream(model, ids, keep)
    states = torch.stack([torch.cat(batches) for batches in inputs])  # (L + 1, sequences, hidden)
    droppable = _droppable_layers(space)
    windows = []
    for n in range(1, n_layers):
        distances = _half_turns(states[:-n], states[n:]).mean(1).tolist()  # (L + 1 - n,)
        check_finite((f"layers {i} to {i + n - 1}", d) for i, d in enumerate(distances))
        starts = [i for i in range(len(distances)) if droppable.issuperset(range(i, i + n))]
        if starts:
            start = min(starts, key=distances.__getitem__)
            windows.append(Window(n, start, distances[start]))
    return windows


@torch.inference_mode()
def weight_error(
    model: PreTrainedModel, space: SearchSpace, levels: LevelSource
) -> list[list[float]]:
    """Return for each entry of each menu what it takes from its sites' weights; reads no text.

    The share of the squared Frobenius norm of the site's linear layers (biases left out) that
    lies in the units that go, times the share of the model's parameters that these layers hold.
    That a level compensates its output projection is not credited.

    Norms are compared within a site only: between sites they say little, as scaling a norm's gain
    up and the weights behind it down changes them and not the model. Parameters make sites of
    different size compare. So every drop of one kind of site scores the same, the parameters it
    takes: which layers to drop cannot be read from here, only how to narrow them.

    Args:
        model: Dense.
        levels: Asked for every width of the space, one at a time; they name the units that stay.

    Raises:
        EvaluationError: If a site's norm is not finite.
    """
    parameters = model.num_parameters()
    norms = [_unit_norms(_linears(model, site), site.units) for site in space.sites]
    totals = [float(of_units.sum()) for of_units in norms]
    check_finite((name_of(site), total) for site, total in zip(space.sites, totals, strict=True))
    by_site = dict(zip(space.sites, zip(norms, totals, strict=True), strict=True))

    def score(site: Site, choice: Choice) -> float:
        of_units, total = by_site[site]
        held = sum(linear.weight.numel() for linear in _linears(model, site)) / parameters
        # A site of zeros loses nothing, whatever goes.
        scale = held / total if total > 0 else 0.0
        return scale * float(of_units[_is_gone(site, choice, levels)].sum())

    return [
        [
            sum(score(*pair) for pair in zip(own.sites, entry.choices, strict=True))
            for entry in menu
        ]
        for own, menu in zip(space.bundles, space.menus, strict=True)
    ]


def _read_stream(model: PreTrainedModel, ids: Tensor, see: Callable[[int, Tensor], None]) -> None:
    """Run a model, a few sequences at a time, and show its residual stream between sub-blocks.

    Args:
        see: Called for each batch with points 0 to 2 L in order and a stream of shape
            (B, T, hidden): point 2 l is before the attention of layer l, 2 l + 1 before its MLP,
            2 L behind the last layer, before the final norm.
    """
    norms: list[nn.Module] = []
    for layer in model.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
    norms.append(model.model.norm)
    handles = [
        norm.register_forward_pre_hook(_shower(see, point)) for point, norm in enumerate(norms)
    ]
    try:
        for batch in ids.split(SEQUENCES_AT_ONCE):
            model.model(batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def _shower(
    see: Callable[[int, Tensor], None], point: int
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    """Return a hook that shows a module's input as the stream at a point."""

    def show(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        see(point, inputs[0])

    return show


def _half_turns(a: Tensor, b: Tensor) -> Tensor:
    """Return the angles between unit vectors along the last dimension: 1 is opposite.

    The arccos of a cosine near 1 would be all rounding error.
    """
    chord, sum_of_both = (a - b).norm(dim=-1), (a + b).norm(dim=-1)
    return torch.atan2(chord, sum_of_both) * (2 / math.pi)


def _droppable_layers(space: SearchSpace) -> set[int]:
    """Return the layers of which both sites can be dropped."""
    droppable = {
        (site.layer, site.kind)
        for bundle, menu in zip(space.bundles, space.menus, strict=True)
        if menu[-1].is_dropped
        for site in bundle.sites
    }
    layers = {layer for layer, _ in droppable}
    return {layer for layer in layers if all((layer, kind) in droppable for kind in SUB_BLOCKS)}


def _point(site: Site) -> int:
    """Return the point of the residual stream before a site."""
    return 2 * site.layer + (site.kind is SiteKind.MLP)


def _share(bundle: Bundle, choices: tuple[Choice, ...]) -> float:
    """Return what share of a site's units stays, or whether a whole layer does."""
    return choices[0].kept / bundle.sites[0].units


def _linears(model: PreTrainedModel, site: Site) -> list[nn.Linear]:
    """Return the linear layers of a site, the output projection last."""
    layer = model.model.layers[site.layer]
    if site.kind is SiteKind.ATTENTION:
        attention = layer.self_attn
        return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]


def _unit_norms(linears: list[nn.Linear], units: int) -> Tensor:
    """Return the squared norm of each unit's rows, or columns of the last layer, (units,)."""
    *inputs, output = [linear.weight for linear in linears]
    norms = [torch.sum(rows.float().square().view(units, -1), 1) for rows in inputs]
    columns = output.float().square().view(len(output), units, -1)  # (hidden, units, columns)
    return torch.stack([*norms, columns.sum((0, 2))]).sum(0).cpu()


def _is_gone(site: Site, choice: Choice, levels: LevelSource) -> Tensor:
    """Return for each unit of a site whether a choice leaves it out, (units,)."""
    is_gone = torch.full((site.units,), not choice.is_whole)
    if not choice.is_whole and not choice.is_dropped:
        is_gone[levels.level(site, choice).kept.cpu()] = False
    return is_gone


def name_of(site: Site) -> str:
    """Return how a site is called in messages."""
    return f"layer {site.layer} {site.kind}"


def check_finite(scores: Iterable[tuple[str, float]]) -> None:
    """Raise if a named score is not finite: comparisons with NaN would rank it silently."""
    wrong = [f"{score} for {name}" for name, score in scores if not math.isfinite(score)]
    if wrong:
        raise EvaluationError(
            f"`score is finite` must hold, but got {', '.join(wrong)}; try --dtype float32."
        )
