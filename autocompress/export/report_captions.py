"""Says in one sentence what to conclude from each figure of a report."""

import re

from autocompress.export.figures import short
from autocompress.export.report import Report
from autocompress.export.report_words import latency_model, named_baselines, percent


def caption(report: Report, figure: str) -> str:
    """Return the sentence for a figure of `figures.available`."""
    return {
        "layer_map": _layer_map,
        "speedups": _speedups,
        "baselines": _baselines,
        "loss_history": _loss_history,
    }[figure](report)


def _layer_map(report: Report) -> str:
    sides = []
    for name, settings in (
        ("attention", [choice.attention for choice in report.layer_map]),
        ("MLP", [choice.mlp for choice in report.layer_map]),
    ):
        narrowed = sum(setting.startswith("width") for setting in settings)
        dropped = settings.count("drop")
        blocks = f"{name} block is" if dropped == 1 else f"{name} blocks are"
        told = f"{dropped} {blocks} dropped and {narrowed} narrowed"
        stored = [re.sub(r"width \S+ ?", "", s).strip(", ") for s in settings]
        coded = sum(setting not in ("", "dense", "drop") for setting in stored)
        sides.append(told + (f", {coded} stored in fewer bits" if coded else ""))
    said = "; ".join(sides)
    return f"Of {len(report.layer_map)} layers, {said}. Height is the share of the bytes kept."


def _speedups(report: Report) -> str:
    speed = report.speedup
    winner = "the winner was not measured"
    if speed.measured is not None and speed.predicted_interval is not None:
        low, high = speed.predicted_interval
        side = "inside" if low <= speed.measured <= high else "OUTSIDE"
        winner = f"the winner was measured {side} its predicted interval"
    return f"Predictions: {latency_model(report)}; {winner}."


def _baselines(report: Report) -> str:
    found: dict[str, list[str]] = {}
    for name, baseline in named_baselines(report):
        difference = baseline.paired_difference
        if difference is None:
            words = "not tested against"
        elif difference[0] > 0:
            words = "better than"
        else:
            words = "WORSE than" if difference[1] < 0 else "not distinguishable from"
        found.setdefault(words, []).append(name)
    claims = "; ".join(f"{words} {', '.join(names)}" for words, names in found.items())
    return f"At the same target, this search is {claims} (paired by sequence, 95 %)."


def _loss_history(report: Report) -> str:
    first, last = report.history[0], report.history[-1]
    gain = first.loss - last.loss
    if gain <= 0:
        return f"The search found nothing better than its start in {short(last.tokens)} tokens."
    most = next(p for p in report.history if first.loss - p.loss >= 0.9 * gain)
    return (
        f"The search took {percent(gain / first.loss)} off its start's loss; nine tenths of that "
        f"came in the first {short(most.tokens)} of {short(last.tokens)} tokens."
    )
