"""A search finds the levels that it would build, and none that were built otherwise."""

import dataclasses
from pathlib import Path

import pytest
import torch

from autocompress.pipeline.prepared import prepare
from autocompress.spec import from_mapping

CHANGES = (
    {"quantizer": "round-to-nearest"},
    {"pruner": "magnitude"},
    {"group_size": 16},
    {"symmetric": True},
    {"per_linear": True},
    {"bits": "4,3,w3g16"},
)
"""What makes other weights of the same word, such as `3`."""


def levels_of(model: Path, calibration: Path, **settings: object) -> Path:
    """Return the folder of a search's level database."""
    usual: dict[str, object] = {
        "model": str(model),
        "calibration": str(calibration),
        "context": 16,
        "target_bits": 8,
        "space": "bits,sparsity",
        "bits": "4,3",
        "sparsities": "0.5",
    }
    return prepare(from_mapping(usual | settings)).session_plan("weights").levels


@pytest.mark.parametrize("changed", CHANGES)
def test_levels_behind_other_layers_are_kept_apart(
    tiny_llama: Path, calibration: Path, changed: dict[str, object]
) -> None:
    built = levels_of(tiny_llama, calibration, upstream="3")

    others = levels_of(tiny_llama, calibration, upstream="3", **changed)

    assert others != built


def test_levels_that_a_gpu_builds_are_kept_apart(tiny_llama: Path, calibration: Path) -> None:
    asked = {"model": str(tiny_llama), "calibration": str(calibration), "context": 16}
    here = prepare(from_mapping(asked | {"target_bits": 8, "device": "cpu"}))
    there = dataclasses.replace(here, device=torch.device("cuda"))

    assert here.session_plan("weights").levels != there.session_plan("weights").levels


def test_levels_behind_layers_of_other_groups_are_kept_apart(
    tiny_llama: Path, calibration: Path
) -> None:
    wide, narrow = (
        levels_of(tiny_llama, calibration, upstream="3", space=space, bits="3")
        for space in ("bits", "width,bits")
    )

    assert wide != narrow


def test_levels_behind_the_same_layers_are_shared_by_other_menus(
    tiny_llama: Path, calibration: Path
) -> None:
    few, many = (
        levels_of(tiny_llama, calibration, upstream="3", bits=bits) for bits in ("3", "8,4,3")
    )

    assert few == many


@pytest.mark.parametrize("changed", CHANGES)
def test_levels_behind_dense_layers_are_shared_by_all_menus_and_methods(
    tiny_llama: Path, calibration: Path, changed: dict[str, object]
) -> None:
    built = levels_of(tiny_llama, calibration)

    others = levels_of(tiny_llama, calibration, **changed)

    assert others == built
