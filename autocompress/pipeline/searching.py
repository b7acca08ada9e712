"""Searches until the measured winner meets the target, correcting the constraint in between."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass

from autocompress.errors import EvaluationError, UnreachableTarget
from autocompress.export.report import Correction, Progress
from autocompress.pipeline.latency import MeasuredSpeedup
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import time_limit
from autocompress.search.base import Batch, Strategy, Task
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings, settings_for
from autocompress.search.strategies import RuleScores, make_strategy
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit
from autocompress.store.base import Event, StudyStore
from autocompress.trial import Fidelity, Genotype, Split, Trial

# The first constraint asks for this much more than the target: about what the interval of an
# end-to-end measurement is wide on a quiet machine. A miss is corrected from the measurement.
MARGIN = 1.02
MOST_CORRECTIONS = 4
FINALISTS = 6
SELECTION_SEQUENCES = 96
# After a correction the search starts from a repaired winner: it needs fewer generations.
GENERATIONS_AFTER = 12
PATIENCE_AFTER = 1

Measure = Callable[[Genotype], MeasuredSpeedup]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ended with.

    Args:
        speedup: Measured end to end.
        task: With the last constraint: what the baselines have to meet too.
        history: Of the last evolution; losses under another constraint do not compare.
    """

    winner: Genotype
    speedup: MeasuredSpeedup
    task: Task
    corrections: tuple[Correction, ...]
    history: tuple[Progress, ...]
    generations: int
    stopped_because: str


@dataclass(frozen=True, slots=True)
class Timed:
    """A speedup to be met: the latency model's costs, and the fastest that they promise."""

    cost: AdditiveCost
    target: float
    fastest: float


def search(
    prepared: Prepared,
    limits: tuple[Limit, ...],
    timed: Timed | None,
    driver: SearchDriver,
    store: StudyStore,
    first: tuple[Genotype, ...],
    scores: RuleScores,
    measure: Measure,
    observer: Observer,
) -> Found:
    """Run evolutions, each under a tighter constraint, until the measured median meets the target.

    With an imported latency table the clock decides nothing: one evolution, no correction. So it
    is without a speedup to be met: the winner is timed all the same.

    Args:
        limits: On what is stored.
        first: Candidates known from elsewhere, for the first parents.
        scores: What the strategy needs to know of the dense model beforehand.
    """
    spec, space = prepared.spec, prepared.space
    started = time.monotonic()
    target_used = 1.0 if timed is None else min(timed.target * MARGIN, timed.fastest)
    corrections: list[Correction] = []
    extra = first
    spent = Progress(tokens=0, seconds=0.0, generation=0, loss=0.0)
    phase = 0
    while True:
        of_time: tuple[Limit, ...] = ()
        if timed is not None:
            of_time = (time_limit(timed.cost, target_used, timed.fastest, spec.space),)
        task = Task(
            Constraint(space, (*of_time, *limits)),
            spec.seed,
            spec.context,
            len(prepared.sequences[Split.SEARCH]),
            phase,
            None if spec.max_tokens is None else max(0, spec.max_tokens - spent.tokens),
            _stopper(store, phase, spec.budget_seconds if phase == 0 else None),
            extra,
        )
        settings = settings_for(task.allowed)
        if phase:
            settings = dataclasses.replace(
                settings, generations=GENERATIONS_AFTER, patience=PATIENCE_AFTER
            )
        strategy = make_strategy(spec.strategy, task, settings, scores)
        observer.stage("search" if phase == 0 else f"search, correction {phase}")
        history = _run(strategy, timed, space, driver, observer, spent, started)
        standing = strategy.standing()
        spent = Progress(
            spent.tokens + standing.tokens,
            time.monotonic() - started,
            spent.generation + standing.generation,
            standing.loss,
        )
        winner = _select(prepared, driver, strategy, task, observer)
        observer.stage("end-to-end latency")
        speedup = _measured(store, phase, winner, measure)
        observer.tell("measured", {"speedup": speedup.median, "target": spec.target_speedup})
        if (
            timed is None
            or speedup.median >= timed.target
            or prepared.imported is not None
            or phase >= MOST_CORRECTIONS
            or target_used >= timed.fastest
        ):
            return Found(
                winner,
                speedup,
                task,
                tuple(corrections),
                history,
                spent.generation,
                strategy.stopped_because,
            )
        tighter = min(target_used * MARGIN * timed.target / speedup.median, timed.fastest)
        corrections.append(Correction(timed.target, tighter, speedup.median))
        observer.tell("correction", {"measured": speedup.median, "target_used": tighter})
        target_used = tighter
        extra = (winner,)
        phase += 1


def baseline(name: str, task: Task, driver: SearchDriver) -> Genotype | None:
    """Return what a simple strategy finds under a task's constraint; None if it finds nothing."""
    try:
        strategy = make_strategy(name, task, EvolveSettings())
        driver.run(strategy, lambda: None)
    except UnreachableTarget:
        return None
    return strategy.standing().best


def _run(
    strategy: Strategy,
    timed: Timed | None,
    space: SearchSpace,
    driver: SearchDriver,
    observer: Observer,
    before: Progress,
    started: float,
) -> tuple[Progress, ...]:
    """Run one search; return the best loss after each generation, from the first parent on."""
    history: list[Progress] = []

    def after_batch() -> None:
        standing = strategy.standing()
        generation = before.generation + standing.generation
        if standing.best is None or (history and generation == history[-1].generation):
            return
        now = Progress(
            before.tokens + standing.tokens,
            time.monotonic() - started,
            generation,
            standing.loss,
        )
        history.append(now)
        predicted = None
        if timed is not None:
            predicted = timed.cost.dense / timed.cost.of(space.entries(standing.best))
        observer.tell(
            "generation",
            {
                "generation": now.generation,
                "generations": before.generation + standing.generations,
                "loss": now.loss,
                "predicted_speedup": predicted,
                "tokens": now.tokens,
                "seconds": now.seconds,
            },
        )

    driver.run(strategy, after_batch)
    return tuple(history)


def _select(
    prepared: Prepared,
    driver: SearchDriver,
    strategy: Strategy,
    task: Task,
    observer: Observer,
) -> Genotype:
    """Return the best finalist on text that the search has not read.

    An evolution must not end below the simple candidates that it began with: they are finalists.
    """
    observer.stage("selection of the winner")
    candidates = strategy.finalists(FINALISTS)
    if prepared.spec.strategy == "evolve":
        named = [baseline(name, task, driver) for name in ("additive", "uniform")]
        candidates += [genotype for genotype in named if genotype is not None]
    n = min(SELECTION_SEQUENCES, len(prepared.sequences[Split.SELECTION]))
    reading = Fidelity(Split.SELECTION, 0, 0, n)
    trials: list[Trial] = driver.measure(Batch(tuple(dict.fromkeys(candidates)), reading))
    best = min(trials, key=lambda trial: (trial.loss, trial.genotype.levels))
    if best.measurement is None:
        raise EvaluationError(f"All finalists failed; the first: {trials[0].error}")
    return best.genotype


def _stopper(store: StudyStore, phase: int, budget: float | None) -> Callable[[int], str | None]:
    """Return what ends an evolution by the clock; a recorded end is replayed, not decided."""
    known = {
        (event.payload["phase"], event.payload["generation"]): str(event.payload["reason"])
        for event in store.events()
        if event.kind == "stop"
    }
    decided = any(key[0] == phase for key in known)
    started = time.monotonic()

    def stop(generation: int) -> str | None:
        if decided:
            return known.get((phase, generation))
        if budget is None or time.monotonic() - started < budget:
            return None
        reason = f"the budget of {budget:g} seconds ran out"
        store.add_event(
            Event("stop", {"phase": phase, "generation": generation, "reason": reason})
        )
        return reason

    return stop


def _measured(
    store: StudyStore, phase: int, winner: Genotype, measure: Measure
) -> MeasuredSpeedup:
    """Return the recorded measurement of a phase's winner, or measure and record it."""
    for event in store.events():
        if event.kind == "measured" and event.payload["phase"] == phase:
            known = event.payload
            return MeasuredSpeedup(
                _number(known["median"]),
                (_number(known["low"]), _number(known["high"])),
                (_number(known["dense"]), _number(known["compressed"])),
            )
    speedup = measure(winner)
    store.add_event(
        Event(
            "measured",
            {
                "phase": phase,
                "genotype": winner.key,
                "median": speedup.median,
                "low": speedup.interval[0],
                "high": speedup.interval[1],
                "dense": speedup.milliseconds[0],
                "compressed": speedup.milliseconds[1],
            },
        )
    )
    return speedup


def _number(value: object) -> float:
    return float(str(value))
