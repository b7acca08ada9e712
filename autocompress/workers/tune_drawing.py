"""What a race draws next of a space: a grid, or Optuna's samplers; imports Ray."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from autocompress.spaces.decoding import DecodingSpace
from autocompress.workers.tune import Plan, Values
from autocompress.workers.tune_alone import Part

if TYPE_CHECKING:
    import optuna
    from ray.tune.search import Searcher

CELL: Final = "cell"
AGAIN: Final = "again"
PLACE: Final = "place of "
"""Before the name of a value that a sampler draws by its place in its menu."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is thought of a trial after a part.

    Args:
        scores: One for each objective, less being better: what the next draws learn of.
    """

    goes_on: bool
    scores: tuple[float, ...]


class Judge(Protocol):
    """Told, in the driver's process, what trials make of their items."""

    @property
    def is_over(self) -> bool:
        """Whether all are to stop: what may be spent is spent."""

    def scores_of(self, values: Values) -> tuple[float, ...] | None:
        """Return the scores of values that were measured before; they are not measured again."""

    def proposal(self) -> Values | None:
        """Return values to try next in place of what a sampler would draw, or None."""

    def tell(self, values: Values, first: int, part: Part) -> Verdict:
        """Take in what a trial made of the items from `first` on."""

    def fail(self, values: Values, error: str) -> None:
        """Take in why a trial could not be measured."""


@dataclass(frozen=True, slots=True)
class Known:
    """A trial that has ended, and its scores."""

    values: Values
    scores: tuple[float, ...]


class Here:
    """Holds a judge in this process: what Ray Tune writes down of its work holds none of it."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


def drawing(
    space: DecodingSpace,
    plan: Plan,
    known: Sequence[Known],
    first: Sequence[Values],
    here: Here,
    scores: Sequence[str],
) -> "tuple[dict[str, Any] | None, Searcher | None, int]":
    """Return (space, search algorithm, how often it is asked) as Ray Tune takes them."""
    from ray import tune

    n = plan.trials - len(known)
    if plan.way == "grid":
        done = [dict(own.values) for own in known]
        cells = [cell for cell in map(space.values, space.all()) if cell not in done]
        order = np.random.default_rng(plan.seed).permutation(len(cells))
        left = [dict(values) for values in first if dict(values) not in done]
        left += [cells[at] for at in order if cells[at] not in left]
        return {CELL: tune.grid_search(left[:n])}, None, min(1, len(left), n)
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    # What is known leads a sampler elsewhere, if it does not begin with the same draws.
    seed = plan.seed + len(known)
    sampler: optuna.samplers.BaseSampler
    if plan.way == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=plan.at_once > 1
        )
    modes = ["min"] * len(scores)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        study_name="optuna",
        directions=["minimize"] * len(scores),
    )
    for own in known:
        parameters = _drawn_as(space, own.values)
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions={name: _distribution(space, name) for name in parameters},
                values=list(own.scores),
            )
        )

    def draw(trial: "optuna.Trial") -> dict[str, Any]:
        values: dict[str, Any] = {}
        for own in space.parameters:
            if not own.acts(values):
                continue
            if len(own.menu) == 1:
                values[own.name] = own.menu[0]
            elif own.is_ordered:
                at = trial.suggest_int(f"{PLACE}{own.name}", 0, len(own.menu) - 1)
                values[own.name] = own.in_order[at]
            else:
                values[own.name] = trial.suggest_categorical(own.name, own.menu)
        return {**values, AGAIN: here.judge.scores_of(values) is not None}

    class Drawing(OptunaSearch):
        """Keeps nothing on disk: what was measured is the caller's to keep."""

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            proposal = here.judge.proposal() if plan.way == "tpe" else None
            if proposal is not None:
                study.enqueue_trial(_drawn_as(space, proposal))
            suggested: dict[str, Any] | None = super().suggest(trial_id)
            return suggested

        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

    algorithm = Drawing(
        draw,
        metric=list(scores),
        mode=modes,
        sampler=sampler,
        storage=storage,
        points_to_evaluate=[_drawn_as(space, values) for values in first],
    )
    return None, algorithm, n


def _drawn_as(space: DecodingSpace, values: Values) -> dict[str, Any]:
    """Return the parameters by which a sampler knows some values."""
    found: dict[str, Any] = {}
    for own in space.parameters:
        if len(own.menu) == 1:
            continue
        if own.name in values and own.is_ordered:
            found[f"{PLACE}{own.name}"] = own.in_order.index(values[own.name])
        elif own.name in values:
            found[own.name] = values[own.name]
    return found


def _distribution(space: DecodingSpace, name: str) -> "optuna.distributions.BaseDistribution":
    import optuna

    own = next(own for own in space.parameters if own.name == name.removeprefix(PLACE))
    if own.is_ordered:
        return optuna.distributions.IntDistribution(0, len(own.menu) - 1)
    return optuna.distributions.CategoricalDistribution(own.menu)


def values_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that Ray Tune gave a trial."""
    own = config.get(CELL, config)
    return {
        name: value for name, value in own.items() if name != AGAIN and not name.startswith(PLACE)
    }
