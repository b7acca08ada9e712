"""Holds one search for a whole front against ten evolutions, each at a target of its own.

    python -m benchmarks.pareto --output benchmarks/results/pareto.json

The reference model in depth and width, against the latency of one stored table, as in
`benchmarks.depth_width`. Each evolution may spend the same tokens and begins no generation beyond
them; every front has half of what the ten spent in all, and no room for a generation beyond. What
they end with is measured on report text that none of them reads. What the output holds of a seed
is not run again.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autocompress.pipeline.latency import hardware
from autocompress.pipeline.pareto import REFERENCE_COST, REFERENCE_KL
from autocompress.pipeline.prepared import import_table
from autocompress.search.evolve import settings_for
from autocompress.search.pareto import ParetoStrategy
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import AdditiveCost, under
from autocompress.spaces.pareto import hypervolume
from autocompress.trial import Genotype, Measurement, Split
from benchmarks.contest import BOOTSTRAPS, write_whole
from benchmarks.depth_width import TABLE
from benchmarks.laboratory import Laboratory, laboratory

SPEEDUPS = (1.1, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0)
AIM = 2.0
"""The target of the searches for a front, which reach half as far again: to the last of these."""
SHARE = 0.5
LAST_GENERATION = 140_000
"""Tokens at most that a search for a front spends beyond those it may begin a generation below."""

Row = dict[str, Any]


class Pair:
    """One seed's evolutions and fronts, in a row that is kept after each of them."""

    def __init__(self, lab: Laboratory, cost: AdditiveCost, seed: int, max_tokens: int) -> None:
        self._lab = lab
        self._space = lab.prepared.space
        self._cost = cost
        self._seed = seed
        self._max_tokens = max_tokens

    @property
    def hardware(self) -> str:
        """Where candidates are measured."""
        return hardware(self._lab.prepared.device, self._lab.workers)

    def share(self, genotype: Genotype) -> float:
        """Return what a candidate costs, as a share of the dense model's cost."""
        return self._cost.of(self._space.entries(genotype)) / self._cost.dense

    def evolution(self, speedup: float) -> Row:
        constraint = under(self._space, self._cost, self._cost.dense / speedup)
        task = self._lab.task(constraint, self._seed, self._max_tokens)
        end = self._lab.run(make_strategy("evolve", task, settings_for(task.allowed)))[-1]
        return {
            "tokens": end.tokens,
            "seconds": round(end.seconds, 1),
            "hardware": self.hardware,
            "levels": list(end.best.levels),
        }

    def front(self, name: str, tokens: int) -> Row:
        """Run a search for a front and return its members from the first target on."""
        constraint = under(self._space, self._cost, self._cost.dense / AIM)
        task = self._lab.task(constraint, self._seed, tokens - LAST_GENERATION)
        strategy = make_strategy(name, task, settings_for(task.allowed))
        assert isinstance(strategy, ParetoStrategy)
        end = self._lab.run(strategy)[-1]
        assert end.tokens <= tokens
        most = 1 / SPEEDUPS[0] + 1e-9
        members = [g for g in strategy.front() if self.share(g) <= most]
        return {
            "tokens": end.tokens,
            "seconds": round(end.seconds, 1),
            "hardware": self.hardware,
            "stopped_because": strategy.stopped_because,
            "members": [list(g.levels) for g in sorted(members, key=self.share)],
        }

    def compare(self, row: Row, sequences: int) -> Row:
        """Measure all ends on report text, and hold their hypervolumes against each other."""
        ends = [Genotype(tuple(own["levels"])) for own in row["evolve"].values()]
        members = {
            name: [Genotype(tuple(levels)) for levels in own["members"]]
            for name, own in row["fronts"].items()
        }
        everyone = [*ends, *(g for own in members.values() for g in own)]
        measured = self._lab.measured(everyone, Split.REPORT, sequences)
        rng = np.random.default_rng(0)
        drawn = rng.integers(sequences, size=(BOOTSTRAPS, sequences))
        theirs = self._volumes(ends, measured, drawn)
        found: Row = {}
        for name, own in members.items():
            ours = self._volumes(own, measured, drawn)
            picked = [self._at(speedup, own) for speedup in SPEEDUPS]
            found[name] = {
                "kl": [measured[g].loss for g in own],
                "shares": [self.share(g) for g in own],
                "hypervolume": ours[0],
                "ratio": ours[0] / theirs[0],
                "ratio_interval": np.quantile(ours[1:] / theirs[1:], (0.025, 0.975)).tolist(),
                "kl_at_targets": [measured[genotype].loss for genotype in picked],
                "ratio_at_targets": self._volumes(picked, measured, drawn[:0])[0] / theirs[0],
            }
        return {
            "evolve_kl": [measured[g].loss for g in ends],
            "evolve_hypervolume": theirs[0],
            "fronts": found,
        }

    def _at(self, speedup: float, members: Sequence[Genotype]) -> Genotype:
        """Return the member that a target picks: the slowest that meets it loses least."""
        return max((g for g in members if self.share(g) <= 1 / speedup + 1e-9), key=self.share)

    def _volumes(
        self,
        genotypes: Sequence[Genotype],
        measured: Mapping[Genotype, Measurement],
        drawn: np.ndarray,
    ) -> np.ndarray:
        """Return the hypervolume on all sequences, then on each draw of them.

        What is faster than the last target counts as being as fast.
        """
        shares = [max(self.share(g), 1 / SPEEDUPS[-1]) for g in genotypes]
        kl = np.asarray([measured[g].kl for g in genotypes])
        means = [kl.mean(axis=1), *(kl[:, rows].mean(axis=1) for rows in drawn)]
        reference = (REFERENCE_COST, REFERENCE_KL)
        return np.asarray(
            [
                hypervolume(list(zip(shares, own.tolist(), strict=True)), reference)
                / (REFERENCE_COST * REFERENCE_KL)
                for own in means
            ]
        )


def summary(rows: Sequence[Row]) -> Row:
    """Return for each strategy the ratios of hypervolumes over seeds, and its share of tokens."""
    found: Row = {}
    for name in rows[0]["compared"]["fronts"] if rows else ():
        own = [row for row in rows if name in row["compared"]["fronts"]]
        ratios = [row["compared"]["fronts"][name]["ratio"] for row in own]
        spent = [
            row["fronts"][name]["tokens"] / sum(e["tokens"] for e in row["evolve"].values())
            for row in own
        ]
        found[name] = {
            "seeds": len(own),
            "ratio": float(np.median(ratios)),
            "least_ratio": min(ratios),
            "share_of_tokens": max(spent),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--strategies", nargs="+", default=["pareto"])
    parser.add_argument("--max-tokens", type=int, default=250_000, help="of each evolution")
    parser.add_argument("--sequences", type=int, default=128, help="of report text")
    arguments = parser.parse_args()
    output: Path = arguments.output
    known = json.loads(output.read_text(encoding="utf-8"))["rows"] if output.is_file() else []
    rows: dict[tuple[int, int], Row] = {(row["max_tokens"], row["seed"]): row for row in known}

    def keep(row: Row) -> None:
        rows[row["max_tokens"], row["seed"]] = row
        ordered = [rows[key] for key in sorted(rows)]
        caps = sorted({row["max_tokens"] for row in ordered})
        whole = {
            cap: summary([r for r in ordered if r["max_tokens"] == cap and "compared" in r])
            for cap in caps
        }
        write_whole(output, {**about, "summary": whole, "rows": ordered})

    with laboratory(["depth", "width"]) as lab:
        table = import_table(str(TABLE), lab.prepared.space)
        about = {
            "speedups": SPEEDUPS,
            "reference": {"cost": REFERENCE_COST, "kl": REFERENCE_KL},
            "table_hardware": table.first.hardware,
            "workload": str(table.mix),
        }
        for seed in arguments.seeds:
            key = (arguments.max_tokens, seed)
            row = rows.get(key, {"max_tokens": key[0], "seed": seed, "evolve": {}, "fronts": {}})
            pair = Pair(lab, table.cost(lab.prepared.space), seed, arguments.max_tokens)
            for speedup in SPEEDUPS:
                if f"{speedup:g}" not in row["evolve"]:
                    row["evolve"][f"{speedup:g}"] = pair.evolution(speedup)
                    keep(row)
            tokens = int(SHARE * sum(own["tokens"] for own in row["evolve"].values()))
            for name in arguments.strategies:
                if name not in row["fronts"]:
                    row["fronts"][name] = pair.front(name, tokens)
                    row.pop("compared", None)
                    keep(row)
            if "compared" not in row:
                row["hardware"] = pair.hardware
                row["number_format"] = lab.number_format
                row["sequences"] = arguments.sequences
                row["compared"] = pair.compare(row, arguments.sequences)
                keep(row)
            print(seed, json.dumps(row["compared"]["fronts"]), flush=True)


if __name__ == "__main__":
    main()
