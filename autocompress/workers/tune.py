"""Runs trials that are few and long side by side, by Ray Tune's search algorithms; imports Ray.

Candidates of one search are many and short: these are what `RayPool` is for.
"""

import contextlib
import importlib.util
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from autocompress.errors import EngineError
from autocompress.workers.ray_pool import enter_ray, living_nodes

if TYPE_CHECKING:
    from ray.tune import Result
    from ray.tune.experiment import Trial

WAYS: Final = ("grid", "random", "tpe")
QUIET: Final = {
    # Ray Tune prints tables of its own, and takes Ctrl-C for a wish to end the trial after this.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Scores come after results, from who judges them.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included.

    Args:
        is_log: Whether as many are drawn from each tenfold.
    """

    low: float
    high: float
    is_whole: bool = False
    is_log: bool = False


CELL: Final = "cell"

Varied = Mapping[str, tuple[object, ...] | Range]
"""What each value may be: one of several, or a number of a range."""
Values = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial: a score, less being better, or why there is none."""

    values: Values
    score: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How trials are run.

    Args:
        way: One of `WAYS`; a grid holds no ranges.
        trials: How many are drawn; a grid runs all that it holds.
        at_once: How many run at a time, each with as large a share of the cluster.
        address: `host:port` of a running cluster to join; None starts Ray on this machine.
    """

    way: str
    trials: int
    at_once: int
    seed: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """What a trial has of the cluster."""

    cpus: int
    gpus: float


Run = Callable[[Values, Share], float]
"""Runs one trial in a process of the cluster and returns its score; must be picklable."""


def check_packages() -> None:
    """Make sure that what Ray Tune needs is there.

    Raises:
        ModuleNotFoundError: If it is not.
    """
    for name in ("optuna", "pandas", "pyarrow", "tensorboardX"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)


def run_trials(
    run: Run,
    varied: Varied,
    plan: Plan,
    known: Sequence[tuple[Values, float]],
    told: Callable[[Outcome], None],
) -> list[Outcome]:
    """Run trials to their ends; one that fails leaves the others be.

    Args:
        known: Trials of earlier, and their scores: what is drawn next may learn of them, and as
            many fewer are drawn.
        told: Is told each outcome as it comes, in this process.

    Raises:
        EngineError: If the cluster cannot be reached.
    """
    os.environ.update(QUIET)
    with in_ray(plan.address), tempfile.TemporaryDirectory() as folder:
        from ray import tune

        share = share_of(plan.at_once)

        class Teller(tune.Callback):
            """Passes on what comes of trials."""

            def on_trial_complete(  # type: ignore[override]  # Ray passes names.
                self, *, trial: "Trial", **_: Any
            ) -> None:
                told(_outcome(trial.config, trial.last_result))

        def once(config: dict[str, Any]) -> None:
            try:
                tune.report({"score": run(_values(config), share), "error": ""})
            except Exception as error:  # noqa: BLE001  # The others go on, and it is told.
                tune.report({"score": math.inf, "error": f"{one_line(error)}"})

        space, algorithm, n = _drawing(varied, plan, known)
        if n < 1:
            return []
        tuner = tune.Tuner(
            tune.with_resources(once, {"cpu": share.cpus, "gpu": share.gpus}),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="score",
                mode="min",
                search_alg=algorithm,
                num_samples=n,
                max_concurrent_trials=plan.at_once,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[Teller()]),
        )
        found = tuner.fit()
        return [_ended(found[index]) for index in range(len(found))]


def _ended(result: "Result") -> Outcome:
    if result.error is not None:
        # Its process died: what a trial raises is reported.
        return Outcome(_values(result.config or {}), None, one_line(result.error))
    return _outcome(result.config or {}, result.metrics or {})


def _outcome(config: Mapping[str, Any], reported: Mapping[str, Any]) -> Outcome:
    if reported["error"]:
        return Outcome(_values(config), None, str(reported["error"]))
    return Outcome(_values(config), float(reported["score"]), None)


@contextlib.contextmanager
def in_ray(address: str | None) -> Iterator[None]:
    """Start Ray on this machine or join a cluster, and leave it at the end.

    Where this process was in already, it stays.
    """
    has_entered = enter_ray(address)
    import ray

    try:
        yield
    finally:
        if has_entered:
            ray.shutdown()


def share_of(at_once: int) -> Share:
    """Return an equal share of what the cluster holds, on one node.

    Raises:
        EngineError: If no node holds so much as a CPU.
    """
    nodes = living_nodes()
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    gpus = [float(node.get("GPU", 0)) for node in nodes]
    if max(cpus, default=0) < 1:
        raise EngineError("The Ray cluster holds no node with a CPU to give.")
    share = sum(gpus) / at_once
    return Share(
        max(1, min(max(cpus), sum(cpus) // at_once)),
        min(max(gpus), share if share < 1 else float(int(share))),
    )


def _drawing(
    varied: Varied, plan: Plan, known: Sequence[tuple[Values, float]]
) -> tuple[dict[str, Any] | None, Any, int]:
    """Return (space, search algorithm, how often it is asked) as Ray Tune takes them."""
    from ray import tune

    if plan.way == "grid":
        done = [dict(values) for values, _ in known]
        # What is left of a grid is no grid: its cells are named one by one.
        left = [values for values in grid_of(varied) if values not in done]
        return {CELL: tune.grid_search(left)}, None, 1 if left else 0
    import optuna
    from optuna import distributions
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space: dict[str, Any] = {}
    for name, menu in varied.items():
        if not isinstance(menu, Range):
            space[name] = distributions.CategoricalDistribution(cast(Any, menu))
        elif menu.is_whole:
            low, high = int(menu.low), int(menu.high)
            space[name] = distributions.IntDistribution(low, high, log=menu.is_log)
        else:
            space[name] = distributions.FloatDistribution(menu.low, menu.high, log=menu.is_log)
    # At random they are drawn as before, and those that are known take no time to be found. What
    # is known leads TPE elsewhere, if it does not begin with the same draws.
    n = plan.trials
    sampler: optuna.samplers.BaseSampler
    if plan.way == "random":
        sampler = optuna.samplers.RandomSampler(seed=plan.seed)
    else:
        n -= len(known)
        sampler = optuna.samplers.TPESampler(seed=plan.seed + len(known))
    points: dict[str, Any] = {}
    if plan.way == "tpe" and known:
        points["points_to_evaluate"] = [dict(values) for values, _ in known]
        points["evaluated_rewards"] = [score for _, score in known]
    algorithm = OptunaSearch(space, metric="score", mode="min", sampler=sampler, **points)
    return None, algorithm, n


def grid_of(varied: Varied) -> list[dict[str, object]]:
    """Return all that a grid holds, the last name varying fastest."""
    cells: list[dict[str, object]] = [{}]
    for name, menu in varied.items():
        if isinstance(menu, Range):
            raise TypeError(f"a grid holds no range, but {name} is one")
        cells = [{**cell, name: value} for cell in cells for value in menu]
    return cells


def _values(config: Mapping[str, Any]) -> dict[str, object]:
    """Return the values that Ray Tune gave a trial."""
    return dict(config.get(CELL, config))


def one_line(error: BaseException) -> str:
    """Return what an error says."""
    return " ".join(str(error).split()) or type(error).__name__
