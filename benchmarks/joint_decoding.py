"""Holds joint searches of model and decoding against compression that is decoded its best.

    python -m benchmarks.joint_decoding --output benchmarks/results/joint-decoding.json

For each speedup of answers `autocompress search --space depth,width,decoding`: its first option is
compression for all of the speedup, and then its decoding; all options answer the same held-out
items in turn. Lines of code to end, judged by ROUGE-L. What the output holds is not run again, and
a search that was stopped goes on from the folder of studies.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autocompress.export.joint_report import JointVerdict, joint_headline
from autocompress.pipeline import joint
from autocompress.spec import from_mapping
from autocompress.trial import Split
from benchmarks.contest import write_whole
from benchmarks.decoding import FIXED, write_tasks
from benchmarks.laboratory import MODEL
from benchmarks.recovery import Watcher

LINES = 10_000
"""About all that the sample's modules hold."""
CONCLUDED = {**joint.CONCLUDED, Split.SELECTION: 12, Split.REPORT: 64}
"""So many that a difference of a hundredth of the score is seen."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--studies", type=Path, default=Path(".autocompress/joint-decoding"))
    parser.add_argument("--targets", type=float, nargs="+", default=[1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", default="60s", help="of each search for a compressed model")
    parser.add_argument("--recover", default="100k", help="tokens that each winner is trained on")
    arguments = parser.parse_args()
    known = []
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    rows = {(row["seed"], row["target"]): row for row in known}
    # A study of fewer lines has read other items.
    studies = arguments.studies / f"{LINES}-lines"
    studies.mkdir(parents=True, exist_ok=True)
    tasks = write_tasks(studies, LINES)
    for seed in range(arguments.seeds):
        for target in arguments.targets:
            if (seed, target) in rows:
                continue
            given = {
                "model": str(MODEL),
                "space": "depth,width,decoding",
                "target_speedup": target,
                "timing_processes": 8,
                "budget_seconds": arguments.budget,
                "recover": arguments.recover,
                "tasks": str(tasks.resolve()),
                "decoding_fix": f"{FIXED},stop=line",
                "decoding_tune": "speculation,sampling,beams,cache",
                "seed": seed,
            }
            name = f"{target:g}x-seed{seed}"
            storage = f"sqlite:///{studies / 'studies.db'}"
            spec, folder = from_mapping(given), studies / name
            report = joint.search_jointly(spec, storage, name, folder, Watcher(), CONCLUDED)
            print(joint_headline(report), flush=True)
            rows[seed, target] = report.to_json() | {"model": MODEL.name, "seed": seed}
            told = [rows[own] for own in sorted(rows)]
            write_whole(arguments.output, {"summary": summary(told), "rows": told})
            print(json.dumps(summary(told)), flush=True)


def summary(rows: Sequence[Row]) -> Row:
    """Return how the winners stand beside compression that is decoded its best."""
    beside = [row["options"][row["winner"]]["beside_first"]["interval"] for row in rows]
    return {
        "searches": len(rows),
        "met": sum(row["verdict"] == JointVerdict.MET for row in rows),
        "surely_better": sum(low > 0 for low, _ in beside),
        "surely_worse": sum(high < 0 for _, high in beside),
    }


if __name__ == "__main__":
    main()
