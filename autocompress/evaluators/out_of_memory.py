"""How it is found, and told, that memory ran out: each device of torch says so in its own way."""

import torch

MEMORY_RAN_OUT = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "HIP error: out of memory",
    "HIPBLAS_STATUS_ALLOC_FAILED",
)
"""Of a plain RuntimeError: of torch's allocator on a CPU, and of libraries that take their own."""
WAYS_OUT = (
    "Lower --workers, --context or --weights-bytes (the layers' weights that a worker holds)."
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(own in str(error) for own in MEMORY_RAN_OUT)
    )


def out_of_memory(what: str, reason: str, ways_out: str = WAYS_OUT) -> str:
    """Return the line that tells a user what did not fit, and the ways out."""
    first = reason.strip().partition("\n")[0] or "no reason given"
    return f"Memory ran out for {what}: {first} {ways_out}"
