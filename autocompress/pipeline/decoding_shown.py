"""A search for a decoding as the dashboard shows it; wants the extra `dashboard`."""

import contextlib
import json
from pathlib import Path

from autocompress.errors import SpecError
from autocompress.export.decoding_figure import decoding_figure
from autocompress.export.decoding_report import DecodingReport, to_markdown
from autocompress.export.figures import write_png
from autocompress.export.render import write_texts
from autocompress.pipeline.decoding_stored import REFERENCE, SPACE, ended, from_document, rules_of
from autocompress.pipeline.intervals import MOST
from autocompress.search.racing import UNITS, Answered, Objective, Race
from autocompress.spaces.decoding import DecodingSpace, to_text
from autocompress.store.mirror import Chosen, ShownStudy, ShownTrial
from autocompress.store.study_store import open_study
from autocompress.trial import Genotype


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
