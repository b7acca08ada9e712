"""Makes a strategy by its name."""

from dataclasses import dataclass

from autocompress.search import listed
from autocompress.search.base import Strategy, Task
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.evopress import EvoPressSettings, EvoPressStrategy
from autocompress.search.listed import ListedStrategy, ListSettings, Windows
from autocompress.search.single_changes import Losses
from autocompress.search.steps import Rung

BRUTE_FORCE_RUNGS = (Rung(4, 512), Rung(32, 32), Rung(96, 1))


@dataclass(frozen=True, slots=True)
class RuleScores:
    """What rules say of a model, as data: strategies never see it.

    Args:
        block_influence: ShortGPT's, for every level of every gene.
        windows: Gromov's, the best run of layers of each length.
        weight_error: What each level takes from the weights: an evolution's data-free start.
    """

    block_influence: Losses | None = None
    windows: Windows | None = None
    weight_error: Losses | None = None


NEED_SCORES = ("shortgpt", "cosine")


def make_strategy(
    name: str, task: Task, settings: EvolveSettings, scores: RuleScores | None = None
) -> Strategy:
    """Return a strategy; those of `NEED_SCORES` need their scores, an evolution may have some.

    Raises:
        ValueError: If the name is unknown, or scores are missing.
    """
    once = ListSettings()
    scores = scores or RuleScores()
    match name:
        case "evolve":
            return EvolveStrategy(task, settings, scores.weight_error)
        case "evopress":
            return EvoPressStrategy(task, EvoPressSettings())
        case "additive":
            return ListedStrategy(task, listed.additive, once)
        case "leave-one-out":
            return ListedStrategy(task, listed.leave_one_out, once)
        case "random":
            return ListedStrategy(task, listed.random, once)
        case "uniform":
            return ListedStrategy(task, listed.uniform, once)
        case "brute-force":
            return ListedStrategy(task, listed.brute_force, ListSettings(BRUTE_FORCE_RUNGS))
        case "shortgpt" if scores.block_influence is not None:
            return ListedStrategy(task, listed.by_losses(scores.block_influence), once)
        case "cosine" if scores.windows is not None:
            return ListedStrategy(task, listed.by_windows(scores.windows), once)
    raise ValueError(f"no strategy {name!r} with these scores")
