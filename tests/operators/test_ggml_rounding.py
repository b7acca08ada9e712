"""Levels in GGUF's types: as many bytes as their format says, rounded where it matters least."""

import pytest
import torch

from autocompress.errors import SpecError
from autocompress.operators.base import Statistics
from autocompress.operators.ggml_rounding import GgmlRounding
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import GGUF_TYPES, WeightSetting
from tests.gguf_files import need_llama_cpp

need_llama_cpp()

SETTINGS = [WeightSetting(block=name) for name in GGUF_TYPES]
GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn((24, 512), generator=GENERATOR)
SCALES = torch.rand(512, generator=GENERATOR) * 4
INPUTS = torch.randn((2048, 512), generator=GENERATOR) * SCALES
STATISTICS = Statistics(INPUTS.T @ INPUTS / len(INPUTS))


def error(packed: PackedWeight) -> float:
    missed = packed.decode(torch.float32) - WEIGHT
    return float((missed @ STATISTICS.hessian * missed).sum())


def test_every_type_comes_back_with_the_bytes_it_promises() -> None:
    built = GgmlRounding().build(WEIGHT, STATISTICS, SETTINGS)

    for setting, packed in built.items():
        assert 8 * packed.bytes == setting.stored_bits(24, 512, 16)
        again = PackedWeight.from_tensors(setting, packed.shape, packed.tensors)
        assert torch.equal(again.decode(torch.float32), packed.decode(torch.float32))
    sizes = [packed.bytes for packed in built.values()]
    errors = [error(packed) for packed in built.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert errors[0] < errors[4] < errors[-1]


@pytest.mark.parametrize("name", ["q4_k", "q4_0", "q3_k", "q2_k"])
def test_inputs_count_by_their_size(name: str) -> None:
    setting = WeightSetting(block=name)
    blind = Statistics(torch.eye(512))

    (aware,) = GgmlRounding().build(WEIGHT, STATISTICS, [setting]).values()
    (unaware,) = GgmlRounding().build(WEIGHT, blind, [setting]).values()

    assert error(aware) < error(unaware)


def test_rows_are_taken_as_they_are() -> None:
    rows = torch.tensor([5, 0, 17])

    for packed in GgmlRounding().build(WEIGHT, STATISTICS, SETTINGS).values():
        taken = packed.take_rows(rows)
        assert taken.stored == 3 * 512
        assert torch.equal(taken.decode(torch.float32), packed.decode(torch.float32)[rows])


@pytest.mark.parametrize(
    ("weight", "setting", "reason"),
    [
        (WEIGHT, WeightSetting(bits=4), "`setting in (q8_0, "),
        (WEIGHT[:, :384], WeightSetting(block="q4_k"), "`384 columns % group size == 0`"),
    ],
)
def test_what_ggml_cannot_round_is_refused(
    weight: torch.Tensor, setting: WeightSetting, reason: str
) -> None:
    columns = weight.shape[1]

    with pytest.raises(SpecError) as caught:
        GgmlRounding().build(weight, Statistics(torch.eye(columns)), [setting])

    assert reason in str(caught.value)
