"""How much more memory this process holds while it works."""

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import nn

_STATUS: Final = Path("/proc/self/status")
_CLEAR: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"
_MMAP_THRESHOLD: Final = -3
"""Of mallopt(3): from so many bytes on, memory is the system's again when it is freed."""
_LARGE: Final = 2**16


def most_held(work: Callable[[], object], device: torch.device) -> int | None:
    """Do some work; return the most bytes held meanwhile, above what was held before.

    Of a GPU what torch has allocated, else resident memory. None where the operating system does
    not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _hold_no_more_than_needed()
        resident = _status("VmRSS")
        # Linux forgets the highest mark of a process that writes this (proc_pid_clear_refs(5)).
        _CLEAR.write_text(_RESET_PEAK, encoding="ascii")
        work()
        return _status("VmHWM") - resident
    except OSError:
        return None


def tensor_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers; what they share counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors
    }
    return sum(storage.nbytes() for storage in storages.values())


def _hold_no_more_than_needed() -> None:
    """Have what is freed go back to the system, from now on at once where it is large.

    Else work could take what was freed before without being seen to, and what an allocator keeps
    for later would count as held: that depends on chance.
    """
    with contextlib.suppress(AttributeError):  # own calls of the GNU C library
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)
        library.malloc_trim(0)


def _status(field: str) -> int:
    """Return a field of the process's status, which is in KiB."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
