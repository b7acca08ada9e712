"""Holds the search against EvoPress and the additive baselines in bits, all built by GPTQ.

    python -m benchmarks.bits --output benchmarks/results/bits.json
    python -m benchmarks.bits --output benchmarks/results/bits-full.json --full \
        --bits 3 --seeds 1

The searched linear layers of the reference model may hold so many nominal bits a weight on
average: codes alone, of 2, 3, 4, 5 or 6 bits, asymmetric, in groups of the largest size that
fits. EvoPress runs its super-fast schedule, or with `--full` its full one; ours may spend a
quarter of its tokens and ends when it finds no improvement. KL is measured on all of the report
text, which none of them reads. What the output holds of a strategy is not run again.
"""

import argparse
import functools
from pathlib import Path

from autocompress.spaces import sizes
from autocompress.spaces.cost import under
from autocompress.trial import Genotype, Split
from benchmarks.contest import BITS, BITS_IN_FULL, Series
from benchmarks.laboratory import SHARDS, laboratory

WIDTHS = ("6", "5", "4", "3", "2")
DENSE_BITS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--bits", type=float, nargs="+", default=[3.0, 2.25, 2.5, 4.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="EvoPress's full schedule")
    arguments = parser.parse_args()
    cases = [(f"{bits:g}", seed) for seed in range(arguments.seeds) for bits in arguments.bits]
    with laboratory(["bits"], bits=list(WIDTHS), shards=SHARDS) as lab:
        space = lab.prepared.space
        nominal = sizes.nominal_bits(space, DENSE_BITS)
        stored = sizes.linear_bytes(space, DENSE_BITS)
        weights = sum(group.weights for site in space.sites for group in site.groups)

        def stored_bits(genotype: Genotype) -> float:
            return 8 * stored.of(space.entries(genotype)) / weights

        about = {"held_out_sequences": len(lab.prepared.sequences[Split.REPORT])}
        field = BITS_IN_FULL if arguments.full else BITS
        series = Series(arguments.output, field, about, {"stored_bits": stored_bits})
        for case, seed in cases:
            constraint = under(space, nominal, float(case))
            series.run(case, seed, lab, functools.partial(lab.task, constraint, seed))


if __name__ == "__main__":
    main()
