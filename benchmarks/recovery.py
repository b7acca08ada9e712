"""Trains the search's winners at 2x in depth and width, and measures what comes back.

    python -m benchmarks.recovery --output benchmarks/results/recovery.json
    python -m benchmarks.recovery --output benchmarks/results/recovery-worst.json --draw worst

The winners are those of `benchmarks.depth_width`, one for each of its seeds. Each is distilled
from the reference model on the text that this was trained on, by `--recover`'s own code and
settings, and both are measured on 256 sequences of the report text, from their checkpoints. What
the output holds is not trained again, and a training that was interrupted goes on.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.deployment import report_text
from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.recovering import check_recovery, recover
from autocompress.pipeline.torch_deployment import TorchDeployment
from autocompress.spec import from_mapping
from autocompress.training.distillation import Trained
from autocompress.trial import Genotype, Measurement
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL, ROOT, workers

WINNERS = ROOT / "benchmarks" / "results" / "depth-width.json"
CASE = "2"
HELD_OUT = 256
"""Sequences of the report text."""

Row = dict[str, Any]


class Watcher:
    """Tells on the terminal how far a training has come."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def stage(self, name: str) -> None:
        print(name, flush=True)

    def advance(self, done: int, total: int) -> None:
        if time.monotonic() - self._last > 30:
            self._last = time.monotonic()
            print(f"  {done:,} of {total:,}", flush=True)

    def tell(self, kind: str, values: object) -> None:
        print(kind, values, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--draw", default="evenly", help="of the text: evenly, or worst")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    known = []
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    winners = evolved()
    rows = {row["seed"]: row for row in known}
    for seed in sorted(winners)[: arguments.seeds]:
        if seed in rows:
            continue
        more = {} if arguments.rate is None else {"recovery_rate": arguments.rate}
        more["recovery_draw"] = arguments.draw
        prepared = prepared_for(seed, recover=arguments.tokens, **more)
        with workers(prepared):
            pass  # All levels are built by now.
        rows[seed] = run(prepared, winners[seed]) | {"seed": seed}
        told = [rows[seed] for seed in sorted(rows)]
        write_whole(arguments.output, {"summary": summary(told), "rows": told})
        print(json.dumps(summary(told)), flush=True)


def evolved() -> dict[int, Genotype]:
    """Return the winner of each seed of the contest."""
    return {
        row["seed"]: Genotype(tuple(row["evolve"][-1]["levels"]))
        for row in json.loads(WINNERS.read_text(encoding="utf-8"))["rows"]
        if row["case"] == CASE
    }


def prepared_for(seed: int, **more: object) -> Prepared:
    """Return the search that the winners are of, with some values more."""
    usual = {"model": str(MODEL), "target_speedup": 2, "space": ["depth", "width"]}
    return prepare(from_mapping(usual | {"seed": seed} | more))


def run(prepared: Prepared, winner: Genotype) -> Row:
    """Train a winner and tell of it before and after."""
    before, after, trained, n_text = around(prepared, winner)
    return {
        "before": told(before),
        "after": told(after),
        "given_back": 1 - after.loss / before.loss,
        "interval": given_back_interval(before, after),
        "tokens": trained.tokens,
        "text_tokens": n_text,
        "rate": prepared.spec.recovery_rate,
        "seconds": trained.seconds,
        "history": [[own.tokens, own.kl] for own in trained.history],
        "hardware": hardware(prepared.device, torch.get_num_threads()),
    }


def around(prepared: Prepared, winner: Genotype) -> tuple[Measurement, Measurement, Trained, int]:
    """Train a winner; return what it loses before and after, how it went, and tokens of text."""
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    levels, text = plan.open_levels(), check_recovery(prepared)
    if text is None:
        raise SystemExit("nothing is to be trained")
    model = loading.load_model(prepared.folder, prepared.device, prepared.spec.dtype)
    shaped = ShapedModel(model, prepared.space, levels)
    watcher = Watcher()
    with tempfile.TemporaryDirectory() as scratch:
        before_at, after_at = Path(scratch, "before"), Path(scratch, "after")
        before_at.mkdir()
        after_at.mkdir()
        artifact = TorchDeployment(prepared, shaped, levels, before_at).export(winner)
        before = measured(prepared, artifact.path, watcher)
        found = recover(prepared, shaped, plan, winner, text, watcher)
        if found is None:
            raise SystemExit("nothing is gone of the winner")
        artifact = TorchDeployment(prepared, found.shaped, found.levels, after_at).export(winner)
        after = measured(prepared, artifact.path, watcher)
    return before, after, found.trained, int(text.size)


def measured(prepared: Prepared, path: Path, watcher: Watcher) -> Measurement:
    """Return what a checkpoint loses on the report text, in a process of its own."""
    spec, rows = prepared.spec, report_text(prepared, HELD_OUT)
    how = Reading(str(prepared.device), spec.dtype, spec.teacher_tokens, trust_remote_code=False)
    return measure_checkpoint(path, prepared.folder, rows, how, watcher.advance)[0]


def told(own: Measurement) -> Row:
    return {"kl": own.loss, "perplexity": own.perplexity}


def given_back_interval(before: Measurement, after: Measurement) -> list[float]:
    """Return the 95 % bootstrap interval, over sequences, of the share of the KL given back."""
    rng = np.random.default_rng(0)
    pairs = np.array([before.kl, after.kl])
    drawn = pairs[:, rng.integers(0, pairs.shape[1], (2000, pairs.shape[1]))].mean(axis=2)
    return [float(own) for own in np.quantile(1 - drawn[1] / drawn[0], [0.025, 0.975])]


def summary(rows: list[Row]) -> Row:
    """Return medians over seeds."""
    return {
        "given_back": statistics.median(row["given_back"] for row in rows),
        "least_given_back": min(row["given_back"] for row in rows),
        "kl_before": statistics.median(row["before"]["kl"] for row in rows),
        "kl_after": statistics.median(row["after"]["kl"] for row in rows),
        "seconds": statistics.median(row["seconds"] for row in rows),
    }


if __name__ == "__main__":
    main()
