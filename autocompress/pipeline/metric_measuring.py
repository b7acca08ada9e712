"""Measures metrics for an evolution, through its journal: nothing is measured twice."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators.metric_losses import MetricEvaluator
from autocompress.models import loading
from autocompress.models.surgery import ShapedModel
from autocompress.operators.masked_weights import MaskedWeights
from autocompress.pipeline.metric_journal import Key, MetricJournal
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.spaces.settings import WeightSetting
from autocompress.trial import Fidelity, Measurement, Split, join
from autocompress.workers.session import CALIBRATION_SEQUENCES

LEAST_LOSS = 1e-12
"""What the logarithm of a model that loses nothing is taken of."""


class MetricMeasuring:
    """One model that metrics prune, loaded when the first is measured that the journal lacks.

    On a CPU it computes on one thread: sums are added in one order, so that a search begun again
    finds what it would have found.
    """

    def __init__(self, prepared: Prepared, journal: MetricJournal, observer: Observer) -> None:
        self._prepared = prepared
        self._journal = journal
        self._observer = observer
        self._opened: MetricEvaluator | None = None

    def log_loss(
        self, expression: str, settings: Sequence[WeightSetting], parts: Sequence[Fidelity]
    ) -> float:
        """Return the mean over settings of the log of KL; infinite for what cannot be measured.

        The logarithm, so that the sparsities that lose most do not decide alone.
        """
        try:
            found = self.measured(expression, settings, parts)
        except EvaluationError:
            return math.inf
        return math.fsum(math.log(max(own.loss, LEAST_LOSS)) for own in found) / len(found)

    def measured(
        self, expression: str, settings: Sequence[WeightSetting], parts: Sequence[Fidelity]
    ) -> list[Measurement]:
        """Return what each setting loses on several parts of a draw together.

        Raises:
            EvaluationError: If the metric, or what it prunes, has a value that is no number.
        """
        by_part = [self._part(expression, settings, part) for part in parts]
        return [join(own) for own in zip(*by_part, strict=True)]

    def shared(self, first: str, second: str, setting: WeightSetting) -> float:
        """Return the share of the weights that one metric keeps which another keeps too."""
        key = ("shared", first, second, str(setting))
        found = self._journal.get(key)
        if found is None:
            found = self._evaluator().shared(first, second, setting)
            self._journal.add(key, found)
        return float(found)

    def _part(
        self, expression: str, settings: Sequence[WeightSetting], part: Fidelity
    ) -> list[Measurement]:
        # All settings in one line: what is measured together adds up in one order.
        read: Key = (part.split.value, part.draw, part.first, part.sequences)
        key: Key = (expression, *read, *map(str, settings))
        found = self._journal.get(key)
        if found is None:
            found = self._found(expression, settings, part)
            self._journal.add(key, found)
        if "error" in found:
            raise EvaluationError(found["error"])
        tokens = self._prepared.spec.context - 1
        return [
            Measurement(tuple(kl), tuple(nll), tokens)
            for kl, nll in zip(found["kl"], found["nll"], strict=True)
        ]

    def _found(
        self, expression: str, settings: Sequence[WeightSetting], part: Fidelity
    ) -> dict[str, Any]:
        """Measure; return what the journal keeps, also of what cannot be measured."""
        evaluator = self._evaluator()
        try:
            found = evaluator.measure(expression, settings, part)
        except (SpecError, EvaluationError) as error:
            return {"error": str(error)}
        return {"kl": [own.kl for own in found], "nll": [own.nll for own in found]}

    def _evaluator(self) -> MetricEvaluator:
        if self._opened is None:
            self._observer.tell("gathering", {"sequences": CALIBRATION_SEQUENCES})
            self._opened = open_evaluator(self._prepared)
        return self._opened


def open_evaluator(prepared: Prepared) -> MetricEvaluator:
    """Load the model of a space of sparsities, and read what metrics need to know of it.

    Raises:
        AutocompressError: If it cannot be loaded, or its gradients are no numbers.
    """
    spec, device = prepared.spec, prepared.device
    if device.type == "cpu":
        torch.set_num_threads(1)
    model = loading.load_model(prepared.folder, device, spec.dtype, spec.trust_remote_code)
    weights = MaskedWeights()
    shaped = ShapedModel(loading.in_fast_numbers(model, spec.dtype), prepared.space, weights)
    rows = prepared.sequences[Split.SEARCH][:CALIBRATION_SEQUENCES]
    weights.gather(shaped, torch.from_numpy(rows).long().to(device))
    limits = prepared.session_plan("").limits
    return MetricEvaluator(shaped, weights, prepared.sequences, spec.seed, limits)
