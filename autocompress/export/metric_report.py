"""What is told of an evolution of symbolic metrics: its values, and its page in words."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from autocompress.export.evaluation import Estimate
from autocompress.export.render import write_texts
from autocompress.export.report_json import Json, to_plain

WORSE_AT_MOST = 0.01
"""By which share of the best known metric's KL a better one may be worse elsewhere."""


class MetricVerdict(enum.StrEnum):
    """What came of a search."""

    BETTER = "BETTER METRIC FOUND"
    NOT_BETTER = "NO BETTER METRIC FOUND"


@dataclass(frozen=True, slots=True)
class PrunedLoss:
    """What a model loses that one metric pruned to one sparsity.

    Args:
        kl: Nats a token, from the dense model.
    """

    kl: Estimate
    perplexity: float


@dataclass(frozen=True, slots=True)
class MetricStanding:
    """One metric by sparsity.

    Args:
        selection: On the text that the winner is picked on; of the searched sparsities alone.
        report: On text that nothing before has read.
    """

    name: str
    expression: str
    selection: Mapping[str, PrunedLoss]
    report: Mapping[str, PrunedLoss]


@dataclass(frozen=True, slots=True)
class AgainstBest:
    """The winner beside the best known metric at one sparsity, paired over report sequences.

    Args:
        searched: Whether the search read this sparsity.
        best_known: Its name: of all known ones the best on this very text.
        difference: The winner's KL less the best known's, nats a token; below 0 is better.
        relative: The same as a share of the best known's KL.
        shared: The share of the weights kept by both.
    """

    sparsity: str
    searched: bool
    best_known: str
    difference: Estimate
    relative: Estimate
    shared: float


@dataclass(frozen=True, slots=True)
class MetricReport:
    """The outcome of a search for a metric.

    Args:
        undefined: Names of the known metrics that have no value for some weight of the model.
        winner: None where no new metric could be measured.
        finalists: Expressions that were read on the selection text, the best of the search first.
        selection_sequences: Read of each, of `context` tokens.
    """

    model: str
    hardware: str
    text: str
    sparsities: tuple[str, ...]
    tested: tuple[str, ...]
    evaluations: int
    generations: int
    stopped_because: str
    known: tuple[MetricStanding, ...]
    undefined: tuple[str, ...]
    winner: MetricStanding | None
    against: tuple[AgainstBest, ...]
    finalists: tuple[str, ...]
    selection_sequences: int
    report_sequences: int
    context: int
    seed: int
    versions: Mapping[str, str]

    @property
    def verdict(self) -> MetricVerdict:
        """Better where an interval says so at a searched sparsity, and worse at none of them."""
        own = [row for row in self.against if row.searched]
        gains = any(row.difference.interval[1] < 0 for row in own)
        holds = all(row.relative.value <= WORSE_AT_MOST for row in own)
        return MetricVerdict.BETTER if gains and holds else MetricVerdict.NOT_BETTER

    def to_json(self) -> dict[str, Json]:
        """Return the content of metric.json.

        Raises:
            ExportError: If a number is not finite.
        """
        verdict = {"verdict": self.verdict.value}
        return verdict | cast(dict[str, Json], to_plain(self))


def write_metric(report: MetricReport, folder: Path) -> None:
    """Write metric.json and metric.md, each whole or not at all.

    Raises:
        ExportError: If a number is not finite or a file cannot be written.
    """
    texts = {
        "metric.json": json.dumps(report.to_json(), indent=2, allow_nan=False) + "\n",
        "metric.md": to_markdown(report),
    }
    write_texts(texts, folder)


def metric_headline(report: MetricReport) -> str:
    """Return the verdict with the winner and how it stands."""
    if report.winner is None:
        return f"{report.verdict}: none that ranks otherwise than the known ones could be measured"
    told = ", ".join(f"{row.relative.value:+.1%} at {row.sparsity}" for row in report.against)
    return f"{report.verdict}: {report.winner.expression}: KL beside the best known {told}"


def to_markdown(report: MetricReport) -> str:
    """Return the page of a search."""
    lines = [f"# {metric_headline(report)}", ""]
    if report.winner is not None:
        lines += ["```", report.winner.expression, "```", ""]
        command = f"autocompress search {report.model} --space sparsity --pruner"
        lines += [f"For a search: `{command} '{report.winner.expression}'`", ""]
    lines += [
        _how(report),
        "",
        f"## On {report.report_sequences} sequences that nothing before has read",
        "",
    ]
    every = (*report.sparsities, *report.tested)
    standings = [*report.known, *([report.winner] if report.winner else [])]
    heads = [name if name in report.sparsities else f"{name} (not searched)" for name in every]
    lines += _table(["metric", *heads, "expression"], _rows(standings, every, by_report=True))
    if report.undefined:
        names = ", ".join(report.undefined)
        lines += ["", f"Not measured, for they have no value for some weights: {names}."]
    if report.against:
        lines += ["", "## The winner beside the best known metric, paired over sequences", ""]
        lines += _table(
            ["sparsity", "best known", "difference", "of its KL", "kept by both"],
            [_against(row) for row in report.against],
        )
        lines += [
            "",
            "The winner ranks otherwise than every known metric on a fixed random layer.",
        ]
    lines += ["", f"## On the {report.selection_sequences} sequences that it was picked on", ""]
    rows = _rows(standings, report.sparsities, by_report=False)
    lines += _table(["metric", *report.sparsities, "expression"], rows)
    lines += ["", "Finalists: " + (", ".join(f"`{own}`" for own in report.finalists) or "none")]
    return "\n".join(lines) + ".\n"


def _how(report: MetricReport) -> str:
    """Say what was searched, and how losses were measured."""
    return (
        f"{report.evaluations:,} metrics in {report.generations} generations, seed {report.seed}: "
        f"{report.stopped_because}. Each prunes all of {report.model} one-shot, by the dense "
        f"model's inputs and gradients. Losses are KL from dense, nats a token, with 95 % "
        f"intervals; text: {report.text}, {report.context} tokens a sequence; {report.hardware}."
    )


def _rows(
    standings: Sequence[MetricStanding], sparsities: Sequence[str], *, by_report: bool
) -> list[list[str]]:
    """Return a row of losses for each metric, the least of each column in bold."""
    tables = [own.report if by_report else own.selection for own in standings]
    least = {name: min(table[name].kl.value for table in tables) for name in sparsities}
    return [
        [
            own.name,
            *(_loss(table[name], table[name].kl.value == least[name]) for name in sparsities),
            f"`{own.expression}`",
        ]
        for own, table in zip(standings, tables, strict=True)
    ]


def _loss(loss: PrunedLoss, is_least: bool) -> str:
    mark = "**" if is_least else ""
    low, high = loss.kl.interval
    told = f"{mark}{loss.kl.value:.4f}{mark} [{low:.4f}, {high:.4f}]"
    return f"{told}, perplexity {loss.perplexity:.2f}"


def _against(row: AgainstBest) -> list[str]:
    name = row.sparsity if row.searched else f"{row.sparsity} (not searched)"
    low, high = row.difference.interval
    least, most = row.relative.interval
    return [
        name,
        row.best_known,
        f"{row.difference.value:+.4f} [{low:+.4f}, {high:+.4f}]",
        f"{row.relative.value:+.1%} [{least:+.1%}, {most:+.1%}]",
        f"{row.shared:.1%}",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]
