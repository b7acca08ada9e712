"""How it is found, and told, that memory ran out: each device of torch says so in its own way."""

import torch

CPU_ALLOCATOR = "can't allocate memory"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    # On a CPU torch raises a plain RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and CPU_ALLOCATOR in str(error)
    )


def out_of_memory(what: str, reason: str) -> str:
    """Return the line that tells a user what did not fit, and the ways out."""
    first = reason.strip().partition("\n")[0] or "no reason given"
    return (
        f"Memory ran out for {what}: {first} Lower --workers, --context or --weights-bytes (the "
        "layers' weights that a worker holds)."
    )
