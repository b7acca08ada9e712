"""Searches for a symbolic pruning metric, picks the best of it, and tells how it stands."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from autocompress.errors import EvaluationError
from autocompress.export.evaluation import Estimate
from autocompress.export.metric_report import (
    WORSE_AT_MOST,
    AgainstBest,
    MetricReport,
    MetricStanding,
    PrunedLoss,
    write_metric,
)
from autocompress.operators.rankings import Rankings
from autocompress.pipeline.conclusion import versions
from autocompress.pipeline.intervals import mean_interval
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.metric_asked import MetricAsked, journal_header
from autocompress.pipeline.metric_journal import MetricJournal
from autocompress.pipeline.metric_measuring import LEAST_LOSS, MetricMeasuring
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.study import check_output
from autocompress.search.metric_evolution import MetricEvolution
from autocompress.spaces.expression_trees import parse, to_text
from autocompress.spaces.known_metrics import KNOWN_METRICS
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Fidelity, Measurement, Split

JOURNAL = "evaluations.jsonl"
FEW, MANY = 2, 16
"""Sequences of the search text: that all of a generation are read on, and the best of it."""
FINALISTS = 8
SELECTION = 48
"""Sequences that finalists are read on."""
REPORT = 64
"""Sequences that the winner and the known metrics are read on at last."""

Losses = Mapping[str, Measurement]
"""By sparsity."""


def search_metric(asked: MetricAsked, output: Path, observer: Observer) -> MetricReport:
    """Evolve metrics, and leave the best with its losses in a folder.

    What an interrupted run has measured lies in the folder, and is not measured again.

    Raises:
        AutocompressError: Whatever cannot be meant, read, run or written.
    """
    check_output(output)
    prepared = prepare(asked.spec)
    settings = {name: WeightSetting.parse(f"s{name}") for name in asked.spec.sparsities}
    journal = MetricJournal.open(output / JOURNAL, journal_header(prepared, asked))
    measuring = MetricMeasuring(prepared, journal, observer)
    searched = {name: settings[name] for name in asked.searched}
    evolution = _evolved(prepared, measuring, list(searched.values()), asked.evaluations, observer)
    observer.stage("selection text")
    selection = _part(prepared, Split.SELECTION, SELECTION)
    finalists = [to_text(tree) for tree in evolution.finalists(FINALISTS)]
    candidates = [*KNOWN_METRICS.values(), *finalists]
    picked = _read(measuring, candidates, searched, selection, observer)
    if picked.keys().isdisjoint(KNOWN_METRICS.values()):
        raise EvaluationError("No known metric has a value for all weights of this model.")
    winner = _winner(picked, finalists)
    observer.stage("report text")
    last = _part(prepared, Split.REPORT, REPORT)
    named = {**KNOWN_METRICS, **({} if winner is None else {"winner": winner})}
    told = [own for own in named.values() if own in picked]
    read = _read(measuring, told, settings, last, observer)
    named = {name: own for name, own in named.items() if own in read}
    winner = named.get("winner")
    standings = {
        name: MetricStanding(
            name, expression, _losses(picked[expression]), _losses(read[expression])
        )
        for name, expression in named.items()
    }
    known = tuple(standings[name] for name in KNOWN_METRICS if name in standings)
    report = MetricReport(
        model=asked.spec.model,
        hardware=hardware(prepared.device, 1),
        text=asked.spec.calibration or "the built-in sample",
        sparsities=asked.searched,
        tested=asked.tested,
        evaluations=evolution.evaluations,
        generations=evolution.generation,
        stopped_because=evolution.stopped_because,
        known=known,
        undefined=tuple(name for name in KNOWN_METRICS if name not in standings),
        winner=standings.get("winner"),
        against=() if winner is None else _against(asked, winner, read, settings, measuring),
        finalists=tuple(finalists),
        selection_sequences=selection.sequences,
        report_sequences=last.sequences,
        context=asked.spec.context,
        seed=asked.spec.seed,
        versions=versions(),
    )
    write_metric(report, output)
    return report


def _evolved(
    prepared: Prepared,
    measuring: MetricMeasuring,
    settings: Sequence[WeightSetting],
    evaluations: int,
    observer: Observer,
) -> MetricEvolution:
    """Run an evolution to its end."""
    many = _part(prepared, Split.SEARCH, MANY)
    few = min(FEW, many.sequences - 1)
    first = Fidelity(many.split, many.draw, 0, few)
    rungs = ((first,), (first, Fidelity(many.split, many.draw, few, many.sequences - few)))
    known = [parse(expression) for expression in KNOWN_METRICS.values()]
    evolution = MetricEvolution(known, Rankings(), evaluations, prepared.spec.seed)
    observer.stage("metrics")
    told = None
    while (batch := evolution.ask()) is not None:
        losses = []
        for n, tree in enumerate(batch.trees, 1):
            losses.append(measuring.log_loss(to_text(tree), settings, rungs[batch.rung]))
            if not batch.rung:
                done = evolution.evaluations - len(batch.trees) + n
                observer.advance(done, evaluations)
        evolution.tell(losses)
        if evolution.best is not None and evolution.best != told:
            told = evolution.best
            observer.tell(
                "metric",
                {
                    "evaluations": evolution.evaluations,
                    "loss": told.loss,
                    "expression": to_text(told.tree),
                },
            )
    return evolution


def _read(
    measuring: MetricMeasuring,
    expressions: Sequence[str],
    settings: Mapping[str, WeightSetting],
    part: Fidelity,
    observer: Observer,
) -> dict[str, Losses]:
    """Return what each metric loses on a part of a draw; those left out cannot be measured."""
    found: dict[str, Losses] = {}
    for done, expression in enumerate(expressions, 1):
        # Where a row of a layer is all zeros, a metric that divides by its sum has no value.
        with contextlib.suppress(EvaluationError):
            measured = measuring.measured(expression, list(settings.values()), [part])
            found[expression] = dict(zip(settings, measured, strict=True))
        observer.advance(done, len(expressions))
    return found


def _winner(picked: Mapping[str, Losses], finalists: Sequence[str]) -> str | None:
    """Return the finalist of least mean log loss, of those hardly worse than the known anywhere.

    Where all are worse somewhere, the best of them all: the report says how it stands.
    """

    def standing(expression: str) -> tuple[bool, float]:
        ratios = [
            math.log(max(own.loss, LEAST_LOSS) / max(_best_known(picked, name)[1], LEAST_LOSS))
            for name, own in picked[expression].items()
        ]
        return max(ratios) > math.log1p(WORSE_AT_MOST), math.fsum(ratios)

    return min((own for own in finalists if own in picked), key=standing, default=None)


def _best_known(read: Mapping[str, Losses], sparsity: str) -> tuple[str, float]:
    """Return the known metric that loses least at a sparsity, and what it loses."""
    losses = {name: read[own][sparsity].loss for name, own in KNOWN_METRICS.items() if own in read}
    best = min(losses, key=lambda name: losses[name])
    return best, losses[best]


def _losses(measured: Losses) -> dict[str, PrunedLoss]:
    return {
        name: PrunedLoss(_estimate(np.asarray(own.kl)), own.perplexity)
        for name, own in measured.items()
    }


def _estimate(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), mean_interval(values))


def _against(
    asked: MetricAsked,
    winner: str,
    read: Mapping[str, Losses],
    settings: Mapping[str, WeightSetting],
    measuring: MetricMeasuring,
) -> tuple[AgainstBest, ...]:
    """Hold the winner against the best known metric of each sparsity, on the report text."""
    found = []
    for name in (*asked.searched, *asked.tested):
        best, loss = _best_known(read, name)
        known = KNOWN_METRICS[best]
        difference = _estimate(np.subtract(read[winner][name].kl, read[known][name].kl))
        scale = max(loss, LEAST_LOSS)
        low, high = difference.interval
        relative = Estimate(difference.value / scale, (low / scale, high / scale))
        shared = measuring.shared(winner, known, settings[name])
        is_searched = name in asked.searched
        found.append(AgainstBest(name, is_searched, best, difference, relative, shared))
    return tuple(found)


def _part(prepared: Prepared, split: Split, most: int) -> Fidelity:
    """Return a reading of a split's first draw, of all of it where it holds no more."""
    return Fidelity(split, 0, 0, min(most, len(prepared.sequences[split])))
