"""Brings the tensors of single sites from the checkpoint, for models that a device cannot hold.

A checkpoint that was read once stays in the kernel's page cache as long as memory allows: from
there, and only else from the disk, a site's tensors go to the device.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autocompress.errors import EvaluationError, ModelError
from autocompress.models.weight_files import weight_files


class Checkpoint:
    """The safetensors files of a model's folder; its weights may be in one file or in many.

    Raises:
        ModelError: If a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, Path] = {}
        try:
            for file in weight_files(folder):
                with safe_open(file, framework="pt") as opened:
                    self._files |= dict.fromkeys(opened.keys(), file)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"Cannot read the weights of {folder}: {error}") from error

    def lacks(self, names: Collection[str]) -> list[str]:
        """Return the names that the checkpoint has no tensor for."""
        return sorted(set(names) - self._files.keys())

    def read(
        self, names: Collection[str], device: torch.device, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Return copies of some tensors on a device.

        Raises:
            EvaluationError: If a file is gone or broken.
        """
        by_file: dict[Path, list[str]] = defaultdict(list)
        for name in names:
            by_file[self._files[name]].append(name)
        found: dict[str, Tensor] = {}
        for file, own in by_file.items():
            try:
                # Closed at once: an open file's pages would count as this process's memory.
                with safe_open(file, framework="pt") as opened:
                    for name in own:
                        found[name] = opened.get_tensor(name).to(device, dtype, copy=True)
            except (OSError, SafetensorError) as error:
                raise EvaluationError(f"Cannot read weights from {file}: {error}") from error
        return found


class Streamer:
    """Puts the dense tensors of sites into their modules and takes them out again.

    The first sites, as many as fit, stay on the device once they were there; the others come one
    at a time. Walks go through the sites in order, again and again: keeping those used last would
    keep none.

    Args:
        sites: For each site its modules by their names in the checkpoint; their parameters are
            on the meta device.
        limit: Bytes on the device.

    Raises:
        ModelError: If the largest site does not fit, or the checkpoint names tensors otherwise.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        sites: Sequence[Mapping[str, nn.Module]],
        device: torch.device,
        dtype: torch.dtype,
        limit: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._sites = [_slots(modules) for modules in sites]
        sizes = [sum(slot.empty.numel() for slot in own.values()) for own in self._sites]
        sizes = [size * dtype.itemsize for size in sizes]
        lacking = checkpoint.lacks([name for own in self._sites for name in own])
        if lacking:
            raise ModelError(
                f"The checkpoint cannot be streamed: it has no tensor {lacking[0]}, nor "
                f"{len(lacking) - 1} others of the model's layers."
            )
        if max(sizes) > limit:
            raise ModelError(
                f"`weights_bytes >= {max(sizes)}` must hold, the largest site of the model, but "
                f"got {limit}."
            )
        self._n_held = 0
        left = limit - max(sizes)
        while self._n_held < len(sizes) and sizes[self._n_held] <= left:
            left -= sizes[self._n_held]
            self._n_held += 1
        self._present: set[int] = set()

    def bring(self, index: int) -> bool:
        """Put a site's dense tensors into its modules; say whether they were not there before."""
        if index in self._present:
            return False
        if index >= self._n_held:
            for other in [other for other in self._present if other >= self._n_held]:
                self._take_out(other)
        slots = self._sites[index]
        for name, tensor in self._checkpoint.read(slots, self._device, self._dtype).items():
            slots[name].put(nn.Parameter(tensor, requires_grad=False))
        self._present.add(index)
        return True

    def _take_out(self, index: int) -> None:
        for slot in self._sites[index].values():
            slot.put(slot.empty)
        self._present.remove(index)


class _Slot:
    """A parameter's place in a module."""

    def __init__(self, owner: nn.Module, name: str) -> None:
        self._owner = owner
        self._name = name
        self.empty: nn.Parameter = owner.get_parameter(name)

    def put(self, parameter: nn.Parameter) -> None:
        """Let the module have this parameter."""
        self._owner.register_parameter(self._name, parameter)


def _slots(modules: Mapping[str, nn.Module]) -> dict[str, _Slot]:
    """Return the places of all parameters of some modules, by their names in the checkpoint."""
    return {
        f"{prefix}.{path}.{name}" if path else f"{prefix}.{name}": _Slot(owner, name)
        for prefix, module in modules.items()
        for path, owner in module.named_modules()
        for name, _ in owner.named_parameters(recurse=False)
    }
