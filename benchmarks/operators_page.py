"""Writes the section of docs/measured.md on weight operators."""

from typing import Any

from benchmarks.markdown_table import table


def section(result: Any) -> str:
    """Return the errors against baselines, and the time of six bit-widths to one."""
    errors = [
        [
            layers,
            pair,
            setting,
            f"{row['share_below']:.0%} of {row['layers']}",
            f"{row['median_ratio']:.2f}",
            f"{row['worst_ratio']:.2f}",
        ]
        for layers, pairs in result["errors"].items()
        for pair, settings in pairs.items()
        for setting, row in settings.items()
    ]
    times = [
        [
            shape,
            f"{row['one_seconds']:.3f} s",
            f"{row['six_seconds']:.3f} s",
            f"{row['ratio']:.2f}",
        ]
        for shape, row in result["six_to_one"].items()
    ]
    return (
        "## Weight operators\n\n"
        "`python -m benchmarks.operators --output benchmarks/results/operators.json`\n\n"
        "Errors are tr(Δ H Δᵀ) over the calibration inputs, as ratios to the baseline's: random "
        "layers with correlated inputs, and all linear groups of the reference model. Wanda ranks "
        "within each row by the norms of inputs: where these are nearly equal, as in the random "
        "layers, nothing is to be gained.\n\n"
        + table(["layers", "method", "setting", "below", "median", "worst"], errors)
        + "\n\nSix bit-widths (2, 3, 4, 5, 6, 8) come from one sweep of GPTQ over one Hessian; "
        f"medians of runs in turn, {result['threads']} thread. A matrix: the operator alone. A "
        "layer: what a worker does for all of its groups, calibration and files included, median "
        "of 12 layers.\n\n" + table(["matrix", "one width", "six widths", "times as long"], times)
    )
