"""Random spaces with costs and limits, and small ones whose candidates can be counted out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from autocompress.spaces.base import Entries, Levels, LinearGroup, SearchSpace, SiteKind
from autocompress.spaces.cost import AdditiveCost, Constraint, under
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Genotype

GROUPS = {
    SiteKind.ATTENTION: (LinearGroup("qkv", ("q", "k", "v"), (64, 32, 32), 64, False),),
    SiteKind.MLP: (
        LinearGroup("gate_up", ("gate", "up"), (96, 96), 64, False),
        LinearGroup("down", ("down",), (64,), 96, True),
    ),
}
WEIGHTS = (
    Weights(),
    Weights(bits=(4, 2)),
    Weights(sparsities=(WeightSetting(sparsity=0.5),), cache_bits=(8,)),
    Weights(bits=(8,), sparsities=(WeightSetting(sparsity=0.25), WeightSetting(sparsity=0.75))),
)


def sparse_space(n_layers: int, steps: int, *, depth: bool = False) -> SearchSpace:
    """Return a space of zeros alone, a level for each of so many even steps but the last."""
    return make_space(
        n_layers,
        1,
        96,
        depth=depth,
        width=False,
        weights=Weights(
            sparsities=tuple(WeightSetting(sparsity=n / steps) for n in range(1, steps))
        ),
        groups=GROUPS,
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """A constraint that some candidate meets, and the levels that may be taken."""

    constraint: Constraint
    allowed: tuple[Levels, ...]

    @property
    def space(self) -> SearchSpace:
        """The constraint's space."""
        return self.constraint.space

    @property
    def cost(self) -> AdditiveCost:
        """The cost that is limited."""
        return self.constraint.limits[0].cost

    @property
    def limit(self) -> float:
        """The most that a candidate may cost."""
        return self.constraint.limits[0].most

    def violation(self, levels: Sequence[int]) -> float:
        """Return the constraint's violation of a candidate."""
        return self.constraint.violation(Genotype(tuple(levels)))

    def is_in_space(self, levels: Sequence[int]) -> bool:
        """Whether a candidate is canonical and every gene has a level that may be taken."""
        return self.space.canonical(Genotype(tuple(levels))).levels == tuple(levels) and all(
            level in own for level, own in zip(levels, self.allowed, strict=True)
        )

    def is_filled(self, levels: Sequence[int]) -> bool:
        """Whether no gene can be given back within the limit."""
        lighter = [
            [*levels[:gene], level, *levels[gene + 1 :]]
            for gene, allowed in enumerate(self.allowed)
            for level in allowed
            if level < levels[gene]
        ]
        return not any(self.violation(other) <= 0 for other in lighter)


@st.composite
def spaces(
    draw: st.DrawFn, most_layers: int = 6, stored: tuple[Weights, ...] = WEIGHTS
) -> SearchSpace:
    """Return a space with something to choose."""
    depth, width, whole_layers = draw(
        st.sampled_from(
            [
                (True, False, False),
                (False, True, False),
                (True, True, False),
                (True, False, True),
            ]
        )
    )
    return make_space(
        draw(st.integers(1, most_layers)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([96, 128, 256])),
        depth=depth,
        width=width,
        whole_layers=whole_layers,
        ffn_step=32,
        ffn_levels=draw(st.integers(1, 4)),
        weights=draw(st.sampled_from(stored)),
        groups=GROUPS,
    )


@st.composite
def costs_of(draw: st.DrawFn, space: SearchSpace) -> AdditiveCost:
    """Return costs that fall with each gene's level, sometimes not at all, to 0 or to more."""
    steps = st.floats(0.0, 5.0).map(lambda step: round(step, 2))
    menus = []
    for bundle, menu in zip(space.bundles, space.menus, strict=True):
        total = np.zeros(1)
        for gene in bundle.genes:
            n = len(gene.settings)
            falls = draw(st.lists(steps, min_size=n, max_size=n))
            own = list(itertools.accumulate(falls))[::-1]
            total = np.add.outer(total, own).ravel()
        whole = total[: len(menu)].tolist()
        menus.append((*whole[:-1], min(total.tolist())))
    return AdditiveCost(draw(st.floats(0.5, 10.0)), tuple(menus))


@st.composite
def problems(
    draw: st.DrawFn, most_layers: int = 6, stored: tuple[Weights, ...] = WEIGHTS
) -> Problem:
    """Return a problem whose limit lies between the least cost and a little over the dense one."""
    space = draw(spaces(most_layers, stored))
    cost = draw(costs_of(space))
    share = draw(st.floats(0.0, 1.05))
    limit = max(cost.least, cost.least + share * (cost.dense - cost.least))
    constraint = under(space, cost, limit)
    return Problem(constraint, constraint.useful_levels())


@st.composite
def candidates(draw: st.DrawFn, problem: Problem) -> Levels:
    """Return any candidate of a problem in its canonical form, feasible or not."""
    levels = tuple(draw(st.sampled_from(allowed)) for allowed in problem.allowed)
    return problem.space.canonical(Genotype(levels)).levels


@st.composite
def entries_of(draw: st.DrawFn, problem: Problem) -> Entries:
    """Return any candidate of a problem as menu entries."""
    return tuple(draw(st.sampled_from(entries)) for entries in menus_of(problem.space))


@st.composite
def genotypes(draw: st.DrawFn, space: SearchSpace) -> Genotype:
    """Return any genotype, canonical or not."""
    return Genotype(tuple(draw(st.integers(0, len(g.settings) - 1)) for g in space.genes))


def menus_of(space: SearchSpace) -> list[range]:
    """Return all entries of each menu."""
    return [range(len(menu)) for menu in space.menus]


def everything(allowed: Sequence[Sequence[int]]) -> Iterator[Entries]:
    """Count out all candidates."""
    return itertools.product(*allowed)
