"""What is picked for a person to look at, from the store of a tiny study without its weights."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.exporting import keep_winner, winner_of
from autocompress.pipeline.shapes import to_document
from autocompress.pipeline.showing import shown_study, summary
from autocompress.pipeline.stored_study import read_stored
from autocompress.pipeline.targets import DenseSize
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.spec import SearchSpec
from autocompress.store.base import Record
from autocompress.store.mirror import ShownStudy
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workload import Mix
from tests.tiny_models import FFN_COLUMNS, KV_GROUPS, LAYERS, make_config

SHAPE = shape_of(read_architecture(make_config("llama")))
SPACE = make_space(LAYERS, KV_GROUPS, FFN_COLUMNS, depth=True, width=True)
RICH = make_space(
    LAYERS,
    KV_GROUPS,
    FFN_COLUMNS,
    depth=True,
    width=True,
    ffn_step=16,
    weights=Weights(
        bits=(8, 4),
        sparsities=(WeightSetting.parse("s0.5"), WeightSetting.parse("s2:4")),
        cache_bits=(8, 4),
    ),
    groups=SHAPE.groups,
)
DENSE = DenseSize(parameters=100_000, bytes=400_000, number_bits=32, linear_weights=50_000)


def record(genotype: Genotype, n: int, split: Split = Split.SEARCH, loss: float = 0.2) -> Record:
    measured = Measurement((loss,) * n, (2.0,) * n, 15)
    return Record(genotype, Fidelity(split, 0, 0, n), measured, None, 0.5)


def candidate(*entries: int) -> Genotype:
    return SPACE.genotype([*entries, *[0] * (len(SPACE.sites) - len(entries))])


WINNER, FINALIST = candidate(4, 1), candidate(2, 1)


@pytest.fixture
def storage(tmp_path: Path, tiny_table: Path) -> str:
    url = f"sqlite:///{tmp_path}/studies.db"
    spec = SearchSpec("gone/model", 1.2, space=("depth", "width"), workload=Mix.parse("1x8+4"))
    store = create_study(url, "mine", spec.to_json())
    store.save_document("shape", to_document(SHAPE))
    store.save_document("dense", DENSE.to_document())
    store.save_document("latency", json.loads(tiny_table.read_text("utf-8")))
    store.record(
        [
            record(SPACE.dense, 1),
            *(record(candidate(0, 0, n), 1, loss=2.0) for n in (3, 4)),
            *(record(candidate(1, 0, n), 8, loss=1.0 + 0.1 * n) for n in range(3)),
            record(WINNER, 8, loss=0.9),
        ]
    )
    store.record([record(WINNER, 4, Split.SELECTION)])
    store.record([record(FINALIST, 4, Split.SELECTION), record(FINALIST, 8)])
    store.close()
    return url


def shown(storage: str, tmp_path: Path, most: int = 100) -> ShownStudy:
    return shown_study(read_stored(storage, "mine"), WINNER, most, tmp_path / "files")


def test_winner_finalists_and_those_that_won_a_rung_are_shown_in_the_order_of_their_coming(
    storage: str, tmp_path: Path
) -> None:
    found = shown(storage, tmp_path)

    stages = {trial.key: trial.about["stage"] for trial in found.trials}
    assert stages[WINNER.key] == "winner"
    assert stages[FINALIST.key] == "finalist"
    assert stages[candidate(1, 0, 1).key] in ("won a rung", "Pareto front")
    assert stages.get(candidate(0, 0, 4).key) != "won a rung"
    keys = [trial.key for trial in found.trials]
    assert keys.index(candidate(1, 0).key) < keys.index(WINNER.key)
    assert keys[-1] == FINALIST.key


def test_of_too_many_those_stay_that_were_chosen(storage: str, tmp_path: Path) -> None:
    found = shown(storage, tmp_path, most=2)

    assert {trial.key for trial in found.trials} == {WINNER.key, FINALIST.key}


def test_a_trial_tells_its_loss_its_time_and_whether_it_meets_the_target(
    storage: str, tmp_path: Path
) -> None:
    found = shown(storage, tmp_path)

    trials = {trial.key: trial for trial in found.trials}
    winner, dense_like = trials[WINNER.key], trials[candidate(1, 0).key]
    assert found.objectives == ("KL, nats a token", "milliseconds, predicted")
    assert winner.objectives[0] == pytest.approx(0.9)
    assert winner.about["speedup"] >= 1.2  # type: ignore[operator]
    assert winner.violation <= 0 < dense_like.violation
    assert winner.parameters["attention dropped"].value == 1
    assert "| 0 | attention | drop |" in winner.note
    assert "`running`" in found.note
    assert found.version.endswith(" running")


@given(st.tuples(*(st.integers(0, len(menu) - 1) for menu in RICH.menus)))
def test_a_summary_lies_between_nothing_and_the_most(entries: tuple[int, ...]) -> None:
    choices = RICH.choices(RICH.genotype(entries))

    found = summary(RICH, choices, 32)

    assert set(found) == {
        *("attention dropped", "mlp dropped", "attention kept", "mlp kept"),
        *("attention bits", "mlp bits", "sparsity", "KV cache bits"),
    }
    assert all(0 <= own.value <= own.most for own in found.values())
    if all(choice.is_dropped for choice in choices):
        assert found["attention dropped"].value + found["mlp dropped"].value == len(RICH.sites)


def test_a_winner_is_told_by_its_document(storage: str) -> None:
    with contextlib.closing(open_study(storage, "mine")) as store:
        assert winner_of(store) is None
        keep_winner(store, Genotype((0, 2)))
        assert winner_of(store) == Genotype((0, 2))
