"""What of a model folder is read, and what is refused before any work is done."""

import fnmatch
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from autocompress.errors import ModelError
from autocompress.export.checkpoint import stored_tensor_bytes
from autocompress.models import loading
from autocompress.models.architecture import Architecture, read_architecture
from autocompress.models.loading import (
    fingerprint,
    load_architecture,
    load_model,
    load_tokenizer,
    pick_device,
    resolve,
    resolve_config,
    visible_gpus,
)
from tests.tiny_models import CPU, END_OF_TEXT, TinyModels, is_tied, logits_of, token_ids

WEIGHTS = "model.safetensors"
SHARDS = "20KB"
Breaker = Callable[[Path], object]


def refuses(reason: str) -> "pytest.RaisesExc[ModelError]":
    return pytest.raises(ModelError, match=re.escape(reason))


@pytest.fixture
def copied(tiny_models: TinyModels, tmp_path: Path) -> Path:
    """Return a model folder that may be broken."""
    return shutil.copytree(tiny_models.folder(), tmp_path / "model")


@pytest.fixture
def sharded(tiny_models: TinyModels, tmp_path: Path) -> Path:
    """Return a model folder of many weight files that may be broken."""
    return shutil.copytree(tiny_models.folder(shard_size=SHARDS), tmp_path / "sharded")


def edit_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | values), "utf-8")


def truncate(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2)


def test_a_folder_resolves_to_itself(tiny_models: TinyModels) -> None:
    folder = tiny_models.folder()

    assert resolve(str(folder)) == folder


def test_a_config_is_found_without_weights(copied: Path) -> None:
    (copied / WEIGHTS).unlink()

    folder = resolve_config(str(copied))

    assert load_architecture(folder).family == "llama"


def test_a_sharded_model_equals_one_of_one_file(tiny_models: TinyModels, family: str) -> None:
    ids = token_ids(1, 8)
    sharded = tiny_models.folder(family, shard_size=SHARDS)

    model = load_model(resolve(str(sharded)), CPU)

    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert torch.equal(logits_of(model, ids), logits_of(tiny_models.load(family), ids))


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_are_tied_as_the_config_says(
    tiny_models: TinyModels, family: str, tied: bool
) -> None:
    assert is_tied(tiny_models.load(family, tied=tied)) is tied


@pytest.mark.parametrize(
    ("asked", "given"), [("auto", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_number_format_is_the_one_asked_for(
    tiny_models: TinyModels, asked: str, given: torch.dtype
) -> None:
    folder = tiny_models.folder(dtype=torch.bfloat16)

    assert load_model(folder, CPU, asked).dtype is given


def test_a_loaded_model_is_for_inference_only(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_architecture_is_read_without_weights(tiny_models: TinyModels, copied: Path) -> None:
    (copied / WEIGHTS).unlink()

    found = load_architecture(copied)

    assert found == Architecture(
        family="llama",
        n_layers=3,
        hidden=32,
        query_heads=8,
        kv_groups=4,
        head_size=4,
        ffn_columns=48,
        vocabulary=320,
    )
    assert found.queries_per_group == 2


def test_heads_without_groups_are_groups_of_one() -> None:
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1)

    found = read_architecture(config)

    assert (found.kv_groups, found.head_size, found.queries_per_group) == (4, 8, 1)


def test_the_tokenizer_ends_text_with_its_own_token(tiny_models: TinyModels, family: str) -> None:
    tokenizer = load_tokenizer(tiny_models.folder(family))

    assert tokenizer.eos_token == END_OF_TEXT
    assert tokenizer.decode(tokenizer("def repair(): ...")["input_ids"]) == "def repair(): ..."


@pytest.mark.parametrize("name", ["/no/such/folder", "./none", "~/no-such-model", "a/b/c"])
def test_a_missing_folder_is_named(name: str) -> None:
    with refuses(f"No model folder at {name}."):
        resolve(name)


def test_a_name_that_the_hub_does_not_give_is_refused() -> None:
    with refuses("nobody/nothing is no folder here, and the hub did not give it: "):
        resolve("nobody/nothing")


def test_a_file_is_no_model_folder(copied: Path) -> None:
    with refuses("No model folder at "):
        resolve(str(copied / WEIGHTS))


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "holds no model.safetensors, whole or in"),
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
            "pickles are refused",
        ),
        (
            lambda folder: truncate(folder / WEIGHTS),
            f"{WEIGHTS} is not a whole safetensors file: ",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(b""),
            f"{WEIGHTS} is not a whole safetensors file: ",
        ),
    ],
    ids=["no config", "no weights", "pickle", "truncated", "empty"],
)
def test_a_broken_folder_is_refused(copied: Path, breaks: Breaker, reason: str) -> None:
    breaks(copied)

    with refuses(reason):
        resolve(str(copied))


@pytest.mark.parametrize(
    ("breaks", "reason"),
    [
        (
            lambda folder: sorted(folder.glob("*.safetensors"))[1].unlink(),
            "lacks model-00002-of-",
        ),
        (
            lambda folder: truncate(sorted(folder.glob("*.safetensors"))[2]),
            "is not a whole safetensors file: ",
        ),
        (
            lambda folder: (folder / f"{WEIGHTS}.index.json").write_text("{", "utf-8"),
            "is not a weight index: ",
        ),
        (
            lambda folder: (folder / f"{WEIGHTS}.index.json").write_text("{}", "utf-8"),
            "is not a weight index: ",
        ),
    ],
    ids=["missing shard", "truncated shard", "index not JSON", "index of nothing"],
)
def test_a_broken_sharded_folder_is_refused(sharded: Path, breaks: Breaker, reason: str) -> None:
    breaks(sharded)

    with refuses(reason):
        resolve(str(sharded))


def test_an_unknown_architecture_is_refused_with_the_known_ones(copied: Path) -> None:
    edit_config(copied, model_type="gpt2")

    with refuses("Unknown architecture 'gpt2'. Known: llama, mistral, qwen2, qwen3."):
        load_architecture(copied)


def test_an_architecture_unheard_of_is_refused(copied: Path) -> None:
    edit_config(copied, model_type="perceptron9000")

    with refuses(f"Cannot read {copied}/config.json: "):
        load_architecture(copied)


def test_a_config_that_is_not_json_is_refused(copied: Path) -> None:
    (copied / "config.json").write_text("{", "utf-8")

    with refuses(f"Cannot read {copied}/config.json: "):
        load_architecture(copied)


def test_layers_of_two_kinds_are_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models.folder("qwen2"), tmp_path / "mixed")
    edit_config(
        folder,
        layer_types=["full_attention", "sliding_attention", "full_attention"],
        sliding_window=8,
        use_sliding_window=True,
    )

    with refuses("must have one kind of attention, but got full_attention, sliding_attention."):
        load_architecture(folder)


def test_a_heterogeneous_model_is_refused(copied: Path) -> None:
    edit_config(copied, per_layer_config={"1": {"intermediate_size": 24}})

    with refuses("already heterogeneous: give the dense one."):
        load_architecture(copied)


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors"])
def test_a_quantized_model_is_refused(copied: Path, method: str) -> None:
    edit_config(copied, quantization_config={"quant_method": method, "bits": 8})

    with refuses("already quantized: give the one that is not."):
        load_architecture(copied)


def test_a_checkpoint_that_needs_another_package_is_refused(copied: Path) -> None:
    edit_config(copied, quantization_config={"quant_method": "eetq"})

    with refuses(f"Cannot load {copied}: "):
        load_model(copied, CPU)


def test_tensors_that_the_config_wants_are_missed(copied: Path) -> None:
    edit_config(copied, num_hidden_layers=4)

    with refuses("lacks 9 tensors of its config, such as model.layers.3."):
        load_model(copied, CPU)


def test_tensors_of_another_shape_are_refused(copied: Path) -> None:
    edit_config(copied, intermediate_size=64)

    with refuses(f"9 tensors of {copied} have another shape than its config gives them"):
        load_model(copied, CPU)


def test_a_folder_without_a_tokenizer_is_refused(copied: Path) -> None:
    for file in copied.glob("tokenizer*"):
        file.write_text("{", "utf-8")

    with refuses(f"Cannot load the tokenizer of {copied}: "):
        load_tokenizer(copied)


def test_a_device_that_is_not_there_is_refused() -> None:
    with refuses("No device cuda:99 here: torch sees "):
        pick_device("cuda:99")


def test_the_fingerprint_sees_every_byte(copied: Path) -> None:
    before = fingerprint(copied)
    file = copied / WEIGHTS
    packed = bytearray(file.read_bytes())
    packed[-1] ^= 1

    same = fingerprint(copied)
    file.write_bytes(packed)
    after_weights = fingerprint(copied)
    edit_config(copied, rms_norm_eps=1e-4)
    after_config = fingerprint(copied)

    assert same == before
    assert len({before, after_weights, after_config}) == 3


def test_the_same_weights_for_other_programs_are_no_part_of_a_model(
    copied: Path, sharded: Path
) -> None:
    for folder in (copied, sharded):
        before = fingerprint(folder), stored_tensor_bytes(folder)
        (folder / "consolidated.safetensors").write_bytes(b"not even whole")

        assert resolve(str(folder)) == folder
        assert (fingerprint(folder), stored_tensor_bytes(folder)) == before


def test_the_hub_is_not_asked_for_the_same_weights_twice(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "consolidated.safetensors.index.json",
        "original/consolidated.00.pth",
        "original/params.json",
        "tokenizer.json",
    ]
    fetched: list[str] = []

    def snapshot(_: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        wanted = {name for own in allow_patterns for name in fnmatch.filter(listed, own)}
        refused = {name for own in ignore_patterns for name in fnmatch.filter(listed, own)}
        fetched.extend(sorted(wanted - refused))
        return str(copied)

    monkeypatch.setattr(loading, "snapshot_download", snapshot)

    resolve("mistralai/a-model")

    assert fetched == [*listed[:3], "tokenizer.json"]


@pytest.mark.parametrize(
    ("device", "named", "gpus"),
    [
        ("cpu", None, []),
        ("cuda", None, ["0", "1", "2"]),
        ("cuda:1", None, ["1"]),
        ("cuda", "4,6,7", ["4", "6", "7"]),
        ("cuda:2", "4,6,7", ["7"]),
    ],
)
def test_gpus_are_named_as_cuda_knows_them(
    device: str, named: str | None, gpus: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    assert visible_gpus(torch.device(device)) == gpus
