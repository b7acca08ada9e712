"""Checkpoints hold what was searched, load where they should, and the gate lets no other pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from autocompress.errors import ExportError, GateError
from autocompress.evaluators.torch_engine import has_own_modeling
from autocompress.export import gate
from autocompress.export.checkpoint import (
    Artifact,
    files_bytes,
    stored_tensor_bytes,
    write_checkpoint,
)
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.dense import measure_dense
from autocompress.spaces.base import SiteKind
from tests.built_levels import open_levels
from tests.full_disk import FULL, no_room
from tests.tiny_models import (
    CPU,
    LAYERS,
    PlainSlices,
    TinyModels,
    generate,
    is_tied,
    logits_of,
    tiny_space,
    token_ids,
    with_changes,
)

SPACE = tiny_space()
IDS = token_ids(2, 12)
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
Changes = dict[tuple[int, SiteKind], int]
# Nothing here is stored in another setting.
NO_LEVELS = open_levels(Path("no levels"))

DENSE: Changes = {}
WHOLE_LAYERS: Changes = {(0, ATTENTION): 0, (0, MLP): 0}
MIXED: Changes = {
    (0, ATTENTION): 0,
    (0, MLP): 8,
    (1, ATTENTION): 0,
    (1, MLP): 0,
    (2, ATTENTION): 1,
}
PARTS = {
    "first attention": {(0, ATTENTION): 0},
    "one mlp": {(1, MLP): 0},
    "groups": {(0, ATTENTION): 1, (2, ATTENTION): 3},
    "columns": {(0, MLP): 8, (1, MLP): 32},
    "mixed": MIXED,
    "no attention at all": {(layer, ATTENTION): 0 for layer in range(LAYERS)},
}
all_parts = pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS)
# The same numbers through the same kernels: nothing is computed otherwise than before.
EXACT = 1e-6


def shape(
    tiny_models: TinyModels,
    family: str,
    changes: Changes,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
) -> ShapedModel:
    model = tiny_models.load(family, tied=tied, dtype=dtype)
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    shaped.apply(with_changes(SPACE, changes))
    return shaped


def export(
    tiny_models: TinyModels,
    family: str,
    changes: Changes,
    folder: Path,
    *,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[Artifact, ShapedModel]:
    shaped = shape(tiny_models, family, changes, tied=tied, dtype=dtype)
    source = tiny_models.folder(family, tied=tied, dtype=dtype)
    return write_checkpoint(shaped, source, folder, NO_LEVELS), shaped


def load(artifact: Artifact) -> PreTrainedModel:
    """Load as a user would, with the number format of the files."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        artifact.folder, dtype="auto", trust_remote_code=artifact.needs_remote_code
    )
    model.eval()
    return model


@pytest.mark.parametrize("changes", [DENSE, WHOLE_LAYERS], ids=["dense", "whole layer"])
@pytest.mark.parametrize("tied", [False, True])
def test_whole_layers_leave_a_plain_checkpoint(
    tiny_models: TinyModels, family: str, changes: Changes, tied: bool, tmp_path: Path
) -> None:
    artifact, shaped = export(tiny_models, family, changes, tmp_path / "out", tied=tied)
    config = json.loads((artifact.folder / "config.json").read_text("utf-8"))

    loaded = AutoModelForCausalLM.from_pretrained(artifact.folder, trust_remote_code=False)

    assert not artifact.needs_remote_code
    assert not list(artifact.folder.glob("*.py"))
    assert config["num_hidden_layers"] == len(loaded.model.layers) == LAYERS - len(changes) // 2
    assert not {"auto_map", "per_layer_config"} & config.keys()
    assert torch.equal(logits_of(loaded.eval(), IDS), logits_of(shaped.model, IDS))


@all_parts
def test_parts_of_layers_load_with_the_modeling_file(
    tiny_models: TinyModels, family: str, changes: Changes, tmp_path: Path
) -> None:
    artifact, shaped = export(tiny_models, family, changes, tmp_path / "out")

    loaded = load(artifact)

    assert artifact.needs_remote_code
    assert has_own_modeling(artifact.folder)
    assert loaded.num_parameters() == artifact.parameters
    torch.testing.assert_close(
        logits_of(loaded, IDS), logits_of(shaped.model, IDS), rtol=0.0, atol=EXACT
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_ties_and_the_number_format_are_kept(
    tiny_models: TinyModels, family: str, tied: bool, dtype: torch.dtype, tmp_path: Path
) -> None:
    artifact, shaped = export(tiny_models, family, MIXED, tmp_path / "out", tied=tied, dtype=dtype)

    loaded = load(artifact)

    assert is_tied(loaded) is tied
    assert loaded.dtype is dtype
    assert loaded.num_parameters() == artifact.parameters
    assert stored_tensor_bytes(artifact.folder) == artifact.tensor_bytes
    assert artifact.tensor_bytes == dtype.itemsize * artifact.parameters
    assert torch.equal(logits_of(loaded, IDS), logits_of(shaped.model, IDS))


@all_parts
def test_bytes_are_those_of_the_tensors(
    tiny_models: TinyModels, family: str, changes: Changes, tmp_path: Path
) -> None:
    artifact, shaped = export(tiny_models, family, changes, tmp_path / "out")

    parameters = sum(parameter.numel() for parameter in shaped.model.parameters())
    assert artifact.parameters == parameters
    assert artifact.tensor_bytes == stored_tensor_bytes(artifact.folder) == 4 * parameters
    assert files_bytes(artifact.folder) > artifact.tensor_bytes


def test_smaller_candidates_are_smaller_on_disk(tiny_models: TinyModels, tmp_path: Path) -> None:
    sizes = [
        export(tiny_models, "llama", changes, tmp_path / name)[0].tensor_bytes
        for name, changes in [("dense", DENSE), ("one", PARTS["columns"]), ("mixed", MIXED)]
    ]

    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


@pytest.mark.parametrize("changes", [WHOLE_LAYERS, *PARTS.values()], ids=["layers", *PARTS])
def test_a_loaded_checkpoint_generates_with_a_kv_cache(
    tiny_models: TinyModels, family: str, changes: Changes, tmp_path: Path
) -> None:
    artifact, _ = export(tiny_models, family, changes, tmp_path / "out")
    loaded = load(artifact)

    generated = generate(loaded, IDS[:1], 5)

    without_cache = logits_of(loaded, generated[:, :-1]).argmax(-1)
    assert generated.shape == (1, 17)
    assert torch.equal(generated[0, 12:], without_cache[0, 11:])


def test_a_loaded_checkpoint_can_be_saved_and_loaded_again(
    tiny_models: TinyModels, family: str, tmp_path: Path
) -> None:
    artifact, _ = export(tiny_models, family, MIXED, tmp_path / "out")
    loaded = load(artifact)

    loaded.save_pretrained(tmp_path / "again")

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", trust_remote_code=True)
    assert torch.equal(logits_of(again.eval(), IDS), logits_of(loaded, IDS))
    assert stored_tensor_bytes(tmp_path / "again") == artifact.tensor_bytes


def test_the_tokenizer_comes_along(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, _ = export(tiny_models, "llama", MIXED, tmp_path / "out")

    tokenizer = AutoTokenizer.from_pretrained(artifact.folder)

    text = "def repair(): ..."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_shaped_model_is_left_as_it_is(tiny_models: TinyModels, tmp_path: Path) -> None:
    shaped = shape(tiny_models, "qwen2", MIXED)
    before = logits_of(shaped.model, IDS)

    write_checkpoint(shaped, tiny_models.folder("qwen2"), tmp_path / "out", NO_LEVELS)

    assert torch.equal(logits_of(shaped.model, IDS), before)
    assert not shaped.model.config.is_heterogeneous
    assert shaped.model.config.num_hidden_layers == LAYERS


def test_nothing_left_is_nothing_to_export(tiny_models: TinyModels, tmp_path: Path) -> None:
    changes = {(site.layer, site.kind): 0 for site in SPACE.sites}

    with pytest.raises(ExportError, match="No layer is left of the model: nothing to export"):
        export(tiny_models, "llama", changes, tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_overwritten(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=f"Cannot write {tmp_path}: File exists."):
        export(tiny_models, "llama", DENSE, tmp_path)


@pytest.mark.parametrize("changes", [WHOLE_LAYERS, MIXED], ids=["plain", "heterogeneous"])
def test_two_ends_that_differ_stay_two_whatever_the_config_says(
    tiny_models: TinyModels, changes: Changes, tmp_path: Path
) -> None:
    source = shutil.copytree(tiny_models.folder(), tmp_path / "source")
    told = json.loads((source / "config.json").read_text("utf-8"))
    (source / "config.json").write_text(json.dumps(told | {"tie_word_embeddings": True}), "utf-8")
    model = load_model(source, CPU)
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    dense = measure_dense(shaped)
    shaped.apply(with_changes(SPACE, changes))

    artifact = write_checkpoint(shaped, source, tmp_path / "out", NO_LEVELS)

    loaded = load(artifact)
    assert not is_tied(loaded)
    assert not loaded.config.tie_word_embeddings
    assert float((logits_of(loaded, IDS) - logits_of(shaped.model, IDS)).abs().max()) < EXACT
    assert dense.bytes == stored_tensor_bytes(source)


def test_a_full_disk_is_told_in_a_line(tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    tiny_models.folder("llama")

    # Room for what lies beside the weights.
    with no_room(2**16), pytest.raises(ExportError, match=f"^Cannot write {folder}: .*{FULL}"):
        export(tiny_models, "llama", DENSE, folder)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a checkpoint behind its back."""
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_the_gate_finds_no_fault_in_what_was_exported(
    tiny_models: TinyModels, family: str, tmp_path: Path
) -> None:
    artifact, shaped = export(tiny_models, family, MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)

    found = gate.examine(artifact.folder, reference, CPU)

    report = gate.GateReport(found, found.tensor_bytes == artifact.tensor_bytes, "torch", "5")
    assert report.failures == []
    assert (found.largest_difference or 0.0) <= EXACT
    assert len(found.answer) == gate.ANSWER_TOKENS


def test_the_gate_finds_a_changed_weight(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, shaped = export(tiny_models, "llama", MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    rewrite(artifact.folder, lambda tensors: tensors["model.norm.weight"].mul_(1.01))

    found = gate.examine(artifact.folder, reference, CPU)

    report = gate.GateReport(found, found.tensor_bytes == artifact.tensor_bytes, "torch", "5")
    assert [failure.split(" by ")[0] for failure in report.failures] == [
        "logits differ from the searched candidate's"
    ]
    assert not report.passed


def test_the_gate_finds_bytes_that_were_not_built(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, shaped = export(tiny_models, "llama", MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    rewrite(artifact.folder, lambda tensors: tensors.update(extra=torch.zeros(4)))

    found = gate.examine(artifact.folder, reference, CPU)

    report = gate.GateReport(found, found.tensor_bytes == artifact.tensor_bytes, "torch", "5")
    assert report.failures == [
        f"the files hold {artifact.tensor_bytes + 16:,} bytes of tensors, not as built"
    ]


def findings(
    largest: float = 0.0, cache: float = 0.0, answer: tuple[int, ...] = (1,)
) -> gate.Findings:
    return gate.Findings(largest, cache, tolerance=0.1, tensor_bytes=8, answer=answer)


@pytest.mark.parametrize(
    ("found", "bytes_match", "failures"),
    [
        (findings(), True, []),
        (findings(largest=0.1, cache=0.1), True, []),
        (
            findings(largest=0.2),
            True,
            ["logits differ from the searched candidate's by 0.2, allowed 0.1"],
        ),
        (
            findings(largest=float("nan")),
            True,
            ["logits differ from the searched candidate's by nan, allowed 0.1"],
        ),
        (
            findings(cache=0.2),
            True,
            ["generation with a KV cache differs by 0.2, allowed 0.1"],
        ),
        (
            findings(answer=()),
            False,
            ["the files hold 8 bytes of tensors, not as built", "it generated nothing"],
        ),
    ],
    ids=["good", "at the tolerance", "logits", "nan", "cache", "bytes and answer"],
)
def test_the_verdict_names_every_fault(
    found: gate.Findings, bytes_match: bool, failures: list[str]
) -> None:
    report = gate.GateReport(found, bytes_match, "torch", "5")

    assert report.failures == failures
    assert report.passed is not bool(failures)


@pytest.mark.slow
def test_a_fresh_process_passes_what_was_exported(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, shaped = export(tiny_models, "qwen3", MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)

    report = gate.check(artifact, reference, "cpu")

    assert report.failures == []
    assert report.passed
    assert report.findings.tensor_bytes == artifact.tensor_bytes


@pytest.mark.slow
def test_a_fresh_process_refuses_a_changed_weight(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, shaped = export(tiny_models, "qwen2", MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    rewrite(artifact.folder, lambda tensors: tensors["lm_head.weight"].mul_(1.01))

    report = gate.check(artifact, reference, "cpu")

    assert not report.passed
    assert report.failures[0].startswith("logits differ from the searched candidate's by ")


@pytest.mark.slow
def test_a_fresh_process_says_why_it_cannot_load(tiny_models: TinyModels, tmp_path: Path) -> None:
    artifact, shaped = export(tiny_models, "llama", MIXED, tmp_path / "out")
    reference = gate.write_reference(shaped, IDS[:1], tmp_path)
    rewrite(artifact.folder, lambda tensors: tensors.pop("model.norm.weight"))

    with pytest.raises(
        GateError, match=r"does not load: .* lacks 1 tensors of its config, such as model\.norm"
    ):
        gate.check(artifact, reference, "cpu")
