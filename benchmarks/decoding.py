"""Holds the search for a decoding against random and grid search, and against itself unpruned.

    python -m benchmarks.decoding --output benchmarks/results/decoding.json

Each seed: `autocompress decode` by TPE with pruning; then, with as many generated tokens, random
and grid search without it, as they are commonly run (the grid's cells in random order); then as
many decodings by TPE without pruning. All for quality a second on lines of
code to end, judged by ROUGE-L. The winners, and the untuned, then answer the same held-out items
in turn, in several processes. A seed that the output holds is not run again; with `--judge` its
winners answer once more.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from autocompress.evaluators.sample_tasks import N_LINES, sample_items
from autocompress.evaluators.tasks import needs_generation, to_line
from autocompress.models import loading
from autocompress.pipeline import decoding
from autocompress.pipeline.decoding_asked import DecodeAsked, decode_asked
from autocompress.pipeline.decoding_conclusion import gain
from autocompress.pipeline.decoding_opened import answered, in_processes
from autocompress.pipeline.latency import hardware
from autocompress.search.racing import Answered, Objective
from autocompress.spaces.decoding import Decoding
from autocompress.trial import Split
from autocompress.workers.decoding_session import Contender
from autocompress.workers.tune import in_ray
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL
from benchmarks.recovery import Watcher

OBJECTIVE: Final = Objective.QUALITY_PER_SECOND
TUNED: Final = "draft,draft_tokens,do_sample,temperature,top_p,num_beams,batch,stop"
"""What people set by hand: 2,000 decodings, over which a grid can be laid."""
FIXED: Final = "max_new_tokens=24"
MANY: Final = 100_000
ITEMS: Final = {**decoding.ITEMS, Split.REPORT: 1}
"""What a search reports of its winner is not read here."""
HELD_OUT: Final = 128
"""Items that the winners are held against each other on."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--judge", action="store_true", help="hold known winners against anew")
    arguments = parser.parse_args()
    known = []
    if arguments.output.is_file():
        known = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    rows = {row["seed"]: row for row in known}
    with tempfile.TemporaryDirectory() as folder, in_ray(None):
        tasks = write_tasks(Path(folder))
        for seed in range(arguments.seeds):
            if seed in rows and not arguments.judge:
                continue
            given = {
                "model": str(MODEL),
                "tasks": str(tasks),
                "objective": OBJECTIVE.value,
                "tune": TUNED,
                "fix": FIXED,
                "trials": arguments.trials,
                "items": arguments.items,
                "seed": seed,
            }
            ways = rows[seed]["ways"] if seed in rows else None
            rows[seed] = judged(given, ways or searched(given, Path(folder) / f"seed-{seed}"))
            told = [rows[own] for own in sorted(rows)]
            write_whole(arguments.output, {"summary": summary(told), "rows": told})
            print(json.dumps(summary(told)), flush=True)


def write_tasks(folder: Path, n: int = N_LINES) -> Path:
    """Write lines to end, the shipped ones or more, to be judged by how much of them is there."""
    items = [item for item in sample_items(n) if needs_generation(item)]
    path = folder / "lines.jsonl"
    lines = [to_line(dataclasses.replace(item, metric="rouge-l")) for item in items]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def searched(given: Mapping[str, Any], folder: Path) -> dict[str, Row]:
    """Search by each way with one seed."""
    own = search(given, folder, "tpe")
    equal = {"trials": MANY, "max_tokens": own["tokens"], "no_pruning": True}
    return {
        "tpe": own,
        "random": search({**given, **equal, "strategy": "random"}, folder, "random"),
        "grid": search({**given, **equal, "strategy": "grid"}, folder, "grid"),
        "tpe unpruned": search({**given, "no_pruning": True}, folder, "tpe-unpruned"),
    }


def judged(given: Mapping[str, Any], searched_by: Mapping[str, Row]) -> Row:
    """Hold the winners of each way, and the untuned, against each other."""
    asked = decode_asked(given)
    ways = {name: dict(way) for name, way in searched_by.items()}
    own = ways["tpe"]
    winners = [way["winner"] for way in ways.values() if "winner" in way]
    made_of = in_turn(asked, [*winners, own["untuned"]])
    for name, made in zip(dict.fromkeys([*ways, "untuned"]), made_of, strict=True):
        value = OBJECTIVE.shown(OBJECTIVE.ratio(made))
        beside = gain(OBJECTIVE, made_of[0], made, 0, asked.timing_processes)
        ways.setdefault(name, {})
        ways[name] |= {
            "quality_per_second": value,
            "quality": float(made.scores.mean()),
            "seconds_an_answer": float(made.seconds.mean()),
            # Of the search by TPE with pruning beside this one: above 1, it is better.
            "beside": [beside.value, list(beside.interval)],
        }
    return {
        "seed": given["seed"],
        "items": given["items"],
        "held_out_items": len(made_of[0]),
        "processes": asked.timing_processes,
        "pruned_share_of_tokens": own["tokens"] / ways["tpe unpruned"]["tokens"],
        "hardware": hardware(loading.pick_device(asked.device), 0),
        "ways": ways,
    }


def search(given: Mapping[str, Any], folder: Path, name: str) -> Row:
    """Search once; return the winner and what it took."""
    print(f"seed {given['seed']}: {name}", flush=True)
    storage = f"sqlite:///{folder / 'studies.db'}"
    folder.mkdir(parents=True, exist_ok=True)
    report = decoding.decode(decode_asked(given), storage, name, folder / name, Watcher(), ITEMS)
    return {
        "winner": dict(report.winner),
        "decoding": report.standings[0].decoding,
        "untuned": {"max_new_tokens": report.winner["max_new_tokens"]},
        "tokens": report.search_tokens,
        "trials": report.trials,
        "dropped": report.pruned,
        "seconds": report.seconds,
        "hardware": report.hardware,
    }


def in_turn(asked: DecodeAsked, decodings: Sequence[Decoding]) -> list[Answered]:
    """Have decodings answer in turn items of the split that no search reads."""
    opened = decoding.opened_for(dataclasses.replace(asked, items=HELD_OUT))
    n = min(HELD_OUT, len(opened.items[Split.REPORT]))
    contenders = [Contender(own) for own in decodings]
    factory = opened.factory(Split.REPORT)
    return list(map(answered, in_processes(factory, asked, contenders, (0, n), Watcher())))


def summary(rows: Sequence[Row]) -> Row:
    """Return how often the search was better than each other way, and what pruning left."""

    def better(name: str) -> int:
        return sum(row["ways"][name]["beside"][1][0] > 1 for row in rows)

    def ratio(name: str) -> float:
        logs = [np.log(row["ways"][name]["beside"][0]) for row in rows]
        return float(np.exp(np.mean(logs)))

    return {
        "seeds": len(rows),
        "surely_better_than": {name: better(name) for name in ("random", "grid", "untuned")},
        "times_as_good_as": {
            name: ratio(name) for name in ("random", "grid", "tpe unpruned", "untuned")
        },
        "pruned_share_of_tokens": float(
            np.median([row["pruned_share_of_tokens"] for row in rows])
        ),
    }


if __name__ == "__main__":
    main()
