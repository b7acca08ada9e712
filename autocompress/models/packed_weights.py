"""How packed weights are read: codes, scales, zero points and masks.

This file is self-contained: a copy of it lies beside the weights of an exported checkpoint.
A setting is given as text: `w4g128`, `s0.5`, `s0.5+w4g128`, `mxfp4`.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

E2M1_VALUES: Final = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
E8M0_BIAS: Final = 127
STORED: Final = ("values", "codes", "scales", "zeros", "mask", "tensor_scale")
"""The names of a packed weight's tensors; a setting has some of them."""

_FORMATS: Final = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.uint8,
        torch.float8_e4m3fn,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}


def decode(setting: str, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the (rows, columns) weight, codes as float32; what is masked is exactly 0."""
    mask = read_mask(shape, tensors)
    if "values" in tensors:
        return spread(tensors["values"], mask, shape)
    codes, scales = read_codes(setting, shape, tensors), tensors["scales"]
    bits = code_bits(setting)
    if not _code(setting).startswith("w"):
        values = block_values(codes, scales, tensors.get("tensor_scale"), bits)
    elif "zeros" in tensors:
        zeros = unpack_bits(tensors["zeros"], bits, scales.numel()).view(scales.shape)
        values = integer_values(codes, scales, zeros)
    else:
        values = integer_values(codes, scales, middle_zeros(scales, bits))
    return values if mask is None else values.masked_fill_(~mask, 0.0)


def read_mask(shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return which weights are stored, (rows, columns) bool; None if all are."""
    if "mask" not in tensors:
        return None
    return unpack_bits(tensors["mask"], 1, math.prod(shape)).bool().view(shape)


def read_codes(setting: str, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the codes, (rows, columns) uint8; 0 for what is masked."""
    mask = read_mask(shape, tensors)
    count = math.prod(shape) if mask is None else int(mask.sum())
    return spread(unpack_bits(tensors["codes"], code_bits(setting), count), mask, shape)


def spread(stored: Tensor, mask: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """Return stored entries in their places, the others 0."""
    if mask is None:
        return stored.view(shape)
    return torch.zeros(shape, dtype=stored.dtype, device=stored.device).masked_scatter_(
        mask, stored
    )


def code_bits(setting: str) -> int:
    """Return the bits of a code; 0 where weights keep the model's number format."""
    # In the name of every format with codes the first number is their bits.
    digits = re.search(r"\d+", _code(setting))
    return int(digits[0]) if digits else 0


def unpack_bits(stream: Tensor, bits: int, n: int) -> Tensor:
    """Return the first n codes of a stream, shape (n,), uint8; the lowest bits come first."""
    if bits == 8:
        return stream[:n]
    # Eight codes fill `bits` bytes whatever `bits` is: they meet in one 64-bit word.
    stream = torch.nn.functional.pad(stream, (0, -len(stream) % bits))
    word = torch.zeros(len(stream) // bits, dtype=torch.int64, device=stream.device)
    for place, byte in enumerate(stream.view(-1, bits).unbind(1)):
        word |= byte.long() << 8 * place
    highest = 2**bits - 1
    codes = [(word >> bits * place & highest).to(torch.uint8) for place in range(8)]
    return torch.stack(codes, 1).flatten()[:n]


def integer_values(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Return (code - zero) · scale, (rows, columns) float32; exact: 8 bits times 11.

    Args:
        scales: (rows, groups), fp16 or bf16; `zeros`, uint8, too.
    """
    steps = codes.reshape(*scales.shape, -1).float() - zeros[..., None]
    return (steps * scales[..., None].float()).flatten(1)


def middle_zeros(scales: Tensor, bits: int) -> Tensor:
    """Return the zero points of symmetric codes, which are not stored."""
    return torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8, device=scales.device)


def block_values(codes: Tensor, scales: Tensor, tensor_scale: Tensor | None, bits: int) -> Tensor:
    """Return what codes of a block format stand for, (rows, columns) float32."""
    if bits == 8:
        numbers = codes.contiguous().view(torch.float8_e4m3fn).float()
    else:
        table = torch.tensor(E2M1_VALUES, device=codes.device)
        numbers = torch.cat([table, -table])[codes.long()]
    steps = block_steps(scales, tensor_scale)
    return (numbers.reshape(*scales.shape, -1) * steps).flatten(1)


def block_steps(scales: Tensor, tensor_scale: Tensor | None) -> Tensor:
    """Return what a block code's number is multiplied by, (rows, blocks, 1) float32."""
    if scales.dtype is torch.uint8:
        steps = torch.exp2(scales.float() - E8M0_BIAS)
    else:
        steps = scales.float()
    if tensor_scale is not None:
        steps = steps / tensor_scale
    return steps[..., None]


def describe(tensor: Tensor) -> str:
    """Return a tensor's number format and shape as text: `bfloat16 16 4`."""
    return " ".join([str(tensor.dtype).removeprefix("torch."), *map(str, tensor.shape)])


def empty(description: str) -> Tensor:
    """Return a tensor of the number format and shape that `describe` wrote."""
    name, *shape = description.split()
    return torch.empty(tuple(map(int, shape)), dtype=_FORMATS[name])


def _code(setting: str) -> str:
    """Return what a setting says of codes; empty or a sparsity if it has none."""
    last = setting.rpartition("+")[2]
    return "" if last.startswith("s") else last
