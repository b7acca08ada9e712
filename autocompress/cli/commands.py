"""Reads flags and files, runs a command, and prints its failure as one line."""

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from autocompress.cli import schedules
from autocompress.cli.decoding_flags import GIVEN, default_study
from autocompress.cli.files import check_writable, write_file
from autocompress.cli.flags import (
    DEFAULT_OUTPUT,
    DEFAULT_STORAGE,
    make_parser,
    reading_of,
    spec_of,
    targets_of,
    text_of,
)
from autocompress.cli.naming import model_name
from autocompress.cli.observers import make_observer
from autocompress.cli.service_flags import Command
from autocompress.errors import AutocompressError, SpecError, StoreError
from autocompress.export.report import Report, Verdict
from autocompress.pipeline.observer import Observer
from autocompress.spec import DECODING, TARGETS, SearchSpec
from autocompress.spec_rules import FORMATS

if TYPE_CHECKING:
    from autocompress.evaluators.latency_model import Check, LatencyTable, LatencyTables
    from autocompress.evaluators.latency_rows import Row
    from autocompress.spaces.base import SearchSpace

DEFAULT_ARTIFACTS = Path(".autocompress/dashboard")
GOES_ON: Final = "; the same command goes on from there"

Found = TypeVar("Found")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 2 for a failure, or 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parsed = make_parser(COMMANDS).parse_args(arguments)
        command: Command = parsed.command
        command(parsed)
    except AutocompressError as error:
        print(f"autocompress: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"autocompress: interrupted{stop}.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (`| head`); Python must not complain once more while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _search(parsed: argparse.Namespace) -> None:
    spec = spec_of(parsed, {})
    study = parsed.study or _name(spec)
    if DECODING in spec.space:
        _search_jointly(spec, study, parsed)
        return
    # torch and transformers take seconds to import: bad flags are told before.
    from autocompress.pipeline.study import start

    _run_study(partial(start, spec, parsed.storage, study), study, parsed)


def _search_jointly(spec: SearchSpec, study: str, parsed: argparse.Namespace) -> None:
    _check_tune()
    from autocompress.export.joint_report import JointVerdict, joint_headline
    from autocompress.pipeline.joint import search_jointly

    output = parsed.output or DEFAULT_OUTPUT / study
    report = _watched(
        partial(search_jointly, spec, parsed.storage, study, output),
        f"; the same command with --study {study} goes on",
        parsed.json,
    )
    told = joint_headline(report)
    _tell(told, output / "joint.md", parsed.json)
    if report.verdict is JointVerdict.MISSED:
        print(f"autocompress: {told}", file=sys.stderr)


def _watched(search: Callable[[Observer], Found], going_on: str, as_json: bool) -> Found:
    """Run a search and show how it goes; say how it goes on where it is interrupted."""
    observer = make_observer(as_json)
    try:
        found = search(observer)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(going_on) from None
    observer.end()
    return found


def _tell(told: str, page: Path, as_json: bool) -> None:
    """Say what came of a search, and where its page lies."""
    if as_json:
        print(json.dumps({"event": "report", "headline": told, "output": str(page.parent)}))
    else:
        print(told)
        print(page)


def _check_tune() -> None:
    try:
        from autocompress.workers.tune import check_packages

        check_packages()
    except ModuleNotFoundError as error:
        raise SpecError(
            f"A search for a decoding needs {error.name}: run `pip install 'autocompress[sweep]'`."
        ) from error


def _resume(parsed: argparse.Namespace) -> None:
    from autocompress.pipeline.study import resume

    _run_study(partial(resume, parsed.storage, parsed.study), parsed.study, parsed)


def _run_study(
    run: Callable[[Path, Observer], Report], study: str, parsed: argparse.Namespace
) -> None:
    """Run a study to its end, telling how it goes, and say what came of it."""
    output = parsed.output or DEFAULT_OUTPUT / study
    observer = make_observer(parsed.json)
    with _resumable(study, parsed):
        report = run(output, observer)
    observer.end()
    _conclude(report, output, parsed.json)


def _profile(parsed: argparse.Namespace) -> None:
    spec = spec_of(parsed, {"target_speedup": 2})
    check_writable(parsed.output)
    check_writable(parsed.figure)
    from autocompress.export.figures import write_png
    from autocompress.export.profile_figure import profile_figure
    from autocompress.pipeline import study as studies

    observer = make_observer(parsed.json)
    prepared, tables = studies.profile(spec, parsed.storage, observer)
    observer.end()
    text = json.dumps(tables.to_json(), indent=2, allow_nan=False) + "\n"
    check = tables.check(prepared.space)
    try:
        _print_tables(tables, check, prepared.space)
    finally:
        # Whoever reads what is printed may go away: the files are wanted all the same.
        write_file(parsed.output, lambda file: file.write_text(text, encoding="utf-8"))
        write_file(
            parsed.figure,
            lambda file: write_png(profile_figure(tables, check, prepared.space), file),
        )


def _print_tables(tables: "LatencyTables", check: "Check", space: "SearchSpace") -> None:
    common = tables.first
    print(f"{common.hardware}; {common.engine} {common.engine_version}; {tables.mix}")
    for table in tables.tables:
        _print_rows(table, space)
    print(
        f"held-out error (MAPE) {check.mape:.1%}, measuring twice differs by "
        f"{check.repeat_error:.1%}, rank correlation {check.rank_correlation:.3f}"
    )


def _print_rows(table: "LatencyTable", space: "SearchSpace") -> None:
    print(f"{table.workload}")
    heads = f"{'prefill ms':>10} {'ms a token':>10} {'95 % interval':>18}"
    print(f"{'site':<10} {'choice':<16} {heads}")
    for row in table.profile.rows:
        spent = row.spent
        interval = f"[{row.interval[0]:.4f}, {row.interval[1]:.4f}]"
        print(
            f"{row.kind:<10} {_row_words(row, space):<16} {spent.prefill:>10.3f} "
            f"{spent.decode:>10.4f} {interval:>18}"
        )


def _row_words(row: "Row", space: "SearchSpace") -> str:
    """Name what a row of a latency table changes."""
    from autocompress.evaluators.latency_rows import changed_group

    group = changed_group(row.choice)
    if group is None:
        return str(row.choice)
    site = next(site for site in space.sites if site.kind is row.kind)
    return f"{site.groups[group].name} {row.choice.weights[group]}"


def _report(parsed: argparse.Namespace) -> None:
    from autocompress.export import decoding_report, joint_report
    from autocompress.export.render import write_decoding, write_report
    from autocompress.export.report_markdown import to_markdown
    from autocompress.pipeline.decoding_stored import is_decoding, is_joint
    from autocompress.store.study_store import open_study

    row = open_study(parsed.storage, parsed.study).row()
    if row.report is None:
        resume = f"`autocompress resume {row.name}`"
        if is_decoding(row) or is_joint(row):
            resume = f"the command that began it, with --study {row.name}"
        raise SpecError(f"Study {row.name!r} is {row.state} and has no report; try {resume}.")
    if is_decoding(row):
        decoding = decoding_report.DecodingReport.from_json(row.report)
        page, write = decoding_report.to_markdown(decoding), partial(write_decoding, decoding, {})
    elif is_joint(row):
        joint = joint_report.JointReport.from_json(row.report)
        page, write = joint_report.to_markdown(joint), partial(joint_report.write_joint, joint, {})
    else:
        report = Report.from_json(row.report)
        page, write = to_markdown(report), partial(write_report, report)
    if parsed.output is None:
        print(page, end="")
    else:
        write(parsed.output)


def _retarget(parsed: argparse.Namespace) -> None:
    targets = targets_of(parsed)
    from autocompress.pipeline.retargeting import answer, to_text

    name = parsed.new_study or f"{parsed.study}-{_targets(targets).replace(' ', '-')}"
    if parsed.refine:
        from autocompress.pipeline.study import refine

        _check_new(name, parsed.storage)
        _run_study(partial(refine, parsed.storage, parsed.study, targets, name), name, parsed)
        return
    found = answer(parsed.storage, parsed.study, targets)
    if parsed.json:
        print(json.dumps(found.to_json()))
        return
    print(to_text(found), end="")
    told = [f"--{name.replace('_', '-')} {value}" for name, value in targets.items()]
    flags = " ".join([*told, "--refine"]) + _where(parsed.storage)
    command = f"autocompress retarget {shlex.quote(parsed.study)} {flags}"
    print(f"Search on from there, and have it measured: `{command}`.")


def _pareto(parsed: argparse.Namespace) -> None:
    from autocompress.export.pareto import to_text
    from autocompress.export.render import write_front
    from autocompress.pipeline.pareto import read_front

    front = read_front(parsed.storage, parsed.study, parsed.by, parsed.sequences)
    output = parsed.output or DEFAULT_OUTPUT / parsed.study
    write_front(front, output)
    print(to_text(front), end="")
    print(f"{output / 'pareto.html'}  {output / 'pareto.json'}")


def _evaluate(parsed: argparse.Namespace) -> None:
    reading = reading_of(parsed)
    if parsed.sequences < 2:
        raise SpecError(f"`sequences >= 2` must hold, but got {parsed.sequences}.")
    check_writable(parsed.output)
    from autocompress.export.evaluation import to_text
    from autocompress.pipeline.evaluating import Asked, evaluate

    observer = make_observer(parsed.json)
    given = {"path": parsed.path, "against": parsed.against, "sequences": parsed.sequences}
    given["by_vllm"] = parsed.engine == "vllm"
    # Each reader of a spec's value returns its field's type.
    asked = Asked(**given, **reading)  # type: ignore[arg-type]
    found = evaluate(asked, observer)
    observer.end()
    plain = found.to_json()
    text = json.dumps(plain, indent=2) + "\n"
    try:
        if parsed.json:
            print(json.dumps({"event": "evaluation", **plain}))
        else:
            print(to_text(found), end="")
    finally:
        write_file(parsed.output, lambda file: file.write_text(text, encoding="utf-8"))


def _metric(parsed: argparse.Namespace) -> None:
    from autocompress.export.metric_report import metric_headline
    from autocompress.pipeline.metric import search_metric
    from autocompress.pipeline.metric_asked import metric_asked

    asked = metric_asked(
        parsed.model,
        parsed.sparsities,
        parsed.tested_sparsities,
        parsed.evaluations,
        text_of(parsed),
    )
    name = f"metric-{model_name(parsed.model)}-seed{asked.spec.seed}"
    output = parsed.output or DEFAULT_OUTPUT / name
    report = _watched(partial(search_metric, asked, output), GOES_ON, parsed.json)
    _tell(metric_headline(report), output / "metric.md", parsed.json)


def _decode(parsed: argparse.Namespace) -> None:
    from autocompress.pipeline.decoding_asked import decode_asked

    asked = decode_asked({name: getattr(parsed, name) for name in GIVEN})
    _check_tune()
    from autocompress.export.decoding_report import DecodingVerdict, decoding_headline
    from autocompress.pipeline.decoding import decode

    study = parsed.study or default_study(asked.model, asked.seed)
    output = parsed.output or DEFAULT_OUTPUT / study
    report = _watched(partial(decode, asked, parsed.storage, study, output), GOES_ON, parsed.json)
    told = decoding_headline(report)
    _tell(told, output / "decoding.md", parsed.json)
    if report.verdict is DecodingVerdict.MISSED:
        print(f"autocompress: {told}", file=sys.stderr)


def _export(parsed: argparse.Namespace) -> None:
    if parsed.format is None and parsed.point is None:
        raise SpecError("Give --format, for the winner, or --point, for another candidate.")
    if parsed.format is None or parsed.format in FORMATS:
        from autocompress.pipeline.exporting import export_spec
        from autocompress.pipeline.study import start

        own = [part for part in (parsed.study, parsed.point, parsed.format) if part is not None]
        name = parsed.new_study or "-".join(own)
        folder = parsed.output or DEFAULT_OUTPUT / name
        _check_new(name, parsed.storage)
        spec = export_spec(parsed.storage, parsed.study, parsed.format, folder, parsed.point)
        _run_study(partial(start, spec, parsed.storage, name), name, parsed)
        return
    from autocompress.pipeline.exporting import export_recipe

    output = parsed.output or DEFAULT_OUTPUT / parsed.study
    recipe = export_recipe(parsed.storage, parsed.study, parsed.format, output, parsed.point)
    print(output / recipe.file)
    print(f"Not run, and not load-tested. For the tool: {recipe.use}")


def _verify(parsed: argparse.Namespace) -> None:
    from autocompress.pipeline.verifying import to_text, verify

    print(to_text(verify(parsed.folder, parsed.device, loads=not parsed.files_only)), end="")


def _sweep(parsed: argparse.Namespace) -> None:
    from autocompress.spec import read_yaml

    try:
        from autocompress.service import sweep as sweeps
        from autocompress.workers.tune import Plan, check_packages

        check_packages()
    except ModuleNotFoundError as error:
        raise SpecError(
            f"`sweep` needs {error.name}: run `pip install 'autocompress[sweep]'`."
        ) from error

    own = sweeps.read_sweep(parsed.name or parsed.file.stem, read_yaml(parsed.file))
    plan = Plan(parsed.by, parsed.trials, parsed.at_once, parsed.seed, parsed.address)
    output = parsed.output or DEFAULT_OUTPUT / own.name
    observer = make_observer(parsed.json)

    def told(row: "sweeps.Row") -> None:
        outcome = row.error or "no report"
        if row.report is not None:
            from autocompress.export.report_words import headline

            outcome = headline(row.report)
        values = {key: str(value) for key, value in row.values.items()}
        observer.tell("trial", {"study": row.study, **values, "outcome": outcome})

    swept = sweeps.run_sweep(own, plan, parsed.storage, output, observer, told)
    observer.end()
    if not parsed.json:
        print(sweeps.to_markdown(swept), end="")
    print(output / "sweep.md", file=sys.stderr if parsed.json else sys.stdout)


def _serve(parsed: argparse.Namespace) -> None:
    try:
        from autocompress.service.dashboard import serve
    except ModuleNotFoundError as error:
        raise SpecError(
            f"`serve` needs {error.name}: run `pip install 'autocompress[dashboard]'`."
        ) from error

    artifacts = parsed.artifacts or DEFAULT_ARTIFACTS
    serve(parsed.storage, artifacts, parsed.host, parsed.port, _say_now)


def _api(parsed: argparse.Namespace) -> None:
    try:
        from autocompress.service.server import run_api
    except ModuleNotFoundError as error:
        raise SpecError(
            f"`api` needs {error.name}: run `pip install 'autocompress[service]'`."
        ) from error

    run_api(
        parsed.storage,
        parsed.output,
        parsed.root,
        parsed.host,
        parsed.port,
        parsed.token_file,
        _say_now,
    )


def _say_now(text: str) -> None:
    print(text, flush=True)


def _studies(parsed: argparse.Namespace) -> None:
    from autocompress.store.study_store import list_studies

    for row in list_studies(parsed.storage):
        print(
            f"{row.name:<40} {row.state:<9} {row.created_at:<26} {row.n_trials:>6} trials  "
            f"{row.spec.get('model')} {_targets(row.spec)}"
        )


@contextlib.contextmanager
def _resumable(study: str, parsed: argparse.Namespace) -> Iterator[None]:
    """Let an interruption say how to go on, once there is a study to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        if not _is_there(study, parsed.storage):
            raise
        output = "" if parsed.output is None else f" --output {shlex.quote(str(parsed.output))}"
        command = f"autocompress resume {shlex.quote(study)}{_where(parsed.storage)}{output}"
        raise KeyboardInterrupt(f"; go on with `{command}`") from None


def _is_there(study: str, storage: str) -> bool:
    """Whether a study exists, as far as its database tells."""
    from autocompress.store.study_store import find_study

    try:
        return find_study(storage, study) is not None
    except StoreError:
        return True


def _check_new(study: str, storage: str) -> None:
    """Make sure that a study that another one leads to has a name of its own.

    Raises:
        SpecError: If there is one of this name.
    """
    from autocompress.store.study_store import find_study

    if find_study(storage, study) is not None:
        raise SpecError(
            f"Study {study!r} exists already; continue it with `autocompress resume "
            f"{shlex.quote(study)}{_where(storage)}` or choose another --new-study."
        )


def _where(storage: str) -> str:
    """Return the flag that tells a storage; nothing for the usual one."""
    from autocompress.store.database import masked

    return "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(masked(storage))}"


def _name(spec: SearchSpec) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{model_name(spec.model)}-{_targets(spec.to_json()).replace(' ', '-')}-{stamp}"


def _targets(spec: Mapping[str, object]) -> str:
    """Return the targets of a spec in a few letters: `2x`, `4000000B`, `3.5bits`, `50%params`."""
    units = {
        "speedup": "x",
        "latency": "ms",
        "throughput": "tokens-a-second",
        "memory": "memory",
        "bytes": "B",
        "bits": "bits",
        "params": "params",
    }
    found = []
    for name in TARGETS:
        value = spec.get(name)
        if value is not None:
            told = f"{value:g}" if isinstance(value, float) else str(value)
            unit = units[name.removeprefix("target_")]
            found.append(told if told.lower().endswith(unit.lower()) else told + unit)
    return " ".join(found)


def _conclude(report: Report, output: Path, as_json: bool) -> None:
    from autocompress.export.report_words import headline

    text = headline(report)
    if as_json:
        print(json.dumps({"event": "report", "headline": text, "output": str(output)}))
    else:
        print(text)
        print(f"{output / 'report.html'}  {output / 'model'}")
    if report.verdict is not Verdict.USABLE:
        print(f"autocompress: {text}", file=sys.stderr)


COMMANDS: Mapping[str, Command] = {
    "search": _search,
    "resume": _resume,
    "profile": _profile,
    "retarget": _retarget,
    "report": _report,
    "pareto": _pareto,
    "evaluate": _evaluate,
    "metric": _metric,
    "decode": _decode,
    "export": _export,
    "verify": _verify,
    "studies": _studies,
    "sweep": _sweep,
    "serve": _serve,
    "api": _api,
    "schedule add": schedules.add,
    "schedule list": schedules.show,
    "schedule remove": schedules.remove,
    "schedule run": schedules.run,
    "schedule start": schedules.start,
    "schedule rollback": schedules.rollback,
}
