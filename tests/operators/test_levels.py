"""Levels of sites: built once, packed, brought back as built, and rebuilt when broken."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.operators.base import Statistics, WeightOperator
from autocompress.operators.database import LevelDatabase
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.ggml_rounding import GgmlRounding
from autocompress.operators.gptq import Gptq
from autocompress.operators.levels import (
    Levels,
    Operators,
    SiteStatistics,
    settings_of,
    widths_of,
)
from autocompress.operators.packed import PackedWeight
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.operators.sparse_gpt import SparseGpt
from autocompress.operators.structured_obs import StructuredObs
from autocompress.spaces.base import Choice, Site
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import DENSE, WeightSetting
from tests.tiny_models import CPU, tiny_space

BITS = Weights(bits=(4, 2), group_size=8)
BOTH = Weights(bits=(4,), group_size=8, sparsities=(WeightSetting(sparsity=0.5),))
W4, W2 = (WeightSetting(bits=bits, group_size=8) for bits in (4, 2))
SPARSE_GPT = SparseGpt()
GPTQ = Gptq()
# Torch's device of shapes without numbers: what mixes it with another fails.
ELSEWHERE = torch.device("meta")
MLP = tiny_space(weights=BITS).sites[3]


def levels_in(
    folder: Path,
    zeros: WeightOperator = SPARSE_GPT,
    codes: WeightOperator = GPTQ,
    device: torch.device = CPU,
) -> Levels:
    return Levels(
        LevelDatabase(folder),
        Operators(StructuredObs(), codes, zeros, RoundToNearest(), GgmlRounding()),
        device,
    )


class Placed:
    """Builds on the CPU whatever it is given, and remembers where that was."""

    version = "placed-1"

    def __init__(self) -> None:
        self.devices: set[torch.device] = set()

    def build(
        self, weight: Tensor, statistics: Statistics, settings: Sequence[WeightSetting]
    ) -> Mapping[WeightSetting, PackedWeight]:
        self.devices |= {weight.device, statistics.hessian.device}
        own = Statistics(torch.eye(weight.shape[1]))
        return RoundToNearest().build(torch.zeros(weight.shape), own, settings)


def weights_of(site: Site) -> list[Tensor]:
    generator = torch.Generator().manual_seed(site.layer)
    return [
        torch.randn(rows, group.columns, generator=generator)
        for group in site.groups
        for rows in group.rows
    ]


def statistics_of(site: Site) -> SiteStatistics:
    inputs, output = (
        Statistics(x.T @ x / len(x))
        for x in (
            torch.randn(256, group.columns, generator=torch.Generator().manual_seed(7))
            for group in (site.groups[0], site.groups[-1])
        )
    )
    return SiteStatistics(inputs, output)


def built(folder: Path, site: Site) -> Levels:
    levels = levels_in(folder)
    levels.build(site, weights_of(site), statistics_of(site))
    return levels


@pytest.mark.parametrize("weights", [None, BITS, BOTH], ids=["widths", "bits", "both"])
def test_what_is_built_is_not_lacking_and_not_built_again(
    tmp_path: Path, weights: Weights | None
) -> None:
    for site in tiny_space(weights=weights).sites[2:4]:
        levels = levels_in(tmp_path)
        assert levels.lacks(site)

        assert levels.build(site, weights_of(site), statistics_of(site)) > 0

        assert not levels_in(tmp_path).lacks(site)
        assert levels_in(tmp_path).build(site, weights_of(site), statistics_of(site)) == 0


def test_another_study_builds_only_what_is_new(tmp_path: Path) -> None:
    fewer, more = (
        tiny_space(weights=Weights(bits=bits, group_size=8)).sites[3] for bits in ((4,), (4, 2))
    )
    built(tmp_path, fewer)

    assert levels_in(tmp_path).build(more, weights_of(more), statistics_of(more)) == 2


def test_a_whole_site_is_stored_as_the_operator_built_it(tmp_path: Path) -> None:
    levels = built(tmp_path, MLP)
    gate, up, _ = weights_of(MLP)
    statistics = statistics_of(MLP).inputs
    assert statistics is not None
    expected = Gptq().build(torch.cat([gate, up]), statistics, [W4, W2])

    for setting in (W4, W2):
        found = levels.weight(MLP, Choice(48, 48, (setting, DENSE)), 0)
        assert torch.equal(found, expected[setting].decode(torch.float32))


def test_a_narrow_output_is_built_from_its_own_width_when_it_is_asked_for(tmp_path: Path) -> None:
    built(tmp_path, MLP)
    before = len(list(tmp_path.iterdir()))
    choice = Choice(16, 48, (W4, W2))
    levels = levels_in(tmp_path)
    level = levels.level(MLP, choice)
    hessian = statistics_of(MLP).output.hessian[level.kept][:, level.kept]
    expected = Gptq().build(level.output, Statistics(hessian), [W4, W2])[W2]

    found = levels.weight(MLP, choice, 1)

    assert torch.equal(found, expected.decode(torch.float32))
    # Both settings of the width: they come from one pass.
    assert len(list(tmp_path.iterdir())) == before + 2


def test_weights_are_decoded_on_the_device_that_is_given(tmp_path: Path) -> None:
    built(tmp_path, MLP)

    found = levels_in(tmp_path, device=ELSEWHERE).weight(MLP, Choice(48, 48, (W4, W2)), 0)

    assert found.device == ELSEWHERE
    assert found.shape == (96, 32)


def test_a_narrow_output_is_built_on_the_device_that_is_given(tmp_path: Path) -> None:
    operator = Placed()
    levels = levels_in(tmp_path, codes=operator, device=ELSEWHERE)
    levels.build(MLP, weights_of(MLP), statistics_of(MLP))
    operator.devices.clear()

    levels.packed(MLP, Choice(16, 48, (W4, W2)), 1)

    assert operator.devices == {ELSEWHERE}


def test_a_formula_of_gradients_reads_those_of_the_columns_that_a_width_keeps(
    tmp_path: Path,
) -> None:
    metric = SymbolicMetric("abs(W) * G")
    site = tiny_space(weights=BOTH).sites[3]
    weights, statistics = weights_of(site), statistics_of(site)
    gradients = tuple(torch.rand_like(weight) for weight in weights)
    levels = levels_in(tmp_path, metric)
    levels.build(site, weights, SiteStatistics(statistics.inputs, statistics.output, gradients))
    sparse = WeightSetting(sparsity=0.5)
    choice = Choice(16, 48, (DENSE, sparse))
    level = levels.level(site, choice)
    hessian = statistics.output.hessian[level.kept][:, level.kept]
    own = Statistics(hessian, gradients[-1][:, level.kept])
    expected = metric.build(level.output, own, [sparse])[sparse]

    found = levels_in(tmp_path, metric).weight(site, choice, 1)

    assert torch.equal(found, expected.decode(torch.float32))
    assert not levels.lacks(site)
    next(tmp_path.glob("*output-gradients*")).unlink()
    assert levels.lacks(site)
    # What another pruner built lacks nothing of the sort.
    assert built(tmp_path / "other", site).lacks(site) is False


def test_hessians_are_kept_only_where_a_narrow_output_may_be_asked_for(tmp_path: Path) -> None:
    whole = tiny_space(width=False, weights=BITS).sites[3]
    plain = tiny_space().sites[3]

    assert not built(tmp_path / "whole", whole).lacks(whole)
    assert not built(tmp_path / "plain", plain).lacks(plain)
    assert not [*tmp_path.glob("*/*output-inputs*")]
    # A study of the same model that narrows it finds that it is not there.
    wider = built(tmp_path / "whole", MLP)
    next((tmp_path / "whole").glob("*output-inputs*")).unlink()
    assert wider.lacks(MLP)


def test_rows_do_not_depend_on_the_width(tmp_path: Path) -> None:
    levels = built(tmp_path, MLP)

    narrow, whole = (levels.weight(MLP, Choice(kept, 48, (W4, W4)), 0) for kept in (16, 48))

    assert torch.equal(narrow, whole)


def test_zeros_and_codes_come_from_their_operators(tmp_path: Path) -> None:
    site = tiny_space(weights=BOTH).sites[3]
    levels = built(tmp_path, site)

    for index in range(2):
        for setting in settings_of(site, index):
            stored = [DENSE, DENSE]
            stored[index] = setting
            packed = levels.packed(site, Choice(48, 48, tuple(stored)), index)
            assert packed.setting == setting
            assert (packed.mask() is not None) == setting.is_sparse


@pytest.mark.parametrize("position", range(8))
def test_a_broken_level_is_found_and_built_anew(tmp_path: Path, position: int) -> None:
    expected = built(tmp_path, MLP)
    whole = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    files = sorted(tmp_path.iterdir())
    file = files[position % len(files)]
    content = file.read_bytes()
    file.write_bytes(content[:-5] + bytes([content[-5] ^ 4]) + content[-4:])

    assert expected.lacks(MLP)
    built(tmp_path, MLP)

    assert not expected.lacks(MLP)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == whole


def test_a_level_never_built_is_an_error_that_says_the_way_out(tmp_path: Path) -> None:
    levels = levels_in(tmp_path)

    with pytest.raises(EvaluationError, match=r"lacks layer 1 mlp, width 24/48, or it is broken"):
        levels.level(MLP, Choice(24, 48))
    with pytest.raises(EvaluationError, match=r"lacks layer 1 mlp, gate_up in w4g8, or it is"):
        levels.weight(MLP, Choice(48, 48, (W4, W4)), 0)


def test_bytes_on_disk_are_those_that_are_counted(tmp_path: Path) -> None:
    levels = built(tmp_path, MLP)

    for setting in (W4, W2):
        packed = levels.packed(MLP, Choice(48, 48, (setting, DENSE)), 0)
        counted = setting.stored_bits(96, 32, 32) / 8
        # Whole bytes in each of three tensors.
        assert abs(packed.bytes - counted) <= 3


def test_what_has_to_be_built_is_neither_dense_nor_dropped() -> None:
    attention, mlp = tiny_space(weights=BOTH).sites[:2]

    assert widths_of(attention) == (3, 2, 1)
    assert widths_of(mlp) == (32, 16, 8)
    assert widths_of(tiny_space(width=False).sites[0]) == ()
    assert list(map(str, settings_of(mlp, 1))) == ["s0.5", "w4g8", "s0.5+w4g8"]
    assert settings_of(tiny_space().sites[0], 0) == ()
