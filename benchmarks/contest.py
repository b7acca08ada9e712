"""Runs every strategy on one task and holds what they found side by side, on unread text."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.pipeline.conclusion import paired_interval
from autocompress.pipeline.latency import hardware
from autocompress.search.base import Task
from autocompress.search.evolve import settings_for
from autocompress.search.strategies import make_strategy
from autocompress.trial import Genotype, Measurement
from benchmarks.laboratory import Laboratory, Step

OURS = "evolve"
BOOTSTRAPS = 2000
MOST_STEPS = 4
APART = 1.1
"""Ratio of tokens of neighbouring steps of ours: what they reach is told at most so late."""

Row = dict[str, Any]
TaskFor = Callable[[int | None], Task]
"""Makes the task, given the most tokens a search may spend."""
Figures = Mapping[str, Callable[[Genotype], float]]
"""What else is told of what strategies end with."""


@dataclass(frozen=True, slots=True)
class Field:
    """Whom ours is held against.

    Args:
        evopress: Which of EvoPress's schedules.
        others: Strategies with a cost of their own.
        share: Of EvoPress's tokens, how many ours may spend; a generation begun below is finished.
    """

    evopress: str
    others: tuple[str, ...]
    share: float = 1.0


SHAPES = Field(
    "evopress", ("uniform", "random", "additive", "leave-one-out", "shortgpt", "cosine")
)
# Room for the last generation within a quarter.
A_QUARTER = 0.24
BITS_IN_FULL = Field("evopress", (), A_QUARTER)
BITS = Field("evopress-fast", ("uniform", "additive", "weight-error", "fisher"), A_QUARTER)
SPARSITY = Field("evopress-fast", ("uniform", "additive", "weight-error", "owl"), A_QUARTER)


def contest(
    lab: Laboratory,
    task_for: TaskFor,
    field: Field,
    known: Row,
    keep: Callable[[Row], object],
    machine: str,
) -> Row:
    """Run EvoPress to its end, ours with a share of its tokens, and the others; measure them all.

    Args:
        known: A row of an earlier run: what it holds of a strategy is not run again.
        keep: Is given the row after each strategy.
        machine: Where strategies run now; the row tells it of each.
    """
    theirs = field.evopress
    strategies = (OURS, theirs, *field.others)
    ran_on = {name: known["hardware"] for name in strategies if {name, "hardware"} <= {*known}}
    ran_on |= known.get("ran_on", {})
    row = {**known, "ran_on": ran_on}
    for name in (theirs, *field.others):
        if name not in row:
            row[name] = _path(_thinned(_run(lab, name, task_for(None))))
            ran_on[name] = machine
            keep(row)
    if OURS not in row:
        most = int(field.share * row[theirs][-1]["tokens"])
        row[OURS] = _path(_apart(_run(lab, OURS, task_for(most))))
        ran_on[OURS] = machine
        keep(row)
    lacking = [s for name in strategies for s in row[name] if "kl" not in s or s is row[name][-1]]
    losses = lab.held_out([Genotype(tuple(step["levels"])) for step in lacking])
    for step in lacking:
        step["kl"] = losses[Genotype(tuple(step["levels"]))].loss

    def final(name: str) -> Measurement:
        return losses[Genotype(tuple(row[name][-1]["levels"]))]

    def reached(loss: float) -> int | None:
        return next((int(s["tokens"]) for s in row[OURS] if s["kl"] <= loss), None)

    goal = final(theirs).loss
    return row | {
        "minus_ours": {name: paired(final(name), final(OURS)) for name in (theirs, *field.others)},
        "tokens_to_evopress_final": reached(goal),
        "tokens_to_one_percent_of_it": reached(1.01 * goal),
    }


def paired(theirs: Measurement, ours: Measurement) -> list[float]:
    """Return the 95 % interval of their KL minus ours, paired over sequences."""
    return list(paired_interval(ours, theirs))


def summary(rows: Sequence[Row], evopress: str) -> dict[str, dict[str, Any]]:
    """Return medians over seeds for each case; a run that never got there counts as infinite."""
    parts: dict[str, dict[str, Any]] = {}
    for case in sorted({row["case"] for row in rows}):
        own = [row for row in rows if row["case"] == case]
        shares = [_share(row, evopress) for row in own]
        ratios = [row[OURS][-1]["kl"] / row[evopress][-1]["kl"] for row in own]
        rng = np.random.default_rng(0)
        drawn = rng.choice(shares, (BOOTSTRAPS, len(shares)))
        medians = np.sort(np.median(drawn, axis=1))
        low, high = medians[int(0.025 * BOOTSTRAPS)], medians[int(0.975 * BOOTSTRAPS) - 1]
        parts[case] = {
            "share_of_tokens": _number(statistics.median(shares)),
            "share_interval": [_number(low), _number(high)],
            "final_kl_to_evopress": statistics.median(ratios),
            "worst_final_kl_to_evopress": max(ratios),
        }
    return parts


def finished(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a contest's result without the rows that an interrupted run left unfinished."""
    return {**result, "rows": [row for row in result["rows"] if "minus_ours" in row]}


class Series:
    """Rows of a contest, one a case and seed, in a file that is whole after each strategy."""

    def __init__(
        self,
        output: Path,
        field: Field,
        about: Mapping[str, object],
        figures: Figures | None = None,
    ) -> None:
        self._output = output
        self._field = field
        self._about = about
        self._figures = figures or {}
        known = json.loads(output.read_text(encoding="utf-8"))["rows"] if output.is_file() else []
        self._rows: dict[tuple[str, int], Row] = {(row["case"], row["seed"]): row for row in known}

    def run(self, case: str, seed: int, lab: Laboratory, task_for: TaskFor) -> None:
        """Add what the file lacks of a row and write it anew."""
        known = self._rows.get((case, seed), {"case": case, "seed": seed})
        if "minus_ours" in known and OURS in known:
            return
        machine = hardware(lab.prepared.device, lab.workers)
        row = contest(lab, task_for, self._field, known, self._keep, machine)
        ends = {
            name: Genotype(tuple(row[name][-1]["levels"]))
            for name in (OURS, self._field.evopress, *self._field.others)
        }
        for figure, of in self._figures.items():
            row[figure] = {name: of(genotype) for name, genotype in ends.items()}
        about = {"hardware": machine, "number_format": lab.number_format}
        print(case, seed, json.dumps(self._keep(row | about)), flush=True)

    def _keep(self, row: Row) -> dict[str, dict[str, Any]]:
        """Write the file with a row, finished or not; return what finished ones sum up to."""
        self._rows[row["case"], row["seed"]] = dict(row)
        rows = [self._rows[key] for key in sorted(self._rows)]
        whole = summary([row for row in rows if "minus_ours" in row], self._field.evopress)
        write_whole(self._output, {**self._about, "summary": whole, "rows": rows})
        return whole


def write_whole(output: Path, result: Mapping[str, object]) -> None:
    """Write a result as JSON in the place of what was there, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n", encoding="utf-8")
    partial.replace(output)


def _run(lab: Laboratory, name: str, task: Task) -> list[Step]:
    scores = lab.scores(name)
    own = dataclasses.replace(task, tokens_of_rules=scores.tokens)
    return lab.run(make_strategy(name, own, settings_for(task.allowed), scores))


def _thinned(steps: list[Step]) -> list[Step]:
    """Return the last step and some before it: each is measured on all of the report text."""
    return steps[-1 :: -max(1, len(steps) // MOST_STEPS)][::-1]


def _apart(steps: list[Step]) -> list[Step]:
    """Return the last step and those before it that spent a ratio more than the one before."""
    kept: list[Step] = []
    for step in steps[:-1]:
        if not kept or step.tokens >= APART * kept[-1].tokens:
            kept.append(step)
    return [*kept, steps[-1]]


def _path(steps: Sequence[Step]) -> list[Row]:
    return [
        {"tokens": s.tokens, "seconds": round(s.seconds, 1), "levels": list(s.best.levels)}
        for s in steps
    ]


def _share(row: Row, evopress: str) -> float:
    reached = row["tokens_to_evopress_final"]
    return float("inf") if reached is None else reached / row[evopress][-1]["tokens"]


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
