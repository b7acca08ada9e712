"""The winner in the words of other tools: what they would build it from, as text.

Each recipe names linear layers by regular expressions, one for each set of layers. None of them
was run: a tool quantizes by its own method, and its checkpoint is to be judged by `evaluate`.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import yaml

from autocompress.errors import ExportError
from autocompress.export.checkpoint import layers_left
from autocompress.export.compressed_checkpoint import weight_arguments
from autocompress.export.layer_patterns import by_layers, module_patterns, one_of
from autocompress.models.architecture import LINEAR_NAMES
from autocompress.spaces.base import Choice, SearchSpace
from autocompress.spaces.settings import DENSE, WeightSetting
from autocompress.spec_rules import USUAL_EMBEDDINGS

GGUF_NAMES: Final[Mapping[str, str]] = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TENSOR_TYPES: Final = "tensor-types"
_GPTQ_BITS: Final = (2, 3, 4, 8)
_MODELOPT: Final[Mapping[str, Mapping[str, object]]] = {
    "fp8": {"quant_algo": "FP8"},
    "nvfp4": {"quant_algo": "NVFP4", "group_size": 16},
}


@dataclass(frozen=True, slots=True)
class ToolRecipe:
    """A recipe of another tool.

    Args:
        file: What the text is called.
        use: How the tool is given it, in a line.
    """

    file: str
    text: str
    use: str


@dataclass(frozen=True, slots=True)
class _Winner:
    """What recipes tell of a candidate.

    Args:
        layers: Of the dense model.
        dropped: Of these, the layers that are gone as a whole.
        settings: Of each linear layer's setting in the layers that stay, numbered as in the
            dense model, by name.
        embeddings: The type of token embedding and head.
    """

    layers: int
    dropped: tuple[int, ...]
    settings: Mapping[tuple[int, str], WeightSetting]
    embeddings: str

    def by_setting(self) -> dict[WeightSetting, dict[str, list[int]]]:
        """Return the layers of each linear layer's name, by setting."""
        found: dict[WeightSetting, dict[str, list[int]]] = {}
        for (layer, name), setting in self.settings.items():
            found.setdefault(setting, {}).setdefault(name, []).append(layer)
        return {setting: found[setting] for setting in sorted(found, key=str)}


def tool_recipe(
    tool: str,
    space: SearchSpace,
    choices: Sequence[Choice],
    embeddings: str = USUAL_EMBEDDINGS,
) -> ToolRecipe:
    """Return a candidate as a recipe of one of `TOOLS`.

    Args:
        embeddings: The type of token embedding and head.

    Raises:
        ExportError: If the tool cannot be told what the candidate is, with the reason.
    """
    if tool != _TENSOR_TYPES and embeddings != USUAL_EMBEDDINGS:
        raise ExportError(
            f"A recipe for {tool} cannot tell embedding and head in {embeddings}, a type of GGUF "
            f"files: take {_TENSOR_TYPES}."
        )
    return TOOLS[tool](_read(tool, space, choices, embeddings))


def _read(tool: str, space: SearchSpace, choices: Sequence[Choice], embeddings: str) -> _Winner:
    left = layers_left(space, choices)
    n_layers = 1 + max(site.layer for site in space.sites)
    settings: dict[tuple[int, str], WeightSetting] = {}
    for site, choice in zip(space.sites, choices, strict=True):
        if site.layer not in left:
            continue
        if not choice.is_whole or not choice.cache.is_dense:
            raise ExportError(
                f"A recipe for {tool} cannot tell {choice} of layer {site.layer} {site.kind}: "
                "layers have their full width, and caches are dense."
            )
        names = iter(LINEAR_NAMES[site.kind])
        stored = choice.weights or (DENSE,) * len(site.groups)
        for group, setting in zip(site.groups, stored, strict=True):
            settings |= {(site.layer, next(names)): setting for _ in group.linears}
    dropped = tuple(layer for layer in range(n_layers) if layer not in left)
    return _Winner(n_layers, dropped, settings, embeddings)


def _tensor_types(winner: _Winner) -> ToolRecipe:
    """Return llama-quantize's tensor types; of a pruned model they match the new numbers."""
    _refuse(winner, _TENSOR_TYPES, lambda s: s.is_dense or s.is_gguf, "GGUF's types")
    left = [layer for layer in range(winner.layers) if layer not in winner.dropped]
    numbers = {old: new for new, old in enumerate(left)}
    lines = []
    for setting, names in winner.by_setting().items():
        kind = "f16" if setting.is_dense else str(setting)
        renamed = {
            GGUF_NAMES[name]: [numbers[layer] for layer in layers]
            for name, layers in names.items()
        }
        lines += [
            rf"blk\.{one_of(layers, len(left))}\.({'|'.join(own)})\.weight={kind}"
            for layers, own in by_layers(renamed)
        ]
    pruned = f" --prune-layers {','.join(map(str, winner.dropped))}" if winner.dropped else ""
    ends = f"--token-embedding-type {winner.embeddings} --output-tensor-type {winner.embeddings}"
    use = (
        f"llama-quantize --tensor-type-file tensor-types.txt{pruned} {ends} MODEL-f16.gguf "
        "OUT.gguf Q8_0"
    )
    return ToolRecipe("tensor-types.txt", "\n".join(lines) + "\n", use)


def _llm_compressor(winner: _Winner) -> ToolRecipe:
    """Return a recipe of llm-compressor: GPTQ for integers."""
    _refuse_drops(winner, "llm-compressor")
    _refuse(winner, "llm-compressor", lambda s: s.is_dense or _is_integer(s), "integer codes")
    groups: dict[str, object] = {}
    ignored = ["lm_head"]
    for setting, names in winner.by_setting().items():
        patterns = module_patterns(names, winner.layers)
        if setting.is_dense:
            ignored += patterns
            continue
        weights = weight_arguments(setting)
        groups[f"group_{len(groups)}"] = {"targets": patterns, "weights": weights}
    modifier = {"config_groups": groups, "ignore": ignored}
    recipe = {"quant_stage": {"quant_modifiers": {"GPTQModifier": modifier}}}
    text = yaml.safe_dump(recipe, sort_keys=False, width=1000)
    return ToolRecipe(
        "llm-compressor.yaml",
        text,
        'llmcompressor.oneshot(model=MODEL, recipe="llm-compressor.yaml", dataset=…)',
    )


def _gptq(winner: _Winner) -> ToolRecipe:
    """Return GPTQModel's config: the setting of most weights, and what differs from it."""
    _refuse_drops(winner, "gptqmodel")
    known = ", ".join(map(str, _GPTQ_BITS))

    def holds(setting: WeightSetting) -> bool:
        return setting.is_dense or (_is_integer(setting) and setting.bits in _GPTQ_BITS)

    _refuse(winner, "gptqmodel", holds, f"integer codes of {known} bits")
    by_setting = winner.by_setting()
    counts = {s: sum(map(len, names.values())) for s, names in by_setting.items()}
    coded = [setting for setting in by_setting if not setting.is_dense]
    if not coded:
        raise ExportError(
            "A recipe for gptqmodel needs weights that are stored as codes; none is."
        )
    base = max(coded, key=lambda setting: counts[setting])
    dynamic: dict[str, object] = {}
    for setting, names in by_setting.items():
        if setting == base:
            continue
        sign, own = ("-", {}) if setting.is_dense else ("+", _gptq_values(setting))
        for pattern in module_patterns(names, winner.layers):
            dynamic[f"{sign}:{pattern.removeprefix('re:')}"] = own
    config = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        **_gptq_values(base),
        "desc_act": False,
        "lm_head": False,
        "dynamic": dynamic,
    }
    return ToolRecipe(
        "quantize_config.json",
        json.dumps(config, indent=2) + "\n",
        "GPTQModel.load(MODEL, QuantizeConfig.from_pretrained(FOLDER)).quantize(…)",
    )


def _gptq_values(setting: WeightSetting) -> dict[str, object]:
    size = setting.group_size or -1
    return {"bits": setting.bits, "group_size": size, "sym": setting.symmetric}


def _modelopt(winner: _Winner) -> ToolRecipe:
    """Return ModelOpt's `hf_quant_config.json`, whose layers are named one by one."""
    _refuse_drops(winner, "modelopt")

    def values(setting: WeightSetting) -> Mapping[str, object] | None:
        if setting.block is not None:
            return _MODELOPT.get(setting.block)
        if setting.bits == 4 and setting.group_size and not setting.is_sparse:
            return {"quant_algo": "W4A16_AWQ", "group_size": setting.group_size}
        return None

    _refuse(
        winner,
        "modelopt",
        lambda s: s.is_dense or values(s) is not None,
        "fp8, nvfp4 and codes of 4 bits in groups",
    )
    layers, excluded = {}, ["lm_head"]
    for (layer, name), setting in sorted(winner.settings.items()):
        own, place = values(setting), f"model.layers.{layer}.{name}"
        if own is None:
            excluded.append(place)
        else:
            layers[place] = dict(own)
    config = {
        "producer": {"name": "modelopt"},
        "quantization": {
            "quant_algo": "MIXED_PRECISION",
            "kv_cache_quant_algo": None,
            "quantized_layers": layers,
            "exclude_modules": excluded,
        },
    }
    return ToolRecipe(
        "hf_quant_config.json",
        json.dumps(config, indent=2) + "\n",
        "the quantized_layers and exclude_modules that mtq.quantize(…) is to leave",
    )


def _is_integer(setting: WeightSetting) -> bool:
    return setting.bits is not None and not setting.is_sparse


def _refuse(winner: _Winner, tool: str, holds: Callable[[WeightSetting], bool], what: str) -> None:
    """Make sure that a tool knows all settings of a candidate."""
    unknown = sorted({str(own) for own in winner.settings.values() if not holds(own)})
    if unknown:
        raise ExportError(
            f"A recipe for {tool} tells {what} alone, but the winner has {', '.join(unknown)}."
        )


def _refuse_drops(winner: _Winner, tool: str) -> None:
    """Make sure that a tool which only quantizes is not to drop layers."""
    if winner.dropped:
        raise ExportError(
            f"A recipe for {tool} drops no layers, but the winner lacks "
            f"{', '.join(map(str, winner.dropped))}: give the tool a model without them."
        )


TOOLS: Final[Mapping[str, Callable[[_Winner], ToolRecipe]]] = {
    _TENSOR_TYPES: _tensor_types,
    "llm-compressor": _llm_compressor,
    "gptqmodel": _gptq,
    "modelopt": _modelopt,
}
"""What `autocompress export --format` writes, by name."""
