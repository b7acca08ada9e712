"""Candidates measured after a training: what is gone stays gone, and longer begins as shorter."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from autocompress.errors import EvaluationError
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.spaces.base import SiteKind
from autocompress.training.short import ShortTraining, TrainedEvaluator
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.tiny_models import (
    VOCABULARY,
    PlainSlices,
    TinyModels,
    genotype_of,
    one_change,
    tiny_space,
    token_ids,
)

SPACE = tiny_space()
CONTEXT, SEED = 16, 4
SEQUENCES = {
    split: token_ids(n, CONTEXT, seed).numpy().astype(np.int32)
    for seed, (split, n) in enumerate(zip(Split, (24, 12, 8), strict=True))
}
NARROWED = genotype_of(SPACE, one_change(SPACE, 1, SiteKind.MLP, 8))
DROPPED = genotype_of(SPACE, one_change(SPACE, 0, SiteKind.ATTENTION, 0))
SETTINGS = ShortTraining(3e-3, teacher_tokens=VOCABULARY)
STEP = SETTINGS.sequences * CONTEXT
LONG = Fidelity(Split.SEARCH, 1, 0, 8, trained=20 * STEP)


@dataclass(frozen=True)
class Rig:
    """Both ways to measure one model."""

    shaped: ShapedModel
    plain: PopulationEvaluator
    trained: TrainedEvaluator

    def one(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        """Measure one candidate, trained or as it is."""
        evaluator = self.trained if fidelity.trained else self.plain
        (measurement,) = evaluator.measure([genotype], fidelity)
        return measurement


def rig(tiny_models: TinyModels, settings: ShortTraining = SETTINGS) -> Rig:
    """Return fresh evaluators, as a new worker would have."""
    model = tiny_models.load("llama")
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    return Rig(
        shaped,
        PopulationEvaluator(shaped, SEQUENCES, SEED, EvaluatorLimits(teacher_tokens=VOCABULARY)),
        TrainedEvaluator(shaped, SEQUENCES, SEED, settings),
    )


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("genotype", [NARROWED, DROPPED], ids=["narrowed", "dropped"])
def test_a_training_gives_some_of_the_loss_back(
    tiny_models: TinyModels, genotype: Genotype, optimizer: str
) -> None:
    rate = {"adamw": 3e-3, "sgd": 0.01}[optimizer]
    own = rig(tiny_models, ShortTraining(rate, optimizer, teacher_tokens=VOCABULARY))

    before = own.one(genotype, dataclasses.replace(LONG, trained=0))
    after = own.one(genotype, LONG)

    assert after.loss < before.loss
    assert len(after.kl) == LONG.sequences
    assert after.tokens == before.tokens == CONTEXT - 1


def test_a_candidate_loses_the_same_whoever_trains_it_and_whatever_came_before(
    tiny_models: TinyModels,
) -> None:
    own = rig(tiny_models)
    # What a search leaves in place: another candidate's tensors, made without gradients.
    own.one(NARROWED, dataclasses.replace(LONG, trained=0))
    together = own.trained.measure([DROPPED, NARROWED], LONG)

    assert together == [rig(tiny_models).one(own, LONG) for own in (DROPPED, NARROWED)]


def test_the_dense_model_is_left_as_it_was(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)
    before = own.one(NARROWED, dataclasses.replace(LONG, trained=0))

    own.one(NARROWED, LONG)

    assert own.one(NARROWED, dataclasses.replace(LONG, trained=0)) == before
    assert own.one(SPACE.dense, dataclasses.replace(LONG, trained=0)).loss < 1e-6


def test_what_is_gone_of_a_student_is_not_there_to_come_back(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)

    student = own.trained._student(NARROWED)
    own.trained._train(student, LONG)

    assert student.get_parameter("model.layers.1.mlp.down_proj.weight").shape[1] == 8
    assert student.get_parameter("model.layers.1.mlp.up_proj.weight").shape[0] == 8


def test_no_sequence_is_both_trained_on_and_read(tiny_models: TinyModels) -> None:
    text = rig(tiny_models).trained._text(LONG)

    order = draw_order(24, Split.SEARCH, LONG.draw, SEED)
    read = SEQUENCES[Split.SEARCH][order[: LONG.end]]
    assert len(text) == 24 - LONG.end
    assert not {tuple(row) for row in text} & {tuple(row) for row in read}


def test_a_longer_training_begins_with_the_text_of_a_shorter_one(tiny_models: TinyModels) -> None:
    own = rig(tiny_models).trained
    further = dataclasses.replace(LONG, sequences=16, trained=2 * LONG.trained)

    assert (own._text(further) == own._text(LONG)[:8]).all()


def test_another_split_is_read_by_a_candidate_trained_on_the_search_text(
    tiny_models: TinyModels,
) -> None:
    selection = Fidelity(Split.SELECTION, 0, 0, 12, trained=20 * STEP)
    own = rig(tiny_models)

    assert (
        own.one(DROPPED, selection).loss
        < own.one(DROPPED, dataclasses.replace(selection, trained=0)).loss
    )


def test_a_reading_of_all_the_text_leaves_none_to_train_on(tiny_models: TinyModels) -> None:
    everything = dataclasses.replace(LONG, sequences=24)

    with pytest.raises(EvaluationError, match="sequences to train on >= 2"):
        rig(tiny_models).one(NARROWED, everything)


def test_a_training_that_runs_away_says_so(tiny_models: TinyModels) -> None:
    wild = rig(tiny_models, ShortTraining(1e30, "sgd", teacher_tokens=VOCABULARY))

    with pytest.raises(EvaluationError, match="no finite number: lower its rate"):
        wild.one(NARROWED, LONG)


def test_no_gradient_is_left_behind(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)

    own.one(NARROWED, LONG)

    assert torch.is_grad_enabled()
    assert all(each.grad is None for each in own.shaped.model.parameters())
