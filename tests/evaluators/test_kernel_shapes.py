"""Kernels compute what the decoded weights would, and leave no trace behind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.evaluators.kernel_shapes import KernelShapes, settings_without_kernel
from autocompress.models.packed_linear import PackedLinear
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import Choice, SearchSpace
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import DENSE, WeightSetting
from autocompress.trial import Genotype
from tests.tiny_models import (
    PlainSlices,
    TinyModels,
    dense_choices,
    logits_of,
    tiny_space,
    token_ids,
)

CPU, BF16 = torch.device("cpu"), torch.bfloat16
ROWS, GROUPS, BYTES = (WeightSetting.parse(text) for text in ("w4", "w4g32", "w8sym"))
WHOLE_ROWS = Weights(settings=(ROWS, BYTES, WeightSetting.parse("w8")))
IDS = token_ids(2, 12, seed=4)


def rig(tiny_models: TinyModels, space: SearchSpace, family: str = "llama") -> ShapedModel:
    model = tiny_models.load(family, tied=False, dtype=torch.bfloat16)
    return ShapedModel(model, space, PlainSlices(model))


def packed_layers(shaped: ShapedModel) -> list[PackedLinear]:
    return [m for m in shaped.model.modules() if isinstance(m, PackedLinear)]


@torch.inference_mode()
def test_kernels_compute_with_the_rounded_weights(
    tiny_models: TinyModels, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = tiny_space(family, depth=False, width=False, weights=Weights(bits=(4,)))
    shaped = rig(tiny_models, space, family)
    plain = logits_of(shaped.model, IDS)
    shapes = KernelShapes(shaped)

    shapes.apply(space.choices(Genotype((1,) * len(space.genes))))
    found = logits_of(shaped.model, IDS)

    layers = packed_layers(shaped)
    # No group divides the 48 columns of `down`, and the kernel for whole rows takes 32 at a time.
    fit = [g for s in space.sites for g in s.groups if g.columns % 32 == 0]
    assert len(layers) == sum(len(g.linears) for g in fit)
    assert {layer.setting for layer in layers} <= {"w4g32", "w4g64"}
    monkeypatch.setattr(PackedLinear, "_made", lambda _: None)
    decoded = logits_of(shaped.model, IDS)
    assert float((found - decoded).norm() / decoded.norm()) < 0.02
    # Rounding to 4 bits changes something, and not much.
    assert 0.02 < float((found - plain).norm() / plain.norm()) < 0.5


JOINT = tiny_space(weights=WHOLE_ROWS)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_what_was_applied_before_does_not_matter(
    tiny_models: TinyModels, data: st.DataObject
) -> None:
    shaped = rig(tiny_models, JOINT)
    plain = logits_of(shaped.model, IDS)
    shapes = KernelShapes(shaped, packed_bytes=data.draw(st.sampled_from([1, 2**30])))
    level = [st.integers(0, len(gene.settings) - 1) for gene in JOINT.genes]
    one, other = (JOINT.choices(Genotype(tuple(data.draw(st.tuples(*level))))) for _ in range(2))

    shapes.apply(one)
    first = logits_of(shaped.model, IDS)
    shapes.apply(other)
    shapes.apply(one)

    assert torch.equal(logits_of(shaped.model, IDS), first)
    shapes.apply(dense_choices(JOINT))
    assert torch.equal(logits_of(shaped.model, IDS), plain)
    assert not packed_layers(shaped)


def test_what_has_no_kernel_stays_dense(tiny_models: TinyModels) -> None:
    shaped = rig(tiny_models, JOINT)
    shapes = KernelShapes(shaped)
    site = JOINT.sites[0]
    coded = WeightSetting.parse("w8")

    shapes.apply([Choice(s.units, s.units, (coded, coded)) for s in JOINT.sites])

    assert not packed_layers(shaped)
    assert not shapes.runs(site, Choice(site.units, site.units, (coded, DENSE)))
    assert shapes.runs(site, Choice(site.units, site.units, (BYTES, DENSE)))


def test_settings_without_a_kernel_are_named_by_what_is_left_of_a_layer() -> None:
    site = JOINT.sites[0]
    # A quarter of the keys' rows is no multiple of 16, one of the output's columns none of 32.
    narrow, whole = (Choice(kept, site.units, (GROUPS, BYTES)) for kept in (1, site.units))

    assert settings_without_kernel([site], [narrow], CPU, BF16) == ["w4g32", "w8sym"]
    assert settings_without_kernel([site], [whole], CPU, BF16) == []
    for device, dtype in ((torch.device("meta"), BF16), (CPU, torch.float32)):
        found = settings_without_kernel([site], [whole], device, dtype)
        assert found == ["w4g32", "w8sym"]
    assert settings_without_kernel([site], [Choice(0, site.units)], CPU, BF16) == []
