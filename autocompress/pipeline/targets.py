"""The limits that targets set on what is stored, and whether a written model meets them.

Loads no torch: a study's limits are made again in a moment.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.export.report import Target
from autocompress.pipeline.measured_speedup import MeasuredSpeedup
from autocompress.spaces import sizes
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import AdditiveCost, Limit, least_left, mixed
from autocompress.spaces.settings import (
    GROUP_SIZES,
    WeightSetting,
    as_compressed_tensors,
    as_gptq,
    as_packed,
    torch_kernel_bits,
)
from autocompress.spec import SearchSpec
from autocompress.spec_rules import (
    BY_TORCH,
    COMPRESSED,
    TORCH_KERNELS,
    stands_for_gpu,
    usual_space,
)
from autocompress.store.base import Json

MEMORY_MARGIN: Final = 1.01
"""What serving holds beside weights and cache was measured of the dense model alone."""
USUAL_COLUMNS: Final = GROUP_SIZES[0]
_UNITS: Final = {"memory": "bytes of memory", "bytes": "bytes", "params": "parameters"}


@dataclass(frozen=True, slots=True)
class WrittenSize:
    """How large a written model is, embeddings and head included, tied ones once.

    Args:
        linear_bits: Of the searched linear layers: codes, scales, zero points and masks.
        peak_memory: As measured; None where it was not.
    """

    parameters: int
    bytes: int
    linear_bits: float
    peak_memory: int | None = None


@dataclass(frozen=True, slots=True)
class DenseSize:
    """How large the untouched model is: what limits and reports are told relative to.

    Args:
        parameters: Embeddings and head included, tied ones once.
        bytes: Of these.
        number_bits: Of a number in the model's own format.
        linear_weights: In the searched linear layers.
        peak_memory: Bytes that the engine's process holds while it runs the workload, above what
            it holds before it opens the model; None where it was not measured.
        saved_at_ends: Of `bytes`, those that every candidate saves by how it stores token
            embedding and head.
    """

    parameters: int
    bytes: int
    number_bits: int
    linear_weights: int
    peak_memory: int | None = None
    saved_at_ends: int = 0

    def to_document(self) -> Mapping[str, Json]:
        """Return plain values, to be kept with a study."""
        return dataclasses.asdict(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Json]) -> "DenseSize":
        """Read what `to_document` wrote."""
        # Studies of earlier versions say nothing of what was added since.
        names = [f.name for f in dataclasses.fields(cls) if f.name in document]
        given = {name: document[name] for name in names}
        read = {name: None if v is None else int(str(v)) for name, v in given.items()}
        return cls(**read)  # type: ignore[arg-type]  # only `peak_memory` is ever None


def check_kernels(spec: SearchSpec) -> None:
    """Make sure that a speedup is asked of what the engine runs faster.

    Raises:
        SpecError: If it has a kernel for nothing in the space.
    """
    if not spec.is_timed or spec.engine in ("llama.cpp", "vllm"):
        return
    if spec.roofline is not None and not {"depth", "width", "bits"} & {*spec.space}:
        raise SpecError(
            "A roofline has zeros and caches of few bits save no time: `depth`, `width` or `bits` "
            f"must be in --space for a speedup, but got {', '.join(spec.space)}."
        )
    if spec.roofline is not None or {"depth", "width"} & {*spec.space}:
        return
    if "bits" not in spec.space:
        raise SpecError(
            "The torch engine runs zeros and caches of few bits no faster: `depth`, `width` or "
            f"`bits` must be in --space for a speedup, but got {', '.join(spec.space)}."
        )
    if spec.format in COMPRESSED:
        raise SpecError(
            "transformers decodes the weights of compressed-tensors when it first runs them: bits "
            "save no time there. Add depth to --space for a speedup, or take --format hf."
        )
    if not any(_has_torch_kernel(name, spec) for name in spec.bits):
        raise SpecError(
            "The torch engine has kernels, on a CPU in bfloat16, for codes of 4 bits or fewer in "
            "groups, and for rows of codes of up to 6 bits or around 0: one of these must be in "
            f"--bits for a speedup, such as {', '.join(TORCH_KERNELS)}, but got "
            f"{', '.join(spec.bits)}; or add depth or width to --space, or search bits with "
            "--engine llama.cpp."
        )


def _has_torch_kernel(name: str, spec: SearchSpec) -> bool:
    """Whether torch has a kernel for one of a spec's `bits`, in layers of usual sizes."""
    if stands_for_gpu(spec.device) or spec.dtype == "float32":
        return False
    if name.isdigit():
        size = USUAL_COLUMNS if spec.group_size is None else spec.group_size or None
        setting = WeightSetting(int(name), size, spec.symmetric)
    else:
        setting = WeightSetting.parse(name)
    return torch_kernel_bits(setting, USUAL_COLUMNS, USUAL_COLUMNS) is not None


def needed_speedup(spec: SearchSpec, cost: AdditiveCost) -> float | None:
    """Return the predicted speedup that meets what is asked of the clock; None if nothing is.

    Raises:
        SpecError: If the dense model meets it already.
    """
    most = spec.most_milliseconds
    if most is None:
        return spec.target_speedup
    if most < cost.dense:
        return cost.dense / most
    if spec.target_throughput is not None:
        raise SpecError(
            f"`target_throughput > dense` must hold, but got {rate_of(spec, most)}, and the dense "
            f"model makes {rate_of(spec, cost.dense)} here."
        )
    raise SpecError(
        f"`target_latency < dense` must hold, but got {most:g} ms, and a request takes the dense "
        f"model {cost.dense:.3g} ms here."
    )


def rate_of(spec: SearchSpec, milliseconds: float) -> str:
    """Say how many tokens a second a request of the only workload means by its time."""
    return f"{spec.workload.first.throughput(milliseconds):,.4g} tokens a second"


def check_start(spec: SearchSpec, cost: AdditiveCost, needed: float) -> None:
    """Make sure that a speedup takes more than embedding and head stored otherwise.

    Raises:
        SpecError: If all candidates begin with as much.
    """
    start = cost.dense / cost.start
    if spec.has_stored_ends and needed <= start:
        raise SpecError(
            f"`target_speedup > start` must hold, but got {needed:.4g}x, and embedding and head "
            f"in {spec.embeddings} alone are predicted at {start:.4g}x: there is nothing to "
            "search. Ask for more, or leave `embeddings` out."
        )


def time_limit(
    cost: AdditiveCost, target_speedup: float, fastest: float, spec: SearchSpec
) -> Limit:
    """Return the limit on milliseconds that a speedup sets.

    Raises:
        UnreachableTarget: If no candidate of the space is that fast.
    """
    if target_speedup > fastest:
        known = usual_space(
            spec.engine,
            spec.format,
            is_timed=True,
            device=spec.device,
            whole_layers=spec.whole_layers,
        )
        spaces = [name for name in known if name not in spec.space]
        advice = f"Add {' or '.join(spaces)} to --space or lower" if spaces else "Lower"
        if spec.most_milliseconds is None:
            reached = f"reaches {target_speedup:g}x"
            best = f"{fastest:.2f}x"
        elif spec.target_throughput is not None:
            reached = f"reaches {rate_of(spec, spec.most_milliseconds)}"
            best = rate_of(spec, cost.dense / fastest)
        else:
            reached = f"takes {spec.most_milliseconds:g} ms or less"
            best = f"{cost.dense / fastest:.3g} ms"
            advice = advice.replace("lower", "raise").replace("Lower", "Raise")
        raise UnreachableTarget(
            f"No candidate {reached}: the fastest of this space is predicted at {best}. {advice} "
            "the target."
        )
    return Limit(cost, cost.dense / target_speedup)


def stored_limits(
    spec: SearchSpec, space: SearchSpace, dense: DenseSize, share: float = 1.0
) -> tuple[Limit, ...]:
    """Return the limits of all targets but speed.

    Args:
        share: Of the memory that serving may hold, what candidates are reckoned to.

    Raises:
        SpecError: If the dense model meets a target already, or what all candidates begin with.
        UnreachableTarget: If no candidate of the space meets it.
    """
    size, count = spec.target_bytes, spec.target_params
    memory = most_memory(spec, dense)
    most = {
        "memory": None if memory is None else share * memory / MEMORY_MARGIN,
        "bytes": None if size is None else size.of(dense.bytes),
        "bits": spec.target_bits,
        "params": None if count is None else count.of(dense.parameters),
    }
    return tuple(
        _checked(space, _cost(kind, spec, space, dense), value, kind, spec)
        for kind, value in most.items()
        if value is not None
    )


def most_memory(spec: SearchSpec, dense: DenseSize) -> float | None:
    """Return the bytes that serving may hold; None if nothing is asked of them.

    Raises:
        SpecError: If it is unknown what the dense model holds.
    """
    if spec.target_memory is None:
        return None
    if dense.peak_memory is None:
        raise SpecError(
            "What serving the dense model holds was not measured: ask for bytes instead, or let "
            "`autocompress retarget` measure it with --refine."
        )
    return spec.target_memory.of(dense.peak_memory)


def _cost(kind: str, spec: SearchSpec, space: SearchSpace, dense: DenseSize) -> AdditiveCost:
    if kind != "memory":
        return stored_cost(kind, spec.counted_bits, space, dense, spec.format)
    tokens = max(w.batch * (w.prompt + w.generated) for w in spec.workload.workloads)
    held: sizes.Held = WeightSetting.stored_bits
    if spec.engine in BY_TORCH:
        held = sizes.held_by_torch if spec.format == "hf" else sizes.held_decoded

    def served(other: float) -> AdditiveCost:
        return sizes.served_bytes(space, dense.number_bits, tokens, other, held)

    # What is held beside the sites is what was measured beyond what they are reckoned at.
    whole = served(max(0.0, (dense.peak_memory or 0) - served(0.0).dense))
    return whole.saving(dense.saved_at_ends)


def stored_cost(
    kind: str, counted_bits: str, space: SearchSpace, dense: DenseSize, form: str
) -> AdditiveCost:
    """Return what candidates cost of what is stored.

    Args:
        kind: `bytes` or `params` of the whole model, or `bits` a weight.
        counted_bits: Which bits, as a spec says it.
        form: The format of the files.
    """
    bits = dense.number_bits
    stored = as_compressed_tensors if form in COMPRESSED else as_packed
    if form == "gptq":
        stored = as_gptq
    if kind == "params":
        in_sites = sizes.parameters(space, 0).dense
        return sizes.parameters(space, dense.parameters - round(in_sites))
    if kind == "bits" and counted_bits == "nominal":
        return sizes.nominal_bits(space, bits)
    if kind == "bits" and counted_bits == "stored":
        return mixed([(8 / dense.linear_weights, sizes.linear_bytes(space, bits, stored))])
    in_sites = sizes.stored_bytes(space, bits, 0, stored).dense
    whole = sizes.stored_bytes(space, bits, dense.bytes - round(in_sites), stored)
    whole = whole.saving(dense.saved_at_ends)
    return mixed([(8 / dense.parameters, whole)]) if kind == "bits" else whole


def told(kind: str, value: float) -> str:
    """Return a cost with its unit."""
    if kind == "bits":
        return f"{value:.3f} bits a weight"
    return f"{value:,.0f} {_UNITS[kind]}"


def targets_of(spec: SearchSpec, dense: DenseSize) -> tuple[Target, ...]:
    """Return what was asked, as a report says it; parameters as the share that remains."""
    found = []
    if spec.target_speedup is not None:
        found.append(Target("speedup", spec.target_speedup))
    if spec.target_latency is not None:
        found.append(Target("latency", spec.target_latency))
    if spec.target_throughput is not None:
        found.append(Target("throughput", spec.target_throughput))
    if spec.target_memory is not None and dense.peak_memory is not None:
        found.append(Target("memory", spec.target_memory.of(dense.peak_memory)))
    if spec.target_bytes is not None:
        found.append(Target("bytes", spec.target_bytes.of(dense.bytes)))
    if spec.target_bits is not None:
        found.append(Target("bits", spec.target_bits, counted=spec.counted_bits))
    if spec.target_params is not None:
        share = spec.target_params.of(dense.parameters) / dense.parameters
        found.append(Target("params", share))
    return tuple(found)


def counted_bits(
    written: WrittenSize, nominal_bits: float, dense: DenseSize
) -> Mapping[str, float]:
    """Return the mean bits of a weight, by what `counted_bits` of a spec may say.

    Args:
        nominal_bits: Of codes, a searched weight of the dense model.
    """
    return {
        "nominal": nominal_bits,
        "stored": written.linear_bits / dense.linear_weights,
        "whole": 8 * written.bytes / dense.parameters,
    }


def is_met(
    target: Target,
    spec: SearchSpec,
    written: WrittenSize,
    nominal_bits: float,
    dense: DenseSize,
    measured: MeasuredSpeedup,
) -> bool:
    """Whether a target holds of what was written and measured.

    Args:
        nominal_bits: Of codes, a searched weight of the dense model.
        measured: All of its interval must meet what is asked.
    """
    # What is promised in bits is a mean: the last digit of a sum must not decide.
    found = {
        "speedup": -measured.interval[0],
        "latency": measured.compressed_interval[1],
        "throughput": -spec.workload.first.throughput(measured.compressed_interval[1]),
        "memory": math.inf if written.peak_memory is None else float(written.peak_memory),
        "bytes": float(written.bytes),
        "bits": counted_bits(written, nominal_bits, dense)[spec.counted_bits],
        "params": written.parameters / dense.parameters,
    }[target.kind]
    value = -target.value if target.kind in ("speedup", "throughput") else target.value
    most = value + 1e-9 * abs(value)
    return found <= most


def _checked(
    space: SearchSpace, cost: AdditiveCost, most: float, kind: str, spec: SearchSpec
) -> Limit:
    if most >= cost.dense:
        raise SpecError(
            f"`target_{kind} < dense` must hold, but got {told(kind, most)}, and the dense model "
            f"has {told(kind, cost.dense)}."
        )
    if most >= cost.start:
        raise SpecError(
            f"`target_{kind} < start` must hold, but got {told(kind, most)}, and embedding and "
            f"head in {spec.embeddings} alone leave {told(kind, cost.start)}: there is nothing to "
            "search. Ask for less, or leave `embeddings` out."
        )
    least = least_left(space, cost)
    if most < least:
        saving = "depth or width" if kind == "memory" else "depth, width, bits or sparsity"
        more = f"Add {saving} to --space, or raise"
        raise UnreachableTarget(
            f"No candidate reaches {told(kind, most)}: the smallest of this space has "
            f"{told(kind, least)}. {'Raise' if spec.engine == 'llama.cpp' else more} the target."
        )
    return Limit(cost, most)
