"""Writes a shaped model as a Hugging Face checkpoint whose tensors are really smaller.

Whole layers that are gone leave a plain config that loads everywhere. Anything else is told by
`per_layer_config`, with the modeling files that read it beside the weights: weights in another
setting are stored as the level database holds them.
"""

import copy
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedConfig

from autocompress.errors import ExportError
from autocompress.export.packing import PackedLayers, packed_layers
from autocompress.models.architecture import HETEROGENEOUS_CLASS, MODELING_FILES, Architecture
from autocompress.models.ends import HEAD, ties_ends
from autocompress.models.packed_weights import describe
from autocompress.models.saving import writing
from autocompress.models.surgery import ShapedModel
from autocompress.models.weight_files import weight_files
from autocompress.operators.base import PackedSource
from autocompress.operators.packed import PackedWeight
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
SHARD_SIZE = "5GB"
OTHERWISE: Mapping[str, object] = {"weights": {}, "packed_tensors": {}, "cache": "dense"}
"""What the config says of layers that do not say it themselves."""

_LINEAR = re.compile(r"model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.(?!bias$)\w+")


Overrides = dict[str, int | str | list[str] | dict[str, str]]
"""What the config of one layer says otherwise than that of the model."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checkpoint on disk.

    Args:
        folder: All of it.
        file: Of the folder, what an engine opens; None where that is the folder.
        parameters: Numbers kept, tied ones once; of a packed weight those that are not masked.
        tensor_bytes: What they take, recomputed from the tensors written.
        linear_bytes: Of these, the weights of the sites' linear layers, with scales, zero points
            and masks, without biases; recomputed from the files.
        needs_remote_code: Whether it loads only with its modeling files.
        files: The SHA-256 of each file as it was written, by its name; empty where nobody asked.
    """

    folder: Path
    parameters: int
    tensor_bytes: int
    linear_bytes: int
    needs_remote_code: bool
    file: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """What an engine opens."""
        return self.folder / self.file if self.file else self.folder


def write_checkpoint(
    shaped: ShapedModel,
    source: Path,
    folder: Path,
    levels: PackedSource,
    shard_size: str = SHARD_SIZE,
) -> Artifact:
    """Write the model as it is shaped now into a new folder.

    The setting of a KV cache is written into the config and obeyed by nothing that loads it: who
    wants such a cache asks `models.kv_cache.make_cache` for it.

    Args:
        source: Folder of the dense model, for the tokenizer and generation settings.
        levels: What the model was shaped from.
        shard_size: Of a weight file at most: `5GB`.

    Raises:
        ExportError: If nothing is left to export or the folder cannot be written.
        EvaluationError: If a level was never built, or is broken.
    """
    layers = layer_choices(shaped.space, shaped.choices)
    left = some_left(shaped)
    packed = packed_layers(shaped.space, shaped.choices, levels)
    config = _config(shaped.model.config, shaped.architecture, layers, packed, left)
    stored = stored_as(packed, lambda weight: weight.tensors)
    code = MODELING_FILES if config.is_heterogeneous else ()
    return write_files(shaped, source, folder, config, packed, stored, left, code, shard_size)


def write_files(
    shaped: ShapedModel,
    source: Path,
    folder: Path,
    config: PreTrainedConfig,
    packed: PackedLayers,
    stored: Mapping[str, Mapping[str, Tensor]],
    left: Sequence[int],
    code: Sequence[Path],
    shard_size: str,
) -> Artifact:
    """Write a checkpoint's files into a new folder.

    Args:
        stored: What is stored of the packed weights instead of the dense ones, by their linear
            layers' names in the dense model.
        left: The layers that stay.
        code: Files to lie beside the weights, which the checkpoint does not load without.

    Raises:
        ExportError: If the folder cannot be written.
    """
    tensors = _tensors(shaped, stored, {old: new for new, old in enumerate(left)})
    with writing(folder, ExportError):
        folder.mkdir(parents=True)
        for pattern in BESIDE:
            for file in sorted(source.glob(pattern)):
                shutil.copyfile(file, folder / file.name)
        for file in code:
            shutil.copyfile(file, folder / file.name)
        # Two ends that differ are both written, also where the dense model's config ties them.
        config.tie_word_embeddings = ties_ends(shaped.model)
        config.save_pretrained(folder)
        save_torch_state_dict(tensors, folder, max_shard_size=shard_size)
    return Artifact(
        folder,
        _kept_parameters(tensors, packed, stored),
        sum(t.numel() * t.element_size() for t in tensors.values()),
        stored_linear_bytes(folder),
        bool(code),
        files=file_digests(folder),
    )


def layer_choices(
    space: SearchSpace, choices: tuple[Choice, ...]
) -> dict[int, dict[SiteKind, Choice]]:
    """Return what is done to each layer, by kind of site."""
    layers: dict[int, dict[SiteKind, Choice]] = {}
    for site, choice in zip(space.sites, choices, strict=True):
        layers.setdefault(site.layer, {})[site.kind] = choice
    return layers


def layer_texts(space: SearchSpace, choices: tuple[Choice, ...]) -> dict[int, dict[str, str]]:
    """Return what is done to each layer, by kind of site, as a recipe tells it."""
    return {
        layer: {kind.value: str(choice) for kind, choice in own.items()}
        for layer, own in layer_choices(space, choices).items()
    }


def file_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a folder, by its name there."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_files(artifact: Artifact) -> list[str]:
    """Return what is not as it was written of an artifact's files, in words."""
    here = file_digests(artifact.folder)
    lacking = [f"{name} is not there" for name in artifact.files if name not in here]
    return lacking + [
        f"{name} was changed"
        for name, digest in artifact.files.items()
        if here.get(name, digest) != digest
    ]


def files_bytes(folder: Path) -> int:
    """Return the bytes of all weight files of a checkpoint."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.gguf")]
    return sum(file.stat().st_size for file in files)


def stored_tensor_bytes(folder: Path) -> int:
    """Return the bytes of all tensors as the headers of the weight files state them."""
    return sum(size for _, _, size in _stored(folder))


def stored_numbers(folder: Path) -> int:
    """Return the parameters of an uncompressed checkpoint, tied ones once, by the same headers."""
    return sum(numbers for _, numbers, _ in _stored(folder))


def stored_linear_bytes(folder: Path) -> int:
    """Return the bytes of the weights of all linear layers of layers, by the same headers.

    Scales, zero points and masks count, biases, embedding and head do not: eight times as many by
    the weights of the dense model's linear layers are the true bits of a weight.
    """
    return sum(size for name, _, size in _stored(folder) if _LINEAR.fullmatch(name))


def _stored(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the numbers and the bytes of every tensor in the weight files."""
    for file in weight_files(folder):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                yield name, math.prod(entry["shape"]), end - start


def _kept_parameters(
    tensors: Mapping[str, Tensor],
    packed: PackedLayers,
    stored: Mapping[str, Mapping[str, Tensor]],
) -> int:
    """Return how many numbers a checkpoint stands for, those masked in a packed weight left out.

    Args:
        stored: What its `tensors` hold of the packed weights.
    """
    weights = sum(weight.stored for linears in packed.values() for weight in linears.values())
    holding = sum(tensor.numel() for own in stored.values() for tensor in own.values())
    return weights - holding + sum(tensor.numel() for tensor in tensors.values())


def _tensors(
    shaped: ShapedModel, stored: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[int, int]
) -> dict[str, Tensor]:
    """Return the tensors to store under their new names; tied embeddings once."""
    state = shaped.model.state_dict()
    if ties_ends(shaped.model):
        del state[HEAD]
    for place, tensors in stored.items():
        del state[f"{place}.weight"]
        state |= {f"{place}.{kind}": tensor for kind, tensor in tensors.items()}
    pairs = ((renumbered(name, numbers), tensor) for name, tensor in state.items())
    return {name: tensor.contiguous() for name, tensor in pairs if name is not None}


def renumbered(name: str, numbers: Mapping[int, int]) -> str | None:
    """Return a tensor's name with the new number of its layer; None if that is gone."""
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
    if match is None:
        return name
    new = numbers.get(int(match[1]))
    return None if new is None else f"model.layers.{new}.{match[2]}"


def layers_left(space: SearchSpace, choices: Sequence[Choice]) -> list[int]:
    """Return the layers of which at least one site stays, ascending."""
    pairs = zip(space.sites, choices, strict=True)
    return sorted({site.layer for site, choice in pairs if not choice.is_dropped})


def some_left(shaped: ShapedModel) -> list[int]:
    """Return the layers that stay of a model as it is shaped now, ascending.

    Raises:
        ExportError: If none does.
    """
    left = layers_left(shaped.space, shaped.choices)
    if not left:
        raise ExportError("No layer is left of the model: nothing to export.")
    return left


def stored_as(
    packed: PackedLayers, tensors: Callable[[PackedWeight], Mapping[str, Tensor]]
) -> dict[str, Mapping[str, Tensor]]:
    """Return what is stored of the packed weights, by their linear layers' names."""
    return {
        f"model.layers.{layer}.{name}": tensors(weight)
        for layer, linears in packed.items()
        for name, weight in linears.items()
    }


def _config(
    dense: PreTrainedConfig,
    architecture: Architecture,
    layers: Mapping[int, Mapping[SiteKind, Choice]],
    packed: PackedLayers,
    left: list[int],
) -> PreTrainedConfig:
    config = shorter_config(dense, left)
    own: dict[int | str, Overrides] = {
        new: overrides
        for new, old in enumerate(left)
        if (overrides := _overrides(layers[old], packed.get(old, {}), architecture))
    }
    if own:
        for name in OTHERWISE.keys() & {name for overrides in own.values() for name in overrides}:
            setattr(config, name, OTHERWISE[name])
        # Layers with fewer heads must not derive their head size from the hidden size.
        config.head_dim = architecture.head_size
        name = HETEROGENEOUS_CLASS[architecture.family]
        config.architectures = [name]
        config.auto_map = {"AutoModelForCausalLM": f"modeling_autocompress.{name}"}
        config.per_layer_config = own
        # Llama's own check of its config reads the number of heads when it is saved and loaded.
        config.allow_global_per_layer_attribute_access = True
    return config


def shorter_config(dense: PreTrainedConfig, left: Sequence[int]) -> PreTrainedConfig:
    """Return the config of a model of which only some layers stay."""
    config = copy.deepcopy(dense)
    config.num_hidden_layers = len(left)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in left]
    return config


def _overrides(
    choices: Mapping[SiteKind, Choice],
    packed: Mapping[str, PackedWeight],
    architecture: Architecture,
) -> Overrides:
    found: Overrides = {}
    skip = [kind.value for kind, choice in choices.items() if choice.is_dropped]
    if skip:
        found["skip"] = skip
    attention, mlp = choices[SiteKind.ATTENTION], choices[SiteKind.MLP]
    if not attention.is_dropped and not attention.is_whole:
        found["num_key_value_heads"] = attention.kept
        found["num_attention_heads"] = attention.kept * architecture.queries_per_group
    if not mlp.is_dropped and not mlp.is_whole:
        found["intermediate_size"] = mlp.kept
    if packed:
        found["weights"] = {name: str(weight.setting) for name, weight in packed.items()}
        found["packed_tensors"] = {
            f"{name}.{kind}": describe(tensor)
            for name, weight in packed.items()
            for kind, tensor in weight.tensors.items()
        }
    if not attention.cache.is_dense:
        found["cache"] = str(attention.cache)
    return found
