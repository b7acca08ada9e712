"""Races trials by Ray Tune, each measured part by part until told to stop; imports Ray."""

import os
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autocompress.spaces.decoding import DecodingSpace
from autocompress.workers.tune import QUIET, Plan, Share, Values, in_ray, one_line, share_of
from autocompress.workers.tune_alone import Make
from autocompress.workers.tune_drawing import AGAIN, Here, Judge, Known, drawing, values_of

if TYPE_CHECKING:
    from ray import tune
    from ray.tune import Trainable
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import TrialScheduler


def race_trials(
    make: Make,
    looks: Sequence[int],
    space: DecodingSpace,
    plan: Plan,
    known: Sequence[Known],
    first: Sequence[Values],
    judge: Judge,
    objectives: int = 1,
) -> None:
    """Run trials until as many are drawn as planned, or the judge says that it is over.

    Args:
        looks: After how many items, in rising order, a trial is judged; the last are all.
        space: What is drawn of.
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
        here = Here(judge)
        scheduler, teller = _judged(here, len(looks), names)
        cells, algorithm, n = drawing(space, plan, known, first, here, names)
        if n < 1:
            return
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trainable(), make=make, looks=tuple(looks), share=share),
                {"cpu": share.cpus, "gpu": share.gpus},
            ),
            param_space=cells,
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
                told["part"] = [self._measuring.measure(values_of(self.config), first, end)]
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
    here: Here, n_looks: int, names: Sequence[str]
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
            values = values_of(trial.config)
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
            here.judge.fail(values_of(trial.config), "its process died")

    return Judging(), Teller()  # type: ignore[no-untyped-call]  # Ray left it so.


def _stopper(here: Here) -> Any:
    from ray.tune import Stopper

    class Over(Stopper):
        """Ends all when what may be spent is spent."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return here.judge.is_over

    return Over()
