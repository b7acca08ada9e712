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
import os
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
from benchmarks.scaling_costs import CostModel, Shape, count, fit, rows_of, shape_of, timed
from benchmarks.scaling_overheads import PoolTimes, driver_and_store, pools
from benchmarks.scaling_validation import compare_with_real
from benchmarks.simulated_clock import Clockwork, SimulatedWorkers, TimedJob

BAR = {"efficiency": 0.9, "workers": 16, "offspring": 128}
WORKERS = (1, 2, 4, 8, 16, 32, 64)
CUTS = (16, 32, 64, 128)
WHOLE = Cut(1)
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


def jobs_of(shape: Shape, model: CostModel, asked: list[list[Shard]]) -> list[list[TimedJob]]:
    """Return what the simulated workers are given."""
    return [
        [TimedJob(model.of(count(shape, s, 0)), rows_of(shape, s)) for s in own] for own in asked
    ]


def played(
    jobs: Sequence[Sequence[TimedJob]], thought: Sequence[float], n: int, how: Clockwork
) -> SimulatedWorkers:
    """Return the workers when all batches are done.

    Args:
        thought: Seconds of the strategy before each batch.
    """
    crew = SimulatedWorkers(n, how)
    for own, seconds in zip(jobs, thought, strict=True):
        crew.wait(seconds)
        crew.run(own)
    return crew


def curve(
    jobs: Sequence[Sequence[TimedJob]],
    thought: Sequence[float],
    how: Clockwork,
    best: tuple[float, float],
) -> list[dict[str, float]]:
    """Return a row for each number of workers.

    Args:
        best: Seconds of one worker that shares all it can, without and with the strategy's.
    """
    nothing = [0.0] * len(thought)
    alone = played(jobs, nothing, 1, how).clock
    rows = []
    for n in WORKERS:
        crew = played(jobs, nothing, n, how)
        with_strategy = played(jobs, thought, n, how).clock
        rows.append(
            {
                "workers": n,
                "seconds": crew.clock,
                "efficiency": best[0] / (n * crew.clock),
                "efficiency_of_this_cut": alone / (n * crew.clock),
                "efficiency_with_strategy": best[1] / (n * with_strategy),
                "worked": crew.busy,
                "for_the_dense_model": crew.prepared,
                "idle": 1 - crew.busy / (n * crew.clock),
            }
        )
    return rows


def clockwork_of(
    model: CostModel, shape: Shape, driver: dict[str, dict[str, float]], way: PoolTimes
) -> Clockwork:
    """Charge each job with driver, SQLite and the way to a local worker and back, one by one."""
    per_job = driver["sqlite"]["ms_per_shard"] + way.local.ms_per_shard
    return Clockwork(model.seconds.teachers, shape.teachers, per_job / 1000)


def curves(
    shape: Shape, model: CostModel, asked: Sequence[Asked], least_sequences: int, way: PoolTimes
) -> list[dict[str, object]]:
    """Return for each cut, the whole batch first, its overheads and its rows."""
    batches = [own.batch for own in asked]
    thought = [own.strategy_seconds for own in asked]
    nothing = [0.0] * len(thought)
    postgres = os.environ.get("AUTOCOMPRESS_TEST_POSTGRES", "")
    parts = []
    for how in (WHOLE, *(Cut(shards, least_sequences) for shards in CUTS)):
        driver = driver_and_store(batches, how, postgres)
        clockwork = clockwork_of(model, shape, driver, way)
        parts.append((how, driver, clockwork, jobs_of(shape, model, shards_of(batches, how))))
    best = tuple(
        min(played(jobs, own, 1, clockwork).clock for _, _, clockwork, jobs in parts)
        for own in (nothing, thought)
    )
    return [
        {
            "shards": how.shards,
            "overheads": driver,
            "seconds_per_job_in_driver": clockwork.per_job,
            "seconds_of_longest_job": max(job.seconds for own in jobs for job in own),
            "curve": curve(jobs, thought, clockwork, (best[0], best[1])),
        }
        for how, driver, clockwork, jobs in parts
    ]


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
    parts = curves(shape, model, asked, least, way)
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
