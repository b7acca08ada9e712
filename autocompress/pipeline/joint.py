"""Searches a compressed model and its decoding together, under one speedup of answers.

The two take turns. Compression is first asked for all of the speedup, and the decoding of what it
gives is searched for the best score, and for the least time without loss of it. By what its
answers to validation items then leave of the time, compression is asked for less the next time, or
for more where they take too long. At last the dense model is decoded with the compressed one as
its draft. Each part is a study of its own; what they end with answers the same items in turn. The
winner is the least compressed of those that keep the speedup and are not surely worse than the
best.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.export.decoding_outputs import decoding_outputs
from autocompress.export.decoding_report import AGAINST, DecodingReport
from autocompress.export.evaluation import Estimate
from autocompress.export.joint_report import JointOption, JointReport, write_joint
from autocompress.export.right_choices import RightChoices
from autocompress.models import loading
from autocompress.pipeline import study as studies
from autocompress.pipeline.choosing import choose, right_choices
from autocompress.pipeline.conclusion import MODEL, versions
from autocompress.pipeline.decoding import ITEMS, decode, opened_for
from autocompress.pipeline.decoding_asked import DecodeAsked, decode_asked
from autocompress.pipeline.decoding_conclusion import quality_beside
from autocompress.pipeline.decoding_opened import (
    UNREAD,
    OpenedDecoding,
    answer_search_items,
    answered,
    in_processes,
    in_turn,
    one_process,
)
from autocompress.pipeline.decoding_stored import JOINT
from autocompress.pipeline.going_on import going_on
from autocompress.pipeline.intervals import (
    mean_interval,
    ratio_interval,
    ratio_over_processes,
)
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.targets import check_kernels
from autocompress.search.racing import Answered, Objective, Rules, in_the_running
from autocompress.spaces.decoding import Decoding, to_text
from autocompress.spec import DECODING, DECODING_FIELDS, SearchSpec
from autocompress.store.base import StudyState, StudyStore
from autocompress.store.study_store import find_study
from autocompress.trial import Split
from autocompress.workers.decoding_session import Contender, Drafted
from autocompress.workers.tune import in_ray
from autocompress.workers.tune_alone import Part
from autocompress.workload import USUAL_MIX, Mix, Workload

MOST_TURNS: Final = 3
"""Of compression, beside the dense model's."""
NEAR: Final = 1.05
"""Ratio of two speedups asked of compression that are not worth a search each."""
CONCLUDED: Final[Mapping[Split, int]] = {**ITEMS, Split.SELECTION: 4, Split.REPORT: 8}
"""Items of a split, at most, for each that a search for a decoding may read: options differ by
little, and there are few of them."""
OF_PARTS: Final[Mapping[Split, int]] = {**ITEMS, Split.SELECTION: 4, Split.REPORT: 1}
"""And of a part's own: how fast its winner answers validation items decides what is asked next."""
MARGIN: Final = 1.05
"""By which answers have to be faster than asked: to other items they may be slower."""
DENSE: Final = "dense answers"
TURNS: Final = "turns"


@dataclass(frozen=True, slots=True)
class _Option:
    """One split of the speedup, and what its searches ended with.

    Args:
        speedup: That compression was asked for.
        answers: How many times as fast as dense it gives its answers, less a margin.
    """

    speedup: float
    model: Drafted
    tuned: Decoding
    answers: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What compression was asked for, and what came of it.

    Args:
        answers: As an option's; None where no model is that fast.
    """

    asked: float
    answers: float | None


def next_speedup(turns: Sequence[Turn], target: float) -> float | None:
    """Return what compression is asked for after some turns; 1 for the dense model, the last."""
    if not turns:
        return target
    last = turns[-1]
    if last.asked == 1:
        return None
    reached = [own for own in turns if own.answers is not None]
    if last.answers is None:
        # So little is not worth a search.
        root = round(math.sqrt(last.asked), 2)
        return 1.0 if reached or root < NEAR else root
    wanted = round(max(1.0, last.asked * target / last.answers), 2)
    is_known = any(1 / NEAR < wanted / own.asked < NEAR for own in turns)
    return 1.0 if is_known or len(reached) >= MOST_TURNS else wanted


@dataclass(frozen=True, slots=True)
class Told:
    """What all contenders made of a split's items: dense, then each option untuned and tuned."""

    dense: Answered
    untuned: tuple[Answered, ...]
    tuned: tuple[Answered, ...]


def search_jointly(
    spec: SearchSpec,
    storage: str,
    study: str,
    output: Path,
    observer: Observer,
    items: Mapping[Split, int] = CONCLUDED,
) -> JointReport:
    """Search both, and leave the winner with its figures in a folder; a study of the name goes on.

    Args:
        items: Of a split, at most, for each that a search for a decoding may read.

    Raises:
        AutocompressError: Whatever stops one of the searches.
    """
    studies.check_output(output)
    asked = decoding_of(spec, spec.model, None, Rules((Objective.QUALITY,)))
    opened = opened_for(asked)
    if find_study(storage, study) is None:
        # What the first part would refuse is refused before dense has answered anything.
        check_kernels(compression_of(spec))
        prepare(compression_of(spec))
    own: dict[str, Any] = {"kind": JOINT, **spec.to_json()}
    with going_on(storage, study, own) as store:
        known = store.row().report
        if known is not None:
            report = JointReport.from_json(known)
        else:
            with in_ray(spec.address):
                workload = _like_answers(opened, store, observer)
                parts = _Parts(spec, workload, storage, study, output, observer)
                options = _searched(parts, store, _target(spec))
                unread = opened_for(asked, items)
                report = _concluded(spec, unread, options, study, observer)
        best = report.options[report.winner]
        draft = None if best.draft is None else Path(best.draft)
        outputs = decoding_outputs(
            report.tuned, Path(best.model), draft, spec.dtype, spec.trust_remote_code
        )
        write_joint(report, outputs, output)
        store.finish(StudyState.FINISHED, report.to_json())
    return report


def _searched(parts: "_Parts", store: StudyStore, target: float) -> list[_Option]:
    """Search one split after another; those of an earlier run are kept to."""
    known: Any = (store.document(TURNS) or {}).get(TURNS, [])
    turns = [Turn(*own) for own in known]
    options = []
    for at in itertools.count():
        asked = next_speedup(turns[:at], target)
        if asked is None:
            break
        option = parts.option(asked)
        if option is not None:
            options.append(option)
        if at == len(turns):
            turns.append(Turn(asked, None if option is None else option.answers))
            store.save_document(TURNS, {TURNS: [[own.asked, own.answers] for own in turns]})
    return options


def answered_faster(found: DecodingReport) -> float:
    """Return how many times as fast as dense a winner answered what it was picked on.

    What a search expects of the fastest of many that it tried is more than that one keeps.
    """
    winner = to_text(found.winner)
    seconds = {
        AGAINST if of.name == AGAINST else of.decoding: of.values[Objective.SECONDS.value].value
        for of in found.validation
    }
    return seconds.get(AGAINST, seconds[winner]) / seconds[winner]


class _Parts:
    """Runs the searches that a joint one consists of, each a study of its own."""

    def __init__(
        self,
        spec: SearchSpec,
        answers: Workload,
        storage: str,
        study: str,
        output: Path,
        observer: Observer,
    ) -> None:
        self._spec = spec
        self._answers = answers
        self._storage = storage
        self._study = study
        self._output = output
        self._observer = observer
        self._first: float | None = None

    def option(self, speedup: float) -> _Option | None:
        """Search a model that is so much faster, and then its decoding; None if there is none.

        The first model that was found is the draft of the others.
        """
        dense = loading.resolve(self._spec.model)
        draft = None if self._first is None else self._folder(self._first) / MODEL
        try:
            folder = dense if speedup == 1 else self._compressed(speedup)
        except UnreachableTarget as error:
            self._observer.tell("out of reach", {"speedup": speedup, "why": str(error)})
            return None
        # A limit on the time that no decoding keeps would buy a little of it with any score.
        rules = Rules((Objective.QUALITY, Objective.SECONDS))
        model = self._spec.model if speedup == 1 else str(folder)
        asked = decoding_of(self._spec, model, None if draft is None else str(draft), rules)
        name = f"{self._study}-decoded-{speedup:.3g}x"
        output = self._output / name
        found = decode(asked, self._storage, name, output, self._observer, OF_PARTS)
        drafted = Drafted(folder.resolve(), None if draft is None else draft.resolve())
        answers = answered_faster(found) / MARGIN
        return _Option(speedup, drafted, dict(found.winner), answers)

    def _compressed(self, speedup: float) -> Path:
        """Search a compressed model that is so much faster, unless it is there."""
        folder = self._folder(speedup)
        name = folder.name
        row = find_study(self._storage, name)
        if row is not None:
            if row.state is not StudyState.FINISHED or not (folder / MODEL).is_dir():
                studies.resume(self._storage, name, folder, self._observer)
        elif self._first is None:
            spec = dataclasses.replace(
                compression_of(self._spec), target_speedup=speedup, workload=self._workload()
            )
            studies.start(spec, self._storage, name, folder, self._observer)
        else:
            parent = self._folder(self._first).name
            targets = {"target_speedup": speedup}
            studies.refine(self._storage, parent, targets, name, folder, self._observer)
        self._first = self._first or speedup
        return folder / MODEL

    def _workload(self) -> Mix:
        """Return what compression is asked to be faster at: requests like the tasks' answers.

        Unless another workload, or a latency table, which is of one, is given.
        """
        spec = self._spec
        if spec.workload != USUAL_MIX or spec.latency_table is not None:
            return spec.workload
        return Mix(((1.0, self._answers),))

    def _folder(self, speedup: float) -> Path:
        """Where a compressed model lies; its study is of the folder's name."""
        return self._output / f"{self._study}-compressed-{speedup:.3g}x"


def compression_of(spec: SearchSpec) -> SearchSpec:
    """Return a joint search's part that compresses."""
    space = tuple(own for own in spec.space if own != DECODING)
    changed: dict[str, Any] = {**DECODING_FIELDS, "space": space}
    return dataclasses.replace(spec, **changed)


def _concluded(
    spec: SearchSpec,
    opened: OpenedDecoding,
    options: Sequence[_Option],
    study: str,
    observer: Observer,
) -> JointReport:
    """Pick the winner on validation items, and hold all against dense on the report's."""
    target = _target(spec)
    dense = Drafted(opened.folder)
    factory = dataclasses.replace(
        opened.factory(*UNREAD), models=(dense, *(own.model for own in options))
    )
    contenders = _contenders(opened, options)
    first, n = opened.unread[Split.SELECTION]
    with one_process(factory, spec.address, observer) as alone:
        observer.stage("validation items")
        validated = in_turn(alone, contenders, first, n, lambda done: observer.advance(done, n))
        models = range(len(options) + 1)
        chosen = choose(alone, models, len(opened.choices), observer)
    winner = pick(_told(validated), [own.speedup for own in options], target, spec.seed)
    observer.stage("report items")
    span = opened.unread[Split.REPORT]
    last = _told(in_processes(factory, opened.asked, contenders, span, observer))
    rows = tuple(
        _row(
            option,
            at,
            last,
            right_choices(chosen[at + 1], chosen[0]) if chosen else None,
            spec.timing_processes,
        )
        for at, option in enumerate(options)
    )
    return JointReport(
        study=study,
        model=spec.model,
        tasks=spec.tasks or "the built-in sample",
        hardware=hardware(loading.pick_device(spec.device), 0),
        target=target,
        winner=winner,
        tuned=options[winner].tuned,
        options=rows,
        dense_quality=_mean(last.dense.scores),
        dense_seconds=Estimate(
            *ratio_over_processes(
                [last.dense.seconds], [np.ones(len(last.dense))], spec.timing_processes
            )
        ),
        validation_items=len(opened.items[Split.SELECTION]),
        report_items=len(opened.items[Split.REPORT]),
        report_processes=min(len(opened.items[Split.REPORT]), spec.timing_processes),
        seed=spec.seed,
        versions=versions(),
        compression_seconds=spec.budget_seconds,
        compression_tokens=spec.max_tokens,
        decoding_trials=spec.decoding_trials,
    )


def _contenders(opened: OpenedDecoding, options: Sequence[_Option]) -> list[Contender]:
    """Return who answers: dense, then each option untuned and tuned."""
    # What nobody tuned is the same of all models: a draft's values act beside a draft alone.
    usual = opened.space.values(opened.untuned)
    contenders = [Contender(usual)]
    for at, option in enumerate(options, 1):
        contenders += [Contender(usual, at), Contender(option.tuned, at)]
    return contenders


def _told(parts: Sequence[Sequence[Part]]) -> Told:
    """Return what the contenders made of a split's items, who stand as `_contenders` has them."""
    found = list(map(answered, parts))
    return Told(found[0], tuple(found[1::2]), tuple(found[2::2]))


def pick(told: Told, speedups: Sequence[float], target: float, seed: int) -> int:
    """Return the least compressed option that surely keeps the speedup and is not surely worse.

    Where none keeps it, that which misses it least.

    Args:
        speedups: That compression was asked for, by option.
    """

    def missed(own: Answered) -> float:
        _, (low, _) = ratio_interval([told.dense.seconds], [own.seconds], seed)
        return max(0.0, target / low - 1)

    answers = dict(enumerate(told.tuned))
    by = {at: missed(own) for at, own in answers.items()}
    running = in_the_running(answers, by, Objective.QUALITY)
    return min(running, key=speedups.__getitem__)


def _row(
    option: _Option, at: int, told: Told, choices: RightChoices | None, processes: int
) -> JointOption:
    """Return what compression and decoding each gave one option."""

    def speedup(slow: Answered, fast: Answered) -> Estimate:
        return Estimate(*ratio_over_processes([slow.seconds], [fast.seconds], processes))

    untuned, tuned = told.untuned[at], told.tuned[at]
    return JointOption(
        asked_speedup=option.speedup,
        model=str(option.model.folder),
        draft=None if option.model.draft is None else str(option.model.draft),
        decoding=to_text(option.tuned),
        by_compression=speedup(told.dense, untuned),
        by_decoding=speedup(untuned, tuned),
        speedup=speedup(told.dense, tuned),
        quality=_mean(tuned.scores),
        untuned_quality_difference=quality_beside(untuned, told.dense),
        quality_difference=quality_beside(tuned, told.dense),
        beside_first=quality_beside(tuned, told.tuned[0]),
        choices=choices,
    )


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), mean_interval(values))


def _target(spec: SearchSpec) -> float:
    """Return the speedup that is wanted; the spec's rules let nothing else through."""
    if spec.target_speedup is None:
        raise SpecError("target_speedup: must be given where decoding is searched too.")
    return spec.target_speedup


def decoding_of(spec: SearchSpec, model: str, draft: str | None, rules: Rules) -> DecodeAsked:
    """Return a joint search's part that searches a model's decoding."""
    given = {
        "model": model,
        "draft": draft,
        "against": spec.model if model != spec.model else None,
        "tasks": spec.tasks,
        "tune": spec.decoding_tune,
        "fix": spec.decoding_fix,
        "trials": spec.decoding_trials,
        "items": spec.decoding_items,
        "device": spec.device,
        "dtype": spec.dtype,
        "seed": spec.seed,
        "timing_processes": spec.timing_processes,
        "trust_remote_code": spec.trust_remote_code,
        "allow_python": spec.allow_python,
        "address": spec.address,
    }
    # The budget is that of compression: this ends when its trials are drawn.
    return dataclasses.replace(decode_asked(given), rules=rules)


def _like_answers(opened: OpenedDecoding, store: StudyStore, observer: Observer) -> Workload:
    """Return one request of the mean lengths of the search's prompts and dense's answers."""
    known = store.document(DENSE)
    if known is None:
        observer.stage("dense answers")
        usual = Contender(opened.space.values(opened.untuned))
        found = answer_search_items(opened, usual, observer)
        tokenizer = loading.load_tokenizer(opened.folder, opened.asked.trust_remote_code)
        prompts = [len(tokenizer(own.prompt).input_ids) for own in opened.items[Split.SEARCH]]
        known = {
            "prompt": max(1, round(float(np.mean(prompts)))),
            "generated": max(1, round(float(found.said.mean()))),
        }
        store.save_document(DENSE, known)
    return Workload(1, int(str(known["prompt"])), int(str(known["generated"])))
