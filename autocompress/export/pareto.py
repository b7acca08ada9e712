"""What is told of a study's Pareto front: its values, and its table and notes in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from autocompress.export.report_json import Json, to_plain
from autocompress.export.report_words import percent

HEADS: Final = ("predicted", "KL ± stderr", "sequences", "draws", "genotype", "what is done")
_TO_THE_RIGHT: Final = 3
_WORDS: Final = {"attention": "attention", "mlp": "MLP"}


@dataclass(frozen=True, slots=True)
class Member:
    """One candidate of the front.

    Args:
        genotype: Its short name.
        milliseconds: Predicted, of the study's workload.
        kl: Mean over all that it was read on of the search text, nats a token.
        kl_stderr: Standard error of `kl` over sequences; None for a single one.
        sequences: Read in all; one that two draws hold counts twice.
        draws: Of the search text.
        dropped: Sites dropped, by kind.
        narrowed: Sites narrowed, by kind.
    """

    genotype: str
    levels: tuple[int, ...]
    predicted_speedup: float
    milliseconds: float
    kl: float
    kl_stderr: float | None
    sequences: int
    draws: tuple[int, ...]
    dropped: Mapping[str, int]
    narrowed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a candidate lies that is not in the front."""

    genotype: str
    predicted_speedup: float
    kl: float
    sequences: int


@dataclass(frozen=True, slots=True)
class ParetoFront:
    """The measured candidates of a study that no other dominates, and all others.

    Args:
        mape: Mean absolute error of the predicted latencies on held-out configurations.
        least_sequences: What a candidate must have been read on to compete.
        members: Least loss first, which is also the least speedup first.
        dominated: The others that competed.
        too_little_read: Those that did not.
    """

    study: str
    state: str
    model: str
    engine: str
    hardware: str
    workload: str
    mape: float
    least_sequences: int
    members: tuple[Member, ...]
    dominated: tuple[Place, ...]
    too_little_read: tuple[Place, ...]

    def to_json(self) -> dict[str, Json]:
        """Return the content of pareto.json.

        Raises:
            ExportError: If a number is not finite.
        """
        return cast(dict[str, Json], to_plain(self))


def to_text(front: ParetoFront) -> str:
    """Return the front as a table for a terminal, with its notes."""
    lines = [HEADS, *rows(front)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]
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
    return (
        f"Pareto front of study {front.study} ({front.state}): {front.model}, {front.engine}, "
        f"workload {front.workload}"
    )


def rows(front: ParetoFront) -> list[Sequence[str]]:
    """Return the table's rows under `HEADS`, least loss first."""
    return [
        (
            f"{member.predicted_speedup:.3f}x",
            _kl(member.kl, member.kl_stderr),
            f"{member.sequences:,}",
            ", ".join(map(str, member.draws)),
            member.genotype,
            changes(member),
        )
        for member in front.members
    ]


def changes(member: Member) -> str:
    """Say how many sites are dropped and narrowed."""
    parts = [
        f"{verb} {', '.join(f'{n} {_WORDS[kind]}' for kind, n in sites.items() if n)}"
        for verb, sites in (("drop", member.dropped), ("narrow", member.narrowed))
        if any(sites.values())
    ]
    return "; ".join(parts) or "dense"


def notes(front: ParetoFront) -> list[str]:
    """Say what competed, and what the numbers cannot decide."""
    n_competing = len(front.members) + len(front.dominated)
    competed = (
        f"The front holds {len(front.members)} of the {n_competing:,} candidates read on "
        f"{front.least_sequences} sequences or more: whatever is faster than a member loses more."
    )
    said = [competed]
    if front.too_little_read:
        least = min(place.sequences for place in front.too_little_read)
        said.append(
            f"Read on fewer and not competing: {len(front.too_little_read):,}; "
            f"`--sequences {least}` lets all of them in."
        )
    said.append(
        "Speedups are predicted from the study's latency table, with a mean error of "
        f"{percent(front.mape, 1)} on held-out configurations."
    )
    said.append(
        "KL is the mean over all the search text that a candidate was read on, in nats a token. "
        "Losses on different draws of the text do not compare exactly, and a difference of less "
        "than two standard errors may be luck."
    )
    return said


def _kl(kl: float, stderr: float | None) -> str:
    digits = 4 if kl >= 0.01 else 6
    return f"{kl:.{digits}f} ± " + ("?" if stderr is None else f"{stderr:.{digits}f}")
