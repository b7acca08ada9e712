"""Reads flags and files, runs a command, and prints its failure as one line."""

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import autocompress
from autocompress.cli.observers import make_observer
from autocompress.errors import AutocompressError, SpecError
from autocompress.export.report import Report, Verdict
from autocompress.pipeline.observer import Observer
from autocompress.spec import STRATEGIES, SearchSpec, from_mapping, parse_speedup, read_yaml

DEFAULT_SPEC = Path("autocompress.yaml")
DEFAULT_STORAGE = "sqlite:///.autocompress/studies.db"
DEFAULT_OUTPUT = Path("autocompress-out")
SPEC_FLAGS = (
    "target_speedup",
    "space",
    "engine",
    "workload",
    "device",
    "dtype",
    "calibration",
    "latency_table",
    "quality_floor",
    "strategy",
    "max_tokens",
    "workers",
    "pool",
    "address",
    "context",
    "teacher_tokens",
    "shards",
    "weights_bytes",
    "warm_start",
    "seed",
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise, so that every failure is printed in one place."""
        raise SpecError(f"{message[:1].upper()}{message[1:]}. Try `{self.prog} --help`.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 2 for a failure, or 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        parsed = _parser().parse_args(arguments)
        command: Callable[[argparse.Namespace], None] = parsed.command
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="autocompress", description=autocompress.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=autocompress.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    search = commands.add_parser("search", help="search, export and prove a compressed model")
    _add_spec_flags(search)
    search.add_argument("--study", help="the study's name; made from the model and time if absent")
    _add_storage(search)
    _add_output(search)
    _add_json(search)
    search.set_defaults(command=_search)

    resume = commands.add_parser("resume", help="go on with a study that was stopped")
    resume.add_argument("study", metavar="STUDY")
    _add_storage(resume)
    _add_output(resume)
    _add_json(resume)
    resume.set_defaults(command=_resume)

    profile = commands.add_parser("profile", help="measure what each choice costs on this machine")
    _add_spec_flags(profile)
    profile.add_argument("--output", type=Path, help="file to write the latency table to, as JSON")
    _add_json(profile)
    profile.set_defaults(command=_profile)

    retarget = commands.add_parser(
        "retarget", help="what a study predicts for another target; --refine to search it"
    )
    retarget.add_argument("study", metavar="STUDY")
    retarget.add_argument("--target-speedup", metavar="1.7x", required=True)
    retarget.add_argument(
        "--refine", action="store_true", help="search on from the prediction, export and prove it"
    )
    retarget.add_argument("--new-study", metavar="NAME", help="default: STUDY-1.7x")
    _add_storage(retarget)
    _add_output(retarget)
    _add_json(retarget)
    retarget.set_defaults(command=_retarget)

    report = commands.add_parser("report", help="write or print the report of a finished study")
    report.add_argument("study", metavar="STUDY")
    _add_storage(report)
    report.add_argument("--output", type=Path, help="folder to write the report to")
    report.set_defaults(command=_report)

    pareto = commands.add_parser(
        "pareto", help="show which measured candidates no other dominates"
    )
    pareto.add_argument("study", metavar="STUDY")
    pareto.add_argument(
        "--sequences",
        type=int,
        metavar="N",
        help="what a candidate must have been read on to compete (default: as many as leave ten)",
    )
    _add_storage(pareto)
    _add_output(pareto)
    pareto.set_defaults(command=_pareto)

    studies = commands.add_parser("studies", help="list all studies")
    _add_storage(studies)
    studies.set_defaults(command=_studies)
    return parser


def _add_spec_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder or hub name of the model"
    )
    parser.add_argument(
        "--spec",
        type=Path,
        help="YAML file of these settings; flags override it (default: "
        "autocompress.yaml where no MODEL is given)",
    )
    parser.add_argument("--target-speedup", metavar="2x", help="how much faster than dense")
    parser.add_argument("--space", help="auto, or a list of: depth,width")
    parser.add_argument("--engine", help="what runs the model: torch")
    parser.add_argument("--workload", metavar="BxP+G", help="batch, prompt, generated tokens")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", help="auto (the checkpoint's), bfloat16 or float32")
    parser.add_argument("--calibration", metavar="PATH", help="text, or JSON Lines with `text`")
    parser.add_argument("--latency-table", metavar="PATH", help="what `profile --output` wrote")
    parser.add_argument("--quality-floor", metavar="1.3", help="highest perplexity ratio to dense")
    parser.add_argument("--strategy", help=f"how to search: {', '.join(STRATEGIES)}")
    parser.add_argument("--budget", metavar="30m", help="time for the search: 90s, 30m, 1.5h")
    parser.add_argument("--max-tokens", metavar="N", help="tokens for the search, all candidates")
    parser.add_argument("--workers", metavar="N", help="workers; by default one a core, or a GPU")
    parser.add_argument("--pool", help="local or ray")
    parser.add_argument("--address", help="a running Ray cluster; with --pool ray")
    parser.add_argument("--context", metavar="256", help="tokens of a calibration sequence")
    parser.add_argument(
        "--teacher-tokens", metavar="512", help="likeliest tokens kept of each dense prediction"
    )
    parser.add_argument(
        "--shards", metavar="16", help="parts of a batch; raise it for more than 8 workers"
    )
    parser.add_argument(
        "--weights-bytes",
        metavar="8GB",
        help="of the layers' weights held by each worker; the others are streamed from disk",
    )
    parser.add_argument(
        "--warm-start", help="from measured losses of single changes, or from weights, data-free"
    )
    parser.add_argument("--seed", help="of everything random")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that the model's folder brings"
    )


def _add_storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--storage", default=DEFAULT_STORAGE, metavar="URL", help=f"default: {DEFAULT_STORAGE}"
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"default: {DEFAULT_OUTPUT}/STUDY"
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print events as JSON Lines")


def _spec(parsed: argparse.Namespace, usual: Mapping[str, object]) -> SearchSpec:
    """Read the spec: what is usual, overridden by the file, overridden by the flags."""
    values = dict(usual)
    path: Path | None = parsed.spec
    if path is None and parsed.model is None and DEFAULT_SPEC.is_file():
        path = DEFAULT_SPEC
    if path is not None:
        values |= read_yaml(path)
    flags = {name: getattr(parsed, name) for name in SPEC_FLAGS}
    flags |= {"model": parsed.model, "budget_seconds": parsed.budget}
    if parsed.trust_remote_code:
        flags["trust_remote_code"] = True
    return from_mapping(values | {name: v for name, v in flags.items() if v is not None})


def _search(parsed: argparse.Namespace) -> None:
    spec = _spec(parsed, {})
    # torch and transformers take seconds to import: bad flags are told before.
    from autocompress.pipeline.study import start

    study = parsed.study or _name(spec)
    _run_study(partial(start, spec, parsed.storage, study), study, parsed)


def _resume(parsed: argparse.Namespace) -> None:
    from autocompress.pipeline.study import resume

    _run_study(partial(resume, parsed.storage, parsed.study), parsed.study, parsed)


def _run_study(
    run: Callable[[Path, Observer], Report], study: str, parsed: argparse.Namespace
) -> None:
    """Run a study to its end, telling how it goes, and say what came of it."""
    output = parsed.output or DEFAULT_OUTPUT / study
    observer = make_observer(parsed.json)
    with _resumable(study, parsed.storage):
        report = run(output, observer)
    observer.end()
    _conclude(report, output, parsed.json)


def _profile(parsed: argparse.Namespace) -> None:
    spec = _spec(parsed, {"target_speedup": 2})
    if parsed.output is not None and not parsed.output.resolve().parent.is_dir():
        raise SpecError(f"Cannot write {parsed.output}: its folder does not exist.")
    from autocompress.pipeline import study as studies

    observer = make_observer(parsed.json)
    prepared, table = studies.profile(spec, observer)
    observer.end()
    text = json.dumps(table.to_json(), indent=2, allow_nan=False)
    if parsed.output is not None:
        parsed.output.write_text(text + "\n", encoding="utf-8")
    check = table.check(prepared.space)
    print(f"{table.hardware}; {table.engine} {table.engine_version}; {table.workload}")
    print(f"{'site':<10} {'choice':<16} {'prefill ms':>10} {'ms a token':>10}")
    for row in table.profile.rows:
        spent = row.spent
        print(f"{row.kind:<10} {row.choice!s:<16} {spent.prefill:>10.3f} {spent.decode:>10.4f}")
    print(
        f"held-out error (MAPE) {check.mape:.1%}, measuring twice differs by "
        f"{check.repeat_error:.1%}, rank correlation {check.rank_correlation:.3f}"
    )


def _report(parsed: argparse.Namespace) -> None:
    from autocompress.export.render import write_report
    from autocompress.export.report_markdown import to_markdown
    from autocompress.store.study_store import open_study

    row = open_study(parsed.storage, parsed.study).row()
    if row.report is None:
        raise SpecError(
            f"Study {row.name!r} is {row.state} and has no report; try "
            f"`autocompress resume {row.name}`."
        )
    report = Report.from_json(row.report)
    if parsed.output is None:
        print(to_markdown(report), end="")
    else:
        write_report(report, parsed.output)


def _retarget(parsed: argparse.Namespace) -> None:
    target = parse_speedup(parsed.target_speedup)
    name = parsed.new_study or f"{parsed.study}-{target:g}x"
    if parsed.refine:
        from autocompress.pipeline.study import refine

        _run_study(partial(refine, parsed.storage, parsed.study, target, name), name, parsed)
        return
    from autocompress.pipeline.retargeting import answer

    found = answer(parsed.storage, parsed.study, target)
    if parsed.json:
        print(json.dumps(found.to_json()))
        return
    low, high = found.speedup_interval
    least, most = found.kl_interval
    print(
        f"PREDICTED, nothing measured: {found.speedup:.2f}x [{low:.2f}, {high:.2f}], "
        f"KL {found.kl:.4f} [{least:.4f}, {most:.4f}] nats a token"
    )
    for layer, kind, choice in found.layers:
        if choice != "dense":
            print(f"  layer {layer:>3} {kind:<10} {choice}")
    command = f"autocompress retarget {parsed.study} --target-speedup {target:g}x --refine"
    print(f"Search on from there, and have it measured: `{command}`.")


def _pareto(parsed: argparse.Namespace) -> None:
    from autocompress.export.pareto import to_text
    from autocompress.export.render import write_front
    from autocompress.pipeline.pareto import read_front

    front = read_front(parsed.storage, parsed.study, parsed.sequences)
    output = parsed.output or DEFAULT_OUTPUT / parsed.study
    write_front(front, output)
    print(to_text(front), end="")
    print(f"{output / 'pareto.html'}  {output / 'pareto.json'}")


def _studies(parsed: argparse.Namespace) -> None:
    from autocompress.store.study_store import list_studies

    for row in list_studies(parsed.storage):
        target = row.spec.get("target_speedup")
        print(
            f"{row.name:<40} {row.state:<9} {row.created_at:<26} {row.n_trials:>6} trials  "
            f"{row.spec.get('model')} {target}x"
        )


@contextlib.contextmanager
def _resumable(study: str, storage: str) -> Iterator[None]:
    """Let an interruption say how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        from autocompress.store.database import masked

        where = "" if storage == DEFAULT_STORAGE else f" --storage {masked(storage)}"
        raise KeyboardInterrupt(f"; go on with `autocompress resume {study}{where}`") from None


def _name(spec: SearchSpec) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{Path(spec.model).name}-{spec.target_speedup:g}x-{stamp}"


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
