"""Scores what storing weights otherwise costs, gene by gene: the additive rules of other tools.

Every score is for one level of one gene of bits or of sparsity, all else dense. Genes that decide
on anything else score 0: these rules say nothing of them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.evaluators.scorers import check_finite
from autocompress.models.surgery import LevelSource, ShapedModel
from autocompress.operators.gradients import summed_loss
from autocompress.spaces.base import Choice, Gene, SearchSpace, Site
from autocompress.spaces.settings import DENSE, WeightSetting

EDGE_LAYERS = 0.1
EDGE_FACTOR = 2.0
OUTPUT_FACTOR = 1.5
SEQUENCES_AT_ONCE = 4

GeneScores = list[list[float]]
"""`scores[gene][level]`, 0 for dense."""


@dataclass(frozen=True, slots=True)
class _Changed:
    """A linear group in the setting of one level of one gene.

    Args:
        error: What is stored minus what was, (rows, columns) float32.
    """

    gene: int
    level: int
    site: int
    group: int
    dense: Tensor
    error: Tensor


@torch.inference_mode()
def weight_error(shaped: ShapedModel, levels: LevelSource) -> GeneScores:
    """Score levels by the weights alone, as llm-compressor's `get_higgs_config` does in kind.

    The relative squared error of a group's weights, to which the loss is linear for small errors
    (HIGGS, arXiv:2411.17525, theorem 1), times the logarithm of its size, a factor for the first
    and last tenth of the layers, and one for projections back into the residual stream. The
    factors are ours: that tool's are made by hand too.
    """
    space = shaped.space
    scores = _zeros(space)
    n_layers = 1 + max(site.layer for site in space.sites)
    edge = max(1, round(EDGE_LAYERS * n_layers))
    for changed in _changes(shaped, levels):
        site = space.sites[changed.site]
        share = float(changed.error.square().sum() / changed.dense.square().sum())
        weight = math.log(changed.dense.numel())
        if site.layer < edge or site.layer >= n_layers - edge:
            weight *= EDGE_FACTOR
        if site.groups[changed.group].narrows_columns:
            weight *= OUTPUT_FACTOR
        scores[changed.gene][changed.level] = weight * share
    return _checked(scores, space)


def fisher_error(shaped: ShapedModel, levels: LevelSource, ids: Tensor) -> GeneScores:
    """Score levels by the error of outputs weighted by squared gradients.

    Σ (∂L/∂y · Δy)² over outputs y and tokens, L the model's own loss on the text: the diagonal of
    the Fisher information, as in ModelOpt's AutoQuantize by gradients.

    Args:
        ids: (sequences, T) token ids on the model's device.
    """
    space = shaped.space
    scores = _zeros(space)
    shaped.apply_dense()
    sites = sorted(
        {number for number, site in enumerate(space.sites) if any(g.group for g in site.genes)}
    )
    for batch in ids.split(SEQUENCES_AT_ONCE):
        seen = {site: _Watched(shaped.linears(site)) for site in sites}
        try:
            _backward(shaped, batch)
        finally:
            for watched in seen.values():
                watched.remove()
        # Levels are decoded anew for each batch: all of them at once would be many models.
        for changed in _changes(shaped, levels):
            own = _linears_of(space.sites[changed.site], changed.group)
            inputs, gradient = seen[changed.site].of(own)
            moved = inputs @ changed.error.T  # (tokens, rows)
            total = float((gradient * moved).square().sum())
            scores[changed.gene][changed.level] += total / ids.numel()
    return _checked(scores, space)


@torch.inference_mode()
def outlier_shares(
    shaped: ShapedModel, ids: Tensor, multiples: Sequence[float]
) -> dict[float, list[float]]:
    """Return OWL's share of outliers in each layer, by the multiple that makes one.

    OWL, arXiv:2310.05175, equation 2: of the scores |W| ‖X‖ of all linear layers of a block, the
    share above a multiple of their mean.

    Args:
        ids: (sequences, T) token ids on the model's device.
    """
    space = shaped.space
    shaped.apply_dense()
    squares = [_Squares(shaped.linears(index)) for index in range(len(space.sites))]
    try:
        for batch in ids.split(SEQUENCES_AT_ONCE):
            shaped.model(batch, use_cache=False)
    finally:
        for own in squares:
            own.remove()
    scores: dict[int, list[Tensor]] = {}
    for site, own in zip(space.sites, squares, strict=True):
        scores.setdefault(site.layer, []).extend(own.scores())
    found: dict[float, list[float]] = {}
    for layer in sorted(scores):
        together = torch.cat([score.flatten() for score in scores[layer]])
        for multiple in multiples:
            share = (together > multiple * together.mean()).float().mean()
            found.setdefault(multiple, []).append(float(share))
    return found


class _Squares:
    """Adds up the squares of the inputs of a site's linear layers."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._linears = linears
        self._sums = [torch.zeros(linear.in_features) for linear in linears]
        self._handles = [
            linear.register_forward_pre_hook(self._add(number))
            for number, linear in enumerate(linears)
        ]

    def scores(self) -> list[Tensor]:
        """Return |W| ‖X‖ of each linear layer, (rows, columns)."""
        pairs = zip(self._linears, self._sums, strict=True)
        return [linear.weight.float().abs() * sums.sqrt() for linear, sums in pairs]

    def remove(self) -> None:
        """Stop adding."""
        for handle in self._handles:
            handle.remove()

    def _add(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            own = inputs[0].flatten(0, -2).float().square().sum(0)
            self._sums[number] = self._sums[number].to(own) + own

        return hook


@torch.no_grad()
def _changes(shaped: ShapedModel, levels: LevelSource) -> Iterator[_Changed]:
    """Yield every level of every gene that stores weights otherwise."""
    space = shaped.space
    for index, (site, own) in enumerate(zip(space.sites, space.site_genes, strict=True)):
        shaped.set(index, Choice(site.units, site.units))
        dense = _dense_groups(shaped, index) if any(gene.group for gene in site.genes) else []
        for number, gene in zip(own, site.genes, strict=True):
            yield from _changes_of(number, gene, index, site, dense, levels)


def _changes_of(
    number: int,
    gene: Gene,
    index: int,
    site: Site,
    dense: Sequence[Tensor],
    levels: LevelSource,
) -> Iterator[_Changed]:
    names = [group.name for group in site.groups]
    for level, setting in enumerate(gene.settings):
        if isinstance(setting, WeightSetting) and not setting.is_dense:
            group = names.index(gene.group)
            stored = [DENSE] * len(names)
            stored[group] = setting
            choice = Choice(site.units, site.units, tuple(stored))
            changed = levels.weight(site, choice, group).to(dense[group])
            yield _Changed(number, level, index, group, dense[group], changed - dense[group])


def _dense_groups(shaped: ShapedModel, index: int) -> list[Tensor]:
    """Return the weights of a site's linear groups, (rows, columns) float32."""
    linears = shaped.linears(index)
    return [
        torch.cat([linears[i].weight.float() for i in _linears_of(shaped.space.sites[index], g)])
        for g in range(len(shaped.space.sites[index].groups))
    ]


def _linears_of(site: Site, group: int) -> range:
    """Return the positions of a group's linear layers among the site's."""
    first = sum(len(other.linears) for other in site.groups[:group])
    return range(first, first + len(site.groups[group].linears))


def _backward(shaped: ShapedModel, ids: Tensor) -> None:
    """Run the model's own loss on a text backwards, for the gradients of outputs alone."""
    model = shaped.model
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.enable_grad():
        summed_loss(model(inputs_embeds=embedded, use_cache=False).logits, ids).backward()


class _Watched:
    """Keeps the inputs and the outputs' gradients of a site's linear layers."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self._inputs: dict[int, Tensor] = {}
        self._gradients: dict[int, Tensor] = {}
        self._handles = [
            linear.register_forward_hook(self._keep(number))
            for number, linear in enumerate(linears)
        ]

    def of(self, linears: range) -> tuple[Tensor, Tensor]:
        """Return inputs (tokens, columns) and gradients (tokens, rows) of a group, float32."""
        gradients = [self._gradients[number] for number in linears]
        return self._inputs[linears[0]], torch.cat(gradients, dim=1)

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._inputs[number] = inputs[0].detach().flatten(0, -2).float()

            def keep(gradient: Tensor) -> None:
                self._gradients[number] = gradient.flatten(0, -2).float()

            output.register_hook(keep)

        return hook


def _zeros(space: SearchSpace) -> GeneScores:
    return [[0.0] * len(gene.settings) for gene in space.genes]


def _checked(scores: GeneScores, space: SearchSpace) -> GeneScores:
    """Return scores all of which are finite."""
    check_finite(
        (f"{space.bundles[bundle]} {gene.name}", score)
        for row, gene, bundle in zip(scores, space.genes, space.gene_bundles, strict=True)
        for score in row
    )
    return scores
