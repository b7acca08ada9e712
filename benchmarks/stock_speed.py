"""Times a depth and width winner with transformers' own `generate`, against the report's figure.

    python -m benchmarks.stock_speed --output benchmarks/results/stock-speed.json

A search of the reference model ends in a checkpoint and a measured speedup. Both models are then
loaded as a user loads them, by `AutoModelForCausalLM`, and generate in turn, in one process, the
request that was searched for, on as many threads.
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
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from autocompress.evaluators.timing import random_ids
from autocompress.pipeline.intervals import median_interval
from autocompress.workload import Mix, Workload
from benchmarks.contest import write_whole
from benchmarks.laboratory import MODEL

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
        dense, winner = timed([MODEL, found / "model"], workload)
    ratio, interval = median_interval(dense / winner, 0)
    result = {
        "target": arguments.target,
        "workload": report["workload"],
        "hardware": report["hardware"],
        "report": report["speedup"]["measured"],
        "report_interval": report["speedup"]["measured_interval"],
        "kl": report["loss"]["kl"],
        "stock": ratio,
        "stock_interval": interval,
        "stock_milliseconds": [float(np.median(dense)), float(np.median(winner))],
        "repeats": REPEATS,
        "beside": arguments.beside,
    }
    print(json.dumps(result), flush=True)
    write_whole(arguments.output, result)


@torch.inference_mode()
def timed(folders: list[Path], workload: Workload) -> list[Any]:
    """Return milliseconds of each model's requests, run in turn."""
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=True)
        for folder in folders
    ]
    vocabulary = models[0].config.vocab_size
    prompt = torch.from_numpy(random_ids(vocabulary, workload.batch, workload.prompt))
    taken: list[list[float]] = [[] for _ in models]
    for repeat in range(WARM_UPS + REPEATS):
        for own, model in zip(taken, models, strict=True):
            milliseconds = request(model, prompt, workload.generated)
            if repeat >= WARM_UPS:
                own.append(milliseconds)
    return [np.asarray(own) for own in taken]


def request(model: PreTrainedModel, prompt: Tensor, n_tokens: int) -> float:
    """Return the milliseconds of generating so many tokens."""
    generate: Any = model.generate
    started = time.perf_counter()
    generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        do_sample=False,
    )
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
