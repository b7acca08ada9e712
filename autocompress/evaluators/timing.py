"""Times one workload on a loaded model: greedy decoding with a KV cache."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from autocompress.errors import EngineError
from autocompress.evaluators.base import Latency
from autocompress.evaluators.subprocess_call import (
    Progress,
    advance,
    call_module,
    go_on,
    nobody,
)
from autocompress.workload import Workload

WARM_UPS = 2
THREAD_ROUNDS = 6
WORTH_A_THREAD = 1.5


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one run: until the first token, and of every further one."""

    prefill: float
    steps: tuple[float, ...]

    @property
    def decode(self) -> float:
        """The median milliseconds of a decoding step; 0 without any."""
        return sorted(self.steps)[len(self.steps) // 2] if self.steps else 0.0

    @property
    def total(self) -> float:
        """Milliseconds of the whole run."""
        return self.prefill + sum(self.steps)


def to_plain(timings: Sequence[Timing], threads: int) -> dict[str, object]:
    """Return a checkpoint's repeats as its engine's process answers them."""
    return {
        "prefill": [timing.prefill for timing in timings],
        "decode": [timing.decode for timing in timings],
        "total": [timing.total for timing in timings],
        "threads": threads,
    }


def ask_engine(
    module: str,
    complaint: str,
    own: Mapping[str, object],
    wanted: str,
    checkpoints: Sequence[Path],
    workload: Workload,
    repeats: int = 1,
    progress: Progress = nobody,
) -> str:
    """Have an engine's module answer in a fresh process; return its answer, still as JSON.

    Args:
        complaint: What to say where it fails, before its own last words.
        own: What only this engine has to be told.
        wanted: `latency` or `memory`.

    Raises:
        EngineError: If one of the checkpoints does not load or run.
    """
    request = {
        **own,
        "wanted": wanted,
        "checkpoints": [str(path) for path in checkpoints],
        "workload": str(workload),
        "repeats": repeats,
    }
    return call_module(module, request, EngineError, complaint, progress)


def read_latencies(answer: str) -> list[Latency]:
    """Read the answer of an engine's process: what `to_plain` made of each checkpoint."""
    return [
        Latency(
            tuple(row["prefill"]), tuple(row["decode"]), tuple(row["total"]), int(row["threads"])
        )
        for row in json.loads(answer)
    ]


def read_bytes(answer: str) -> int | None:
    """Read the answer of an engine's process that was asked for its memory."""
    found = json.loads(answer)
    return None if found is None else int(found)


@torch.inference_mode()
def run(
    model: PreTrainedModel, prompt: Tensor, n_tokens: int, cache_length: int | None = None
) -> Timing:
    """Generate `n_tokens` tokens after a (B, T) prompt; the first comes with the prefill.

    Args:
        cache_length: Tokens that the KV cache has room for, as compiled code needs it; None lets
            it grow.
    """
    cache: Cache = (
        DynamicCache(config=model.config)
        if cache_length is None
        else StaticCache(model.config, max_cache_len=cache_length)
    )
    started = _now(model)
    following = _step(model, prompt, cache)
    prefill = _now(model)
    steps = []
    before = prefill
    for _ in range(n_tokens - 1):
        following = _step(model, following, cache)
        after = _now(model)
        steps.append((after - before) * 1e3)
        before = after
    return Timing((prefill - started) * 1e3, tuple(steps))


def make_prompt(model: PreTrainedModel, workload: Workload, extra: int = 0) -> Tensor:
    """Return (batch, prompt + extra) token ids, the same for every model of one vocabulary."""
    ids = random_ids(model.config.vocab_size, workload.batch, workload.prompt + extra)
    return torch.from_numpy(ids).to(model.device)


def random_ids(vocabulary: int, sequences: int, length: int) -> np.ndarray:
    """Return (sequences, length) token ids, the same for every engine."""
    generator = torch.Generator().manual_seed(0)
    ids: np.ndarray = torch.randint(
        0, vocabulary, (sequences, length), generator=generator
    ).numpy()
    return ids


def time_in_turn(runs: Sequence[Callable[[], Timing]], repeats: int) -> list[list[Timing]]:
    """Time each run once in every repeat, and tell the caller of this process how far it is.

    Returns:
        For each run its repeats, those that only warm up left out.
    """
    timings: list[list[Timing]] = [[] for _ in runs]
    for repeat in range(WARM_UPS + repeats):
        advance(repeat, WARM_UPS + repeats)
        for own, row in zip(runs, timings, strict=True):
            row.append(own())
            go_on()
    return [row[WARM_UPS:] for row in timings]


def pick_threads(timed: Callable[[int, int], Timing], workload: Workload) -> int:
    """Return the number of CPU threads to run a model on.

    The fewest that are not half as slow again as the best: threads that wait for each other at
    every small product gain little, and make a time depend on whatever else the machine does.

    Args:
        timed: Generates tokens on some threads: of each a number.
    """
    cores = len(os.sched_getaffinity(0))
    counts = sorted({1, max(1, cores // 2), cores})
    steps = min(16, workload.generated)
    times: dict[int, list[float]] = {count: [] for count in counts}
    for _ in range(THREAD_ROUNDS):
        for count in counts:
            timing = timed(count, steps)
            times[count].append(timing.prefill + timing.decode * (workload.generated - 1))
    typical = {count: statistics.median(times[count][1:]) for count in counts}
    best = min(typical.values())
    return next(count for count in counts if typical[count] <= WORTH_A_THREAD * best)


def _step(model: PreTrainedModel, ids: Tensor, cache: Cache) -> Tensor:
    logits: Tensor = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    return logits[:, -1:].argmax(-1)  # (B, 1)


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
