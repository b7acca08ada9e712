"""Sweeps: searches that differ in some of their settings, side by side, by Ray Tune.

Each is a study of its own, named after what it holds, so that a sweep that is begun again runs
none anew that has ended. The best are measured once more, from their files.
"""

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autocompress.errors import EvaluationError, SpecError
from autocompress.export.render import write_texts
from autocompress.export.report import Report
from autocompress.pipeline.comparing import losses_of, speedup_between
from autocompress.pipeline.observer import Observer
from autocompress.service.search_process import search_command
from autocompress.spec import TARGETS, SearchSpec, check_compresses_alone, from_mapping
from autocompress.spec_values import check_plain_name
from autocompress.store.base import Json, StudyState
from autocompress.store.database import sqlite_file
from autocompress.store.study_store import find_study, list_studies
from autocompress.workers.tune import (
    WAYS,
    Outcome,
    Plan,
    Range,
    Share,
    Values,
    Varied,
    grid_of,
    run_trials,
)

MISSED: Final = 1000.0
"""Added to the KL of a search that missed its target: worse than any that met it."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Searches that are alike but for what varies.

    Args:
        settings: Of a search, by their names in a spec; without what varies.
    """

    name: str
    settings: Mapping[str, object]
    varied: Varied

    def spec(self, values: Values) -> SearchSpec:
        """Return the spec of one of the searches."""
        return from_mapping({**self.settings, **values})

    def spec_at(self, key: str, value: object) -> SearchSpec:
        """Return the spec that has a value, and the first of all others that vary."""
        first = {name: _some(menu)[0] for name, menu in self.varied.items()}
        return self.spec({**first, key: value})

    def study(self, values: Values) -> str:
        """Return the name of its study: another for other settings."""
        text = json.dumps(self.spec(values).to_json(), sort_keys=True)
        return f"{self.name}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one search: its report, or why there is none."""

    values: Values
    study: str
    report: Report | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Again:
    """What a winner was found to lose and take, measured once more.

    Args:
        speedup: And its 95 % interval; None where no engine timed it.
    """

    row: Row
    kl: float
    speedup: tuple[float, tuple[float, float]] | None


@dataclass(frozen=True, slots=True)
class Swept:
    """All searches of a sweep, and of each set of targets the winner."""

    sweep: Sweep
    rows: tuple[Row, ...]
    winners: tuple[Again, ...]


def read_sweep(name: str, values: Mapping[str, object]) -> Sweep:
    """Read what a sweep's file holds: settings of a search, and under `vary` what varies.

    A setting varies over a list, or over a mapping with `from` and `to`, and `log: true` for as
    many draws from each tenfold.

    Raises:
        SpecError: If it cannot be meant.
    """
    check_plain_name(name)
    settings = {key.replace("-", "_"): value for key, value in values.items()}
    vary = settings.pop("vary", None)
    if not isinstance(vary, dict) or not vary:
        raise SpecError("`vary` must hold what varies: a list for each of some settings.")
    varied = {str(key).replace("-", "_"): _menu(str(key), menu) for key, menu in vary.items()}
    twice = sorted(settings.keys() & varied.keys())
    if twice:
        raise SpecError(f"{', '.join(twice)}: a setting varies or is given once, not both.")
    sweep = Sweep(name, settings, varied)
    # Each value is looked at before any search begins, beside the first of the others.
    for key, menu in varied.items():
        for value in _some(menu):
            check_compresses_alone(sweep.spec_at(key, value), "a sweep")
    return sweep


def _menu(key: str, menu: object) -> tuple[object, ...] | Range:
    if isinstance(menu, list) and menu:
        choices = tuple(",".join(map(str, own)) if isinstance(own, list) else own for own in menu)
        if all(isinstance(own, str | int | float) or own is None for own in choices):
            return choices
    if isinstance(menu, dict) and {"from", "to"} <= menu.keys() <= {"from", "to", "log"}:
        low, high, log = menu["from"], menu["to"], menu.get("log", False)
        numbers = [own for own in (low, high) if isinstance(own, int | float)]
        if len(numbers) == 2 and numbers[0] < numbers[1] and isinstance(log, bool):
            is_whole = all(isinstance(own, int) for own in numbers)
            if not log or numbers[0] > 0:
                return Range(numbers[0], numbers[1], is_whole, log)
    raise SpecError(
        f"vary: {key} must be a list of values, or `from` and `to` with low < high (and `log: "
        f"true` for positive numbers), but got {menu!r}."
    )


def _some(menu: tuple[object, ...] | Range) -> tuple[object, ...]:
    """Return all values of a menu, or the ends of a range."""
    if not isinstance(menu, Range):
        return menu
    ends = (menu.low, menu.high)
    return tuple(map(int, ends)) if menu.is_whole else ends


def check(sweep: Sweep, plan: Plan) -> None:
    """Make sure that a sweep can be run as planned.

    Raises:
        SpecError: If it cannot.
    """
    if plan.way not in WAYS:
        raise SpecError(f"`--by` must be one of {', '.join(WAYS)}, but got {plan.way!r}.")
    ranges = [key for key, menu in sweep.varied.items() if isinstance(menu, Range)]
    if plan.way == "grid":
        if ranges:
            raise SpecError(
                f"A grid holds no range, but {', '.join(ranges)} is one: list its values, or "
                "draw from it by `--by random` or `--by tpe`."
            )
        for values in grid_of(sweep.varied):
            sweep.spec(values)
    targets = [key for key in sweep.varied if key in TARGETS]
    if plan.way == "tpe" and targets:
        raise SpecError(
            f"`--by tpe` looks for the least KL, which the laxest of {', '.join(targets)} has: "
            "take `--by grid` to see each target's."
        )
    for name, number in (("--trials", plan.trials), ("--at-once", plan.at_once)):
        if number < 1:
            raise SpecError(f"`{name} >= 1` must hold, but got {number}.")


def run_sweep(
    sweep: Sweep,
    plan: Plan,
    storage: str,
    output: Path,
    observer: Observer,
    told: Callable[[Row], None],
) -> Swept:
    """Run the searches of a sweep that have not ended, and measure the best again.

    Args:
        output: Takes a folder of each search.
        told: Is told what comes of each search, when it comes.

    Raises:
        AutocompressError: If Ray cannot be started, or what is best cannot be measured.
    """
    check(sweep, plan)
    output.mkdir(parents=True, exist_ok=True)
    file = sqlite_file(storage)
    if file is not None:
        # Trials do not run in this folder.
        storage = f"sqlite:///{file.resolve()}"
    run = _Run(sweep, storage, str(output.resolve()), str(Path.cwd()))
    known = _known(sweep, storage)
    rows = {row.study: row for row in known}

    def pass_on(outcome: Outcome) -> None:
        row = _row(sweep, outcome, storage)
        rows[row.study] = row
        told(row)

    scored = [(row.values, _score(row.report)) for row in known if row.report is not None]
    for outcome in run_trials(run, sweep.varied, plan, scored, pass_on):
        # What was not told: its process died.
        if sweep.study(outcome.values) not in rows:
            rows[sweep.study(outcome.values)] = _row(sweep, outcome, storage)
    winners = tuple(_again(sweep, row, output, observer) for row in winners_of([*rows.values()]))
    swept = Swept(sweep, tuple(rows.values()), winners)
    texts = {"sweep.json": json.dumps(to_json(swept), indent=2, allow_nan=False) + "\n"}
    write_texts({**texts, "sweep.md": to_markdown(swept)}, output)
    return swept


@dataclass(frozen=True)
class _Run:
    """Runs one search in a process of its own; travels pickled to where Ray runs it."""

    sweep: Sweep
    storage: str
    output: str
    folder: str

    def __call__(self, values: Values, share: Share) -> float:
        study = self.sweep.study(values)
        report = _report(self.storage, study) or self._search(study, values, share)
        return _score(report)

    def _search(self, study: str, values: Values, share: Share) -> Report:
        """Search, or go on with what was begun; return the report.

        Raises:
            EvaluationError: If the search ends without a model.
        """
        spec = self.sweep.spec(values).to_json()
        if spec["workers"] is None and not share.gpus:
            # How many measure changes no result.
            spec["workers"] = share.cpus
        write_texts({f"{study}.json": json.dumps(spec) + "\n"}, Path(self.output))
        file, output = Path(self.output, f"{study}.json"), Path(self.output, study)
        with Path(self.output, f"{study}.events.jsonl").open("ab") as told:
            ended = subprocess.run(
                search_command(self.storage, study, file, output),
                cwd=self.folder,
                stdout=told,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                check=False,
            )
        report = _report(self.storage, study)
        if report is None:
            said = ended.stderr.strip().rpartition("\n")[2] or f"ended with {ended.returncode}"
            raise EvaluationError(said.removeprefix("autocompress: "))
        return report


def _report(storage: str, study: str) -> Report | None:
    """Return the report of a study that has ended with one."""
    row = find_study(storage, study)
    if row is None or row.state is not StudyState.FINISHED or row.report is None:
        return None
    return Report.from_json(row.report)


def _known(sweep: Sweep, storage: str) -> list[Row]:
    """Return the searches of a sweep that have ended."""
    found = []
    for row in list_studies(storage):
        if row.name.startswith(f"{sweep.name}-") and row.report is not None:
            values = values_of(sweep, row.spec)
            if sweep.study(values) == row.name and row.state is StudyState.FINISHED:
                found.append(Row(values, row.name, Report.from_json(row.report), None))
    return found


def values_of(sweep: Sweep, spec: Mapping[str, Json]) -> dict[str, object]:
    """Return the values of a sweep that a stored spec has, as the sweep's file tells them."""
    return {key: _told_as(sweep, key, spec.get(key)) for key in sweep.varied}


def _told_as(sweep: Sweep, key: str, value: Json) -> object:
    """Return what a sweep's file calls the value of a checked spec."""
    menu = sweep.varied[key]
    if isinstance(menu, Range):
        return value
    return next((own for own in menu if sweep.spec_at(key, own).to_json()[key] == value), menu[0])


def _score(report: Report) -> float:
    return report.loss.kl + (0.0 if report.met else MISSED)


def _row(sweep: Sweep, outcome: Outcome, storage: str) -> Row:
    study = sweep.study(outcome.values)
    return Row(outcome.values, study, _report(storage, study), outcome.error)


def winners_of(rows: Sequence[Row]) -> list[Row]:
    """Return the winner of each set of targets: the least KL of those that met them."""
    best: dict[tuple[object, ...], Row] = {}
    for row in rows:
        if row.report is not None and row.report.met:
            targets = tuple((own.kind, own.value) for own in row.report.targets)
            known = best.get(targets)
            if known is None or _kl(row) < _kl(known):
                best[targets] = row
    return list(best.values())


def _kl(row: Row) -> float:
    return float("inf") if row.report is None else row.report.loss.kl


def _again(sweep: Sweep, row: Row, output: Path, observer: Observer) -> Again:
    """Measure a winner once more, from its files."""
    spec = sweep.spec(row.values)
    if row.report is None:
        raise AssertionError("a winner has a report")
    model = output / row.study / row.report.checkpoint
    (measurement,) = losses_of(spec, [model], observer)
    speed = None
    if spec.is_clocked:
        speed = speedup_between(spec, spec.model, str(model), observer)
    found = None if speed is None else (speed.median, speed.interval)
    return Again(row, measurement.loss, found)


def to_json(swept: Swept) -> dict[str, Json]:
    """Return a sweep as plain values."""
    return {
        "sweep": swept.sweep.name,
        "trials": [
            {
                "values": _plain(row.values),
                "study": row.study,
                "error": row.error,
                "report": None if row.report is None else row.report.to_json(),
            }
            for row in swept.rows
        ],
        "winners": [
            {
                "study": own.row.study,
                "values": _plain(own.row.values),
                "kl": own.kl,
                "speedup": None if own.speedup is None else own.speedup[0],
                "speedup_interval": None if own.speedup is None else list(own.speedup[1]),
            }
            for own in swept.winners
        ],
    }


def _plain(values: Values) -> dict[str, Json]:
    return {
        key: value if isinstance(value, int | float | str) else None
        for key, value in values.items()
    }


def to_markdown(swept: Swept) -> str:
    """Return a sweep as a table, the best first, and what its winners were measured to be."""
    names = list(swept.sweep.varied)
    heads = [*names, "KL", "perplexity / dense", "speedup", "tokens", "verdict", "study"]
    lines = [f"# Sweep {swept.sweep.name}", "", _line(heads), _line(["---"] * len(heads))]
    for row in sorted(swept.rows, key=_kl):
        values = [str(row.values[name]) for name in names]
        lines.append(_line([*values, *_told(row), row.study]))
    lines.append("")
    for own in swept.winners:
        report = own.row.report
        if report is None:
            continue
        asked = ", ".join(f"{target.kind} {target.value:g}" for target in report.targets)
        said = f"{own.row.study} ({asked}), measured again"
        found = f"KL {own.kl:.4f} (its report says {report.loss.kl:.4f})"
        if own.speedup is not None:
            low, high = own.speedup[1]
            found += f", {own.speedup[0]:.2f}x [{low:.2f}, {high:.2f}]"
        lines.append(f"- {said}: {found}.")
    if not swept.winners:
        lines.append("No search met its target.")
    return "\n".join(lines) + "\n"


def _told(row: Row) -> list[str]:
    if row.report is None:
        return ["", "", "", "", row.error or "not run"]
    loss, speed = row.report.loss, row.report.speedup.measured
    return [
        f"{loss.kl:.4f}",
        f"{loss.perplexity / loss.dense_perplexity:.3f}",
        "" if speed is None else f"{speed:.2f}x",
        f"{row.report.search.tokens:,}",
        row.report.verdict.value,
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
