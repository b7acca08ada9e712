"""Candidates as checkpoints that vLLM runs: in compressed-tensors, as a DeciLM, or in GPTQ."""

import dataclasses
import shutil
from pathlib import Path

from safetensors import safe_open

from autocompress.evaluators.file_stopwatch import FileStopwatch, Turns
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.vllm_engine import VllmEngine
from autocompress.export.checkpoint import Artifact, changed_files, stored_tensor_bytes
from autocompress.export.gate import ANSWER_TOKENS, TOLERANCE, Findings, GateReport
from autocompress.pipeline.checkpoint_deployment import CheckpointDeployment
from autocompress.pipeline.deployment import (
    Reference,
    Verified,
    check_perplexity,
    passed,
    report_text,
)
from autocompress.pipeline.latency import hardware, measure_tables
from autocompress.pipeline.observer import Observer
from autocompress.trial import Genotype, Measurement

BETWEEN = 5
"""Checkpoints between two starts of the dense one: a start takes far longer than what it times."""


class VllmDeployment(CheckpointDeployment):
    """One model on vLLM; losses are those of torch.

    Raises:
        EngineError: If there is no vLLM.
        ExportError: If the format cannot hold what is searched, or its package lacks.
    """

    @property
    def engine_version(self) -> str:
        """The version of vLLM."""
        return self.engine(None).version

    def peak_memory(self, path: Path) -> None:
        """Return nothing: vLLM takes the memory that it is told to."""

    def engine(
        self,
        table: LatencyTables | None,  # noqa: ARG002  # its threads are its own business
    ) -> VllmEngine:
        """Return the engine."""
        spec, device = self._prepared.spec, str(self._prepared.device)
        return VllmEngine(device, spec.dtype, spec.trust_remote_code)

    def measure_tables(self, observer: Observer) -> LatencyTables:
        """Time checkpoints, each with one change in all layers that may have it."""
        spec = self._prepared.spec
        engine = dataclasses.replace(self.engine(None), starts=1)
        turns = Turns(shutil.disk_usage(self._scratch).free // 2, BETWEEN)
        return measure_tables(
            [
                FileStopwatch(engine, self.dense, self._write, workload, self._scratch, turns)
                for workload in spec.workload.workloads
            ],
            engine,
            hardware(self._prepared.device, engine.threads),
            self._prepared.space,
            spec.workload,
            spec.seed,
            observer,
        )

    def verify(self, winner: Genotype, measured: Measurement) -> Verified:
        """Have vLLM read the text and answer; transformers first, where it opens the format.

        Raises:
            GateError: If either finds something else than what was searched.
        """
        engine = self.engine(None)
        artifact, reference = self._exported(winner)
        if self._prepared.spec.format == "gptq":
            report = self._unopened(artifact, reference)
            version = engine.version
        else:
            report = self._opened_by_transformers(artifact, reference)
            version = f"{engine.version}, after transformers {report.engine_version}"
        text = report_text(self._prepared, len(measured.nll))
        prompt = reference.prompt[0].tolist()
        found = engine.read(artifact.path, text, prompt, ANSWER_TOKENS)
        read = Measurement((0.0,) * len(text), found.nll, text.shape[1] - 1)
        check_perplexity("vLLM", artifact, read, measured)
        seen = report.findings
        findings = dataclasses.replace(
            seen,
            cache_difference=max(seen.cache_difference, found.cache_difference),
            answer=found.answer,
        )
        report = dataclasses.replace(
            report, findings=findings, engine="vLLM", engine_version=version
        )
        return passed(self._prepared, reference, artifact, report, read.perplexity)

    def _unopened(self, artifact: Artifact, reference: Reference) -> GateReport:
        """Return what can be said of a checkpoint that only vLLM opens, before it does."""
        with safe_open(reference.file, framework="pt") as kept:
            largest = float(kept.get_tensor("logits").abs().max())
        tolerance = TOLERANCE[self.shaped.model.dtype] * largest
        stored = stored_tensor_bytes(artifact.folder)
        return GateReport(
            Findings(None, 0.0, tolerance, stored, ()),
            stored == artifact.tensor_bytes,
            "",
            "",
            tuple(changed_files(artifact)),
        )
