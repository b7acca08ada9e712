"""Checkpoints in GPTQ's format hold the codes that were searched, as its readers unpack them."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autocompress.errors import ExportError
from autocompress.export.checkpoint import Artifact, stored_linear_bytes, stored_tensor_bytes
from autocompress.export.gptq_checkpoint import check_settings, write_gptq_checkpoint
from autocompress.models.architecture import linear_groups, other_parameters, read_architecture
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SUB_BLOCKS, Choice, SearchSpace
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting, as_gptq
from autocompress.spaces.sizes import linear_bytes, stored_bytes
from tests.built_levels import build_levels, open_levels
from tests.tiny_models import CPU, KV_GROUPS, LAYERS, make_config, write_model

COLUMNS = 64
BASE, OTHER, THIRD = "w4g16sym", "w8sym", "w2g8sym"
LAYOUT = ((BASE, BASE, BASE, OTHER), None, (THIRD, "dense", BASE, BASE))
"""By layer the settings of qkv, o, gate and up, down; None drops it."""


def space_of(*settings: str) -> SearchSpace:
    config = make_config()
    config.intermediate_size = COLUMNS
    architecture = read_architecture(config)
    return make_space(
        LAYERS,
        KV_GROUPS,
        COLUMNS,
        depth=True,
        width=False,
        whole_layers=True,
        weights=Weights(settings=tuple(map(WeightSetting.parse, settings))),
        groups=linear_groups(architecture),
        other_parameters=other_parameters(architecture),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ShapedModel]:
    folder = tmp_path_factory.mktemp("gptq")
    config = make_config()
    config.intermediate_size = COLUMNS
    write_model(folder / "dense", config, torch.bfloat16)
    space, levels = space_of(BASE, OTHER, THIRD), open_levels(folder / "levels")
    shaped = ShapedModel(load_model(folder / "dense", CPU), space, levels)
    build_levels(shaped, levels, SUB_BLOCKS)
    choices = []
    for number, site in enumerate(space.sites):
        own = LAYOUT[site.layer]
        if own is None:
            choices.append(Choice(0, site.units))
            continue
        texts = own[2:] if number % 2 else own[:2]
        weights = tuple(map(WeightSetting.parse, texts))
        choices.append(Choice(site.units, site.units, weights))
    shaped.apply(choices)
    return write_gptq_checkpoint(shaped, folder / "dense", folder / "out", levels), shaped


def config_of(artifact: Artifact) -> dict[str, object]:
    told = json.loads((artifact.folder / "config.json").read_text("utf-8"))
    found: dict[str, object] = told["quantization_config"]
    return found | {"layers": told["num_hidden_layers"]}


def setting_of(config: dict[str, object], module: str) -> dict[str, object] | None:
    """Look a module up as vLLM does: the first rule that matches decides."""
    dynamic = config["dynamic"]
    assert isinstance(dynamic, dict)
    for rule, own in dynamic.items():
        if re.match(rule[2:], module):
            return None if rule.startswith("-:") else own
    return {name: config[name] for name in ("bits", "group_size", "sym")}


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Return the codes of (n, m) words, one after another down the columns."""
    codes = []
    for row in words.to(torch.int64) & 0xFFFFFFFF:
        codes += [(row >> shift) & (2**bits - 1) for shift in range(0, 32, bits)]
    return torch.stack(codes)


def test_readers_decode_what_was_searched(written: tuple[Artifact, ShapedModel]) -> None:
    artifact, shaped = written
    tensors, config = load_file(artifact.folder / "model.safetensors"), config_of(artifact)
    modules = dict(shaped.model.model.layers.named_modules())
    n_coded = 0
    for place in [name.removesuffix(".qweight") for name in tensors if name.endswith("qweight")]:
        own = setting_of(config, place)
        assert own is not None
        bits = int(str(own["bits"]))
        codes = unpacked(tensors[f"{place}.qweight"], bits)
        zeros = unpacked(tensors[f"{place}.qzeros"].T.contiguous(), bits).T + 1
        groups = tensors[f"{place}.g_idx"].long()
        scales = tensors[f"{place}.scales"]
        weight = scales[groups] * (codes - zeros[groups]).to(scales.dtype)
        # Of two layers that are left the second was the third.
        old = place.replace("model.layers.1.", "2.").replace("model.layers.0.", "0.")
        assert torch.equal(weight.T, modules[old].weight)
        n_coded += 1
    assert n_coded == 2 * 7 - 1
    assert config["layers"] == LAYERS - 1


def test_fused_layers_are_found_by_their_own_names(
    written: tuple[Artifact, ShapedModel],
) -> None:
    config = config_of(written[0])

    for layer, fused, one in (
        (1, "self_attn.qkv_proj", "self_attn.k_proj"),
        (0, "self_attn.qkv_proj", "self_attn.q_proj"),
        (1, "mlp.gate_up_proj", "mlp.up_proj"),
    ):
        both = [setting_of(config, f"model.layers.{layer}.{name}") for name in (fused, one)]
        assert both[0] == both[1]
    assert setting_of(config, "model.layers.1.self_attn.qkv_proj") == {
        "bits": 2,
        "group_size": 8,
        "sym": True,
    }
    assert setting_of(config, "model.layers.1.self_attn.o_proj") is None
    assert config["quant_method"] == "gptq"


def test_bytes_are_those_that_were_counted(written: tuple[Artifact, ShapedModel]) -> None:
    artifact, shaped = written
    space = shaped.space
    entries = []
    first = 0
    for bundle, menu in zip(space.bundles, space.menus, strict=True):
        own = tuple(shaped.choices[first : first + len(bundle.sites)])
        first += len(own)
        entries.append(next(n for n, entry in enumerate(menu) if entry.choices == own))

    assert linear_bytes(space, 16, as_gptq).of(entries) == artifact.linear_bytes
    assert artifact.linear_bytes == stored_linear_bytes(artifact.folder)
    assert artifact.tensor_bytes == stored_tensor_bytes(artifact.folder)
    outside = stored_bytes(space, 16, 0, as_gptq)
    assert outside.dense - outside.of(entries) == pytest.approx(
        2 * shaped_parameters(shaped) - artifact.tensor_bytes
    )


def shaped_parameters(shaped: ShapedModel) -> int:
    """Return the parameters of the dense model."""
    dense = type(shaped.model)(shaped.model.config)
    return int(dense.num_parameters())


@pytest.mark.parametrize("wrong", ["w4g16", "w6sym", "w3g8sym"])
def test_what_it_does_not_hold_is_refused(wrong: str) -> None:
    check_settings(space_of(BASE, OTHER, THIRD))
    with pytest.raises(ExportError, match=f"GPTQ holds codes around 0 .*, but got {wrong}"):
        check_settings(space_of(BASE, wrong))
