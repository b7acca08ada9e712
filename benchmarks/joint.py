"""Holds one search over depth, width and bits against bits alone, shapes alone, and in turn.

    python -m benchmarks.joint --output benchmarks/results/joint.json

All end at the same bytes of the whole model. In turn, depth and width are searched down to some
share of the way in bytes, then bits of what is left down to all of it; of several shares the best
on the held-out text itself is counted. Every search ends when it finds no improvement or at the
same number of tokens; two in turn have as many each. KL is measured on all of the report text,
which none of them reads. What the output holds is not searched again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from autocompress.pipeline.dense import measure_dense
from autocompress.pipeline.latency import hardware
from autocompress.search.evolve import EvolveStrategy, settings_for
from autocompress.spaces import sizes
from autocompress.spaces.base import GeneKind
from autocompress.spaces.cost import under
from autocompress.trial import Genotype, Measurement
from benchmarks.contest import paired, write_whole
from benchmarks.laboratory import SHARDS, Laboratory, laboratory
from benchmarks.part_of_space import PartOfSpace, PartStrategy

SHAPES, BITS = frozenset({GeneKind.WIDTH}), frozenset({GeneKind.BITS})
JOINT, BITS_ALONE, SHAPES_ALONE, IN_TURN = "joint", "bits alone", "shapes alone", "in turn"

WAYS = (0.15, 0.3, 0.5)
DENSE_BITS = 16

Row = dict[str, Any]
Stage = tuple[frozenset[GeneKind], float]
"""Which genes are searched, and how much of the way down in bytes: 1 for the last."""


class Bench:
    """Searches parts of a laboratory's space down to some bytes of the model, one after another.

    Args:
        max_tokens: Of one search.
    """

    def __init__(self, lab: Laboratory, seed: int, max_tokens: int) -> None:
        self._lab = lab
        self._seed = seed
        self._max_tokens = max_tokens
        space = lab.prepared.space
        # The laboratory's own model is in float32, its checkpoint is not.
        whole = measure_dense(lab.shaped).parameters * DENSE_BITS // 8
        in_sites = sizes.stored_bytes(space, DENSE_BITS, 0).dense
        self._cost = sizes.stored_bytes(space, DENSE_BITS, whole - round(in_sites))

    def search(self, share: float, *stages: Stage) -> Row:
        """Search some kinds of genes at a time and measure where it ends.

        Args:
            share: Of the dense model's bytes that may be left at the end.
        """
        best, tokens = self._lab.prepared.space.dense, 0
        for kinds, way in stages:
            part = PartOfSpace(self._lab.prepared.space, kinds, best)
            most = self._cost.dense * (1 - way * (1 - share))
            constraint = under(part.space, part.cost(self._cost), most)
            task = self._lab.task(constraint, self._seed, self._max_tokens)
            own = EvolveStrategy(task, settings_for(task.allowed))
            end = self._lab.run(PartStrategy(own, part))[-1]
            best, tokens = end.best, tokens + end.tokens
        stored = self._cost.of(self._lab.prepared.space.entries(best))
        return {"tokens": tokens, "bytes": stored} | self._losses(best)

    def in_same_numbers(self, arm: Row) -> Row:
        """Measure an arm anew if its losses were computed in another number format than ours."""
        if arm["number_format"] == self._lab.number_format:
            return arm
        return arm | self._losses(Genotype(tuple(arm["levels"])))

    def _losses(self, genotype: Genotype) -> Row:
        held_out = self._lab.held_out([genotype])[genotype]
        return {
            "levels": list(genotype.levels),
            "kl": held_out.loss,
            "kl_by_sequence": [round(kl, 6) for kl in held_out.kl],
            "hardware": hardware(self._lab.prepared.device, self._lab.workers),
            "number_format": self._lab.number_format,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--percent", type=int, default=30, help="of the dense model's bytes")
    parser.add_argument("--ways", type=float, nargs="+", default=list(WAYS))
    parser.add_argument("--max-tokens", type=int, default=3_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    share = arguments.percent / 100
    both = {f"{IN_TURN}, {way:.0%}": ((SHAPES, way), (BITS, 1.0)) for way in arguments.ways}
    plans: dict[tuple[str, ...], dict[str, tuple[Stage, ...]]] = {
        # With bits alone, groups need not divide narrower layers: they may be larger.
        ("bits",): {BITS_ALONE: ((BITS, 1.0),)},
        ("depth", "width", "bits"): {
            JOINT: ((SHAPES | BITS, 1.0),),
            SHAPES_ALONE: ((SHAPES, 1.0),),
            **both,
        },
    }
    rows = _read(arguments.output)
    for space, arms in plans.items():
        with laboratory(space, shards=SHARDS) as lab:
            for seed in range(arguments.seeds):
                row = rows.setdefault(seed, {"seed": seed, "arms": {}})
                bench = Bench(lab, seed, arguments.max_tokens)
                for name, stages in arms.items():
                    known = row["arms"].get(name)
                    arm = bench.in_same_numbers(known) if known else bench.search(share, *stages)
                    row["arms"][name] = arm
                    print(seed, name, arm["kl"], flush=True)
                    _write(arguments.output, rows, arguments.percent)


def _read(output: Path) -> dict[int, Row]:
    if not output.is_file():
        return {}
    return {row["seed"]: row for row in json.loads(output.read_text(encoding="utf-8"))["rows"]}


def _write(output: Path, rows: dict[int, Row], percent: int) -> None:
    for row in rows.values():
        if JOINT in row["arms"]:
            ours = _measurement(row["arms"][JOINT])
            row["minus_joint"] = {
                name: paired(_measurement(arm), ours)
                for name, arm in row["arms"].items()
                if name != JOINT
            }
    result = {"percent": percent, "rows": [rows[seed] for seed in sorted(rows)]}
    write_whole(output, result)


def _measurement(arm: Row) -> Measurement:
    kl = tuple(arm["kl_by_sequence"])
    return Measurement(kl, kl, 1)


if __name__ == "__main__":
    main()
