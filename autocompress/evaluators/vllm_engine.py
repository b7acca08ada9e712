"""The vLLM engine: `vllm bench latency`, in the environment where vLLM is installed.

vLLM pins packages of its own, so it is not imported: its command is run, and the JSON file that it
writes is read. Each start loads a model and captures its graphs, which takes far longer than the
requests that are timed; so checkpoints are timed in turn a few times over, many requests a time.
"""

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autocompress.errors import EngineError
from autocompress.evaluators.base import Latency
from autocompress.evaluators.subprocess_call import Progress, nobody
from autocompress.workload import Workload

COMMAND: Final = "vllm"
ROUNDS: Final = 2
"""In which every checkpoint is started anew."""
WARM_UPS: Final = 3


@dataclass(frozen=True, slots=True)
class VllmEngine:
    """Runs checkpoints with vLLM, on the device that it finds.

    Args:
        dtype: As torch names it, or `auto`.

    Raises:
        EngineError: If there is no vLLM.
    """

    dtype: str
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if shutil.which(COMMAND) is None:
            raise EngineError(
                f"vLLM is not installed: its command `{COMMAND}` must be on the PATH. It may lie "
                "in an environment of its own."
            )

    @property
    def name(self) -> str:
        """As in `--engine`."""
        return "vllm"

    @property
    def version(self) -> str:
        """What `vllm --version` says."""
        return _run([COMMAND, "--version"], "vLLM did not tell its version").split()[-1]

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
        """Time checkpoints, each start in a fresh process, in turn within each of the rounds.

        vLLM times a batch as a whole. Requests that end with their first token tell the prefill;
        a further token takes its share of what longer ones take beyond that.
        """
        lengths = sorted({1, workload.generated})
        taken: dict[tuple[int, int], list[float]] = {}
        starts = ROUNDS * len(checkpoints) * len(lengths)
        done = 0
        for _ in range(ROUNDS):
            for index, checkpoint in enumerate(checkpoints):
                for length in lengths:
                    progress(done, starts)
                    own = taken.setdefault((index, length), [])
                    own += self._batches(checkpoint, workload, length, math.ceil(repeats / ROUNDS))
                    done += 1
        further = max(1, workload.generated - 1)
        found = []
        for index in range(len(checkpoints)):
            prefill, total = taken[index, 1], taken[index, workload.generated]
            decode = [(t - p) / further for p, t in zip(prefill, total, strict=True)]
            found.append(Latency(tuple(prefill), tuple(decode), tuple(total), self.threads))
        return found

    def peak_memory(self, checkpoint: Path, workload: Workload) -> None:
        """Return nothing: vLLM takes the share of a GPU that it is told to, whatever it needs."""

    def _batches(
        self, checkpoint: Path, workload: Workload, generated: int, repeats: int
    ) -> list[float]:
        """Return the milliseconds of each batch, in one process."""
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "latency.json"
            command = [
                *(COMMAND, "bench", "latency", "--model", str(checkpoint), "--dtype", self.dtype),
                *("--batch-size", str(workload.batch), "--input-len", str(workload.prompt)),
                *("--output-len", str(generated)),
                *("--max-model-len", str(workload.prompt + workload.generated)),
                *("--num-iters-warmup", str(WARM_UPS), "--num-iters", str(repeats)),
                *("--disable-detokenize", "--output-json", str(output)),
                *(["--trust-remote-code"] if self.trust_remote_code else []),
            ]
            _run(command, f"vLLM did not run {checkpoint}")
            try:
                seconds = json.loads(output.read_text(encoding="utf-8"))["latencies"]
                milliseconds = [1e3 * float(second) for second in seconds]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EngineError(f"vLLM wrote no latencies of {checkpoint}: {error}.") from error
        if len(milliseconds) != repeats:
            raise EngineError(
                f"vLLM timed {len(milliseconds)} batches of {checkpoint}, not {repeats}."
            )
        return milliseconds


def _run(command: Sequence[str], complaint: str) -> str:
    """Run a command to its end and return what it prints.

    Raises:
        EngineError: If it fails, with its last words.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EngineError(f"{complaint}: {error.strerror}.") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        cause = said[-1].strip() if said else f"exit code {done.returncode}"
        raise EngineError(f"{complaint}: {cause}")
    return done.stdout
