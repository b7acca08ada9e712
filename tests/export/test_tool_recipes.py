"""Recipes of other tools say of every linear layer what the winner says."""

import ctypes
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from autocompress.errors import ExportError
from autocompress.export.compressed_checkpoint import compressed_tensors_package
from autocompress.export.gguf_file import write_gguf
from autocompress.export.tool_recipes import GGUF_NAMES, TOOLS, tool_recipe
from autocompress.operators.ggml_blocks import gguf_package, llama_cpp_package
from autocompress.spaces.base import Choice, SearchSpace
from autocompress.spaces.settings import CacheSetting, WeightSetting
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import (
    FFN_COLUMNS,
    KV_GROUPS,
    LAYERS,
    TinyModels,
    dense_choices,
    tiny_space,
)

SPACE = tiny_space()
NAMES = [f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in GGUF_NAMES]
Told = Sequence[tuple[str, str] | None]


def stored(*layers: tuple[str, ...] | None) -> list[Choice]:
    """Return choices by layer: settings of qkv, o, gate and up, down; None drops the layer."""
    choices = dense_choices(SPACE)
    for index, (site, whole) in enumerate(zip(SPACE.sites, choices, strict=True)):
        own = layers[site.layer]
        if own is None:
            choices[index] = Choice(0, site.units)
            continue
        texts = own[:2] if index % 2 == 0 else own[2:]
        if any(text != "dense" for text in texts):
            weights = tuple(map(WeightSetting.parse, texts))
            choices[index] = Choice(whole.kept, whole.total, weights)
    return choices


CODES = stored(
    ("w4g16", "w8sym", "dense", "w4g16"),
    ("w4g16", "w8sym", "w3g8sym", "dense"),
    ("w4g16", "dense", "dense", "w4g16"),
)
BITS = {
    "q_proj": (4, 4, 4),
    "k_proj": (4, 4, 4),
    "v_proj": (4, 4, 4),
    "o_proj": (8, 8, None),
    "gate_proj": (None, 3, None),
    "up_proj": (None, 3, None),
    "down_proj": (4, None, 4),
}


def expected(name: str) -> int | None:
    """Return the bits of a linear layer, given its whole name."""
    return BITS[name.rpartition(".")[2]][int(name.split(".")[2])]


def test_llm_compressor_is_told_every_linear_layer_once() -> None:
    quantization = compressed_tensors_package(".quantization")

    recipe = tool_recipe("llm-compressor", SPACE, CODES)

    modifier = yaml.safe_load(recipe.text)["quant_stage"]["quant_modifiers"]["GPTQModifier"]
    groups = {
        name: quantization.QuantizationScheme(**group)
        for name, group in modifier["config_groups"].items()
    }
    for name in NAMES:
        bits = [
            group.weights.num_bits
            for group in groups.values()
            for target in group.targets
            if re.match(target.removeprefix("re:"), name)
        ]
        ignored = [t for t in modifier["ignore"] if re.match(t.removeprefix("re:"), name)]
        assert (bits, len(ignored)) == (
            ([], 1) if expected(name) is None else ([expected(name)], 0)
        )


def test_gptq_is_told_what_differs_from_most() -> None:
    config = json.loads(tool_recipe("gptqmodel", SPACE, CODES).text)

    assert (config["bits"], config["group_size"], config["sym"]) == (4, 16, False)
    for name in NAMES:
        found: int | None = config["bits"]
        for pattern, values in config["dynamic"].items():
            if re.match(pattern[2:], name):
                found = None if pattern.startswith("-:") else values["bits"]
        assert found == expected(name)
    (narrow,) = [own for own in config["dynamic"].values() if own.get("bits") == 3]
    assert narrow == {"bits": 3, "group_size": 8, "sym": True}
    assert {"bits": 8, "group_size": -1, "sym": True} in config["dynamic"].values()


def test_modelopt_is_told_layer_by_layer() -> None:
    choices = stored(
        ("fp8", "dense", "nvfp4", "fp8"), ("dense", "w4g16", "dense", "dense"), ("dense",) * 4
    )

    told = json.loads(tool_recipe("modelopt", SPACE, choices).text)["quantization"]

    layers = told["quantized_layers"]
    assert layers["model.layers.0.self_attn.k_proj"] == {"quant_algo": "FP8"}
    assert layers["model.layers.0.mlp.up_proj"] == {"quant_algo": "NVFP4", "group_size": 16}
    assert layers["model.layers.1.self_attn.o_proj"] == {
        "quant_algo": "W4A16_AWQ",
        "group_size": 16,
    }
    assert sorted([*layers, *told["exclude_modules"]]) == sorted([*NAMES, "lm_head"])


def test_llama_quantize_makes_the_types_that_are_told(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    """By the quantizer itself, which matches the numbers that a pruned model's layers get."""
    need_llama_cpp()
    gguf = gguf_package()
    choices = stored(("q4_0", "dense", "q8_0", "dense"), None, ("q5_0", "q4_0", "q4_0", "dense"))
    write_gguf(tiny_models.folder(), tmp_path / "f16.gguf")

    recipe = tool_recipe("tensor-types", SPACE, choices)

    pruned = re.search(r"--prune-layers (\S+)", recipe.use)
    assert pruned is not None
    quantize(
        tmp_path / "f16.gguf",
        tmp_path / "out.gguf",
        [line.split("=") for line in recipe.text.split()],
        [int(layer) for layer in pruned[1].split(",")],
    )
    found = {
        tensor.name: tensor.tensor_type.name.lower()
        for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors
        if tensor.name.startswith("blk") and "norm" not in tensor.name
    }
    kinds = [("q4_0", "f16", "q8_0", "f16"), ("q5_0", "q4_0", "q4_0", "f16")]
    assert found == {
        f"blk.{layer}.{name}.weight": kind
        for layer, (qkv, o, gate_up, down) in enumerate(kinds)
        for name, kind in {
            **dict.fromkeys(("attn_q", "attn_k", "attn_v"), qkv),
            "attn_output": o,
            **dict.fromkeys(("ffn_gate", "ffn_up"), gate_up),
            "ffn_down": down,
        }.items()
    }


def quantize(
    source: Path, output: Path, types: Sequence[Sequence[str]], pruned: Sequence[int]
) -> None:
    """Do what `llama-quantize` does with the flags of a recipe."""
    api, kinds = llama_cpp_package(), gguf_package().GGMLQuantizationType
    how = api.llama_model_quantize_default_params()
    how.ftype = api.LLAMA_FTYPE_MOSTLY_Q8_0
    how.nthread = 1
    how.output_tensor_type = how.token_embedding_type = int(kinds.F16)
    told = (api.llama_model_tensor_override * (len(types) + 1))()
    for place, (pattern, kind) in enumerate(types):
        told[place].pattern = pattern.encode()
        told[place].type = int(kinds[kind.upper()])
    how.tt_overrides = ctypes.cast(told, type(how.tt_overrides))
    layers = (ctypes.c_int32 * (len(pruned) + 1))(*pruned, -1)
    how.prune_layers = ctypes.cast(layers, type(how.prune_layers))
    assert not api.llama_model_quantize(str(source).encode(), str(output).encode(), how)


SHORTER = stored(("w4g16",) * 4, None, ("w4g16",) * 4)
WIDTH = stored(("dense",) * 4, ("dense",) * 4, ("dense",) * 4)
WIDTH[1] = Choice(FFN_COLUMNS // 2, FFN_COLUMNS)
CACHED = list(WIDTH)
CACHED[1] = Choice(FFN_COLUMNS, FFN_COLUMNS)
CACHED[0] = Choice(KV_GROUPS, KV_GROUPS, (), CacheSetting(8))
FIVE = stored(*[("w5sym",) * 4] * LAYERS)
DENSE = stored(*[("dense",) * 4] * LAYERS)


@pytest.mark.parametrize(
    ("tool", "choices", "said"),
    [
        ("llm-compressor", SHORTER, "llm-compressor drops no layers, but the winner lacks 1"),
        ("gptqmodel", SHORTER, "gptqmodel drops no layers"),
        ("modelopt", SHORTER, "modelopt drops no layers"),
        ("tensor-types", SHORTER, "tells GGUF's types alone, but the winner has w4g16"),
        ("gptqmodel", FIVE, "integer codes of 2, 3, 4, 8 bits alone, but the winner has w5sym"),
        ("modelopt", FIVE, "fp8, nvfp4 and codes of 4 bits in groups alone"),
        ("gptqmodel", DENSE, "needs weights that are stored as codes; none is"),
        *[(tool, WIDTH, "cannot tell width 24/48 of layer 0 mlp") for tool in TOOLS],
        *[(tool, CACHED, "cannot tell kv8 of layer 0 attention") for tool in TOOLS],
    ],
)
def test_what_a_tool_does_not_know_is_refused(
    tool: str, choices: Sequence[Choice], said: str
) -> None:
    with pytest.raises(ExportError, match=said):
        tool_recipe(tool, SPACE, choices)


def test_the_type_of_embedding_and_head_is_told_to_llama_quantize_alone() -> None:
    told = tool_recipe("tensor-types", SPACE, DENSE, "q6_k").use

    assert "--token-embedding-type q6_k --output-tensor-type q6_k" in told
    plain = tool_recipe("tensor-types", SPACE, DENSE).use
    assert "--token-embedding-type f16 --output-tensor-type f16" in plain
    with pytest.raises(ExportError, match="cannot tell embedding and head in q6_k"):
        tool_recipe("llm-compressor", SPACE, CODES, "q6_k")


def test_a_space_of_one_layer_is_told_too() -> None:
    one = SearchSpace(SPACE.sites[:2])

    recipe = tool_recipe("tensor-types", one, dense_choices(one))

    assert recipe.text.startswith(r"blk\.\d+\.(attn_q|attn_k")
    assert "--prune-layers" not in recipe.use
