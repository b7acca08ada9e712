"""Checkpoints of DeciLM are what was searched, to transformers and to vLLM."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from autocompress.errors import ExportError
from autocompress.evaluators.torch_engine import has_own_modeling, load_checkpoint
from autocompress.export import gate
from autocompress.export.checkpoint import Artifact
from autocompress.export.compressed_checkpoint import write_compressed_checkpoint
from autocompress.export.decilm import check_family
from autocompress.models.architecture import linear_groups, other_parameters, read_architecture
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SUB_BLOCKS, Choice, SearchSpace
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from tests.built_levels import build_levels, open_levels
from tests.tiny_models import (
    CPU,
    KV_GROUPS,
    LAYERS,
    dense_choices,
    logits_of,
    make_config,
    token_ids,
    write_model,
)

# What stock classes warn of while they load is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

IDS = token_ids(2, 12)
COLUMNS = 64
FAMILIES = ("llama", "mistral")

Exported = Callable[..., tuple[Artifact, ShapedModel]]
Drops = Sequence[int]
"""The numbers of sites that are gone: attention and MLP of the first layer are 0 and 1."""

SOME = (1, 2)
A_LAYER_TOO = (2, 3, 5)


def settings(*texts: str) -> tuple[WeightSetting, ...]:
    return tuple(map(WeightSetting.parse, texts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("decilm")


@pytest.fixture
def export(folder: Path, tmp_path: Path) -> Exported:
    """Write a candidate with some sites gone and codes in the others."""

    def write(family: str, drops: Drops, code: str = "dense") -> tuple[Artifact, ShapedModel]:
        source, config = folder / family, make_config(family)
        config.intermediate_size = COLUMNS
        if not source.is_dir():
            write_model(source, config, torch.bfloat16)
        architecture = read_architecture(config)
        space = make_space(
            LAYERS,
            KV_GROUPS,
            COLUMNS,
            depth=True,
            width=False,
            weights=Weights(settings=settings("w8sym", "w4g16sym")),
            groups=linear_groups(architecture),
            other_parameters=other_parameters(architecture),
        )
        levels = open_levels(folder / f"levels-{family}")
        shaped = ShapedModel(load_model(source, CPU), space, levels)
        build_levels(shaped, levels, SUB_BLOCKS)
        shaped.apply(choices_of(space, drops, code))
        artifact = write_compressed_checkpoint(
            shaped, source, tmp_path / "out", levels, as_decilm=True
        )
        return artifact, shaped

    return write


def choices_of(space: SearchSpace, drops: Drops, code: str) -> list[Choice]:
    setting = WeightSetting.parse(code)
    return [
        Choice(0, site.units)
        if number in drops
        else Choice(
            site.units,
            site.units,
            () if setting.is_dense else (setting,) * len(site.groups),
        )
        for number, site in enumerate(space.sites)
    ]


def config_of(artifact: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact.folder / "config.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("drops", [(), SOME, A_LAYER_TOO], ids=str)
@pytest.mark.parametrize("code", ["dense", "w4g16sym"])
def test_transformers_computes_what_was_searched(
    export: Exported, family: str, drops: Drops, code: str
) -> None:
    artifact, shaped = export(family, drops, code)

    model = load_checkpoint(artifact.folder, CPU, "auto")

    assert artifact.needs_remote_code
    assert has_own_modeling(artifact.folder)
    assert torch.equal(logits_of(model, IDS), logits_of(shaped.model, IDS))
    assert ("quantization_config" in config_of(artifact)) is (code != "dense")


def test_its_config_says_what_each_layer_has(export: Exported) -> None:
    artifact, _ = export("llama", A_LAYER_TOO)

    config = config_of(artifact)

    assert config["architectures"] == ["DeciLMForCausalLM"]
    assert config["model_type"] == "nemotron-nas"
    assert config["num_hidden_layers"] == len(config["block_configs"]) == LAYERS - 1
    gone = [(own["attention"]["no_op"], own["ffn"]["no_op"]) for own in config["block_configs"]]
    assert gone == [(False, False), (False, True)]
    first = config["block_configs"][0]
    assert first["attention"]["n_heads_in_group"] == 2
    assert first["ffn"]["intermediate_size"] == COLUMNS
    # It would come before the width, and rounds it.
    assert "ffn_mult" not in first["ffn"]


def test_the_gate_passes_it(export: Exported, tmp_path: Path) -> None:
    artifact, shaped = export("llama", SOME, "w4g16sym")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)

    report = gate.check(artifact, reference, "cpu")

    assert report.failures == []


def test_the_first_attention_has_to_stay(export: Exported) -> None:
    with pytest.raises(ExportError, match="first layer that is left of a DeciLM must have its"):
        export("llama", (0,))


def test_its_layers_are_of_one_kind() -> None:
    check_family(make_config("llama"))
    check_family(make_config("mistral"))
    for family in ("qwen2", "qwen3"):
        with pytest.raises(ExportError, match=f"the model is a {family}: take --format"):
            check_family(make_config(family))
    windowed = make_config("mistral")
    windowed.sliding_window = 16
    with pytest.raises(ExportError, match="sees all tokens, but the model's 16"):
        check_family(windowed)


def test_the_space_of_a_decilm_keeps_the_first_attention() -> None:
    how = {"depth": True, "width": False, "keeps_first_attention": True}

    space = make_space(LAYERS, KV_GROUPS, COLUMNS, **how)  # type: ignore[arg-type]

    assert [len(menu) for menu in space.menus] == [1] + [2] * (2 * LAYERS - 1)
    assert list(space.choices(space.dense)) == dense_choices(space)
    by_layer = make_space(LAYERS, KV_GROUPS, COLUMNS, whole_layers=True, **how)  # type: ignore[arg-type]
    assert [len(menu) for menu in by_layer.menus] == [2] * LAYERS
