"""Searches how a model is best decoded, and proves the best on items that nothing has read."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators.tasks import (
    Item,
    located,
    needs_generation,
    origin,
    read_tasks,
    split_items,
)
from autocompress.export.decoding_outputs import decoding_outputs
from autocompress.export.decoding_report import DecodingReport
from autocompress.export.render import write_decoding
from autocompress.models import loading
from autocompress.pipeline.decoding_asked import DecodeAsked, space_of
from autocompress.pipeline.decoding_conclusion import Raced, conclude
from autocompress.pipeline.decoding_opened import OpenedDecoding, answer_search_items
from autocompress.pipeline.decoding_race import Judging, Limits
from autocompress.pipeline.decoding_stored import KIND, REFERENCE, SPACE, to_document
from autocompress.pipeline.going_on import going_on
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.study import check_output
from autocompress.search.racing import Answered, Race, steps
from autocompress.store.base import StudyState, StudyStore
from autocompress.trial import Split
from autocompress.workers.tune import Plan, in_ray
from autocompress.workers.tune_race import race_trials

REFERENCE_TAKEN: Final = "reference seconds"
"""What measuring the reference took, in whichever run that was."""
ITEMS: Final[Mapping[Split, int]] = {Split.SEARCH: 1, Split.SELECTION: 1, Split.REPORT: 4}
"""Of a split, at most, for each that a search may read."""


def decode(
    asked: DecodeAsked,
    storage: str,
    study: str,
    output: Path,
    observer: Observer,
    items: Mapping[Split, int] = ITEMS,
) -> DecodingReport:
    """Search, and leave the winner with its figures in a folder; a study of this name goes on.

    Args:
        items: Of a split, at most, for each that the search may read.

    Raises:
        AutocompressError: Whatever cannot be meant, read, run or written.
    """
    check_output(output)
    opened = opened_for(asked, items)
    spec: dict[str, Any] = {"kind": KIND, **asked.to_json()}
    with going_on(storage, study, spec) as store:
        known = store.row().report
        if known is not None:
            report = DecodingReport.from_json(known)
        else:
            with in_ray(asked.address):
                store.save_document(SPACE, to_document(opened.space))
                report = conclude(opened, _raced(opened, store, observer), study, observer)
        outputs = decoding_outputs(
            report.winner, opened.folder, opened.draft, asked.dtype, asked.trust_remote_code
        )
        write_decoding(report, outputs, output)
        store.finish(StudyState.FINISHED, report.to_json())
    return report


def opened_for(asked: DecodeAsked, items: Mapping[Split, int] = ITEMS) -> OpenedDecoding:
    """Find the models and deal the items out.

    Args:
        items: Of a split, at most, for each that a search may read.

    Raises:
        AutocompressError: If a model or the tasks cannot be read, or nothing is left to tune.
    """
    # Absolute, for processes that work elsewhere.
    folder = loading.resolve(asked.model).resolve()
    config = loading.load_config(folder, asked.trust_remote_code)
    space = space_of(asked, int(config.num_hidden_layers))
    every = read_tasks(asked.tasks, asked.allow_python)
    asking = [item for item in every if needs_generation(item)]
    if not asking:
        raise SpecError("tasks: all items are choices, which no decoding changes.")
    dealt = split_items(asking, asked.seed)
    read = {origin(item) for split in (Split.SEARCH, Split.SELECTION) for item in dealt[split]}
    choices = [own for own in every if not needs_generation(own) and origin(own) not in read]
    # A search reads a part of its items: not the first ones of a few sources.
    rng = np.random.default_rng([asked.seed, 11])

    def shuffled(own: Sequence[Item]) -> tuple[Item, ...]:
        # Where Ray runs a trial, a relative path leads elsewhere.
        return tuple(located(own[at]) for at in rng.permutation(len(own)))

    most = {split: n * asked.items for split, n in items.items()}
    return OpenedDecoding(
        asked,
        folder,
        None if asked.draft is None else loading.resolve(asked.draft).resolve(),
        None if asked.against is None else loading.resolve(asked.against).resolve(),
        str(loading.pick_device(asked.device)),
        space,
        {split: shuffled(own)[: most[split]] for split, own in dealt.items()},
        shuffled(choices)[: most[Split.REPORT]],
    )


def _raced(opened: OpenedDecoding, store: StudyStore, observer: Observer) -> Raced:
    """Measure the reference, then race decodings against it."""
    asked, space = opened.asked, opened.space
    n_items = len(opened.items[Split.SEARCH])
    observer.stage("untuned")
    reference, seconds = _reference(opened, store, observer)
    race = Race(asked.rules, reference, prunes=asked.prunes)
    limits = Limits(asked.max_tokens, asked.budget_seconds)
    judging = Judging(space, race, store, limits, observer, asked.seed)
    if opened.other is None and opened.untuned not in judging.read:
        judging.tell(space.values(opened.untuned), 0, reference.to_json())
    observer.stage("decodings")
    race_trials(
        opened.factory(Split.SEARCH),
        steps(n_items),
        space,
        Plan(asked.strategy, asked.trials, asked.at_once, asked.seed, asked.address),
        judging.known,
        [space.values(own) for own in judging.unfinished],
        judging,
        len(asked.rules.objectives),
    )
    if not judging.read:
        why = next(iter(judging.failures.values()), "none was drawn")
        raise EvaluationError(f"No decoding could be measured: {why}.")
    return Raced(
        judging,
        judging.stopped_because or f"{asked.trials} decodings were drawn",
        seconds + judging.seconds,
    )


def _reference(
    opened: OpenedDecoding, store: StudyStore, observer: Observer
) -> tuple[Answered, float]:
    """Return what the search's items are held against, and the seconds that it has taken.

    That is what the untuned model makes of them, or another one.
    """
    known, taken = store.document(REFERENCE), store.document(REFERENCE_TAKEN)
    if known is not None:
        seconds = 0.0 if taken is None else float(str(taken["seconds"]))
        return Answered.from_json(known), seconds  # type: ignore[arg-type]  # As saved below.
    started = time.monotonic()
    found = answer_search_items(opened, opened.against, observer)
    seconds = time.monotonic() - started
    store.save_document(REFERENCE_TAKEN, {"seconds": seconds})
    store.save_document(REFERENCE, found.to_json())
    return found, seconds
