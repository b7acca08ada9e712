"""Holds the search against its baselines: two targets, five seeds, one latency table.

    python benchmarks/quality.py --output benchmarks/results/quality.json

Every search is the whole command, in a process of its own, on the shipped reference model. The
latency table is measured once and imported by all, so that every method faces the same predicted
constraint and the clock decides nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "reference-model"
BASELINES = ("uniform", "additive", "random")


def run(*arguments: str) -> None:
    command = [sys.executable, "-m", "autocompress", *arguments]
    # Exit 0 with a verdict on standard error is a result: a missed floor is what is reported.
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def one(target: float, seed: int, table: Path, tokens: int, folder: Path) -> dict[str, object]:
    started = time.monotonic()
    output = folder / f"{target}-{seed}"
    run(
        "search",
        str(MODEL),
        f"--target-speedup={target}",
        f"--latency-table={table}",
        f"--max-tokens={tokens}",
        f"--seed={seed}",
        f"--storage=sqlite:///{folder}/studies.db",
        f"--output={output}",
        f"--study={output.name}",
    )
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return {
        "target": target,
        "seed": seed,
        "kl": report["loss"]["kl"],
        "kl_stderr": report["loss"]["kl_stderr"],
        "perplexity_ratio": report["loss"]["perplexity"] / report["loss"]["dense_perplexity"],
        "predicted": report["speedup"]["predicted"],
        "measured": report["speedup"]["measured"],
        "measured_interval": report["speedup"]["measured_interval"],
        "baselines": {
            name: {
                key: report["baselines"][name][key]
                for key in ("kl", "paired_difference", "speedup_predicted")
            }
            for name in BASELINES
        },
        "tokens": report["search"]["tokens"],
        "trials": report["search"]["trials"],
        "generations": report["search"]["generations"],
        "seconds": round(time.monotonic() - started, 1),
        "hardware": report["hardware"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1_500_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 1.5])
    arguments = parser.parse_args()
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "table.json"
        run("profile", str(MODEL), f"--output={table}")
        for seed in range(arguments.seeds):
            for target in arguments.targets:
                row = one(target, seed, table, arguments.tokens, folder)
                rows.append(row)
                print(json.dumps(row), flush=True)
                result = {"tokens_asked": arguments.tokens, "rows": rows}
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
