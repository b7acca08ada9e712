"""Evolves pruning metrics on the reference model, a search a seed, and keeps how each stands.

    python -m benchmarks.metric --output benchmarks/results/metric.json

All by the command's own code and settings: 300 formulas, known metrics included, at 50 %, 60 %
and 2:4; the winner beside every known metric on text that nothing before has read, also at
sparsities that no search has read. A seed that the output holds is not run again, and one that was
interrupted goes on from what lies in `--journals`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from autocompress.export.metric_report import metric_headline
from autocompress.pipeline.metric import search_metric
from autocompress.pipeline.metric_asked import metric_asked
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL
from benchmarks.recovery import Watcher

SEARCHED, TESTED = "0.5,0.6,2:4", "0.4,0.7"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--journals", type=Path, default=Path(".autocompress/metric"))
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    known = []
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    rows = {row["seed"]: row for row in known}
    for seed in range(arguments.seeds):
        if seed in rows:
            continue
        rows[seed] = run(seed, arguments.evaluations, arguments.journals / f"seed-{seed}")
        told = [rows[seed] for seed in sorted(rows)]
        write_whole(arguments.output, {"summary": summary(told), "rows": told})
        print(json.dumps(summary(told)), flush=True)


def run(seed: int, evaluations: int, journal: Path) -> Row:
    """Search with one seed; the seconds are those of this run alone."""
    asked = metric_asked(str(MODEL), SEARCHED, TESTED, evaluations, {"seed": seed})
    started = time.monotonic()
    report = search_metric(asked, journal, Watcher())
    print(metric_headline(report), flush=True)
    return report.to_json() | {"model": MODEL.name, "seconds": time.monotonic() - started}


def summary(rows: list[Row]) -> Row:
    """Return how many seeds found a better metric, and which."""
    return {
        "seeds": len(rows),
        "better": sum(row["verdict"] == "BETTER METRIC FOUND" for row in rows),
        "winners": [row["winner"] and row["winner"]["expression"] for row in rows],
    }


if __name__ == "__main__":
    main()
