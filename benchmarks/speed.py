"""Runs the whole command, corrections included, and keeps what it measured end to end.

python benchmarks/speed.py --output benchmarks/results/speed.json
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


def one(target: float, seed: int, budget: str, folder: Path) -> dict[str, object]:
    started = time.monotonic()
    output = folder / f"{target}-{seed}"
    command = [
        sys.executable,
        "-m",
        "autocompress",
        "search",
        str(MODEL),
        f"--target-speedup={target}",
        f"--seed={seed}",
        f"--budget={budget}",
        f"--storage=sqlite:///{folder}/studies.db",
        f"--output={output}",
        f"--study={output.name}",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    return {
        "target": target,
        "seed": seed,
        "budget": budget,
        "measured": report["speedup"]["measured"],
        "measured_interval": report["speedup"]["measured_interval"],
        "predicted": report["speedup"]["predicted"],
        "mape": report["latency_model"]["mape"],
        "met": report["met"],
        "verdict": report["verdict"],
        "kl": report["loss"]["kl"],
        "perplexity_ratio": report["loss"]["perplexity"] / report["loss"]["dense_perplexity"],
        "corrections": len(report["corrections"]),
        "tokens": report["search"]["tokens"],
        "seconds": round(time.monotonic() - started, 1),
        "hardware": report["hardware"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--targets", type=float, nargs="+", default=[2.0, 1.5])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", default="3m")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(arguments.seeds):
            for target in arguments.targets:
                rows.append(one(target, seed, arguments.budget, Path(name)))
                print(json.dumps(rows[-1]), flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
