"""Losses against torch's own on full logits, for any population, whatever was measured before."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from autocompress.errors import EvaluationError
from autocompress.evaluators.out_of_memory import is_out_of_memory
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.ends import dense_ends
from autocompress.models.surgery import Level, ShapedModel
from autocompress.models.text import draw_order
from autocompress.spaces.base import Choice, Site, SiteKind
from autocompress.spaces.settings import CacheSetting
from autocompress.trial import Fidelity, Genotype, Measurement, Split, join
from tests.tiny_models import (
    VOCABULARY,
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
# The whole vocabulary: losses are those of full logits.
WHOLE = EvaluatorLimits(teacher_tokens=VOCABULARY)
FIRST = Fidelity(Split.SEARCH, 0, 0, 8)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@dataclass(frozen=True)
class Rig:
    """An evaluator and the model that it shapes."""

    shaped: ShapedModel
    evaluator: PopulationEvaluator

    def one(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        """Measure one candidate."""
        (measurement,) = self.evaluator.measure([genotype], fidelity)
        return measurement


def rig(
    tiny_models: TinyModels,
    family: str = "qwen2",
    dtype: torch.dtype = torch.float32,
    limits: EvaluatorLimits = WHOLE,
) -> Rig:
    """Return a fresh evaluator, as a new worker would have."""
    model = tiny_models.load(family, dtype=dtype)
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    return Rig(shaped, PopulationEvaluator(shaped, SEQUENCES, SEED, limits))


@both_dtypes
def test_the_dense_model_by_itself_diverges_by_exactly_nothing(
    tiny_models: TinyModels, family: str, dtype: torch.dtype
) -> None:
    own = rig(tiny_models, family, dtype)
    alone = own.one(SPACE.dense, Fidelity(Split.SEARCH, 0, 0, 1))

    own.one(CANDIDATES[2], FIRST)
    after = own.one(SPACE.dense, Fidelity(Split.SEARCH, 0, 0, 1))

    assert alone.kl == after.kl == (0.0,)


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


@pytest.mark.parametrize("tied", [False, True])
def test_candidates_are_measured_with_the_ends_that_they_store(
    tiny_models: TinyModels, tied: bool
) -> None:
    ids = torch.from_numpy(
        SEQUENCES[Split.SEARCH][draw_order(24, Split.SEARCH, 0, SEED)[:8]]
    ).long()
    model = tiny_models.load(tied=tied)
    teacher = logits_of(model, ids)[:, :-1].double().log_softmax(-1)
    ends = {name: own * 0.9 for name, own in dense_ends(model).items()}
    shaped = ShapedModel(model, SPACE, PlainSlices(model), ends=ends)
    evaluator = PopulationEvaluator(shaped, SEQUENCES, SEED, WHOLE)

    evaluator.measure([CANDIDATES[0]], FIRST)
    shaped.apply_dense()  # Whatever the model was last.
    measured, again = (
        evaluator.measure([SPACE.dense, CANDIDATES[1]], own)[0]
        for own in (FIRST, Fidelity(Split.SEARCH, 0, 4, 4))
    )

    stored = tiny_models.load(tied=tied)
    with torch.no_grad():
        for name, weight in ends.items():
            stored.get_parameter(name).copy_(weight)
    student = logits_of(stored, ids)[:, :-1].double().log_softmax(-1)
    kl = functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean(-1)
    nll = functional.nll_loss(student.transpose(1, 2), ids[:, 1:], reduction="none").mean(-1)
    # Single precision against double, of sums over 320 tokens.
    assert measured.kl == pytest.approx(kl.tolist(), rel=1e-4, abs=1e-6)
    assert measured.nll == pytest.approx(nll.tolist(), rel=1e-4)
    assert again.kl == pytest.approx(measured.kl[4:], rel=1e-4, abs=1e-6)
    assert min(measured.kl) > 1e-4


POPULATIONS = st.lists(
    st.tuples(*(st.integers(0, len(menu) - 1) for menu in SPACE.menus)).map(SPACE.genotype),
    min_size=1,
    max_size=12,
)


@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    POPULATIONS,
    st.sampled_from(
        [
            WHOLE,
            EvaluatorLimits(VOCABULARY, 1, 1, 1, 1),
            EvaluatorLimits(VOCABULARY, 1, 20_000, 64),
        ]
    ),
)
def test_a_population_measures_as_its_candidates_do_alone(
    tiny_models: TinyModels, population: list[Genotype], limits: EvaluatorLimits
) -> None:
    alone = rig(tiny_models)
    expected = [alone.one(genotype, FIRST) for genotype in population]

    together = rig(tiny_models, limits=limits).evaluator.measure(population, FIRST)

    # What runs at once decides in which order a product adds: roundings of single precision.
    for found, own in zip(together, expected, strict=True):
        assert found.kl == pytest.approx(own.kl, rel=1e-3, abs=1e-6)
        assert found.nll == pytest.approx(own.nll, rel=1e-4)
        assert found.tokens == own.tokens


def test_every_family_shares_its_prefixes(tiny_models: TinyModels, family: str) -> None:
    own = rig(tiny_models, family)
    expected = [rig(tiny_models, family).one(genotype, FIRST) for genotype in CANDIDATES]

    together = own.evaluator.measure(CANDIDATES, FIRST)

    for found, one in zip(together, expected, strict=True):
        assert found.kl == pytest.approx(one.kl, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("sequences", [1, 2, 3, 100])
def test_sequences_read_out_together_lose_what_each_does(
    tiny_models: TinyModels, sequences: int
) -> None:
    logits = VOCABULARY * (CONTEXT - 1) * sequences
    limits = EvaluatorLimits(teacher_tokens=7, logits_at_once=logits, joins_sequences=True)
    population = [SPACE.dense, *CANDIDATES]

    together = rig(tiny_models, limits=limits).evaluator.measure(population, FIRST)

    apart = rig(tiny_models, limits=EvaluatorLimits(teacher_tokens=7))
    for own, other in zip(together, apart.evaluator.measure(population, FIRST), strict=True):
        assert own.kl == pytest.approx(other.kl, rel=1e-5, abs=1e-9)
        assert own.nll == pytest.approx(other.nll, rel=1e-6)


def test_the_work_that_is_shared_is_counted(tiny_models: TinyModels) -> None:
    own = rig(tiny_models)
    # They part at the last of six sites; a dropped one costs nothing.
    siblings = [genotype_of(SPACE, one_change(SPACE, 2, MLP, kept)) for kept in (48, 32, 16, 8, 0)]

    own.evaluator.measure(siblings, FIRST)

    assert own.evaluator.work.alone == 8 * (4 * 6 + 5)
    assert own.evaluator.work.computed == 8 * (5 + 4)
    assert own.evaluator.work.saved == pytest.approx(1 - 9 / 29)


@both_dtypes
def test_a_population_measures_the_same_whatever_was_measured_before(
    tiny_models: TinyModels, dtype: torch.dtype
) -> None:
    expected = rig(tiny_models, dtype=dtype).evaluator.measure(CANDIDATES, FIRST)

    busy = rig(tiny_models, dtype=dtype)
    busy.evaluator.measure(CANDIDATES[:1], Fidelity(Split.SEARCH, 3, 0, 8))
    busy.evaluator.measure(CANDIDATES[::-1], FIRST)

    assert busy.evaluator.measure(CANDIDATES, FIRST) == expected


def test_a_forgotten_teacher_is_made_anew(tiny_models: TinyModels) -> None:
    forgetful = rig(tiny_models, limits=EvaluatorLimits(VOCABULARY, teacher_bytes=1))

    found = [forgetful.evaluator.measure(CANDIDATES, FIRST) for _ in range(2)]

    assert found[0] == found[1] == rig(tiny_models).evaluator.measure(CANDIDATES, FIRST)


def test_fewer_teacher_tokens_bound_the_loss_from_below(tiny_models: TinyModels) -> None:
    full = rig(tiny_models).evaluator.measure(CANDIDATES, FIRST)

    some = rig(tiny_models, limits=EvaluatorLimits(32)).evaluator.measure(CANDIDATES, FIRST)

    assert all(0 < a.loss < b.loss for a, b in zip(some, full, strict=True))
    assert [a.nll for a in some] == [b.nll for b in full]


def test_readings_join_to_the_longer_one(tiny_models: TinyModels) -> None:
    first, second, both = (
        Fidelity(Split.SEARCH, 1, 0, 8),
        Fidelity(Split.SEARCH, 1, 8, 8),
        Fidelity(Split.SEARCH, 1, 0, 16),
    )
    own = rig(tiny_models)

    for genotype in CANDIDATES:
        parts = [own.one(genotype, first), own.one(genotype, second)]
        whole = own.one(genotype, both)

        assert join(parts).kl == pytest.approx(whole.kl, rel=1e-3, abs=1e-6)


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


class _Overflowing(PlainSlices):
    """One width of layer 1's MLP is beyond what numbers can hold."""

    def level(self, site: Site, choice: Choice) -> Level:
        level = super().level(site, choice)
        if (site.layer, site.kind, choice.kept) == (1, MLP, 16):
            return Level(level.kept, torch.full_like(level.output, math.inf))
        return level


def test_a_loss_that_is_not_finite_has_a_site_and_a_level_to_blame(
    tiny_models: TinyModels,
) -> None:
    model = tiny_models.load()
    shaped = ShapedModel(model, SPACE, _Overflowing(model))
    evaluator = PopulationEvaluator(shaped, SEQUENCES, SEED, WHOLE)
    broken = genotype_of(
        SPACE, with_changes(SPACE, {(0, ATTENTION): 0, (1, MLP): 16, (2, MLP): 8})
    )

    bad, good = evaluator.measure([broken, CANDIDATES[1]], FIRST)

    assert not bad.is_finite
    assert good.is_finite
    assert evaluator.cause(broken, FIRST) == (
        f"The loss of {broken.key} is not finite: layer 1 mlp, width 16/48, makes numbers that "
        "are not, in float32; try --dtype float32."
    )


def let_memory_hold(own: Rig, tokens: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let a site run out of memory where a batch has more tokens; return what was tried."""
    stepper = own.evaluator._stepper
    tried: list[int] = []
    run = stepper.run

    def limited(index: int, states: torch.Tensor, *more: CacheSetting) -> torch.Tensor:
        tried.append(states.shape[0] * states.shape[1])
        if tried[-1] > tokens:
            torch.empty(2**60)
        return run(index, states, *more)

    monkeypatch.setattr(stepper, "run", limited)
    return tried


def test_where_memory_runs_out_half_as_much_is_measured_at_a_time(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rig(tiny_models).evaluator.measure(CANDIDATES, FIRST)
    own = rig(tiny_models)
    tried = let_memory_hold(own, 2 * CONTEXT, monkeypatch)

    found = own.evaluator.measure(CANDIDATES, FIRST)

    assert max(tried) > 2 * CONTEXT
    for measured, wanted in zip(found, expected, strict=True):
        assert measured.kl == pytest.approx(wanted.kl, rel=1e-4, abs=1e-6)
    # The next shard is measured as every worker measures it.
    tried.clear()
    own.evaluator.measure(CANDIDATES, FIRST)
    assert max(tried) > 2 * CONTEXT


def test_what_fits_in_no_memory_fails_with_its_cause(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = rig(tiny_models)
    let_memory_hold(own, 0, monkeypatch)

    with pytest.raises(EvaluationError) as refused:
        own.one(CANDIDATES[0], FIRST)

    said = str(refused.value)
    assert said.startswith(f"Memory ran out for {CANDIDATES[0].key}: ")
    assert "can't allocate memory" in said
    assert said.endswith("(the layers' weights that a worker holds).")
    assert "\n" not in said


def test_another_failure_is_not_taken_for_a_lack_of_memory(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = rig(tiny_models)

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(own.evaluator._stepper, "run", broken)

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        own.one(CANDIDATES[0], FIRST)


def test_torch_and_python_say_that_memory_ran_out() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"))
    assert is_out_of_memory(RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCompile with"))
    assert not is_out_of_memory(RuntimeError("no"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))
