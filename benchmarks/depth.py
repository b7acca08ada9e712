"""Holds the search against EvoPress and the rest in depth, under EvoPress's own constraint.

    python -m benchmarks.depth --output benchmarks/results/depth.json

k attention and k MLP sub-blocks of the reference model are dropped, k a quarter, a third and a
half of its layers. EvoPress runs its full default schedule; our search may spend as many tokens
and ends when it finds no improvement. All strategies run on the same workers, text and metric;
KL is measured on all of the report text, which none of them reads.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from autocompress.search.base import Task
from autocompress.search.evolve import EvolveSettings
from autocompress.search.strategies import make_strategy
from autocompress.spaces.cost import drops_of_each_kind
from autocompress.trial import Genotype, Measurement, Split
from benchmarks.laboratory import Laboratory, Step, laboratory

OTHERS = ("uniform", "random", "additive", "leave-one-out", "shortgpt", "cosine")
BOOTSTRAPS = 2000


def task_of(lab: Laboratory, k: int, seed: int, max_tokens: int | None = None) -> Task:
    prepared = lab.prepared
    return Task(
        drops_of_each_kind(prepared.space, k),
        seed,
        prepared.spec.context,
        len(prepared.sequences[Split.SEARCH]),
        max_tokens=max_tokens,
    )


def run(lab: Laboratory, name: str, task: Task) -> list[Step]:
    return lab.run(make_strategy(name, task, EvolveSettings(), lab.scores()))


def paired(theirs: Measurement, ours: Measurement) -> list[float]:
    """Return the 95 % interval of their KL minus ours, paired over sequences."""
    difference = np.asarray(theirs.kl) - np.asarray(ours.kl)
    if not difference.any():
        return [0.0, 0.0]
    interval = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    return [float(interval.low), float(interval.high)]


def one(lab: Laboratory, k: int, seed: int) -> dict[str, object]:
    theirs = run(lab, "evopress", task_of(lab, k, seed))
    ours = run(lab, "evolve", task_of(lab, k, seed, theirs[-1].tokens))
    finals = {name: run(lab, name, task_of(lab, k, seed))[-1] for name in OTHERS}
    losses = lab.held_out([s.best for s in (*theirs, *ours, *finals.values())])
    goal = losses[theirs[-1].best].loss
    reached = next((s.tokens for s in ours if losses[s.best].loss <= goal), None)
    close = next((s.tokens for s in ours if losses[s.best].loss <= 1.01 * goal), None)

    def path(steps: Sequence[Step]) -> list[dict[str, float]]:
        return [
            {"tokens": s.tokens, "seconds": round(s.seconds, 1), "kl": losses[s.best].loss}
            for s in steps
        ]

    def final(best: Genotype) -> dict[str, object]:
        return {
            "kl": losses[best].loss,
            "minus_ours": paired(losses[best], losses[ours[-1].best]),
        }

    return {
        "k": k,
        "seed": seed,
        "ours": path(ours),
        "evopress": path(theirs),
        "evopress_minus_ours": paired(losses[theirs[-1].best], losses[ours[-1].best]),
        "tokens_to_evopress_final": reached,
        "tokens_to_one_percent_of_it": close,
        "others": {
            name: {**final(step.best), "tokens": step.tokens} for name, step in finals.items()
        },
    }


def summary(rows: Sequence[dict[str, object]]) -> dict[str, object]:
    """Return medians over seeds; a run that never got there counts as infinitely long."""
    parts: dict[str, object] = {}
    for k in sorted({int(str(row["k"])) for row in rows}):
        own = [row for row in rows if row["k"] == k]
        shares = []
        ratios = []
        for row in own:
            theirs, ours = row["evopress"], row["ours"]
            assert isinstance(theirs, list)
            assert isinstance(ours, list)
            reached = row["tokens_to_evopress_final"]
            total = theirs[-1]["tokens"]
            shares.append(float("inf") if reached is None else float(str(reached)) / total)
            ratios.append(ours[-1]["kl"] / theirs[-1]["kl"])
        rng = np.random.default_rng(0)
        drawn = rng.choice(shares, (BOOTSTRAPS, len(shares)))
        medians = np.sort(np.median(drawn, axis=1))
        low, high = medians[int(0.025 * BOOTSTRAPS)], medians[int(0.975 * BOOTSTRAPS) - 1]
        parts[str(k)] = {
            "share_of_tokens": _number(statistics.median(shares)),
            "share_interval": [_number(low), _number(high)],
            "final_kl_to_evopress": statistics.median(ratios),
            "worst_final_kl_to_evopress": max(ratios),
        }
    return parts


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--drops", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with laboratory(["depth"]) as lab:
        for seed in range(arguments.seeds):
            for k in arguments.drops:
                rows.append(one(lab, k, seed))
                result = {
                    "machine": platform.machine(),
                    "layers": lab.prepared.architecture.n_layers,
                    "held_out_sequences": len(lab.prepared.sequences[Split.REPORT]),
                    "summary": summary(rows),
                    "rows": rows,
                }
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(k, seed, json.dumps(result["summary"]), flush=True)


if __name__ == "__main__":
    main()
