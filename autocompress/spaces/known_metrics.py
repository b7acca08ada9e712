"""The metrics that others published, as expressions: what an evolution begins with and must beat.

Inputs X are root mean squares and gradients G are Pruner-Zero's, over 128 sequences.
"""

from collections.abc import Mapping
from typing import Final

KNOWN_METRICS: Final[Mapping[str, str]] = {
    "magnitude": "abs(W)",
    "wanda": "abs(W) * X",
    "gblm": "abs(W) * (X + G / 512)",
    "pruner-zero": "square(W) * minmax(G)",
    "taylor": "abs(W) * G",
    "ria": "(abs(W) / rowsum(abs(W)) + abs(W) / columnsum(abs(W))) * sqrt(X)",
}
"""By name.

`wanda` is arXiv:2306.11695, equation 1, `pruner-zero` the best tree of arXiv:2406.02924 (there
the square of a magnitude), `taylor` the first order of arXiv:1906.10771 (ranked like its square).
`gblm` is arXiv:2311.04902: a norm of the inputs of 128 sequences of 2,048 tokens, which is 512
root mean squares, beside 100 times that of gradients, which is G. `ria` is Relative Importance and
Activations (Plug-and-Play, ICLR 2024) at its own exponent.
"""
