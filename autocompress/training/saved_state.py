"""What a training leaves on disk, to go on with after any interruption."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress.errors import EvaluationError
from autocompress.models.saving import save_whole
from autocompress.training.validation import Validation

STATE = "state.safetensors"
BEST = "best.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")
STEP = "step"
"""What AdamW holds of a parameter."""
PROGRESS = "progress"
"""Under which the state file's own metadata says how far it had come."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    step: int
    history: tuple[Validation, ...]
    seconds: float


class SavedState:
    """A training's folder: the state that it goes on from, and the tensors that were best.

    Each file is whole or not there, and the best is written before a state that knows of it: what
    a kill leaves is a state of some time, and tensors at least as good as that state's best.

    Args:
        folder: Of this training alone, named after all that it depends on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(
        self, trained: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> Progress | None:
        """Take up the state that was saved last; None if there is none."""
        try:
            tensors = load_file(self._folder / STATE)
            told = json.loads(self._metadata())
        except (OSError, SafetensorError, ValueError):
            return None
        with torch.no_grad():
            for name, own in trained.items():
                own.copy_(tensors[f"weight.{name}"])
        for name, own in trained.items():
            if f"{STEP}.{name}" in tensors:
                moments = {kind: tensors[f"{kind}.{name}"].to(own.device) for kind in MOMENTS}
                optimizer.state[own] = moments | {STEP: tensors[f"{STEP}.{name}"]}
        history = tuple(Validation(**each) for each in told["history"])
        return Progress(told["step"], history, told["seconds"])

    def save(
        self,
        trained: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        """Replace the state.

        Raises:
            EvaluationError: If the folder cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for name, own in trained.items():
            tensors[f"weight.{name}"] = own.detach()
            for kind, tensor in optimizer.state.get(own, {}).items():
                tensors[f"{kind}.{name}"] = tensor
        self._write(STATE, tensors, {PROGRESS: json.dumps(asdict(progress))})

    def keep_best(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Replace the best tensors by those of now.

        Raises:
            EvaluationError: If the folder cannot be written.
        """
        self._write(BEST, {name: own.detach() for name, own in trained.items()}, {})

    def take_best(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Put the best tensors into place."""
        tensors = load_file(self._folder / BEST)
        with torch.no_grad():
            for name, own in trained.items():
                own.copy_(tensors[name])

    def _write(self, name: str, tensors: Mapping[str, Tensor], told: dict[str, str]) -> None:
        plain = {key: tensor.contiguous().cpu().clone() for key, tensor in tensors.items()}
        save_whole(self._folder / name, plain, EvaluationError, told)

    def _metadata(self) -> str:
        with safe_open(self._folder / STATE, framework="pt") as file:
            return str((file.metadata() or {}).get(PROGRESS, ""))
