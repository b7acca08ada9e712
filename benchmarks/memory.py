"""Measures peak resident memory against population size, for several limits.

    python -m benchmarks.memory --output benchmarks/results/memory.json

Each population, distinct random candidates that share as little as any, is measured in a process
of its own on the shipped reference model, in depth with 4 attention and 4 MLP sub-blocks dropped,
or in depth and width at half a made-up latency. Beyond the limit the peak must stay where it is.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from autocompress.models.architecture import Architecture
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import prepare
from autocompress.spaces.cost import Constraint
from autocompress.spaces.moves import Moves
from autocompress.spec import from_mapping
from autocompress.trial import Fidelity, Genotype, Split
from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.session import SessionPlan
from benchmarks.fresh_process import run_fresh
from benchmarks.generation import drops, half_the_time
from benchmarks.memory_bound import Reading, parts_of_memory, streams_wanted

MODEL = Path(__file__).parent.parent / "examples" / "reference-model"
MIB = 2**20


def random_population(constraint: Constraint, n: int, seed: int) -> list[Genotype]:
    """Return n distinct random candidates."""
    rng = np.random.default_rng(seed)
    moves = Moves(constraint, constraint.useful_levels())
    found: dict[Genotype, None] = {}
    for _ in range(100):
        drawn = moves.random(n, rng).tolist()
        found |= dict.fromkeys(Genotype(tuple(levels)) for levels in drawn)
        if len(found) >= n:
            return list(found)[:n]
    raise SystemExit(f"The space gave only {len(found)} different candidates, fewer than {n}.")


def load_nothing(_plan: SessionPlan) -> None:
    """Hold what a session's imports take: the plan came pickled."""


def build(plan: SessionPlan, layers: int) -> int:
    """Build all levels."""
    return plan().build(BuildJob(tuple(range(layers))))


def measure(plan: SessionPlan, shard: Shard) -> float:
    """Measure one shard in a session of its own; return its seconds."""
    session = plan()
    started = time.perf_counter()
    session.measure(shard)
    return time.perf_counter() - started


def one(
    plan: SessionPlan, shape: Architecture, shard: Shard, imports: int, dense: int
) -> dict[str, object]:
    n_candidates, n_sequences = len(shard.genotypes), shard.fidelity.sequences
    length = plan.sequences[shard.fidelity.split].shape[1]
    reading = Reading(n_candidates, n_sequences, length)
    parts = parts_of_memory(plan, shape, reading)
    outcome = run_fresh(partial(measure, plan, shard))
    return {
        "population": n_candidates,
        "states_bytes": plan.limits.states_bytes,
        "is_beyond": streams_wanted(plan, shape, reading) >= plan.limits.states_bytes,
        "peak_bytes": outcome.peak_bytes,
        "over_dense_bytes": outcome.peak_bytes - dense,
        "stated_bytes": imports + sum(parts.values()),
        "stated_parts": parts,
        "seconds": round(outcome.result, 2),
    }


def growth(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return for each limit by how much the peak grew from where the limit was first reached."""
    found = []
    for limit in dict.fromkeys(row["states_bytes"] for row in rows):
        beyond = [row for row in rows if row["states_bytes"] == limit and row["is_beyond"]]
        peaks = [int(str(row["peak_bytes"])) for row in beyond]
        if len(peaks) > 1:
            found.append(
                {
                    "states_bytes": limit,
                    "from": beyond[0]["population"],
                    "to": beyond[-1]["population"],
                    "growth": max(peaks) / peaks[0] - 1,
                    "growth_bytes": max(peaks) - peaks[0],
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--space", choices=("depth", "depth,width"), default="depth")
    parser.add_argument("--limits", type=int, nargs="+", default=[16, 64, 256], help="MiB")
    parser.add_argument("--most", type=int, default=512, help="candidates")
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prepared = prepare(
        from_mapping(
            {
                "model": str(arguments.model),
                "target_speedup": 2,
                "space": arguments.space,
                "device": "cpu",
                "seed": arguments.seed,
            }
        )
    )
    space, shape = prepared.space, prepared.architecture
    constraint = (
        drops(space, shape.n_layers // 3) if arguments.space == "depth" else half_the_time(space)
    )
    candidates = random_population(constraint, arguments.most, arguments.seed)
    fidelity = Fidelity(Split.SEARCH, 0, 0, arguments.sequences)
    sizes = [2**power for power in range(arguments.most.bit_length())]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = dataclasses.replace(prepared.session_plan(""), levels=Path(folder))
        if "width" in arguments.space:
            run_fresh(partial(build, plan, shape.n_layers))
        imports = run_fresh(partial(load_nothing, plan)).peak_bytes
        dense = run_fresh(partial(measure, plan, Shard((space.dense,), fidelity))).peak_bytes
        for limit in arguments.limits:
            limits = dataclasses.replace(plan.limits, states_bytes=limit * MIB)
            limited = dataclasses.replace(plan, limits=limits)
            for size in sizes:
                shard = Shard(tuple(candidates[:size]), fidelity)
                rows.append(one(limited, shape, shard, imports, dense))
                result = {
                    "hardware": hardware(prepared.device, 1),
                    "model": arguments.model.name,
                    "space": arguments.space,
                    "sequences": arguments.sequences,
                    "context": prepared.spec.context,
                    "imports_bytes": imports,
                    "dense_bytes": dense,
                    "growth": growth(rows),
                    "rows": rows,
                }
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
