"""Writes the section of docs/measured.md on GGUF's types."""

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown_table import table


def section(result: Any) -> str:
    """Return what every type loses and gains, as llama.cpp runs the file."""
    rows = result["rows"]
    first = rows[0]
    body = [
        [
            row["kind"],
            f"{row['bits']:.3f}",
            f"{row['comparison']['kl']['value']:.4f}",
            _told(row["comparison"]["perplexity_ratio"], 3),
            f"{row['model']['bytes'] / row['against']['bytes']:.1%}",
            _told(row["comparison"]["speedup"]["first_token"]),
            _told(row["comparison"]["speedup"]["token"]),
        ]
        for row in rows
    ]
    heads = ["type", "bits", "KL", "perplexity ratio", "bytes", "first token", "further token"]
    return (
        "## GGUF's types, as llama.cpp runs them\n\n"
        "`python -m benchmarks.gguf_types --output benchmarks/results/gguf-types.json`\n\n"
        "All linear layers in one type, by llama.cpp's own quantizer without an importance "
        f"matrix, beside the f16 file of the same model: {result['engine']}, {first['hardware']}, "
        f"workload {first['workload']}, {first['repeats']} runs of both files in turn; "
        f"{first['sequences']} sequences of the report text. Bits are recomputed from the files. "
        "Speeds are times as fast as f16, in brackets 95 % intervals.\n\n" + table(heads, body)
    )


def _told(estimate: Mapping[str, Any], digits: int = 2) -> str:
    low, high = estimate["interval"]
    return f"{estimate['value']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
