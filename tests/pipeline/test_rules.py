"""What rules say of a dense model: what is read for it is told, and where it does not fit."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from autocompress.errors import EvaluationError
from autocompress.evaluators import weight_scorers
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.operators.levels import Levels
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.rules import RULE_SEQUENCES, kept_scores, scores_for
from autocompress.search.strategies import RuleScores
from autocompress.spec import from_mapping
from autocompress.store.study_store import create_study
from autocompress.workers.base import BuildJob

CONTEXT = 16


@pytest.fixture
def prepared(tiny_llama: Path, calibration: Path) -> Prepared:
    asked = {
        "model": str(tiny_llama),
        "calibration": str(calibration),
        "context": CONTEXT,
        "space": "bits",
        "bits": "8,4,2",
        "target_bits": 4,
        "device": "cpu",
    }
    return prepare(from_mapping(asked))


def opened(prepared: Prepared) -> tuple[ShapedModel, Levels]:
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    plan().build(BuildJob(tuple(range(prepared.architecture.n_layers))))
    levels = plan.open_levels()
    model = loading.load_model(prepared.folder, prepared.device, "float32")
    return ShapedModel(model, prepared.space, levels), levels


def scored(prepared: Prepared, strategy: str) -> RuleScores:
    return scores_for(strategy, prepared, *opened(prepared))


def test_gradients_begin_a_search_with_what_the_rule_of_fisher_says(prepared: Prepared) -> None:
    start, rule = scored(prepared, "evolve"), scored(prepared, "fisher")

    assert start.start == rule.by_rule["fisher"]
    # A forward pass, a backward one, and three levels beside the dense one.
    assert start.tokens == rule.tokens == 5 * RULE_SEQUENCES * CONTEXT


def test_a_study_goes_on_from_the_gradients_that_it_began_with(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = create_study(f"sqlite:///{tmp_path}/studies.db", "study", {})
    model, levels = opened(prepared)
    told: list[str] = []
    observer = SimpleNamespace(stage=told.append)

    def kept() -> RuleScores:
        return kept_scores(prepared, model, levels, store, cast("Observer", observer))

    first = kept()
    monkeypatch.delattr(weight_scorers, "fisher_error")

    assert kept() == first
    assert first.start is not None
    assert told == ["gradients of the dense model"]


def test_a_strategy_that_goes_by_no_rule_reads_nothing(prepared: Prepared) -> None:
    assert scored(prepared, "random") == RuleScores()


def test_gradients_that_do_not_fit_are_told_with_the_way_out(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nAnd so on")

    monkeypatch.setattr(weight_scorers, "fisher_error", too_large)

    with pytest.raises(EvaluationError) as told:
        scored(prepared, "evolve")

    assert str(told.value) == (
        "Memory ran out for gradients of the dense model: CUDA out of memory. Tried to allocate "
        "2 GiB. A search with --warm-start losses needs none."
    )
