"""Holds winners picked for what a training gives back against those picked as they are.

    python -m benchmarks.darwin --output benchmarks/results/darwin.json

At 2x in depth and width, the latency that of `benchmarks.depth_width`. `darwin` begins with that
benchmark's winner of the same seed and one generation of its own, and then trains candidates by
its usual rungs. Its winner is distilled on so many tokens; the contest's on these and on all that
`darwin` trained candidates on. Both are measured on 256 sequences of the report text, from their
checkpoints. What the output holds of a seed is not run again.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from autocompress.models import loading
from autocompress.pipeline.conclusion import paired_interval
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import import_table
from autocompress.pipeline.searching import darwin_settings
from autocompress.search.evolve import settings_for
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import under
from autocompress.trial import Genotype, Measurement
from benchmarks.contest import write_whole
from benchmarks.depth_width import TABLE
from benchmarks.laboratory import MODEL, SHARDS, laboratory
from benchmarks.recovery import WINNERS, around, evolved, prepared_for, told

TARGET = 2.0

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=300_000, help="to train darwin's winner on")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    arguments = parser.parse_args()
    rows: dict[int, Row] = {}
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        rows = {row["seed"]: row for row in known}
    winners = evolved()
    if unknown := sorted(set(arguments.seeds) - winners.keys()):
        raise SystemExit(f"no winner of seed {unknown[0]} in {WINNERS}")
    for seed in arguments.seeds:
        if seed in rows:
            continue
        rows[seed] = {"seed": seed} | run(seed, winners[seed], arguments.tokens)
        found = [rows[own] for own in sorted(rows)]
        write_whole(arguments.output, {"summary": summary(found), "rows": found})
        print(json.dumps(summary(found)), flush=True)


def run(seed: int, winner: Genotype, tokens: int) -> Row:
    """Pick a winner by trainings, and train both winners."""
    picked, trained, seconds = picked_by_training(seed, winner)
    here = hardware(loading.pick_device("auto"), len(os.sched_getaffinity(0)))
    print(seed, "picked", list(picked.levels), trained, f"{seconds:.0f} s", flush=True)
    same, plain = (after(seed, own, tokens) for own in (picked, winner))
    more = after(seed, winner, tokens + trained)
    return {
        "levels": list(picked.levels),
        "trained_in_search": trained,
        "search_seconds": seconds,
        "search_hardware": here,
        "tokens": tokens,
        "darwin": told(same),
        "evolve_same_recovery": told(plain),
        "evolve_same_total": told(more),
        "minus_darwin_same_recovery": list(paired_interval(same, plain)),
        "minus_darwin_same_total": list(paired_interval(same, more)),
        "hardware": here,
    }


def picked_by_training(seed: int, winner: Genotype) -> tuple[Genotype, int, float]:
    """Return darwin's winner, the tokens that it trained candidates on, and its seconds."""
    how = {"strategy": "darwin", "recover": 1, "seed": seed, "shards": SHARDS}
    with laboratory(["depth", "width"], MODEL, **how) as lab:
        space, spec = lab.prepared.space, lab.prepared.spec
        cost = import_table(str(TABLE), space).cost(space)
        task = lab.task(under(space, cost, cost.dense / TARGET), seed)
        task = dataclasses.replace(task, extra=(winner,))
        before = dataclasses.replace(settings_for(task.allowed), generations=1)
        driver, started = lab.driver(), time.monotonic()
        strategy = make_strategy("darwin", task, before, None, darwin_settings(spec))
        steps = lab.run(strategy, driver)
        return steps[-1].best, driver.trained, time.monotonic() - started


def after(seed: int, winner: Genotype, tokens: int) -> Measurement:
    """Return what a winner loses after it was trained on so many tokens."""
    return around(prepared_for(seed, recover=tokens), winner)[1]


def summary(rows: list[Row]) -> Row:
    """Return medians over seeds."""
    names = ("darwin", "evolve_same_recovery", "evolve_same_total")
    return {
        "trained_in_search": statistics.median(row["trained_in_search"] for row in rows),
        **{f"kl_{name}": statistics.median(row[name]["kl"] for row in rows) for name in names},
        "below_at_same_total": sum(row["minus_darwin_same_total"][0] > 0 for row in rows),
        "above_at_same_total": sum(row["minus_darwin_same_total"][1] < 0 for row in rows),
    }


if __name__ == "__main__":
    main()
