"""The contract of weight operators, held by every one: a newcomer adds a line to `OPERATORS`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch

from autocompress.errors import SpecError
from autocompress.operators.base import Statistics, WeightOperator
from autocompress.operators.expressions import SymbolicMetric
from autocompress.operators.gptq import ColumnOrder, Gptq
from autocompress.operators.pruning import Magnitude, Wanda
from autocompress.operators.round_to_nearest import RoundToNearest
from autocompress.operators.sparse_gpt import SparseGpt
from autocompress.operators.weight_operators import WEIGHT_OPERATORS, load_weight_operator
from tests.operators.layers import error_of, random_layer, settings

INTEGERS = ("w2g128", "w3", "w4g64sym", "w5g32", "w6", "w8g128")
SPARSE = ("s0.25", "s0.5", "s0.731", "s2:4", "s4:8", "s0.5+w4g128", "s2:4+w3", "s0.3+w8g32sym")


@dataclass(frozen=True)
class Case:
    """An operator with settings that it builds, and some that it refuses."""

    operator: WeightOperator
    builds: Sequence[str]
    refuses: Sequence[str]


NOT_SPARSE = ("dense", "w4g128", "fp8", "s0.5+fp8", "s0.5+w4g100")
NOT_INTEGER = ("dense", "s0.5", "s0.5+w4g128", "mxfp4", "w4g100")
OPERATORS = {
    "round-to-nearest": Case(
        RoundToNearest(), (*INTEGERS, "fp8", "mxfp4", "nvfp4"), ("dense", "s0.5", "w4g100")
    ),
    "gptq": Case(Gptq(), INTEGERS, NOT_INTEGER),
    "gptq in stored order": Case(Gptq(order=ColumnOrder.STORED), INTEGERS, NOT_INTEGER),
    "magnitude": Case(Magnitude(), SPARSE, NOT_SPARSE),
    "wanda": Case(Wanda(), SPARSE, NOT_SPARSE),
    "symbolic": Case(SymbolicMetric("square(W) * minmax(X)"), SPARSE, NOT_SPARSE),
    "sparsegpt": Case(SparseGpt(), SPARSE, NOT_SPARSE),
}
every = pytest.mark.parametrize("case", OPERATORS.values(), ids=list(OPERATORS))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_setting_is_decoded_to_the_shape_and_format(case: Case, dtype: torch.dtype) -> None:
    weight, statistics = random_layer(24, 128, dtype=dtype)
    before = weight.clone()

    built = case.operator.build(weight, statistics, settings(*case.builds))

    assert list(map(str, sorted(built, key=str))) == sorted(case.builds)
    for setting, packed in built.items():
        assert packed.setting == setting
        assert packed.decode(dtype).dtype is dtype
        assert packed.decode(dtype).shape == weight.shape
        assert bool(packed.decode(dtype).isfinite().all())
    assert torch.equal(weight, before)


@every
def test_as_many_weights_are_stored_as_the_setting_says(case: Case) -> None:
    weight, statistics = random_layer(23, 128)

    for setting, packed in case.operator.build(weight, statistics, settings(*case.builds)).items():
        mask = packed.mask()
        masks = [mask] if mask is not None else [torch.ones(23, 128, dtype=torch.bool)]
        assert int(masks[0].sum()) == setting.stored_weights(23, 128)
        assert not packed.decode(torch.float32)[~masks[0]].any()


@every
def test_patterns_hold_in_every_group(case: Case) -> None:
    weight, statistics = random_layer(24, 128)
    wanted = [setting for setting in settings(*case.builds) if setting.pattern is not None]

    for setting, packed in case.operator.build(weight, statistics, wanted).items():
        n, m = setting.pattern or (0, 0)
        mask = packed.mask()
        assert mask is not None
        assert mask.view(-1, m).sum(1).unique().tolist() == [n]


@every
def test_levels_lose_little_and_not_nothing(case: Case) -> None:
    weight, statistics = random_layer(24, 128)
    whole = error_of_nothing(weight, statistics)

    for packed in case.operator.build(weight, statistics, settings(*case.builds)).values():
        assert 0 < error_of(packed, weight, statistics) < 0.5 * whole


def error_of_nothing(weight: torch.Tensor, statistics: Statistics) -> float:
    return float(torch.trace(weight @ statistics.hessian @ weight.T))


@every
def test_the_same_inputs_give_the_same_bits(case: Case) -> None:
    weight, statistics = random_layer(24, 128)
    wanted = settings(*case.builds)

    first = case.operator.build(weight, statistics, wanted)
    again = case.operator.build(weight.clone(), statistics, wanted)

    for setting, packed in first.items():
        for name, tensor in packed.tensors.items():
            assert torch.equal(again[setting].tensors[name].float(), tensor.float())


@every
def test_a_level_does_not_depend_on_which_others_are_built(case: Case) -> None:
    weight, statistics = random_layer(24, 128, dtype=torch.float64)
    together = case.operator.build(weight, statistics, settings(*case.builds))

    for setting, packed in together.items():
        alone = case.operator.build(weight, statistics, [setting])[setting]
        # Products of another shape may sum in another order.
        torch.testing.assert_close(
            packed.decode(torch.float64), alone.decode(torch.float64), rtol=0.0, atol=1e-12
        )


@every
def test_what_cannot_be_built_is_refused_by_name(case: Case) -> None:
    weight, statistics = random_layer(8, 128)

    for refused in settings(*case.refuses):
        with pytest.raises(SpecError, match=rf"` must hold, but got {re.escape(str(refused))}\. "):
            case.operator.build(weight, statistics, [*settings(case.builds[0]), refused])


@every
def test_statistics_of_another_width_are_refused(case: Case) -> None:
    weight, _ = random_layer(8, 128)
    _, other = random_layer(8, 64)

    with pytest.raises(SpecError, match=r"must hold, but got \(64, 64\) for 128 columns"):
        case.operator.build(weight, other, settings(case.builds[0]))


@every
@pytest.mark.parametrize("seen", [0, 1, 60])
def test_inputs_that_calibration_never_saw_are_no_obstacle(case: Case, seen: int) -> None:
    weight, statistics = random_layer(24, 128)
    hessian = torch.zeros(128, 128)
    hessian[:seen, :seen] = statistics.hessian[:seen, :seen]

    built = case.operator.build(weight, Statistics(hessian), settings(*case.builds))

    for packed in built.values():
        assert bool(packed.decode(torch.float32).isfinite().all())


def test_every_name_of_the_table_loads_an_operator() -> None:
    versions = {load_weight_operator(name).version for name in WEIGHT_OPERATORS}

    assert len(versions) == len(WEIGHT_OPERATORS)


def test_an_unknown_operator_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        SpecError, match=r"'gtpq'; did you mean 'gptq'\? Known: ggml, gptq, magnitude,"
    ):
        load_weight_operator("gtpq")
