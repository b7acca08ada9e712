"""Holds the search against EvoPress, OWL and uniform in unstructured sparsity, by SparseGPT.

    python -m benchmarks.sparsity --output benchmarks/results/sparsity.json

So many of the searched linear layers' weights are zero on average; levels of all groups differ by
one number of weights, as EvoPress's do. EvoPress runs its super-fast schedule; ours may spend a
quarter of its tokens and ends when it finds no improvement. KL is measured on all of the report
text, which none of them reads. What the output holds of a strategy is not run again.
"""

import argparse
import functools
from pathlib import Path

from autocompress.spaces import sizes
from autocompress.spaces.cost import under
from autocompress.trial import Split
from benchmarks.contest import SPARSITY, Series
from benchmarks.laboratory import SHARDS, laboratory

STEP = 4096
"""Weights by which neighbouring levels differ: a sixteenth of the square of the hidden size."""
DENSE_BITS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.5, 0.6, 0.7])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for sparsity in arguments.sparsities:
        middle = [f"{sparsity:g}"]
        with laboratory(["sparsity"], sparsities=middle, sparsity_step=STEP, shards=SHARDS) as lab:
            space = lab.prepared.space
            # Zeros count nothing: so many bits are left of a dense weight's.
            cost = sizes.nominal_bits(space, DENSE_BITS)
            constraint = under(space, cost, DENSE_BITS * (1 - sparsity))
            about = {"held_out_sequences": len(lab.prepared.sequences[Split.REPORT])}
            series = Series(arguments.output, SPARSITY, about)
            for seed in range(arguments.seeds):
                task_for = functools.partial(lab.task, constraint, seed)
                series.run(f"{sparsity:.0%}", seed, lab, task_for)


if __name__ == "__main__":
    main()
