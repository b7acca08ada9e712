"""A roofline is arithmetic: known by hand for a large model, and by laws for all."""

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.evaluators.roofline import KNOWN, Hardware, Roofline
from autocompress.evaluators.stored_latency import read_latency
from autocompress.models.architecture import Architecture, shape_of
from autocompress.spaces.base import Choice, SearchSpace
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.spec_rules import ROOFLINES
from autocompress.trial import Genotype
from autocompress.workload import Mix

# Llama 2 7B.
SEVEN = Architecture("llama", 32, 4096, 32, 32, 128, 11008, 32000)
SMALL = Architecture("llama", 2, 64, 4, 2, 16, 192, 100)
ROUND = Hardware("round numbers", 1e12, {"bfloat16": 1e14}, "a test")


def space_of(shape: Architecture, weights: Weights | None = None) -> SearchSpace:
    made = shape_of(shape)
    return make_space(
        made.n_layers,
        made.kv_groups,
        made.ffn_columns,
        depth=True,
        width=True,
        weights=weights,
        groups=made.groups,
        other_parameters=made.other_parameters,
    )


def roofline(shape: Architecture, workload: str, on: Hardware = ROUND) -> Roofline:
    return Roofline(on, Mix.parse(workload), "bfloat16", shape.vocabulary, shape.hidden)


def dense(shape: Architecture, workload: str, on: Hardware = ROUND) -> float:
    return roofline(shape, workload, on).cost(space_of(shape)).dense


LINEARS = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008) + 32000 * 4096
"""Weights that every token of SEVEN is multiplied with, the head's too."""


def test_a_single_sequence_takes_as_long_as_its_weights_are_read() -> None:
    cached = 2 * 2 * 32 * 4096 * (100 + 1)

    found = dense(SEVEN, "decode:1x100+2")

    assert found == pytest.approx(1e3 * (2 * LINEARS + cached) / 1e12, rel=2e-3)


def test_a_long_prompt_takes_as_long_as_its_arithmetic() -> None:
    tokens = 2048
    products = 2 * (LINEARS - 32000 * 4096) * tokens
    attention = 32 * 4 * 4096 * tokens * (tokens + 1) / 2

    found = dense(SEVEN, "prefill:1x2048+1")

    assert found == pytest.approx(1e3 * (products + attention) / 1e14, rel=5e-3)


def test_twice_the_bandwidth_halves_what_only_reads() -> None:
    faster = dataclasses.replace(ROUND, bandwidth=2e12)

    assert dense(SEVEN, "decode", faster) == pytest.approx(dense(SEVEN, "decode") / 2)


def test_a_request_is_its_prompt_and_all_further_tokens() -> None:
    whole, first, further = (
        dense(SEVEN, own) for own in ("2x64+9", "prefill:2x64+9", "decode:2x64+9")
    )

    assert whole == pytest.approx(first + 8 * further)


CODED = space_of(SMALL, Weights(bits=(8, 4, 2), sparsities=(WeightSetting.parse("s0.5"),)))


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    return Genotype(tuple(draw(st.integers(0, len(g.settings) - 1)) for g in CODED.genes))


@given(genotypes(), st.sampled_from(["1x16+4", "prefill:8x64+4", "decode:4x16+64"]))
def test_the_sum_over_sites_is_the_time_of_the_whole(genotype: Genotype, workload: str) -> None:
    model = roofline(SMALL, workload)

    whole = model.spent(CODED, CODED.choices(genotype), model.mix.first)

    assert model.cost(CODED).of(CODED.entries(genotype)) == pytest.approx(
        whole.workload(model.mix.first)
    )


@given(genotypes(), st.data())
def test_compressing_further_never_takes_longer(genotype: Genotype, data: st.DataObject) -> None:
    gene = data.draw(st.integers(0, len(CODED.genes) - 1))
    levels = list(genotype.levels)
    last = len(CODED.genes[gene].settings) - 1
    levels[gene] = data.draw(st.integers(levels[gene], last))
    cost = roofline(SMALL, "1x16+4").cost(CODED)

    further = cost.of(CODED.entries(Genotype(tuple(levels))))

    assert further <= cost.of(CODED.entries(genotype)) * (1 + 1e-12)


def test_zeros_save_nothing_and_bits_do() -> None:
    cost = roofline(SMALL, "decode").cost(CODED)

    for own, menu in zip(cost.menus, CODED.menus, strict=True):
        whole = [
            (e.choices[0], c) for e, c in zip(menu, own, strict=True) if e.choices[0].is_whole
        ]
        zeros = [c for choice, c in whole if choice.weights and not _has_codes(choice)]
        codes = [c for choice, c in whole if _has_codes(choice)]
        assert zeros
        assert set(zeros) == {own[0]}
        assert codes
        assert max(codes) < own[0]


def _has_codes(choice: Choice) -> bool:
    return any(setting.bits is not None for setting in choice.weights)


def test_a_stored_roofline_is_read_as_it_was() -> None:
    written = Roofline(KNOWN["h100"], Mix.parse("3*1x8+4,decode"), "bfloat16", 10, 20)

    found = read_latency(json.loads(json.dumps(written.to_json())), CODED)

    assert found == written


@pytest.mark.parametrize(
    "change",
    [
        {"roofline": "h100"},
        {"roofline": {"name": "x", "bandwidth": 0, "flops": {"bfloat16": 1}, "source": ""}},
        {"roofline": {"name": "x", "bandwidth": 1, "flops": {"bfloat16": True}, "source": ""}},
        {"workload": "fast"},
        {"vocabulary": "many"},
    ],
)
def test_what_is_no_roofline_is_refused(change: dict[str, object]) -> None:
    written = roofline(SMALL, "decode").to_json() | change

    with pytest.raises(SpecError, match="Not a roofline"):
        Roofline.from_json(written)  # type: ignore[arg-type]


def test_a_number_format_without_a_rate_is_refused() -> None:
    with pytest.raises(SpecError, match="known for bfloat16, but the model computes in float64"):
        Roofline(ROUND, Mix.parse("decode"), "float64", 10, 20)


def test_every_name_of_the_spec_is_known_with_a_source() -> None:
    assert set(ROOFLINES) == set(KNOWN)
    for hardware in KNOWN.values():
        assert hardware.source
        assert math.isfinite(hardware.bandwidth)
        assert hardware.flops["bfloat16"] > hardware.flops["float32"] > hardware.bandwidth
