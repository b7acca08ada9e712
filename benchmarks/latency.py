"""Holds predicted latencies against measured ones, on configurations that no fit has read.

    python -m benchmarks.latency --output benchmarks/results/latency.json
    python -m benchmarks.latency --output latency-gpu.json --coded 0 --rounds 3 --shape 8b
    python -m benchmarks.latency --output latency-compiled.json --coded 0 --compiled --space depth

The shipped reference model, and a randomly initialised one of about 0.5 B parameters in bfloat16,
each on the torch engine of this machine in depth and width; the reference model in bits too, those
that torch has kernels for on a CPU. As a search does, the bench profiles every distinct change,
fits the latency model on whole random configurations and has held-out ones give its interval; then
it measures many more, spread from 1x to 3x, each twice. Errors are told for the time until the
first token and for a further one. Nothing else may run meanwhile; what the output holds is not
measured again.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from autocompress.evaluators import latency_model
from autocompress.evaluators.latency_model import LatencyTable, LatencyTables, entries_of
from autocompress.evaluators.latency_rows import Profile, Sample
from autocompress.evaluators.profile import measure_profile, measure_samples
from autocompress.evaluators.shaped_stopwatch import ShapedStopwatch
from autocompress.evaluators.torch_engine import fastest_threads
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.latency import SAMPLES, hardware, spread
from autocompress.pipeline.prepared import prepare
from autocompress.spaces.base import SearchSpace
from autocompress.spec import from_mapping
from autocompress.spec_rules import COMPILED_TORCH
from autocompress.workload import Mix, Phase, Workload
from benchmarks.contest import write_whole
from benchmarks.first_units import FirstUnits
from benchmarks.laboratory import MODEL
from benchmarks.random_models import SHAPES, make_model

Row = dict[str, Any]
REFERENCE, LARGE = "reference model", "random {} model"
CODED = "reference model, bits too"
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--reference", type=int, default=165, help="configurations measured")
    parser.add_argument("--large", type=int, default=40, help="of the randomly initialised one")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b", help="of that model")
    parser.add_argument("--folder", type=Path, help="keeps that model; temporary if absent")
    parser.add_argument("--space", default="depth,width")
    parser.add_argument("--compiled", action="store_true", help="with compiled layers")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of the profile")
    parser.add_argument("--coded", type=int, default=60, help="with bits, of the reference model")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows: list[Row] = []
    if arguments.output.is_file():
        rows = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    engine = COMPILED_TORCH if arguments.compiled else "torch"
    large = LARGE.format(arguments.shape.replace("b", " B"))
    with tempfile.TemporaryDirectory() as scratch:
        for name, n, space in (
            (REFERENCE, arguments.reference, arguments.space),
            (large, arguments.large, arguments.space),
            (CODED, arguments.coded, f"{arguments.space},bits"),
        ):
            what = {"model": name, "space": space, "engine": engine}
            if n == 0 or any(what.items() <= row.items() for row in rows):
                continue
            folder = MODEL
            if name == large:
                folder = arguments.folder or Path(scratch) / "random"
                make_model(arguments.shape, folder, 1, 0)
            rows += [what | row for row in _judged(name, folder, n, space, engine, arguments)]
            write_whole(arguments.output, {"rows": rows, "pooled": _pooled(rows)})


def _judged(
    name: str, folder: Path, n: int, space_names: str, engine: str, arguments: argparse.Namespace
) -> list[Row]:
    """Profile a model, fit, and measure n more configurations; return a row for each phase."""
    seed, samples_rounds = arguments.seed, max(1, arguments.rounds // 3)
    values = {"model": str(folder), "target_speedup": 2, "space": space_names, "seed": seed}
    prepared = prepare(from_mapping(values | {"engine": engine}))
    space, workload = prepared.space, Workload()
    model = loading.load_model(folder, prepared.device, "bfloat16")
    shaped = ShapedModel(model, space, FirstUnits(model))
    threads = fastest_threads(model, workload)
    torch.set_num_threads(threads)
    stopwatch = ShapedStopwatch(shaped, workload, compiled=engine == COMPILED_TORCH)

    def progress(done: int, total: int) -> None:
        if done % max(1, total // 10) == 0:
            print(f"{name}: {done} of {total}", flush=True)

    profile = measure_profile(stopwatch, space, arguments.rounds, seed, progress)
    on = hardware(prepared.device, threads)

    def tables(of: Workload, samples: Sequence[Sample]) -> LatencyTables:
        scales = (1.0, 1.0, 1.0)
        if samples:
            scales = latency_model.fit(profile, samples, of, space)
        table = LatencyTable(
            engine, torch.__version__, on, threads, of, profile, tuple(samples), scales
        )
        return LatencyTables(Mix(((1.0, of),)), (table,))

    cost = tables(workload, ()).cost(space)
    drawn = [spread(space, cost, SAMPLES, seed), spread(space, cost, n, seed + 1)]
    fitted, unseen = (
        measure_samples(
            stopwatch, space, some, profile.dense, samples_rounds, seed + number, progress
        )
        for number, some in enumerate(drawn)
    )
    found = []
    for phase in (Phase.PREFILL, Phase.DECODE):
        of = Workload(workload.batch, workload.prompt, workload.generated, phase)
        row = _errors(tables(of, fitted), of, space, profile, unseen)
        found.append({"phase": str(phase), "hardware": on, **row})
        print({key: value for key, value in found[-1].items() if key != "points"}, flush=True)
    return found


def _errors(
    model: LatencyTables,
    of: Workload,
    space: SearchSpace,
    profile: Profile,
    unseen: Sequence[Sample],
) -> Row:
    """Return how far predictions of a phase are from what was measured."""
    cost, half = model.cost(space), model.check(space).half_width
    predicted = [cost.of(entries) for entries in entries_of(space, unseen)]
    twice = [(s.spent.workload(of), s.again.workload(of)) for s in unseen]
    measured = [statistics.fmean(pair) for pair in twice]
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    dense = profile.dense.workload(of)
    return {
        "configurations": len(unseen),
        "mape": statistics.fmean(errors),
        "repeat_error": statistics.fmean(abs(a / b - 1) for a, b in twice),
        "rank_correlation": float(spearmanr(predicted, measured).statistic),
        "interval_half_width": half,
        "coverage": float(np.mean([error <= half for error in errors])),
        "dense_ms": dense,
        "points": [[cost.dense / p, dense / m] for p, m in zip(predicted, measured, strict=True)],
    }


def _pooled(rows: Sequence[Row]) -> Mapping[str, Any]:
    """Return what the configurations of all models and phases say together."""
    weights = [row["configurations"] for row in rows]
    covered = sum(n * row["coverage"] for n, row in zip(weights, rows, strict=True))
    return {"configurations": sum(weights), "coverage": covered / sum(weights)}


if __name__ == "__main__":
    main()
