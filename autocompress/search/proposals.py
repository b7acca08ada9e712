"""Optuna's samplers and its pruner: what to try next, and what to read on.

The study lies in memory and is no record: a search that is resumed asks and tells all of it again.
"""

import enum
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autocompress.errors import SpecError
from autocompress.search.coordinates import Dimension, Point

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler


class Sampler(enum.Enum):
    """How the next point is chosen."""

    TPE = "tree-structured Parzen estimators"
    GP = "a Gaussian process"
    CMAES = "CMA-ES"


@dataclass(frozen=True, slots=True)
class Halving:
    """Successive halving: a share goes on, reading so many times as much.

    Args:
        first: Sequences that all read.
        factor: Of the sequences from rung to rung; one in so many goes on.
        rungs: At least one.
    """

    first: int = 4
    factor: int = 3
    rungs: int = 3

    @property
    def ends(self) -> tuple[int, ...]:
        """Sequences read by the end of each rung."""
        return tuple(self.first * self.factor**rung for rung in range(self.rungs))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A point to be tried, and what Optuna knows it by."""

    number: int
    point: Point
    trial: "Trial"


def missing_packages(sampler: Sampler) -> list[str]:
    """Return which of the packages that a sampler needs are not there."""
    needed = ("optuna", "cmaes") if sampler is Sampler.CMAES else ("optuna",)
    return [name for name in needed if importlib.util.find_spec(name) is None]


def check_packages(sampler: Sampler) -> None:
    """Make sure that what a sampler needs is there.

    Raises:
        SpecError: If it is not.
    """
    missing = missing_packages(sampler)
    if missing:
        raise SpecError(
            f"strategy: {sampler.value} by Optuna needs {' and '.join(missing)}: run "
            "`pip install 'autocompress[bayes]'`."
        )


class Proposals:
    """One study of Optuna's, less being better.

    Several points may be out at a time. What is told of one is the logarithm of a loss: losses
    of bad points are many times those of good ones, of which a Gaussian process would see none.

    Raises:
        SpecError: If a package is missing.
    """

    def __init__(
        self, sampler: Sampler, dimensions: Sequence[Dimension], halving: Halving, seed: int
    ) -> None:
        check_packages(sampler)
        import optuna
        from optuna.distributions import FloatDistribution, IntDistribution

        # It would write a line for each study.
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._failed = optuna.trial.TrialState.FAIL
        self._space: dict[str, BaseDistribution] = {
            f"{index:04}": IntDistribution(int(own.low), int(own.high))
            if own.is_whole
            else FloatDistribution(own.low, own.high)
            for index, own in enumerate(dimensions)
        }
        self._study = optuna.create_study(
            study_name="search",
            sampler=_sampler(sampler, seed),
            # Of all that ever read so far, not of a batch: a batch of bad ones ends at once.
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=halving.first, reduction_factor=halving.factor
            ),
        )

    def begin_with(self, point: Point) -> None:
        """Propose a point before any other."""
        self._study.enqueue_trial(dict(zip(self._space, point, strict=True)))

    def ask(self) -> Proposal:
        """Return what to try next, knowing what is out."""
        trial = self._study.ask(self._space)
        point = tuple(float(trial.params[name]) for name in self._space)
        return Proposal(trial.number, point, trial)

    def goes_on(self, proposal: Proposal, sequences: int, loss: float) -> bool:
        """Whether a point is among the best of all that have read as much."""
        proposal.trial.report(loss, sequences)
        return not proposal.trial.should_prune()

    def tell(self, proposal: Proposal, log_loss: float) -> None:
        """Take what came of a point; if it is no number, the point failed."""
        if math.isfinite(log_loss):
            self._study.tell(proposal.trial, log_loss)
        else:
            self._study.tell(proposal.trial, state=self._failed)


def _sampler(sampler: Sampler, seed: int) -> "BaseSampler":
    from optuna import samplers

    match sampler:
        case Sampler.TPE:
            return samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        case Sampler.GP:
            return samplers.GPSampler(seed=seed)
        case Sampler.CMAES:
            return samplers.CmaEsSampler(seed=seed)
