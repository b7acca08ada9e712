"""Races trials by Ray Tune, each measured part by part until told to stop; imports Ray."""

import contextlib
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from autocompress.errors import EngineError
from autocompress.workers.tune import QUIET, Plan, Share, Values, in_ray, one_line, share_of

if TYPE_CHECKING:
    import optuna
    from ray import tune
    from ray.tune import Trainable
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

Part = Mapping[str, Any]
"""What was measured of a trial's items, as plain data."""

CELL: Final = "cell"
AGAIN: Final = "again"
PLACE: Final = "place of "
"""Before the name of a value that a sampler draws by its place in its menu."""

Choice = bool | int | float | str


class Measuring(Protocol):
    """Measures in a process of the cluster, trial after trial."""

    def measure(self, values: Values, first: int, end: int) -> Part:
        """Return what a trial makes of items `[first, end)`."""


Make = Callable[[Share], Measuring]
"""Makes what measures, once for each process; must be picklable."""


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
class Menu:
    """One value of a trial.

    Args:
        needs: What values drawn before it must be for it to be drawn at all.
    """

    name: str
    values: tuple[Choice, ...]
    needs: Mapping[str, tuple[Choice, ...]]

    def acts(self, values: Values) -> bool:
        """Whether it is drawn beside what was drawn before it."""
        return all(name in values and values[name] in held for name, held in self.needs.items())

    @property
    def is_ordered(self) -> bool:
        """Whether it holds numbers, of which near ones are alike."""
        return not any(isinstance(value, bool | str) for value in self.values)

    @property
    def in_order(self) -> tuple[Any, ...]:
        """The values from the least on."""
        return tuple(sorted(self.values))


@dataclass(frozen=True, slots=True)
class Known:
    """A trial that has ended, and its scores."""

    values: Values
    scores: tuple[float, ...]


def race_trials(
    make: Make,
    looks: Sequence[int],
    menus: Sequence[Menu],
    plan: Plan,
    known: Sequence[Known],
    first: Sequence[Values],
    judge: Judge,
    objectives: int = 1,
) -> None:
    """Run trials until as many are drawn as planned, or the judge says that it is over.

    Args:
        looks: After how many items, in rising order, a trial is judged; the last are all.
        menus: What is drawn of, those that others need before them.
        plan: A grid's `trials` are its first ones, in an order drawn by its seed.
        known: Trials of an earlier run, which count for the plan and are not run again.
        first: Values of trials that are run before any is drawn.
        objectives: How many scores the judge gives.

    Raises:
        EngineError: If the cluster cannot be reached.
    """
    os.environ.update(QUIET)
    with in_ray(plan.address), tempfile.TemporaryDirectory() as folder:
        from ray import tune

        share = share_of(plan.at_once)
        names = [f"score {at}" for at in range(objectives)]
        here = _Here(judge)
        scheduler, teller = _judged(here, len(looks), names)
        space, algorithm, n = _drawing(menus, plan, known, first, here, names)
        if n < 1:
            return
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trainable(), make=make, looks=tuple(looks), share=share),
                {"cpu": share.cpus, "gpu": share.gpus},
            ),
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=algorithm,
                scheduler=scheduler,
                num_samples=n,
                max_concurrent_trials=plan.at_once,
                # A model is loaded once for all trials of a process.
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=folder,
                verbose=0,
                callbacks=[teller],
                stop=_stopper(here),
            ),
        )
        tuner.fit()


class Alone:
    """Measures in one process of the cluster, with all of a node's cores, beside nothing else."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def measure(
        self, values: Values, looks: Sequence[int], told: Callable[[int], None]
    ) -> list[Part]:
        """Measure one trial from each look to the next.

        Args:
            looks: From the first item on, such as (0, 8, 12) for the first twelve in two parts.
            told: Is told after how many items it is.

        Raises:
            EngineError: If it cannot be measured.
        """
        import ray

        parts: list[Part] = []
        try:
            for first, end in itertools.pairwise(looks):
                parts.append(ray.get(self._actor.measure.remote(values, first, end)))
                told(end - looks[0])
        except ray.exceptions.RayTaskError as error:
            raise EngineError(f"Nothing could be measured: {one_line(error.cause)}.") from error
        except ray.exceptions.RayError as error:
            raise EngineError(f"What measures died: {one_line(error)}.") from error
        return parts


@contextlib.contextmanager
def measuring_alone(make: Make, address: str | None) -> Iterator[Alone]:
    """Start a process that measures, and end it.

    Raises:
        EngineError: If the cluster cannot be reached.
    """
    with in_ray(address):
        import ray

        share = share_of(1)
        remote: Any = ray.remote(_Measuring)
        actor = remote.options(num_cpus=share.cpus, num_gpus=share.gpus).remote(make, share)
        try:
            yield Alone(actor)
        finally:
            ray.kill(actor)


class _Here:
    """Holds a judge in this process: what Ray Tune writes down of its work holds none of it."""

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Measuring:
    """Measures in a process of its own."""

    def __init__(self, make: Make, share: Share) -> None:
        self._measuring = make(share)

    def measure(self, values: Values, first: int, end: int) -> Part:
        """Return what a trial makes of items `[first, end)`."""
        return self._measuring.measure(values, first, end)


def _trainable() -> "type[Trainable]":
    """Return the class of trials; Ray must be imported by then."""
    from ray.tune import Trainable

    class Reading(Trainable):
        """A trial: every step reads the items up to the next look."""

        def setup(  # type: ignore[override]  # Ray passes what `with_parameters` was given.
            self,
            config: dict[str, Any],  # noqa: ARG002  # the base's, as further below
            make: Make,
            looks: Sequence[int],
            share: Share,
        ) -> None:
            self._looks = (0, *looks)
            self._error = ""
            try:
                self._measuring = make(share)
            except Exception as error:  # noqa: BLE001  # Told with the first step.
                self._error = one_line(error)

        def step(self) -> dict[str, Any]:
            at = self.iteration
            first, end = self._looks[at], self._looks[at + 1]
            again = self.config.get(AGAIN, False)
            told: dict[str, Any] = {"first": first, "part": "", "error": "", AGAIN: again}
            if again:
                return told
            if self._error:
                return told | {"error": self._error}
            try:
                told["part"] = [self._measuring.measure(_values(self.config), first, end)]
            except Exception as error:  # noqa: BLE001  # The others go on, and it is told.
                told["error"] = one_line(error)
            return told

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Keep nothing: what was measured is told at once."""

        def load_checkpoint(self, checkpoint: Any) -> None:
            """Start anew."""

    return Reading


def _judged(
    here: _Here, n_looks: int, names: Sequence[str]
) -> "tuple[TrialScheduler, tune.Callback]":
    """Return the scheduler that has trials judged, and the callback that scores their results.

    The scheduler sees a copy of each result; the callback that comes after it may change the
    result itself, which the search algorithm learns of at the trial's end.
    """
    from ray import tune
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    verdicts: dict[str, tuple[float, ...]] = {}

    class Judging(FIFOScheduler):
        """Stops trials that are told to."""

        def on_trial_result(
            self,
            tune_controller: "TuneController",  # noqa: ARG002
            trial: "Trial",
            result: dict[str, Any],
        ) -> str:
            values = _values(trial.config)
            if result[AGAIN]:
                verdicts[trial.trial_id] = here.judge.scores_of(values) or ()
                return str(TrialScheduler.STOP)
            if result["error"]:
                here.judge.fail(values, result["error"])
                return str(TrialScheduler.STOP)
            (part,) = result["part"]
            verdict = here.judge.tell(values, result["first"], part)
            verdicts[trial.trial_id] = verdict.scores
            goes_on = verdict.goes_on and result["training_iteration"] < n_looks
            return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    class Teller(tune.Callback):
        """Scores results."""

        def on_trial_result(  # type: ignore[override]  # Ray passes names.
            self, *, trial: "Trial", result: dict[str, Any], **_: Any
        ) -> None:
            result["part"] = ""
            if not result["error"]:
                result.update(zip(names, verdicts[trial.trial_id], strict=True))

        def on_trial_error(  # type: ignore[override]  # Ray passes names.
            self, *, trial: "Trial", **_: Any
        ) -> None:
            here.judge.fail(_values(trial.config), "its process died")

    return Judging(), Teller()  # type: ignore[no-untyped-call]  # Ray left it so.


def _stopper(here: _Here) -> Any:
    from ray.tune import Stopper

    class Over(Stopper):
        """Ends all when what may be spent is spent."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return here.judge.is_over

    return Over()


def _drawing(
    menus: Sequence[Menu],
    plan: Plan,
    known: Sequence[Known],
    first: Sequence[Values],
    here: _Here,
    scores: Sequence[str],
) -> "tuple[dict[str, Any] | None, Searcher | None, int]":
    """Return (space, search algorithm, how often it is asked) as Ray Tune takes them."""
    from ray import tune

    n = plan.trials - len(known)
    if plan.way == "grid":
        done = [dict(own.values) for own in known]
        cells = [cell for cell in cells_of(menus) if cell not in done]
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
        parameters = _drawn_as(menus, own.values)
        study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions={name: _distribution(menus, name) for name in parameters},
                values=list(own.scores),
            )
        )

    def draw(trial: "optuna.Trial") -> dict[str, Any]:
        values: dict[str, Any] = {}
        for menu in menus:
            if not menu.acts(values):
                continue
            if len(menu.values) == 1:
                values[menu.name] = menu.values[0]
            elif menu.is_ordered:
                at = trial.suggest_int(f"{PLACE}{menu.name}", 0, len(menu.values) - 1)
                values[menu.name] = menu.in_order[at]
            else:
                values[menu.name] = trial.suggest_categorical(menu.name, menu.values)
        return {**values, AGAIN: here.judge.scores_of(values) is not None}

    class Drawing(OptunaSearch):
        """Keeps nothing on disk: what was measured is the caller's to keep."""

        def suggest(self, trial_id: str) -> dict[str, Any] | None:
            proposal = here.judge.proposal() if plan.way == "tpe" else None
            if proposal is not None:
                study.enqueue_trial(_drawn_as(menus, proposal))
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
        points_to_evaluate=[_drawn_as(menus, values) for values in first],
    )
    return None, algorithm, n


def cells_of(menus: Sequence[Menu]) -> list[dict[str, Any]]:
    """Return all that a grid over menus holds, the last menu's values changing fastest."""
    cells: list[dict[str, Any]] = [{}]
    for menu in menus:
        cells = [
            {**cell, menu.name: value} if menu.acts(cell) else cell
            for cell in cells
            for value in (menu.values if menu.acts(cell) else menu.values[:1])
        ]
    return cells


def _drawn_as(menus: Sequence[Menu], values: Values) -> dict[str, Any]:
    """Return the parameters by which a sampler knows some values."""
    found: dict[str, Any] = {}
    for menu in menus:
        if len(menu.values) == 1:
            continue
        if menu.name in values and menu.is_ordered:
            found[f"{PLACE}{menu.name}"] = menu.in_order.index(values[menu.name])
        elif menu.name in values:
            found[menu.name] = values[menu.name]
    return found


def _distribution(menus: Sequence[Menu], name: str) -> "optuna.distributions.BaseDistribution":
    import optuna

    menu = next(menu for menu in menus if menu.name == name.removeprefix(PLACE))
    if menu.is_ordered:
        return optuna.distributions.IntDistribution(0, len(menu.values) - 1)
    return optuna.distributions.CategoricalDistribution(menu.values)


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that Ray Tune gave a trial."""
    own = config.get(CELL, config)
    return {
        name: value for name, value in own.items() if name != AGAIN and not name.startswith(PLACE)
    }
