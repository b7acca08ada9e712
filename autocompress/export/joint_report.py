"""What is told of a joint search of a compressed model and its decoding."""

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from autocompress.export.evaluation import Estimate
from autocompress.export.render import write_texts
from autocompress.export.report_json import Json, from_plain, to_plain
from autocompress.export.right_choices import RightChoices, choices_in_words


class JointVerdict(enum.StrEnum):
    """What came of a search."""

    MET = "TARGET MET"
    MISSED = "TARGET MISSED"


@dataclass(frozen=True, slots=True)
class JointOption:
    """One split of the speedup between compression and decoding, on the report's items.

    Args:
        asked_speedup: That compression was asked for, by its own workload.
        by_compression: How many times as fast the model answers untuned as dense does.
        by_decoding: How many times as fast it answers tuned as untuned.
        speedup: Of both together.
        untuned_quality_difference: Its mean score untuned less dense's: what compression took.
        quality_difference: Tuned less dense's.
        beside_first: Tuned less the first option's, which is compression for all of the speedup,
            or for what it reaches, and then its decoding.
        choices: What its model chose, beside dense; None without choices.
    """

    asked_speedup: float
    model: str
    draft: str | None
    decoding: str
    by_compression: Estimate
    by_decoding: Estimate
    speedup: Estimate
    quality: Estimate
    untuned_quality_difference: Estimate
    quality_difference: Estimate
    beside_first: Estimate
    choices: RightChoices | None


@dataclass(frozen=True, slots=True)
class JointReport:
    """The outcome of a joint search.

    Args:
        winner: Which of the options; picked on validation items.
        tuned: The values of its decoding that act, by parameter.
        report_processes: That shared the report's items.
        compression_seconds: That each search for a compressed model might take, and
            `compression_tokens` that its candidates might read; None sets no limit.
        decoding_trials: Of each search for a decoding.
    """

    study: str
    model: str
    tasks: str
    hardware: str
    target: float
    winner: int
    tuned: Mapping[str, bool | int | float | str]
    options: tuple[JointOption, ...]
    dense_quality: Estimate
    dense_seconds: Estimate
    validation_items: int
    report_items: int
    report_processes: int
    seed: int
    versions: Mapping[str, str]
    compression_seconds: float | None
    compression_tokens: int | None
    decoding_trials: int

    @property
    def verdict(self) -> JointVerdict:
        """Met where the whole interval of the winner's speedup is."""
        low = self.options[self.winner].speedup.interval[0]
        return JointVerdict.MET if low >= self.target else JointVerdict.MISSED

    def to_json(self) -> dict[str, Json]:
        """Return the content of joint.json.

        Raises:
            ExportError: If a number is not finite.
        """
        return {"verdict": self.verdict.value} | cast(dict[str, Json], to_plain(self))

    @classmethod
    def from_json(cls, mapping: object) -> "JointReport":
        """Read what `to_json` wrote.

        Raises:
            ExportError: If it is no such report.
        """
        return from_plain(cls, mapping)


def write_joint(report: JointReport, outputs: Mapping[str, str], folder: Path) -> None:
    """Write joint.json, joint.md and what engines are told, each whole or not at all.

    Args:
        outputs: Texts of further files by name.

    Raises:
        ExportError: If a number is not finite or a file cannot be written.
    """
    texts = {
        "joint.json": json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n",
        "joint.md": to_markdown(report),
    }
    write_texts({**texts, **outputs}, folder)


def joint_headline(report: JointReport) -> str:
    """Return the verdict with the winner, and what each part gave it."""
    own = report.options[report.winner]
    return (
        f"{report.verdict}: answers {_times(own.speedup)} as fast as dense (target "
        f"{report.target:g}x): compression {_times(own.by_compression)}, decoding "
        f"{_times(own.by_decoding)}; mean score {_difference(own.quality_difference)}"
    )


def to_markdown(report: JointReport) -> str:
    """Return the page of a search."""
    own = report.options[report.winner]
    drafted = "" if own.draft is None else f", with `{own.draft}` as its draft"
    head = [
        "",
        "compression asked for",
        "by compression",
        "by decoding",
        "together",
        "score, untuned",
        "score",
        "score beside the first's",
        "decoding",
    ]
    rows = [
        [
            "**winner**" if at == report.winner else "",
            f"{option.asked_speedup:.2f}x",
            _times(option.by_compression),
            _times(option.by_decoding),
            _times(option.speedup),
            _difference(option.untuned_quality_difference),
            _difference(option.quality_difference),
            _difference(option.beside_first) if at else "",
            f"`{option.decoding}`",
        ]
        for at, option in enumerate(report.options)
    ]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        [
            f"# {joint_headline(report)}",
            "",
            f"The model is `{own.model}`{drafted}, decoded by `{own.decoding}`.",
            "",
            f"## On {report.report_items} items on which nothing was picked",
            "",
            *(f"| {' | '.join(line)} |" for line in lines),
            "",
            _how(report),
            "",
            *_choices(own),
            "Each part is a study of its own, and so are their reports, in the folders beside.",
            _limits(report),
            "",
        ]
    )


def _how(report: JointReport) -> str:
    quality, seconds = report.dense_quality, report.dense_seconds
    low, high = quality.interval
    return (
        f"Speedups of whole answers, and mean scores beside dense's {quality.value:.3f} "
        f"[{low:.3f}, {high:.3f}], which it gives in {1000 * seconds.value:.1f} ms an answer; "
        f"intervals of 95 %, of scores paired over items that all answered in turn, of times over "
        f"{report.report_processes} processes that had a share of them each. Tasks: "
        f"{report.tasks}. The winner was picked on {report.validation_items} other items. "
        f"{report.hardware}, seed {report.seed}."
    )


def _limits(report: JointReport) -> str:
    """Return what each part might spend, in words."""
    most = []
    if report.compression_seconds is not None:
        most.append(f"{report.compression_seconds:g} seconds")
    if report.compression_tokens is not None:
        most.append(f"{report.compression_tokens:,} tokens")
    spent = f"might spend {' and '.join(most)}" if most else "had no limit"
    return (
        f"Each search for a compressed model {spent}, and each for a decoding tried "
        f"{report.decoding_trials} decodings at most."
    )


def _choices(own: JointOption) -> list[str]:
    if own.choices is None:
        return []
    return [choices_in_words(own.choices, f"`{own.model}`", "dense"), ""]


def _times(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.value:.2f}x [{low:.2f}, {high:.2f}]"


def _difference(value: Estimate) -> str:
    low, high = value.interval
    return f"{value.value:+.3f} [{low:+.3f}, {high:+.3f}]"
