"""A packed linear layer computes what a plain one does, and stays packed in all conversions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from autocompress.models.packed_kernels import has_kernel
from autocompress.models.packed_linear import PackedLinear
from autocompress.models.packed_weights import STORED, describe, empty
from autocompress.operators.grids import SHRINKAGES
from autocompress.operators.masks import mask_in_matrix
from autocompress.operators.packed import PackedWeight, pack
from autocompress.operators.round_to_nearest import fit_grid
from autocompress.spaces.settings import BLOCK_FORMATS, WeightSetting, torch_kernel_bits

ROWS, COLUMNS = 16, 64
CODES = ["w2g32", "w3", "w4g64", "w4g32sym", "w5g32", "w6sym", "w8g32", "w8", *BLOCK_FORMATS]
SETTINGS = ["s0.5", "s2:4", *CODES, *(f"{s}+{code}" for s in ("s0.3", "s2:4") for code in CODES)]
KERNELS = ["w2g32", "w3", "w4g64", "w4g32sym", "w6sym", "w8sym", "w6", "w3g64"]
"""Those that torch multiplies with their codes."""
CPU = torch.device("cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

all_settings = pytest.mark.parametrize("text", SETTINGS)
all_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
biases = pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])


def packed(text: str, dtype: torch.dtype = torch.bfloat16) -> PackedWeight:
    setting = WeightSetting.parse(text)
    generator = torch.Generator().manual_seed(5)
    weight = 0.1 * torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
    grid = fit_grid(weight, setting, torch.ones(COLUMNS), SHRINKAGES)
    masks = [mask_in_matrix(weight.abs(), setting)] * setting.is_sparse
    return pack(weight, setting, grid, *masks)


def plain_layer(bias: bool, dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(COLUMNS, ROWS, bias=bias, dtype=dtype)


def packed_layer(weight: PackedWeight, bias: nn.Parameter | None = None) -> PackedLinear:
    return PackedLinear(weight.shape, str(weight.setting), weight.tensors, bias)


def inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 5, COLUMNS, generator=torch.Generator().manual_seed(9)).to(dtype)


def buffers(layer: PackedLinear) -> dict[str, Tensor]:
    return dict(layer.named_buffers())


def same_bytes(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@all_settings
@all_dtypes
@biases
def test_a_packed_layer_computes_as_a_plain_one_with_the_decoded_weight(
    text: str, dtype: torch.dtype, bias: bool
) -> None:
    weight, plain = packed(text), plain_layer(bias, dtype)
    layer = packed_layer(weight, plain.bias).to(dtype)
    plain.weight = nn.Parameter(weight.decode(dtype))

    found = layer(inputs(dtype))

    assert torch.equal(layer.weight, plain.weight)
    if has_kernel(text, weight.shape, CPU, dtype):
        # Scales and offsets are rounded to the number format once, sums again.
        expected = plain(inputs(dtype)).detach().float()
        allowed = 4 * torch.finfo(dtype).eps * float(expected.abs().max())
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=allowed)
    else:
        assert torch.equal(found, plain(inputs(dtype)))


@pytest.mark.parametrize("text", KERNELS)
def test_a_kernel_reads_every_code_of_every_group(text: str) -> None:
    dtype = torch.bfloat16
    weight = packed(text, dtype)
    layer = packed_layer(weight).to(dtype)

    found = layer(torch.eye(COLUMNS, dtype=dtype)).T

    assert has_kernel(text, weight.shape, CPU, dtype)
    assert layer._decoded is None
    expected = weight.decode(torch.float32)
    allowed = 2 * torch.finfo(dtype).eps * float(expected.abs().max())
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=allowed)


@pytest.mark.parametrize(
    ("text", "shape", "device"),
    [
        ("w8", (16, 64), "cpu"),
        ("w5g32", (16, 64), "cpu"),
        ("w4g32", (24, 64), "cpu"),
        ("w4g16", (16, 64), "cpu"),
        ("s0.5+w4g32", (16, 64), "cpu"),
        ("w8sym", (16, 24), "cpu"),
        ("w4", (16, 48), "cpu"),
        ("s0.5", (16, 64), "cpu"),
        ("mxfp4", (16, 64), "cpu"),
        ("w4g32", (16, 64), "meta"),
    ],
)
def test_what_no_kernel_reads_is_decoded(text: str, shape: tuple[int, int], device: str) -> None:
    assert not has_kernel(text, shape, torch.device(device), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_other_formats_than_bfloat16_have_no_kernel(dtype: torch.dtype) -> None:
    assert not any(has_kernel(text, (16, 64), CPU, dtype) for text in KERNELS)


@all_settings
@pytest.mark.parametrize(
    "convert",
    [nn.Module.float, nn.Module.half, nn.Module.bfloat16, lambda m: m.half().float()],
    ids=["float", "half", "bfloat16", "half and back"],
)
def test_no_conversion_changes_what_is_packed(
    text: str, convert: Callable[[nn.Module], nn.Module]
) -> None:
    weight = packed(text)
    layer = packed_layer(weight, plain_layer(True, torch.bfloat16).bias)
    layer(inputs(torch.bfloat16))

    convert(layer)

    dtype = layer.weight.dtype
    assert [p.dtype for p in layer.parameters()] == [dtype]
    assert torch.equal(layer.weight, weight.decode(dtype))
    assert all(same_bytes(buffers(layer)[name], weight.tensors[name]) for name in weight.tensors)


@all_settings
def test_only_what_is_packed_is_saved(text: str, tmp_path: Path) -> None:
    weight = packed(text)
    layer = packed_layer(weight, plain_layer(True, torch.float32).bias)
    before = layer(inputs(torch.float32))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weight.tensors.items()}
    blank = PackedLinear(weight.shape, text, zeros, plain_layer(True, torch.float32).bias)

    save_model(layer, str(tmp_path / "layer.safetensors"))
    load_model(blank, tmp_path / "layer.safetensors")

    assert layer.state_dict().keys() == {*weight.tensors, "bias"} <= {*STORED, "bias"}
    assert torch.equal(blank(inputs(torch.float32)), before)


@all_settings
def test_a_description_tells_all_that_is_allocated(text: str) -> None:
    for tensor in packed(text).tensors.values():
        with torch.device("meta"):
            found = empty(describe(tensor))

        assert found.is_meta
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)


def test_the_weight_is_decoded_once() -> None:
    layer = packed_layer(packed("w4g32"))

    assert layer.weight is layer.weight


def test_a_weight_decoded_without_gradients_is_good_for_training() -> None:
    layer = packed_layer(packed("w4g32"))
    x = inputs(torch.float32).requires_grad_()
    with torch.inference_mode():
        layer(x)

    layer(x).sum().backward()

    assert x.grad is not None
    assert torch.equal(x.grad, layer.weight.sum(0).expand_as(x))


@pytest.mark.parametrize("rows", [16, 24])
@pytest.mark.parametrize("text", [*SETTINGS, "w4g128", "w3g256sym", "w4g16", "w8sym"])
def test_sizes_are_reckoned_by_the_kernels_that_there_are(text: str, rows: int) -> None:
    setting = WeightSetting.parse(text)

    for columns in (24, 256):
        reckoned = torch_kernel_bits(setting, rows, columns) is not None

        assert reckoned == has_kernel(text, (rows, columns), CPU, torch.bfloat16)
