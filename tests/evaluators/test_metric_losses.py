"""What a metric's zeros cost: measured from masks alone, metric after metric on one model."""

import math

import pytest

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators.metric_losses import MetricEvaluator
from autocompress.evaluators.population import EvaluatorLimits, PopulationEvaluator
from autocompress.models.surgery import ShapedModel
from autocompress.operators.masked_weights import MaskedWeights
from autocompress.spaces.making import Weights
from autocompress.trial import Fidelity, Measurement, Split
from tests.operators.layers import settings
from tests.tiny_models import TinyModels, tiny_space, token_ids

SETTINGS = settings("s0.5", "s0.7", "s2:4")
SPACE = tiny_space(depth=False, width=False, weights=Weights(sparsities=tuple(SETTINGS)))
ALL = Fidelity(Split.SEARCH, 0, 0, 4)
SEQUENCES = {split: token_ids(4, 12, seed=8).numpy() for split in Split}


@pytest.fixture
def evaluator(tiny_models: TinyModels) -> MetricEvaluator:
    weights = MaskedWeights()
    shaped = ShapedModel(tiny_models.load(), SPACE, weights)
    weights.gather(shaped, token_ids(4, 12, seed=2))
    return MetricEvaluator(shaped, weights, SEQUENCES, 0, EvaluatorLimits())


def test_a_metric_loses_the_same_whatever_was_measured_before(evaluator: MetricEvaluator) -> None:
    first = evaluator.measure("abs(W) * X", SETTINGS, ALL)
    other = evaluator.measure("-abs(W) * G", SETTINGS, ALL)

    assert evaluator.measure("abs(W) * X", SETTINGS, ALL) == first
    assert other != first


def test_more_zeros_lose_more_and_the_largest_weights_are_worth_most(
    evaluator: MetricEvaluator,
) -> None:
    large = [own.loss for own in evaluator.measure("abs(W)", SETTINGS, ALL)]
    small = [own.loss for own in evaluator.measure("-abs(W)", SETTINGS, ALL)]

    assert 0 < large[0] < large[1]
    assert all(a < b for a, b in zip(large, small, strict=True))


def test_all_that_ranks_alike_keeps_the_same_weights(evaluator: MetricEvaluator) -> None:
    for setting in SETTINGS:
        assert evaluator.shared("abs(W) * X", "log(abs(W)) + log(X)", setting) > 0.999
        assert evaluator.shared("abs(W)", "-abs(W)", setting) < 0.6


def test_a_score_that_is_no_number_is_refused(evaluator: MetricEvaluator) -> None:
    with pytest.raises(SpecError, match="`score is a number` must hold of every weight"):
        evaluator.measure("log(W - W) * 0 / (W - W)", SETTINGS, ALL)


def test_a_loss_that_is_not_finite_is_an_error(
    evaluator: MetricEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Measurement((math.nan,), (1.0,), 11)
    monkeypatch.setattr(PopulationEvaluator, "measure", lambda *_: [broken])

    with pytest.raises(EvaluationError, match=r"The loss of abs\(W\) is not finite"):
        evaluator.measure("abs(W)", SETTINGS[:1], ALL)
