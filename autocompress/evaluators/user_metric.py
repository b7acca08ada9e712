"""A user's own metric: a function of a Python file, named by `python:FILE.py:function`."""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators.task_item import USER_METRIC

Metric = Callable[[str, list[str]], float]
"""Returns what an answer is worth beside its references, from 0 to 1."""


def score_by(metric: str, answer: str, references: Sequence[str]) -> float:
    """Return what the user's function makes of an answer.

    Raises:
        SpecError: If there is no such function.
        EvaluationError: If it fails, or returns anything but a number from 0 to 1.
    """
    function = load(metric)
    try:
        value = float(function(answer, list(references)))
    except Exception as error:
        raise EvaluationError(
            f"Metric {metric} failed: {type(error).__name__}: {error}"
        ) from error
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise EvaluationError(f"`0 <= score <= 1` must hold for metric {metric}, but got {value}.")
    return value


def located(metric: str) -> str:
    """Return a metric's name that is found from any folder: processes may work in others."""
    file, _, name = metric.removeprefix(USER_METRIC).rpartition(":")
    return f"{USER_METRIC}{Path(file).expanduser().absolute()}:{name}"


@functools.cache
def load(metric: str) -> Metric:
    """Return the function that a metric names; its file runs, once in a process.

    Args:
        metric: The file's path is seen from the working folder, unless it is absolute.

    Raises:
        SpecError: If it names no function, or the file cannot be run.
    """
    file, _, name = metric.removeprefix(USER_METRIC).rpartition(":")
    if not (file.endswith(".py") and name.isidentifier()):
        raise SpecError(f"A metric of Python is `python:FILE.py:function`, but got {metric!r}.")
    path = Path(file).expanduser()
    # The name is no other module's, and pickles of nothing here need it.
    specification = importlib.util.spec_from_file_location(
        f"autocompress_metric_{path.stem}", path
    )
    if specification is None or specification.loader is None or not path.is_file():
        raise SpecError(f"Metric {metric}: there is no file {file}.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise SpecError(f"Metric {metric}: {file} does not run: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise SpecError(f"Metric {metric}: {file} has no function {name}.")
    return cast("Metric", function)
