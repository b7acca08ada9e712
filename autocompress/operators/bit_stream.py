"""Codes of a few bits as one stream of bytes, without a gap between them.

`models.packed_weights.unpack_bits` is the way back.
"""

import math
from typing import Final

import torch
from torch import Tensor

_LOWER_HALVES: Final = {8: 0x00FF00FF00FF00FF, 16: 0x0000FFFF0000FFFF, 32: 0x00000000FFFFFFFF}
"""Bits of a lane, and which bits of a word are lanes' lower neighbours."""


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
    # Eight codes fill `bits` bytes whatever `bits` is: as bytes of a little-endian 64-bit word,
    # neighbours move together until no gap is left: two in 16 bits, four in 32, eight in 64.
    word = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(torch.int64)
    for lane, mask in _LOWER_HALVES.items():
        upper = (word >> lane).bitwise_and_(mask)
        word = upper.bitwise_left_shift_(lane * bits // 8).bitwise_or_(word & mask)
    return word.view(torch.uint8).view(-1, 8)[:, :bits].flatten()[:n_bytes].clone()
