"""The search for a metric on a tiny model: found, told, resumed, and bad input refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autocompress.cli import commands
from autocompress.errors import ExportError, SpecError
from autocompress.evaluators.metric_losses import sparse
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.rankings import Rankings
from autocompress.pipeline import metric
from autocompress.pipeline.metric_journal import MetricJournal
from autocompress.pipeline.metric_measuring import open_evaluator
from autocompress.pipeline.prepared import prepare
from autocompress.spaces.expression_trees import parse
from autocompress.spaces.known_metrics import KNOWN_METRICS
from autocompress.spaces.settings import WeightSetting
from autocompress.spec import from_mapping
from autocompress.trial import Fidelity, Split
from autocompress.workers.base import BuildJob, Shard
from tests.operators.layers import random_layer, settings
from tests.refusals import refusal

EVALUATIONS = 20


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are added in one order, as in a process of its own."""
    torch.set_num_threads(1)


@pytest.fixture
def flags(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """A fast search; its output is `out`, of the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metric, "SELECTION", 8)
    monkeypatch.setattr(metric, "REPORT", 8)
    return [
        *("metric", str(tiny_llama), "--calibration", str(calibration), "--context", "16"),
        *("--sparsities", "0.5,2:4", "--tested-sparsities", "0.7"),
        *("--evaluations", str(EVALUATIONS)),
    ]


def run(flags: list[str], folder: str = "out") -> dict[str, object]:
    """Search; return what metric.json holds."""
    assert commands.main([*flags, "--output", folder]) == 0
    found: dict[str, object] = json.loads(Path(folder, "metric.json").read_text("utf-8"))
    return found


def test_a_search_tells_its_winner_beside_all_known_metrics(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(flags)

    page = Path("out/metric.md").read_text("utf-8")
    winner = found["winner"]
    assert isinstance(winner, dict)
    rankings = Rankings()
    known = {rankings(parse(text)) for text in KNOWN_METRICS.values()}
    assert rankings(parse(winner["expression"])) not in known
    assert found["evaluations"] == EVALUATIONS
    assert set(winner["selection"]) == {"0.5", "2:4"}
    assert set(winner["report"]) == {"0.5", "2:4", "0.7"}
    assert all(name in page for name in KNOWN_METRICS)
    assert f"--pruner '{winner['expression']}'" in page
    assert str(found["verdict"]) in capsys.readouterr().out


def test_a_known_metric_that_has_no_value_here_is_told_and_ends_nothing(
    flags: list[str], tiny_llama: Path, tmp_path: Path
) -> None:
    pruned = shutil.copytree(tiny_llama, tmp_path / "pruned")
    weights = pruned / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.0.mlp.down_proj.weight"][:, 0] = 0.0
    save_file(tensors, weights, {"format": "pt"})
    flags[1] = str(pruned)

    found = run(flags)

    assert found["undefined"] == ["ria"]
    assert found["winner"] is not None
    assert "Not measured, for they have no value for some weights: ria." in Path(
        "out/metric.md"
    ).read_text("utf-8")


def test_the_winner_builds_what_a_search_of_sparsity_asks_for(flags: list[str]) -> None:
    winner = run(flags)["winner"]

    assert isinstance(winner, dict)
    weight, statistics = random_layer(8, 64)
    gradients = torch.rand_like(weight)
    pruner = SymbolicMetric(winner["expression"])
    built = pruner.build(
        weight, type(statistics)(statistics.hessian, gradients), settings("s0.5", "s2:4")
    )
    assert len(built) == 2


def test_a_search_by_a_formula_loses_what_the_search_for_it_measured(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    formula, setting = "abs(W) * sqrt(X) * G", WeightSetting(sparsity=0.5)
    spec = from_mapping(
        {"model": str(tiny_llama), "calibration": str(calibration), "context": 16, "seed": 3}
        | {"space": "sparsity", "sparsities": "0.5", "target_bits": 16, "pruner": formula}
    )
    prepared = prepare(spec)
    fidelity = Fidelity(Split.SEARCH, 0, 0, 4)

    (expected,) = open_evaluator(prepared).measure(formula, [setting], fidelity)
    session = prepared.session_plan("weights")()
    session.build(BuildJob((0, 1, 2)))
    (found,) = session.measure(Shard((sparse(prepared.space, setting),), fidelity))

    assert found == expected


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--weights-bytes", "20KB"], "pruner: a model that is streamed has no gradients"),
        (
            ["--recover", "1000", "--space", "width,sparsity"],
            "pruner: a winner is trained without",
        ),
    ],
)
def test_formulas_of_gradients_are_refused_where_there_are_none(
    flags: list[str], capsys: pytest.CaptureFixture[str], changed: list[str], told: str
) -> None:
    search = ["search", *flags[1:6], "--space", "sparsity", "--target-bits", "16"]

    assert told in refusal([*search, "--pruner", "abs(W) * G", *changed], capsys)


def test_a_killed_search_begun_again_ends_as_one_that_was_not(flags: list[str]) -> None:
    whole = run(flags)
    journal = Path("out/evaluations.jsonl").read_text("utf-8")

    for share in (0.2, 0.7):
        Path("again").mkdir(exist_ok=True)
        for left in Path("again").iterdir():
            left.unlink()
        # A kill in the middle of a line.
        Path("again/evaluations.jsonl").write_text(journal[: int(share * len(journal))], "utf-8")

        assert run(flags, "again") == whole
        assert Path("again/evaluations.jsonl").read_text("utf-8") == journal


def test_a_finished_search_is_told_again_without_a_model(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(flags)
    monkeypatch.setattr("autocompress.pipeline.metric_measuring.open_evaluator", None)

    assert run(flags) == whole


def test_an_interrupted_search_says_how_to_go_on(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autocompress.pipeline.metric_measuring.open_evaluator", interrupt)

    assert commands.main(flags) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--seed", "1"], "holds a search with another seed"),
        (["--sparsities", "0.5"], "holds a search with another sparsities"),
        (["--context", "24"], "holds a search with another calibration, context"),
    ],
)
def test_a_folder_goes_on_with_its_own_search_alone(
    flags: list[str], capsys: pytest.CaptureFixture[str], changed: list[str], told: str
) -> None:
    run(flags)

    assert told in refusal([*flags, "--output", "out", *changed], capsys)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--sparsities", "1.5"], "sparsities: a sparsity such as 0.5 or 2:4 must hold"),
        (["--sparsities", "2:5"], "but the 5 of 2:5 does not divide q (32 columns)"),
        (["--tested-sparsities", "x"], "sparsities: a sparsity such as 0.5"),
        (["--evaluations", "6"], "`evaluations > 6` must hold"),
        (["--seed", "-1"], "seed:"),
        (["--calibration", "gone.txt"], "Cannot read text gone.txt"),
        (["--evaluations", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    flags: list[str], capsys: pytest.CaptureFixture[str], changed: list[str], told: str
) -> None:
    assert told in refusal([*flags, "--output", "out", *changed], capsys)
    assert not Path("out").exists()


def test_a_model_that_is_not_there_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "No model folder at ./gone" in refusal(["metric", "./gone", *flags[2:]], capsys)


def test_a_journal_keeps_what_was_added(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    MetricJournal.open(path, {"seed": 1}).add(("a", 2), {"kl": [0.1]})

    again = MetricJournal.open(path, {"seed": 1})

    assert again.get(("a", 2)) == {"kl": [0.1]}
    assert again.get(("a", 3)) is None
    with pytest.raises(SpecError, match="another seed: give the same, or another --output"):
        MetricJournal.open(path, {"seed": 2})


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    path.write_text("my notes\n", "utf-8")

    with pytest.raises(ExportError, match="is no journal of metrics"):
        MetricJournal.open(path, {})

    assert path.read_text("utf-8") == "my notes\n"
