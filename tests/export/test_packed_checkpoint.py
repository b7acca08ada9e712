"""A candidate in other settings is stored in them, loads everywhere, takes what was counted."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from autocompress.errors import EvaluationError, ModelError
from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.export import gate
from autocompress.export.checkpoint import (
    Artifact,
    stored_linear_bytes,
    stored_tensor_bytes,
    write_checkpoint,
)
from autocompress.models.architecture import linear_groups, other_parameters, read_architecture
from autocompress.models.loading import load_model
from autocompress.models.packed_weights import STORED
from autocompress.models.surgery import ShapedModel
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.spaces.base import SUB_BLOCKS, Choice, SearchSpace, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import DENSE, CacheSetting, WeightSetting
from autocompress.spaces.sizes import parameters, stored_bytes
from tests.built_levels import build_levels, open_levels
from tests.tiny_models import (
    CPU,
    FFN_COLUMNS,
    KV_GROUPS,
    LAYERS,
    TinyModels,
    dense_choices,
    generate,
    genotype_of,
    logits_of,
    make_config,
    token_ids,
)

IDS = token_ids(2, 12)
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
STORES = Weights(
    bits=(3,),
    group_size=8,
    sparsities=(WeightSetting(sparsity=0.5, pattern=(2, 4)), WeightSetting(sparsity=0.5)),
    cache_bits=(8,),
)
Changes = dict[tuple[int, SiteKind], Choice]


def settings(*texts: str) -> tuple[WeightSetting, ...]:
    return tuple(map(WeightSetting.parse, texts))


# The second layer is gone, of the third all units stay. Where a width takes rows of q, k, v, gate
# and up, their zeros are in every row alike, so that bytes can be counted beforehand.
MIXED: Changes = {
    (0, ATTENTION): Choice(2, KV_GROUPS, settings("w3g8", "s0.5+w3g8")),
    (0, MLP): Choice(16, FFN_COLUMNS, settings("s2:4", "w3g8")),
    (1, ATTENTION): Choice(0, KV_GROUPS),
    (1, MLP): Choice(0, FFN_COLUMNS),
    (2, ATTENTION): Choice(KV_GROUPS, KV_GROUPS, settings("s0.5", "dense"), CacheSetting(8)),
    (2, MLP): Choice(FFN_COLUMNS, FFN_COLUMNS, settings("w3g8", "s2:4+w3g8")),
}
ONE_GROUP: Changes = {(1, MLP): Choice(FFN_COLUMNS, FFN_COLUMNS, settings("dense", "w3g8"))}
SPARSE_ROWS: Changes = {(0, ATTENTION): Choice(1, KV_GROUPS, settings("s0.5+w3g8", "s0.5"))}
CASES = {"mixed": MIXED, "one group": ONE_GROUP, "sparse rows": SPARSE_ROWS}
all_cases = pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
both_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def space_of(family: str) -> SearchSpace:
    architecture = read_architecture(make_config(family))
    return make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=True,
        width=True,
        ffn_step=8,
        ffn_levels=3,
        weights=STORES,
        groups=linear_groups(architecture),
        other_parameters=other_parameters(architecture),
    )


def choices_of(space: SearchSpace, changes: Changes) -> list[Choice]:
    pairs = zip(space.sites, dense_choices(space), strict=True)
    return [changes.get((site.layer, site.kind), dense) for site, dense in pairs]


Exported = Callable[..., tuple[Artifact, ShapedModel]]


@pytest.fixture(scope="module")
def level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("levels")


@pytest.fixture
def export(tiny_models: TinyModels, level_folder: Path, tmp_path: Path) -> Exported:
    """Write a candidate of a family whose levels real operators built, once for all tests."""

    def write(
        family: str,
        changes: Changes,
        dtype: torch.dtype = torch.float32,
        shard_size: str = "5GB",
    ) -> tuple[Artifact, ShapedModel]:
        space = space_of(family)
        levels = open_levels(level_folder / f"{family}-{dtype}")
        shaped = ShapedModel(tiny_models.load(family, dtype=dtype), space, levels)
        build_levels(shaped, levels, SUB_BLOCKS)
        shaped.apply(choices_of(space, changes))
        source = tiny_models.folder(family, dtype=dtype)
        return write_checkpoint(shaped, source, tmp_path / "out", levels, shard_size), shaped

    return write


def load(folder: Path, dtype: str = "auto") -> PreTrainedModel:
    """Load as a user would."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=True
    )
    model.eval()
    return model


def written(artifact: Artifact) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in artifact.folder.glob("*.safetensors"):
        tensors |= load_file(file)
    return tensors


@all_cases
def test_what_is_loaded_computes_what_was_searched(
    export: Exported, family: str, changes: Changes
) -> None:
    artifact, shaped = export(family, changes, torch.bfloat16)

    ours = load_model(artifact.folder, CPU, trust_remote_code=True)

    expected = logits_of(shaped.model, IDS)
    assert artifact.needs_remote_code
    assert has_own_modeling(artifact.folder)
    assert ours.dtype is torch.bfloat16
    assert torch.equal(logits_of(ours, IDS), expected)
    assert torch.equal(logits_of(load(artifact.folder), IDS), expected)


def test_bytes_and_parameters_are_those_that_were_counted(export: Exported, family: str) -> None:
    artifact, shaped = export(family, MIXED, torch.bfloat16)

    space = shaped.space
    around = sum(
        parameter.numel()
        for name, parameter in shaped.model.named_parameters()
        if ".layers." not in name
    )
    entries = space.entries(genotype_of(space, choices_of(space, MIXED)))
    n_packed = sum(name.rpartition(".")[2] in STORED for name in written(artifact))
    counted = stored_bytes(space, 16, 2 * around).of(entries)
    assert artifact.parameters == parameters(space, around).of(entries)
    # Each packed tensor ends in a byte that may not be full.
    assert counted <= artifact.tensor_bytes < counted + n_packed
    assert artifact.tensor_bytes == stored_tensor_bytes(artifact.folder)


@all_cases
def test_linear_bytes_are_those_of_all_weights_of_layers(
    export: Exported, changes: Changes
) -> None:
    artifact, _ = export("qwen2", changes, torch.bfloat16)

    linears = [
        tensor
        for name, tensor in written(artifact).items()
        if "_proj." in name and not name.endswith(".bias")
    ]
    assert artifact.linear_bytes == sum(t.numel() * t.element_size() for t in linears)
    assert artifact.linear_bytes == stored_linear_bytes(artifact.folder)


def test_no_rounded_weight_is_stored_beside_its_codes(export: Exported, family: str) -> None:
    artifact, _ = export(family, MIXED)

    names = written(artifact).keys()
    packed = {name.rpartition(".")[0] for name in names if name.endswith((".codes", ".values"))}
    plain = {name.rpartition(".")[0] for name in names if name.endswith("_proj.weight")}
    assert len(packed) == 3 + 1 + 2 + 1 + 3 + 2 + 1
    assert plain == {"model.layers.1.self_attn.o_proj"}


def test_the_config_names_each_setting(export: Exported) -> None:
    artifact, _ = export("llama", MIXED)

    config = json.loads((artifact.folder / "config.json").read_text("utf-8"))

    first, last = config["per_layer_config"]["0"], config["per_layer_config"]["1"]
    assert first["weights"] == {
        "self_attn.q_proj": "w3g8",
        "self_attn.k_proj": "w3g8",
        "self_attn.v_proj": "w3g8",
        "self_attn.o_proj": "s0.5+w3g8",
        "mlp.gate_proj": "s2:4",
        "mlp.up_proj": "s2:4",
        "mlp.down_proj": "w3g8",
    }
    assert first["num_key_value_heads"] == 2
    assert "cache" not in first
    assert last["cache"] == "kv8"
    assert "num_key_value_heads" not in last
    assert "self_attn.o_proj" not in last["weights"]


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_checkpoint_loads_in_another_number_format(export: Exported, name: str) -> None:
    artifact, shaped = export("qwen3", MIXED, torch.bfloat16)

    loaded = load_model(artifact.folder, CPU, name, trust_remote_code=True)

    stored = written(artifact)
    packed = {n: b for n, b in loaded.named_buffers() if n.rpartition(".")[2] in STORED}
    assert str(loaded.dtype) == f"torch.{name}"
    assert all(tensor.dtype == stored[n].dtype for n, tensor in packed.items())
    assert all(
        torch.equal(tensor.view(torch.uint8), stored[n].view(torch.uint8))
        for n, tensor in packed.items()
    )
    layers = [loaded.get_submodule(n.rpartition(".")[0]) for n in packed]
    assert {layer.weight.dtype for layer in layers} == {loaded.dtype}
    tolerance = gate.TOLERANCE[torch.bfloat16] * float(logits_of(shaped.model, IDS).abs().max())
    difference = logits_of(loaded, IDS).float() - logits_of(shaped.model, IDS).float()
    assert float(difference.abs().max()) <= tolerance


def test_a_loaded_checkpoint_can_be_saved_and_loaded_again(
    export: Exported, family: str, tmp_path: Path
) -> None:
    artifact, _ = export(family, MIXED, torch.bfloat16)
    loaded = load(artifact.folder)
    expected = logits_of(loaded, IDS)
    # Norms are exact in float32, and packed tensors are not converted.
    loaded.float().bfloat16()

    loaded.save_pretrained(tmp_path / "again", max_shard_size="20KB")

    again = load(tmp_path / "again")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    assert stored_tensor_bytes(tmp_path / "again") == artifact.tensor_bytes
    assert torch.equal(logits_of(again, IDS), expected)


def test_shards_hold_what_one_file_would(export: Exported) -> None:
    artifact, shaped = export("mistral", MIXED, shard_size="20KB")

    loaded = load(artifact.folder)

    assert len(list(artifact.folder.glob("*.safetensors"))) > 1
    assert artifact.tensor_bytes == stored_tensor_bytes(artifact.folder)
    assert torch.equal(logits_of(loaded, IDS), logits_of(shaped.model, IDS))


def test_a_packed_checkpoint_generates_with_a_kv_cache(export: Exported, family: str) -> None:
    artifact, _ = export(family, MIXED)
    loaded = load(artifact.folder)

    generated = generate(loaded, IDS[:1], 5)

    without_cache = logits_of(loaded, generated[:, :-1]).argmax(-1)
    assert torch.equal(generated[0, 12:], without_cache[0, 11:])


def test_the_gate_finds_no_fault_in_a_packed_checkpoint(
    export: Exported, family: str, tmp_path: Path
) -> None:
    artifact, shaped = export(family, MIXED)
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)

    found = gate.examine(artifact.folder, reference, CPU)

    report = gate.GateReport(found, found.tensor_bytes == artifact.tensor_bytes, "torch", "5")
    assert report.failures == []
    assert found.largest_difference == 0.0


@pytest.mark.parametrize("kind", ["codes", "scales", "zeros"])
def test_a_packed_tensor_that_is_gone_is_named(export: Exported, kind: str) -> None:
    artifact, _ = export("llama", ONE_GROUP)
    tensors = written(artifact)
    name = f"model.layers.1.mlp.down_proj.{kind}"
    del tensors[name]
    save_file(tensors, artifact.folder / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(ModelError, match=rf"lacks 1 tensors of its config, such as {name}\."):
        load_model(artifact.folder, CPU, trust_remote_code=True)


def test_the_gate_finds_codes_that_were_changed(export: Exported, tmp_path: Path) -> None:
    artifact, shaped = export("llama", ONE_GROUP)
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    tensors = written(artifact)
    tensors["model.layers.1.mlp.down_proj.codes"].bitwise_not_()
    save_file(tensors, artifact.folder / "model.safetensors", metadata={"format": "pt"})

    found = gate.examine(artifact.folder, reference, CPU)

    assert (found.largest_difference or 0.0) > found.tolerance


@pytest.mark.slow
@pytest.mark.parametrize("changes", [MIXED, ONE_GROUP], ids=["mixed", "one group"])
def test_a_fresh_process_passes_a_packed_checkpoint(
    export: Exported, changes: Changes, tmp_path: Path
) -> None:
    artifact, shaped = export("qwen3", changes)
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)

    report = gate.check(artifact, reference, "cpu")

    assert report.failures == []


ALONE = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
with torch.inference_mode():
    logits = model(torch.tensor([[1, 2, 3, 4]]), use_cache=False).logits
assert not [name for name in sys.modules if name.startswith("autocompress")]
save_file({"logits": logits.contiguous()}, sys.argv[2])
"""


@pytest.mark.slow
def test_a_packed_checkpoint_loads_where_autocompress_is_not(
    export: Exported, family: str, tmp_path: Path
) -> None:
    artifact, shaped = export(family, MIXED)

    subprocess.run(
        [sys.executable, "-c", ALONE, artifact.folder, tmp_path / "logits"],
        check=True,
        cwd=tmp_path,
    )

    expected = logits_of(shaped.model, torch.tensor([[1, 2, 3, 4]]))
    assert torch.equal(load_file(tmp_path / "logits")["logits"], expected)


def test_a_level_that_was_never_built_leaves_no_folder(
    export: Exported, tiny_models: TinyModels, tmp_path: Path
) -> None:
    _, shaped = export("llama", ONE_GROUP)
    empty, source = open_levels(tmp_path / "none"), tiny_models.folder("llama")

    with pytest.raises(EvaluationError, match=r"lacks layer 1 mlp, down in w3g8, or it is broken"):
        write_checkpoint(shaped, source, tmp_path / "other", empty)

    assert not (tmp_path / "other").exists()


@both_dtypes
def test_block_formats_are_stored_as_engines_know_them(
    tiny_models: TinyModels, dtype: torch.dtype, tmp_path: Path
) -> None:
    space = make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=True,
        width=False,
        weights=Weights(blocks=("fp8", "mxfp4", "nvfp4")),
        # The tiny models' MLPs are no multiples of blocks.
        groups={ATTENTION: linear_groups(read_architecture(make_config("llama")))[ATTENTION]},
    )
    levels = open_levels(tmp_path / "levels", RoundToNearest())
    shaped = ShapedModel(tiny_models.load("llama", dtype=dtype), space, levels)
    build_levels(shaped, levels, [ATTENTION])
    stored = [("fp8", "mxfp4"), ("mxfp4", "nvfp4"), ("nvfp4", "fp8")]
    changes = {
        (layer, ATTENTION): Choice(KV_GROUPS, KV_GROUPS, settings(*texts))
        for layer, texts in enumerate(stored)
    }
    shaped.apply(choices_of(space, changes))
    source = tiny_models.folder("llama", dtype=dtype)

    artifact = write_checkpoint(shaped, source, tmp_path / "out", levels)

    scales = [
        written(artifact)[f"model.layers.{layer}.self_attn.v_proj.scales"].dtype
        for layer in range(LAYERS)
    ]
    assert scales == [torch.float32, torch.uint8, torch.float8_e4m3fn]
    assert torch.equal(logits_of(load(artifact.folder), IDS), logits_of(shaped.model, IDS))


def test_linear_layers_of_their_own_are_packed_alone(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    architecture = read_architecture(make_config("qwen3"))
    groups = linear_groups(architecture, fused=False)
    space = make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=True,
        width=True,
        ffn_step=16,
        weights=Weights(bits=(4, 3), group_size=8),
        groups=groups,
    )
    levels = open_levels(tmp_path / "levels")
    shaped = ShapedModel(tiny_models.load("qwen3"), space, levels)
    build_levels(shaped, levels, [ATTENTION])
    own = (*settings("w4g8", "w3g8"), DENSE, *settings("w4g8"))
    shaped.apply(choices_of(space, {(0, ATTENTION): Choice(3, KV_GROUPS, own)}))

    artifact = write_checkpoint(shaped, tiny_models.folder("qwen3"), tmp_path / "out", levels)

    loaded = load(artifact.folder)
    attention = loaded.model.layers[0].self_attn
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    found = [getattr(getattr(attention, name), "setting", "dense") for name in names]
    assert found == ["w4g8", "w3g8", "dense", "w4g8"]
    assert torch.equal(logits_of(loaded, IDS), logits_of(shaped.model, IDS))
