"""llama.cpp's quantizer: more bits err less, and what matters more errs less."""

import pytest
import torch

from autocompress.operators.ggml_blocks import block_shape, dequantize, quantize
from autocompress.spaces.settings import GGUF_TYPES, WeightSetting
from tests.gguf_files import need_llama_cpp

need_llama_cpp()

WEIGHT = torch.randn((24, 512), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_blocks_have_the_bytes_that_the_format_says(kind: str) -> None:
    size, n_bytes = block_shape(kind)

    blocks = quantize(WEIGHT, kind)

    assert blocks.shape == (24, 512 // size * n_bytes)
    assert blocks.numel() * 8 == WeightSetting(block=kind).stored_bits(24, 512, 16)
    assert dequantize(blocks, kind).shape == WEIGHT.shape


def test_more_bits_err_less() -> None:
    kinds = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0"]

    errors = [float((dequantize(quantize(WEIGHT, k), k) - WEIGHT).square().mean()) for k in kinds]

    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("kind", ["q2_k", "q3_k", "q4_k", "q4_0"])
def test_inputs_that_matter_more_err_less(kind: str) -> None:
    importance = torch.ones(512)
    importance[::16] = 100.0

    errors = [
        (dequantize(quantize(WEIGHT, kind, weights), kind) - WEIGHT).square() @ importance
        for weights in (None, importance)
    ]

    assert errors[1].mean() < errors[0].mean()


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`columns % 256 == 0` must hold for q4_k, but got 128"):
        quantize(WEIGHT[:, :128], "q4_k")
