"""Candidates as GGUF files that llama.cpp runs."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from autocompress.evaluators.file_stopwatch import FileStopwatch
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.latency_rows import Spent
from autocompress.evaluators.llama_cpp_engine import LlamaCppEngine
from autocompress.evaluators.subprocess_call import nobody
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.export import gguf_gate
from autocompress.export.checkpoint import Artifact, file_digests, layers_left
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.export.packing import packed_layers
from autocompress.models.ends import EMBEDDING, HEAD
from autocompress.models.streaming import Checkpoint
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import PackedSource
from autocompress.operators.ggml_ends import packed_ends
from autocompress.operators.packed import PackedWeight
from autocompress.pipeline.deployment import (
    Verified,
    check_perplexity,
    most_memory,
    passed,
    reference_of,
    report_text,
)
from autocompress.pipeline.latency import engine_device, hardware, measure_tables
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import DenseSize
from autocompress.spaces.base import Choice
from autocompress.trial import Genotype, Measurement

F16_BITS: Final = 16
THREAD_REPEATS: Final = 1


class GgufDeployment:
    """One model on the llama.cpp engine; its dense file, in f16, is written at once.

    Where candidates store token embedding and head otherwise, so is the file that they begin
    with, whose layers are all in f16.

    Args:
        levels: What the model is shaped from.
        scratch: Folder for what is written.
        source: The checkpoint that all is taken from which is not stored otherwise; None is the
            dense model's own.

    Raises:
        ExportError: If the model cannot be told in GGUF.
        EngineError: If the packages of the extra `llama-cpp` lack.
    """

    def __init__(
        self,
        prepared: Prepared,
        shaped: ShapedModel,
        levels: PackedSource,
        scratch: Path,
        source: Path | None = None,
    ) -> None:
        self.shaped = shaped
        self.dense = scratch / "dense.gguf"
        self._prepared = prepared
        self._levels = levels
        self._scratch = scratch
        self._written: dict[Genotype, Artifact] = {}
        self._ends: dict[str, PackedWeight] = {}
        self._start = self.dense
        self._source = source or prepared.folder
        write_gguf(self._source, self.dense)
        if prepared.spec.has_stored_ends:
            shaped.put_dense_ends()
            self._ends = packed_ends(shaped.model, prepared.spec.embeddings)
            if not Checkpoint(self._source).lacks([HEAD]):
                # A checkpoint may hold what is tied twice: so do its files.
                self._ends.setdefault(HEAD, self._ends[EMBEDDING])
            self._start = scratch / "start.gguf"
            write_gguf(self._source, self._start, self._ends)

    @functools.cached_property
    def _fastest(self) -> int:
        workload = self._prepared.spec.workload.first
        (found,) = LlamaCppEngine().latency([self.dense], workload, THREAD_REPEATS)
        return found.threads

    @property
    def engine_version(self) -> str:
        """The version of the package that brings llama.cpp."""
        return LlamaCppEngine().version

    def size(self) -> DenseSize:
        """Return the size of the dense file's tensors, and what all candidates save of it."""
        stored, space = read_gguf(self.dense), self._prepared.space
        linear = sum(group.weights for site in space.sites for group in site.groups)
        saved = stored.bytes - read_gguf(self._start).bytes
        return DenseSize(stored.numbers, stored.bytes, F16_BITS, linear, saved_at_ends=saved)

    def peak_memory(self, path: Path) -> int | None:
        """Run each workload in a process of its own."""
        return most_memory(LlamaCppEngine(1), path, self._prepared.spec.workload)

    def engine(self, table: LatencyTables | None) -> LlamaCppEngine:
        """Return the engine."""
        return LlamaCppEngine(table.first.threads if table else self._fastest)

    def measure_tables(self, observer: Observer) -> LatencyTables:
        """Time files, each with a setting in all layers, in processes of the engine.

        What all candidates save at embedding and head is no setting's: they are timed beside the
        file that all begin with, and the dense file is timed beside that.
        """
        spec, engine = self._prepared.spec, self.engine(None)
        stopwatches = [
            FileStopwatch(engine, self._start, self._write, workload, self._scratch)
            for workload in spec.workload.workloads
        ]
        ratios: list[Spent] = []
        if spec.has_stored_ends:
            observer.stage("latency of the dense model")
            ratios = [own.beside(self.dense, own.rounds) for own in stopwatches]
        return measure_tables(
            stopwatches,
            engine,
            hardware(engine_device(spec.engine, self._prepared.device), engine.threads),
            self._prepared.space,
            spec.workload,
            spec.seed,
            observer,
            ratios,
            spec.embeddings,
        )

    def export(self, genotype: Genotype) -> Artifact:
        """Write a candidate as a GGUF file in a folder of its own."""
        if genotype not in self._written:
            folder = self._scratch / genotype.key
            folder.mkdir()
            name = f"{self._prepared.folder.resolve().name}.gguf"
            self._write(self._prepared.space.choices(genotype), folder / name)
            stored = read_gguf(folder / name)
            self._written[genotype] = Artifact(
                folder,
                stored.numbers,
                stored.bytes,
                stored.linear_bytes,
                False,
                name,
                file_digests(folder),
            )
        return self._written[genotype]

    def verify(self, winner: Genotype, measured: Measurement) -> Verified:
        """Put a winner through the gate, and its file through the text that it was judged on.

        Raises:
            GateError: If llama.cpp does not find in it what was searched.
        """
        artifact = self.export(winner)
        reference = reference_of(self._prepared, self.shaped, winner, self._scratch)
        report = gguf_gate.check(artifact, reference.file)
        found = self._read(artifact, len(measured.nll))
        check_perplexity("llama.cpp", artifact, found, measured)
        return passed(self._prepared, reference, artifact, report, found.perplexity)

    def _read(self, artifact: Artifact, n: int) -> Measurement:
        """Read as much report text as the winner was measured on, with the engine."""
        spec, text = self._prepared.spec, report_text(self._prepared, n)
        how = Reading(str(self._prepared.device), spec.dtype, spec.teacher_tokens, False)
        return measure_checkpoint(artifact.path, None, text, how, nobody)[0]

    def _write(self, choices: Sequence[Choice], file: Path) -> None:
        packed = packed_layers(self._prepared.space, choices, self._levels)
        write_gguf(
            self._source,
            file,
            {
                f"model.layers.{layer}.{name}.weight": weight
                for layer, linears in packed.items()
                for name, weight in linears.items()
            }
            | self._ends,
            layers_left(self._prepared.space, choices),
        )
