"""Holds Bayesian searches through the knapsack against plain TPE over levels, under a latency.

    python -m benchmarks.bayes --output benchmarks/results/bayes.json

The reference model in depth and width at a predicted speedup, by the table that
benchmarks/depth_width.py takes too. `tpe` runs its usual schedule; the others end with the batch
in which they have spent a share of its tokens, chosen so that the last batch stays within a fifth.
KL is measured on all of the report text, which none of them reads. What the output holds of a
strategy is not run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from autocompress.pipeline.latency import hardware
from autocompress.pipeline.prepared import import_table
from autocompress.search.base import Task
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import under
from autocompress.trial import Measurement
from benchmarks.contest import paired, write_whole
from benchmarks.depth_width import TABLE
from benchmarks.laboratory import Laboratory, laboratory

PLAIN = "tpe"
VARIANTS = ("bayes", "bayes-tpe", "bayes-gp", "bayes-profile")
FLOOR = "additive"
SHARE = 0.16

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = _read(arguments.output)
    with laboratory(["depth", "width"]) as lab:
        space = lab.prepared.space
        cost = import_table(str(TABLE), space).cost(space)
        constraint = under(space, cost, cost.dense / arguments.target)
        # One study: single changes are the same for all, and each counts them as its own tokens.
        driver = lab.driver()
        for seed in range(arguments.seeds):
            row = rows.setdefault(seed, {"seed": seed, "ends": {}})
            for name in (PLAIN, FLOOR, *VARIANTS):
                if name not in row["ends"]:
                    most = int(SHARE * row["ends"][PLAIN]["tokens"]) if name in VARIANTS else None
                    end = _searched(lab, driver, name, lab.task(constraint, seed, most))
                    row["ends"][name] = end
                    print(seed, name, end["tokens"], end["kl"], flush=True)
                    _write(arguments.output, rows, arguments.target)


def _searched(lab: Laboratory, driver: SearchDriver, name: str, task: Task) -> Row:
    """Run a strategy and measure where it ends."""
    end = lab.run(make_strategy(name, task, EvolveSettings()), driver)[-1]
    held_out = lab.held_out([end.best])[end.best]
    return {
        "tokens": end.tokens,
        "levels": list(end.best.levels),
        "kl": held_out.loss,
        "kl_by_sequence": [round(kl, 6) for kl in held_out.kl],
        "hardware": hardware(lab.prepared.device, lab.workers),
        "number_format": lab.number_format,
    }


def _read(output: Path) -> dict[int, Row]:
    if not output.is_file():
        return {}
    return {row["seed"]: row for row in json.loads(output.read_text(encoding="utf-8"))["rows"]}


def _write(output: Path, rows: dict[int, Row], target: float) -> None:
    for row in rows.values():
        ends = {name: _measurement(end) for name, end in row["ends"].items()}
        row["plain_minus"] = {
            name: paired(ends[PLAIN], own) for name, own in ends.items() if name != PLAIN
        }
    write_whole(output, {"target": target, "rows": [rows[seed] for seed in sorted(rows)]})


def _measurement(end: Row) -> Measurement:
    kl = tuple(end["kl_by_sequence"])
    return Measurement(kl, kl, 1)


if __name__ == "__main__":
    main()
