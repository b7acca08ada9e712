"""Measures candidates after a short training of each, from their levels on.

A candidate's training depends on it, the draw and its length alone: the same text in the same
steps at one rate, so that a longer training begins as a shorter one, whoever does it. (But for
rounding on a GPU, where attention may add its gradients in any order.) Widths and drops are real
while it lasts: what is gone of a student has no weights that could come back.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from autocompress.errors import EvaluationError
from autocompress.evaluators.out_of_memory import is_out_of_memory, out_of_memory
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.training.distillation import Distance, make_optimizer, take_step
from autocompress.training.reading import logits_of, read
from autocompress.trial import Fidelity, Genotype, Measurement, Split

WARM_UP_STEPS: Final = 4


@dataclass(frozen=True, slots=True)
class ShortTraining:
    """How candidates are trained before they are measured.

    Args:
        rate: Of the optimizer, once it has warmed up; it does not fall.
        optimizer: `adamw` or `sgd`.
        sequences: Of a step.
        teacher_tokens: Likeliest tokens kept of each prediction of the dense model, in reading.
    """

    rate: float
    optimizer: str = "adamw"
    sequences: int = 2
    teacher_tokens: int = 512


class TrainedEvaluator:
    """Trains each candidate on the search text, and reads what it then loses.

    Args:
        sequences: For each split, (sequences, T) token ids.
        seed: Shuffles the draws.
    """

    def __init__(
        self,
        shaped: ShapedModel,
        sequences: Mapping[Split, np.ndarray],
        seed: int,
        settings: ShortTraining,
    ) -> None:
        self._shaped = shaped
        self._sequences = sequences
        self._seed = seed
        self._settings = settings

    def measure(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement]:
        """Train and measure each candidate; KL and likelihood in nats a token.

        Raises:
            EvaluationError: If a training's loss is no finite number, no text is left to train
                on, or memory runs out.
        """
        return [self._measured(genotype, fidelity) for genotype in genotypes]

    def _measured(self, genotype: Genotype, fidelity: Fidelity) -> Measurement:
        try:
            student = self._student(genotype)
            self._train(student, fidelity)
            order = self._order(fidelity.split, fidelity.draw)
            rows = self._sequences[fidelity.split][order[fidelity.first : fidelity.end]]
            dense = logits_of(self._shaped.model, is_fast=False)
            return read(logits_of(student), dense, rows, self._settings.teacher_tokens)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise EvaluationError(out_of_memory(genotype.key, str(error))) from None

    def _student(self, genotype: Genotype) -> nn.Module:
        """Return a candidate of its own tensors, in float32; the model is left dense."""
        self._shaped.apply(self._shaped.space.choices(genotype))
        student: nn.Module = copy.deepcopy(self._shaped.model).float()
        self._shaped.apply_dense()
        return student.requires_grad_(requires_grad=True)

    def _train(self, student: nn.Module, fidelity: Fidelity) -> None:
        rows = self._text(fidelity)
        at_once = self._settings.sequences
        steps = max(1, fidelity.trained // (at_once * rows.shape[1]))
        parameters = list(student.parameters())
        optimizer = make_optimizer(self._settings.optimizer, parameters, self._settings.rate)
        distance = Distance(student, self._shaped.model)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = self._settings.rate * min(1.0, (step + 1) / WARM_UP_STEPS)
            places = np.arange(step * at_once, (step + 1) * at_once) % len(rows)
            ids = torch.from_numpy(rows[places]).long().to(self._shaped.model.device)
            take_step(distance.loss(ids), parameters, optimizer, step)

    def _text(self, fidelity: Fidelity) -> np.ndarray:
        """Return what candidates are trained on: the draw's search text from its end backward.

        Raises:
            EvaluationError: If all of it is read to measure them.
        """
        order = self._order(Split.SEARCH, fidelity.draw)
        read_of_it = fidelity.end if fidelity.split is Split.SEARCH else 0
        left = order[read_of_it:][::-1]
        if len(left) < self._settings.sequences:
            raise EvaluationError(
                f"`sequences to train on >= {self._settings.sequences}` must hold, but all "
                f"{len(order)} of the search text are read: give more --calibration text."
            )
        rows: np.ndarray = self._sequences[Split.SEARCH][left]
        return rows

    def _order(self, split: Split, draw: int) -> np.ndarray:
        return draw_order(len(self._sequences[split]), split, draw, self._seed)
