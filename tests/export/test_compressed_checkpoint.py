"""Checkpoints in compressed-tensors are what was searched, as stock transformers loads them."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from autocompress.errors import ExportError
from autocompress.export import gate
from autocompress.export.checkpoint import Artifact, stored_linear_bytes, stored_tensor_bytes
from autocompress.export.compressed_checkpoint import (
    check_settings,
    write_compressed_checkpoint,
)
from autocompress.models.architecture import linear_groups, other_parameters, read_architecture
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SUB_BLOCKS, Choice, SearchSpace
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting, as_compressed_tensors
from autocompress.spaces.sizes import parameters, stored_bytes
from autocompress.trial import Genotype
from tests.built_levels import build_levels, open_levels
from tests.tiny_models import (
    CPU,
    KV_GROUPS,
    LAYERS,
    TinyModels,
    dense_choices,
    logits_of,
    make_config,
    token_ids,
    write_model,
)

# What stock classes warn of while they load is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = token_ids(2, 12)
COLUMNS = 64  # whole blocks of 32
INTEGERS = ("w8sym", "w6g8sym", "w5sym", "w4g16sym", "w3g8sym", "w2g8sym")
BLOCKS = ("fp8", "mxfp4", "nvfp4")
# fp8's scales are float32 in the file, and rounded to the model's format by transformers.
CLOSE = gate.TOLERANCE[torch.bfloat16]

Exported = Callable[..., tuple[Artifact, ShapedModel]]


def settings(*texts: str) -> tuple[WeightSetting, ...]:
    return tuple(map(WeightSetting.parse, texts))


def space_of(family: str) -> SearchSpace:
    config = make_config(family)
    config.intermediate_size = COLUMNS
    architecture = read_architecture(config)
    return make_space(
        LAYERS,
        KV_GROUPS,
        COLUMNS,
        depth=True,
        width=False,
        whole_layers=True,
        weights=Weights(settings=settings(*INTEGERS), blocks=BLOCKS),
        groups=linear_groups(architecture),
        other_parameters=other_parameters(architecture),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compressed")


@pytest.fixture
def export(folder: Path, tmp_path: Path) -> Exported:
    """Write a candidate, given the levels of its genes, of levels that real operators built."""

    def write(
        family: str, genotype: Genotype, dtype: torch.dtype = torch.bfloat16
    ) -> tuple[Artifact, ShapedModel]:
        source = folder / f"{family}-{dtype}"
        if not source.is_dir():
            config = make_config(family)
            config.intermediate_size = COLUMNS
            write_model(source, config, dtype)
        space, levels = space_of(family), open_levels(folder / f"levels-{family}-{dtype}")
        shaped = ShapedModel(load_model(source, CPU), space, levels)
        build_levels(shaped, levels, SUB_BLOCKS)
        shaped.apply(space.choices(genotype))
        return write_compressed_checkpoint(shaped, source, tmp_path / "out", levels), shaped

    return write


def genotype(space: SearchSpace, *layers: Sequence[str] | None) -> Genotype:
    """Return the genotype that stores each layer's groups so; None drops it."""
    levels: list[int] = []
    for bundle, names in zip(space.bundles, layers, strict=True):
        if names is None:
            levels += [1, *[0] * (len(bundle.genes) - 1)]
            continue
        levels.append(0)
        for gene, name in zip(bundle.genes[1:], names, strict=True):
            levels.append(gene.settings.index(WeightSetting.parse(name)))
    return space.canonical(Genotype(tuple(levels)))


MIXED = (
    ("w4g16sym", "w8sym", "dense", "w3g8sym"),
    None,
    ("w4g16sym", "w5sym", "w2g8sym", "w6g8sym"),
)
ALIKE = (("w4g16sym",) * 4,) * LAYERS
SHORTER = (("dense",) * 4, None, ("dense",) * 4)


def load(artifact: Artifact) -> PreTrainedModel:
    """Load as a user would."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(artifact.folder, dtype="auto")
    model.eval()
    return model


def config_of(artifact: Artifact) -> dict[str, object]:
    found: dict[str, object] = json.loads((artifact.folder / "config.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("layers", [MIXED, ALIKE, SHORTER], ids=["mixed", "alike", "shorter"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_stock_transformers_computes_what_was_searched(
    export: Exported, family: str, layers: Sequence[Sequence[str] | None], dtype: torch.dtype
) -> None:
    artifact, shaped = export(family, genotype(space_of(family), *layers), dtype)

    model = load(artifact)

    assert not artifact.needs_remote_code
    assert "auto_map" not in config_of(artifact)
    assert type(model).__module__.startswith("transformers.models.")
    assert torch.equal(logits_of(model, IDS), logits_of(shaped.model, IDS))


def test_an_fp16_model_with_faint_weights_is_told_exactly(tmp_path: Path) -> None:
    space, levels = space_of("llama"), open_levels(tmp_path / "levels")
    config = make_config("llama")
    config.intermediate_size = COLUMNS
    write_model(tmp_path / "model", config, torch.float16)
    model = load_model(tmp_path / "model", CPU)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, :8] *= 1e-5
    shaped = ShapedModel(model, space, levels)
    build_levels(shaped, levels, SUB_BLOCKS)
    shaped.apply(space.choices(genotype(space, *[("dense", "dense", "dense", "w6g8sym")] * 3)))

    artifact = write_compressed_checkpoint(shaped, tmp_path / "model", tmp_path / "out", levels)

    assert torch.equal(logits_of(load(artifact), IDS), logits_of(shaped.model, IDS))


@pytest.mark.parametrize("name", BLOCKS)
def test_block_formats_are_loaded_too(export: Exported, name: str) -> None:
    layers = (("dense", name, name, name),) * LAYERS
    artifact, shaped = export("llama", genotype(space_of("llama"), *layers))

    found, expected = logits_of(load(artifact), IDS), logits_of(shaped.model, IDS)

    exact = name != "fp8"
    assert torch.equal(found, expected) or not exact
    assert float((found - expected).abs().max() / expected.abs().max()) < CLOSE


def test_several_formats_are_told_as_mixed(export: Exported) -> None:
    layers = (("w4g16sym", "fp8", "dense", "mxfp4"), *MIXED[1:])
    artifact, _ = export("llama", genotype(space_of("llama"), *layers))

    told = config_of(artifact)["quantization_config"]

    assert isinstance(told, dict)
    assert told["quant_method"] == "compressed-tensors"
    assert told["format"] == "mixed-precision"
    assert {group["format"] for group in told["config_groups"].values()} == {
        "pack-quantized",
        "naive-quantized",
        "mxfp4-pack-quantized",
    }
    load(artifact)


def test_every_linear_layer_is_a_target_or_ignored_once(export: Exported) -> None:
    artifact, _ = export("llama", genotype(space_of("llama"), *MIXED))
    told = config_of(artifact)["quantization_config"]
    assert isinstance(told, dict)
    patterns = {
        pattern: group["weights"]["num_bits"]
        for group in told["config_groups"].values()
        for pattern in group["targets"]
    }
    patterns |= dict.fromkeys(told["ignore"], 16)
    names = [n for n, m in load(artifact).named_modules() if isinstance(m, torch.nn.Linear)]

    bits = {
        name: [
            of for pattern, of in patterns.items() if re.match(pattern.removeprefix("re:"), name)
        ]
        for name in names
    }

    assert told["format"] == "pack-quantized"
    assert all(len(found) == 1 for found in bits.values())
    assert bits["lm_head"] == bits["model.layers.0.mlp.gate_proj"] == [16]
    assert bits["model.layers.0.self_attn.v_proj"] == [4]
    assert bits["model.layers.1.self_attn.o_proj"] == [5]
    assert bits["model.layers.1.mlp.up_proj"] == [2]
    assert bits["model.layers.1.mlp.down_proj"] == [6]
    assert not any("model.layers.2" in name for name in names)


@pytest.mark.parametrize("layers", [MIXED, ALIKE, SHORTER], ids=["mixed", "alike", "shorter"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_bytes_and_parameters_are_those_that_were_counted(
    export: Exported, family: str, layers: Sequence[Sequence[str] | None], dtype: torch.dtype
) -> None:
    space = space_of(family)
    artifact, shaped = export(family, genotype(space, *layers), dtype)

    around = sum(
        parameter.numel()
        for name, parameter in shaped.model.named_parameters()
        if ".layers." not in name
    )
    bits = 8 * dtype.itemsize
    entries = space.entries(genotype(space, *layers))
    counted = stored_bytes(space, bits, around * bits // 8, as_compressed_tensors).of(entries)
    assert artifact.tensor_bytes == stored_tensor_bytes(artifact.folder) == counted
    assert artifact.linear_bytes == stored_linear_bytes(artifact.folder)
    assert artifact.parameters == parameters(space, around).of(entries)


def test_the_gate_passes_what_was_searched_and_nothing_else(
    export: Exported, tmp_path: Path
) -> None:
    artifact, shaped = export("llama", genotype(space_of("llama"), *MIXED))
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    shaped.apply_dense()
    (tmp_path / "other").mkdir()
    other = gate.write_reference(shaped, IDS[:1], tmp_path / "other")

    assert gate.check(artifact, reference, "cpu").passed
    assert not gate.check(artifact, other, "cpu").passed


def test_codes_are_stored_and_no_rounded_weight(export: Exported) -> None:
    artifact, _ = export("llama", genotype(space_of("llama"), *ALIKE))

    tensors: dict[str, Tensor] = {}
    for file in artifact.folder.glob("*.safetensors"):
        tensors |= load_file(file)
    of_layers = {name.rpartition(".")[2] for name in tensors if "_proj." in name}
    assert of_layers == {"weight_packed", "weight_scale", "weight_shape"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({0: Choice(2, KV_GROUPS)}, "does not hold width 2/4 of layer 0 attention"),
        ({1: Choice(0, COLUMNS)}, "does not hold drop of layer 0 mlp"),
        (
            {1: Choice(COLUMNS, COLUMNS, settings("w4g16", "dense"))},
            "does not hold w4g16 dense of layer 0 mlp",
        ),
    ],
)
def test_what_it_does_not_hold_is_refused(
    tiny_models: TinyModels, tmp_path: Path, changes: dict[int, Choice], said: str
) -> None:
    model = tiny_models.load()
    shaped = ShapedModel(model, space_of("llama"), open_levels(tmp_path / "none"))
    wanted = dense_choices(shaped.space)
    for index, choice in changes.items():
        wanted[index] = choice
    shaped._now = wanted

    with pytest.raises(ExportError, match=said):
        write_compressed_checkpoint(
            shaped, tiny_models.folder(), tmp_path / "out", open_levels(tmp_path / "none")
        )

    assert not (tmp_path / "out").exists()


def test_floating_point_of_4_bits_wants_bfloat16() -> None:
    space = space_of("llama")

    check_settings(space, torch.bfloat16)
    with pytest.raises(ExportError, match="mxfp4, nvfp4 of compressed-tensors in bfloat16 alone"):
        check_settings(space, torch.float32)
