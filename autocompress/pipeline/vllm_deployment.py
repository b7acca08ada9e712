"""Candidates as compressed-tensors checkpoints that vLLM runs."""

import dataclasses
import shutil
from pathlib import Path

from safetensors import safe_open

from autocompress.evaluators.file_stopwatch import FileStopwatch, Turns
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.vllm_engine import VllmEngine
from autocompress.export.gate import ANSWER_TOKENS
from autocompress.pipeline.checkpoint_deployment import CheckpointDeployment
from autocompress.pipeline.deployment import (
    Verified,
    check_perplexity,
    check_report,
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
        spec = self._prepared.spec
        return VllmEngine(spec.dtype, spec.trust_remote_code)

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
        """Put a winner through the gate, then have vLLM read the text and answer.

        Raises:
            GateError: If either finds something else than what was searched.
        """
        verified = self._opened_by_transformers(winner)
        with safe_open(verified.reference, framework="pt") as kept:
            prompt = kept.get_tensor("prompt")[0].tolist()
        text = report_text(self._prepared, len(measured.nll))
        engine, path = self.engine(None), verified.artifact.path
        found = engine.read(path, text, prompt, ANSWER_TOKENS)
        read = Measurement((0.0,) * len(text), found.nll, text.shape[1] - 1)
        check_perplexity("vLLM", verified.artifact, read, measured)
        seen = verified.gate.findings
        report = dataclasses.replace(
            verified.gate,
            findings=dataclasses.replace(
                seen,
                cache_difference=max(seen.cache_difference, found.cache_difference),
                answer=found.answer,
            ),
            engine="vLLM",
            engine_version=f"{engine.version}, after transformers {verified.gate.engine_version}",
        )
        check_report(report)
        answer = str(self._prepared.tokenizer.decode(list(found.answer)))
        return dataclasses.replace(
            verified,
            gate=report,
            answers=(*verified.answers[:2], answer),
            perplexity=read.perplexity,
            decoded=(),
        )
