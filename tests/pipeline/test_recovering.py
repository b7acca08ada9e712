"""Recovery: what was trained is what is shaped, stored, exported and measured."""

import copy
import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from autocompress.errors import EvaluationError, GateError, SpecError
from autocompress.models import loading, sample_text, text
from autocompress.models.surgery import ShapedModel
from autocompress.operators.levels import Levels
from autocompress.pipeline import recovering
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.pipeline.recovering import (
    Recovered,
    check_recovery,
    recover,
    unless_it_fails,
)
from autocompress.pipeline.study import trained_deployment
from autocompress.spaces.base import Choice, SiteKind
from autocompress.spec import from_mapping
from autocompress.training.distillation import Trained, distil
from autocompress.trial import Genotype, Split
from autocompress.workers.base import BuildJob
from autocompress.workers.session import ModelSession, SessionPlan
from tests.tiny_models import make_config, token_ids, write_model

CONTEXT = 16


class Silent:
    def stage(self, name: str) -> None: ...
    def advance(self, done: int, total: int) -> None: ...
    def tell(self, kind: str, values: object) -> None: ...


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))


def prepared_of(model: Path, calibration: Path, **settings: object) -> Prepared:
    usual: dict[str, object] = {
        "model": str(model),
        "target_params": "60%",
        "space": "depth,width,bits",
        "bits": "4,2",
        "calibration": str(calibration),
        "context": CONTEXT,
        "recover": 60 * 8 * CONTEXT,
        "recovery_rate": 3e-3,
    }
    return prepare(from_mapping(usual | settings))


def text_of(prepared: Prepared) -> np.ndarray:
    """Return the text that a winner is trained on."""
    rows = check_recovery(prepared)
    assert rows is not None
    return rows


def built(prepared: Prepared) -> tuple[SessionPlan, ShapedModel, Levels]:
    plan = prepared.session_plan(loading.fingerprint(prepared.folder))
    layers = tuple(range(prepared.architecture.n_layers))
    ModelSession(dataclasses.replace(plan)).build(BuildJob(layers))
    model = loading.load_model(prepared.folder, prepared.device, "auto")
    levels = plan.open_levels()
    return plan, ShapedModel(model, prepared.space, levels), levels


def winner_of(prepared: Prepared, *, stored: bool) -> Genotype:
    """Return a candidate: of each kind a narrowed site, a dropped one, the rest whole.

    Args:
        stored: Whether all that stays is stored in codes.
    """
    space = prepared.space
    seen: dict[SiteKind, int] = {}
    entries = []
    for site, menu in zip(space.sites, space.menus, strict=True):
        number = seen[site.kind] = seen.get(site.kind, -1) + 1
        fitting = [
            index
            for index, entry in enumerate(menu)
            if _fits(entry.choices[0], number, stored=stored)
        ]
        whole = [i for i, e in enumerate(menu) if _fits(e.choices[0], 2, stored=stored)]
        # The tiny models' MLPs are too narrow to be narrowed.
        entries.append((fitting or whole)[-1])
    return space.genotype(tuple(entries))


def _fits(choice: Choice, number: int, *, stored: bool) -> bool:
    if number == 1 or choice.is_dropped:
        return number == 1 and choice.is_dropped
    coded = [not own.is_dense for own in choice.weights]
    return choice.is_whole == (number > 1) and (
        all(coded) and bool(coded) if stored else not any(coded)
    )


def logits_of(shaped: ShapedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = shaped.model(ids, use_cache=False).logits.float()
    return logits


def shapes_of(prepared: Prepared, winner: Genotype) -> list[Choice]:
    return [choice.shape for choice in prepared.space.choices(winner)]


@pytest.mark.parametrize("tied", [False, True])
def test_what_was_trained_is_what_is_shaped(
    family: str, tied: bool, calibration: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = make_config(family, tied)
    config.intermediate_size = 512
    write_model(tmp_path / "wide", config)
    prepared = prepared_of(tmp_path / "wide", calibration)

    trained = shaped_as_trained(prepared, monkeypatch)

    assert trained.best.kl < 0.9 * trained.history[0].kl


def test_what_adapters_were_trained_to_is_what_is_shaped(
    tiny_llama: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_of(tiny_llama, calibration, recovery_rank=4, recovery_rate=1e-2)

    trained = shaped_as_trained(prepared, monkeypatch)

    assert trained.best.kl < trained.history[0].kl


def shaped_as_trained(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Recover a winner, and hold what it is shaped to against the student that was trained."""
    plan, shaped, _ = built(prepared)
    winner = winner_of(prepared, stored=False)
    ids = token_ids(3, CONTEXT, seed=5)
    students: list[torch.nn.Module] = []

    def keep(student: torch.nn.Module, *given: Any) -> Trained:
        trained = distil(student, *given)
        students.append(copy.deepcopy(student))
        return trained

    monkeypatch.setattr(recovering, "distil", keep)

    found = recover(prepared, shaped, plan, winner, text_of(prepared), Silent())

    assert found is not None
    narrowed = {
        site.kind
        for site, shape in zip(prepared.space.sites, shapes_of(prepared, winner), strict=True)
        if not shape.is_whole and not shape.is_dropped
    }
    assert SiteKind.ATTENTION in narrowed
    assert SiteKind.MLP in narrowed or prepared.architecture.ffn_columns <= 64
    found.shaped.apply(prepared.space.choices(winner))
    with torch.inference_mode():
        expected = students[0](ids, use_cache=False).logits
    torch.testing.assert_close(logits_of(found.shaped, ids), expected, rtol=1e-4, atol=1e-5)
    return found.trained


def test_what_is_stored_is_built_of_what_was_trained(tiny_llama: Path, calibration: Path) -> None:
    prepared = prepared_of(tiny_llama, calibration)
    plan, shaped, levels = built(prepared)
    winner = winner_of(prepared, stored=True)
    choices = prepared.space.choices(winner)
    rows, ids = text_of(prepared), token_ids(8, CONTEXT, seed=5)
    shaped.apply_dense()
    dense = logits_of(shaped, ids)
    shaped.apply(choices)
    before = logits_of(shaped, ids)

    found = recover(prepared, shaped, plan, winner, rows, Silent())

    assert found is not None
    found.shaped.apply(choices)
    after = logits_of(found.shaped, ids)
    assert (after - dense).square().mean() < 0.9 * (before - dense).square().mean()
    packed = 0
    for index, (site, choice) in enumerate(zip(prepared.space.sites, choices, strict=True)):
        for group, setting in enumerate(choice.weights):
            if not setting.is_dense:
                ours = found.levels.packed(site, choice, group).decode(torch.float32)
                assert ours.shape == levels.packed(site, choice, group).decode(torch.float32).shape
                packed += 1
        assert found.shaped.linears(index) is not None
    assert packed > 0


def test_a_gguf_file_holds_what_was_trained_of_what_it_stores_dense(
    calibration: Path, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf", reason="the extra llama-cpp is not installed")
    config = make_config()
    config.intermediate_size = 64
    write_model(tmp_path / "wide", config)
    asked = {"engine": "llama.cpp", "bits": "q8_0", "space": "depth,bits"}
    prepared = prepared_of(tmp_path / "wide", calibration, **asked)
    _, shaped, levels = built(prepared)
    embedding = shaped.model.get_parameter("model.embed_tokens.weight")
    embedding.data.mul_(2.0)
    trained = Recovered(cast(Trained, None), shaped, levels)
    winner = Genotype((0,) * len(prepared.space.genes))

    found = trained_deployment(prepared, trained, tmp_path).export(winner)

    (stored,) = (
        own for own in gguf.GGUFReader(found.path).tensors if own.name == "token_embd.weight"
    )
    assert np.array_equal(stored.data, embedding.detach().half().numpy())


def test_a_recovery_that_was_done_is_not_done_again(
    tiny_llama: Path, calibration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepared_of(tiny_llama, calibration)
    plan, shaped, _ = built(prepared)
    winner, rows = winner_of(prepared, stored=False), text_of(prepared)
    first = recover(prepared, shaped, plan, winner, rows, Silent())
    assert first is not None

    def refuse(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("autocompress.training.distillation.Distance.loss", refuse)
    second = recover(prepared, shaped, plan, winner, rows, Silent())

    assert second is not None
    assert second.trained == first.trained


def test_text_may_be_drawn_where_the_winner_is_worst(tiny_llama: Path, calibration: Path) -> None:
    prepared = prepared_of(tiny_llama, calibration, recovery_draw="worst", recover=20 * CONTEXT)
    plan, shaped, _ = built(prepared)
    winner, rows = winner_of(prepared, stored=False), text_of(prepared)

    first, again = (recover(prepared, shaped, plan, winner, rows, Silent()) for _ in range(2))

    assert first is not None
    assert again is not None
    # The same text was drawn again: what was trained on it was found.
    assert again.trained == first.trained


def test_there_is_nothing_to_recover_of_a_whole_model(tiny_llama: Path, calibration: Path) -> None:
    prepared = prepared_of(tiny_llama, calibration)
    plan, shaped, _ = built(prepared)

    found = recover(prepared, shaped, plan, prepared.space.dense, text_of(prepared), Silent())

    assert found is None


def test_what_winners_are_judged_by_is_not_trained_on(
    tiny_llama: Path, calibration: Path, tmp_path: Path
) -> None:
    # The same text, cut into other documents, and some more.
    more = tmp_path / "more.txt"
    more.write_text(
        "first\n\n" + calibration.read_text("utf-8") + "\n\nand then\n" * 3000, "utf-8"
    )
    prepared = prepared_of(tiny_llama, calibration, recovery_text=str(more))

    rows = text_of(prepared)

    read = prepared.tokenizer.decode(rows.reshape(-1).tolist())
    parts = text.split_documents(text.read_documents(str(calibration)))
    for split in (Split.SELECTION, Split.REPORT):
        judging = [own for part in parts[split] for own in part.split("\n\n") if len(own) > 200]
        assert judging
        assert not [own for own in judging if own.strip() in read]
    searched = [own for part in parts[Split.SEARCH] for own in part.split("\n\n")]
    assert sum(own.strip() in read for own in searched) > len(searched) / 2


def test_the_sample_is_not_trained_on() -> None:
    held_out = {own for own in sample_text.read_documents() if own.strip()}

    trained_on = sample_text.training_documents()

    assert len(trained_on) > 100
    assert not held_out & set(trained_on)


def test_a_model_that_is_streamed_cannot_be_trained(tiny_llama: Path, calibration: Path) -> None:
    with pytest.raises(SpecError, match="a model that is streamed cannot be trained"):
        check_recovery(prepared_of(tiny_llama, calibration, weights_bytes="20KB"))


@pytest.mark.parametrize("settings", [{"space": "bits"}, {"recover": None, "recovery_rate": None}])
def test_no_text_is_read_where_nothing_is_trained(
    tiny_llama: Path, calibration: Path, settings: dict[str, object]
) -> None:
    assert check_recovery(prepared_of(tiny_llama, calibration, **settings)) is None


def test_too_little_text_is_told(tiny_llama: Path, calibration: Path, tmp_path: Path) -> None:
    little = tmp_path / "little.txt"
    little.write_text("a few words", encoding="utf-8")

    with pytest.raises(SpecError, match="`sequences >= 8` of 16 tokens"):
        check_recovery(prepared_of(tiny_llama, calibration, recovery_text=str(little)))


def test_other_calibration_text_is_trained_on_where_the_search_reads_it(
    tiny_llama: Path, calibration: Path
) -> None:
    prepared = prepared_of(tiny_llama, calibration)

    assert np.array_equal(text_of(prepared), prepared.sequences[Split.SEARCH])


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (EvaluationError("The loss is no number: lower its rate."), "lower its rate. Try another"),
        (GateError("It did not pass."), "It did not pass. Try another --recovery-rate"),
        (MemoryError(), "memory ran out (no reason given). Try --recovery-rank"),
        (torch.OutOfMemoryError("CUDA is full.\nMore"), "memory ran out (CUDA is full.). Try"),
    ],
)
def test_a_training_that_fails_is_told_and_leaves_the_searched_winner(
    failure: Exception, told: str
) -> None:
    observer = Warned()

    def train() -> Recovered:
        raise failure

    found, said = unless_it_fails(train, observer)

    assert found is None
    assert observer.warnings == [said]
    assert said.startswith("The winner was not recovered, and is published as it was found: ")
    assert told in said


def test_a_bug_in_a_training_is_no_refusal() -> None:
    def train() -> Recovered:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        unless_it_fails(train, Silent())


class Warned(Silent):
    """Keeps the warnings that it is told."""

    def __init__(self) -> None:
        self.warnings: list[object] = []

    def tell(self, kind: str, values: object) -> None:
        assert kind == "warning"
        self.warnings += cast(dict[str, object], values).values()
