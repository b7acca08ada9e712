"""Asks how often the search finds the true optimum of spaces that were measured whole.

    python -m benchmarks.optimum --record benchmarks/results/optimum.npz \
        --output benchmarks/results/optimum.json

Every configuration of two spaces of the reference model is measured once on some sequences of the
search text, on the real workers; an interrupted recording goes on where it was. The real evolution
is then run on the recorded losses, which are all the text it has, and ends at the latest when a
share of the space has been evaluated. The optimum has the least mean loss over all that was
recorded. Each different candidate counts once, whatever was read of it, and so do the single
changes of the warm start, which are outside the space.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from autocompress.workers.responder import ONE_THREAD
from benchmarks.optimum_replay import Outcome, Replay, replay
from benchmarks.optimum_table import Table, read, record

BAR = {"found": 95, "seeds": 100, "share": 0.05, "configurations": 10_000}
FINALISTS = 6  # As many as a search measures again on text of its own.


def rate(n: int, total: int) -> dict[str, object]:
    """Return a count with its 95 % Wilson interval."""
    found = binomtest(n, total).proportion_ci(method="wilson")
    return {"n": n, "of": total, "interval": [float(found.low), float(found.high)]}


def shares(counts: Sequence[int | None], space: int) -> dict[str, float] | None:
    """Return the median and the 95th percentile of what was evaluated, as shares of the space."""
    known = [count / space for count in counts if count is not None]
    if not known:
        return None
    return {"median": float(np.median(known)), "p95": float(np.quantile(known, 0.95))}


def summary(table: Table, replays: Sequence[Replay], share: float) -> dict[str, object]:
    """Return what 100 searches of one space came to."""
    losses = np.sort(table.losses)
    optimum = int(table.losses.argmin())
    genotype = next(g for g, row in table.rows.items() if row == optimum)
    choices = zip(
        table.space.constraint.space.sites,
        table.space.constraint.space.choices(genotype),
        strict=True,
    )
    n, total = len(losses), len(replays)
    outcomes = Counter(r.outcome for r in replays)
    measured = sum(r.measured_after is not None for r in replays)
    return {
        "space": table.space.name,
        "title": table.space.title,
        "configurations": n,
        "sequences": table.kl.shape[1],
        "share": share,
        "optimum": {
            "kl": float(losses[0]),
            "second_kl": float(losses[1]),
            "median_kl": float(np.median(losses)),
            "changes": [f"{s.kind} {s.layer}: {c}" for s, c in choices if not c.is_dense],
        },
        "found": rate(outcomes[Outcome.FOUND], total),
        "measured": rate(measured, total),
        "among_finalists": rate(sum(r.is_finalist for r in replays), total),
        "random_found": rate(sum(r.random_found for r in replays), total),
        "random_expected": float(np.mean([r.evaluations for r in replays]) / n),
        "share_evaluated": shares([r.evaluations for r in replays], n),
        "share_when_measured": shares([r.measured_after for r in replays], n),
        "share_when_standing": shares([r.standing_after for r in replays], n),
        "outcomes": {outcome.value: outcomes[outcome] for outcome in Outcome},
        "worst_excess": max(r.excess for r in replays),
        "worst_rank": max(r.rank for r in replays),
        "replays": [r.to_json() for r in replays],
    }


def replays_of(
    executor: ProcessPoolExecutor, file: Path, which: int, seeds: int, share: float
) -> Iterator[Replay]:
    """Yield one space's replays in the order of their seeds."""
    asked = [executor.submit(replay, file, which, seed, share, FINALISTS) for seed in range(seeds)]
    for future in asked:
        found = future.result()
        print(which, found.seed, found.outcome, found.evaluations, found.rank, flush=True)
        yield found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, required=True, help="recorded unless it is there")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sequences", type=int, default=6, help="recorded of each configuration")
    parser.add_argument("--seeds", type=int, default=BAR["seeds"])
    parser.add_argument("--share", type=float, default=BAR["share"])
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if not arguments.record.is_file():
        record(arguments.record, arguments.sequences, arguments.workers)
    os.environ.update(ONE_THREAD)  # The replaying processes share the cores out.
    rows: list[dict[str, object]] = []
    context = multiprocessing.get_context("spawn")
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.workers, context) as executor:
        for which, table in enumerate(read(arguments.record)):
            asked = (executor, arguments.record, which, arguments.seeds, arguments.share)
            rows.append(summary(table, list(replays_of(*asked)), arguments.share))
            result = {
                "bar": BAR,
                "seconds": round(time.monotonic() - started),
                "rows": rows,
            }
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
