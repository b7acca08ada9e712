"""Breeds candidates on a surrogate by algorithms of EvoTorch, which is imported when first used.

The algorithms are EvoTorch's; the moves, and what decodes real numbers, are ours: nothing they
make leaves the space. They are judged by what the surrogate expects of them, which costs nothing.
"""

import contextlib
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autocompress.errors import SpecError
from autocompress.search.axes import Axes
from autocompress.search.single_changes import Losses, entry_losses
from autocompress.search.surrogate import Surrogate
from autocompress.spaces.base import SearchSpace, SiteKind

if TYPE_CHECKING:
    import torch

POPULATION = 192
GENERATIONS = 30
"""Of an algorithm, between two measurements."""
CROSSED = 0.3
"""Share of the children that take their bundles from two parents."""
COST_CELLS = 24
"""Of MAP-Elites, over all axes together."""
ATTENTION_EDGES = (0.25, 0.75)
"""Between four cells: how much of the compression is in attention."""
ATTENTION_CELLS = 4
DRAWS = 12
"""Of SNES in each generation: factors of the losses of single changes."""
FIRST_SPREAD = 0.3
"""Standard deviation of the factors' logarithms."""
PRICES = 24
"""Of cost in units of loss; each decodes a draw to one candidate."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What candidates are bred on.

    Args:
        constant: Makes log losses of what the surrogate expects.
        losses: Of single changes.
    """

    space: SearchSpace
    axes: Axes
    surrogate: Surrogate
    constant: float
    losses: Losses

    def expect(self, levels: np.ndarray) -> np.ndarray:
        """Return the expected log losses, (n), of (n, genes) levels."""
        return self.surrogate.mean(levels) + self.constant


Breeder = Callable[[Ground, np.ndarray, np.random.Generator], np.ndarray]
"""Returns (n, genes) levels bred from (m, genes) measured ones; not all of them are new."""


def check_package() -> None:
    """Make sure that EvoTorch is there.

    Raises:
        SpecError: If it is not.
    """
    if importlib.util.find_spec("evotorch") is None:
        raise SpecError(
            "strategy: a front needs evotorch: run `pip install 'autocompress[pareto]'`."
        )


def by_nsga2(ground: Ground, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breed by NSGA-II (Deb et al., IEEE TEC 6(2), 2002): by Pareto rank, then by crowding.

    EvoTorch 0.6.1 takes an order by crowding for ranks: which members stay of a front that has to
    be cut is left to chance. So nothing is lost of what was bred: all of it is returned.
    """
    seen: list[np.ndarray] = []

    def judge(levels: np.ndarray) -> np.ndarray:
        seen.append(levels)
        return np.column_stack([ground.expect(levels), *ground.axes.shares(levels)])

    with _evotorch(rng) as seed:
        from evotorch.algorithms import GeneticAlgorithm

        problem = _problem(["min"] * (1 + len(ground.axes)), judge, parents.shape[1], seed)
        searcher = GeneticAlgorithm(
            problem,
            operators=[_on_levels(lambda levels: moved(ground.axes, levels, rng))],
            popsize=POPULATION,
            re_evaluate=False,
        )
        searcher.population.set_values(_tensor(_filled_up(parents, POPULATION)))
        searcher.run(GENERATIONS)
    return np.vstack(seen)


def by_map_elites(ground: Ground, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breed by MAP-Elites (Mouret and Clune, arXiv:1504.04909): the best of each cell.

    Cells are ranges of cost and of the share of the compression that is in attention: what is
    compressed otherwise stays, and may lead on, while it loses more.
    """
    axes = ground.axes
    of_attention = _of_attention(ground.space)
    deepest = np.asarray([len(gene.settings) - 1 for gene in ground.space.genes])
    seen: list[np.ndarray] = []

    def judge(levels: np.ndarray) -> np.ndarray:
        seen.append(levels)
        depth = levels / deepest
        in_attention = depth[:, of_attention].sum(axis=1) / np.maximum(depth.sum(axis=1), 1e-9)
        means = ground.expect(levels)
        return np.column_stack([means, *axes.shares(levels), in_attention])

    with _evotorch(rng) as seed:
        from evotorch.algorithms import MAPElites

        n_features = len(axes) + 1
        problem = _problem("min", judge, parents.shape[1], seed, n_features=n_features)
        lows = np.append(axes.lows, ATTENTION_EDGES[0])
        highs = np.append(np.ones(len(axes)), ATTENTION_EDGES[1])
        n_cells = [round(COST_CELLS ** (1 / len(axes)))] * len(axes) + [ATTENTION_CELLS]
        ends = (_tensor(lows), _tensor(highs), _tensor(np.asarray(n_cells)))
        grid = MAPElites.make_feature_grid(*ends)
        searcher = MAPElites(
            problem,
            operators=[_on_levels(lambda levels: moved(axes, levels, rng))],
            feature_grid=grid,
            re_evaluate=False,
        )
        searcher.population.set_values(_tensor(_filled_up(parents, len(grid))))
        searcher.run(GENERATIONS)
    return np.vstack(seen)


def by_snes(ground: Ground, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Breed by SNES (Wierstra et al., JMLR 15, 2014) on a continuous relaxation of the space.

    A draw multiplies the losses of each gene's single changes. Every price of the first axis
    decodes it to the candidate of least sum of losses and cost (Lagrange multipliers; Everett,
    Operations Research 11(3), 1963). A draw is judged by the mean log loss, over budgets, of what
    it decodes to. No price decodes to what lies above the hull of a front: children of all are
    added.
    """
    decode = _decoder(ground)
    seen: list[np.ndarray] = []

    def judge(draws: np.ndarray) -> np.ndarray:
        values = []
        for draw in draws:
            levels = decode(np.exp(draw))
            seen.append(levels)
            values.append(ground.axes.mean_loss(ground.axes.shares(levels), ground.expect(levels)))
        return np.asarray(values)

    with _evotorch(rng) as seed:
        from evotorch.algorithms import SNES

        n_genes = parents.shape[1]
        problem = _problem("min", judge, n_genes, seed, is_real=True)
        searcher = SNES(
            problem,
            stdev_init=FIRST_SPREAD,
            popsize=DRAWS,
            center_init=_tensor(np.zeros(n_genes)),
        )
        searcher.run(GENERATIONS)
    decoded = np.unique(np.vstack(seen), axis=0)
    return np.vstack([decoded, moved(ground.axes, decoded, rng)])


def moved(axes: Axes, levels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a child of each candidate: most mutated, some crossed with one of similar cost."""
    is_crossed = rng.random(len(levels)) < CROSSED
    order = np.argsort(axes.shares(levels)[rng.integers(len(axes))], kind="stable")
    partner = np.empty(len(levels), dtype=int)
    partner[order] = order[np.abs(np.arange(len(levels)) - rng.integers(1, 4))]
    children = levels.copy()
    crossed, mates = levels[is_crossed], levels[partner[is_crossed]]
    children[is_crossed] = axes.moves_near(crossed, rng).cross(crossed, mates, rng)
    mutated = levels[~is_crossed]
    children[~is_crossed] = axes.moves_near(mutated, rng).mutate(mutated, rng)
    return children


def _decoder(ground: Ground) -> Callable[[np.ndarray], np.ndarray]:
    """Return what makes candidates, one a price, (n, genes) levels, of factors for each gene."""
    space = ground.space
    tables = [np.asarray([entry.levels for entry in menu]) for menu in space.menus]
    costs = ground.axes.menus(0)

    def decode(factors: np.ndarray) -> np.ndarray:
        rows = [
            factor * np.asarray(row) for factor, row in zip(factors, ground.losses, strict=True)
        ]
        losses = entry_losses(space, rows)
        with np.errstate(invalid="ignore", divide="ignore"):
            slopes = np.concatenate(
                [own / (cost[0] - cost) for own, cost in zip(losses, costs, strict=True)]
            )
        slopes = slopes[np.isfinite(slopes) & (slopes > 0)]
        prices = np.quantile(slopes, np.linspace(0.02, 0.98, PRICES))
        parts = []
        for own, cost, table in zip(losses, costs, tables, strict=True):
            entries = np.argmin(own[None] + prices[:, None] * cost[None], axis=1)
            parts.append(table[entries])
        return np.hstack(parts)

    return decode


def _of_attention(space: SearchSpace) -> np.ndarray:
    """Return for each gene whether it is of an attention."""
    found = np.zeros(len(space.genes), dtype=bool)
    for site, genes in zip(space.sites, space.site_genes, strict=True):
        found[list(genes)] = site.kind is SiteKind.ATTENTION
    return found


def _filled_up(parents: np.ndarray, n: int) -> np.ndarray:
    """Return n parents, the first ones, again where there are fewer."""
    return parents[np.arange(n) % len(parents)]


@contextlib.contextmanager
def _evotorch(rng: np.random.Generator) -> Iterator[int]:
    """Let EvoTorch draw from torch's generator without a trace there; give it a seed."""
    import torch

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It compiles by a name of torch's that is to go.
        warnings.simplefilter("ignore", DeprecationWarning)
        from evotorch.tools import set_default_logger_config

        set_default_logger_config(logger_level=30, override=True)
        seed = int(rng.integers(2**31))
        torch.manual_seed(seed)
        yield seed


def _problem(
    senses: str | list[str],
    judge: Callable[[np.ndarray], np.ndarray],
    length: int,
    seed: int,
    n_features: int = 0,
    *,
    is_real: bool = False,
) -> Any:
    """Return EvoTorch's problem of a function of many candidates, (n, length), at once."""
    import torch
    from evotorch import Problem
    from evotorch.decorators import vectorized

    def objective(values: torch.Tensor) -> torch.Tensor:
        return _tensor(judge(_array(values)))

    return Problem(
        senses,
        vectorized(objective),
        # The first values are replaced by measured candidates, or by the search's centre.
        initial_bounds=(0, 1),
        solution_length=length,
        dtype=torch.float64 if is_real else torch.int64,
        eval_dtype=torch.float64,
        eval_data_length=n_features,
        num_actors=0,
        seed=seed,
    )


def _on_levels(
    move: Callable[[np.ndarray], np.ndarray],
) -> Callable[["torch.Tensor"], "torch.Tensor"]:
    def operator(values: "torch.Tensor") -> "torch.Tensor":
        return _tensor(move(_array(values)))

    return operator


def _array(values: "torch.Tensor") -> np.ndarray:
    """Return a copy: EvoTorch hands out views that must not be written."""
    import torch

    return values.as_subclass(torch.Tensor).numpy().copy()


def _tensor(values: np.ndarray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))
