"""Writes a shaped model as a Hugging Face checkpoint whose tensors are really smaller.

Whole layers that are gone leave a plain config that loads everywhere. Anything else is told by
`per_layer_config`, with the modeling file that reads it beside the weights.
"""

import copy
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig

from autocompress.errors import ExportError
from autocompress.models import modeling_autocompress
from autocompress.models.architecture import HETEROGENEOUS_CLASS, Architecture
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import Choice, SearchSpace, SiteKind

BESIDE = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checkpoint on disk.

    Args:
        parameters: Numbers stored, tied ones once.
        tensor_bytes: What they take, recomputed from the tensors written.
        needs_remote_code: Whether it loads only with its modeling file.
    """

    folder: Path
    parameters: int
    tensor_bytes: int
    needs_remote_code: bool


def write_checkpoint(shaped: ShapedModel, source: Path, folder: Path) -> Artifact:
    """Write the model as it is shaped now into an empty folder.

    Args:
        source: Folder of the dense model, for the tokenizer and generation settings.

    Raises:
        ExportError: If nothing is left to export or the folder cannot be written.
    """
    layers = layer_choices(shaped.space, shaped.choices)
    left = [i for i, pair in layers.items() if not all(c.is_dropped for c in pair.values())]
    if not left:
        raise ExportError("No layer is left of the model: nothing to export.")
    config = _config(shaped.model.config, shaped.architecture, layers, left)
    tensors = _tensors(shaped, {old: new for new, old in enumerate(left)})
    try:
        folder.mkdir(parents=True)
        for pattern in BESIDE:
            for file in sorted(source.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
        if config.is_heterogeneous:
            code = Path(modeling_autocompress.__file__)
            shutil.copyfile(code, folder / code.name)
        config.save_pretrained(folder)
        save_torch_state_dict(tensors, folder)
    except OSError as error:
        raise ExportError(f"Cannot write {folder}: {error.strerror}.") from error
    return Artifact(
        folder,
        sum(t.numel() for t in tensors.values()),
        sum(t.numel() * t.element_size() for t in tensors.values()),
        config.is_heterogeneous,
    )


def layer_choices(
    space: SearchSpace, choices: tuple[Choice, ...]
) -> dict[int, dict[SiteKind, Choice]]:
    """Return what is done to each layer, by kind of site."""
    layers: dict[int, dict[SiteKind, Choice]] = {}
    for site, choice in zip(space.sites, choices, strict=True):
        layers.setdefault(site.layer, {})[site.kind] = choice
    return layers


def files_bytes(folder: Path) -> int:
    """Return the bytes of all weight files of a checkpoint."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def stored_tensor_bytes(folder: Path) -> int:
    """Return the bytes of all tensors as the headers of the weight files state them."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                total += end - start
    return total


def _tensors(shaped: ShapedModel, numbers: Mapping[int, int]) -> dict[str, Tensor]:
    """Return the tensors to store under their new names; tied embeddings once."""
    state = shaped.model.state_dict()
    if shaped.model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    renamed = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if match is None:
            renamed[name] = tensor.contiguous()
        elif int(match[1]) in numbers:
            renamed[f"model.layers.{numbers[int(match[1])]}.{match[2]}"] = tensor.contiguous()
    return renamed


def _config(
    dense: PreTrainedConfig,
    architecture: Architecture,
    layers: Mapping[int, Mapping[SiteKind, Choice]],
    left: list[int],
) -> PreTrainedConfig:
    config = copy.deepcopy(dense)
    config.num_hidden_layers = len(left)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in left]
    own: dict[int | str, dict[str, int | list[str]]] = {
        new: overrides
        for new, old in enumerate(left)
        if (overrides := _overrides(layers[old], architecture))
    }
    if own:
        # Layers with fewer heads must not derive their head size from the hidden size.
        config.head_dim = architecture.head_size
        name = HETEROGENEOUS_CLASS[architecture.family]
        config.architectures = [name]
        config.auto_map = {"AutoModelForCausalLM": f"modeling_autocompress.{name}"}
        config.per_layer_config = own
        # Llama's own check of its config reads the number of heads when it is saved and loaded.
        config.allow_global_per_layer_attribute_access = True
    return config


def _overrides(
    choices: Mapping[SiteKind, Choice], architecture: Architecture
) -> dict[str, int | list[str]]:
    found: dict[str, int | list[str]] = {}
    skip = [kind.value for kind, choice in choices.items() if choice.is_dropped]
    if skip:
        found["skip"] = skip
    attention, mlp = choices[SiteKind.ATTENTION], choices[SiteKind.MLP]
    if not attention.is_dropped and not attention.is_dense:
        found["num_key_value_heads"] = attention.kept
        found["num_attention_heads"] = attention.kept * architecture.queries_per_group
    if not mlp.is_dropped and not mlp.is_dense:
        found["intermediate_size"] = mlp.kept
    return found
