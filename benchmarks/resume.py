"""Kills the driver with -9 at random moments, resumes, and compares the winners.

    python benchmarks/resume.py --output benchmarks/results/resume.json

The latency table is imported and the search ends by tokens, so the clock decides nothing: every
run must end with the winner and the trials of the undisturbed one, none lost and none doubled; so
must runs with 1, 2 and 3 workers, local and Ray.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "reference-model"


@dataclass(frozen=True)
class Setting:
    model: Path
    table: Path
    folder: Path
    tokens: int
    context: int
    target: float
    workload: str

    @property
    def storage(self) -> str:
        return f"--storage=sqlite:///{self.folder}/studies.db"

    def search(self, study: str, *flags: str) -> list[str]:
        return [
            "search",
            str(self.model),
            f"--target-speedup={self.target}",
            f"--latency-table={self.table}",
            f"--max-tokens={self.tokens}",
            f"--context={self.context}",
            f"--workload={self.workload}",
            self.storage,
            f"--study={study}",
            f"--output={self.folder / study}",
            *flags,
        ]

    def resume(self, study: str) -> list[str]:
        return ["resume", study, self.storage, f"--output={self.folder / study}"]


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "autocompress", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def finish(arguments: list[str]) -> float:
    started = time.monotonic()
    done = start(arguments).wait()
    if done != 0:
        raise SystemExit(f"autocompress {' '.join(arguments)} ended with {done}")
    return time.monotonic() - started


def outcome(setting: Setting, study: str) -> tuple[str, list[tuple[object, ...]]]:
    """Return the winner's recipe and every measured shard, losses included, to the bit."""
    recipe = (setting.folder / study / "recipe.yaml").read_text(encoding="utf-8")
    winner = recipe.split("genotype:")[1]
    with sqlite3.connect(setting.folder / "studies.db") as connection:
        shards = connection.execute(
            "select t.genotype, m.split, m.draw, m.first, m.sequences, m.kl, m.nll"
            " from ac_measurement m join ac_trial t on t.id = m.trial_id"
            " join ac_study s on s.id = t.study_id where s.name = ?"
            " order by 1, 2, 3, 4, 5",
            (study,),
        ).fetchall()
    return winner, shards


def killed(setting: Setting, study: str, moment: float) -> None:
    process = start(setting.search(study))
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--table", type=Path, help="latency table; measured if absent")
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--target", type=float, default=2.0)
    parser.add_argument("--workload", default="1x16+8")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = arguments.table
        if table is None:
            table = folder / "table.json"
            workload = f"--workload={arguments.workload}"
            finish(["profile", str(arguments.model), workload, f"--output={table}"])
        setting = Setting(
            arguments.model.resolve(),
            table.resolve(),
            folder,
            arguments.tokens,
            arguments.context,
            arguments.target,
            arguments.workload,
        )
        seconds = finish(setting.search("undisturbed"))
        expected = outcome(setting, "undisturbed")
        later = [rng.uniform(1, seconds) for _ in range(arguments.kills - 1)]
        moments = [rng.uniform(0.2, 1.0), *later]
        for number, moment in enumerate(moments):
            study = f"killed-{number}"
            killed(setting, study, moment)
            stored = subprocess.run(
                [sys.executable, "-m", "autocompress", "studies", setting.storage],
                capture_output=True,
                text=True,
                check=True,
                cwd=ROOT,
            ).stdout
            # A kill before the study's row leaves nothing: the same command is simply run again.
            finish(setting.resume(study) if study in stored else setting.search(study))
            found = outcome(setting, study)
            rows.append(
                {
                    "killed_after_seconds": round(moment, 2),
                    "row_existed": study in stored,
                    "same_winner": found[0] == expected[0],
                    "same_shards": found[1] == expected[1],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
        for pool in ("local", "ray"):
            for workers in (1, 2, 3):
                study = f"{pool}-{workers}"
                taken = finish(setting.search(study, f"--workers={workers}", f"--pool={pool}"))
                found = outcome(setting, study)
                rows.append(
                    {
                        "pool": pool,
                        "workers": workers,
                        "same_winner": found[0] == expected[0],
                        "same_shards": found[1] == expected[1],
                        "seconds": round(taken, 1),
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "undisturbed_seconds": round(seconds, 1),
        "shards": len(expected[1]),
        "rows": rows,
        "all_same": all(row["same_winner"] and row["same_shards"] for row in rows),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
