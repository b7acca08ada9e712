"""A published folder that was changed in any way is found out, by `verify` and by the gate."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocompress.errors import EngineError, ExportError, GateError
from autocompress.export import gate
from autocompress.export.checkpoint import Artifact, changed_files, write_checkpoint
from autocompress.export.compressed_checkpoint import write_compressed_checkpoint
from autocompress.export.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    read_manifest,
    unpack_reference,
    write_manifest,
)
from autocompress.export.publishing import put_in_place
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.verifying import _untested, to_text, verify
from autocompress.spaces.base import SUB_BLOCKS
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import WeightSetting
from tests.built_levels import build_levels, open_levels
from tests.full_disk import FULL, no_room
from tests.tiny_models import TinyModels, tiny_space, token_ids

pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = token_ids(1, 12)
SPACE = tiny_space(
    width=False,
    whole_layers=True,
    weights=Weights(settings=(WeightSetting.parse("w4g16sym"),)),
)
WRITERS = {"hf": write_checkpoint, "compressed-tensors": write_compressed_checkpoint}
# Not its own scale, which a rewritten file would have in another place.
SCALES = {"hf": "scales", "compressed-tensors": "weight_scale"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Publish a tiny model of several shards, in each format, once."""
    root = tmp_path_factory.mktemp("published")
    models = TinyModels(root / "models", {})
    levels = open_levels(root / "levels")
    shaped = ShapedModel(models.load(dtype=torch.bfloat16), SPACE, levels)
    build_levels(shaped, levels, SUB_BLOCKS)
    shaped.apply(SPACE.choices(SPACE.genotype((3, 16, 9))))
    reference = gate.write_reference(shaped, PROMPT, root)
    source = models.folder(dtype=torch.bfloat16)
    for form, write in WRITERS.items():
        artifact = write(shaped, source, root / form / "scratch", levels, "20KB")
        recipe, report = {"layers": {0: {"mlp": "dense"}, 10: {}, 9: {}}}, {"kl": 0.1}
        versions = {"autocompress": "0.1.0"}
        manifest = Manifest("a-study", "transformers", versions, artifact, recipe, report)
        write_manifest(manifest, reference)
        put_in_place(artifact.folder, root / form / "model")
    return root


def test_a_full_disk_is_told_in_a_line(published: Path, tmp_path: Path) -> None:
    model = TinyModels(tmp_path / "models").load(dtype=torch.bfloat16)
    shaped = ShapedModel(model, SPACE, open_levels(tmp_path / "levels"))
    folder = published / "hf" / "model"

    with no_room(), pytest.raises(ExportError, match=f"^Cannot write {tmp_path}: .*{FULL}"):
        gate.write_reference(shaped, PROMPT, tmp_path)
    with no_room(), pytest.raises(ExportError, match=f"^Cannot write {tmp_path}: .*{FULL}"):
        unpack_reference(folder, tmp_path / "reference.safetensors")
    manifest = read_manifest(folder)
    manifest = dataclasses.replace(
        manifest, artifact=dataclasses.replace(manifest.artifact, folder=tmp_path)
    )
    with no_room(), pytest.raises(ExportError, match=f"^Cannot write {tmp_path}: {FULL}"):
        write_manifest(manifest, published / gate.REFERENCE)

    assert not [*tmp_path.glob("*safetensors*")]


@pytest.fixture(params=WRITERS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(published: Path, form: str, tmp_path: Path) -> Path:
    """Return a copy, somewhere else, that may be changed."""
    return Path(shutil.copytree(published / form / "model", tmp_path / "copied"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model*.safetensors"))


def rewrite(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def shard_with(folder: Path, part: str) -> Path:
    return next(file for file in shards(folder) if any(part in name for name in load_file(file)))


def flip(folder: Path, _form: str) -> None:
    content = bytearray(shards(folder)[-1].read_bytes())
    content[-1] ^= 1
    shards(folder)[-1].write_bytes(content)


def truncate(folder: Path, _form: str) -> None:
    file = shards(folder)[0]
    file.write_bytes(file.read_bytes()[:-10])


def drop_a_shard(folder: Path, _form: str) -> None:
    shards(folder)[1].unlink()


def swap_two_tensors(folder: Path, _form: str) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        first, second = [name for name in sorted(tensors) if name.endswith("layernorm.weight")][:2]
        tensors[first], tensors[second] = tensors[second], tensors[first]

    rewrite(shard_with(folder, "layernorm.weight"), swap)


def edit_a_scale(folder: Path, form: str) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        name = next(name for name in sorted(tensors) if name.endswith(SCALES[form]))
        tensors[name][0, 0] *= 1.01

    rewrite(shard_with(folder, SCALES[form]), edit)


def edit_the_config(folder: Path, _form: str) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["rms_norm_eps"] *= 1.001
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


CORRUPTIONS = {
    corrupt.__name__: corrupt
    for corrupt in (
        flip,
        truncate,
        drop_a_shard,
        swap_two_tensors,
        edit_a_scale,
        edit_the_config,
    )
}
all_corruptions = pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)


@all_corruptions
def test_verify_finds_every_corruption(
    folder: Path, form: str, corrupt: Callable[[Path, str], None]
) -> None:
    check_files(read_manifest(folder))

    corrupt(folder, form)

    with pytest.raises(GateError, match="is not as it was published: "):
        verify(folder, "cpu")


@pytest.mark.slow
@all_corruptions
def test_the_gate_finds_every_corruption(
    folder: Path, published: Path, form: str, corrupt: Callable[[Path, str], None]
) -> None:
    artifact = dataclasses.replace(read_manifest(folder).artifact, folder=folder)
    corrupt(folder, form)

    try:
        failures = gate.check(artifact, published / gate.REFERENCE, "cpu").failures
    except GateError as error:
        failures = [str(error)]

    assert failures


@pytest.mark.parametrize(
    ("name", "said"),
    [("reference.npz", "reference.npz was changed"), ("extra.py", "extra.py was not there")],
)
def test_other_files_count_too(folder: Path, name: str, said: str) -> None:
    (folder / name).write_bytes(b"anything")

    with pytest.raises(GateError, match=said):
        check_files(read_manifest(folder))


def test_all_offenders_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(GateError) as caught:
        check_files(read_manifest(folder))

    said = str(caught.value)
    assert "tokenizer.json is not there, config.json was changed." in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("a-study", "b-study"), "it was changed"),
        (lambda text: text[:-30], "is not as it was written"),
        (lambda _: "[]", "is not as it was written"),
    ],
)
def test_a_manifest_that_was_changed_is_refused(
    folder: Path, change: Callable[[str], str], said: str
) -> None:
    file = folder / MANIFEST
    file.write_text(change(file.read_text("utf-8")), encoding="utf-8")

    with pytest.raises(GateError, match=said):
        read_manifest(folder)


def test_a_folder_without_a_manifest_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"holds no manifest\.json"):
        verify(tmp_path, "cpu")


def test_a_manifest_holds_what_was_published(folder: Path) -> None:
    manifest = read_manifest(folder)

    assert manifest.study == "a-study"
    assert manifest.report == {"kl": 0.1}
    assert set(manifest.artifact.files) == {file.name for file in folder.iterdir()} - {MANIFEST}
    assert all(file.stat().st_mode & 0o044 for file in folder.iterdir())


def test_only_files_are_checked_where_that_is_asked(folder: Path) -> None:
    found = verify(folder.parent / "copied", "cpu", loads=False)

    assert found.gate is None
    assert "NOT load-tested: only its files were asked for." in to_text(found)


def test_a_copy_loads_and_answers(folder: Path) -> None:
    outer = folder.parent / "outer"
    outer.mkdir()
    folder.rename(outer / "model")

    found = verify(outer, "cpu")

    assert found.gate is not None
    assert found.gate.findings.largest_difference == 0.0
    assert found.answer
    assert "Opened by transformers" in to_text(found)


def test_a_file_of_llama_cpp_is_not_opened_where_that_lacks(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking() -> None:
        raise EngineError("install the extra `llama-cpp`.")

    monkeypatch.setattr("autocompress.pipeline.verifying.check_packages", lacking)
    manifest = read_manifest(published / "hf" / "model")
    artifact = dataclasses.replace(manifest.artifact, file="model.gguf")

    why = _untested(dataclasses.replace(manifest, artifact=artifact))

    assert why == "install the extra `llama-cpp`"


def test_modeling_files_of_another_version_are_not_run(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autocompress.pipeline.verifying.has_own_modeling", lambda _: False)

    found = verify(published / "hf" / "model", "cpu")

    assert found.gate is None
    assert "of another version of autocompress, and are not run" in found.untested


def test_a_new_folder_takes_the_place_of_one_that_was_published(
    published: Path, tmp_path: Path
) -> None:
    shutil.copytree(published / "hf" / "model", tmp_path / "old")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "new.txt").write_text("new", encoding="utf-8")

    put_in_place(tmp_path / "old", tmp_path / "out" / "model")
    put_in_place(tmp_path / "new", tmp_path / "out" / "model")

    assert [file.name for file in (tmp_path / "out" / "model").iterdir()] == ["new.txt"]
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["model"]


def test_what_was_not_published_is_never_replaced(published: Path, tmp_path: Path) -> None:
    place, other = tmp_path / "out" / "model", tmp_path / "other"
    (tmp_path / "new").mkdir()
    place.mkdir(parents=True)
    (place / "model.safetensors").write_text("dense", encoding="utf-8")

    with pytest.raises(ExportError, match="not published by autocompress: move it away"):
        put_in_place(tmp_path / "new", place)
    shutil.copytree(published / "hf" / "model", tmp_path / "elsewhere")
    other.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ExportError, match="not published by autocompress"):
        put_in_place(tmp_path / "new", other)

    assert [file.name for file in place.iterdir()] == ["model.safetensors"]
    assert other.is_symlink()


def test_a_published_model_is_not_replaced_by_what_is_made_of_it(
    published: Path, tmp_path: Path
) -> None:
    place, link = tmp_path / "out" / "model", tmp_path / "link"
    shutil.copytree(published / "hf" / "model", place)
    link.symlink_to(place)
    (tmp_path / "new").mkdir()

    for needed in (place, link, place / "manifest.json"):
        with pytest.raises(ExportError, match=r"what the study reads lies there: .*another --out"):
            put_in_place(tmp_path / "new", place, [needed])

    assert (place / "manifest.json").is_file()


def test_an_artifact_without_digests_is_not_compared(folder: Path) -> None:
    artifact = Artifact(folder, 1, 1, 1, False)

    assert changed_files(artifact) == []
