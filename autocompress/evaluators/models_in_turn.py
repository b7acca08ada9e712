"""Models that run in turn on one device: all are there if they fit, else one at a time."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from autocompress.models.weight_files import weight_files

RESTING = torch.device("cpu")

Found = TypeVar("Found")


class ModelsInTurn:
    """Models of which each can be run on a device, however little of them fits there.

    Where they do not fit together, all but one rest in the CPU's memory. On a CPU, whose memory
    that is already, nothing is ever moved.

    Args:
        load: Loads a checkpoint onto the device.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        load: Callable[[Path], PreTrainedModel],
        device: torch.device,
    ) -> None:
        self.all: list[PreTrainedModel] = []
        self.is_one_at_a_time = False
        self._device = device
        self._there: PreTrainedModel | None = None
        for path in paths:
            self._there = self._added(path, load)
            self.all.append(self._there)

    def run(self, index: int, work: Callable[[PreTrainedModel], Found]) -> Found:
        """Return what work finds of a model that is on the device.

        Of a model that was brought there for it, work is done twice and found the second time:
        moved weights are cold, and memory is taken anew.
        """
        model = self.all[index]
        if not self.is_one_at_a_time:
            try:
                return work(model)
            except RuntimeError as error:
                if len(self.all) == 1 or not _has_no_room(error):
                    raise
            self._begin_turns()
        if self._there is not model:
            self._rest()
            self._there = model.to(self._device)  # type: ignore[arg-type]  # as torch declares it
            work(model)
        return work(model)

    def _added(self, path: Path, load: Callable[[Path], PreTrainedModel]) -> PreTrainedModel:
        if self.is_one_at_a_time:
            self._rest()
        elif self.all and weight_bytes(path) > free_bytes(self._device):
            self._begin_turns()
        try:
            return load(path)
        except Exception as error:
            if self.is_one_at_a_time or not self.all or not _has_no_room(error):
                raise
        # Here, where no traceback holds what was loaded in part.
        self._begin_turns()
        return load(path)

    def _begin_turns(self) -> None:
        self.is_one_at_a_time = True
        for model in self.all:
            model.to(RESTING)  # type: ignore[arg-type]
        self._rest()

    def _rest(self) -> None:
        """Leave the device empty."""
        if self._there is not None:
            self._there.to(RESTING)  # type: ignore[arg-type]
            self._there = None
        gc.collect()
        torch.cuda.empty_cache()


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a checkpoint's weights; what is stored packed may take more."""
    return sum(file.stat().st_size for file in weight_files(folder))


def free_bytes(device: torch.device) -> float:
    """Return what a GPU has free; a CPU's memory is not reckoned with."""
    if device.type != "cuda":
        return float("inf")
    torch.cuda.empty_cache()
    return float(torch.cuda.mem_get_info(device)[0])


def _has_no_room(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that a device's memory ran out."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        error = error.__cause__
    return False
