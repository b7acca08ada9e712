"""What a store holds of a search for a decoding, read without its model, and shown to people."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autocompress.errors import SpecError
from autocompress.export.decoding_figure import decoding_figure
from autocompress.export.decoding_report import DecodingReport, to_markdown
from autocompress.export.figures import write_png
from autocompress.export.render import write_texts
from autocompress.pipeline.intervals import MOST
from autocompress.search.racing import UNITS, Answered, Objective, Race, Rules, joined
from autocompress.spaces.decoding import DecodingSpace, Parameter, to_text
from autocompress.store.base import AnswerRecord, Json, StudyRow
from autocompress.store.mirror import Chosen, ShownStudy, ShownTrial
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype, Split

KIND: Final = "decode"
"""What a spec says under `kind`; that of a search for a compressed model has none."""
JOINT: Final = "joint"
"""What the spec of a joint search says there."""
REFERENCE: Final = "reference"
SPACE: Final = "decoding space"


def to_document(space: DecodingSpace) -> dict[str, Json]:
    """Return a space as its study keeps it."""
    return {
        "parameters": [
            {"name": own.name, "menu": own.menu, "needs": own.needs} for own in space.parameters
        ]
    }


def from_document(document: Mapping[str, Any]) -> DecodingSpace:
    """Read what `to_document` wrote."""
    return DecodingSpace(
        [
            Parameter(
                own["name"],
                tuple(own["menu"]),
                {name: tuple(held) for name, held in own["needs"].items()},
            )
            for own in document["parameters"]
        ]
    )


def is_decoding(row: StudyRow) -> bool:
    """Whether a study searches for a decoding."""
    return row.spec.get("kind") == KIND


def is_joint(row: StudyRow) -> bool:
    """Whether a study consists of others: of compressed models and of their decodings."""
    return row.spec.get("kind") == JOINT


def ended(records: Sequence[AnswerRecord], race: Race) -> dict[Genotype, Answered]:
    """Return what each decoding made of the search's items that reads no further, as they began.

    Args:
        records: In their order, by which they are judged as they were when they came in.
        race: At its start.
    """
    read: dict[Genotype, Answered] = {}
    goes_on: dict[Genotype, bool] = {}
    for record in records:
        if record.split is not Split.SEARCH or record.payload is None:
            continue
        part = Answered.from_json(record.payload)  # type: ignore[arg-type]  # Columns by name.
        before = read.get(record.genotype, part.first(0))
        if record.first != len(before):
            continue
        read[record.genotype] = joined([before, part])
        goes_on[record.genotype] = race.goes_on(read[record.genotype])
    return {genotype: own for genotype, own in read.items() if not goes_on[genotype]}


def shown_decoding(storage: str, study: str, most: int, folder: Path) -> ShownStudy:
    """Return a search for a decoding as the dashboard shows it.

    Args:
        most: Trials at most, those that read furthest first.
        folder: Takes the files that can be fetched.

    Raises:
        SpecError: If nothing was measured yet.
    """
    with contextlib.closing(open_study(storage, study)) as store:
        row, records = store.row(), store.answers()
        document, reference = store.document(SPACE), store.document(REFERENCE)
    if document is None or reference is None:
        raise SpecError(f"Study {study!r} has measured nothing yet.")
    space = from_document(document)
    usual = Answered.from_json(reference)  # type: ignore[arg-type]  # Columns by name.
    race = Race(rules_of(row.spec), usual, prunes=bool(row.spec["prunes"]))
    # One that goes on is shown once it has ended: what is shown stays as it is.
    read = list(ended(records, race).items())
    kept = sorted(read, key=lambda own: -len(own[1]))[:most]
    trials = [
        _shown(genotype, answered, space, race)
        for genotype, answered in read
        if any(genotype == own for own, _ in kept)
    ]
    note, files = f"`{row.state}`; the report comes with the end.", {}
    if row.report is not None:
        report = DecodingReport.from_json(row.report)
        note = to_markdown(report)
        text = json.dumps(report.to_json(), indent=2) + "\n"
        write_texts({"decoding.json": text, "decoding.md": note}, folder)
        write_png(decoding_figure(report), folder / "decoding.png")
        names = ("decoding.json", "decoding.md", "decoding.png")
        files = {name: folder / name for name in names}
    return ShownStudy(
        row.name,
        f"{row.created_at} {row.state}",
        tuple(f"{own.value}, as searched" for own in race.rules.objectives),
        {
            "model": str(row.spec.get("model")),
            "state": row.state.value,
            "strategy": str(row.spec.get("strategy")),
            "space": "decoding",
            "created": row.created_at,
            "candidates": row.n_trials,
        },
        trials,
        note,
        files,
    )


def rules_of(spec: Mapping[str, Any]) -> Rules:
    """Return what a study's spec searches for."""
    return Rules(
        tuple(Objective(own) for own in spec["objectives"]),
        spec.get("drop"),
        {Objective(name): most for name, most in spec["limits"].items()},
    )


def _shown(genotype: Genotype, answered: Answered, space: DecodingSpace, race: Race) -> ShownTrial:
    values = space.values(genotype)
    menus = {own.name: own.menu for own in space.parameters if len(own.menu) > 1}
    about: dict[str, str | int | float] = {
        "items": len(answered),
        "tokens": int(answered.tokens.sum()),
        "decoding": to_text(values),
    }
    for objective in Objective:
        value = objective.shown(objective.ratio(answered))
        about[f"{objective.value} ({UNITS[objective]})"] = min(value, MOST)
    return ShownTrial(
        genotype.key,
        {name: Chosen(values[name], menu) for name, menu in menus.items() if name in values},
        tuple(min(value, MOST) for value in race.expected(answered)),
        race.violation(answered),
        about,
        is_whole=len(answered) >= race.items,
    )
