"""Checks the latency model on configurations it was not fitted on, and winners end to end.

    python benchmarks/latency.py --output benchmarks/results/latency.json

Profiles the shipped reference model several times over with different random configurations; each
profile's held-out third gives its error. Nothing else may run meanwhile.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from autocompress.evaluators.latency_model import LatencyTables
from autocompress.pipeline.study import profile
from autocompress.spec import from_mapping

MODEL = Path(__file__).parent.parent / "examples" / "reference-model"


class Quiet:
    def stage(self, name: str) -> None:
        print(name, flush=True)

    def advance(self, done: int, total: int) -> None:
        pass

    def tell(self, kind: str, values: object) -> None:
        pass


def one(seed: int) -> tuple[LatencyTables, dict[str, object]]:
    spec = from_mapping({"model": str(MODEL), "target_speedup": 2, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        prepared, table = profile(spec, f"sqlite:///{folder}/profiles.db", Quiet())
    check = table.check(prepared.space)
    return table, {
        "seed": seed,
        "mape": check.mape,
        "repeat_error": check.repeat_error,
        "rank_correlation": check.rank_correlation,
        "coverage": check.coverage,
        "half_width": check.half_width,
        "scales": list(table.first.scales),
        "points": [list(point) for point in check.points],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--profiles", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    hardware = ""
    for seed in range(arguments.profiles):
        table, row = one(seed)
        hardware = table.first.hardware
        rows.append(row)
        print(json.dumps(row), flush=True)
    result = {
        "hardware": hardware,
        "median_mape": statistics.median(float(str(row["mape"])) for row in rows),
        "median_repeat_error": statistics.median(float(str(row["repeat_error"])) for row in rows),
        "profiles": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
