"""What can be known of a search before its model is loaded; most bad input ends here."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from autocompress.errors import SpecError
from autocompress.evaluators.compiled_layers import check_compiler
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.evaluators.population import EvaluatorLimits
from autocompress.evaluators.stored_latency import read_tables
from autocompress.evaluators.vllm_engine import VllmEngine
from autocompress.export.compressed_checkpoint import compressed_tensors_package
from autocompress.export.decilm import check_family
from autocompress.models import loading, text
from autocompress.models.architecture import Architecture, shape_of
from autocompress.operators.database import address
from autocompress.operators.ggml_blocks import check_packages
from autocompress.operators.levels import stored_as
from autocompress.operators.shared_storage import SharedStorage
from autocompress.operators.weight_operators import load_weight_operator, reads_gradients
from autocompress.pipeline.shapes import setting_of, space_of
from autocompress.pipeline.starting import start_of
from autocompress.search import breeding, proposals
from autocompress.search.bayes import WAYS
from autocompress.search.shards import Cut
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.making import ModelShape
from autocompress.spaces.settings import block_format
from autocompress.spec import PARETO, SearchSpec
from autocompress.spec_rules import COMPILED_TORCH, COMPRESSED, VLLM_CPU_BITS, is_of_bits
from autocompress.training.short import ShortTraining
from autocompress.trial import Genotype, Split
from autocompress.workers.session import CALIBRATION_SEQUENCES, SessionPlan

REPORT_SEQUENCES = 256
# Through a site at a time; shorter readings than the least waste even one core.
CPU_TOKENS = 2048
GPU_TOKENS = 32768
CPU_LOGITS = 2**24
GPU_LOGITS = 2**28
CPU_STATES = 2**28
GPU_STATES = 2**32
TOKENS_AT_LEAST = 512


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked search: its model's folder and shape, its space, its text.

    Args:
        sequences: For each split, (sequences, T) token ids.
        imported: The latency table the user gave, or None.
        start: Candidates that the user named.
    """

    spec: SearchSpec
    folder: Path
    architecture: Architecture
    space: SearchSpace
    tokenizer: PreTrainedTokenizerBase
    sequences: Mapping[Split, np.ndarray]
    device: torch.device
    imported: LatencyTables | None
    start: tuple[Genotype, ...] = ()

    @property
    def shape(self) -> ModelShape:
        """What the space was made of."""
        return shape_of(self.architecture, fused=not self.spec.per_linear)

    @property
    def cut(self) -> Cut:
        """How batches are cut into shards."""
        return Cut(self.spec.shards, max(1, TOKENS_AT_LEAST // self.spec.context))

    def session_plan(self, weights: str) -> SessionPlan:
        """Return what workers need; `weights` is the model's fingerprint."""
        on_gpu = self.device.type == "cuda"
        name = address(
            weights,
            text.fingerprint(self.sequences),
            str(CALIBRATION_SEQUENCES),
            self.spec.dtype,
            self.device.type,
            str(loading.lacks_bfloat16(self.device)),
            *self._upstream(),
        )
        return SessionPlan(
            model=self.folder,
            device=str(self.device),
            dtype=self.spec.dtype,
            trust_remote_code=self.spec.trust_remote_code,
            space=self.space,
            sequences=self.sequences,
            levels=cache_folder() / "levels" / name,
            seed=self.spec.seed,
            limits=EvaluatorLimits(
                teacher_tokens=self.spec.teacher_tokens,
                states_bytes=GPU_STATES if on_gpu else CPU_STATES,
                tokens_at_once=GPU_TOKENS if on_gpu else CPU_TOKENS,
                logits_at_once=GPU_LOGITS if on_gpu else CPU_LOGITS,
                joins_sequences=on_gpu,
            ),
            weights_bytes=self.spec.weights_bytes,
            codes=self.spec.quantizer,
            zeros=self.spec.pruner,
            upstream=setting_of(self.spec.upstream),
            shared_levels=shared_levels(),
            training=self._training(),
            embeddings=self.spec.embeddings if self.spec.has_stored_ends else None,
        )

    def _upstream(self) -> tuple[str, ...]:
        """Return what layers are behind which later ones are calibrated: site by site, how built.

        The same word stands for other weights where menus, groups or methods are others.
        """
        spec, setting = self.spec, setting_of(self.spec.upstream)
        if setting is None:
            return (spec.upstream,)
        methods = (load_weight_operator(name).version for name in (spec.quantizer, spec.pruner))
        return (*methods, *(str(stored_as(site, setting)) for site in self.space.sites))

    def _training(self) -> ShortTraining | None:
        spec = self.spec
        if spec.strategy != "darwin":
            return None
        return ShortTraining(
            spec.darwin_rate, spec.darwin_optimizer, teacher_tokens=spec.teacher_tokens
        )


def prepare(spec: SearchSpec) -> Prepared:
    """Read the model's config, tokenizer and text, and the latency table; load no weights.

    Raises:
        AutocompressError: Whatever cannot be meant, found or read.
    """
    device = loading.pick_device(spec.device)
    # Absolute, for processes that work elsewhere.
    folder = loading.resolve(spec.model).absolute()
    architecture = loading.load_architecture(folder, spec.trust_remote_code)
    if spec.has_stored_ends:
        _check_embeddings(spec.embeddings, architecture)
    space = space_of(spec, shape_of(architecture, fused=not spec.per_linear))
    load_weight_operator(spec.pruner)
    if reads_gradients(spec.pruner):
        _check_gradients(spec)
    if spec.strategy in WAYS:
        proposals.check_packages(WAYS[spec.strategy].sampler)
    if spec.engine == "llama.cpp":
        check_packages()
    if spec.strategy in PARETO:
        breeding.check_package()
    if spec.format in COMPRESSED:
        compressed_tensors_package()
    if spec.format == "decilm":
        check_family(loading.load_config(folder, spec.trust_remote_code))
    if spec.engine == "vllm":
        _check_vllm(spec, device)
    if spec.engine == COMPILED_TORCH:
        check_compiler(device)
    if all(len(menu) == 1 for menu in space.menus):
        raise SpecError("The space holds nothing to choose: add depth, width or bits to --space.")
    imported = None if spec.latency_table is None else import_table(spec.latency_table, space)
    if imported is not None and imported.mix != spec.workload:
        raise SpecError(
            f"`workload = {imported.mix}` of the latency table must hold, but got {spec.workload}."
        )
    if imported is not None and imported.first.engine != spec.engine:
        raise SpecError(
            f"`engine = {imported.first.engine}` of the latency table must hold, but got "
            f"{spec.engine}."
        )
    if imported is not None and imported.first.embeddings != spec.embeddings:
        raise SpecError(
            f"`embeddings = {imported.first.embeddings}` of the latency table must hold, but got "
            f"{spec.embeddings}."
        )
    shared = shared_levels()
    if shared is not None:
        SharedStorage(shared)
    documents = text.read_documents(spec.calibration)
    tokenizer = loading.load_tokenizer(folder, spec.trust_remote_code)
    sequences = text.make_sequences(tokenizer, documents, spec.context)
    start = () if spec.start is None else (_named(spec, space),)
    return Prepared(
        spec, folder, architecture, space, tokenizer, sequences, device, imported, start
    )


def _named(spec: SearchSpec, space: SearchSpace) -> Genotype:
    """Return the candidate that the spec's `start` tells."""
    middle = float(spec.sparsities[0]) if spec.sparsity_step else 0.0
    return start_of(Path(str(spec.start)).expanduser(), space, middle)


def _check_embeddings(kind: str, architecture: Architecture) -> None:
    """Make sure that whole blocks make up the rows of token embedding and head.

    Raises:
        SpecError: If they do not.
    """
    block = block_format(kind).block or 1
    if architecture.hidden % block:
        raise SpecError(
            f"embeddings: `hidden % {block} == 0` must hold for {kind}, but got "
            f"{architecture.hidden}. Types that end in _0 have blocks of 32 columns, the others "
            "of 256."
        )


def _check_gradients(spec: SearchSpec) -> None:
    """Make sure that a formula of gradients has some.

    Raises:
        SpecError: If it has none of a model that is streamed, or of one that is trained.
    """
    if spec.weights_bytes is not None:
        raise SpecError("pruner: a model that is streamed has no gradients: leave G out.")
    if spec.recover is not None and {"depth", "width"} & set(spec.space):
        raise SpecError("pruner: a winner is trained without gradients of it kept: leave G out.")


def _check_vllm(spec: SearchSpec, device: torch.device) -> None:
    """Make sure that vLLM is there for the device and has kernels for what weights may take.

    Raises:
        EngineError: If it is not.
        SpecError: If it has none for some of it.
    """
    VllmEngine(str(device), spec.dtype, spec.trust_remote_code)
    wrong = [name for name in spec.bits if not is_of_bits(name, VLLM_CPU_BITS)]
    if "bits" in spec.space and device.type == "cpu" and wrong:
        raise SpecError(
            f"vLLM has kernels for codes of {', '.join(VLLM_CPU_BITS)} bits alone on a CPU: leave "
            f"{', '.join(wrong)} out of --bits."
        )


def import_table(path: str, space: SearchSpace) -> LatencyTables:
    """Read a latency table that `autocompress profile --output` wrote.

    Raises:
        SpecError: If it cannot be read or is no latency table of this space.
    """
    try:
        values = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read latency table {path}: {error.strerror}.") from error
    except ValueError as error:
        raise SpecError(f"Latency table {path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SpecError(f"Latency table {path} must hold a mapping.")
    return read_tables(values, space)


def cache_folder() -> Path:
    """Return where levels are kept for all studies: `$AUTOCOMPRESS_CACHE`, or under the home."""
    return Path(os.environ.get("AUTOCOMPRESS_CACHE", "~/.cache/autocompress")).expanduser()


def shared_levels() -> str | None:
    """Return the URL of what nodes without a common disk share levels by, or None."""
    return os.environ.get("AUTOCOMPRESS_SHARED_LEVELS") or None
