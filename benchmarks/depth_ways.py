"""Tries other settings of the search where the contest in depth is closest: half of the blocks.

    python -m benchmarks.depth_ways --output benchmarks/results/depth-ways.json

EvoPress's ends and our search as it is come from the contest's rows; only the other ways run
here, on the same seeds and against the same goals; what the output holds is not run again. At
last all ends are measured on all of the three texts, and the contest's rows on the two that no
strategy has read: whether a goal that was not reached is a better candidate, or one that the
report text likes.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocompress.pipeline.latency import hardware
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.steps import Rung
from autocompress.spaces.cost import drops_of_each_kind
from autocompress.trial import Genotype, Measurement, Split
from benchmarks.contest import OURS, paired, write_whole
from benchmarks.laboratory import Laboratory, laboratory

RESULTS = Path(__file__).parent / "results"
WAYS = {
    "a last rung of 128 sequences": EvolveSettings(rungs=(Rung(4, 4), Rung(16, 2), Rung(128, 1))),
    "12 elites": EvolveSettings(elites=12),
}
AS_IT_IS = "as it is"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--contest", type=Path, default=RESULTS / "depth.json")
    parser.add_argument("--drops", type=int, default=6)
    arguments = parser.parse_args()
    contest = json.loads(arguments.contest.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in contest if row["case"] == str(arguments.drops)]
    known = _read(arguments.output)
    found: list[Row] = []
    with laboratory(["depth"]) as lab:
        about = {
            "drops": arguments.drops,
            "hardware": hardware(lab.prepared.device, lab.workers),
            "number_format": lab.number_format,
        }
        for way in (AS_IT_IS, *WAYS):
            for row in rows:
                done = known.get((way, row["seed"]))
                found.append(done or _run(lab, way, arguments.drops, row))
                write_whole(arguments.output, {**about, "rows": found})
                print(way, row["seed"], found[-1]["tokens_to_goal"], flush=True)
        ends = {_last(row["evopress"]): {"EvoPress"} for row in rows}
        for row in found:
            ends.setdefault(_genotype(row), set()).add("ours")
        result = {
            **about,
            "rows": found,
            "ends": _ends(lab, ends),
            "unread": _unread(lab, contest),
        }
        write_whole(arguments.output, result)


def _read(output: Path) -> dict[tuple[str, int], Row]:
    if not output.is_file():
        return {}
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    return {(row["way"], row["seed"]): row for row in rows}


def _run(lab: Laboratory, way: str, drops: int, row: Row) -> Row:
    """Return what one way reached, held against the row's EvoPress."""
    total = row["evopress"][-1]["tokens"]
    if way == AS_IT_IS:
        path = [(step["tokens"], _genotype(step)) for step in row[OURS]]
    else:
        constraint = drops_of_each_kind(lab.prepared.space, drops)
        task = lab.task(constraint, row["seed"], total)
        steps = lab.run(EvolveStrategy(task, WAYS[way]))
        path = [(step.tokens, step.best) for step in steps]
    goal = _last(row["evopress"])
    losses = lab.held_out([goal, *(best for _, best in path)])
    reached = [tokens for tokens, best in path if losses[best].loss <= losses[goal].loss]
    tokens, end = path[-1]
    return {
        "way": way,
        "seed": row["seed"],
        "tokens": tokens,
        "tokens_to_goal": min(reached, default=None),
        "share": min(reached) / total if reached else None,
        "kl": losses[end].loss,
        "goal": losses[goal].loss,
        "levels": list(end.levels),
    }


def _ends(lab: Laboratory, ended_by: Mapping[Genotype, set[str]]) -> list[Row]:
    """Return the loss of each candidate on each text and on all three, the best of all first.

    Intervals are of its loss minus that of the first, paired over sequences.
    """
    candidates = list(ended_by)
    read = {str(split): lab.measured(candidates, split) for split in Split}
    read["all three"] = {
        each: _joined([read[split][each] for split in Split]) for each in candidates
    }
    order = sorted(read["all three"], key=lambda each: read["all three"][each].loss)
    return [
        {
            "levels": list(each.levels),
            "ended_by": sorted(ended_by[each]),
            "kl": {text: losses[each].loss for text, losses in read.items()},
            "more": {
                text: paired(losses[each], losses[order[0]]) for text, losses in read.items()
            },
        }
        for each in order
    ]


def _unread(lab: Laboratory, rows: list[Row]) -> list[Row]:
    """Return when the contest's rows were as good as EvoPress on all text that none has read."""
    paths = {(row["case"], row["seed"]): [_genotype(step) for step in row[OURS]] for row in rows}
    wanted = [_last(row["evopress"]) for row in rows]
    wanted += [genotype for path in paths.values() for genotype in path]
    read = [lab.measured(wanted, split) for split in (Split.SELECTION, Split.REPORT)]
    both = {each: _joined([losses[each] for losses in read]) for each in wanted}
    found = []
    for row in rows:
        path, goal = paths[row["case"], row["seed"]], both[_last(row["evopress"])]
        reached = [
            step["tokens"]
            for step, best in zip(row[OURS], path, strict=True)
            if both[best].loss <= goal.loss
        ]
        found.append(
            {
                "case": row["case"],
                "seed": row["seed"],
                "share": reached[0] / row["evopress"][-1]["tokens"] if reached else None,
                "kl": both[path[-1]].loss,
                "goal": goal.loss,
                "minus_ours": paired(goal, both[path[-1]]),
            }
        )
    return found


def _joined(parts: Sequence[Measurement]) -> Measurement:
    return Measurement(
        tuple(kl for part in parts for kl in part.kl),
        tuple(nll for part in parts for nll in part.nll),
        parts[0].tokens,
    )


def _genotype(step: Row) -> Genotype:
    return Genotype(tuple(step["levels"]))


def _last(steps: list[Row]) -> Genotype:
    return _genotype(steps[-1])


if __name__ == "__main__":
    main()
