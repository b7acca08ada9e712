"""Validates the best decodings of a race, proves the winner on unread items, and reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from autocompress.export.decoding_report import (
    AGAINST,
    UNTUNED_NAME,
    DecodingReport,
    DecodingStanding,
    Example,
    TriedDecoding,
)
from autocompress.export.evaluation import Estimate
from autocompress.models import loading
from autocompress.pipeline.choosing import choose, right_choices
from autocompress.pipeline.conclusion import versions
from autocompress.pipeline.decoding_opened import (
    UNREAD,
    OpenedDecoding,
    answered,
    in_processes,
    in_turn,
    one_process,
)
from autocompress.pipeline.decoding_race import Judging
from autocompress.pipeline.intervals import ratio_interval, ratio_over_processes
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.observer import Observer
from autocompress.search.racing import (
    TIMED,
    UNITS,
    Answered,
    Objective,
    Race,
    Rules,
    against,
    in_the_running,
)
from autocompress.spaces.decoding import Decoding, to_text
from autocompress.trial import Genotype, Split
from autocompress.workers.decoding_session import Contender
from autocompress.workers.tune_alone import Part

FINALISTS: Final = 4
EXAMPLES: Final = 3


@dataclass(frozen=True, slots=True)
class Raced:
    """A race that has ended."""

    judging: Judging
    stopped_because: str
    seconds: float


@dataclass(frozen=True, slots=True)
class _Told:
    """What a contender made of a split's items."""

    answered: Answered
    proposed: float
    accepted: float
    texts: tuple[str, ...]


def conclude(
    opened: OpenedDecoding, raced: Raced, study: str, observer: Observer
) -> DecodingReport:
    """Pick the winner on validation items, and hold it against the untuned on the report's."""
    asked, space, judging = opened.asked, opened.space, raced.judging
    untuned = opened.untuned
    finalists = _finalists(judging, untuned)
    factory = opened.factory(*UNREAD)
    first_item, n_validation = opened.unread[Split.SELECTION]
    with one_process(factory, asked.address, observer) as alone:
        observer.stage("validation items")
        validated = in_turn(
            alone,
            _against(opened, finalists),
            first_item,
            n_validation,
            lambda done: observer.advance(done, n_validation),
        )
        models = range(1 if opened.other is None else 2)
        chosen = choose(alone, models, len(opened.choices), observer)
    told = list(map(_told, validated))
    answers = [own.answered for own in told]
    by_finalist = dict(zip(finalists, answers, strict=False))
    winner = pick(asked.rules, by_finalist, answers[-1], untuned)
    observer.stage("report items")
    contenders = list(dict.fromkeys([winner, untuned]))
    beside_them = _against(opened, contenders)
    span = opened.unread[Split.REPORT]
    last = list(map(_told, in_processes(factory, asked, beside_them, span, observer)))
    own, usual, beside = last[0], last[len(contenders) - 1], last[-1]
    names = ["tuned", UNTUNED_NAME][: len(contenders)]
    decodings: list[Decoding] = [space.values(one) for one in contenders]
    picked_from: list[tuple[str, Decoding]] = [
        (_name(one, untuned), space.values(one)) for one in finalists
    ]
    if opened.other is not None:
        names.append(AGAINST)
        decodings.append(opened.against.decoding)
        picked_from.append((AGAINST, opened.against.decoding))
    first = asked.rules.objectives[0]
    n_search = len(opened.items[Split.SEARCH])
    read = list(judging.read.values())

    def standing(name: str, decoding: Decoding, of: _Told) -> DecodingStanding:
        return _standing(name, decoding, of, asked.seed, None)

    return DecodingReport(
        study=study,
        model=asked.model,
        draft=asked.draft,
        against=asked.against,
        tasks=asked.tasks or "the built-in sample",
        hardware=hardware(loading.pick_device(asked.device), 0),
        objectives=tuple(f"{one.value} ({UNITS[one]})" for one in asked.rules.objectives),
        constraints=_constraints(asked.rules, asked.against),
        met=asked.rules.violation(own.answered, beside.answered) <= 0,
        winner=space.values(winner),
        standings=tuple(
            _standing(name, decoding, of, asked.seed, asked.timing_processes)
            for name, decoding, of in zip(names, decodings, last, strict=True)
        ),
        gain=gain(first, own.answered, usual.answered, asked.seed, asked.timing_processes),
        quality_difference=quality_beside(own.answered, beside.answered),
        choices=right_choices(*chosen) if chosen else None,
        validation=tuple(
            standing(name, values, of)
            for (name, values), of in zip(picked_from, told, strict=True)
        ),
        front=tuple(
            standing(_name(one, untuned), space.values(one), _told_of(judging, one))
            for one in judging.leaders()
        ),
        examples=_examples(opened, names, last),
        strategy=asked.strategy,
        trials=len(judging.read) + len(judging.failures),
        pruned=sum(len(one) < n_search for one in read),
        failed={to_text(space.values(one)): error for one, error in judging.failures.items()},
        search_tokens=judging.tokens,
        whole_tokens=round(sum(float(one.tokens.mean()) * n_search for one in read)),
        search_items=n_search,
        validation_items=len(opened.items[Split.SELECTION]),
        report_items=len(opened.items[Split.REPORT]),
        report_processes=min(len(opened.items[Split.REPORT]), asked.timing_processes),
        stopped_because=raced.stopped_because,
        seconds=raced.seconds,
        seed=asked.seed,
        versions=versions(),
        tried=tuple(
            tried(to_text(space.values(own)), answered, judging.race)
            for own, answered in judging.read.items()
        ),
    )


def _finalists(judging: Judging, untuned: Genotype) -> list[Genotype]:
    """Return the best of the race, or what misses the constraints least; the untuned last.

    What another is as good as in all objectives comes after those that none is.
    """
    best = dict.fromkeys([*judging.leaders(), *judging.best(FINALISTS)])
    best = best or dict.fromkeys(judging.closest(FINALISTS))
    return [*[own for own in best if own != untuned][:FINALISTS], untuned]


def _against(opened: OpenedDecoding, contenders: Sequence[Genotype]) -> list[Contender]:
    """Return who answers: decodings, and at last what they are held against."""
    given = [Contender(opened.space.values(own)) for own in contenders]
    return given if opened.other is None else [*given, opened.against]


def _told(parts: Sequence[Part]) -> _Told:
    return _Told(
        answered(parts),
        sum(sum(part["proposed"]) for part in parts),
        sum(sum(part["accepted"]) for part in parts),
        tuple(text for part in parts for text in part["texts"]),
    )


def _told_of(judging: Judging, genotype: Genotype) -> _Told:
    return _Told(judging.read[genotype], 0.0, 0.0, ())


def pick(
    rules: Rules, finalists: Mapping[Genotype, Answered], beside: Answered, untuned: Genotype
) -> Genotype:
    """Return the best finalist that keeps the constraints; where none does, what misses least.

    Of two objectives the second decides among those that are not surely behind the best in the
    first: of some finalists one is always first by luck.

    Args:
        finalists: What each made of the validation's items, and `beside` what they are held
            against did.
    """
    first, last = rules.objectives[0], rules.objectives[-1]
    missed = {own: max(rules.violation(of, beside), 0.0) for own, of in finalists.items()}

    def standing(own: Genotype) -> tuple[float, float, bool]:
        return last.ratio(finalists[own]), first.ratio(finalists[own]), own != untuned

    return min(in_the_running(finalists, missed, first), key=standing)


def quality_beside(own: Answered, other: Answered) -> Estimate:
    """Return one decoding's mean score less another's, paired over items."""
    lost = against(Objective.QUALITY, own, other)
    return Estimate(0.0 - lost.mean, (0.0 - lost.high, 0.0 - lost.low))


def gain(
    objective: Objective, own: Answered, usual: Answered, seed: int, processes: int
) -> Estimate:
    """Return by what factor one decoding is better than another, paired over items.

    Args:
        processes: That shared the items.
    """
    if objective is Objective.QUALITY:
        return Estimate(*ratio_interval([own.scores], [usual.scores], seed))
    above, below = objective.parts(usual)
    own_above, own_below = objective.parts(own)
    return _estimated(objective, [above, own_below], [below, own_above], seed, processes)


def _estimated(
    objective: Objective,
    above: Sequence[np.ndarray],
    below: Sequence[np.ndarray],
    seed: int,
    processes: int | None,
) -> Estimate:
    """Return a ratio of sums over items with its interval, over processes if it is one of times.

    Args:
        processes: None where one process answered all: its interval is over items.
    """
    if processes is None or objective not in TIMED:
        return Estimate(*ratio_interval(above, below, seed))
    return Estimate(*ratio_over_processes(above, below, processes))


def tried(decoding: str, own: Answered, race: Race) -> TriedDecoding:
    """Return what a decoding made of the items that it read, and what is expected on all."""
    quality = Objective.QUALITY
    return TriedDecoding(
        decoding,
        len(own),
        quality.shown(quality.ratio(own)),
        Objective.SECONDS.ratio(own),
        # Twice the errors of something that is mostly wrong would be more than all.
        max(quality.shown(race.expected_of(quality, own)), 0.0),
        race.expected_of(Objective.SECONDS, own),
        read_all=len(own) >= race.items,
        met=race.violation(own) <= 0,
    )


def _standing(
    name: str, decoding: Decoding, told: _Told, seed: int, processes: int | None
) -> DecodingStanding:
    values = {}
    for objective in Objective:
        above, below = objective.parts(told.answered)
        if not below.sum() > 0:
            # Nothing was right: no rate of it, and no cost.
            continue
        found = _estimated(objective, [above], [below], seed, processes)
        low, high = sorted(map(objective.shown, found.interval))
        values[objective.value] = Estimate(objective.shown(found.value), (low, high))
    accepted = told.accepted / told.proposed if told.proposed else None
    return DecodingStanding(
        name, to_text(decoding), values, int(told.answered.tokens.sum()), accepted
    )


def _constraints(rules: Rules, other: str | None) -> tuple[str, ...]:
    found = []
    if rules.drop is not None:
        found.append(
            f"mean score at least that of {other or 'untuned'} minus {rules.drop:g}, with 95 % "
            "confidence"
        )
    for objective, most in rules.limits.items():
        # Of what people say the other way round, more is better.
        least_or_most = "at most" if objective.shown(2.0) == 2.0 else "at least"
        value = objective.shown(most)
        found.append(f"{objective.value} {least_or_most} {value:g} ({UNITS[objective]})")
    return tuple(found)


def _examples(
    opened: OpenedDecoding, names: Sequence[str], told: Sequence[_Told]
) -> tuple[Example, ...]:
    """Return some items with what was said to them."""
    items = opened.items[Split.REPORT]
    picked = np.linspace(0, len(items) - 1, min(EXAMPLES, len(items))).astype(int)
    return tuple(
        Example(
            items[at].prompt,
            items[at].references,
            {name: own.texts[at] for name, own in zip(names, told, strict=True)},
        )
        for at in picked
    )


def _name(genotype: Genotype, untuned: Genotype) -> str:
    return UNTUNED_NAME if genotype == untuned else genotype.key
