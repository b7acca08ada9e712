"""The command line: what it refuses, and that a refusal is one line and leaves nothing behind."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from autocompress import spec_values
from autocompress.cli import commands, flags
from autocompress.cli.decoding_flags import default_study
from autocompress.cli.naming import model_name
from autocompress.cli.observers import Lines
from autocompress.errors import SpecError
from autocompress.pipeline import conclusion, evaluating, retargeting, study
from autocompress.pipeline.observer import Figure
from autocompress.pipeline.prepared import Prepared
from autocompress.spec import SearchSpec
from autocompress.store.base import Json
from autocompress.store.study_store import create_study
from tests.refusals import refusal


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with its own cache."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    return folder


def test_unknown_command_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["serach"], capsys)

    assert "serach" in line
    assert not list(home.iterdir())


@pytest.mark.parametrize("target", ["0x", "1x", "-2", "abc", "nan", "inf"])
def test_targets_that_cannot_be_meant_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str], target: str
) -> None:
    line = refusal(["search", "model", f"--target-speedup={target}"], capsys)

    assert "target_speedup" in line
    assert not list(home.iterdir())


def test_all_offenders_are_named_at_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(
        ["search", "--target-speedup=0x", "--space=dept", "--workers=0", "--engine=troch"], capsys
    )

    assert all(
        name in line for name in ("target_speedup", "'depth'", "workers", "'torch'", "MODEL")
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("model: [", "not YAML"),
        ("- 1\n- 2\n", "mapping"),
        ("modle: x\n", "did you mean 'model'"),
        ("model: 3\n", "model"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("", "mapping"),
    ],
)
def test_bad_yaml_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], text: str, part: str
) -> None:
    (home / "autocompress.yaml").write_text(text, encoding="utf-8")

    line = refusal(["search", "--target-speedup=2x"], capsys)

    assert part in line
    assert [path.name for path in home.iterdir()] == ["autocompress.yaml"]


@pytest.mark.parametrize(
    ("command", "reader"),
    [
        (["search", "--spec=own.yaml"], "autocompress.pipeline.study.start"),
        (["profile", "--spec=own.yaml"], "autocompress.pipeline.study.profile"),
        (
            ["schedule", "add", "own.yaml", "--cron=0 2 * * *"],
            "autocompress.service.nightly.Settings",
        ),
        (["sweep", "own.yaml"], "autocompress.service.sweep.run_sweep"),
    ],
    ids=["search", "profile", "schedule", "sweep"],
)
def test_every_file_of_settings_reads_patterns_of_zeros_as_text(
    home: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], reader: str
) -> None:
    lines = ["model: m", "target_bits: 4", "space: [sparsity]"]
    varied = ["vary: {sparsities: [2:4, 4:8]}"] if command[0] == "sweep" else ["sparsities: [2:4]"]
    (home / "own.yaml").write_text("\n".join(lines + varied), "utf-8")
    read: list[tuple[str, ...]] = []
    known = spec_values.names

    def names(value: object, what: str) -> list[str]:
        found = known(value, what)
        if what == "sparsities":
            read.append(tuple(found))
        return found

    def stop(*_: object) -> None:
        raise SpecError("enough")

    monkeypatch.setattr(spec_values, "names", names)
    monkeypatch.setattr(reader, stop)

    assert commands.main(command) == 2

    assert {*read} == ({("2:4",), ("4:8",)} if varied[0].startswith("vary") else {("2:4",)})


@pytest.mark.parametrize(
    ("told", "targets"),
    [
        ("target-latency: 20ms", {"target_latency": 20.0}),
        ("target_bytes: 50%\ntarget_bits: 4", {"target_bits": 4.0}),
        ("target_speedup: 1.5x", {"target_speedup": 1.5}),
        ("target_speedup: null", {"target_speedup": 2.0}),
    ],
)
def test_a_profile_is_for_the_targets_of_a_file_or_for_twice_the_speed(
    home: Path, monkeypatch: pytest.MonkeyPatch, told: str, targets: dict[str, object]
) -> None:
    (home / "autocompress.yaml").write_text(f"model: m\n{told}\n", encoding="utf-8")
    given: list[SearchSpec] = []

    def stop(spec: SearchSpec, *_: object) -> None:
        given.append(spec)
        raise SpecError("enough")

    monkeypatch.setattr(study, "profile", stop)
    assert commands.main(["profile"]) == 2

    (spec,) = given
    assert targets.items() <= spec.targets.items()
    assert (spec.target_speedup is None) == ("target_speedup" not in targets)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--device=cuda", "--bits=4"], "--bits needs bits, but depth, width is searched"),
        (["--space=depth", "--group-size=32"], "--group-size needs bits, but depth is searched"),
        (["--space=depth", "--symmetric"], "--symmetric needs bits"),
        (["--space=sparsity,depth", "--quantizer=gptq"], "--quantizer needs bits"),
        (["--space=depth", "--per-linear"], "--per-linear needs bits or sparsity, but depth is "),
        (
            ["--sparsities=0.5", "--sparsity-step=8"],
            "--sparsities needs sparsity, --sparsity-step needs sparsity, but depth, width, bits ",
        ),
        (["--pruner=wanda"], "--pruner needs sparsity"),
        (["--kv-bits=4"], "--kv-bits needs kv, but depth, width, bits is searched: name all in"),
    ],
)
def test_flags_that_say_nothing_in_the_space_are_refused(
    home: Path, capsys: pytest.CaptureFixture[str], given: list[str], part: str
) -> None:
    line = refusal(["search", "m", "--target-speedup=1.5x", *given], capsys)

    assert part in line


def test_a_file_may_hold_values_for_other_spaces_which_the_report_does_not_repeat(
    home: Path,
) -> None:
    told = "model: m\ntarget_speedup: 1.5\nbits: 8,4\nper_linear: true\npruner: wanda\n"
    (home / "autocompress.yaml").write_text(told, encoding="utf-8")
    parse = flags.make_parser(commands.COMMANDS).parse_args

    spec = flags.spec_of(parse(["search", "--space=depth"]), {})
    said = conclusion.command(cast("Prepared", SimpleNamespace(spec=spec)))

    assert spec.pruner == "wanda"
    again = flags.spec_of(parse(shlex.split(said)[1:]), {})
    assert (again.model, again.targets, again.space) == (spec.model, spec.targets, ("depth",))


def test_missing_spec_file_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none.yaml" in refusal(["search", "--spec=none.yaml", "--target-speedup=2x"], capsys)


def test_missing_model_folder_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(["search", "./nowhere", "--target-speedup=2x"], capsys)

    assert "./nowhere" in line
    assert not list(home.iterdir())


def test_folder_without_a_model_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["search", str(tmp_path), "--target-speedup=2x"], capsys)

    assert "config.json" in line
    assert not list(home.iterdir())


def test_truncated_weights_are_refused(
    home: Path, tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llama, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])

    line = refusal(["search", str(broken), "--target-speedup=2x"], capsys)

    assert "model.safetensors" in line
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("content", "part"), [(b"", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"short", "sequences")]
)
def test_calibration_text_that_is_none_is_refused(
    home: Path,
    tmp_path: Path,
    tiny_llama: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    part: str,
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)

    line = refusal(
        ["search", str(tiny_llama), "--target-speedup=2x", f"--calibration={text}"], capsys
    )

    assert part in line
    assert not list(home.iterdir())


def test_missing_calibration_text_is_refused(
    home: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(
        ["search", str(tiny_llama), "--target-speedup=2x", "--calibration=none.txt"], capsys
    )

    assert "none.txt" in line


def test_unwritable_output_is_refused(
    home: Path, tmp_path: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way", encoding="utf-8")

    line = refusal(
        ["search", str(tiny_llama), "--target-speedup=2x", f"--output={file}/out"], capsys
    )

    assert str(file) in line
    assert not list(home.iterdir())


def test_unreachable_target_names_the_fastest_and_leaves_no_study(
    home: Path, tiny_llama: Path, tiny_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(
        [
            "search",
            str(tiny_llama),
            "--target-speedup=100x",
            f"--latency-table={tiny_table}",
            "--workload=1x8+4",
            "--context=16",
            "--workers=1",
        ],
        capsys,
    )

    assert "No candidate reaches 100x: the fastest" in line
    assert commands.main(["studies"]) == 0
    assert capsys.readouterr().out == ""
    assert [path.name for path in home.iterdir()] == [".autocompress"]


@pytest.mark.parametrize(
    ("verb", "flags", "part"),
    [
        ("profile", ("--engine=roofline:h100",), "there is nothing to profile"),
        (
            "search",
            ("--engine=roofline:h9",),
            "Known: torch, torch-compiled, llama.cpp, vllm, roofline:",
        ),
        (
            "search",
            ("--engine=roofline:l4", "--space=sparsity", "--target-speedup=2x"),
            "zeros and caches of few bits save no time",
        ),
    ],
)
def test_what_a_roofline_cannot_tell_is_refused(
    home: Path,
    tiny_llama: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    flags: tuple[str, ...],
    part: str,
) -> None:
    assert part in refusal([verb, str(tiny_llama), *flags], capsys)
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("content", "part"),
    [("{", "not JSON"), ("[]", "mapping"), ("{}", "Not a latency table"), (None, "Cannot read")],
)
def test_bad_latency_table_is_refused(
    home: Path,
    tmp_path: Path,
    tiny_llama: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    part: str,
) -> None:
    table = tmp_path / "table.json"
    if content is not None:
        table.write_text(content, encoding="utf-8")

    line = refusal(
        ["search", str(tiny_llama), "--target-speedup=2x", f"--latency-table={table}"], capsys
    )

    assert part in line
    assert not list(home.iterdir())


@pytest.mark.parametrize("command", ["resume", "report", "pareto"])
def test_unknown_study_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = refusal([command, "nothing"], capsys)

    assert "'nothing'" in line
    assert not list(home.iterdir())


def test_storage_that_is_no_database_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal(["studies", "--storage=nonsense"], capsys)


def test_study_name_that_is_taken_is_refused(
    home: Path, tiny_llama: Path, tiny_table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autocompress.store.study_store import create_study

    (home / ".autocompress").mkdir()
    create_study(flags.DEFAULT_STORAGE, "mine", {}).close()

    line = refusal(
        [
            "search",
            str(tiny_llama),
            "--target-speedup=2x",
            f"--latency-table={tiny_table}",
            "--workload=1x8+4",
            "--study=mine",
            "--context=16",
        ],
        capsys,
    )

    assert "autocompress resume mine" in line


@pytest.mark.parametrize(
    "flags",
    [
        ["export", "mine", "--format=decilm", "--new-study=taken"],
        ["retarget", "mine", "--target-bits=3", "--refine", "--new-study=taken"],
    ],
)
def test_what_leads_to_another_study_names_the_flag_that_says_its_name(
    home: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    for name in ("mine", "taken"):
        create_study("sqlite:///studies.db", name, {}).close()

    line = refusal([*flags, "--storage=sqlite:///studies.db"], capsys)

    assert line == (
        "autocompress: Study 'taken' exists already; continue it with `autocompress resume taken "
        "--storage sqlite:///studies.db` or choose another --new-study.\n"
    )
    assert [path.name for path in home.iterdir()] == ["studies.db"]


def test_the_way_on_from_a_prediction_names_its_storage(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retargeting, "answer", lambda *_: None)
    monkeypatch.setattr(retargeting, "to_text", lambda _: "")

    commands.main(["retarget", "mine", "--target-bits=3", "--storage=sqlite:///my studies.db"])

    assert capsys.readouterr().out == (
        "Search on from there, and have it measured: `autocompress retarget mine --target-bits 3 "
        "--refine --storage 'sqlite:///my studies.db'`.\n"
    )


def interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, study_exists: bool
) -> str:
    """Interrupt a search whose study exists by then, or does not; return what is said."""

    def start(_spec: SearchSpec, storage: str, name: str, *_: object) -> None:
        if study_exists:
            create_study(storage, name, {}).close()
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "start", start)
    told = ["search", "m", "--target-bits=4", "--study=mine", "--output=my out"]
    assert commands.main([*told, "--storage=sqlite:///s.db"]) == 130
    return capsys.readouterr().err


def test_an_interruption_says_all_that_going_on_needs(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert interrupted(monkeypatch, capsys, study_exists=True) == (
        "autocompress: interrupted; go on with `autocompress resume mine --storage sqlite:///s.db "
        "--output 'my out'`.\n"
    )


def test_an_interruption_before_there_is_a_study_names_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert interrupted(monkeypatch, capsys, study_exists=False) == "autocompress: interrupted.\n"
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("model", "name"),
    [(".", "home"), ("./", "home"), ("..", "up"), ("sub/..", "home"), ("a/b", "b"), ("b/", "b")],
)
def test_a_study_has_the_name_of_its_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, name: str
) -> None:
    (tmp_path / "up" / "home" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "up" / "home")

    assert model_name(model) == name
    assert default_study(model, 3) == f"decode-{name}-seed3"


def test_an_export_says_what_of(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(["export", "mine"], capsys) == (
        "autocompress: Give --format, for the winner, or --point, for another candidate.\n"
    )


def test_help_needs_no_torch(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["--help"])

    assert ended.value.code == 0
    assert "search" in capsys.readouterr().out


def test_told_events_are_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(as_json=True)

    lines.tell("study", {"study": "first", "model": "m"})
    lines.stage("levels")
    lines.tell("measured", {"speedup": 2.0, "low": 1.9, "high": 2.1, "target": 2.0})

    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["study", "stage", "measured"]
    assert {event["study"] for event in events} == {"first"}
    assert all(datetime.fromisoformat(event["at"]).tzinfo is not None for event in events)


@pytest.mark.parametrize(
    ("shares", "line"),
    [((), ""), ((0.934, 0.5, 0.7), "3 workers, busy 50% to 93% of the search\n")],
)
def test_workers_are_told_of_in_one_line(
    capsys: pytest.CaptureFixture[str], shares: Sequence[float], line: str
) -> None:
    rows: list[dict[str, Figure]] = [
        {"worker": "here 1", "jobs": 12, "busy": busy} for busy in shares
    ]

    Lines(as_json=False).tell("workers", {"workers": rows})

    assert capsys.readouterr().out == line


def test_an_evaluation_names_all_that_cannot_be_meant(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["evaluate", "model", "--workload=1x0+4", "--device=gpu"], capsys)

    assert "workload" in line
    assert "device" in line


@pytest.mark.parametrize("output", ["nowhere/judgement.json", "."])
def test_an_evaluation_that_cannot_be_written_is_refused_at_once(
    home: Path, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    line = refusal(["evaluate", "model", f"--output={output}"], capsys)

    assert "Cannot write" in line


@pytest.mark.parametrize(
    "flags", [["evaluate", "m", "--output=out"], ["profile", "m", "--output=out"]]
)
def test_a_file_in_a_folder_that_is_read_alone_is_refused_at_once(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
) -> None:
    # Root, who may run this, may write everywhere.
    monkeypatch.setattr("os.access", lambda *_: False)

    line = refusal(flags, capsys)

    assert line == "autocompress: Cannot write out: its folder is not writable.\n"


def test_an_evaluation_is_told_even_where_its_file_cannot_be_written_any_more(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(*_: object) -> SimpleNamespace:
        (home / "out").mkdir()
        return SimpleNamespace(to_json=lambda: {"kl": 0.5})

    monkeypatch.setattr(evaluating, "evaluate", evaluate)

    status = commands.main(["evaluate", "m", "--output=out", "--json"])

    said = capsys.readouterr()
    assert status == 2
    assert json.loads(said.out) == {"event": "evaluation", "kl": 0.5}
    assert said.err == "autocompress: Cannot write out: Is a directory.\n"


def test_an_evaluation_of_one_sequence_has_no_interval(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(["evaluate", "model", "--sequences=1"], capsys)

    assert "`sequences >= 2`" in line


def test_evaluate_by_vllm_needs_one(
    home: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/bin/python")

    line = refusal(["evaluate", str(tiny_llama), "--engine=vllm"], capsys)

    assert "vLLM is not installed" in line
    assert not list(home.iterdir())


@pytest.mark.parametrize(
    ("spec", "way"),
    [
        ({}, "try `autocompress resume mine`"),
        ({"kind": "decode"}, "try the command that began it, with --study mine"),
        ({"kind": "joint"}, "try the command that began it, with --study mine"),
    ],
)
def test_a_study_without_a_report_says_how_it_goes_on(
    home: Path, capsys: pytest.CaptureFixture[str], spec: dict[str, Json], way: str
) -> None:
    create_study("sqlite:///studies.db", "mine", spec).close()

    assert way in refusal(["report", "mine", "--storage=sqlite:///studies.db"], capsys)
