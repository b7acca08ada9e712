"""Measures the peak rates of the device that is here, as a roofline wants them.

A roofline of hardware that can be timed is there to be judged: how far published rates lead for
hardware that is not here can be told from how far measured ones lead here.
"""

import statistics
import time
from collections.abc import Callable

import torch

from autocompress.evaluators.roofline import Hardware

READ_BYTES, GPU_READ_BYTES = 2**28, 2**32
"""Of all weights that are read in turn: many times what any cache holds."""
LAYER, GPU_LAYER = (4096, 1024), (16384, 8192)
"""Rows and columns of a weight. On a GPU small ones would tell of starting kernels alone."""
SIDE, GPU_SIDE = 2048, 8192
ROUNDS = 15


@torch.inference_mode()
def probe(device: torch.device, number_format: str, name: str) -> Hardware:
    """Measure on the threads that are set, with nothing else running.

    Bandwidth is that of multiplying weights of a layer's size by one vector each, one after
    another, as decoding reads them; the peak rate is that of multiplying two square matrices.
    Both are medians of `ROUNDS`.

    Args:
        number_format: A dtype of torch.
        name: What the device is called.
    """
    dtype = getattr(torch, number_format)
    on_gpu = device.type == "cuda"
    n_bytes, (rows, columns) = (GPU_READ_BYTES, GPU_LAYER) if on_gpu else (READ_BYTES, LAYER)
    side = GPU_SIDE if on_gpu else SIDE
    generator = torch.Generator(device).manual_seed(0)

    def numbers(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device, dtype=dtype)

    weights = numbers(n_bytes // (rows * columns * dtype.itemsize), rows, columns).unbind()
    vector, square = numbers(1, columns), numbers(side, side)

    def read() -> None:
        for weight in weights:
            torch.nn.functional.linear(vector, weight)

    reading = _seconds(read, device)
    multiplying = _seconds(lambda: square @ square, device)
    rates = {number_format: 2 * side**3 / multiplying}
    read_bytes = sum(weight.nbytes for weight in weights)
    return Hardware(name, read_bytes / reading, rates, "measured here")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median seconds of some work that was done once before."""
    taken = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])
