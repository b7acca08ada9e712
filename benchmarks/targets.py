"""Searches for several speedups and holds what is measured against what was asked.

    python -m benchmarks.targets --output benchmarks/results/targets.json
    python -m benchmarks.targets --output benchmarks/results/targets-busy.json --busy \
        --targets 2 --seeds 1

A target is met when all of the measured 95 % interval is at it or above. Where the median is more
than 5 % beyond it, every neighbour of the winner that has one gene one level nearer to dense is
exported and timed too, the fastest predicted first, until one of them meets the target: then the
winner was compressed more than it had to be. Searches of a seed share a profile. With `--busy`
another process computes on one core all the while. What the output holds is not run again.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from autocompress.cli.observers import Lines
from autocompress.evaluators.stored_latency import read_tables
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.export.checkpoint import write_checkpoint
from autocompress.export.report import Report
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.aiming import CLOSE, Timed
from autocompress.pipeline.easing import nearer_to_dense
from autocompress.pipeline.latency import measure_speedup
from autocompress.pipeline.prepared import prepare
from autocompress.pipeline.study import start
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 1.5, 1.25, 3.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", default="60s", help="of each search")
    parser.add_argument("--busy", action="store_true", help="keep one core busy")
    arguments = parser.parse_args()
    rows: dict[tuple[float, int], Row] = {}
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
        rows = {(row["target"], row["seed"]): row for row in known}
    with busy_core() if arguments.busy else contextlib.nullcontext():
        for seed in range(arguments.seeds):
            # A seed's searches share a profile, as those of a machine do.
            with tempfile.TemporaryDirectory() as folder:
                for target in arguments.targets:
                    if (target, seed) not in rows:
                        given = {"target_speedup": target, "budget_seconds": arguments.budget}
                        spec = from_mapping({"model": str(MODEL), "seed": seed, **given})
                        rows[target, seed] = measured(spec, target, Path(folder))
                        ordered = [rows[key] for key in sorted(rows)]
                        about = {"busy": arguments.busy, "budget": arguments.budget}
                        write_whole(arguments.output, {**about, "rows": ordered})


def measured(spec: SearchSpec, target: float, place: Path) -> Row:
    """Search once; return what was asked, predicted and measured."""
    url, study = f"sqlite:///{place}/studies.db", f"{target:g}x"
    report = start(spec, url, study, place / study, Lines(as_json=False))
    row = row_of(report, target, spec.seed)
    if row["median"] > CLOSE * target:
        recipe = yaml.safe_load((place / study / "recipe.yaml").read_text("utf-8"))
        winner = Genotype(tuple(recipe["genotype"]))
        row["slower_neighbours"] = neighbours_met(spec, target, winner, url, place / study)
    print(json.dumps(row), flush=True)
    return row


def row_of(report: Report, target: float, seed: int) -> Row:
    speedup, model = report.speedup, report.latency_model
    return {
        "target": target,
        "seed": seed,
        "met": report.met,
        "median": speedup.measured,
        "interval": speedup.measured_interval,
        "predicted": speedup.predicted,
        "predicted_interval": speedup.predicted_interval,
        "mape": None if model is None else model.mape,
        "repeat_error": None if model is None else model.repeat_error,
        "corrections": [dataclasses.asdict(own) for own in report.corrections],
        "kl": report.loss.kl,
        "seconds": report.search.seconds,
        "hardware": report.hardware,
    }


def neighbours_met(
    spec: SearchSpec, target: float, winner: Genotype, url: str, place: Path
) -> list[Row]:
    """Time the winner's slower neighbours until one meets the target; return them all."""
    prepared = prepare(spec)
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    model = loading.load_model(prepared.folder, prepared.device, spec.dtype)
    shaped = ShapedModel(model, prepared.space, plan.open_levels())
    document = open_study(url, place.name).document("latency")
    if document is None:
        raise SystemExit("the study holds no latency table")
    table = read_tables(document, prepared.space)
    cost = table.cost(prepared.space)

    def time_of(genotype: Genotype) -> float:
        return cost.of(prepared.space.entries(genotype))

    slower = [
        own for own in nearer_to_dense(prepared.space, winner) if time_of(own) > time_of(winner)
    ]
    engine = TorchEngine(str(prepared.device), spec.dtype, table.first.threads)
    found: list[Row] = []
    for number, genotype in enumerate(sorted(slower, key=time_of)):
        shaped.apply(prepared.space.choices(genotype))
        folder = place / f"neighbour-{number}"
        write_checkpoint(shaped, prepared.folder, folder, plan.open_levels())
        aim = Timed(cost, target, cost.dense / cost.least)
        speedup = measure_speedup(engine, prepared.folder, folder, spec.workload, aim.is_open)
        found.append({"median": speedup.median, "interval": speedup.interval})
        if speedup.interval[0] >= target:
            break
    return found


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """Keep one core busy with something else."""
    process = multiprocessing.get_context("spawn").Process(target=_compute, daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _compute() -> None:
    total = 0
    while True:
        total = (total * 31 + 7) % 1_000_003


if __name__ == "__main__":
    main()
