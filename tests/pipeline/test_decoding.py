"""The search for a decoding on a tiny model: found, told, resumed, and bad input refused."""

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from autocompress.cli import commands
from autocompress.errors import SpecError
from autocompress.pipeline.decoding_asked import decode_asked, space_of
from autocompress.pipeline.decoding_shown import shown_decoding
from autocompress.search.racing import Objective
from autocompress.spaces.decoding import PARAMETERS
from autocompress.store.mirror import Chosen, Mirror
from autocompress.store.study_store import list_studies, open_study
from autocompress.trial import Split
from autocompress.workers.tune import in_ray
from tests.refusals import refusal
from tests.tiny_models import TinyModels

STORAGE = "sqlite:///studies.db"
TASKS = 48
OWN_METRIC = """
def score(answer, references):
    return len(answer) % 2
"""


@pytest.fixture(scope="module")
def searched(
    tiny_models: TinyModels, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """Search once, in the folder `out`; yield the flags."""
    with pytest.MonkeyPatch.context() as patch, in_ray(None):
        patch.chdir(tmp_path_factory.mktemp("searched"))
        flags = given(tiny_models.folder("llama"), patch)
        assert commands.main(flags) == 0
        yield flags


@pytest.fixture
def flags(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A search that is not run yet, in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    return given(tiny_llama, monkeypatch)


def given(model: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Write tasks into the working folder; return the flags of a fast search."""
    patch.setenv("OMP_NUM_THREADS", "1")
    Path("own.py").write_text(OWN_METRIC, "utf-8")
    rows = [
        {"prompt": f"the number {n} and the", "references": ["number"], "metric": metric}
        for n, metric in zip(range(TASKS), itertools.cycle(["f1", "python:own.py:score"]))
    ]
    choices = [
        {"prompt": f"{n} is", "references": [" odd"], "choices": [" odd", " even"]}
        for n in range(8)
    ]
    write([*rows, *choices])
    return [
        *("decode", str(model), "--tasks", "tasks.jsonl", "--storage", STORAGE),
        *("--tune", "draft,draft_tokens,batch", "--fix", "max_new_tokens=6"),
        *("--objective", "seconds", "--trials", "4", "--items", "8"),
        *("--study", "own", "--output", "out", "--allow-python"),
    ]


def write(rows: Sequence[Mapping[str, object]]) -> None:
    """Write tasks."""
    Path("tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def told() -> dict[str, Any]:
    """Return what decoding.json holds."""
    found: dict[str, Any] = json.loads(Path("out", "decoding.json").read_text("utf-8"))
    return found


@pytest.mark.usefixtures("searched")
def test_a_search_tells_its_winner_beside_the_untuned() -> None:
    found = told()

    assert found["verdict"] in ("BETTER DECODING FOUND", "NO BETTER DECODING FOUND")
    assert (found["trials"], found["search_items"], found["report_items"]) == (4, 8, 19)
    # None of them: a metric of the user's own is found from where Ray runs trials too.
    assert not found["failed"]
    standings = found["standings"]
    assert standings[-1]["decoding"] == "max_new_tokens=6"
    assert {"quality", "seconds", "memory"} <= set(standings[0]["values"])
    page = Path("out/decoding.md").read_text("utf-8")
    assert all(own["decoding"] in page for own in standings)
    assert found["choices"]["items"] == 8
    assert "chooses right in" in page
    # Greedy answers are the same however they are drafted.
    assert len({own["values"]["quality"]["value"] for own in standings}) == 1


@pytest.mark.usefixtures("searched")
def test_every_decoding_that_was_measured_is_told_once() -> None:
    found = told()
    tried = found["tried"]

    assert len({own["decoding"] for own in tried}) == len(tried)
    assert len(tried) == found["trials"] - len(found["failed"])
    assert sum(not own["read_all"] for own in tried) == found["pruned"]
    for own in tried:
        assert own["read_all"] == (own["items"] == found["search_items"])
        assert own["met"]


@pytest.mark.usefixtures("searched")
def test_what_read_all_items_is_expected_as_it_was_measured() -> None:
    whole = [own for own in told()["tried"] if own["read_all"]]

    assert whole
    for own in whole:
        # A sum over itself is one but for rounding.
        assert own["expected_mean_score"] == pytest.approx(own["mean_score"], abs=1e-12)
        assert own["expected_seconds"] == pytest.approx(own["seconds"], rel=1e-12)


@pytest.mark.usefixtures("searched")
def test_a_search_leaves_its_figure_beside_its_page() -> None:
    assert "](decoding.svg)" in Path("out/decoding.md").read_text("utf-8")
    assert Path("out/decoding.svg").read_text("utf-8").startswith("<svg")


@pytest.mark.usefixtures("searched")
def test_what_engines_are_told_says_the_winner() -> None:
    assert GenerationConfig.from_pretrained("out").max_new_tokens == 6
    vllm = json.loads(Path("out/vllm.json").read_text("utf-8"))
    llama_cpp = json.loads(Path("out/llama-cpp.json").read_text("utf-8"))
    assert vllm["sampling_parameters"]["max_tokens"] == 6
    assert llama_cpp["flags"][:2] == ["--predict", "6"]
    said = subprocess.run(
        [sys.executable, "out/decode.py", "the number 3"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "tokens a second" in said.stderr


def test_a_search_that_is_begun_again_measures_nothing_twice(searched: list[str]) -> None:
    store = open_study(STORAGE, "own")
    before, first = store.answers(), told()

    assert commands.main(searched) == 0

    assert store.answers() == before
    assert {record.split for record in before} == {Split.SEARCH}
    # What has ended is written out again as it was.
    assert told() == first
    assert store.row().report is not None
    store.close()


def test_a_limit_that_no_decoding_keeps_is_told_as_missed(
    searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    own = [*searched, "--study", "limited", "--output", "limited", "--trials", "1"]
    own += ["--storage", "sqlite:///limited.db", "--limits", "seconds=0.001ms"]

    assert commands.main(own) == 0

    found = json.loads(Path("limited", "decoding.json").read_text("utf-8"))
    assert (found["verdict"], found["met"]) == ("CONSTRAINT MISSED", False)
    assert "CONSTRAINT MISSED" in capsys.readouterr().err


def test_the_report_is_told_again_from_the_store(
    searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    assert commands.main(["report", "own", "--storage", STORAGE]) == 0

    # No figure lies beside what is printed.
    printed = capsys.readouterr().out.splitlines()
    page = Path("out/decoding.md").read_text("utf-8").splitlines()
    at = next(at for at, line in enumerate(page) if line.startswith("!["))
    assert printed == [*page[:at], *page[at + 4 :]]
    assert searched


def test_a_report_that_is_written_again_has_its_figure(searched: list[str]) -> None:
    flags = ["report", "own", "--storage", STORAGE, "--output", "again"]

    assert commands.main(flags) == 0

    for name in ("decoding.md", "decoding.json", "decoding.svg"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()
    assert searched


@pytest.mark.usefixtures("searched")
def test_the_dashboard_shows_each_decoding_with_what_acts(tmp_path: Path) -> None:
    shown = shown_decoding(STORAGE, "own", 100, tmp_path)

    assert len(shown.trials) == 4
    assert all(trial.is_whole for trial in shown.trials)
    assert set(shown.files) == {"decoding.json", "decoding.md", "decoding.png"}
    for trial in shown.trials:
        drafts = trial.parameters["draft"]
        assert isinstance(drafts, Chosen)
        assert ("draft_tokens" in trial.parameters) == (drafts.value != "none")
        assert ("batch" in trial.parameters) == (drafts.value == "none")
    mirror = Mirror(f"sqlite:///{tmp_path}/mirror.db", tmp_path / "artifacts")
    assert mirror.show(shown) == 4
    assert mirror.show(shown) == 0


@pytest.mark.parametrize("command", ["resume", "pareto", "retarget", "export"])
def test_what_asks_for_a_compressed_model_says_that_there_is_none(
    searched: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"retarget": ["--target-speedup", "2x"], "export": ["--format", "gguf"]}
    flags = [command, "own", "--storage", STORAGE, *more.get(command, [])]

    line = refusal(flags, capsys)

    assert "decod" in line
    assert searched


def test_a_study_of_another_search_is_not_gone_on_with(
    searched: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal([*searched, "--seed", "1"], capsys)

    assert "Study 'own' exists and is another search" in line
    assert len(list_studies(STORAGE)) == 1


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--objective", "speed"], "objective: one or two of quality, seconds"),
        (["--objective", "cost,cost"], "objective: one or two of"),
        (["--tune", "warmth"], "tune: speculation, sampling"),
        (["--fix", "stop=never"], "fix: stop must be one of none, line, repeat, but got never"),
        (["--fix", "stop"], "fix: name=value of a parameter of decoding must hold"),
        (["--fix", "top_k=many"], "fix: top_k: a whole number must hold, but got 'many'"),
        (["--fix", "batch=0"], "fix: batch: `1 <= value"),
        (["--fix", "min_p=-0.1"], "fix: min_p: `0 <= value <= 1` must hold, but got -0.1"),
        (["--fix", "temperature=nan"], "fix: temperature: `0 < value"),
        (["--fix", "cache_bits=2"], "fix: cache_bits must be one of 16, 8, 4, but got 2"),
        (["--fix", "draft=model"], "fix: draft must be one of exit, lookup, none, skip for this"),
        (["--fix", "draft=exit,draft_layers=4"], "fix: `draft_layers < 3` must hold"),
        (
            ["--tune", "speculation,beams,cache", "--fix", "temperature=0.5"],
            "fix: temperature acts only where do_sample is True, which never holds here",
        ),
        (
            ["--fix", "do_sample=true,num_beams=4"],
            "fix: num_beams acts only where do_sample is False and draft is none, which never",
        ),
        (["--tune", "draft,temperature"], "tune: temperature acts only where do_sample is True"),
        (["--tune", "batch,best-of"], "tune: best_of acts only where do_sample is True and draft"),
        (["--quality-drop", "2"], "quality-drop: `-1 < value <= 1` must hold"),
        (["--limits", "speed=1"], "limits: name=value of quality, seconds"),
        (["--limits", "seconds"], "limits: name=value of quality, seconds"),
        (["--limits", "memory=much"], "limits: memory: a size such as 8GB must hold"),
        (["--limits", "seconds=2"], "limits: seconds: a time with its unit must hold: write 2s"),
        (["--limits", "first-token=0.5"], "with its unit must hold: write 0.5s or 0.5ms"),
        (["--limits", "seconds=soon"], "limits: seconds: a time such as 20ms must hold"),
        (["--limits", "cost=0"], "limits: cost: `0 < value <= 1e+15` must hold, but got 0"),
        (["--strategy", "guess"], "strategy: one of tpe, random, grid"),
        (["--strategy", "grid", "--tune", "sampling"], "`decodings <= 10000` must hold of a grid"),
        (["--items", "4"], "items: `8 <= value"),
        (["--tune", "draft_ngram", "--fix", "draft=none"], "`two decodings at least` must hold"),
        (["--draft", "nowhere"], "nowhere"),
        (["--tasks", "nothing.jsonl"], "Cannot read tasks nothing.jsonl"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(
    flags: list[str], more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why in refusal([*flags, *more], capsys)
    assert not Path("studies.db").exists()
    assert not Path("out").exists()


def test_tasks_of_choices_alone_are_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": f"{n} is", "references": [" odd"], "choices": [" odd", " even"]}
        for n in range(40)
    ]
    write(rows)

    assert "all items are choices" in refusal(flags, capsys)


def asked(**given: object) -> dict[str, object]:
    return {"model": "m", **given}


def test_without_flags_all_but_lengths_is_tuned_for_quality_a_second() -> None:
    found = decode_asked(asked())
    space = space_of(found, layers=12)

    menus = {own.name: own.menu for own in space.parameters}
    assert found.rules.objectives == (Objective.QUALITY_PER_SECOND,)
    assert menus["max_new_tokens"] == (64,)
    assert menus["stop"] == ("none",)
    assert menus["draft"] == ("none", "lookup", "exit", "skip")
    assert menus["compiled"] == (False,)
    assert menus["batch"] == (1, 2, 4, 8)


def test_limits_are_read_as_people_say_them() -> None:
    limits = "seconds=80ms,first-token=2s,memory=2GB,tokens-per-second=200,quality=0.3,cost=40"

    found = decode_asked(asked(limits=limits)).rules.limits

    assert found == {
        Objective.SECONDS: 0.08,
        Objective.TO_FIRST: 2.0,
        Objective.MEMORY: 2e9,
        Objective.TOKENS_PER_SECOND: 0.005,
        Objective.QUALITY: pytest.approx(0.7),
        Objective.COST: 40,
    }


def test_a_given_draft_may_be_drawn() -> None:
    space = space_of(decode_asked(asked(draft="d")), layers=12)

    assert "model" in next(own.menu for own in space.parameters if own.name == "draft")


def test_no_draft_has_as_many_layers_as_the_model() -> None:
    space = space_of(decode_asked(asked()), layers=3)
    layers = next(own.menu for own in space.parameters if own.name == "draft_layers")

    assert set(layers) == {1, 2}
    one = space_of(decode_asked(asked()), layers=1)
    assert next(own.menu for own in one.parameters if own.name == "draft") == ("none", "lookup")


def test_fixed_values_hold_for_all() -> None:
    space = space_of(decode_asked(asked(fix="top_k=7,do_sample=true,stop=line")), layers=12)

    assert all(
        space.values(own).get("stop") == "line" for own in [space.canonical(space.genotype({}))]
    )
    assert next(own.menu for own in space.parameters if own.name == "top_k") == (7,)


@pytest.mark.parametrize(
    ("tune", "fix"),
    [
        ("sampling", "temperature=0.5"),
        ("speculation", "do_sample=true,min_p=0,top_k=0"),
        ("sampling,best_of", "draft=none,selector=majority"),
        (None, "draft=lookup"),
    ],
)
def test_what_acts_beside_some_values_may_be_fixed(tune: str | None, fix: str) -> None:
    found = decode_asked(asked(tune=tune, fix=fix))
    menus = {own.name: own.menu for own in space_of(found, layers=12).parameters}

    assert {name: menus[name] for name in found.fixed} == {
        name: (value,) for name, value in found.fixed.items()
    }


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(SpecError, match=r"objective: .* trials: .* budget: "):
        decode_asked(asked(objective="x", trials="0", budget="soon"))


def test_every_parameter_but_compiled_is_in_a_group() -> None:
    space = space_of(
        decode_asked(
            asked(draft="d", tune="speculation,sampling,best-of,beams,cache,batch,length,compiled")
        ),
        layers=12,
    )

    assert [own.menu for own in space.parameters] == [own.menu for own in PARAMETERS]
