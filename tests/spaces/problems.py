"""Random spaces with costs and limits, and small ones whose candidates can be counted out."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from autocompress.spaces.base import SearchSpace, make_space
from autocompress.spaces.cost import AdditiveCost, Constraint, under, useful_entries
from autocompress.spaces.moves import Entries
from autocompress.trial import Genotype


@dataclass(frozen=True, slots=True)
class Problem:
    """A constraint that some candidate meets, and the entries that may be taken."""

    constraint: Constraint
    allowed: tuple[tuple[int, ...], ...]

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

    def is_in_space(self, entries: Sequence[int]) -> bool:
        """Whether every site has an entry that may be taken."""
        pairs = zip(entries, self.allowed, strict=True)
        return all(entry in allowed for entry, allowed in pairs)

    def is_filled(self, entries: Sequence[int]) -> bool:
        """Whether no site can be given back within the limit."""
        return not any(
            self.constraint.violation_of([*entries[:site], entry, *entries[site + 1 :]]) <= 0
            for site, allowed in enumerate(self.allowed)
            for entry in allowed[: allowed.index(entries[site])]
        )


@st.composite
def spaces(draw: st.DrawFn, most_layers: int = 6) -> SearchSpace:
    """Return a space with something to choose."""
    depth, width = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    return make_space(
        draw(st.integers(1, most_layers)),
        draw(st.integers(1, 4)),
        draw(st.sampled_from([96, 128, 256])),
        depth=depth,
        width=width,
        ffn_step=32,
        ffn_levels=draw(st.integers(1, 4)),
    )


@st.composite
def costs_of(draw: st.DrawFn, space: SearchSpace) -> AdditiveCost:
    """Return costs that fall with the units kept, sometimes not at all, to 0 or to more."""
    steps = st.floats(0.0, 5.0).map(lambda step: round(step, 2))
    sites = []
    for menu in space.menus:
        falls = draw(st.lists(steps, min_size=len(menu), max_size=len(menu)))
        sites.append(tuple(reversed(list(itertools.accumulate(falls)))))
    return AdditiveCost(draw(st.floats(0.5, 10.0)), tuple(sites))


@st.composite
def problems(draw: st.DrawFn, most_layers: int = 6) -> Problem:
    """Return a problem whose limit lies between the least cost and a little over the dense one."""
    space = draw(spaces(most_layers))
    cost = draw(costs_of(space))
    share = draw(st.floats(0.0, 1.05))
    limit = max(cost.least, cost.least + share * (cost.dense - cost.least))
    return Problem(under(space, cost, limit), useful_entries(cost))


@st.composite
def candidates(draw: st.DrawFn, problem: Problem) -> Entries:
    """Return any candidate of a problem, feasible or not."""
    return tuple(draw(st.sampled_from(allowed)) for allowed in problem.allowed)


@st.composite
def genotypes(draw: st.DrawFn, space: SearchSpace) -> Genotype:
    """Return any genotype, canonical or not."""
    genes = [gene for site in space.sites for gene in site.genes]
    return Genotype(tuple(draw(st.integers(0, len(gene.settings) - 1)) for gene in genes))


def everything(allowed: Sequence[Sequence[int]]) -> Iterator[Entries]:
    """Count out all candidates."""
    return itertools.product(*allowed)
