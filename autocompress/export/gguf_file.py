"""Writes a Hugging Face checkpoint as one GGUF file, its linear layers in any of GGUF's types.

Names, order of rows and metadata are what llama.cpp's `convert_hf_to_gguf.py` writes.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from autocompress.errors import ExportError, ModelError
from autocompress.export.checkpoint import renumbered
from autocompress.export.gguf_vocabulary import write_vocabulary
from autocompress.models.architecture import Architecture, read_architecture
from autocompress.models.loading import load_config
from autocompress.models.weight_files import weight_files
from autocompress.operators.ggml_blocks import gguf_package
from autocompress.operators.packed import PackedWeight

ARCHITECTURES: Final[Mapping[str, str]] = {
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
"""Family, by `model_type`, to GGUF's name of it."""

_PERMUTED: Final = {"self_attn.q_proj": "query_heads", "self_attn.k_proj": "kv_groups"}
_FILE_TYPE_F16: Final = 1
_LINEAR: Final = re.compile(r"blk\.\d+\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight")


def write_gguf(
    source: Path,
    file: Path,
    packed: Mapping[str, PackedWeight] | None = None,
    left: Sequence[int] | None = None,
) -> None:
    """Write a checkpoint whose layers are all alike.

    Args:
        source: Folder of config, tokenizer and safetensors.
        left: The layers that stay, ascending; they are numbered anew. None keeps all.
        packed: What is stored instead of a tensor, in one of GGUF's types, by the tensors' Hugging
            Face names. Of the others matrices are kept in f16, vectors in float32.

    Raises:
        ExportError: If the model cannot be told in GGUF, or the file not written.
        EngineError: If the packages of the extra `llama-cpp` lack.
        ModelError: If the family is unknown.
    """
    gguf = gguf_package()
    config = load_config(source)
    architecture = read_architecture(config)
    kept = range(architecture.n_layers) if left is None else left
    if not kept:
        raise ExportError("No layer is left of the model: nothing to export.")
    numbers = {old: new for new, old in enumerate(kept)}
    name = ARCHITECTURES[architecture.family]
    partial = file.with_name(f".{file.name}.partial")
    writer = gguf.GGUFWriter(partial, name)
    _write_metadata(writer, source, config, dataclasses.replace(architecture, n_layers=len(kept)))
    write_vocabulary(writer, source, architecture.vocabulary)
    names = gguf.get_tensor_name_map(
        next(key for key, told in gguf.MODEL_ARCH_NAMES.items() if told == name),
        len(kept),
    )
    factors = _rope_factors(config)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    known = dict(packed or {})
    for key, tensor in _tensors(source):
        renamed = renumbered(key, numbers)
        if renamed is None:
            continue
        told = names.get_name(renamed, try_suffixes=(".weight", ".bias"))
        if told is None:
            raise ExportError(f"GGUF has no name for tensor {key} of {source}.")
        order = _order(key, tensor, architecture, name)
        stored = known.pop(key, None)
        if stored is None:
            dtype = torch.float32 if tensor.dim() == 1 else torch.float16
            writer.add_tensor(told, tensor[order].to(dtype).contiguous().numpy())
        else:
            kind = gguf.GGMLQuantizationType[str(stored.setting).upper()]
            writer.add_tensor(told, stored.tensors["blocks"][order].numpy(), raw_dtype=kind)
    if known:
        raise ExportError(f"{source} has no tensor {', '.join(sorted(known))}.")
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ExportError(f"Cannot write {file}: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class StoredGguf:
    """What a GGUF file holds.

    Args:
        bytes: Of its tensors.
        numbers: That they stand for.
        linear_bytes: Of `bytes`, those of the weights of the layers' linear layers.
        end_of_text: The id of the token that ends a text; None where the file names none.
    """

    bytes: int
    numbers: int
    linear_bytes: int
    end_of_text: int | None


def read_gguf(file: Path) -> StoredGguf:
    """Read what a file says of itself.

    Raises:
        ModelError: If it is no whole GGUF file.
        EngineError: If the packages of the extra `llama-cpp` lack.
    """
    gguf = gguf_package()
    try:
        reader = gguf.GGUFReader(file)
        field = reader.get_field("tokenizer.ggml.eos_token_id")
        return StoredGguf(
            sum(int(tensor.n_bytes) for tensor in reader.tensors),
            sum(int(tensor.n_elements) for tensor in reader.tensors),
            sum(int(t.n_bytes) for t in reader.tensors if _LINEAR.fullmatch(t.name)),
            None if field is None else int(field.contents()),
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(f"{file} is not a whole GGUF file: {error}.") from error


def _write_metadata(
    writer: Any, source: Path, config: PreTrainedConfig, architecture: Architecture
) -> None:
    writer.add_name(source.resolve().name)
    writer.add_file_type(_FILE_TYPE_F16)
    writer.add_vocab_size(architecture.vocabulary)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(architecture.hidden)
    writer.add_block_count(architecture.n_layers)
    writer.add_feed_forward_length(architecture.ffn_columns)
    writer.add_head_count(architecture.query_heads)
    writer.add_head_count_kv(architecture.kv_groups)
    writer.add_key_length(architecture.head_size)
    writer.add_value_length(architecture.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(architecture.head_size)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _rope_factors(config: PreTrainedConfig) -> np.ndarray | None:
    """Return by how much each rotary frequency is divided; None if by nothing."""
    kind = config.rope_parameters.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in ("llama3", "linear"):
        raise ExportError(
            f"Rotary embeddings of type {kind!r} are not written to GGUF: default, linear and "
            "llama3 are."
        )
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
    size = 2 * len(frequencies)
    powers = torch.arange(0, size, 2, dtype=torch.float32) / size
    plain = 1.0 / config.rope_parameters["rope_theta"] ** powers
    factors: np.ndarray = (plain / frequencies).float().numpy()
    return factors


def _tensors(source: Path) -> Iterator[tuple[str, Tensor]]:
    for shard in weight_files(source):
        with safe_open(shard, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118  # it is no mapping
                yield key, opened.get_tensor(key)


def _order(key: str, tensor: Tensor, architecture: Architecture, name: str) -> Tensor:
    """Return the order in which llama.cpp wants a tensor's rows.

    Of the family `llama` it rotates neighbouring rows of queries and keys, where transformers
    rotates a head's first half against its second.
    """
    rows = torch.arange(len(tensor))
    heads = next((own for part, own in _PERMUTED.items() if part in key), None)
    if name != "llama" or heads is None:
        return rows
    return rows.view(getattr(architecture, heads), 2, -1).mT.flatten()
