"""What is told of a checkpoint that was judged: its values, and its table in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from autocompress.export.report_json import Json, to_plain
from autocompress.export.report_words import percent


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Speed:
    """Three figures of one workload: medians over the repeats of a process, means over processes.

    Args:
        first_token: Until the first token.
        token: Of each further one; None where the workload has no further one.
        workload: Of all of it.
    """

    first_token: Estimate
    token: Estimate | None
    workload: Estimate


@dataclass(frozen=True, slots=True)
class Judged:
    """One model, as its engine finds it on disk.

    Args:
        bytes: Of its tensors, as the files' own headers state them.
        milliseconds: Of the workload.
        tokens_a_second: Generated, of all sequences together, over the whole workload.
        peak_memory: Bytes that the engine's process held at most while it ran the workload, above
            what it held before it opened the model; None where the system does not tell.
    """

    path: str
    engine: str
    bytes: int
    perplexity: Estimate
    milliseconds: Speed
    tokens_a_second: Estimate
    peak_memory: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model beside the one that it was made of.

    Args:
        kl: Divergence from the other's predictions, nats a token.
        perplexity_ratio: Paired over sequences; over 1 is worse.
        bits: Bits stored for each parameter of the other, embeddings and head included.
        speedup: The other's time over this one's, of runs in turn; over 1 is faster. None where
            the two need two engines.
    """

    kl: Estimate
    perplexity_ratio: Estimate
    bits: float
    speedup: Speed | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The judgement of one checkpoint.

    Args:
        text: Where the text is from.
        sequences: Read, of `context` tokens each.
        repeats: Timed in each of the processes, after those that only warm up.
    """

    model: Judged
    against: Judged | None
    comparison: Comparison | None
    hardware: str
    workload: str
    processes: int
    repeats: int
    text: str
    sequences: int
    context: int
    versions: Mapping[str, str]
    seed: int

    def to_json(self) -> dict[str, Json]:
        """Return the content of evaluation.json.

        Raises:
            ExportError: If a number is not finite.
        """
        return cast(dict[str, Json], to_plain(self))


def to_text(evaluation: Evaluation) -> str:
    """Return the judgement as a table for a terminal."""
    table = _rows(evaluation)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([*_heads(evaluation), "", *lines, ""])


def _heads(evaluation: Evaluation) -> list[str]:
    model, against = evaluation.model, evaluation.against
    beside = "" if against is None else f" against {against.path}"
    timed = (
        f"workload {evaluation.workload}, {evaluation.repeats} repeats in each of "
        f"{evaluation.processes} processes"
    )
    if against is not None and against.engine != model.engine:
        timed += f"; against: {against.engine}, timed apart"
    read = f"{evaluation.sequences:,} sequences of {evaluation.context:,} tokens"
    return [
        f"{model.path}{beside}",
        f"{evaluation.hardware}; {model.engine}; {timed}",
        f"{read} of {evaluation.text}; in brackets 95 % intervals",
    ]


def _rows(evaluation: Evaluation) -> list[Sequence[str]]:
    model, against = evaluation.model, evaluation.against
    comparison = evaluation.comparison
    if against is None or comparison is None:
        return [
            ("perplexity", _told(model.perplexity)),
            ("bytes", f"{model.bytes:,}"),
            *((name, f"{_told(own)} ms") for name, own in _times(model.milliseconds)),
            ("tokens a second", _told(model.tokens_a_second)),
            ("peak memory, bytes", _counted(model.peak_memory)),
        ]
    share = percent(model.bytes / against.bytes, 1)
    speedups = {} if comparison.speedup is None else dict(_times(comparison.speedup))
    dense = dict(_times(against.milliseconds))
    return [
        ("", "against", "this", ""),
        ("KL, nats a token", "0", _told(comparison.kl, 4), ""),
        (
            "perplexity",
            _told(against.perplexity),
            _told(model.perplexity),
            f"{_told(comparison.perplexity_ratio, 3)} times",
        ),
        (
            "bytes",
            f"{against.bytes:,}",
            f"{model.bytes:,}",
            f"{share}, {comparison.bits:.2f} bits a parameter",
        ),
        *(
            (
                f"{name}, ms",
                _told(dense[name]),
                _told(own),
                _faster(speedups.get(name)),
            )
            for name, own in _times(model.milliseconds)
        ),
        ("tokens a second", _told(against.tokens_a_second), _told(model.tokens_a_second), ""),
        (
            "peak memory, bytes",
            _counted(against.peak_memory),
            _counted(model.peak_memory),
            _share(model.peak_memory, against.peak_memory),
        ),
    ]


def _counted(value: int | None) -> str:
    return "not told by the system" if value is None else f"{value:,}"


def _share(value: int | None, whole: int | None) -> str:
    return percent(value / whole, 1) if value and whole else ""


def _faster(speedup: Estimate | None) -> str:
    return "" if speedup is None else f"{_told(speedup)} times as fast"


def _times(speed: Speed) -> list[tuple[str, Estimate]]:
    named = (
        ("first token", speed.first_token),
        ("each further token", speed.token),
        ("whole workload", speed.workload),
    )
    return [(name, estimate) for name, estimate in named if estimate is not None]


def _told(estimate: Estimate, digits: int = 2) -> str:
    low, high = estimate.interval
    return f"{estimate.value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
