"""Candidates as checkpoints in a folder, whichever engine opens them."""

from collections.abc import Sequence
from pathlib import Path

from autocompress.export import gate, gptq_checkpoint
from autocompress.export.checkpoint import Artifact, write_checkpoint
from autocompress.export.compressed_checkpoint import check_settings, write_compressed_checkpoint
from autocompress.export.gate import GateReport
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import PackedSource
from autocompress.pipeline.dense import measure_dense
from autocompress.pipeline.deployment import Reference, reference_of
from autocompress.pipeline.prepared import Prepared
from autocompress.pipeline.targets import DenseSize
from autocompress.spaces.base import Choice
from autocompress.spec_rules import COMPRESSED
from autocompress.trial import Genotype


class CheckpointDeployment:
    """One model, and its candidates in the format that the spec names.

    Args:
        levels: What it is shaped from.
        scratch: Folder for what is written.

    Raises:
        ExportError: If the format cannot hold what is searched, or its package lacks.
    """

    def __init__(
        self, prepared: Prepared, shaped: ShapedModel, levels: PackedSource, scratch: Path
    ) -> None:
        self.shaped = shaped
        self._is_compressed = prepared.spec.format in COMPRESSED
        if self._is_compressed:
            check_settings(prepared.space, shaped.model.dtype)
        if prepared.spec.format == "gptq":
            gptq_checkpoint.check_settings(prepared.space)
        self._prepared = prepared
        self._levels = levels
        self._scratch = scratch
        self._written: dict[Genotype, Artifact] = {}

    @property
    def dense(self) -> Path:
        """The untouched checkpoint's folder."""
        return self._prepared.folder

    def size(self) -> DenseSize:
        """Return the size of the untouched model; leaves it dense."""
        return measure_dense(self.shaped)

    def export(self, genotype: Genotype) -> Artifact:
        """Write a candidate as a checkpoint."""
        if genotype not in self._written:
            choices = self._prepared.space.choices(genotype)
            self._written[genotype] = self._write(choices, self._scratch / genotype.key)
        return self._written[genotype]

    def _write(self, choices: Sequence[Choice], folder: Path) -> Artifact:
        """Write the model with some choices into a new folder; leaves it so."""
        self.shaped.apply(choices)
        source, levels = self._prepared.folder, self._levels
        if self._prepared.spec.format == "gptq":
            return gptq_checkpoint.write_gptq_checkpoint(self.shaped, source, folder, levels)
        if not self._is_compressed:
            return write_checkpoint(self.shaped, source, folder, levels)
        as_decilm = self._prepared.spec.format == "decilm"
        return write_compressed_checkpoint(
            self.shaped, source, folder, levels, as_decilm=as_decilm
        )

    def _exported(self, winner: Genotype) -> tuple[Artifact, Reference]:
        """Return a winner's checkpoint and what a gate holds it against."""
        artifact = self.export(winner)
        return artifact, reference_of(self._prepared, self.shaped, winner, self._scratch)

    def _opened_by_transformers(self, artifact: Artifact, reference: Reference) -> GateReport:
        """Return what transformers finds in a checkpoint."""
        return gate.check(artifact, reference.file, str(self._prepared.device))
