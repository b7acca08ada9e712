"""Rounds weights to the block formats of GGUF files, by llama.cpp's own quantizer.

Needs the packages of the extra `llama-cpp`.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import EngineError


def block_shape(kind: str) -> tuple[int, int]:
    """Return how many columns share a block, and its bytes."""
    found: tuple[int, int] = gguf_package().GGML_QUANT_SIZES[_type(kind)]
    return found


def quantize(weight: Tensor, kind: str, importance: Tensor | None = None) -> Tensor:
    """Return a (rows, columns) weight as blocks, (rows, bytes of a row) uint8.

    Args:
        kind: Of `GGUF_TYPES`.
        importance: (columns,) of each input, its mean square; None weighs all alike.
    """
    rows, columns = weight.shape
    size, n_bytes = block_shape(kind)
    if columns % size:
        raise ValueError(f"`columns % {size} == 0` must hold for {kind}, but got {columns}")
    values = weight.detach().to("cpu", torch.float32).contiguous().numpy()
    blocks = np.empty((rows, columns // size * n_bytes), dtype=np.uint8)
    weights = None
    if importance is not None:
        weights = importance.detach().to("cpu", torch.float32).contiguous().numpy()
    floats = ctypes.POINTER(ctypes.c_float)
    written = _quantizer()(
        int(_type(kind)),
        values.ctypes.data_as(floats),
        blocks.ctypes.data_as(ctypes.c_void_p),
        0,
        rows,
        columns,
        None if weights is None else weights.ctypes.data_as(floats),
    )
    if written != blocks.nbytes:
        raise EngineError(f"ggml wrote {written} bytes of {kind}, not {blocks.nbytes}.")
    return torch.from_numpy(blocks)


def dequantize(blocks: Tensor, kind: str) -> Tensor:
    """Return what blocks stand for, (rows, columns) float32."""
    values = gguf_package().quants.dequantize(blocks.cpu().numpy(), _type(kind))
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _type(kind: str) -> Any:
    return gguf_package().GGMLQuantizationType[kind.upper()]


def gguf_package() -> Any:
    """Return the package `gguf`.

    Raises:
        EngineError: If it lacks.
    """
    try:
        import gguf
    except ImportError as error:
        raise _lacking() from error
    return gguf


def llama_cpp_package() -> Any:
    """Return the package `llama_cpp`.

    Raises:
        EngineError: If it lacks, or llama.cpp does not load.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise _lacking() from error
    return llama_cpp


def check_packages() -> None:
    """Make sure that the packages of the extra `llama-cpp` are there.

    Raises:
        EngineError: If one of them lacks.
    """
    gguf_package()
    llama_cpp_package()


@functools.cache
def _quantizer() -> Any:
    folder = Path(llama_cpp_package().__file__).parent / "lib"
    # macOS and Windows name shared libraries otherwise.
    file = next(
        (
            folder / name
            for name in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
            if (folder / name).is_file()
        ),
        None,
    )
    if file is None:
        raise EngineError(f"llama-cpp-python brings no libggml-base in {folder}.")
    function = ctypes.CDLL(str(file)).ggml_quantize_chunk
    floats = ctypes.POINTER(ctypes.c_float)
    whole = ctypes.c_int64
    function.argtypes = [ctypes.c_int, floats, ctypes.c_void_p, whole, whole, whole, floats]
    function.restype = ctypes.c_size_t
    return function


def _lacking() -> EngineError:
    return EngineError(
        "GGUF files and llama.cpp need `pip install 'autocompress[llama-cpp]'`, which compiles "
        "llama.cpp in a few minutes."
    )
