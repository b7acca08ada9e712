"""Writes docs/measured.md from the results that lie in benchmarks/results.

python benchmarks/page.py
"""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BASELINES = ("uniform", "random", "additive")


def read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(interval: Sequence[float], ours: float, theirs: float) -> str:
    low, high = interval
    if low > 0:
        return "better"
    if high < 0:
        return "WORSE"
    return f"tied ({ours / theirs - 1:+.1%})"


def spread(middle: float, interval: Sequence[float]) -> str:
    return f"{middle:.2f}x [{interval[0]:.2f}, {interval[1]:.2f}]"


def quality(result: Any) -> str:
    parts = []
    for target in sorted({row["target"] for row in result["rows"]}, reverse=True):
        rows = [row for row in result["rows"] if row["target"] == target]
        body = []
        for row in rows:
            cells = [str(row["seed"]), f"{row['kl']:.4f} ± {1.96 * row['kl_stderr']:.4f}"]
            for name in BASELINES:
                base = row["baselines"][name]
                low, high = base["paired_difference"]
                word = verdict((low, high), row["kl"], base["kl"])
                cells.append(f"{base['kl']:.4f} [{low:+.4f}, {high:+.4f}] {word}")
            cells += [
                f"{row['perplexity_ratio']:.2f}x",
                f"{row['predicted']:.2f}x",
                spread(row["measured"], row["measured_interval"]),
                f"{row['tokens'] / 1e6:.2f} M, {row['seconds']:.0f} s",
            ]
            body.append(cells)
        median = statistics.median(row["kl"] for row in rows)
        ratios = ", ".join(
            f"{name} {statistics.median(r['baselines'][name]['kl'] / r['kl'] for r in rows):.2f}x"
            for name in BASELINES
        )
        head = ["seed", "KL, ours", *BASELINES, "perplexity to dense", "predicted", "measured"]
        parts.append(
            f"### {target:g}x\n\n{table([*head, 'cost'], body)}\n\n"
            f"Median KL {median:.4f}; the baselines' KL as a multiple of ours, median over seeds: "
            f"{ratios}."
        )
    return "\n\n".join(parts)


def main() -> None:
    found = {path.stem: read(path.name) for path in sorted(RESULTS.glob("*.json"))}
    parts = []
    parts.append(
        "# What was measured\n\nWritten by `python benchmarks/page.py` from the files in "
        "`benchmarks/results`; each section names the command that made its file. The model is "
        "the shipped reference model, the workload `1x128+64`, the machine "
        f"{found['latency']['hardware']}."
    )
    rows = [
        [
            str(row["seed"]),
            f"{row['mape']:.1%}",
            f"{row['repeat_error']:.1%}",
            f"{row['rank_correlation']:.3f}",
            f"{min(p[1] for p in row['points']):.2f}x to {max(p[1] for p in row['points']):.2f}x",
            f"± {row['half_width']:.1%}",
            f"{row['coverage']:.0%}",
        ]
        for row in found["latency"]["profiles"]
    ]
    head = ["profile", "MAPE", "measuring twice", "rank correlation", "measured speedups"]
    parts.append(
        "## The latency model on held-out configurations\n\n"
        "`python benchmarks/latency.py --output benchmarks/results/latency.json`\n\n"
        "Whole random configurations that the model was not fitted on, eight a profile, each "
        "profile with configurations of its own. *Measuring twice* is the median difference of "
        "two measurements of the same configuration.\n\n"
        + table([*head, "90 % interval", "coverage"], rows)
    )
    parts.append(
        "## End to end: the whole command, corrections included\n\n"
        "`python benchmarks/speed.py --output benchmarks/results/speed.json`\n\n"
        "Nothing imported: each run profiles the machine, searches, exports, and times the "
        "checkpoint from disk against dense in a process of its own, in turn.\n\n"
        + table(
            ["target", "seed", "measured, median [95 %]", "predicted", "KL", "perplexity", "took"],
            [
                [
                    f"{row['target']:g}x",
                    str(row["seed"]),
                    spread(row["measured"], row["measured_interval"]),
                    f"{row['predicted']:.2f}x",
                    f"{row['kl']:.3f}",
                    f"{row['perplexity_ratio']:.2f}x dense",
                    f"{row['seconds']:.0f} s, {row['corrections']} corrections",
                ]
                for row in found["speed"]["rows"]
            ],
        )
    )
    parts.append(
        "## Against the baselines, at one predicted constraint\n\n"
        "`python benchmarks/quality.py --output benchmarks/results/quality.json`\n\n"
        "KL from dense in nats a token on the report text, which nothing before has read. In "
        "brackets the 95 % interval of the baseline's KL minus ours, paired over sequences. The "
        "latency table is measured once and shared, so the measured speedups correct nothing "
        "here.\n\n" + quality(found["quality"])
    )
    resume = found["resume"]
    parts.append(
        "## Kills, resumes, workers and pools\n\n"
        "`python benchmarks/resume.py --output benchmarks/results/resume.json`\n\n"
        f"An undisturbed search of {resume['shards']} shards took "
        f"{resume['undisturbed_seconds']} s. The others ended with the same winner and the same "
        "shards, losses equal to the bit: "
        + ("all of them.\n\n" if resume["all_same"] else "NOT all of them.\n\n")
        + table(
            ["run", "same winner", "same shards"],
            [
                [
                    f"kill -9 after {row['killed_after_seconds']} s, then resume"
                    if "killed_after_seconds" in row
                    else f"{row['pool']} pool, {row['workers']} workers, {row['seconds']} s",
                    str(row["same_winner"]),
                    str(row["same_shards"]),
                ]
                for row in resume["rows"]
            ],
        )
    )
    page = ROOT / "docs" / "measured.md"
    page.parent.mkdir(exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
