"""The contracts of measuring: what a candidate loses, and how fast it runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from autocompress.evaluators.subprocess_call import Progress, nobody
from autocompress.trial import Fidelity, Genotype, Measurement
from autocompress.workload import Phase, Workload


class Evaluator(Protocol):
    """What a candidate is worth."""

    def measure(self, genotypes: Sequence[Genotype], fidelity: Fidelity) -> list[Measurement]:
        """Measure a population; each loss is the one the candidate gets alone."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one workload, repeat by repeat.

    Args:
        prefill: Until the first token, of each repeat.
        decode: Of one further token (the median over tokens), of each repeat.
        total: Of the whole workload, of each repeat.
        threads: CPU threads that it ran on.
    """

    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    total: tuple[float, ...]
    threads: int

    def times(self, workload: Workload) -> tuple[float, ...]:
        """Return what counts of a workload, of each repeat."""
        match workload.phase:
            case Phase.PREFILL:
                return self.prefill
            case Phase.DECODE:
                return self.decode
            case Phase.WHOLE:
                return self.total


class Timer(Protocol):
    """What times checkpoints."""

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        """Time checkpoints from disk in a process of their own, in turn within each repeat.

        Raises:
            EngineError: If one of them does not load or run.
        """


class Engine(Timer, Protocol):
    """What runs a model."""

    @property
    def name(self) -> str:
        """As in `--engine`."""

    @property
    def version(self) -> str:
        """The engine's own version."""

    @property
    def threads(self) -> int:
        """On a CPU; 0 has the fastest number found anew for the first of the checkpoints."""

    def peak_memory(self, checkpoint: Path, workload: Workload) -> int | None:
        """Return the bytes that a process of its own holds at most while it runs the workload.

        Weights, KV cache and all that a request takes; what the process and the engine hold for
        themselves is left out. None where the operating system does not tell.

        Raises:
            EngineError: If it does not load or run.
        """


class Predictor(Protocol):
    """A model opened from disk to read text."""

    def logits(self, ids: np.ndarray) -> Tensor:
        """Return what follows each of (T,) token ids but the last: (T - 1, V) float32."""
