"""Writes a shaped model in compressed-tensors, as transformers, vLLM and SGLang load it.

Layers are dropped as a whole and weights stored as codes: nothing else needs no modeling file. As
a DeciLM sub-blocks may be gone too, and the modeling files are for transformers alone. The config
is validated by the classes of the package `compressed-tensors`, of the extra of its name.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from autocompress.errors import ExportError
from autocompress.export.checkpoint import (
    SHARD_SIZE,
    Artifact,
    layer_choices,
    shorter_config,
    some_left,
    stored_as,
    write_files,
)
from autocompress.export.decilm import check_first, decilm_config
from autocompress.export.layer_patterns import module_patterns
from autocompress.export.packing import PackedLayers, packed_layers
from autocompress.models.architecture import LINEAR_NAMES, MODELING_FILES
from autocompress.models.packed_weights import read_codes
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import PackedSource
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.settings import WeightSetting, block_format

_MIXED: Final = "mixed-precision"
_INTEGERS: Final = "pack-quantized"
_BLOCKS: Final[Mapping[str, str]] = {
    "fp8": "naive-quantized",
    "mxfp4": "mxfp4-pack-quantized",
    "nvfp4": "nvfp4-pack-quantized",
}
"""The package's name of how each block format is stored; it takes fp8 without activations so."""
_SCALES: Final[Mapping[str, torch.dtype]] = {"mxfp4": torch.uint8, "nvfp4": torch.float8_e4m3fn}


def compressed_tensors_package(module: str = "") -> Any:
    """Return the package, or one of its modules.

    Raises:
        ExportError: If it is not installed.
    """
    try:
        return importlib.import_module(f"compressed_tensors{module}")
    except ImportError as error:
        raise ExportError(
            "Checkpoints in compressed-tensors need the package of that name: "
            "`pip install 'autocompress[compressed-tensors]'`."
        ) from error


def check_settings(space: SearchSpace, number_format: torch.dtype) -> None:
    """Make sure that transformers loads what a space may store, in a model's number format.

    Raises:
        ExportError: If it does not, or the package is not installed.
    """
    compressed_tensors_package()
    blocks = {
        setting.block
        for site, choice in space.site_choices()
        for setting in choice.weights
        if setting.block in _SCALES
    }
    # It unpacks codes of 4-bit floating point to bfloat16, whatever the model is in.
    if blocks and number_format is not torch.bfloat16:
        raise ExportError(
            f"transformers runs {', '.join(sorted(map(str, blocks)))} of compressed-tensors in "
            f"bfloat16 alone, but the model is in {_name(number_format)}: leave them out of "
            "--bits."
        )


def write_compressed_checkpoint(
    shaped: ShapedModel,
    source: Path,
    folder: Path,
    levels: PackedSource,
    shard_size: str = SHARD_SIZE,
    *,
    as_decilm: bool = False,
) -> Artifact:
    """Write the model as it is shaped now into a new folder.

    Args:
        source: Folder of the dense model, for the tokenizer and generation settings.
        levels: What the model was shaped from.
        shard_size: Of a weight file at most: `5GB`.
        as_decilm: Say what is left of each layer.

    Raises:
        ExportError: If nothing is left to export, a choice cannot be told so, or the folder
            cannot be written.
        EvaluationError: If a level was never built, or is broken.
    """
    left = some_left(shaped)
    _check_choices(shaped, left, as_decilm=as_decilm)
    packed = packed_layers(shaped.space, shaped.choices, levels)
    stored = stored_as(packed, lambda weight: _tensors(weight, shaped.model.dtype))
    config = _config(shaped.model.config, packed, left)
    code: tuple[Path, ...] = ()
    if as_decilm:
        own = layer_choices(shaped.space, shaped.choices)
        layers = [own[layer] for layer in left]
        check_first(layers)
        config, code = decilm_config(config, layers), MODELING_FILES
    return write_files(shaped, source, folder, config, packed, stored, left, code, shard_size)


def _check_choices(shaped: ShapedModel, left: Sequence[int], *, as_decilm: bool) -> None:
    """Refuse what only a modeling file can tell, and what transformers does not load."""
    for site, choice in zip(shaped.space.sites, shaped.choices, strict=True):
        uneven = [
            setting
            for setting in choice.weights
            if setting.is_sparse or setting.is_gguf or (setting.bits and not setting.symmetric)
        ]
        is_plain = choice.is_whole or (choice.is_dropped and (as_decilm or site.layer not in left))
        if uneven or not is_plain or not choice.cache.is_dense:
            raise ExportError(
                f"{'DeciLM' if as_decilm else 'compressed-tensors'} does not hold {choice} of "
                f"layer {site.layer} {site.kind}: whole {'sub-blocks' if as_decilm else 'layers'}"
                ", codes around 0 and block formats alone."
            )


def _config(
    dense: PreTrainedConfig, packed: PackedLayers, left: Sequence[int]
) -> PreTrainedConfig:
    """Return the config, with how weights are stored if any is packed."""
    config = shorter_config(dense, left)
    by_setting: dict[WeightSetting, dict[str, list[int]]] = {}
    plain: dict[str, list[int]] = {}
    for new, old in enumerate(left):
        linears = packed.get(old, {})
        for name in [name for names in LINEAR_NAMES.values() for name in names]:
            own = by_setting.setdefault(linears[name].setting, {}) if name in linears else plain
            own.setdefault(name, []).append(new)
    if not by_setting:
        return config
    package = compressed_tensors_package()
    quantization = compressed_tensors_package(".quantization")
    forms = {setting: _form(setting) for setting in sorted(by_setting, key=str)}
    told = quantization.QuantizationConfig(
        config_groups={
            f"group_{number}": quantization.QuantizationScheme(
                targets=module_patterns(by_setting[setting], len(left)),
                weights=quantization.QuantizationArgs(**weight_arguments(setting)),
                format=form,
            )
            for number, (setting, form) in enumerate(forms.items())
        },
        format=next(iter(forms.values())) if len(set(forms.values())) == 1 else _MIXED,
        quantization_status="compressed",
        ignore=["lm_head", *module_patterns(plain, len(left))],
    )
    config.quantization_config = {
        "version": package.__version__,
        "sparsity_config": {},
        "transform_config": {},
        **json.loads(told.model_dump_json()),
    }
    return config


def _form(setting: WeightSetting) -> str:
    """Return the package's name of how a setting is stored."""
    return _BLOCKS[setting.block] if setting.block else _INTEGERS


def weight_arguments(setting: WeightSetting) -> dict[str, object]:
    """Return what the package calls a setting."""
    if setting.block is None:
        spread: dict[str, object] = {"strategy": "channel"}
        if setting.group_size:
            spread = {"strategy": "group", "group_size": setting.group_size}
        bits = {"num_bits": setting.bits, "type": "int", "symmetric": setting.symmetric}
        return bits | spread
    block = block_format(setting.block)
    known: dict[str, object] = {"num_bits": block.bits, "type": "float", "symmetric": True}
    if block.block is None:
        return known | {"strategy": "channel"}
    strategy = "tensor_group" if block.tensor_bits else "group"
    scales = _SCALES[setting.block]
    return known | {"strategy": strategy, "group_size": block.block, "scale_dtype": scales}


def _tensors(weight: PackedWeight, number_format: torch.dtype) -> dict[str, Tensor]:
    """Return what is stored of a weight, by the package's names."""
    setting, scales = weight.setting, weight.tensors["scales"]
    codes = read_codes(str(setting), weight.shape, weight.tensors)  # (rows, columns) uint8
    if setting.bits is not None:
        pack = compressed_tensors_package(".compressors.pack_quantized.helpers").pack_to_int32
        around_zero = (codes.to(torch.int16) - 2 ** (setting.bits - 1)).to(torch.int8)
        return {
            "weight_packed": pack(around_zero, setting.bits),
            "weight_scale": _as_numbers(scales, number_format, setting),
            "weight_shape": torch.tensor(weight.shape),
        }
    if setting.block == "fp8":
        return {"weight": codes.contiguous().view(torch.float8_e4m3fn), "weight_scale": scales}
    found = {"weight_packed": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": scales}
    return found | dict(_tensor_scale(weight))


def _tensor_scale(weight: PackedWeight) -> Iterator[tuple[str, Tensor]]:
    if "tensor_scale" in weight.tensors:
        yield "weight_global_scale", weight.tensors["tensor_scale"]


def _as_numbers(scales: Tensor, number_format: torch.dtype, setting: WeightSetting) -> Tensor:
    """Return scales in the model's number format: codes are decoded in that of their scales."""
    found = scales.to(number_format)
    if not torch.equal(found.to(torch.float32), scales.to(torch.float32)):
        raise ExportError(
            f"Scales of {setting} do not fit {_name(number_format)}, in which compressed-tensors "
            "holds them: take the format `hf`."
        )
    return found


def _name(number_format: torch.dtype) -> str:
    return str(number_format).removeprefix("torch.")
