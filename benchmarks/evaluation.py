"""Times one generation measured as a population against its candidates measured one by one.

    python -m benchmarks.evaluation --space depth --output benchmarks/results/evaluation-depth.json

The generation: distinct mutants of one random parent, in the depth space with 4 attention and 4
MLP sub-blocks dropped (EvoPress's own constraint, arXiv:2410.14649), in depth and width at half a
made-up latency. Both ways run in turn, in one process on one thread and on two workers through the
real pool, where the population comes in the search's shards and the others in shards of one.
Nothing else may run meanwhile.
"""

import argparse
import contextlib
import dataclasses
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from autocompress.evaluators.population import PopulationEvaluator, Work
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.search.shards import cut
from autocompress.spaces.base import SearchSpace
from autocompress.spec import from_mapping
from autocompress.trial import Fidelity, Genotype, Measurement, Split, join
from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.local_pool import LocalPool
from autocompress.workers.session import SessionPlan
from benchmarks.generation import count_sub_blocks, drops, half_the_time, make_generation
from benchmarks.rounds import alternate, compare
from benchmarks.stopwatch import watch

MODEL = Path(__file__).parent.parent / "examples" / "reference-model"
CPU = torch.device("cpu")
BAR = 1.35
EXACT = 8  # One shard in so many is compared in float32 too, untimed.
Losses = dict[Genotype, Measurement]


def make_evaluator(plan: SessionPlan, dtype: str = "auto") -> PopulationEvaluator:
    shaped = ShapedModel(load_model(plan.model, CPU, dtype), plan.space, plan.open_levels())
    return PopulationEvaluator(shaped, plan.sequences, plan.seed, plan.limits)


def measured_here(evaluator: PopulationEvaluator, shards: Sequence[Shard]) -> Losses:
    return collected(
        shards, [evaluator.measure(shard.genotypes, shard.fidelity) for shard in shards]
    )


def measured_on(pool: LocalPool, shards: Sequence[Shard]) -> Losses:
    results: list[Sequence[Measurement]] = [()] * len(shards)
    for index, result in pool.measure(shards):
        if isinstance(result, Exception):
            raise result
        results[index] = result
    return collected(shards, results)


def collected(shards: Sequence[Shard], results: Sequence[Sequence[Measurement]]) -> Losses:
    parts: dict[Genotype, dict[int, Measurement]] = defaultdict(dict)
    for shard, result in zip(shards, results, strict=True):
        for genotype, measurement in zip(shard.genotypes, result, strict=True):
            parts[genotype][shard.fidelity.first] = measurement
    return {
        genotype: join([own[first] for first in sorted(own)]) for genotype, own in parts.items()
    }


def largest_difference(alone: Losses, together: Losses) -> float:
    """Return the largest relative difference of any candidate's loss."""
    return max(abs(together[genotype].loss / alone[genotype].loss - 1) for genotype in alone)


def shares(
    evaluator: PopulationEvaluator, space: SearchSpace, shards: Sequence[Shard]
) -> dict[str, float]:
    """Return the share of sub-blocks saved: counted while they are computed, and by theory."""
    evaluator.work = Work()
    measured_here(evaluator, shards)
    different, total = 0, 0
    for shard in shards:
        own = count_sub_blocks(space, shard.genotypes)
        different += own[0] * shard.fidelity.sequences
        total += own[1] * shard.fidelity.sequences
    return {"saved": evaluator.work.saved, "theory": 1 - different / total}


def in_turn(
    way: str, alone: Callable[[], Losses], together: Callable[[], Losses], rounds: int, seed: int
) -> dict[str, object]:
    # Untimed: the dense model's predictions, the workers' start, the levels' first reading.
    difference = largest_difference(alone(), together())
    one_by_one, population = alternate(alone, together, rounds)
    row = {
        "way": way,
        **compare(one_by_one, population, seed),
        "largest_difference": difference,
        "one_by_one_median": statistics.median(one_by_one),
        "population_median": statistics.median(population),
        "one_by_one_seconds": one_by_one,
        "population_seconds": population,
    }
    print(json.dumps(row), flush=True)
    return row


def parts_of(space: SearchSpace, way: Callable[[], Losses]) -> dict[str, float]:
    """Return the seconds of each part of one pass, and of all the rest."""
    started = time.perf_counter()
    with watch(space) as parts:
        way()
    return parts | {"rest": time.perf_counter() - started - sum(parts.values())}


def built(prepared: Prepared, levels: Path, workers: int) -> tuple[SessionPlan, LocalPool]:
    plan = dataclasses.replace(prepared.session_plan(""), levels=levels)
    pool = LocalPool(plan, workers)
    for _, result in pool.build([BuildJob((n,)) for n in range(prepared.architecture.n_layers)]):
        if isinstance(result, Exception):
            raise result
    return plan, pool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--space", choices=("depth", "depth,width"), default="depth")
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rounds, seed = arguments.rounds, arguments.seed
    torch.set_num_threads(1)  # As in a worker.
    prepared = prepare(
        from_mapping(
            {
                "model": str(MODEL),
                "target_speedup": 2,
                "space": arguments.space,
                "device": "cpu",
                "seed": seed,
            }
        )
    )
    space = prepared.space
    constraint = drops(space, 4) if arguments.space == "depth" else half_the_time(space)
    generation = make_generation(constraint, arguments.candidates, seed)
    reading = Fidelity(Split.SEARCH, 0, 0, arguments.sequences)
    singles = [Shard((genotype,), reading) for genotype in generation]
    whole = [Shard(tuple(generation), reading)]
    shards = cut(generation, reading, prepared.cut)
    with tempfile.TemporaryDirectory() as folder:
        plan, pool = built(prepared, Path(folder), arguments.workers)
        with contextlib.closing(pool):
            evaluator = make_evaluator(plan)
            here = in_turn(
                "one process, one thread",
                lambda: measured_here(evaluator, singles),
                lambda: measured_here(evaluator, whole),
                rounds,
                seed,
            )
            there = in_turn(
                f"{arguments.workers} workers",
                lambda: measured_on(pool, singles),
                lambda: measured_on(pool, shards),
                rounds,
                seed,
            )
        here["parts"] = {
            "one_by_one": parts_of(space, lambda: measured_here(evaluator, singles)),
            "population": parts_of(space, lambda: measured_here(evaluator, whole)),
        }
        here |= shares(evaluator, space, whole)
        there |= shares(evaluator, space, shards)
        exact = make_evaluator(plan, "float32")
        some = shards[::EXACT]
        exact_alone = measured_here(
            exact, [Shard((g,), s.fidelity) for s in some for g in s.genotypes]
        )
        exact_difference = largest_difference(exact_alone, measured_here(exact, some))
    result = {
        "hardware": hardware(CPU, arguments.workers),
        "space": arguments.space,
        "constraint": "4 attention and 4 MLP sub-blocks dropped"
        if arguments.space == "depth"
        else "half a made-up latency, half of which follows the width",
        "candidates": len(generation),
        "sequences": reading.sequences,
        "context": prepared.spec.context,
        "shards": len(shards),
        "shard_candidates": len(shards[0].genotypes),
        "shard_sequences": shards[0].fidelity.sequences,
        "rounds": rounds,
        "seed": seed,
        "bar": BAR,
        "rows": [here, there],
        "float32_share": EXACT,
        "float32_largest_difference": exact_difference,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
