"""A GGUF file is the model that it was written from, as llama.cpp runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from autocompress.errors import ExportError, ModelError
from autocompress.evaluators.gguf_tokens import gguf_token_ids
from autocompress.evaluators.llama_cpp_model import LlamaCppPredictor
from autocompress.export.gguf_file import read_gguf, write_gguf
from autocompress.models.loading import load_tokenizer
from autocompress.models.text import token_ids as read_tokens
from autocompress.operators.ggml_blocks import gguf_package, llama_cpp_package, quantize
from autocompress.operators.ggml_ends import packed_ends, stored_ends
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import WeightSetting
from tests.gguf_files import need_llama_cpp
from tests.tiny_models import (
    END_OF_TEXT,
    LAYERS,
    VOCABULARY,
    TinyModels,
    logits_of,
    make_config,
    make_tokenizer,
    token_ids,
    write_model,
)

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


def special_of(file: Path, text: str) -> tuple[list[int], dict[str, str]]:
    """Return what llama.cpp reads of a text with what is added to it, and of a file's metadata."""
    opened = llama_cpp_package().Llama(str(file), vocab_only=True, verbose=False)
    return opened.tokenize(text.encode(), add_bos=True), opened.metadata


@pytest.mark.parametrize("ends", [(), ("<|end|>",)], ids=["begins", "begins and ends"])
def test_a_text_begins_and_ends_as_the_tokenizer_has_it(
    tmp_path: Path, ends: tuple[str, ...]
) -> None:
    config = make_config()
    config.vocab_size += 2
    write_model(tmp_path / "model", config)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=["<|begin|>", "$A", *ends],
        special_tokens=[("<|begin|>", VOCABULARY), ("<|end|>", VOCABULARY + 1)],
    )
    tokenizer.save_pretrained(tmp_path / "model")
    text = "def repair(): ..."

    write_gguf(tmp_path / "model", tmp_path / "model.gguf")

    found, told = special_of(tmp_path / "model.gguf", text)
    assert found == tokenizer(text)["input_ids"]
    assert found[0] == VOCABULARY
    # What ends a text is no longer what ends a turn: generation must stop at both.
    turn = None if not ends else str(tokenizer.convert_tokens_to_ids(END_OF_TEXT))
    assert told.get("tokenizer.ggml.eot_token_id") == turn


def test_nothing_is_added_where_the_tokenizer_adds_nothing(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    write_gguf(tiny_models.folder(), tmp_path / "model.gguf")

    found, told = special_of(tmp_path / "model.gguf", "def repair(): ...")

    assert found == load_tokenizer(tiny_models.folder())("def repair(): ...")["input_ids"]
    assert told["tokenizer.ggml.add_bos_token"] == "false"
    assert "tokenizer.chat_template" not in told


def test_the_chat_template_comes_along(tiny_models: TinyModels, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_models.folder(), tmp_path / "chat")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, "utf-8")

    write_gguf(folder, tmp_path / "model.gguf")

    assert special_of(tmp_path / "model.gguf", "")[1]["tokenizer.chat_template"] == template


def test_special_tokens_that_cannot_be_read_are_refused(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_models.folder(), tmp_path / "broken")
    (folder / "tokenizer_config.json").write_text("{", "utf-8")

    with pytest.raises(ExportError, match=r"The special tokens of .* cannot be told in GGUF"):
        write_gguf(folder, tmp_path / "model.gguf")


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
