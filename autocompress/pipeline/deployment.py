"""What a search does on the engine that the model is to be served with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from autocompress.errors import GateError
from autocompress.evaluators.base import Engine
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.export.checkpoint import Artifact
from autocompress.export.gate import ANSWER_TOKENS, GateReport, write_reference
from autocompress.models.generation import generate
from autocompress.models.surgery import ShapedModel
from autocompress.models.text import draw_order
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import DenseSize
from autocompress.trial import Genotype, Measurement, Split
from autocompress.workload import Mix

PROMPT_TOKENS = 48
# An engine's own rounding moves a perplexity by less.
AGREEMENT = 0.01


@dataclass(frozen=True, slots=True)
class Verified:
    """The exported winner and what the gate and the engine said of it.

    Args:
        reference: The winner's logits, as the gate reads them.
        answers: Text after the sample prompt: the prompt, the dense model's, the winner's.
        perplexity: Of the artifact on the report text, as the engine reads it; None where losses
            are measured with the same engine.
        decoded: Settings of the winner that the engine has no kernel for.
    """

    artifact: Artifact
    gate: GateReport
    reference: Path
    answers: tuple[str, str, str]
    perplexity: float | None = None
    decoded: tuple[str, ...] = ()


class Deployment(Protocol):
    """How candidates become files of an engine, are timed there and proven."""

    @property
    def shaped(self) -> ShapedModel:
        """The model that losses and references are computed with."""

    @property
    def dense(self) -> Path:
        """What the engine opens of the untouched model."""

    @property
    def engine_version(self) -> str:
        """The version of what runs them."""

    def size(self) -> DenseSize:
        """Return how large the untouched model is, as the engine's files hold it."""

    def peak_memory(self, path: Path) -> int | None:
        """Return the most that the engine's process holds while it runs any of the workloads.

        Above what it holds before it opens the model; None where the system does not tell.
        """

    def engine(self, table: LatencyTables | None) -> Engine:
        """Return the engine, on as many threads as tables were measured at."""

    def measure_tables(self, observer: Observer) -> LatencyTables:
        """Measure what every choice costs on the engine."""

    def export(self, genotype: Genotype) -> Artifact:
        """Write a candidate; one that was written before is not written again."""

    def verify(self, winner: Genotype, measured: Measurement) -> Verified:
        """Put a winner through the gate.

        Args:
            measured: What it loses on the report text.

        Raises:
            GateError: If its artifact is not what was searched.
        """


def most_memory(engine: Engine, path: Path, mix: Mix) -> int | None:
    """Return the most that any of the workloads takes; None where the system does not tell."""
    found = [engine.peak_memory(path, workload) for workload in mix.workloads]
    return max((own for own in found if own is not None), default=None)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a gate holds an artifact against.

    Args:
        file: The candidate's logits.
        prompt: (1, T) token ids.
        dense_answer: Token ids after the prompt.
    """

    file: Path
    prompt: torch.Tensor
    dense_answer: Sequence[int]


def reference_of(
    prepared: Prepared, shaped: ShapedModel, winner: Genotype, scratch: Path
) -> Reference:
    """Return what a gate compares; leaves the model as the winner has it."""
    rows = prepared.sequences[Split.REPORT]
    prompt = torch.from_numpy(rows[:1, : min(PROMPT_TOKENS, rows.shape[1] // 2)]).long()
    shaped.apply_dense()
    whole, _ = generate(shaped.model, prompt.to(prepared.device), ANSWER_TOKENS)
    shaped.apply(prepared.space.choices(winner))
    file = write_reference(shaped, prompt, scratch)
    return Reference(file, prompt, whole[0, prompt.shape[1] :].tolist())


def report_text(prepared: Prepared, n: int) -> np.ndarray:
    """Return as many sequences of the report text as a winner was measured on: (n, T) ids."""
    rows = prepared.sequences[Split.REPORT]
    some: np.ndarray = rows[draw_order(len(rows), Split.REPORT, 0, prepared.spec.seed)[:n]]
    return some


def check_perplexity(
    engine: str, artifact: Artifact, found: Measurement, searched: Measurement
) -> None:
    """Hold what an engine makes of a text against what the searched candidate does.

    Raises:
        GateError: If their perplexities differ by more than `AGREEMENT`.
    """
    if abs(math.log(found.perplexity / searched.perplexity)) > AGREEMENT:
        raise GateError(
            f"{engine} reads the text with a perplexity of {found.perplexity:.4f} from "
            f"{artifact.path.name}, and the searched candidate had {searched.perplexity:.4f}: "
            f"they may differ by {AGREEMENT:.0%}."
        )


def passed(
    prepared: Prepared,
    reference: Reference,
    artifact: Artifact,
    report: GateReport,
    perplexity: float | None = None,
) -> Verified:
    """Return what a gate said, if it let the artifact pass.

    Raises:
        GateError: If it did not.
    """
    if not report.passed:
        raise GateError(f"The checkpoint did not pass the gate: {'; '.join(report.failures)}.")
    decode = prepared.tokenizer.decode
    answers = (reference.prompt[0], list(reference.dense_answer), list(report.findings.answer))
    prompt, theirs, ours = (str(decode(ids)) for ids in answers)
    return Verified(artifact, report, reference.file, (prompt, theirs, ours), perplexity)
