"""What a study's losses are of, and computed in: those of another kind must not mix with them."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autocompress.models import loading
from autocompress.pipeline.measured_on import measured_on
from autocompress.pipeline.prepared import Prepared, prepare
from autocompress.spec import from_mapping


@pytest.fixture
def prepared(tiny_llama: Path, calibration: Path) -> Prepared:
    asked = {"model": str(tiny_llama), "calibration": str(calibration), "context": 16}
    return prepare(from_mapping(asked | {"target_bits": 8, "device": "cpu"}))


def test_losses_of_a_gpu_are_others_than_those_of_a_cpu(prepared: Prepared) -> None:
    there = dataclasses.replace(prepared, device=torch.device("cuda:1"))

    here, other = measured_on(prepared), measured_on(there)

    assert {name for name, own in here.items() if own != other[name]} == {"number format"}
    assert other["number format"] == "auto on a GPU"


@pytest.mark.parametrize(
    ("dtype", "is_slow", "told"),
    [
        ("auto", False, "auto on a CPU"),
        ("auto", True, "float32 on a CPU"),
        ("bfloat16", True, "float32 on a CPU"),
        ("float16", True, "float16 on a CPU"),
    ],
)
def test_losses_are_of_the_number_format_that_the_machine_multiplies(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, dtype: str, is_slow: bool, told: str
) -> None:
    monkeypatch.setattr(loading, "lacks_bfloat16", lambda _: is_slow)
    spec = dataclasses.replace(prepared.spec, dtype=dtype)

    assert measured_on(dataclasses.replace(prepared, spec=spec))["number format"] == told
