"""Has torch compile a model's layers for as long as it is timed."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Final

import torch
from torch import nn
from torch._dynamo import config
from transformers import PreTrainedModel

from autocompress.errors import SpecError

MOST_SHAPES: Final = 512
"""Of layers and of what they read, that one process compiles."""


@contextlib.contextmanager
def compiled_layers(model: PreTrainedModel) -> Iterator[None]:
    """Have each decoder layer compiled when it is first run in a shape.

    A whole model would be compiled anew, in minutes, for each configuration; what torch calls
    regional compilation takes a second a layer and leaves the calls of layers to Python. A longer
    prompt is compiled anew, and so is a KV cache of another length.
    """
    layers: list[nn.Module] = list(model.model.layers)
    limits = {"recompile_limit": MOST_SHAPES, "accumulated_recompile_limit": 4 * MOST_SHAPES}
    with config.patch(limits):
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward  # The class's own is seen again.


def has_compiler(device: torch.device) -> bool:
    """Whether there is the compiler of C++, for a GPU of C, that torch compiles with."""
    variable, usual = _compilers(device)
    named = os.environ.get(variable)
    return any(map(shutil.which, (named,) if named else usual))


def _compilers(device: torch.device) -> tuple[str, tuple[str, ...]]:
    """Return the variable that names the compiler, and its usual names; Triton's is one of C."""
    return ("CC", ("gcc", "clang")) if device.type == "cuda" else ("CXX", ("g++",))


def check_compiler(device: torch.device) -> None:
    """Make sure that torch finds what it compiles with.

    Raises:
        SpecError: If it is not there.
    """
    if not has_compiler(device):
        variable, usual = _compilers(device)
        raise SpecError(
            f"The engine torch-compiled compiles with {' or '.join(usual)}, or with the command "
            f"that {variable} names, and it is not there."
        )
