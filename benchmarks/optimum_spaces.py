"""The spaces of benchmarks/optimum.py that are small enough to be measured whole."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autocompress.models.architecture import Architecture
from autocompress.search.base import Task
from autocompress.search.single_changes import uniform_candidates
from autocompress.spaces.base import Entries, Gene, GeneKind, SearchSpace, Site, SiteKind
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit, under
from autocompress.spaces.making import make_space
from autocompress.trial import Genotype

DROPPED = {SiteKind.ATTENTION: 3, SiteKind.MLP: 2}
# A latency that no machine has, in whole numbers, so that it is known exactly who meets a limit:
# of an attention that is there or dropped, of an MLP that is whole, a third, or dropped.
ATTENTION_COSTS = (10.0, 0.0)
MLP_COSTS = (12.0, 7.0, 0.0)
SAVED = 26.0


@dataclass(frozen=True, slots=True)
class EnumeratedSpace:
    """A constraint and all that a search under it may end with.

    Args:
        members: (configurations, sites) menu entries of every candidate that meets the limits and
            uses its budget: no site can be given back to an entry that keeps more.
    """

    name: str
    title: str
    constraint: Constraint
    members: np.ndarray

    @property
    def genotypes(self) -> list[Genotype]:
        """The members in the order of their levels, so that siblings are neighbours."""
        rows = (tuple(map(int, row)) for row in self.members)
        return sorted(map(self.constraint.space.genotype, rows), key=lambda g: g.levels)

    @property
    def strangers(self) -> list[Genotype]:
        """What a search measures beside members: single changes, and a uniform start with slack.

        They are no more than stepping stones: the space's optimum is sought among its members.
        """
        space = self.constraint.space
        changes = [
            space.dense.with_level(gene, level)
            for gene, levels in enumerate(self.constraint.useful_levels())
            for level in levels
            if level
        ]
        uniform = uniform_candidates(Task(self.constraint, seed=0, context=1, available=1))[:1]
        known = set(self.genotypes)
        return [g for g in (*changes, *uniform) if g not in known]


def enumerated_spaces(architecture: Architecture) -> list[EnumeratedSpace]:
    """Return both spaces of a model's shape."""
    return [drops(architecture), widths(architecture)]


def drops(architecture: Architecture) -> EnumeratedSpace:
    """Drop exactly 3 attention and 2 MLP sub-blocks of all layers."""
    space = make_space(
        architecture.n_layers,
        architecture.kv_groups,
        architecture.ffn_columns,
        depth=True,
        width=False,
    )
    limits, sets = [], []
    for kind, n in DROPPED.items():
        own = [i for i, site in enumerate(space.sites) if site.kind is kind]
        costs = tuple((1.0, 0.0) if i in own else (0.0, 0.0) for i in range(len(space.sites)))
        # The fixed part keeps a limit from being 0, of which nothing is a share.
        limits.append(Limit(AdditiveCost(1.0, costs), 1.0 + len(own) - n))
        sets.append(list(itertools.combinations(own, n)))
    both = [(*first, *second) for first, second in itertools.product(*sets)]
    members = np.zeros((len(both), len(space.sites)), dtype=np.uint8)
    np.put_along_axis(members, np.asarray(both), 1, axis=1)
    title = " and ".join(f"{n} {kind.value}" for kind, n in DROPPED.items())
    return EnumeratedSpace(
        "drops", f"{title} sub-blocks dropped", Constraint(space, tuple(limits)), members
    )


def widths(architecture: Architecture) -> EnumeratedSpace:
    """Take a tenth of a made-up latency from any layers, which may be narrowed or dropped.

    All sites of a kind have one menu: a mutation exchanges their entries.
    """
    groups, columns = architecture.kv_groups, architecture.ffn_columns
    attention = (Gene(GeneKind.WIDTH, (groups, 0)),)
    mlp = (Gene(GeneKind.WIDTH, (columns, columns // 3, 0)),)
    space = SearchSpace(
        tuple(
            site
            for layer in range(architecture.n_layers)
            for site in (
                Site(layer, SiteKind.ATTENTION, groups, attention),
                Site(layer, SiteKind.MLP, columns, mlp),
            )
        )
    )
    costs = (ATTENTION_COSTS, MLP_COSTS) * architecture.n_layers
    cost = AdditiveCost(0.0, costs)
    title = (
        f"latency {cost.dense:g} to {cost.dense - SAVED:g}, where an attention costs "
        f"{ATTENTION_COSTS[0]:g} and an MLP {MLP_COSTS[0]:g}, or {MLP_COSTS[1]:g} with a third of "
        "its columns"
    )
    constraint = under(space, cost, cost.dense - SAVED)
    return EnumeratedSpace("widths", title, constraint, _maximal(costs))


def _maximal(costs: Sequence[Sequence[float]]) -> np.ndarray:
    """Count out the candidates that save enough, and less with any site given back."""
    found = []

    def extend(entries: Entries, saved: float, least_step: float) -> None:
        if saved >= SAVED:
            # With one site more, that one could be given back.
            if saved - least_step < SAVED:
                found.append(entries + (0,) * (len(costs) - len(entries)))
        elif len(entries) < len(costs):
            own = costs[len(entries)]
            for entry, cost in enumerate(own):
                step = min((lighter - cost for lighter in own[:entry]), default=least_step)
                extend((*entries, entry), saved + own[0] - cost, min(least_step, step))

    extend((), 0.0, math.inf)
    return np.asarray(found, dtype=np.uint8)
