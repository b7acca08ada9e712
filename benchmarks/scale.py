"""Measures one generation of a large randomly initialised model, held whole and streamed.

    python -m benchmarks.scale --output benchmarks/results/scale-cpu-0.5b.json
    python -m benchmarks.scale --shape 8b --device cuda --context 2048 \\
        --output benchmarks/results/scale-cuda-8b.json

The model is made first, or kept in --folder. Depth with a quarter of each kind of sub-blocks
dropped, one generation of mutants of a random parent; `--space depth,width` gives the last layers
random widths too, with real levels, built from a little text. Each run has its own process.
"""

import argparse
import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import prepare
from autocompress.search.shards import Cut, cut
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.making import make_space
from autocompress.spec import from_mapping
from autocompress.trial import Fidelity, Genotype, Split
from autocompress.workers.local_pool import LocalPool
from autocompress.workers.session import SessionPlan
from benchmarks.evaluation import Losses, measured_on
from benchmarks.fresh_process import run_fresh
from benchmarks.generation import drops, make_generation
from benchmarks.generation_run import build_levels, measure_generation
from benchmarks.random_models import SHAPES, make_model

CALIBRATION = 16  # sequences that the few levels are built from


def make_plan(arguments: argparse.Namespace, folder: Path, levels: Path) -> SessionPlan:
    prepared = prepare(
        from_mapping(
            {
                "model": str(folder),
                "target_speedup": 2,
                "space": arguments.space,
                "device": arguments.device,
                "context": arguments.context,
                "seed": arguments.seed,
            }
        )
    )
    sequences = prepared.sequences
    if "width" in arguments.space:
        few = sequences[Split.SEARCH][: max(CALIBRATION, arguments.sequences)]
        sequences = {**sequences, Split.SEARCH: few}
    return dataclasses.replace(prepared.session_plan(""), sequences=sequences, levels=levels)


def widened(
    genotypes: Sequence[Genotype],
    deep: SearchSpace,
    wide: SearchSpace,
    layers: Sequence[int],
    seed: int,
) -> list[Genotype]:
    """Return candidates of a depth space in one with widths, which some layers take at random."""
    rng = np.random.default_rng(seed)
    found = []
    for genotype in genotypes:
        entries = []
        for own, menu, entry in zip(wide.bundles, wide.menus, deep.entries(genotype), strict=True):
            width = int(rng.integers(len(menu) - 1)) if own.layer in layers else 0
            entries.append(len(menu) - 1 if entry else width)
        found.append(wide.genotype(entries))
    return found


def run(
    plan: SessionPlan, generation: list[Genotype], fidelity: Fidelity, weights_bytes: int | None
) -> dict[str, Any]:
    """Measure a generation in a process of its own."""
    outcome = run_fresh(partial(measure_generation, plan, generation, fidelity))
    row = {"weights_bytes": weights_bytes, "peak_bytes": outcome.peak_bytes, **outcome.result}
    told = {name: value for name, value in row.items() if name not in ("kl", "nll")}
    print(json.dumps(told), flush=True)
    return row


def on_workers(
    plan: SessionPlan, generation: list[Genotype], fidelity: Fidelity, workers: int
) -> Losses:
    """Measure a generation on workers, in shards that are the same for any number of them."""
    with contextlib.closing(LocalPool(plan, workers)) as pool:
        return measured_on(pool, cut(generation, fidelity, Cut(shards=4)))


def largest_difference(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Return the largest absolute difference of any loss of any sequence."""

    def losses(row: dict[str, Any]) -> np.ndarray:
        return np.asarray([row["kl"], row["nll"]])

    return float(np.abs(losses(first) - losses(second)).max())


def measure(arguments: argparse.Namespace, folder: Path, levels: Path) -> dict[str, Any]:
    shape = SHAPES[arguments.shape]
    make_model(arguments.shape, folder, arguments.shards, arguments.seed)
    plan = make_plan(arguments, folder, levels)
    deep = make_space(shape.layers, shape.kv_groups, shape.ffn_columns, depth=True, width=False)
    generation = make_generation(
        drops(deep, shape.layers // 4), arguments.offspring, arguments.seed
    )
    wide_layers: Sequence[int] = ()
    if "width" in arguments.space:
        wide_layers = range(shape.layers - arguments.wide_layers, shape.layers)
    generation = widened(generation, deep, plan.space, wide_layers, arguments.seed)
    fidelity = Fidelity(Split.SEARCH, 0, 0, arguments.sequences)
    files = sorted(folder.glob("*.safetensors"))
    result: dict[str, Any] = {
        "hardware": hardware(torch.device(plan.device), 1),
        "device": plan.device,
        "shape": arguments.shape,
        "parameters": shape.parameters,
        "layers_bytes": shape.layers_bytes,
        "checkpoint_bytes": sum(file.stat().st_size for file in files),
        "checkpoint_shards": len(files),
        "dtype": json.loads((folder / "config.json").read_text("utf-8"))["dtype"],
        "space": arguments.space,
        "candidates": len(generation),
        "sequences": arguments.sequences,
        "context": arguments.context,
        "seed": arguments.seed,
    }
    if wide_layers:
        built = partial(build_levels, plan, wide_layers)
        result["levels"] = {"layers": len(wide_layers), **run_fresh(built).result}
    result["held"] = run(plan, generation, fidelity, None)
    weights_bytes = arguments.weights_bytes or shape.layers_bytes // 4
    streaming = dataclasses.replace(plan, weights_bytes=weights_bytes)
    result["streamed"] = run(streaming, generation, fidelity, weights_bytes)
    result["largest_difference"] = largest_difference(result["held"], result["streamed"])
    alone = on_workers(plan, generation, fidelity, 1)
    result["workers"] = arguments.workers
    result["same_on_workers"] = alone == on_workers(plan, generation, fidelity, arguments.workers)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--folder", type=Path, help="keeps the model; temporary if absent")
    parser.add_argument("--shards", type=int, default=8, help="files of the checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--space", choices=("depth", "depth,width"), default="depth")
    parser.add_argument("--wide-layers", type=int, default=2)
    parser.add_argument("--offspring", type=int, default=16)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--weights-bytes", type=int, help="held of the layers; a quarter of them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name) / "model"
        levels = Path(name) / "levels"
        result = measure(arguments, folder, levels)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
