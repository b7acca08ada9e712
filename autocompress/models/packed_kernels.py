"""Products with packed weights that read their codes, where torch has a kernel for them.

A copy of this file and of those it imports lies beside the weights of an exported checkpoint. The
kernels are those that torchao calls on a CPU.
"""

import re
from collections.abc import Mapping
from typing import Final, Protocol

import torch
from torch import Tensor

# Relative, so that the copies beside an exported checkpoint find each other.
from .packed_weights import middle_zeros, read_codes, unpack_bits  # noqa: TID252

INT4_BITS: Final = 4
INT4_GROUPS: Final = (32, 64, 128, 256)
INT4_ROWS: Final = 16
"""The rows of a weight must be a multiple."""
INT8_BITS: Final = 7
"""Differences of unsigned codes of so many bits fit a signed byte."""
INT8_COLUMNS: Final = 32
"""The columns of a weight must be a multiple: the kernel reads 16 at a time, past the end too."""

# Torch has no public names for them.
_INT4_PACKED = torch._convert_weight_to_int4pack_for_cpu  # noqa: SLF001
_INT4_PRODUCTS = torch._weight_int4pack_mm_for_cpu  # noqa: SLF001
_INT8_PRODUCTS = torch._weight_int8pack_mm  # noqa: SLF001

_INTEGER: Final = re.compile(r"w(\d+)(?:g(\d+))?(sym)?")


class Kernel(Protocol):
    """A weight in the form that a kernel reads, made once."""

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs, (tokens, columns), times the weight, (tokens, rows)."""


def has_kernel(
    setting: str, shape: tuple[int, int], device: torch.device, number_format: torch.dtype
) -> bool:
    """Whether a (rows, columns) weight in a setting is multiplied without being decoded.

    Args:
        number_format: Of inputs and outputs. For others than bfloat16 torch has plain loops alone,
            which take several times as long as the decoded weight.
    """
    return _kernel(setting, shape, device, number_format) is not None


def make_kernel(
    setting: str,
    shape: tuple[int, int],
    tensors: Mapping[str, Tensor],
    number_format: torch.dtype,
) -> Kernel | None:
    """Return a packed weight as its kernel reads it; None if there is none.

    Args:
        tensors: As they are stored.
        number_format: Of inputs and outputs.
    """
    made = _kernel(setting, shape, next(iter(tensors.values())).device, number_format)
    if made is None:
        return None
    codes, scales = read_codes(setting, shape, tensors), tensors["scales"]
    bits = int(setting[1])
    if "zeros" in tensors:
        zeros = unpack_bits(tensors["zeros"], bits, scales.numel()).view(scales.shape)
    else:
        zeros = middle_zeros(scales, bits)
    return made(codes, scales, zeros, number_format)


class Int4Kernel:
    """Codes of at most 4 bits in groups of columns, two to a byte.

    Args:
        codes: (rows, columns) uint8; `scales` and `zeros` are (rows, groups).
    """

    def __init__(
        self, codes: Tensor, scales: Tensor, zeros: Tensor, number_format: torch.dtype
    ) -> None:
        self._group = codes.shape[1] // scales.shape[1]
        self._codes = _INT4_PACKED(codes.int(), 1)
        # The kernel computes (code - 8) · scale + offset.
        offsets = (8 - zeros.float()) * scales.float()
        both = torch.stack([scales.float(), offsets], 2).transpose(0, 1)
        self._scales = both.to(number_format).contiguous()

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs, (tokens, columns), times the weight, (tokens, rows)."""
        return _INT4_PRODUCTS(inputs, self._codes, self._group, self._scales)


class Int8Kernel:
    """Codes that share a scale along a row, one to a byte.

    Args:
        codes: (rows, columns) uint8; `scales` and `zeros` are (rows, 1).
    """

    def __init__(
        self, codes: Tensor, scales: Tensor, zeros: Tensor, number_format: torch.dtype
    ) -> None:
        self._codes = (codes.short() - zeros.short()).to(torch.int8)
        self._scales = scales.flatten().to(number_format)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return inputs, (tokens, columns), times the weight, (tokens, rows)."""
        return _INT8_PRODUCTS(inputs, self._codes, self._scales)


def _kernel(
    setting: str, shape: tuple[int, int], device: torch.device, number_format: torch.dtype
) -> type[Int4Kernel] | type[Int8Kernel] | None:
    match = _INTEGER.fullmatch(setting)
    if match is None or device.type != "cpu" or number_format is not torch.bfloat16:
        return None
    bits, group = int(match[1]), int(match[2] or 0)
    if bits <= INT4_BITS and group in INT4_GROUPS and shape[0] % INT4_ROWS == 0:
        return Int4Kernel
    if not group and shape[1] % INT8_COLUMNS == 0 and (bits <= INT8_BITS or match[3]):
        return Int8Kernel
    return None
