"""What a study's losses are of, and computed in: those of another kind must not mix with them."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autocompress.models import loading
from autocompress.pipeline.measured_on import measured_on
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spec import from_mapping
from tests.tiny_models import CPU, TinyModels


@pytest.fixture
def prepared(tiny_llama: Path, calibration: Path) -> Prepared:
    asked = {"model": str(tiny_llama), "calibration": str(calibration), "context": 16}
    return prepare(from_mapping(asked | {"target_bits": 8, "device": "cpu"}))


def test_losses_of_a_gpu_are_others_than_those_of_a_cpu(prepared: Prepared) -> None:
    there = dataclasses.replace(prepared, device=torch.device("cuda:1"))

    here, other = measured_on(prepared), measured_on(there)

    assert {name for name, own in here.items() if own != other[name]} == {"number format"}
    assert other["number format"] == "float32 on a GPU"


@pytest.mark.parametrize(
    ("stored", "dtype", "is_slow", "told"),
    [
        (torch.bfloat16, "auto", False, "bfloat16"),
        (torch.bfloat16, "auto", True, "float32"),
        (torch.float32, "auto", True, "float32"),
        (torch.float16, "auto", True, "float16"),
        (torch.float32, "bfloat16", True, "bfloat16"),
    ],
)
def test_losses_are_of_the_number_format_that_the_machine_multiplies(
    tiny_models: TinyModels,
    monkeypatch: pytest.MonkeyPatch,
    stored: torch.dtype,
    dtype: str,
    is_slow: bool,
    told: str,
) -> None:
    monkeypatch.setattr(loading, "lacks_bfloat16", lambda _: is_slow)
    folder = tiny_models.folder(dtype=stored)
    model = loading.in_fast_numbers(loading.load_model(folder, CPU, dtype), dtype)

    assert loading.number_format(folder, dtype, CPU) == told
    assert str(model.dtype) == f"torch.{told}"
