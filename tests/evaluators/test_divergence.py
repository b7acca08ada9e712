"""Losses against torch's own on full logits, whatever was measured before."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn import functional

from autocompress.evaluators.divergence import DivergenceEvaluator
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.spaces.base import SiteKind
from autocompress.trial import Fidelity, Genotype, Measurement, Split, join
from tests.tiny_models import (
    PlainSlices,
    TinyModels,
    genotype_of,
    logits_of,
    one_change,
    tiny_space,
    token_ids,
    with_changes,
)

SPACE = tiny_space()
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
CONTEXT = 16
SEED = 4
SEQUENCES = {
    split: token_ids(n, CONTEXT, seed).numpy().astype(np.int32)
    for seed, (split, n) in enumerate(zip(Split, (24, 12, 8), strict=True))
}
CANDIDATES = [
    genotype_of(SPACE, one_change(SPACE, 1, MLP, 16)),
    genotype_of(SPACE, one_change(SPACE, 0, ATTENTION, 0)),
    genotype_of(
        SPACE,
        with_changes(SPACE, {(0, MLP): 0, (1, ATTENTION): 2, (2, ATTENTION): 0, (2, MLP): 8}),
    ),
]
FIRST = Fidelity(Split.SEARCH, 0, 0, 8)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@dataclass(frozen=True)
class Rig:
    """An evaluator and the model that it shapes."""

    shaped: ShapedModel
    evaluator: DivergenceEvaluator

    def one(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        """Measure one candidate."""
        (measurement,) = self.evaluator.measure([genotype], fidelity)
        return measurement


def rig(tiny_models: TinyModels, family: str = "qwen2", dtype: torch.dtype = torch.float32) -> Rig:
    """Return a fresh evaluator, as a new worker would have."""
    model = tiny_models.load(family, dtype=dtype)
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    return Rig(shaped, DivergenceEvaluator(shaped, SEQUENCES, SEED))


@both_dtypes
def test_the_dense_model_diverges_by_exactly_nothing(
    tiny_models: TinyModels, family: str, dtype: torch.dtype
) -> None:
    own = rig(tiny_models, family, dtype)
    alone = own.one(SPACE.dense, FIRST)

    own.one(CANDIDATES[2], FIRST)
    after = own.one(SPACE.dense, Fidelity(Split.SEARCH, 0, 0, 24))

    assert alone.kl == (0.0,) * 8
    assert after.kl == (0.0,) * 24
    assert alone.loss == 0.0


@pytest.mark.parametrize("genotype", CANDIDATES, ids=["width", "drop", "mixed"])
def test_losses_equal_those_of_full_logits(
    tiny_models: TinyModels, family: str, genotype: Genotype
) -> None:
    own = rig(tiny_models, family)
    rows = draw_order(24, Split.SEARCH, 0, SEED)[:8]
    ids = torch.from_numpy(SEQUENCES[Split.SEARCH][rows]).long()
    teacher = logits_of(tiny_models.load(family), ids)[:, :-1].double().log_softmax(-1)

    measured = own.one(genotype, FIRST)

    own.shaped.apply(SPACE.choices(genotype))
    student = logits_of(own.shaped.model, ids)[:, :-1].double().log_softmax(-1)
    kl = functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean(-1)
    nll = functional.nll_loss(student.transpose(1, 2), ids[:, 1:], reduction="none").mean(-1)
    # Single precision against double, of sums over 320 tokens.
    assert measured.kl == pytest.approx(kl.tolist(), rel=1e-4, abs=1e-6)
    assert measured.nll == pytest.approx(nll.tolist(), rel=1e-4)
    assert measured.loss == pytest.approx(math.fsum(measured.kl) / 8)
    assert measured.loss > 1e-4
    assert measured.tokens == CONTEXT - 1


@both_dtypes
def test_a_candidate_measures_the_same_alone_and_after_others(
    tiny_models: TinyModels, dtype: torch.dtype
) -> None:
    alone = [rig(tiny_models, dtype=dtype).one(genotype, FIRST) for genotype in CANDIDATES]

    busy = rig(tiny_models, dtype=dtype)
    together = busy.evaluator.measure(CANDIDATES, FIRST)
    backwards = busy.evaluator.measure(CANDIDATES[::-1], FIRST)

    assert together == alone
    assert backwards[::-1] == alone


@both_dtypes
def test_a_candidate_measures_the_same_after_other_draws(
    tiny_models: TinyModels, dtype: torch.dtype
) -> None:
    # What the dense model says of a sequence was kept from a batch of other sequences.
    later = Fidelity(Split.SEARCH, 3, 0, 8)
    alone = [rig(tiny_models, dtype=dtype).one(genotype, later) for genotype in CANDIDATES]

    busy = rig(tiny_models, dtype=dtype)
    busy.evaluator.measure(CANDIDATES, FIRST)
    after = busy.evaluator.measure(CANDIDATES, later)

    assert after == alone


@both_dtypes
def test_readings_join_to_the_longer_one(tiny_models: TinyModels, dtype: torch.dtype) -> None:
    first, second, both = (
        Fidelity(Split.SEARCH, 1, 0, 8),
        Fidelity(Split.SEARCH, 1, 8, 8),
        Fidelity(Split.SEARCH, 1, 0, 16),
    )

    for genotype in CANDIDATES:
        in_parts = rig(tiny_models, dtype=dtype)
        parts = [in_parts.one(genotype, second), in_parts.one(genotype, first)]
        whole = rig(tiny_models, dtype=dtype).one(genotype, both)

        assert join(parts[::-1]) == whole


def test_draws_read_the_same_sequences_in_another_order(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)

    first, second = (own.one(CANDIDATES[0], Fidelity(Split.SEARCH, d, 0, 24)) for d in (0, 1))

    assert first.kl != second.kl
    # A batch of other sequences may round otherwise.
    assert sorted(first.nll) == pytest.approx(sorted(second.nll), rel=1e-5)


def test_splits_are_read_apart(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)

    losses = {own.one(CANDIDATES[0], Fidelity(split, 0, 0, 8)).loss for split in Split}

    assert len(losses) == 3


def test_reading_beyond_the_text_is_an_error(tiny_models: TinyModels) -> None:
    with pytest.raises(ValueError, match="reads beyond the 12 sequences of its split"):
        rig(tiny_models).one(SPACE.dense, Fidelity(Split.SELECTION, 0, 8, 8))
