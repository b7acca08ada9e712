"""The part of docs/measured.md that benchmarks/scale.py has made results for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown_table import table

RESULTS = Path(__file__).parent / "results"
NOTE = (
    "`python -m benchmarks.scale --output benchmarks/results/scale-cpu-0.5b.json` (and "
    "`--shape 8b --device cuda --context 2048`)\n\n"
    "A randomly initialised Llama, made by `benchmarks/random_models.py`, one generation of "
    "mutants of one random parent with a quarter of the sub-blocks of each kind dropped. Held: "
    "all layers' weights on the device. Streamed: as many bytes of them as the column says, the "
    "rest comes from the checkpoint, site by site. Each run has a process of its own; its peak "
    "is of resident memory, in which a CPU counts the pages of the checkpoint that it has mapped. "
    "Tokens are summed over candidates; the dense model's pass is not in the seconds. Shares are "
    "of another pass, clocked part by part."
)


def read_results() -> dict[str, Any]:
    """Return what benchmarks/scale.py has written, by the file's name."""
    return {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(RESULTS.glob("scale-*.json"))
    }


def section(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the section; `results` maps a file's name to what it holds."""
    parts = [f"## Scale\n\n{NOTE}"]
    for name, result in results.items():
        runs = {way: result[way] for way in ("held", "streamed") if way in result}
        parts.append(f"### {name}\n\n{_model(result)}")
        parts.append(table(["", *runs], [list(row) for row in zip(*_columns(runs), strict=True)]))
        parts.append(_same(result))
    return "\n\n".join(parts)


def _model(result: Mapping[str, Any]) -> str:
    levels = ""
    if "levels" in result:
        own = result["levels"]
        levels = (
            f" The last {own['layers']} layers have widths too: {own['levels']} levels, "
            f"{_mb(own['bytes'])}, built in {own['seconds']:.0f} s."
        )
    return (
        f"{result['parameters']:,} parameters, {result['dtype']}, "
        f"{_mb(result['checkpoint_bytes'])} in {result['checkpoint_shards']} files, "
        f"{_mb(result['layers_bytes'])} of it layers. "
        f"{result['candidates']} candidates on {result['sequences']} sequences of "
        f"{result['context']} tokens, {result['space']}. {result['hardware']}.{levels}"
    )


def _columns(runs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return the rows' names, then a column for each run."""
    parts = list(next(iter(runs.values()))["parts"])
    names = [
        "layers' weights held",
        "tokens a second",
        "seconds",
        "sub-blocks saved",
        "peak memory, process",
        "peak memory, GPU",
        *(f"share of {part}" for part in parts),
        "seconds of weight swaps, then again",
    ]
    return [names, *(_column(run, parts) for run in runs.values())]


def _column(run: Mapping[str, Any], parts: list[str]) -> list[str]:
    device = run.get("device_peak_bytes")
    swaps = f"{run['parts']['weight swaps']['seconds']:.3f}"
    if "parts_again" in run:
        swaps += f", {run['parts_again']['weight swaps']['seconds']:.3f}"
    return [
        "all" if run["weights_bytes"] is None else _mb(run["weights_bytes"]),
        f"{run['tokens_per_second']:,.0f}",
        f"{run['seconds']:.1f}",
        f"{run['saved']:.1%}",
        _mb(run["peak_bytes"]),
        "-" if device is None else _mb(device),
        *(f"{run['parts'][part]['share']:.1%}" for part in parts),
        swaps,
    ]


def _same(result: Mapping[str, Any]) -> str:
    told = []
    if "largest_difference" in result:
        told.append(
            "Largest absolute difference of any loss between held and streamed: "
            f"{result['largest_difference']:g}."
        )
    same = "equal to the bit" if result["same_on_workers"] else "NOT equal"
    told.append(f"Losses on one worker and on {result['workers']}: {same}.")
    return " ".join(told)


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
