"""KL divergence from the dense model, and the text's likelihood, sequence by sequence.

The teacher is kept as its last hidden states: its logits are one matrix product away, exact, and a
row of hidden states is a small part of a row of logits.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.trial import Fidelity, Genotype, Measurement, Split

SEQUENCES_AT_ONCE = 8


class DivergenceEvaluator:
    """Measures candidates on the sequences of a draw.

    A sequence's loss depends on the sequence and the candidate, and on which up to 8 sequences
    share its batch: so long as fidelities begin at multiples of 8, every reading gives the same.

    Args:
        sequences: For each split, (sequences, T) token ids.
        seed: Shuffles the draws.
    """

    def __init__(
        self, shaped: ShapedModel, sequences: Mapping[Split, np.ndarray], seed: int
    ) -> None:
        self._shaped = shaped
        self._sequences = sequences
        self._seed = seed
        self._device = shaped.model.device
        self._teacher: dict[tuple[Split, int], Tensor] = {}

    @torch.inference_mode()
    def measure(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement]:
        """Measure each candidate; KL and likelihood in nats a token over T - 1 positions."""
        rows = self._rows(fidelity)
        teacher = self._teacher_states(fidelity.split, rows)
        measurements = []
        for genotype in genotypes:
            self._shaped.apply(self._shaped.space.choices(genotype))
            kl: list[float] = []
            nll: list[float] = []
            for start in range(0, len(rows), SEQUENCES_AT_ONCE):
                ids = self._ids(fidelity.split, rows[start : start + SEQUENCES_AT_ONCE])
                states = self._states(ids)  # (B, T, hidden)
                for offset in range(len(ids)):
                    losses = self._losses(teacher[start + offset], states[offset], ids[offset])
                    kl.append(losses[0])
                    nll.append(losses[1])
            measurements.append(
                Measurement(tuple(kl), tuple(nll), self._sequences[fidelity.split].shape[1] - 1)
            )
        return measurements

    def _rows(self, fidelity: Fidelity) -> np.ndarray:
        order = draw_order(
            len(self._sequences[fidelity.split]), fidelity.split, fidelity.draw, self._seed
        )
        rows = order[fidelity.first : fidelity.end]
        if len(rows) < fidelity.sequences:
            raise ValueError(f"{fidelity} reads beyond the {len(order)} sequences of its split")
        return rows

    def _ids(self, split: Split, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self._sequences[split][rows]).long().to(self._device)

    def _states(self, ids: Tensor) -> Tensor:
        states: Tensor = self._shaped.model.model(ids, use_cache=False).last_hidden_state
        return states  # (B, T, hidden)

    def _teacher_states(self, split: Split, rows: np.ndarray) -> list[Tensor]:
        """Return the dense model's last hidden states, (T, hidden) each; each row is run once."""
        missing = [row for row in rows if (split, int(row)) not in self._teacher]
        if missing:
            self._shaped.apply_dense()
            for start in range(0, len(missing), SEQUENCES_AT_ONCE):
                batch = np.asarray(missing[start : start + SEQUENCES_AT_ONCE])
                for row, states in zip(batch, self._states(self._ids(split, batch)), strict=True):
                    self._teacher[split, int(row)] = states.clone()
        return [self._teacher[split, int(row)] for row in rows]

    def _losses(self, teacher: Tensor, student: Tensor, ids: Tensor) -> tuple[float, float]:
        head = self._shaped.model.lm_head
        t = torch.log_softmax(head(teacher[:-1]).float(), -1)  # (T - 1, V)
        s = torch.log_softmax(head(student[:-1]).float(), -1)  # (T - 1, V)
        kl = (t.exp() * (t - s)).sum(-1).mean()
        nll = -s.gather(1, ids[1:, None]).mean()
        # Rounding may take the divergence of equal models a hair below zero.
        value = float(kl)
        return (max(value, 0.0) if math.isfinite(value) else value), float(nll)
