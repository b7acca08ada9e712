"""Searches until a measured winner meets the target, correcting the constraint in between."""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from autocompress.errors import EvaluationError, SpecError, UnreachableTarget
from autocompress.export.report import Correction, Progress
from autocompress.models import text
from autocompress.pipeline.aiming import (
    Attempt,
    Reached,
    Timed,
    best_attempt,
    next_aim,
    next_share,
)
from autocompress.pipeline.easing import Losses, ease
from autocompress.pipeline.measured_speedup import MeasuredSpeedup, Pair
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import time_limit
from autocompress.pipeline.time_spent import TimeSpent
from autocompress.search.base import Batch, Strategy, Task, go_on
from autocompress.search.darwin import DarwinSettings
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings, settings_for
from autocompress.search.steps import Rung
from autocompress.search.strategies import FROM_SINGLE_CHANGES, RuleScores, make_strategy
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import Constraint, Limit
from autocompress.spec import SearchSpec, read_rung
from autocompress.store.base import Event, StudyStore
from autocompress.trial import Fidelity, Genotype, Split, Trial

FINALISTS = 6
SELECTION_SEQUENCES = 96
EASING_SEQUENCES = 32
"""Of those, what tells which levels of a winner lose most."""
# After a correction the search starts from a repaired winner: it needs fewer generations.
GENERATIONS_AFTER = 12
PATIENCE_AFTER = 1

TAKEN = "search seconds"
"""What a search with a budget has taken by the end of a generation, in runs that ended too."""

Measure = Callable[[Genotype], MeasuredSpeedup]


@dataclass(frozen=True, slots=True)
class Room:
    """A target in memory.

    Args:
        most: Bytes that serving may hold.
        held: Measures those that serving a candidate holds; None where the system does not tell.
    """

    most: float
    held: Callable[[Genotype], int | None]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search ended with.

    Args:
        speedup: Measured end to end; None where nothing was timed.
        task: The winner's: what the baselines have to meet too.
        finalists: All winners that were measured.
        history: Of the search that found it; losses under another constraint do not compare.
        stopped_because: Why that search ended.
        held: Bytes that serving it holds; None where memory was no target.
        tokens_of_rules: Read before the search, for what rules say of the dense model.
    """

    winner: Genotype
    speedup: MeasuredSpeedup | None
    task: Task
    corrections: tuple[Correction, ...]
    history: tuple[Progress, ...]
    generations: int
    stopped_because: str
    finalists: tuple[tuple[Genotype, MeasuredSpeedup], ...] = ()
    held: int | None = None
    tokens_of_rules: int = 0


def search(
    prepared: Prepared,
    limits_at: Callable[[float], tuple[Limit, ...]],
    timed: Timed | None,
    driver: SearchDriver,
    store: StudyStore,
    first: tuple[Genotype, ...],
    scores: RuleScores,
    measure: Measure | None,
    room: Room | None,
    observer: TimeSpent,
) -> Found:
    """Run searches until the measured interval of a winner clears the target, and is near it.

    With an imported latency table the clock decides nothing: one search, no correction. So it is
    without a speedup to be met: the winner is timed all the same. A winner that holds more memory
    than it may is followed by a search that is given less.

    Args:
        limits_at: Returns the limits on what is stored, memory's at a share of what is asked.
        first: Candidates known from elsewhere, for the first parents.
        scores: What the strategy needs to know of the dense model beforehand.
        measure: Times a winner end to end; None has the target met by prediction alone.
        room: None where memory is no target.

    Raises:
        UnreachableTarget: If no candidate meets all limits, and none was found before.
    """
    spec = prepared.spec
    began = observer.reached("search")
    aim = 1.0 if timed is None else timed.first_aim
    share, limits = 1.0, limits_at(1.0)
    attempts: list[Attempt] = []
    histories: list[tuple[Progress, ...]] = []
    reasons: list[str] = []
    corrections: list[Correction] = []
    asked_next: list[Correction] = []
    extra = first
    spent = Progress(tokens=0, seconds=0.0, generation=0, loss=0.0)
    while True:
        phase = len(attempts)
        of_time: tuple[Limit, ...] = ()
        if timed is not None:
            of_time = (time_limit(timed.cost, aim, timed.fastest, spec),)
        task = Task(
            Constraint(prepared.space, (*of_time, *limits)),
            spec.seed,
            spec.context,
            len(prepared.sequences[Split.SEARCH]),
            phase,
            None if spec.max_tokens is None else max(0, spec.max_tokens - spent.tokens),
            stopper(store, phase, spec.budget_seconds if phase == 0 else None),
            extra,
            spec.has_stored_ends,
            0 if phase else scores.tokens,
        )
        settings = settings_for(task.allowed)
        if phase:
            settings = dataclasses.replace(
                settings, generations=GENERATIONS_AFTER, patience=PATIENCE_AFTER
            )
        observer.stage("search" if phase == 0 else f"search, correction {phase}")
        try:
            strategy = make_strategy(spec.strategy, task, settings, scores, darwin_settings(spec))
            course = _run(strategy, timed, prepared.space, driver, observer, spent, phase)
        except UnreachableTarget as error:
            # Each limit can be met by itself: whether all can at once, only a search finds out.
            if attempts:
                told = f"Correction {phase} came to nothing, the best winner so far stays: {error}"
                observer.tell("warning", {"warning": told})
                break
            if timed is None or aim <= timed.target:
                raise
            aim = timed.target
            continue
        histories.append(course)
        reasons.append(strategy.stopped_because)
        corrections += asked_next
        standing = strategy.standing()
        spent = Progress(
            spent.tokens + standing.tokens,
            observer.seconds - began,
            spent.generation + standing.generation,
            standing.loss,
        )
        winner = _select(prepared, driver, strategy, task, observer)
        if measure is None:
            return Found(
                winner.genotype,
                None,
                task,
                (),
                histories[-1],
                spent.generation,
                reasons[-1],
            )
        timing = _Timing(store, timed, room, measure, observer)
        attempts.append(timing.attempt(phase, aim, task, winner))
        reached = attempts[-1].reached
        following = smaller = None
        asked_next = []
        is_given = spec.strategy == "given"
        is_spent = spec.max_tokens is not None and spent.tokens >= spec.max_tokens
        if timed is not None and prepared.imported is None and not is_given:
            following = next_aim(timed, attempts)
            if is_spent and attempts[-1].clears(timed.target):
                following = None
        if room is not None and not is_given:
            smaller = next_share(share, attempts)
        if smaller is not None and room is not None:
            try:
                limits, share = limits_at(smaller), smaller
            except UnreachableTarget:
                break
            asked, held = share * room.most, round(attempts[-1].held * room.most)
            asked_next.append(Correction(room.most, asked, held, (held, held), "memory"))
            observer.tell("memory correction", {"measured": held, "target_used": asked})
        if timed is not None and following is not None:
            asked_next.append(
                Correction(timed.target, following, reached.median, reached.interval)
            )
            observer.tell("correction", {"measured": reached.median, "target_used": following})
            aim = following
        if following is None and smaller is None:
            break
        # Those found under a tighter constraint are good under a looser one as they are.
        extra = tuple(dict.fromkeys(own.winner.genotype for own in attempts))
    best = best_attempt(None if timed is None else timed.target, attempts)
    found_by = attempts.index(best)
    # What darwin picks was trained before it was read: its neighbours were not.
    may_ease = not is_spent and spec.strategy not in ("given", "darwin")
    if timed is not None and prepared.imported is None and may_ease and best.clears(timed.target):
        known = [own.winner.genotype for own in attempts]
        for attempt in _ease(prepared, driver, best, timed, timing, known):
            before = best_attempt(timed.target, attempts).reached
            corrections.append(
                Correction(timed.target, attempt.aim, before.median, before.interval, "given back")
            )
            attempts.append(attempt)
        best = best_attempt(timed.target, attempts)
    return Found(
        best.winner.genotype,
        best.measured,
        best.task,
        tuple(corrections),
        histories[found_by],
        spent.generation,
        reasons[found_by],
        tuple((own.winner.genotype, own.measured) for own in attempts),
        None if room is None else round(best.held * room.most),
    )


@dataclass(frozen=True, slots=True)
class _Timing:
    """Times winners end to end, each once in all runs of a study."""

    store: StudyStore
    timed: Timed | None
    room: Room | None
    measure: Measure
    observer: Observer

    def attempt(self, number: int, aim: float, task: Task, winner: Trial) -> Attempt:
        """Return a winner with its measured speedup, and what serving it holds.

        Args:
            number: Of the winners that were timed before it.
        """
        timed, room, observer = self.timed, self.room, self.observer
        observer.stage("end-to-end latency")
        speedup = _measured(self.store, number, winner.genotype, self.measure)
        observer.tell(
            "measured",
            {
                "speedup": speedup.median,
                "low": speedup.interval[0],
                "high": speedup.interval[1],
                "target": None if timed is None else timed.target,
            },
        )
        reached = (
            Reached(speedup.median, speedup.interval) if timed is None else timed.reached(speedup)
        )
        held = 0 if room is None else _held(self.store, number, winner.genotype, room, observer)
        return Attempt(aim, task, winner, reached, speedup, held / room.most if room else 0.0)


def _ease(
    prepared: Prepared,
    driver: SearchDriver,
    best: Attempt,
    timed: Timed,
    timing: _Timing,
    known: Sequence[Genotype],
) -> Iterator[Attempt]:
    """Yield what is measured while a winner gets back what its unasked speed cost.

    Args:
        known: What was timed before, one after another.
    """
    observer = timing.observer

    def reads(most: int) -> Losses:
        reading = Fidelity(
            Split.SELECTION, 0, 0, min(most, len(prepared.sequences[Split.SELECTION]))
        )

        def losses(candidates: Sequence[Genotype]) -> list[Trial]:
            observer.stage("speed given back")
            return driver.measure(Batch(tuple(candidates), reading))

        return losses

    numbers = itertools.count(len(known))

    def measure(aim: float, room: Constraint, trial: Trial) -> Attempt:
        observer.tell("given back", {"aim": aim, "loss": trial.loss})
        task = dataclasses.replace(best.task, constraint=room)
        return timing.attempt(next(numbers), aim, task, trial)

    def simple(room: Constraint) -> list[Genotype]:
        task = dataclasses.replace(best.task, constraint=room)
        return [own for own in _simple(prepared, driver, task) if own not in known]

    few, whole = reads(EASING_SEQUENCES), reads(SELECTION_SEQUENCES)
    yield from ease(best, timed, few, whole, simple, measure)


def darwin_settings(spec: SearchSpec) -> DarwinSettings:
    """Return how a spec has candidates trained before they are measured."""
    rungs = [read_rung(rung) for rung in spec.darwin_rungs]
    return DarwinSettings(
        tuple(Rung(sequences, survivors, trained) for trained, sequences, survivors in rungs),
        generations=spec.darwin_generations,
    )


def check_darwin(prepared: Prepared) -> None:
    """Refuse a search that leaves no text to train its candidates on.

    Raises:
        SpecError: If the longest of its readings leaves too little.
    """
    if prepared.spec.strategy != "darwin":
        return
    n = len(prepared.sequences[Split.SEARCH])
    read = max(rung.sequences for rung in darwin_settings(prepared.spec).rungs)
    if n - read < text.FEWEST_SEQUENCES:
        raise SpecError(
            f"darwin_rungs: `{text.FEWEST_SEQUENCES} sequences to train on beside {read} to read` "
            f"must hold, but the search text has {n}: read fewer, or give more --calibration text."
        )


def baseline(name: str, task: Task, driver: SearchDriver) -> Genotype | None:
    """Return what a simple strategy finds under a task's constraint; None if it finds nothing.

    The limits of the search that it is held against are not its own.
    """
    own = dataclasses.replace(task, max_tokens=None, stop=go_on)
    try:
        strategy = make_strategy(name, own, EvolveSettings())
        driver.run(strategy, lambda: None)
    except UnreachableTarget:
        return None
    return strategy.standing().best


def _run(
    strategy: Strategy,
    timed: Timed | None,
    space: SearchSpace,
    driver: SearchDriver,
    observer: TimeSpent,
    before: Progress,
    phase: int,
) -> tuple[Progress, ...]:
    """Run one search; return the best loss after each generation, from the first parent on.

    A generation that an interrupted run had come to has taken what it took then.
    """
    began = observer.reached("search")
    history: list[Progress] = []

    def after_batch() -> None:
        standing = strategy.standing()
        generation = before.generation + standing.generation
        if standing.best is None or (history and generation == history[-1].generation):
            return
        now = Progress(
            before.tokens + standing.tokens,
            observer.reached(f"search {phase}, generation {generation}") - began,
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
) -> Trial:
    """Return the best finalist on text that the search has not read.

    A search must not end below the simple candidates that it began with: they are finalists.
    """
    observer.stage("selection of the winner")
    candidates = strategy.finalists(FINALISTS) + _simple(prepared, driver, task)
    n = min(SELECTION_SEQUENCES, len(prepared.sequences[Split.SELECTION]))
    trained = 0
    if prepared.spec.strategy == "darwin":
        # As winners are trained, so are those among which one is picked.
        trained = darwin_settings(prepared.spec).rungs[-1].trained
    reading = Fidelity(Split.SELECTION, 0, 0, n, trained)
    trials: list[Trial] = driver.measure(Batch(tuple(dict.fromkeys(candidates)), reading))
    best = min(trials, key=lambda trial: (trial.loss, trial.genotype.levels))
    if best.measurement is None:
        raise EvaluationError(f"All finalists failed; the first: {trials[0].error}")
    return best


def _simple(prepared: Prepared, driver: SearchDriver, task: Task) -> list[Genotype]:
    """Return what the simple strategies find under a task's constraint that a search began with.

    None for a search that begins otherwise.
    """
    if prepared.spec.strategy not in FROM_SINGLE_CHANGES:
        return []
    named = [baseline(name, task, driver) for name in ("additive", "uniform")]
    return [genotype for genotype in named if genotype is not None]


def stopper(store: StudyStore, phase: int, budget: float | None) -> Callable[[int], str | None]:
    """Return what ends an evolution by the clock; a recorded end is replayed, not decided.

    What an interrupted run took counts; what it has measured is gone through again whatever the
    clock says.
    """
    known = {
        (event.payload["phase"], event.payload["generation"]): str(event.payload["reason"])
        for event in store.events()
        if event.kind == "stop"
    }
    decided = any(key[0] == phase for key in known)
    if budget is None and not decided:
        return go_on
    before = store.document(TAKEN) or {"generation": -1, "seconds": 0.0}
    done, seconds = _number(before["generation"]), _number(before["seconds"])
    started = time.monotonic()

    def stop(generation: int) -> str | None:
        if decided:
            return known.get((phase, generation))
        if budget is None or generation <= done:
            return None
        taken = seconds + time.monotonic() - started
        if taken < budget:
            store.save_document(TAKEN, {"generation": generation, "seconds": taken})
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
    known = _recorded(store, "measured", phase, winner)
    if known is not None:
        return MeasuredSpeedup(
            _number(known["median"]),
            (_number(known["low"]), _number(known["high"])),
            (_number(known["dense"]), _number(known["compressed"])),
            (_number(known["compressed_low"]), _number(known["compressed_high"])),
            tuple(map(_number, _list(known["shares"]))),
            *(_pairs(known.get(name)) for name in ("first_token", "further_token")),
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
                "compressed_low": speedup.compressed_interval[0],
                "compressed_high": speedup.compressed_interval[1],
                "shares": list(speedup.shares),
                "first_token": [list(pair) for pair in speedup.first_token],
                "further_token": [list(pair) for pair in speedup.further_token],
            },
        )
    )
    return speedup


def _held(store: StudyStore, phase: int, winner: Genotype, room: Room, observer: Observer) -> int:
    """Return the recorded memory of a phase's winner, or measure and record it.

    Where the system does not tell, it is taken as reckoned.
    """
    known = _recorded(store, "memory", phase, winner)
    if known is not None:
        return int(_number(known["bytes"]))
    observer.stage("memory")
    held = room.held(winner) or 0
    store.add_event(Event("memory", {"phase": phase, "genotype": winner.key, "bytes": held}))
    return held


def _recorded(
    store: StudyStore, kind: str, phase: int, winner: Genotype
) -> Mapping[str, object] | None:
    """Return what was first recorded of a phase's winner; None if nothing was.

    Of another candidate nothing is taken over, as where another version had searched.
    """
    for event in store.events():
        known = event.payload
        if event.kind == kind and (known["phase"], known["genotype"]) == (phase, winner.key):
            return known
    return None


def _pairs(value: object) -> tuple[Pair, ...]:
    found = (tuple(map(_number, _list(pair))) for pair in _list(value))
    return tuple((dense, compressed) for dense, compressed in found)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float:
    return float(str(value))
