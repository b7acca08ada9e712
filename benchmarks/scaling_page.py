"""The part of docs/measured.md, and its figure, that benchmarks/scaling.py made a result for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from autocompress.export.figures import write_png
from benchmarks.markdown_table import table

COLOURS = ("#8b939c", "#56b4e9", "#0072b2", "#009e73")
BAR_COLOUR = "#d55e00"
NOTE = (
    "`python -m benchmarks.scaling --output benchmarks/results/scaling.json`\n\n"
    "The batches of a real search in depth and width, with its real rungs, are cut into shards by "
    "the driver and handed to workers by a simulated clock, the way the dispatcher does: each "
    "shard to the next free worker, and a batch ends with its last. Seconds of a shard follow "
    "from what the evaluator does of it; the dense model's predictions are made by every worker "
    "for itself and kept as long as they fit; the driver takes results one at a time. Efficiency "
    "is the time of one worker in the cut that is best for it, divided by the workers times "
    "theirs: the prefixes that a finer cut no longer shares count against it."
)


def section(result: Mapping[str, Any]) -> str:
    """Return the section."""
    cuts = [cut for cut in result["cuts"] if cut["shards"] > 1]
    batches = result["batches"]
    offspring = result["settings"]["offspring"]
    rungs = ", ".join(
        f"{rung['survivors']} survive {rung['sequences']} sequences"
        for rung in result["settings"]["rungs"]
    )
    costs = result["costs"]
    return (
        f"## Workers\n\n{NOTE}\n\n![Efficiency against workers](scaling.png)\n\n"
        f"{offspring} offspring a generation, {rungs}; {len(batches)} batches, "
        f"{result['trials']:,} trials. {result['hardware']}.\n\n"
        + _curves(cuts)
        + "\n\nOf the generations, after the warm start. In brackets with it; behind it with the "
        "strategy's own seconds, in which all workers wait: "
        f"{result['strategy_ms_per_trial']:.1f} ms a trial. {_losses(cuts, result['bar'])}\n\n"
        + table(
            ["milliseconds a trial", *(f"{cut['shards']} shards" for cut in cuts)],
            _overheads(cuts),
        )
        + f"\n\n{_pools(result['pools'])}\n\n"
        f"Costs were fitted to {costs['fitted']} shards timed in one process; of "
        f"{costs['held_out']} that were held out R² is {costs['r2']:.3f}, the median error "
        f"{costs['median_error']:.1%}, that of their sum {costs['total_error']:+.1%}. "
        + _validation(result["validation"])
    )


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw efficiency against workers, a line for each cut, dashed with the strategy's time."""
    figure = Figure(figsize=(7.2, 4.0), layout="constrained")
    axes = figure.add_subplot()
    bar = result["bar"]
    cuts = [cut for cut in result["cuts"] if cut["shards"] > 1]
    for cut, colour in zip(cuts, COLOURS, strict=False):
        workers = [row["workers"] for row in cut["curve"]]
        for name, style, label in (
            ("efficiency", "o-", f"{cut['shards']} shards"),
            ("efficiency_with_strategy", "--", None),
        ):
            values = [row[name] for row in cut["curve"]]
            axes.plot(workers, values, style, color=colour, label=label, markersize=5)
    axes.plot([1, bar["workers"]], [bar["efficiency"]] * 2, color=BAR_COLOUR, linewidth=1.4)
    axes.annotate(
        f"wanted: {bar['efficiency']} up to {bar['workers']}",
        (bar["workers"], bar["efficiency"]), (0, 4), textcoords="offset points", ha="right",
        color=BAR_COLOUR, fontsize=9,
    )  # fmt: skip
    axes.plot([], [], "--", color="#1f2328", label="with the strategy's time")
    axes.set_xscale("log", base=2)
    ticks = [row["workers"] for row in cuts[0]["curve"]]
    axes.set_xticks(ticks, list(map(str, ticks)))
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("workers (simulated)")
    axes.set_ylabel("efficiency")
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    write_png(figure, path)


def _curves(cuts: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            str(own[0]["workers"]),
            *(
                f"{row['efficiency']:.2f} [{row['efficiency_with_warm_start']:.2f}], "
                f"{row['efficiency_with_strategy']:.2f}"
                for row in own
            ),
        ]
        for own in zip(*(cut["curve"] for cut in cuts), strict=True)
    ]
    return table(["workers", *(f"{cut['shards']} shards" for cut in cuts)], rows)


def _losses(cuts: Sequence[Mapping[str, Any]], bar: Mapping[str, Any]) -> str:
    n = bar["workers"]
    parts = []
    for cut in cuts:
        row = next(row for row in cut["curve"] if row["workers"] == n)
        parts.append(
            f"{row['for_the_dense_model'] / row['worked']:.0%} and {row['idle']:.0%} at "
            f"{cut['shards']} shards"
        )
    return (
        f"Of what {n} workers do, the dense model's predictions, made anew by each, take a share, "
        f"and of their time they idle a share: {', '.join(parts)}."
    )


def _overheads(cuts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    stores = list(cuts[0]["overheads"])
    rows = [
        [f"store, {name}", *(f"{c['overheads'][name]['store_ms_per_trial']:.2f}" for c in cuts)]
        for name in stores
    ]
    first = stores[0]
    driver = [f"{cut['overheads'][first]['driver_ms_per_trial']:.2f}" for cut in cuts]
    return [["driver", *driver], *rows]


def _pools(pools: Mapping[str, Any]) -> str:
    def way(name: str) -> str:
        own = pools[name]
        return f"{own['ms_per_shard']:.2f} ms a shard, {own['ms_per_trial']:.3f} ms a candidate"

    return (
        "The way to a worker that answers at once and back, median over "
        f"{pools['shards'] * pools['rounds']:,} shards of {pools['candidates']:.1f} candidates on "
        f"average: local {way('local')}; Ray {way('ray')}, "
        f"{pools['ray_over_local_ms_per_shard']:.2f} ms a shard more."
    )


def _validation(validation: Mapping[str, Any]) -> str:
    parts = "; ".join(
        f"{row['shards']} shard{'s' if row['shards'] > 1 else ''} on {row['workers']} "
        f"worker{'s' if row['workers'] > 1 else ''} {row['real']:.1f} s, simulated "
        f"{row['simulated']:.1f} s ({row['error']:+.1%}, "
        f"{row['error_with_contention']:+.1%} with contention)"
        for row in validation["rows"]
    )
    return (
        f"Real runs, batches: {validation['batches']}: {parts}. Two workers at once take "
        f"{validation['contention']:.2f} times as long for the same shard on this machine, which "
        "is no property of the search and is left out of the curves."
    )
