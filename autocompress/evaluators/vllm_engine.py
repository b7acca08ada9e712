"""The vLLM engine, in the environment where vLLM is installed.

vLLM pins packages of its own, so it is not imported: the interpreter of its command `vllm` runs
`vllm_driver.py`. A start loads a model and compiles it, which takes far longer than the requests
that are timed; so checkpoints are timed in turn a few times over, many requests a time.
"""

import contextlib
import functools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from autocompress.errors import EngineError
from autocompress.evaluators.base import Latency
from autocompress.evaluators.subprocess_call import Progress, handed, nobody, while_heard
from autocompress.evaluators.timing import random_ids
from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.models.loading import visible_gpus
from autocompress.workload import Workload

COMMAND: Final = "vllm"
STARTS: Final = 2
"""Of every checkpoint, in turn."""
FREE_SHARE: Final = 0.9
"""Of the memory that is free on a GPU, what vLLM may take."""
CPU_SHARE: Final = 0.25
"""Of the memory that is free on a CPU, what its KV cache may take."""
SILENT_SECONDS: Final = 3600
"""Without a line, after which vLLM is taken to hang: it says more while large models load."""
_DRIVER: Final = Path(__file__).with_name("vllm_driver.py")
_ADVANCE: Final = re.compile(r"autocompress advances (\d+)")
_CAUSE: Final = re.compile(r"\b([A-Za-z_.]*(?:Error|Exception):.*)")
_NO_CAUSE: Final = ("Engine core initialization failed", "WARNING ")


@dataclass(frozen=True, slots=True)
class VllmReading:
    """What vLLM makes of a text and of a prompt.

    Args:
        nll: Of each sequence, nats a token.
        answer: Token ids after the prompt.
        cache_difference: Of any of these tokens' log-probabilities, generated with a KV cache, to
            the one read without.
    """

    nll: tuple[float, ...]
    answer: tuple[int, ...]
    cache_difference: float


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """Runs checkpoints with vLLM on one device: it sees no other.

    Args:
        device: As torch names it.
        dtype: As torch names it, or `auto`.
        trust_remote_code: Of checkpoints; our own modeling files are always run.
        starts: Of every checkpoint that is timed.

    Raises:
        EngineError: If there is no vLLM, or one that runs on another kind of device: its times
            would be told as those of this one.
    """

    device: str
    dtype: str
    trust_remote_code: bool = False
    starts: int = STARTS

    def __post_init__(self) -> None:
        kind, found = torch.device(self.device).type, self._build.device
        if found != kind:
            raise EngineError(
                f"`device = {found or 'none'}` of the vLLM that is installed must hold, but got "
                f"{self.device}. Give --device, or install a build of vLLM for it."
            )

    @property
    def name(self) -> str:
        """As in `--engine`."""
        return "vllm"

    @property
    def version(self) -> str:
        """What `vllm --version` says."""
        return self._build.version

    @property
    def _build(self) -> "_Build":
        return _build(_interpreter(), self._gpus)

    @property
    def _gpus(self) -> str:
        """What it may see of GPUs, as CUDA_VISIBLE_DEVICES names them: one, or on a CPU none."""
        return ",".join(visible_gpus(torch.device(self.device))[:1])

    @property
    def threads(self) -> int:
        """Its own business."""
        return 0

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        """Time checkpoints in a process of their own, in turn in each of its starts.

        vLLM is asked for batches that end with their first token, which is the prefill, and for
        whole ones; a further token takes its share of what these take beyond that.
        """
        turns = [*checkpoints] * self.starts
        found = self._ask(
            turns,
            {
                "wanted": "latency",
                "prompts": random_ids(
                    min(map(_vocabulary, checkpoints)), workload.batch, workload.prompt
                ).tolist(),
                "generated": workload.generated,
                "repeats": math.ceil(repeats / self.starts),
            },
            workload.prompt + workload.generated,
            progress,
        )
        further = max(1, workload.generated - 1)
        latencies = []
        for index in range(len(checkpoints)):
            own = found[index :: len(checkpoints)]
            prefill = [time for start in own for time in start["prefill"]]
            total = [time for start in own for time in start["total"]]
            decode = [(t - p) / further for p, t in zip(prefill, total, strict=True)]
            latencies.append(Latency(tuple(prefill), tuple(decode), tuple(total), self.threads))
        return latencies

    def peak_memory(self, checkpoint: Path, workload: Workload) -> None:
        """Return nothing: vLLM takes the memory that it is told to, whatever it needs."""

    def read(
        self, checkpoint: Path, sequences: np.ndarray, prompt: Sequence[int], answer_tokens: int
    ) -> VllmReading:
        """Read a text and answer a prompt.

        Args:
            sequences: (sequences, T) token ids.

        Raises:
            EngineError: If the checkpoint does not load or run.
        """
        request = {
            "wanted": "text",
            "sequences": sequences.tolist(),
            "prompt": [*prompt],
            "answer_tokens": answer_tokens,
        }
        longest = max(sequences.shape[1], len(prompt) + answer_tokens)
        # One token comes after each text.
        (found,) = self._ask([checkpoint], request, longest + 1, nobody)
        apart = zip(found["cached"], found["uncached"], strict=True)
        return VllmReading(
            tuple(found["nll"]),
            tuple(found["answer"]),
            max(abs(cached - uncached) for cached, uncached in apart),
        )

    def _ask(
        self,
        checkpoints: Sequence[Path],
        request: Mapping[str, object],
        most_tokens: int,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """Return what the driver answers of each checkpoint."""
        told = {
            **request,
            "checkpoints": [
                (str(checkpoint), self.trust_remote_code or has_own_modeling(checkpoint))
                for checkpoint in checkpoints
            ],
            "dtype": self.dtype,
            "most_tokens": most_tokens,
            "room": _room(torch.device(self.device)),
        }

        def advance(line: str) -> None:
            match = _ADVANCE.search(line)
            if match:
                progress(int(match[1]), len(checkpoints))

        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "answer.json"
            # As text: beside the driver's file lie modules that the standard library has too.
            driver = _DRIVER.read_text(encoding="utf-8")
            command = [_interpreter(), "-c", driver, str(output)]
            complaint = f"vLLM did not run {', '.join(map(str, dict.fromkeys(checkpoints)))}"
            _run(command, json.dumps(told), complaint, advance, self._gpus)
            try:
                answers = json.loads(output.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise EngineError(f"{complaint}: it answered nothing.") from error
        if not isinstance(answers, list) or len(answers) != len(checkpoints):
            raise EngineError(f"{complaint}: it did not answer of each.")
        return answers


def find_command() -> str | None:
    """Return where the command of vLLM is: on the PATH, or beside this Python; None if nowhere."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(COMMAND) or shutil.which(COMMAND, path=beside)


@dataclass(frozen=True, slots=True)
class _Build:
    """A vLLM.

    Args:
        device: The kind that it runs on, as torch names it; empty if it finds none.
    """

    version: str
    device: str


@functools.cache
def _build(interpreter: str, gpus: str) -> _Build:
    said: list[str] = []
    program = (
        "import vllm; from vllm.platforms import current_platform as own; "
        "print(vllm.__version__); print(own.device_type)"
    )
    _run([interpreter, "-c", program], "", "vLLM did not tell its version", said.append, gpus)
    return _Build(*said[-2:])


def _interpreter() -> str:
    """Return the Python that the command `vllm` runs in.

    Raises:
        EngineError: If there is no such command.
    """
    command = find_command()
    if command is None:
        raise EngineError(
            f"vLLM is not installed: its command `{COMMAND}` must be on the PATH. It may lie in "
            "an environment of its own."
        )
    beside = Path(command).resolve().with_name("python")
    if beside.is_file():
        return str(beside)
    with Path(command).open("rb") as file:
        first = file.readline().decode(errors="replace")
    named = first.removeprefix("#!").split()
    if not first.startswith("#!") or not Path(named[0]).is_file():
        raise EngineError(f"No Python lies beside {command}, and it names none.")
    return named[0]


def _vocabulary(checkpoint: Path) -> int:
    """Return how many token ids a checkpoint's config says that there are."""
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        return int(config.get("text_config", config)["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{checkpoint} has no config that names its vocabulary.") from error


def _room(device: torch.device) -> dict[str, float | int]:
    """Return what vLLM is told of memory: what is free, for others may hold some."""
    if device.type == "cuda":
        # What this process has freed is not free before it gives it back.
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info(device)
        return {"gpu_memory_utilization": round(FREE_SHARE * free / whole, 3)}
    with contextlib.suppress(OSError, AttributeError):
        told = Path("/proc/meminfo").read_text(encoding="utf-8")
        match = re.search(r"MemAvailable:\s+(\d+) kB", told)
        if match:
            return {"kv_cache_memory_bytes": int(CPU_SHARE * int(match[1]) * 1024)}
    return {}


def _run(
    command: Sequence[str],
    given: str,
    complaint: str,
    tell: Callable[[str], object],
    gpus: str,
) -> None:
    """Run a command to its end; it is killed, with what it started, if this one is interrupted.

    Args:
        given: What it reads on standard input.
        tell: Is given every line that it writes.
        gpus: That it may see, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        EngineError: If it fails, with the cause that it names, or says nothing for an hour.
    """
    said: list[str] = []
    try:
        with handed(given) as asked:
            process = subprocess.Popen(
                command,
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "CUDA_VISIBLE_DEVICES": gpus},
                start_new_session=True,
            )
    except OSError as error:
        raise EngineError(f"{complaint}: {error.strerror}.") from error
    with process:
        try:
            for line in while_heard(process, SILENT_SECONDS):
                said.append(line.rstrip())
                tell(said[-1])
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            last = f"; its last words: {said[-1]}" if said else ""
            raise EngineError(
                f"{complaint}: it said nothing for {SILENT_SECONDS} seconds and was stopped{last}"
            ) from None
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise EngineError(f"{complaint}: {_cause(said) or f'exit code {process.returncode}'}")


def _cause(said: Sequence[str]) -> str:
    """Return what went wrong: the first error that names itself, and not that another did."""
    lines = [line for line in said if line]
    for number, line in enumerate(lines):
        match = _CAUSE.search(line)
        if match and not any(words in line for words in _NO_CAUSE):
            # What is announced stands in the lines after it, behind as many words of the log.
            rest = [after[match.start() :].strip() for after in lines[number + 1 :]]
            goes_on = match[1].endswith(":") or "validation error" in match[1]
            return f"{match[1]} {next(filter(None, rest), '')}" if goes_on else match[1]
    return lines[-1] if lines else ""
