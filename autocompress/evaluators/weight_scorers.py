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
from autocompress.spaces.base import Choice, Gene, SearchSpace
from autocompress.spaces.settings import DENSE, WeightSetting

EDGE_LAYERS = 0.1
EDGE_FACTOR = 2.0
OUTPUT_FACTOR = 1.5
TOKENS_AT_ONCE = 1024

GeneScores = list[list[float]]
"""`scores[gene][level]`, 0 for dense."""


@dataclass(frozen=True, slots=True)
class _Group:
    """A linear group of a site, with the genes that store its weights."""

    site: int
    group: int
    genes: tuple[tuple[int, Gene], ...]


@dataclass(frozen=True, slots=True)
class _Changed:
    """A linear group in the setting of one level of one gene.

    Args:
        error: What is stored minus what was, (rows, columns) float32.
    """

    gene: int
    level: int
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
    for group in _groups(space):
        site = space.sites[group.site]
        factor = 1.0
        if site.layer < edge or site.layer >= n_layers - edge:
            factor *= EDGE_FACTOR
        if site.groups[group.group].narrows_columns:
            factor *= OUTPUT_FACTOR
        for changed in _changes_of(shaped, levels, group):
            share = float(changed.error.square().sum() / changed.dense.square().sum())
            weight = factor * math.log(changed.dense.numel())
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

    def score(group: _Group, inputs: Tensor, gradient: Tensor) -> None:
        # Levels are decoded anew for each batch: all of them at once would be many models.
        for changed in _changes_of(shaped, levels, group):
            moved = inputs @ changed.error.T  # (tokens, rows)
            total = float((gradient * moved).square().sum())
            scores[changed.gene][changed.level] += total / ids.numel()

    for batch in _batches(ids):
        watched = [_Watched(_linears_of(shaped, own), own, score) for own in _groups(space)]
        try:
            _backward(shaped, batch)
        finally:
            for own in watched:
                own.remove()
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
        for batch in _batches(ids):
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


def _groups(space: SearchSpace) -> list[_Group]:
    """Return the linear groups whose weights some gene stores otherwise."""
    found = []
    for index, (site, numbers) in enumerate(zip(space.sites, space.site_genes, strict=True)):
        for position, group in enumerate(site.groups):
            pairs = zip(numbers, site.genes, strict=True)
            own = tuple((number, gene) for number, gene in pairs if gene.group == group.name)
            if own:
                found.append(_Group(index, position, own))
    return found


@torch.no_grad()
def _changes_of(shaped: ShapedModel, levels: LevelSource, group: _Group) -> Iterator[_Changed]:
    """Set a group's site dense and yield every level that stores the group's weights otherwise."""
    site = shaped.space.sites[group.site]
    shaped.set(group.site, Choice(site.units, site.units))
    dense = torch.cat([linear.weight.float() for linear in _linears_of(shaped, group)])
    for number, gene in group.genes:
        for level, setting in enumerate(gene.settings):
            if isinstance(setting, WeightSetting) and not setting.is_dense:
                stored = [DENSE] * len(site.groups)
                stored[group.group] = setting
                choice = Choice(site.units, site.units, tuple(stored))
                changed = levels.weight(site, choice, group.group).to(dense)
                yield _Changed(number, level, dense, changed - dense)


def _linears_of(shaped: ShapedModel, group: _Group) -> list[nn.Linear]:
    """Return a group's linear layers."""
    groups = shaped.space.sites[group.site].groups
    first = sum(len(other.linears) for other in groups[: group.group])
    own = slice(first, first + len(groups[group.group].linears))
    return shaped.linears(group.site)[own]


def _batches(ids: Tensor) -> tuple[Tensor, ...]:
    """Return (sequences, T) token ids in parts that are read at a time."""
    return torch.split(ids, max(1, TOKENS_AT_ONCE // ids.shape[1]))


def _backward(shaped: ShapedModel, ids: Tensor) -> None:
    """Run the model's own loss on a text backwards, for the gradients of outputs alone."""
    model = shaped.model
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    with torch.enable_grad():
        summed_loss(model(inputs_embeds=embedded, use_cache=False).logits, ids).backward()


class _Watched:
    """Hands over a group's inputs and outputs' gradients as soon as all of these are there.

    Nothing of a group is held once it was handed over: no more than its inputs, until then.

    Args:
        linears: The group's, all of the same inputs.
        taken: Is given the group, its inputs (tokens, columns) and its gradients (tokens, rows),
            float32.
    """

    def __init__(
        self,
        linears: Sequence[nn.Linear],
        group: _Group,
        taken: Callable[[_Group, Tensor, Tensor], None],
    ) -> None:
        self._group = group
        self._taken = taken
        self._inputs = torch.empty(0)
        self._gradients: dict[int, Tensor] = {}
        self._handles = [
            linear.register_forward_hook(self._keep(number, len(linears)))
            for number, linear in enumerate(linears)
        ]

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _keep(
        self, number: int, n: int
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._inputs = inputs[0].detach()

            def keep(gradient: Tensor) -> None:
                self._gradients[number] = gradient.flatten(0, -2).float()
                if len(self._gradients) == n:
                    together = [self._gradients.pop(own) for own in range(n)]
                    inputs = self._inputs.flatten(0, -2).float()
                    self._inputs = torch.empty(0)
                    self._taken(self._group, inputs, torch.cat(together, dim=1))

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
