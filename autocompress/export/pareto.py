"""What is told of a study's Pareto front: its values, and its table and notes in words."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from autocompress.export.report_json import Json, to_plain
from autocompress.export.report_words import percent

_HEADS: Final = ("KL ± stderr", "sequences", "draws", "genotype", "what is done")
_TO_THE_RIGHT: Final = 3
_WORDS: Final = {"attention": "attention", "mlp": "MLP"}


class Axis(enum.StrEnum):
    """What is held against loss."""

    SPEEDUP = "speedup"
    BYTES = "bytes"
    BITS = "bits"
    PARAMS = "params"

    @property
    def label(self) -> str:
        """What the values are, in words."""
        return _LABELS[self]

    @property
    def is_reckoned(self) -> bool:
        """Whether values follow from settings alone, and nothing is predicted."""
        return self is not Axis.SPEEDUP

    def told(self, value: float) -> str:
        """Return a value as a table says it."""
        if self is Axis.SPEEDUP:
            return f"{value:.3f}x"
        return f"{value:.3f}" if self is Axis.BITS else f"{value:,.0f}"


_LABELS: Final = {
    Axis.SPEEDUP: "predicted speedup",
    Axis.BYTES: "bytes of the model",
    Axis.BITS: "bits a weight",
    Axis.PARAMS: "parameters",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One candidate of the front.

    Args:
        genotype: Its short name.
        value: Its place on the front's axis.
        kl: Mean over all that it was read on of the search text, nats a token.
        kl_stderr: Standard error of `kl` over sequences; None for a single one.
        sequences: Read in all; one that two draws hold counts twice.
        draws: Of the search text.
        changed: What is done to how many sites, by kind of site: `drop`, `narrow`, `quantize`,
            `prune`, `cache`.
    """

    genotype: str
    levels: tuple[int, ...]
    value: float
    kl: float
    kl_stderr: float | None
    sequences: int
    draws: tuple[int, ...]
    changed: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a candidate lies that is not in the front; `value` is on the front's axis."""

    genotype: str
    value: float
    kl: float
    sequences: int


@dataclass(frozen=True, slots=True)
class Timing:
    """What predicted speedups rest on.

    Args:
        mape: Mean absolute error of the predicted latencies on held-out configurations; None of
            a roofline, which was held against nothing.
    """

    engine: str
    hardware: str
    workload: str
    mape: float | None


@dataclass(frozen=True, slots=True)
class Hypervolume:
    """What a front dominates within a reference point, as a share of all that there is within.

    Args:
        reference_cost: Of the reference point, as a share of the dense model's cost.
        reference_kl: Nats a token.
    """

    share: float
    reference_cost: float
    reference_kl: float


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The measured candidates of a study that no other dominates, and all others.

    Args:
        counted_bits: Which bits, where the axis is of bits.
        timing: None where nothing is predicted.
        least_sequences: What a candidate must have been read on to compete.
        members: Least loss first, which is also the least speedup or the largest size first.
        dominated: The others that competed.
        too_little_read: Those that did not.
        hypervolume: Of the members.
    """

    study: str
    state: str
    model: str
    axis: Axis
    counted_bits: str | None
    timing: Timing | None
    least_sequences: int
    members: tuple[Member, ...]
    dominated: tuple[Place, ...]
    too_little_read: tuple[Place, ...]
    hypervolume: Hypervolume

    def to_json(self) -> dict[str, Json]:
        """Return the content of pareto.json.

        Raises:
            ExportError: If a number is not finite.
        """
        return cast(dict[str, Json], to_plain(self))


def to_text(front: ParetoFront) -> str:
    """Return the front as a table for a terminal, with its notes."""
    lines = [heads(front), *rows(front)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            cell.rjust(width) if column < _TO_THE_RIGHT else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title(front), "", *table, "", *notes(front)]) + "\n"


def title(front: ParetoFront) -> str:
    """Say what the front is of."""
    timing = front.timing
    timed = "" if timing is None else f", {timing.engine}, workload {timing.workload}"
    return f"Pareto front of study {front.study} ({front.state}): {front.model}{timed}"


def heads(front: ParetoFront) -> Sequence[str]:
    """Return the table's heads."""
    return (axis_label(front), *_HEADS)


def axis_label(front: ParetoFront) -> str:
    """Say what the candidates' values are."""
    counted = "" if front.counted_bits is None else f"{front.counted_bits} "
    return f"{counted}{front.axis.label}"


def rows(front: ParetoFront) -> list[Sequence[str]]:
    """Return the table's rows under `heads`, least loss first."""
    return [
        (
            front.axis.told(member.value),
            _kl(member.kl, member.kl_stderr),
            f"{member.sequences:,}",
            ", ".join(map(str, member.draws)),
            member.genotype,
            changes(member),
        )
        for member in front.members
    ]


def changes(member: Member) -> str:
    """Say to how many sites what is done."""
    parts = [
        f"{verb} {', '.join(f'{n} {_WORDS[kind]}' for kind, n in sites.items() if n)}"
        for verb, sites in member.changed.items()
        if any(sites.values())
    ]
    return "; ".join(parts) or "dense"


def notes(front: ParetoFront) -> list[str]:
    """Say what competed, and what the numbers cannot decide."""
    n_competing = len(front.members) + len(front.dominated)
    competed = (
        f"The front holds {len(front.members)} of the {n_competing:,} candidates read on "
        f"{front.least_sequences} sequences or more: whatever is "
        f"{'smaller' if front.axis.is_reckoned else 'faster'} than a member loses more."
    )
    said = [competed]
    if front.too_little_read:
        least = min(place.sequences for place in front.too_little_read)
        said.append(
            f"Read on fewer and not competing: {len(front.too_little_read):,}; "
            f"`--sequences {least}` lets all of them in."
        )
    whole = front.hypervolume
    said.append(
        f"Hypervolume {whole.share:.4f}: what the front dominates of all that lies within "
        f"{whole.reference_cost:g} times the dense model's cost and a KL of "
        f"{whole.reference_kl:g}."
    )
    timing = front.timing
    if timing is not None and timing.mape is None:
        said.append(
            f"Speedups are predicted for {timing.hardware}, from its peak rates: no time "
            "was measured."
        )
    elif timing is not None and timing.mape is not None:
        said.append(
            "Speedups are predicted from the study's latency table, with a mean error of "
            f"{percent(timing.mape, 1)} on held-out configurations."
        )
    else:
        said.append(f"{axis_label(front).capitalize()} follow from the candidates' settings.")
    said.append(
        "KL is the mean over all the search text that a candidate was read on, in nats a token. "
        "Losses on different draws of the text do not compare exactly, and a difference of less "
        "than two standard errors may be luck."
    )
    return said


def _kl(kl: float, stderr: float | None) -> str:
    digits = 4 if kl >= 0.01 else 6
    return f"{kl:.{digits}f} ± " + ("?" if stderr is None else f"{stderr:.{digits}f}")
