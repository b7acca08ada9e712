"""Holds the search against every other strategy in depth and width, under a latency.

    python -m benchmarks.depth_width --output benchmarks/results/depth-width.json

The reference model at 1.5x and 2x, five seeds. The latency table is one that was measured before
(`autocompress profile examples/reference-model --output TABLE`) and lies beside the results, so
that all strategies face one predicted constraint on any machine and the clock decides nothing.
EvoPress runs its schedule, its mutants drawn again where they violate the constraint; ours may
spend as many tokens and ends when it finds no improvement. KL is measured on all of the report
text, which none of them reads. What the output holds of a strategy is not run again.
"""

import argparse
import functools
from pathlib import Path

from autocompress.pipeline.prepared import import_table
from autocompress.spaces.cost import under
from autocompress.trial import Split
from benchmarks.contest import SHAPES, Series
from benchmarks.laboratory import ROOT, laboratory

TABLE = ROOT / "benchmarks" / "results" / "latency-table.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 1.5])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cases = [(f"{t:g}", seed) for seed in range(arguments.seeds) for t in arguments.targets]
    with laboratory(["depth", "width"]) as lab:
        table = import_table(str(TABLE), lab.prepared.space)
        cost = table.cost(lab.prepared.space)
        about = {
            "table_hardware": table.first.hardware,
            "workload": str(table.mix),
            "held_out_sequences": len(lab.prepared.sequences[Split.REPORT]),
        }
        series = Series(arguments.output, SHAPES, about)
        for case, seed in cases:
            constraint = under(lab.prepared.space, cost, cost.dense / float(case))
            series.run(case, seed, lab, functools.partial(lab.task, constraint, seed))


if __name__ == "__main__":
    main()
