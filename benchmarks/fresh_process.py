"""Runs a function in a new interpreter, and says how much memory that took at its peak."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What a function returned, and the peak of its process's resident memory."""

    result: Result
    peak_bytes: int


def run_fresh(function: Callable[[], Result]) -> Outcome[Result]:
    """Run a function in a process that has done nothing before, and ends after it.

    Args:
        function: Travels pickled: a function of a module, or a `partial` of one.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_measured, function).result()


def peak_bytes() -> int:
    """Return the peak of this process's resident memory so far.

    Not `ru_maxrss`: a spawned process starts with its parent's. The kernel counts `VmHWM` for an
    address space, and a new program has a new one.
    """
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return this process's resident memory now."""
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _measured(function: Callable[[], Result]) -> Outcome[Result]:
    result = function()
    return Outcome(result, peak_bytes())
