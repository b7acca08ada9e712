"""A GGUF file is the model that it was written from, as llama.cpp runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from autocompress.errors import ExportError, ModelError
from autocompress.evaluators.gguf_tokens import gguf_token_ids
from autocompress.evaluators.llama_cpp_model import LlamaCppPredictor
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.models.loading import load_tokenizer
from autocompress.models.text import token_ids as read_tokens
from autocompress.operators.ggml_blocks import gguf_package, quantize
from autocompress.operators.ggml_ends import packed_ends, stored_ends
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import WeightSetting
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import LAYERS, VOCABULARY, TinyModels, logits_of, token_ids

need_llama_cpp()

IDS = token_ids(1, 24)
# Half precision rounds every weight by 2**-11, and llama.cpp its activations too.
CLOSE = 0.01


def largest_difference(file: Path, expected: torch.Tensor) -> float:
    """Return how far logits are apart, as a share of the largest."""
    found = LlamaCppPredictor(file, IDS.shape[1]).logits(IDS[0].numpy())
    return float((found - expected[0, :-1]).abs().max() / expected.abs().max())


def in_type(weight: torch.Tensor, kind: str) -> PackedWeight:
    rows, columns = weight.shape
    setting = WeightSetting(block=kind)
    return PackedWeight(setting, (rows, columns), {"blocks": quantize(weight, kind)})


@pytest.mark.parametrize("tied", [False, True])
def test_llama_cpp_computes_what_the_checkpoint_does(
    tiny_models: TinyModels, tmp_path: Path, family: str, tied: bool
) -> None:
    folder = tiny_models.folder(family, tied=tied)
    file = tmp_path / "model.gguf"

    write_gguf(folder, file)

    assert largest_difference(file, logits_of(tiny_models.load(family, tied=tied), IDS)) < CLOSE
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_rotary_embeddings_that_are_scaled_are_told(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    folder = tmp_path / "scaled"
    model = tiny_models.load()
    model.config.rope_parameters = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    shutil.copytree(tiny_models.folder(), folder)
    model.config.save_pretrained(folder)
    scaled = type(model).from_pretrained(folder)

    write_gguf(folder, tmp_path / "model.gguf")

    expected = logits_of(scaled, IDS)
    plain = logits_of(tiny_models.load(), IDS)
    assert largest_difference(tmp_path / "model.gguf", expected) < CLOSE
    assert largest_difference(tmp_path / "model.gguf", plain) > 2 * CLOSE


@pytest.mark.parametrize("kind", ["q8_0", "q5_0", "q4_0"])
def test_tensors_take_the_types_that_are_given(
    tiny_models: TinyModels, tmp_path: Path, kind: str
) -> None:
    model = tiny_models.load()
    name = "model.layers.1.self_attn.q_proj.weight"
    weight = model.get_parameter(name)
    packed = in_type(weight, kind)
    with torch.no_grad():
        weight.copy_(packed.decode(weight.dtype))
    dense, mixed = tmp_path / "dense.gguf", tmp_path / "mixed.gguf"

    write_gguf(tiny_models.folder(), dense)
    write_gguf(tiny_models.folder(), mixed, {name: packed})

    # llama.cpp rounds what such a matrix is multiplied with to 8 bits, 32 numbers to a scale.
    assert largest_difference(mixed, logits_of(model, IDS)) < 3 * CLOSE
    saved = weight.numel() * 2 - packed.bytes
    assert read_gguf(dense).bytes - read_gguf(mixed).bytes == saved
    assert read_gguf(dense).linear_bytes - read_gguf(mixed).linear_bytes == saved


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_embedding_and_head_take_the_type_that_is_given(
    tiny_models: TinyModels, tmp_path: Path, family: str, kind: str, tied: bool
) -> None:
    model = tiny_models.load(family, tied=tied)
    packed = packed_ends(model, kind)
    decoded = stored_ends(model, kind) or {}
    dense, stored = tmp_path / "dense.gguf", tmp_path / "stored.gguf"

    write_gguf(tiny_models.folder(family, tied=tied), dense)
    write_gguf(tiny_models.folder(family, tied=tied), stored, packed)

    with torch.no_grad():
        for name, weight in decoded.items():
            model.get_parameter(name).copy_(weight)
    # llama.cpp rounds what such a matrix is multiplied with to 8 bits, 32 numbers to a scale.
    assert largest_difference(stored, logits_of(model, IDS)) < 3 * CLOSE
    before, after = read_gguf(dense), read_gguf(stored)
    numbers = (1 if tied else 2) * VOCABULARY * model.config.hidden_size
    assert before.bytes - after.bytes == 2 * numbers - sum(own.bytes for own in packed.values())
    assert before.numbers == after.numbers
    assert before.linear_bytes == after.linear_bytes
    kinds = {
        tensor.name: tensor.tensor_type.name.lower()
        for tensor in gguf_package().GGUFReader(stored).tensors
        if not tensor.name.startswith("blk") and "norm" not in tensor.name
    }
    names = ["token_embd.weight"] if tied else ["output.weight", "token_embd.weight"]
    assert kinds == dict.fromkeys(sorted(names), kind)


def test_layers_that_are_gone_leave_a_shorter_model(
    tiny_models: TinyModels, tmp_path: Path, family: str
) -> None:
    model = tiny_models.load(family)
    name = "model.layers.2.self_attn.v_proj.weight"
    weight = model.get_parameter(name)
    packed = in_type(weight, "q8_0")
    with torch.no_grad():
        weight.copy_(packed.decode(weight.dtype))
    del model.model.layers[1]
    model.config.num_hidden_layers -= 1
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index

    left = [0, *range(2, LAYERS)]
    write_gguf(tiny_models.folder(family), tmp_path / "model.gguf", {name: packed}, left)

    assert largest_difference(tmp_path / "model.gguf", logits_of(model, IDS)) < 3 * CLOSE
    assert read_gguf(tmp_path / "model.gguf").numbers == model.num_parameters()


def test_no_model_is_left_without_layers(tiny_models: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No layer is left"):
        write_gguf(tiny_models.folder(), tmp_path / "model.gguf", left=[])

    assert not list(tmp_path.iterdir())


def test_a_file_says_what_it_holds(tiny_models: TinyModels, tmp_path: Path) -> None:
    write_gguf(tiny_models.folder(), tmp_path / "model.gguf")

    stored = read_gguf(tmp_path / "model.gguf")

    assert stored.numbers == tiny_models.load().num_parameters()
    assert stored.end_of_text == load_tokenizer(tiny_models.folder()).eos_token_id


def test_its_vocabulary_reads_text_as_the_tokenizer_does(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    write_gguf(tiny_models.folder(), tmp_path / "model.gguf")
    documents = ["def f(x):\n    return x + 1  # ü 𝄞\n\n", "It's 1984, isn't it?  \t No."]

    found = gguf_token_ids(tmp_path / "model.gguf", documents)

    assert found == read_tokens(load_tokenizer(tiny_models.folder()), documents)


def test_what_is_cut_off_is_no_file(tiny_models: TinyModels, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    write_gguf(tiny_models.folder(), file)
    file.write_bytes(file.read_bytes()[:-1000])

    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf(file)


def test_a_name_that_is_no_tensor_is_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    packed = in_type(torch.zeros(4, 32), "q8_0")

    with pytest.raises(ExportError, match=r"has no tensor model\.layers\.9\.x"):
        write_gguf(tiny_models.folder(), tmp_path / "model.gguf", {"model.layers.9.x": packed})

    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_kind_is_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_models.folder(), folder)
    told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    told["model"]["type"] = "Unigram"
    (folder / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")

    with pytest.raises(ExportError, match="no byte-level BPE"):
        write_gguf(folder, tmp_path / "model.gguf")


def test_tokens_beyond_the_file_are_refused(tiny_models: TinyModels, tmp_path: Path) -> None:
    write_gguf(tiny_models.folder(), tmp_path / "model.gguf")
    predictor = LlamaCppPredictor(tmp_path / "model.gguf", 4)

    with pytest.raises(Exception, match="`token id < 320`"):
        predictor.logits(np.asarray([1, VOCABULARY]))
