"""Writes the section of docs/measured.md on GGUF files, searched and of one type."""

from typing import Any

from benchmarks.markdown_table import notes_of, table

TEXT = (
    "For each type a file with all linear layers in it, and one searched at no more bytes; both "
    "by llama.cpp's quantizer with the same importance, embedding and head in f16. KL from the "
    "f16 file and perplexity are those of the files as llama.cpp reads them, on {sequences} "
    "sequences that no search has read; behind the KL a 95 % interval of what the file of one "
    "type loses more, paired over sequences. Tokens a second are further tokens, times those of "
    "the file of one type, both timed in turn ({engine}, {hardware}). Bits a weight of the linear "
    "layers are recomputed from the files."
)


def section(result: Any) -> str:
    """Return the text and table."""
    rows = result["rows"]
    places = " and ".join(sorted({row["hardware"] for row in rows}))
    head = [
        "type", "bits: one type, searched", "KL: one type, searched", "perplexity", "tokens/s",
    ]  # fmt: skip
    body = []
    for row in rows:
        low, high = row["kl_more"]
        median, *interval = row["tokens_a_second_ratio"]
        body.append(
            [
                row["type"],
                f"{row['bits'][0]:.3f}, {row['bits'][1]:.3f}",
                f"{row['kl'][0]:.5f}, {row['kl'][1]:.5f} [{low:+.5f}, {high:+.5f}]",
                f"{row['perplexity'][0]:.3f}, {row['perplexity'][1]:.3f}",
                f"{median:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]",
            ]
        )
    equal = sum(abs(row["bits"][1] - row["bits_of_recipe"]) < 1e-9 for row in rows)
    end = f"Bits of the file equal those of its recipe in {equal} of {len(rows)}."
    text = TEXT.format(sequences=result["sequences"], engine=result["engine"], hardware=places)
    command = "`python -m benchmarks.gguf --output benchmarks/results/gguf.json`"
    return "\n\n".join(
        [
            "## GGUF files, as llama.cpp runs them",
            command,
            text,
            *notes_of(rows),
            table(head, body),
            end,
        ]
    )
