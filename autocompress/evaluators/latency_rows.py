"""What a profile holds: milliseconds by choice; knows no engine."""

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.spaces.base import Choice, SiteKind
from autocompress.workload import Workload

WHOLE_LAYER = Choice(1, 1)
NO_LAYER = Choice(0, 1)
"""What is done to a layer that is dropped as a whole."""


@dataclass(frozen=True, slots=True)
class Spent:
    """Milliseconds: until the first token, and of each further token."""

    prefill: float
    decode: float

    def workload(self, workload: Workload) -> float:
        """Milliseconds that count of a workload."""
        return workload.time(self.prefill, self.decode)

    def beside(self, before: "Spent", after: "Spent") -> "Spent":
        """Return the ratio to the mean of two other runs."""
        return Spent(
            _ratio(self.prefill, before.prefill, after.prefill),
            _ratio(self.decode, before.decode, after.decode),
        )


def _ratio(own: float, before: float, after: float) -> float:
    """Return the ratio to a mean; 1 where nothing was spent, as on tokens after the only one."""
    return 2 * own / (before + after) if before + after else 1.0


def median_spent(runs: Sequence[Spent]) -> Spent:
    """Return the medians of some runs."""
    return Spent(
        statistics.median(run.prefill for run in runs),
        statistics.median(run.decode for run in runs),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """What one site, or one whole layer, costs at one choice, with the spread of its repeats.

    Args:
        kind: Of a site; or a layer, where it is dropped as a whole: what its sites' settings save
            is then told by their rows' differences alone.
        choice: A shape with all weights dense; or a whole site with one linear group in a setting,
            where the engine has kernels for settings.
        interval: 95 % interval of the decode milliseconds, from the repeats.
    """

    kind: SiteKind
    choice: Choice
    spent: Spent
    interval: tuple[float, float]


def changed_group(choice: Choice) -> int | None:
    """Return which linear group a row is about; None if about a shape."""
    return next((i for i, own in enumerate(choice.weights) if not own.is_dense), None)


@dataclass(frozen=True, slots=True)
class Profile:
    """All rows, the dense model's own time, and what candidates spend beside their sites.

    Args:
        start: What a candidate takes whose sites are all dense, where it is not the dense model;
            None where it is.
    """

    dense: Spent
    fixed: Spent
    rows: tuple[Row, ...]
    start: Spent | None = None

    @property
    def reference(self) -> Spent:
        """What changes were timed beside: a candidate with none."""
        return self.dense if self.start is None else self.start

    def beside(self, ratio: Spent) -> "Profile":
        """Return the profile where what changes were timed beside is not the dense model.

        Args:
            ratio: Of the dense model's time to that.
        """
        start = self.reference
        dense = Spent(ratio.prefill * start.prefill, ratio.decode * start.decode)
        return dataclasses.replace(self, dense=dense, start=start)

    @property
    def runs_settings(self) -> bool:
        """Whether weights that are stored otherwise ran on kernels of their own."""
        return any(row.choice.weights for row in self.rows)


@dataclass(frozen=True, slots=True)
class Sample:
    """One whole configuration, measured twice: `again` is independent of `spent`.

    Args:
        choices: Of every site, as far as the engine runs them.
    """

    choices: tuple[Choice, ...]
    spent: Spent
    again: Spent
