"""Makes a strategy by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from autocompress.search import breeding, listed
from autocompress.search.base import Strategy, Task
from autocompress.search.bayes import WAYS, Axes, BayesStrategy
from autocompress.search.darwin import DarwinSettings, DarwinStrategy
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.evopress import EvoPressStrategy, Trade, evopress_settings
from autocompress.search.listed import ListedStrategy, ListSettings, Windows
from autocompress.search.owl import by_owl
from autocompress.search.pareto import ParetoSettings, ParetoStrategy
from autocompress.search.single_changes import Losses
from autocompress.search.steps import Rung

BREEDERS: Final[Mapping[str, breeding.Breeder]] = {
    "pareto": breeding.by_nsga2,
    "pareto-nsga2": breeding.by_nsga2,
    "pareto-map-elites": breeding.by_map_elites,
    "pareto-snes": breeding.by_snes,
}
BRUTE_FORCE_RUNGS = (Rung(4, 512), Rung(32, 32), Rung(96, 1))
FROM_SINGLE_CHANGES: Final = (
    "evolve",
    "darwin",
    *BREEDERS,
    *(name for name, way in WAYS.items() if way.axes is not Axes.LEVELS),
)
"""Strategies that go on from the additive solution, over measured losses or a rule's."""


@dataclass(frozen=True, slots=True)
class RuleScores:
    """What rules say of a model, as data: strategies never see it.

    Args:
        block_influence: ShortGPT's, for every level of every gene.
        windows: Gromov's, the best run of layers of each length.
        by_rule: Losses of single changes by the rules of other tools, by strategy name.
        outlier_shares: OWL's, for every layer, by the multiple that makes an outlier.
        start: Losses of single changes by a rule, for a search that goes on from such.
        tokens: Of the text that was read for any of it, once for each forward pass's worth of
            computing.
    """

    block_influence: Losses | None = None
    windows: Windows | None = None
    start: Losses | None = None
    by_rule: Mapping[str, Losses] = field(default_factory=dict)
    outlier_shares: Mapping[float, Sequence[float]] = field(default_factory=dict)
    tokens: int = 0


def make_strategy(
    name: str,
    task: Task,
    settings: EvolveSettings,
    scores: RuleScores | None = None,
    darwin: DarwinSettings | None = None,
) -> Strategy:
    """Return a strategy; those that go by rules need their scores, others may start from some.

    Args:
        darwin: How candidates are trained that are picked for what they lose afterwards.

    Raises:
        SpecError: If it needs a package that is not there.
        ValueError: If the name is unknown, or scores are missing.
    """
    once = ListSettings()
    scores = scores or RuleScores()
    match name:
        case "evolve":
            return EvolveStrategy(task, settings, scores.start)
        case "darwin" if darwin is not None:
            return DarwinStrategy(task, settings, darwin, scores.start)
        case "evopress" | "evopress-fast" | "evopress-free" | "evopress-fast-free":
            trade = Trade.NONE if name.endswith("free") else Trade.SIZE
            settings_ = evopress_settings(task.space, fast="fast" in name, trade=trade)
            return EvoPressStrategy(task, settings_)
        case way if way in WAYS:
            return BayesStrategy(task, WAYS[way], scores.start)
        case breeder if breeder in BREEDERS:
            own = ParetoSettings(generations=settings.generations, patience=settings.patience)
            return ParetoStrategy(task, own, BREEDERS[breeder], scores.start)
        case "additive":
            return ListedStrategy(task, listed.additive, once)
        case "leave-one-out":
            return ListedStrategy(task, listed.leave_one_out, once)
        case "random":
            return ListedStrategy(task, listed.random, ListSettings(heeds_limits=True))
        case "uniform":
            return ListedStrategy(task, listed.uniform, once)
        case "given" if task.extra:
            return ListedStrategy(task, listed.given, once)
        case "brute-force":
            by_rungs = ListSettings(BRUTE_FORCE_RUNGS, heeds_limits=True)
            return ListedStrategy(task, listed.brute_force, by_rungs)
        case "weight-error" | "fisher" if name in scores.by_rule:
            return ListedStrategy(task, listed.by_knapsack(scores.by_rule[name]), once)
        case "owl" if scores.outlier_shares:
            return ListedStrategy(task, by_owl(scores.outlier_shares), once)
        case "shortgpt" if scores.block_influence is not None:
            return ListedStrategy(task, listed.by_losses(scores.block_influence), once)
        case "cosine" if scores.windows is not None:
            return ListedStrategy(task, listed.by_windows(scores.windows), once)
    raise ValueError(f"no strategy {name!r} with these scores")
