"""Codes of a few bits as one stream of bytes, without a gap between them.

`models.packed_weights.unpack_bits` is the way back.
"""

import math

import torch
from torch import Tensor


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Return codes of `bits` bits as (⌈n·bits/8⌉,) uint8, the lowest bits first.

    At 4 bits the first of two codes lies in the lower half of a byte, as engines expect.

    Args:
        codes: uint8, any shape, read in row-major order; each below 2**bits.
    """
    flat = codes.flatten()
    if bits == 8:
        return flat.clone()
    n_bytes = math.ceil(len(flat) * bits / 8)
    # Eight codes fill `bits` bytes whatever `bits` is: they meet in one 64-bit word.
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    word = torch.zeros(len(flat) // 8, dtype=torch.int64, device=codes.device)
    for place, code in enumerate(flat.view(-1, 8).unbind(1)):
        word |= code.long() << bits * place
    parts = [(word >> 8 * place & 255).to(torch.uint8) for place in range(bits)]
    return torch.stack(parts, 1).flatten()[:n_bytes].clone()
