"""How many of the machine's cores torch computes on while nothing is timed."""

import contextlib
import os
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def all_cores() -> Iterator[None]:
    """Let torch compute on all cores of this process: nothing is timed, and nobody else works."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
