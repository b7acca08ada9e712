"""A joint search as the dashboard shows it: each of its options is a trial."""

from pathlib import Path
from typing import Final

from autocompress.errors import SpecError
from autocompress.export.joint_report import JointOption, JointReport, to_markdown, write_joint
from autocompress.store.base import StudyRow
from autocompress.store.mirror import Chosen, ShownStudy, ShownTrial

OBJECTIVES: Final = ("seconds an answer, of dense's", "mean score lost, of dense's")
"""On the report's items, both less where it is better."""


def shown_joint(row: StudyRow, folder: Path) -> ShownStudy:
    """Return a joint search as the dashboard shows it; its parts are studies of their own.

    Args:
        folder: Takes the files that can be fetched.

    Raises:
        SpecError: If it has not ended: its options are held against each other at the end.
    """
    if row.report is None:
        raise SpecError(f"Study {row.name!r} has not ended: its parts are shown meanwhile.")
    report = JointReport.from_json(row.report)
    write_joint(report, {}, folder)
    return ShownStudy(
        row.name,
        f"{row.created_at} {row.state}",
        OBJECTIVES,
        {
            "model": report.model,
            "state": row.state.value,
            "verdict": report.verdict.value,
            "target": report.target,
            "tasks": report.tasks,
            "created": row.created_at,
        },
        [_shown(at, report) for at in range(len(report.options))],
        to_markdown(report),
        {name: folder / name for name in ("joint.json", "joint.md")},
    )


def _shown(at: int, report: JointReport) -> ShownTrial:
    own = report.options[at]
    asked = tuple(option.asked_speedup for option in report.options)
    return ShownTrial(
        f"{own.asked_speedup:g}x",
        {"asked of compression": Chosen(own.asked_speedup, asked)},
        (1 / own.speedup.value, -own.quality_difference.value),
        # As the verdict: the whole interval has to keep the target.
        report.target / own.speedup.interval[0] - 1,
        _about(own) | {"winner": str(at == report.winner)},
    )


def _about(own: JointOption) -> dict[str, str | int | float]:
    return {
        "speedup": own.speedup.value,
        "speedup by compression": own.by_compression.value,
        "speedup by decoding": own.by_decoding.value,
        "mean score": own.quality.value,
        "decoding": own.decoding,
        "model": own.model,
        "draft": own.draft or "",
    }
