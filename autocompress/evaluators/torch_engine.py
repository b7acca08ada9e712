"""The torch engine: transformers' own models, eager or compiled, greedy decoding with a KV cache.

`python -m autocompress.evaluators.torch_engine` is the process of its own in which checkpoints are
timed: it reads a request as JSON on standard input and answers on standard output.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from autocompress.evaluators.base import Latency
from autocompress.evaluators.compiled_layers import compiled_layers
from autocompress.evaluators.held_memory import most_held, tensor_bytes
from autocompress.evaluators.models_in_turn import ModelsInTurn
from autocompress.evaluators.subprocess_call import (
    Progress,
    answer_call,
    go_on,
    nobody,
)
from autocompress.evaluators.timing import (
    Timing,
    ask_engine,
    make_prompt,
    pick_threads,
    read_bytes,
    read_latencies,
    run,
    time_in_turn,
    to_plain,
)
from autocompress.models.architecture import MODELING_FILES
from autocompress.models.loading import load_model
from autocompress.spec_rules import COMPILED_TORCH
from autocompress.workload import Mix, Workload


@dataclass(frozen=True, slots=True)
class TorchEngine:
    """Runs checkpoints with torch on one device.

    Args:
        threads: On a CPU; `fastest_threads` finds the number to give. 0 has it found anew for
            the first of the checkpoints.
        trust_remote_code: Of checkpoints; our own modeling files are always run.
        compiled: Whether layers are compiled, and the KV cache is of a fixed length.
    """

    device: str
    dtype: str
    threads: int
    trust_remote_code: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """As in `--engine`."""
        return COMPILED_TORCH if self.compiled else "torch"

    @property
    def version(self) -> str:
        """The version of torch."""
        return torch.__version__

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        """Time checkpoints in a fresh process, in turn within each repeat."""
        return read_latencies(self._ask("latency", checkpoints, workload, repeats, progress))

    def peak_memory(self, checkpoint: Path, workload: Workload) -> int | None:
        """Load a checkpoint in a fresh process and run the workload once."""
        return read_bytes(self._ask("memory", [checkpoint], workload))

    @property
    def _ask(self) -> Callable[..., str]:
        """Have a fresh process of this engine answer: what else `ask_engine` takes is to come."""
        own = {
            "device": self.device,
            "dtype": self.dtype,
            "threads": self.threads,
            "trust_remote_code": self.trust_remote_code,
            "compiled": self.compiled,
        }
        module = "autocompress.evaluators.torch_engine"
        return partial(ask_engine, module, "The torch engine did not run the checkpoints", own)


def serve(request: dict[str, object]) -> list[dict[str, object]] | int | None:
    """Answer one request: load all checkpoints, then time them in turn; or tell one's memory.

    What does not fit on the device together is brought there in turn, which is not timed.
    """
    workload = Mix.parse(str(request["workload"])).first
    is_compiled = request["compiled"] is True
    length = workload.prompt + workload.generated if is_compiled else None
    paths = [Path(path) for path in _texts(request["checkpoints"])]
    device = torch.device(str(request["device"]))
    threads = int(str(request["threads"]))

    def load(path: Path) -> PreTrainedModel:
        trusts = request["trust_remote_code"] is True
        go_on()
        return load_checkpoint(path, device, str(request["dtype"]), trusts)

    def compiling(model: PreTrainedModel) -> AbstractContextManager[None]:
        return compiled_layers(model) if is_compiled else contextlib.nullcontext()

    if request["wanted"] == "memory":
        if threads:
            torch.set_num_threads(threads)
        model = load(paths[0])
        with compiling(model):
            return _memory(model, workload, length)
    models = ModelsInTurn(paths, load, device)
    if threads:
        torch.set_num_threads(threads)
    elif device.type == "cpu":
        fastest_threads(models.all[0], workload, go_on)
    prompts = [make_prompt(model, workload).to(device) for model in models.all]

    def timed(index: int) -> Timing:
        prompt, n_tokens = prompts[index], workload.generated
        return models.run(index, lambda model: run(model, prompt, n_tokens, length))

    runs = [partial(timed, index) for index in range(len(paths))]
    with contextlib.ExitStack() as stack:
        for model in models.all:
            stack.enter_context(compiling(model))
        timings = time_in_turn(runs, int(str(request["repeats"])))
    return [to_plain(row, torch.get_num_threads()) for row in timings]


def _memory(model: PreTrainedModel, workload: Workload, length: int | None) -> int | None:
    """Return the bytes of a model's tensors with the most that running a workload adds."""
    prompt = make_prompt(model, workload)
    # Kernels that are made when first used are the engine's own, and no cost of a request.
    run(model, prompt, 2, length)
    added = most_held(lambda: run(model, prompt, workload.generated, length), model.device)
    return None if added is None else tensor_bytes(model) + added


def load_checkpoint(
    folder: Path, device: torch.device, dtype: str, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a checkpoint; of remote code our own modeling files are run, trusted or not."""
    return load_model(folder, device, dtype, trust_remote_code or has_own_modeling(folder))


def has_own_modeling(folder: Path) -> bool:
    """Whether a checkpoint brings no code but this very package's modeling files, byte for byte.

    What its config would have transformers import must be one of them.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    named = config.get("auto_map", {}) if isinstance(config, dict) else {}
    ours_alone = isinstance(named, dict) and all(
        str(place).startswith("modeling_autocompress.") for place in named.values()
    )
    return ours_alone and all(
        (folder / ours.name).is_file() and (folder / ours.name).read_bytes() == ours.read_bytes()
        for ours in MODELING_FILES
    )


def fastest_threads(
    model: PreTrainedModel, workload: Workload, told: Callable[[], None] = lambda: None
) -> int:
    """Return the number of CPU threads to run the model on, as `pick_threads`; leave it set.

    Args:
        told: Is called before each run.
    """
    if model.device.type != "cpu":
        return torch.get_num_threads()
    prompt = make_prompt(model, workload)

    def timed(threads: int, n_tokens: int) -> Timing:
        told()
        torch.set_num_threads(threads)
        return run(model, prompt, n_tokens)

    picked = pick_threads(timed, workload)
    torch.set_num_threads(picked)
    return picked


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


if __name__ == "__main__":
    sys.exit(answer_call(serve))
