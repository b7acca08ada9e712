"""The joint search on a tiny model: its parts, its page, going on, and bad input refused."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.cli import commands
from autocompress.cli.observers import make_observer
from autocompress.errors import SpecError
from autocompress.export.decoding_report import DecodingStanding
from autocompress.export.evaluation import Estimate
from autocompress.export.joint_report import JointOption, JointReport, JointVerdict, to_markdown
from autocompress.pipeline.joint import (
    Told,
    Turn,
    answered_faster,
    compression_of,
    decoding_of,
    next_speedup,
    pick,
)
from autocompress.pipeline.study import start
from autocompress.search.racing import Answered, Objective, Rules
from autocompress.spec import from_mapping
from autocompress.store.study_store import list_studies, open_study
from tests.export.test_decoding_report import report as example_decoding
from tests.refusals import refusal
from tests.search.test_racing import answered

STORAGE = "sqlite:///studies.db"
OUT = Path("out")


@pytest.fixture
def flags(
    tiny_llama: Path,
    tiny_table: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """A fast joint search, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = [
        {"prompt": f"the number {n} and the", "references": ["number"], "metric": "f1"}
        for n in range(48)
    ]
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [
        *("search", str(tiny_llama), "--space", "depth,decoding", "--target-speedup", "1.2x"),
        *("--latency-table", str(tiny_table), "--workload", "1x8+4", "--context", "16"),
        *("--calibration", str(calibration), "--max-tokens", "20000", "--workers", "1"),
        *("--timing-processes", "2"),
        *("--tasks", "tasks.jsonl", "--decoding-fix", "max_new_tokens=6"),
        *("--decoding-tune", "draft,draft_tokens,batch", "--decoding-trials", "3"),
        *("--decoding-items", "8", "--storage", STORAGE, "--study", "own", "--output", "out"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_joint_search_holds_its_options_against_dense_and_goes_on(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(flags) == 0

    found: dict[str, Any] = json.loads(Path("out/joint.json").read_text("utf-8"))
    page = Path("out/joint.md").read_text("utf-8")
    asked = [own["asked_speedup"] for own in found["options"]]
    assert asked[0] == 1.2
    assert asked[-1] == 1
    assert found["options"][0]["draft"] is None
    assert found["options"][-1]["draft"] == found["options"][0]["model"]
    assert all(own["decoding"] in page for own in found["options"])
    # The dense model drafted for says what it would say alone.
    assert found["options"][-1]["quality_difference"]["value"] == 0
    assert Path("out/decode.py").is_file()
    names = {row.name: row for row in list_studies(STORAGE)}
    # A search of each compressed model, one of each decoding, and the joint one.
    assert len(names) == 2 * len(asked)
    answers, pages = {}, written()
    for name in names:
        store = open_study(STORAGE, name)
        answers[name] = store.answers()
        store.close()

    assert commands.main(flags) == 0

    assert written() == pages
    for name, before in answers.items():
        store = open_study(STORAGE, name)
        assert store.answers() == before
        store.close()
    capsys.readouterr()
    assert commands.main(["report", "own", "--storage", STORAGE]) == 0
    told = capsys.readouterr().out
    assert "compression asked for" in told
    assert all(f"| {own:.2f}x |" in told for own in asked)


def written() -> dict[str, str]:
    """Return the texts that a joint search leaves, by file, without those of its parts."""
    return {path.name: path.read_text("utf-8") for path in OUT.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (("--space", "decoding"), "alone, by `autocompress decode`"),
        (("--target-bytes", "50%"), "give --target-speedup alone"),
        (("--engine", "roofline:h100"), "decodings are measured by torch"),
        (("--space", "depth"), "tasks: `decoding` must be in the space."),
        (("--decoding-trials", "1"), "decoding_trials: `2 <= value"),
        (("--decoding-fix", "stop=never"), "fix: stop must be one of"),
        (("--decoding-fix", "draft=both"), "fix: draft must be one of"),
        (("--decoding-tune", "draft,top_k"), "tune: top_k acts only where do_sample is True"),
        (("--calibration", "nowhere.txt"), "nowhere.txt"),
        (("--latency-table", "nowhere.json"), "nowhere.json"),
    ],
)
def test_what_cannot_be_searched_jointly_is_told_in_one_line(
    flags: list[str],
    changed: Sequence[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert why in refusal([*flags, *changed], capsys)
    assert not Path("studies.db").exists()


def test_the_part_that_compresses_knows_nothing_of_decoding() -> None:
    plain = {"model": "m", "target_speedup": 2, "space": "depth,width"}
    joint = from_mapping(
        plain
        | {"space": "depth,width,decoding", "tasks": "t.jsonl", "decoding_trials": 9}
        | {"allow_python": True}
    )

    assert compression_of(joint) == from_mapping(plain)
    assert from_mapping(joint.to_json()) == joint


@pytest.mark.parametrize("metric", ["pass@2", "python:own.py:score"])
def test_tasks_that_run_python_are_read_where_it_is_allowed(
    flags: list[str], metric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row: dict[str, object] = {"prompt": "def f():\n    return", "metric": metric}
    row |= {"tests": "assert f() == 1"} if metric == "pass@2" else {"references": ["1"]}
    Path("own.py").write_text("def score(answer, references):\n    return 1.0\n", "utf-8")
    Path("tasks.jsonl").write_text(json.dumps(row) + "\n", "utf-8")

    assert "see `--allow-python`" in refusal(flags, capsys)
    # Read, and then told to be too few.
    assert "`items >= 8` must hold" in refusal([*flags, "--allow-python"], capsys)


def test_a_study_of_a_compressed_model_takes_no_decoding(tmp_path: Path) -> None:
    spec = from_mapping({"model": "m", "target_speedup": 2, "space": "depth,decoding"})
    storage = f"sqlite:///{tmp_path}/studies.db"

    with pytest.raises(SpecError, match="this study searches for compressed models alone"):
        start(spec, storage, "own", tmp_path / "out", make_observer(as_json=True))

    assert list_studies(storage) == []


def test_a_schedule_takes_no_joint_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("{model: m, target_speedup: 2, space: 'bits,decoding'}", "utf-8")

    line = refusal(["schedule", "add", "own.yaml", "--cron=0 2 * * *"], capsys)

    assert "a schedule searches for compressed models alone" in line


def test_decoding_beside_nothing_that_compresses_is_refused() -> None:
    with pytest.raises(SpecError, match="searched beside what compresses"):
        from_mapping({"model": "m", "target_speedup": 2, "space": "decoding"})


def test_compression_is_asked_for_what_decoding_leaves() -> None:
    assert next_speedup([], 2.0) == 2.0
    # Both were surely a quarter too fast together.
    assert next_speedup([Turn(2.0, 2.5)], 2.0) == 1.6
    # And then too slow.
    assert next_speedup([Turn(2.0, 2.5), Turn(1.6, 1.8)], 2.0) == 1.78
    # Decoding alone is fast enough, or nothing new would be asked.
    assert next_speedup([Turn(1.5, 3.0)], 1.5) == 1.0
    assert next_speedup([Turn(2.0, 2.05)], 2.0) == 1.0
    # The dense model is the last.
    assert next_speedup([Turn(2.0, 2.5), Turn(1.0, 1.2)], 2.0) is None


def test_what_a_winner_keeps_is_told_by_its_answers_beside_dense() -> None:
    def told(name: str, decoding: str, seconds: float) -> DecodingStanding:
        estimate = Estimate(seconds, (seconds, seconds))
        return DecodingStanding(name, decoding, {"seconds": estimate}, 100, None)

    others = (told("abcd", "top_k=1", 0.5), told("efgh", "top_k=2", 0.1))
    untuned, dense = told("untuned", "untuned", 1.0), told("against", "untuned", 2.0)
    report = dataclasses.replace(example_decoding(()), winner={"top_k": 1})

    validated = dataclasses.replace(report, validation=(*others, untuned, dense))
    alone = dataclasses.replace(report, validation=(*others, untuned))

    assert answered_faster(validated) == 4.0
    # The dense model itself is held against nothing else: nothing is asked after it.
    assert answered_faster(alone) == 1.0


def test_the_least_compressed_wins_that_keeps_the_speedup_and_is_not_surely_worse() -> None:
    lucky, fair, slow = (
        answered(score=score, seconds=seconds, seed=seed)
        for score, seconds, seed in ((0.501, 0.3, 1), (0.5, 0.4, 2), (0.9, 0.9, 3))
    )
    asked = [3.0, 2.0, 1.0]

    def picked(*tuned: Answered, target: float = 2.0) -> int:
        return pick(Told(answered(), tuned, tuned), asked, target, 0)

    assert picked(lucky, fair, slow) == 1
    assert picked(lucky, answered(score=0.3, seconds=0.4, seed=2), slow) == 0
    # What misses the target least, where all do.
    assert picked(lucky, fair, slow, target=5.0) == 0


def test_what_no_model_reaches_is_asked_for_in_smaller_parts() -> None:
    assert next_speedup([Turn(9.0, None)], 9.0) == 3.0
    assert next_speedup([Turn(9.0, None), Turn(3.0, 4.0)], 9.0) == 6.75
    assert next_speedup([Turn(9.0, None), Turn(3.0, 4.0), Turn(6.75, None)], 9.0) == 1.0
    assert next_speedup([Turn(1.08, None)], 1.08) == 1.0


@given(
    st.floats(1.05, 20),
    st.lists(st.one_of(st.none(), st.floats(0.3, 40)), min_size=12, max_size=12),
)
def test_turns_end_with_the_dense_model(target: float, came: list[float | None]) -> None:
    turns: list[Turn] = []
    for answers in came:
        asked = next_speedup(turns, target)
        if asked is None:
            break
        assert asked >= 1
        turns.append(Turn(asked, answers))

    assert next_speedup(turns, target) is None
    assert [own.asked for own in turns].count(1.0) == 1
    assert len({own.asked for own in turns}) == len(turns)


def option(speedup: float, low: float, score: float) -> JointOption:
    one = Estimate(1.0, (0.9, 1.1))
    return JointOption(
        speedup, "m", None, "untuned", one, one, Estimate(low + 0.1, (low, low + 0.2)),
        one, one, Estimate(score, (score - 0.1, score + 0.1)), one, None,
    )  # fmt: skip


def report(low: float) -> JointReport:
    one = Estimate(0.4, (0.3, 0.5))
    options = (option(2.0, 2.1, -0.2), option(1.0, low, 0.0))
    return JointReport(
        "s",
        "m",
        "t",
        "h",
        2.0,
        1,
        {"stop": "line"},
        options,
        one,
        one,
        8,
        8,
        4,
        0,
        {},
        90.0,
        None,
        30,
    )


def test_a_target_is_met_by_the_whole_interval_of_the_winner() -> None:
    assert report(2.0).verdict is JointVerdict.MET
    assert report(1.99).verdict is JointVerdict.MISSED


def test_a_report_comes_back_from_json_and_names_its_winner() -> None:
    own = report(2.0)

    assert JointReport.from_json(own.to_json()) == own
    assert to_markdown(own).count("**winner**") == 1


def test_a_page_tells_what_each_part_might_spend() -> None:
    one = report(2.0)
    both = dataclasses.replace(one, compression_tokens=20_000)
    neither = dataclasses.replace(one, compression_seconds=None)

    assert "compressed model might spend 90 seconds and 20,000 tokens, and" in to_markdown(both)
    assert "compressed model had no limit, and each for a decoding tried 30" in to_markdown(
        neither
    )


def test_the_budget_is_that_of_compression() -> None:
    plain = {"model": "m", "target_speedup": 2, "space": "depth,decoding"}
    spec = from_mapping(plain | {"budget_seconds": "1m", "max_tokens": "20k"})

    compression = compression_of(spec)
    decoding = decoding_of(spec, "m", None, Rules((Objective.QUALITY,)))

    assert (compression.budget_seconds, compression.max_tokens) == (60.0, 20_000)
    assert (decoding.budget_seconds, decoding.max_tokens) == (None, None)
    assert decoding.trials == spec.decoding_trials
