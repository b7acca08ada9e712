"""Replays the batches of a real search on 1 to 64 workers, by a simulated clock.

    python -m benchmarks.scaling --output benchmarks/results/scaling.json

A search of 128 offspring in depth and width runs for some generations on the real workers. Its
batches, rungs of few survivors among them, are cut anew into more and more shards, by the driver
itself. Seconds of a shard follow from what the population evaluator does of it, fitted to shards
timed in this process, so that the prefixes a cut no longer shares are paid for, and so are the
dense model's predictions, which every worker makes for itself. A simulated clock hands the shards
to workers as the dispatcher does and waits for the last of each batch. It is held against real
runs of one and two workers. Nothing else may run meanwhile.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from autocompress.models import loading
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import Prepared
from autocompress.search.shards import Cut
from autocompress.trial import Fidelity, Split
from autocompress.workers.base import Shard
from benchmarks.evaluation import make_evaluator
from benchmarks.laboratory import laboratory
from benchmarks.scaling_batches import Asked, batches_of, shards_of
from benchmarks.scaling_costs import CostModel, Shape, fit, shape_of, timed
from benchmarks.scaling_curves import CUTS, WHOLE, clockwork_of, curves, jobs_of, played
from benchmarks.scaling_overheads import driver_and_store, pools
from benchmarks.scaling_validation import compare_with_real

BAR = {"efficiency": 0.9, "workers": 16, "offspring": 128}
TIMED_CUTS = (1, 4, 16, 64, 128)


def timed_shards(
    cuts: dict[int, list[list[Shard]]], n: int, rng: np.random.Generator
) -> list[Shard]:
    """Return as many shards of each cut, in random order, all of the first draw."""
    picked = []
    for asked in cuts.values():
        own = [shard for shards in asked for shard in shards if shard.fidelity.draw == 0]
        chosen = rng.permutation(len(own))[: n // len(cuts)]
        picked += [own[index] for index in chosen]
    return [picked[index] for index in rng.permutation(len(picked))]


def fitted(
    prepared: Prepared, shape: Shape, asked: Sequence[Asked], n: int, seed: int
) -> CostModel:
    """Time shards of several cuts in this process, on one thread, and fit their costs."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    batches = [own.batch for own in asked]
    least = prepared.cut.least_sequences
    cuts = {shards: shards_of(batches, Cut(shards, least)) for shards in TIMED_CUTS}
    picked = timed_shards(cuts, n, rng)
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    evaluator = make_evaluator(plan)
    # Untimed: the levels' first reading.
    everyone = tuple(dict.fromkeys(g for shard in picked for g in shard.genotypes))
    evaluator.measure(everyone, Fidelity(Split.SELECTION, 0, 0, 1))
    return fit(timed(evaluator, shape, picked), rng)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--offspring", type=int, default=BAR["offspring"])
    parser.add_argument("--generations", type=int, default=7, help="an epoch has 6")
    parser.add_argument("--timed", type=int, default=100, help="shards that costs are fitted to")
    parser.add_argument("--validated", type=int, default=3, help="batches of the real runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small, for development")
    arguments = parser.parse_args()
    if arguments.quick:
        small = {"offspring": 24, "generations": 1, "timed": 20, "validated": 1, "rounds": 1}
        vars(arguments).update(small)
    with laboratory(["depth", "width"]) as lab:
        prepared = lab.prepared
        settings, asked = batches_of(
            lab, arguments.offspring, arguments.generations, arguments.seed
        )
    print(f"{len(asked)} batches", flush=True)
    batches = [own.batch for own in asked]
    shape = shape_of(prepared)
    model = fitted(prepared, shape, asked, arguments.timed, arguments.seed)
    print(f"R2 {model.r2:.3f}, median error {model.median_error:.1%}", flush=True)
    least = prepared.cut.least_sequences
    way = pools(shards_of(batches, Cut(CUTS[-1], least)), arguments.rounds)
    warm_start = 1 + len(settings.rungs)  # Single changes, then the first parents' rungs.
    parts = curves(shape, model, asked, warm_start, least, way)
    some = batches[-arguments.validated :]
    clockwork = clockwork_of(model, shape, driver_and_store(some, prepared.cut, ""), way)

    def simulate(shards: list[list[Shard]], n: int) -> float:
        jobs = jobs_of(shape, model, shards)
        return played(jobs, [0.0] * len(jobs), n, clockwork).clock

    ways = [(WHOLE, 1), (prepared.cut, 1), (prepared.cut, 2), (Cut(CUTS[-1], least), 2)]
    trials = sum(len(batch.candidates) for batch in batches)
    result = {
        "hardware": hardware(torch.device("cpu"), 1),
        "bar": BAR,
        "settings": dataclasses.asdict(settings),
        "context": prepared.spec.context,
        "batches": [
            {
                "candidates": len(own.batch.candidates),
                "sequences": own.batch.fidelity.sequences,
                "draw": own.batch.fidelity.draw,
                "strategy_seconds": own.strategy_seconds,
            }
            for own in asked
        ],
        "warm_start_batches": warm_start,
        "trials": trials,
        "strategy_ms_per_trial": 1000 * sum(own.strategy_seconds for own in asked) / trials,
        "costs": dataclasses.asdict(model),
        "pools": dataclasses.asdict(way),
        "cuts": parts,
        "validation": compare_with_real(prepared, some, ways, simulate, arguments.rounds),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
