"""Candidates as checkpoints that torch runs: our own, or in compressed-tensors."""

import dataclasses
from pathlib import Path

import torch
import transformers

from autocompress.evaluators.kernel_shapes import settings_without_kernel
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.shaped_stopwatch import ShapedStopwatch
from autocompress.evaluators.torch_engine import TorchEngine, fastest_threads
from autocompress.pipeline.checkpoint_deployment import CheckpointDeployment
from autocompress.pipeline.deployment import Verified, most_memory, passed
from autocompress.pipeline.latency import hardware, measure_tables
from autocompress.pipeline.observer import Observer
from autocompress.spec_rules import COMPILED_TORCH
from autocompress.trial import Genotype, Measurement


class TorchDeployment(CheckpointDeployment):
    """One model on the torch engine."""

    @property
    def engine_version(self) -> str:
        """The versions of torch, and of transformers, whose models it runs."""
        return f"{torch.__version__}, transformers {transformers.__version__}"

    def peak_memory(self, path: Path) -> int | None:
        """Run each workload in a process of its own."""
        spec = self._prepared.spec
        return most_memory(self._engine(1), path, spec.workload)

    def engine(self, table: LatencyTables | None) -> TorchEngine:
        """Return the engine; leaves this process on its threads."""
        return self._engine(table.first.threads if table else self._fastest())

    def measure_tables(self, observer: Observer) -> LatencyTables:
        """Time one shape after another in this process."""
        spec, device = self._prepared.spec, self._prepared.device
        engine = self.engine(None)
        torch.set_num_threads(engine.threads)
        return measure_tables(
            [
                ShapedStopwatch(
                    self.shaped,
                    workload,
                    reads_codes=not self._is_compressed,
                    compiled=engine.compiled,
                )
                for workload in spec.workload.workloads
            ],
            engine,
            hardware(device, engine.threads),
            self._prepared.space,
            spec.workload,
            spec.seed,
            observer,
        )

    def _engine(self, threads: int) -> TorchEngine:
        spec, device = self._prepared.spec, str(self._prepared.device)
        compiled = spec.engine == COMPILED_TORCH
        return TorchEngine(device, spec.dtype, threads, spec.trust_remote_code, compiled)

    def _fastest(self) -> int:
        return fastest_threads(self.shaped.model, self._prepared.spec.workload.first)

    def verify(
        self,
        winner: Genotype,
        measured: Measurement,  # noqa: ARG002  # by torch itself: there is nothing to compare
    ) -> Verified:
        """Put a winner through the gate."""
        artifact, reference = self._exported(winner)
        report = self._opened_by_transformers(artifact, reference)
        verified = passed(self._prepared, reference, artifact, report)
        space, model = self._prepared.space, self.shaped.model
        choices = space.choices(winner)
        decoded = settings_without_kernel(space.sites, choices, model.device, model.dtype)
        if self._is_compressed:
            stored = {setting for choice in choices for setting in choice.weights}
            decoded = sorted(str(setting) for setting in stored if not setting.is_dense)
        return dataclasses.replace(verified, decoded=tuple(decoded))
