"""Times a depth and width winner in stock transformers, against the report's figure.

    python -m benchmarks.stock_speed --output benchmarks/results/stock-speed.json

A search of the reference model ends in a checkpoint and a measured speedup. Both models are then
loaded as a user loads them, by `AutoModelForCausalLM`, and answer in turn, in one process, the
request that was searched for, on as many threads: by the model's own forward passes with its KV
cache, and by `generate`, which adds the same time to every token of either.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from autocompress.evaluators.timing import random_ids
from autocompress.workload import Mix, Workload
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL
from benchmarks.rounds import median_interval

REPEATS = 40
WARM_UPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--target", default="1.5x")
    parser.add_argument("--beside", default="", help="what else ran on the machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = Path(scratch) / "found"
        command = [sys.executable, "-m", "autocompress", "search", str(MODEL)]
        command += ["--space", "depth,width", "--target-speedup", arguments.target]
        command += [f"--storage=sqlite:///{scratch}/studies.db", f"--output={found}"]
        subprocess.run(command, check=True)
        report = json.loads((found / "report.json").read_text(encoding="utf-8"))
        threads = re.search(r", (\d+) of \d+ cores$", report["hardware"])
        torch.set_num_threads(int(threads[1]) if threads else 1)
        workload = Mix.parse(report["workload"]).first
        ways = timed([MODEL, found / "model"], workload)
    result = {
        "target": arguments.target,
        "workload": report["workload"],
        "hardware": report["hardware"],
        "report": report["speedup"]["measured"],
        "report_interval": report["speedup"]["measured_interval"],
        "kl": report["loss"]["kl"],
        "stock": {way: told(*both) for way, both in ways.items()},
        "repeats": REPEATS,
        "beside": arguments.beside,
    }
    print(json.dumps(result), flush=True)
    write_whole(arguments.output, result)


def told(dense: NDArray[np.float64], winner: NDArray[np.float64]) -> dict[str, object]:
    """Return how many times as fast the winner is, and what a request takes of both."""
    ratio, interval = median_interval(dense / winner, 0)
    milliseconds = [float(np.median(dense)), float(np.median(winner))]
    return {"speedup": ratio, "interval": interval, "milliseconds": milliseconds}


@torch.inference_mode()
def timed(folders: list[Path], workload: Workload) -> dict[str, list[NDArray[np.float64]]]:
    """Return milliseconds of each model's requests, each way, all run in turn."""
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=True)
        for folder in folders
    ]
    vocabulary = models[0].config.vocab_size
    prompt = torch.from_numpy(random_ids(vocabulary, workload.batch, workload.prompt))
    taken: dict[str, list[list[float]]] = {way: [[] for _ in models] for way in WAYS}
    for repeat in range(WARM_UPS + REPEATS):
        for way, request in WAYS.items():
            for own, model in zip(taken[way], models, strict=True):
                started = time.perf_counter()
                request(model, prompt, workload.generated)
                if repeat >= WARM_UPS:
                    own.append((time.perf_counter() - started) * 1e3)
    return {way: [np.asarray(own) for own in both] for way, both in taken.items()}


def by_forward(model: PreTrainedModel, prompt: Tensor, n_tokens: int) -> None:
    """Generate so many tokens greedily, each by one forward pass."""
    ids, cache = prompt, None
    for _ in range(n_tokens):
        passed = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        ids, cache = passed.logits[:, -1:].argmax(-1), passed.past_key_values


def by_generate(model: PreTrainedModel, prompt: Tensor, n_tokens: int) -> None:
    """Generate so many tokens greedily by transformers' own loop."""
    generate: Any = model.generate
    generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        do_sample=False,
    )


WAYS = {"forward": by_forward, "generate": by_generate}


if __name__ == "__main__":
    main()
