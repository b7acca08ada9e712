"""The llama.cpp engine: GGUF files on its CPU kernels, greedy decoding.

`python -m autocompress.evaluators.llama_cpp_engine` is the process of its own in which files are
timed: it reads a request as JSON on standard input and answers on standard output.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from autocompress.evaluators.base import Latency
from autocompress.evaluators.held_memory import most_held
from autocompress.evaluators.llama_cpp_model import LlamaCppModel
from autocompress.evaluators.subprocess_call import (
    Progress,
    answer_call,
    go_on,
    nobody,
)
from autocompress.evaluators.timing import (
    Timing,
    ask_engine,
    pick_threads,
    random_ids,
    read_bytes,
    read_latencies,
    time_in_turn,
    to_plain,
)
from autocompress.workload import Mix, Workload

CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LlamaCppEngine:
    """Runs GGUF files on the CPU.

    Args:
        threads: 0 has the fastest number found anew for the first of the files.
    """

    threads: int = 0

    @property
    def name(self) -> str:
        """As in `--engine`."""
        return "llama.cpp"

    @property
    def version(self) -> str:
        """The version of the package that brings it."""
        try:
            return f"by llama-cpp-python {version('llama-cpp-python')}"
        except PackageNotFoundError:
            return "absent"

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        """Time GGUF files in a fresh process, in turn within each repeat."""
        return read_latencies(self._ask("latency", checkpoints, workload, repeats, progress))

    def peak_memory(self, checkpoint: Path, workload: Workload) -> int | None:
        """Open a GGUF file in a fresh process and run the workload once."""
        return read_bytes(self._ask("memory", [checkpoint], workload))

    @property
    def _ask(self) -> Callable[..., str]:
        """Have a fresh process of this engine answer: what else `ask_engine` takes is to come."""
        own = {"threads": self.threads}
        module = "autocompress.evaluators.llama_cpp_engine"
        return partial(ask_engine, module, "llama.cpp did not run the files", own)


def serve(request: dict[str, object]) -> list[dict[str, object]] | int | None:
    """Answer one request: open all files, then time them in turn; or tell one's memory."""
    workload = Mix.parse(str(request["workload"])).first
    files = request["checkpoints"]
    paths = [str(file) for file in files] if isinstance(files, list) else []
    threads = int(str(request["threads"]))
    if request["wanted"] == "memory":
        return most_held(lambda: _run_once(Path(paths[0]), workload, threads), CPU)
    with contextlib.ExitStack() as stack:
        # A file that is timed several times in a repeat is opened once.
        models = {
            path: stack.enter_context(contextlib.closing(_opened(Path(path), workload)))
            for path in dict.fromkeys(paths)
        }

        def timed(count: int, steps: int) -> Timing:
            go_on()
            return _timed(models[paths[0]], workload, count, steps)

        threads = threads or pick_threads(timed, workload)
        runs = [
            partial(_timed, models[path], workload, threads, workload.generated) for path in paths
        ]
        timings = time_in_turn(runs, int(str(request["repeats"])))
    return [to_plain(row, threads) for row in timings]


def _opened(file: Path, workload: Workload) -> LlamaCppModel:
    go_on()
    return LlamaCppModel(file, workload.prompt + workload.generated, workload.batch)


def _run_once(file: Path, workload: Workload, threads: int) -> None:
    with contextlib.closing(_opened(file, workload)) as model:
        _run(model, workload, threads or 1, workload.generated)


def _timed(model: LlamaCppModel, workload: Workload, threads: int, n_tokens: int) -> Timing:
    """Generate `n_tokens` tokens after a prompt; the first comes with the prefill.

    The prompt is read once before: a server has one model in its caches, not whichever of several
    was timed last.
    """
    _run(model, workload, threads, 1)
    return _run(model, workload, threads, n_tokens)


def _run(model: LlamaCppModel, workload: Workload, threads: int, n_tokens: int) -> Timing:
    prompt = random_ids(model.vocabulary, workload.batch, workload.prompt)
    model.use_threads(threads)
    model.forget()
    started = time.perf_counter()
    following = model.read(prompt, every=False).argmax(-1)
    before = time.perf_counter()
    prefill = (before - started) * 1e3
    steps = []
    for _ in range(n_tokens - 1):
        following = model.read(following[:, None], every=False).argmax(-1)
        after = time.perf_counter()
        steps.append((after - before) * 1e3)
        before = after
    return Timing(prefill, tuple(steps))


if __name__ == "__main__":
    sys.exit(answer_call(serve))
