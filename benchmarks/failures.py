"""Kills drivers, workers and the database of searches at random moments, and compares their ends.

    python -m benchmarks.failures --output benchmarks/results/failures.json

A tiny model is searched, its study in a PostgreSQL of the benchmark's own. The latency table
is imported and the search ends by tokens, so the clock decides nothing: whatever is killed, every
search must end with the winner and the measurements of the undisturbed one to the bit, none lost
and none doubled. A driver is killed with -9 and the study resumed; a worker is killed with -9 and
the search goes on by itself; the database is stopped as by a power cut, and started again.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autocompress.models.sample_text import module_files
from autocompress.store.study_store import list_studies, open_study
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL, ROOT
from benchmarks.postgres_server import PostgresServer

KINDS = ("driver", "worker", "database")
BETWEEN_SECONDS = (0.3, 5.0)
"""From one failure of a search to the next."""
AWAY_SECONDS = (0.0, 1.5)
PATIENCE_SECONDS = 300.0

Outcome = tuple[list[int], list[tuple[object, ...]]]


@dataclass(frozen=True)
class Bench:
    """A tiny model, its latency table, and a database that can be killed."""

    folder: Path
    server: PostgresServer
    flags: tuple[str, ...]

    def start(self, verb: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "autocompress", verb, *arguments],
                cwd=ROOT,
                env=os.environ | {"AUTOCOMPRESS_CACHE": str(self.folder / "cache")},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    def begin(self, study: str) -> "subprocess.Popen[bytes]":
        """Search, or go on where a study stands that is known already."""
        own = (f"--storage={self.server.url}", f"--output={self.folder / study}")
        if study in {row.name for row in list_studies(self.server.url)}:
            return self.start("resume", study, *own)
        return self.start("search", *self.flags, f"--study={study}", *own)

    def outcome(self, study: str) -> Outcome:
        """Return the winner's levels and every measured shard, losses included, to the bit."""
        with contextlib.closing(open_study(self.server.url, study)) as store:
            winner = store.document("winner") or {}
            measured = store.measurements()
        levels = winner.get("levels")
        shards = [
            (genotype.levels, str(fidelity), record.error, record.measurement)
            for (genotype, fidelity), record in measured.items()
        ]
        return list(map(int, map(str, levels if isinstance(levels, list) else []))), sorted(
            shards, key=lambda shard: (shard[0], shard[1])
        )


@contextlib.contextmanager
def bench(tokens: int) -> Iterator[Bench]:
    """Make a tiny model, measure its latency table, and start a database."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        model = folder / "model"
        write_tiny_model(model)
        text = folder / "text.txt"
        text.write_text(module_files(("heapq", "textwrap"))[0].read_text("utf-8"), "utf-8")
        server = PostgresServer(folder / "server")
        table = folder / "table.json"
        common = (str(model), "--workload=1x8+4", f"--calibration={text}", "--context=16")
        flags = (
            *common,
            f"--latency-table={table}",
            "--target-speedup=1.5x",
            f"--max-tokens={tokens}",
            "--workers=2",
        )
        own = Bench(folder, server, flags)
        try:
            if own.start("profile", *common, f"--output={table}").wait():
                raise SystemExit((folder / "errors").read_text("utf-8"))
            yield own
        finally:
            server.stop()


def write_tiny_model(folder: Path) -> None:
    """Write a Llama of three layers with the reference model's tokenizer."""
    torch.manual_seed(0)
    vocabulary = json.loads((MODEL / "config.json").read_text("utf-8"))["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((MODEL / name).read_bytes())


def disturbed(own: Bench, study: str, rng: random.Random, most: int) -> Counter[str]:
    """Run a search to its end through failures, `most` at most; return how many of each kind."""
    done: Counter[str] = Counter()
    process = own.begin(study)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        wanted = done.total() < most
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = process.wait(rng.uniform(*BETWEEN_SECONDS) if wanted else PATIENCE_SECONDS)
            if status == 0:
                return done
            # The database went away before the study was opened: the command says so and ends.
            done["ended in one line"] += 1
            process = own.begin(study)
            continue
        if time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"{study} did not come to its end: {(own.folder / 'errors')}")
        kind = rng.choice(KINDS)
        if kind == "driver":
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = own.begin(study)
        elif kind == "worker":
            workers = workers_of(process.pid)
            if not workers:
                continue
            with contextlib.suppress(psutil.NoSuchProcess):
                rng.choice(workers).kill()
        else:
            own.server.stop()
            time.sleep(rng.uniform(*AWAY_SECONDS))
            own.server.start()
        done[kind] += 1


def workers_of(driver: int) -> list[psutil.Process]:
    """Return the processes that measure for a driver."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(driver).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any("spawn_main" in part for part in child.cmdline()):
                    found.append(child)
    return sorted(found, key=lambda child: child.pid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--failures", type=int, default=100)
    parser.add_argument("--each", type=int, default=6, help="failures of one search at most")
    parser.add_argument("--tokens", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    result = run(arguments.failures, arguments.each, arguments.tokens, arguments.seed, print)
    write_whole(arguments.output, result)
    if result["differences"]:
        raise SystemExit("searches ended otherwise than the undisturbed one")


def run(failures: int, each: int, tokens: int, seed: int, say: object = None) -> dict[str, object]:
    """Disturb searches until so many failures have happened; return what came of it."""
    rng = random.Random(seed)
    total: Counter[str] = Counter()
    rows: list[dict[str, object]] = []
    with bench(tokens) as own:
        started = time.monotonic()
        disturbed(own, "undisturbed", rng, 0)
        seconds = time.monotonic() - started
        expected = own.outcome("undisturbed")
        while sum(total[kind] for kind in KINDS) < failures:
            study = f"disturbed-{len(rows)}"
            done = disturbed(own, study, rng, each)
            total += done
            found = own.outcome(study)
            rows.append(
                {
                    **done,
                    "same_winner": found[0] == expected[0],
                    "same_shards": found[1] == expected[1],
                }
            )
            if callable(say):
                say(json.dumps(rows[-1]), flush=True)
    differing = [row for row in rows if not (row["same_winner"] and row["same_shards"])]
    return {
        "failures": sum(total[kind] for kind in KINDS),
        "by_kind": dict(total),
        "searches": len(rows),
        "shards": len(expected[1]),
        "undisturbed_seconds": round(seconds, 1),
        "differences": len(differing),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
