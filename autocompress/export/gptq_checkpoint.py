"""Writes a shaped model in GPTQ's format, mixed by `dynamic`, as vLLM and SGLang load it.

Layers are dropped as a whole and weights stored as codes around 0. transformers opens such a
checkpoint with other packages alone, so that only an engine can prove it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from autocompress.errors import ExportError
from autocompress.export.checkpoint import (
    SHARD_SIZE,
    Artifact,
    shorter_config,
    some_left,
    stored_as,
    write_files,
)
from autocompress.export.layer_patterns import by_layers, one_of
from autocompress.export.packing import PackedLayers, packed_layers
from autocompress.models.architecture import LINEAR_NAMES
from autocompress.models.packed_weights import read_codes
from autocompress.models.surgery import ShapedModel
from autocompress.operators.base import PackedSource
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.settings import WeightSetting
from autocompress.spec_rules import GPTQ_BITS

WORD: Final = 32
BITS: Final = tuple(sorted(map(int, GPTQ_BITS)))
_FUSED: Final[Mapping[str, str]] = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "mlp.gate_proj": "mlp.gate_up_proj",
    "mlp.up_proj": "mlp.gate_up_proj",
}
"""What engines call the layers that they fuse, by which they look up `dynamic`."""


def check_settings(space: SearchSpace) -> None:
    """Make sure that the format holds what a space may store.

    Raises:
        ExportError: If it does not, naming all offenders.
    """
    wrong = set()
    for site, choice in space.site_choices():
        coded = zip(site.groups, choice.weights, strict=True) if choice.weights else ()
        for group, setting in coded:
            if setting.is_dense:
                continue
            fits = setting.bits in BITS and setting.symmetric and not setting.is_sparse
            codes = WORD // setting.bits if setting.bits else WORD
            if not fits or any(n % codes for n in (group.columns, *group.rows)):
                wrong.add(str(setting))
    if wrong:
        raise ExportError(
            f"GPTQ holds codes around 0 of {', '.join(map(str, BITS))} bits, of which whole words "
            f"make up rows and columns, but got {', '.join(sorted(wrong))}."
        )


def write_gptq_checkpoint(
    shaped: ShapedModel,
    source: Path,
    folder: Path,
    levels: PackedSource,
    shard_size: str = SHARD_SIZE,
) -> Artifact:
    """Write the model as it is shaped now into a new folder.

    Args:
        source: Folder of the dense model, for the tokenizer and generation settings.
        levels: What the model was shaped from.
        shard_size: Of a weight file at most: `5GB`.

    Raises:
        ExportError: If nothing is left to export, no weight is stored as codes, a choice cannot
            be told so, or the folder cannot be written.
        EvaluationError: If a level was never built, or is broken.
    """
    left = some_left(shaped)
    for site, choice in zip(shaped.space.sites, shaped.choices, strict=True):
        is_plain = choice.is_whole or (choice.is_dropped and site.layer not in left)
        if not is_plain or not choice.cache.is_dense:
            raise ExportError(
                f"GPTQ does not hold {choice} of layer {site.layer} {site.kind}: whole layers and "
                "codes alone."
            )
    packed = packed_layers(shaped.space, shaped.choices, levels)
    if not packed:
        raise ExportError("No weight is stored as codes: take --format hf.")
    stored = stored_as(packed, lambda weight: _tensors(weight, shaped.model.dtype))
    config = _config(shaped.model.config, packed, left)
    return write_files(shaped, source, folder, config, packed, stored, left, (), shard_size)


def _config(
    dense: PreTrainedConfig, packed: PackedLayers, left: Sequence[int]
) -> PreTrainedConfig:
    """Return the config: the setting of most weights, and what differs from it."""
    places: dict[str, dict[str, list[int]]] = {}
    for new, old in enumerate(left):
        linears = packed.get(old, {})
        for name in [name for names in LINEAR_NAMES.values() for name in names]:
            setting = str(linears[name].setting) if name in linears else "dense"
            places.setdefault(setting, {}).setdefault(name, []).append(new)
    coded = [setting for setting in places if setting != "dense"]
    base = max(coded, key=lambda setting: (sum(map(len, places[setting].values())), setting))
    dynamic: dict[str, object] = {}
    for setting, names in sorted(places.items()):
        if setting == base:
            continue
        sign, own = ("-", {}) if setting == "dense" else ("+", _values(setting))
        whole = {**names, **{_FUSED[name]: own_ for name, own_ in names.items() if name in _FUSED}}
        for layers, modules in by_layers(whole):
            ends = "|".join(module.replace(".", r"\.") for module in modules)
            dynamic[rf"{sign}:^model\.layers\.{one_of(layers, len(left))}\.({ends})$"] = own
    config = shorter_config(dense, left)
    config.quantization_config = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        **_values(base),
        "desc_act": False,
        "lm_head": False,
        "pack_dtype": "int32",
        "dynamic": dynamic,
    }
    return config


def _values(setting: str) -> dict[str, object]:
    own = WeightSetting.parse(setting)
    return {"bits": own.bits, "group_size": own.group_size or -1, "sym": own.symmetric}


def _tensors(weight: PackedWeight, number_format: torch.dtype) -> dict[str, Tensor]:
    """Return what is stored of a weight: words of codes, down the columns that it is fed.

    The stored zero is one less than the code that stands for 0, as in the format's first version.
    """
    setting = weight.setting
    bits = setting.bits or 0
    rows, columns = weight.shape
    codes = read_codes(str(setting), weight.shape, weight.tensors).to(torch.int32)
    scales = weight.tensors["scales"].to(number_format)  # (rows, groups)
    size = setting.group_size or columns
    zeros = torch.full((columns // size, rows), 2 ** (bits - 1) - 1, dtype=torch.int32)
    return {
        "qweight": _words(codes.T.contiguous(), bits),
        "qzeros": _words(zeros.T.contiguous(), bits).T.contiguous(),
        "scales": scales.T.contiguous(),
        "g_idx": torch.arange(columns, dtype=torch.int32) // size,
    }


def _words(codes: Tensor, bits: int) -> Tensor:
    """Return (n, m) codes as (n * bits / 32, m) words, the first code in the lowest bits."""
    each = WORD // bits
    shifts = bits * torch.arange(each, dtype=torch.int64)[None, :, None]
    grouped = codes.to(torch.int64).unflatten(0, (-1, each))  # (n / each, each, m)
    # Bits of several codes never overlap: their sum is their union.
    words = (grouped << shifts).sum(1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
