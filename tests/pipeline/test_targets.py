"""Targets set limits on what is stored; what is written is held against them."""

import dataclasses

import pytest

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.export.report import Target
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.models.surgery import ShapedModel
from autocompress.pipeline.dense import measure_dense
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.pipeline.shapes import space_of
from autocompress.pipeline.targets import (
    MEMORY_MARGIN,
    DenseSize,
    WrittenSize,
    check_kernels,
    check_start,
    is_met,
    needed_speedup,
    stored_limits,
    targets_of,
    time_limit,
)
from autocompress.spaces.cost import AdditiveCost
from autocompress.spec import SearchSpec, from_mapping
from autocompress.trial import Genotype
from tests.tiny_models import PlainSlices, TinyModels, make_config


def spec_of(**values: object) -> SearchSpec:
    return from_mapping({"model": "m", "bits": "8,4,2", "group_size": 0} | values)


def rig(tiny_models: TinyModels, spec: SearchSpec, family: str, tied: bool) -> ShapedModel:
    model = tiny_models.load(family, tied=tied)
    space = space_of(spec, shape_of(read_architecture(make_config(family))))
    return ShapedModel(model, space, PlainSlices(model))


@pytest.mark.parametrize("tied", [False, True])
def test_the_dense_model_costs_what_its_tensors_are(
    tiny_models: TinyModels, family: str, tied: bool
) -> None:
    spec = spec_of(target_bytes="60%", target_params="90%", space="width,bits")
    shaped = rig(tiny_models, spec, family, tied)
    dense = measure_dense(shaped)

    for_bytes, for_params = stored_limits(spec, shaped.space, dense)

    count = shaped.model.num_parameters()
    assert dense.parameters == for_params.cost.dense == count
    assert dense.bytes == for_bytes.cost.dense == 4 * count
    assert for_bytes.most == pytest.approx(2.4 * count)
    assert for_params.most == 0.9 * count


def test_memory_is_limited_beyond_what_was_measured_of_the_dense_model(
    tiny_models: TinyModels,
) -> None:
    spec = spec_of(target_memory="90%", space="depth,bits", workload="2*2x6+2,1*prefill:1x9+1")
    shaped = rig(tiny_models, spec, "llama", tied=False)
    size = measure_dense(shaped)
    held = dataclasses.replace(size, peak_memory=3 * size.bytes)

    (limit,) = stored_limits(spec, shaped.space, held)

    drop = shaped.space.entries(Genotype((1, *shaped.space.dense.levels[1:])))
    attention = sum(g.weights for g in shaped.space.sites[0].groups) + 32
    cache = 2 * 16 * 2 * (6 + 2)
    assert limit.cost.dense == pytest.approx(held.peak_memory)
    assert limit.cost.dense - limit.cost.of(drop) == pytest.approx(4 * (attention + cache))
    assert limit.most == pytest.approx(0.9 * 3 * size.bytes / MEMORY_MARGIN)
    (target,) = targets_of(spec, held)
    assert target.kind == "memory"
    assert target.value == pytest.approx(2.7 * size.bytes)
    with pytest.raises(SpecError, match="holds was not measured"):
        stored_limits(spec, shaped.space, size)


@pytest.mark.parametrize(
    ("asked", "counted"),
    [
        ({"target_bytes": "60%"}, "bytes"),
        ({"target_memory": "60%"}, "bytes"),
        ({"target_bits": 16, "counted_bits": "whole"}, "bits"),
    ],
    ids=["bytes", "memory", "bits"],
)
def test_what_is_saved_at_the_ends_is_counted_of_all_but_the_dense_model(
    tiny_models: TinyModels, asked: dict[str, object], counted: str
) -> None:
    spec = spec_of(space="depth,bits", **asked)
    shaped = rig(tiny_models, spec, "llama", tied=False)
    size = measure_dense(shaped)
    plain = dataclasses.replace(size, peak_memory=2 * size.bytes)
    saving = dataclasses.replace(plain, saved_at_ends=1000)

    (before,), (after,) = (stored_limits(spec, shaped.space, own) for own in (plain, saving))

    drop = shaped.space.entries(Genotype((1, *shaped.space.dense.levels[1:])))
    saved = 1000 if counted == "bytes" else 8 * 1000 / size.parameters
    assert after.cost.dense == before.cost.dense
    assert after.most == before.most
    assert after.cost.start == pytest.approx(before.cost.dense - saved)
    assert after.cost.of(drop) == pytest.approx(before.cost.of(drop) - saved)


def test_parameters_and_bits_of_linear_layers_are_those_of_any_ends(
    tiny_models: TinyModels,
) -> None:
    for asked in ({"target_params": "90%"}, {"target_bits": 4}):
        spec = spec_of(space="depth,bits", **asked)
        shaped = rig(tiny_models, spec, "llama", tied=False)
        size = measure_dense(shaped)
        saving = dataclasses.replace(size, saved_at_ends=1000)

        assert stored_limits(spec, shaped.space, saving) == stored_limits(spec, shaped.space, size)


def test_sizes_of_earlier_studies_are_read(tiny_models: TinyModels) -> None:
    size = measure_dense(rig(tiny_models, spec_of(target_bits=4), "llama", tied=False))
    saving = dataclasses.replace(size, saved_at_ends=1000)
    earlier = {k: v for k, v in size.to_document().items() if k != "saved_at_ends"}

    assert DenseSize.from_document(earlier) == size
    assert DenseSize.from_document(saving.to_document()) == saving


def test_on_torch_bits_without_a_kernel_save_no_memory(tiny_models: TinyModels) -> None:
    spec = spec_of(target_memory="90%", space="bits", bits="8")
    shaped = rig(tiny_models, spec, "llama", tied=False)
    size = measure_dense(shaped)
    held = dataclasses.replace(size, peak_memory=2 * size.bytes)

    with pytest.raises(UnreachableTarget, match=r"Add depth or width to --space, or raise"):
        stored_limits(spec, shaped.space, held)


@pytest.mark.parametrize(("counted", "bits"), [("nominal", 4.0), ("stored", 6.0), ("whole", 20.0)])
def test_bits_are_counted_as_asked(tiny_models: TinyModels, counted: str, bits: float) -> None:
    spec = spec_of(target_bits=bits, counted_bits=counted)
    shaped = rig(tiny_models, spec, "llama", tied=False)
    dense = measure_dense(shaped)

    (limit,) = stored_limits(spec, shaped.space, dense)

    even = shaped.space.entries(Genotype((2,) * len(shaped.space.genes)))
    costs = {"nominal": 4.0, "stored": limit.cost.of(even), "whole": limit.cost.of(even)}
    assert limit.cost.of(even) == pytest.approx(costs[counted])
    assert limit.cost.dense == pytest.approx(32)
    assert 4.0 <= limit.cost.of(even) < 32


def test_a_target_that_dense_meets_is_refused(tiny_models: TinyModels) -> None:
    spec = spec_of(target_bytes="4GB")
    shaped = rig(tiny_models, spec, "llama", tied=False)

    with pytest.raises(
        SpecError, match=r"`target_bytes < dense` must hold, but got 4,000,000,000"
    ):
        stored_limits(spec, shaped.space, measure_dense(shaped))


def test_a_target_that_embedding_and_head_alone_meet_is_refused(tiny_models: TinyModels) -> None:
    gguf = {"engine": "llama.cpp", "embeddings": "q8_0", "bits": "q8_0", "group_size": None}
    spec, timed = spec_of(target_bytes="90%", **gguf), spec_of(target_speedup=1.2, **gguf)
    shaped = rig(tiny_models, spec_of(target_bytes="90%"), "llama", tied=False)
    size = measure_dense(shaped)
    saving = dataclasses.replace(size, saved_at_ends=round(0.2 * size.bytes))
    cost = AdditiveCost(10.0, ((2.0, 1.0),)).saving(2.5)

    with pytest.raises(SpecError, match=r"in q8_0 alone leave .*: there is nothing to search"):
        stored_limits(spec, shaped.space, saving)
    with pytest.raises(SpecError, match=r"in q8_0 alone are predicted at 1\.263x"):
        check_start(timed, cost, 1.2)
    check_start(timed, cost, 1.3)
    check_start(spec_of(target_speedup=1.2, space="depth"), cost, 1.2)


def test_a_target_out_of_reach_is_refused_with_what_is_reachable(tiny_models: TinyModels) -> None:
    spec = spec_of(target_bits=1.5)
    shaped = rig(tiny_models, spec, "llama", tied=False)

    with pytest.raises(UnreachableTarget, match=r"No candidate reaches 1.500 bits a weight: the "):
        stored_limits(spec, shaped.space, measure_dense(shaped))


def test_targets_are_told_in_the_reports_units(tiny_models: TinyModels) -> None:
    spec = spec_of(target_speedup="2x", target_params="50%")
    shaped = rig(tiny_models, spec, "llama", tied=False)

    found = targets_of(spec, measure_dense(shaped))

    assert found == (Target("speedup", 2.0), Target("params", 0.5))


def test_a_target_in_bits_tells_which_are_counted(tiny_models: TinyModels) -> None:
    spec = spec_of(target_bits=6, counted_bits="whole")
    shaped = rig(tiny_models, spec, "llama", tied=False)

    found = targets_of(spec, measure_dense(shaped))

    assert found == (Target("bits", 6.0, counted="whole"),)


@pytest.mark.parametrize(
    ("target", "met"),
    [
        (Target("speedup", 1.5), True),
        (Target("speedup", 1.6), False),
        (Target("latency", 21.0), True),
        (Target("latency", 20.5), False),
        (Target("throughput", 3000.0), True),
        (Target("throughput", 3100.0), False),
        (Target("bytes", 1000.0), True),
        (Target("bytes", 999.0), False),
        (Target("bits", 3.0), True),
        (Target("bits", 2.9), False),
        (Target("params", 0.5), True),
        (Target("params", 0.4), False),
    ],
)
def test_a_target_is_held_against_what_was_written(
    tiny_models: TinyModels, target: Target, met: bool
) -> None:
    spec = spec_of(target_bits=3)
    dense = measure_dense(rig(tiny_models, spec, "llama", tied=False))
    written = WrittenSize(dense.parameters // 2, 1000, 1.0)

    measured = MeasuredSpeedup(1.55, (1.5, 1.6), (30.0, 20.0), (19.0, 21.0), ())

    assert is_met(target, spec, written, 3.0 + 1e-12, dense, measured) is met


def test_a_latency_is_met_by_a_speedup() -> None:
    cost = AdditiveCost(100.0, ())

    assert needed_speedup(spec_of(target_latency="40ms", space="depth"), cost) == 2.5
    assert needed_speedup(spec_of(target_speedup=3, space="depth"), cost) == 3.0
    assert needed_speedup(spec_of(target_bits=3), cost) is None
    with pytest.raises(SpecError, match=r"got 100 ms, and a request takes the dense model 100 ms"):
        needed_speedup(spec_of(target_latency="0.1s", space="depth"), cost)


def test_a_time_out_of_reach_is_told_with_what_can_be_reached() -> None:
    spec = spec_of(target_latency=20, space="depth")

    with pytest.raises(UnreachableTarget) as caught:
        time_limit(AdditiveCost(100.0, ()), 5.0, 4.0, spec)

    assert str(caught.value) == (
        "No candidate takes 20 ms or less: the fastest of this space is predicted at 25 ms. Add "
        "width or bits to --space or raise the target."
    )


def test_a_throughput_is_told_as_it_was_asked() -> None:
    spec = spec_of(target_throughput=320, space="depth", workload="1x8+64")
    cost = AdditiveCost(400.0, ())

    assert needed_speedup(spec, cost) == 2.0
    assert targets_of(spec, DenseSize(1, 1, 32, 1)) == (Target("throughput", 320.0),)
    with pytest.raises(SpecError, match="got 320 tokens a second, and the dense model makes 640"):
        needed_speedup(spec, AdditiveCost(100.0, ()))
    with pytest.raises(UnreachableTarget) as caught:
        time_limit(cost, 2.0, 1.5, spec)
    assert str(caught.value) == (
        "No candidate reaches 320 tokens a second: the fastest of this space is predicted at 240 "
        "tokens a second. Add width or bits to --space or lower the target."
    )


@pytest.mark.parametrize(
    ("values", "is_refused"),
    [
        ({"target_speedup": 2, "space": "bits"}, False),
        ({"target_speedup": 2, "space": "bits", "bits": "8,6,5"}, True),
        ({"target_speedup": 2, "space": "bits", "bits": "4", "device": "cuda"}, True),
        ({"target_speedup": 2, "space": "bits", "bits": "4", "group_size": 16}, True),
        ({"target_speedup": 2, "space": "bits", "dtype": "float32"}, True),
        ({"target_speedup": 2, "space": "bits", "bits": "6", "group_size": 0}, False),
        ({"target_speedup": 2, "space": "bits", "bits": "mxfp4,w8"}, True),
        ({"target_speedup": 2, "space": "bits", "bits": "w8sym"}, False),
        ({"target_speedup": 2, "space": "sparsity"}, True),
        ({"target_speedup": 2, "space": "bits,depth", "bits": "8"}, False),
        ({"target_bits": 3, "space": "bits"}, False),
        ({"target_speedup": 2, "engine": "llama.cpp"}, False),
    ],
)
def test_a_speedup_needs_what_the_engine_runs_faster(
    values: dict[str, object], is_refused: bool
) -> None:
    spec = from_mapping({"model": "m", **values})

    if is_refused:
        with pytest.raises(
            SpecError, match=r"^The torch engine (has kernels|runs zeros and caches)"
        ):
            check_kernels(spec)
    else:
        check_kernels(spec)


def test_compressed_tensors_are_decoded_and_their_bits_save_no_time() -> None:
    values = {"model": "m", "target_speedup": 2, "format": "compressed-tensors"}

    check_kernels(from_mapping(values))
    check_kernels(from_mapping(values | {"space": "depth,bits"}))
    with pytest.raises(SpecError, match=r"bits save no time there\. Add depth to --space"):
        check_kernels(from_mapping(values | {"space": "bits"}))
