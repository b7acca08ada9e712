"""Holds the search against EvoPress and the rest in depth, under EvoPress's own constraint.

    python -m benchmarks.depth --output benchmarks/results/depth.json

k attention and k MLP sub-blocks of the reference model are dropped, k a quarter, a third and a
half of its layers. EvoPress runs its full default schedule; our search may spend as many tokens
and ends when it finds no improvement. All strategies run on the same workers, text and metric;
KL is measured on all of the report text, which none of them reads. What the output holds of a
strategy is not run again.
"""

import argparse
import functools
from pathlib import Path

from autocompress.spaces.cost import drops_of_each_kind
from autocompress.trial import Split
from benchmarks.contest import SHAPES, Series
from benchmarks.laboratory import laboratory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--drops", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    cases = [(str(k), seed) for seed in range(arguments.seeds) for k in arguments.drops]
    with laboratory(["depth"]) as lab:
        about = {
            "layers": lab.prepared.architecture.n_layers,
            "held_out_sequences": len(lab.prepared.sequences[Split.REPORT]),
        }
        series = Series(arguments.output, SHAPES, about)
        for case, seed in cases:
            constraint = drops_of_each_kind(lab.prepared.space, int(case))
            series.run(case, seed, lab, functools.partial(lab.task, constraint, seed))


if __name__ == "__main__":
    main()
