"""The limits that targets set on what is stored, and whether a written model meets them."""

from collections.abc import Callable
from dataclasses import dataclass

from autocompress.errors import SpecError, UnreachableTarget
from autocompress.export.report import Target
from autocompress.models.surgery import ShapedModel
from autocompress.spaces import sizes
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import AdditiveCost, Limit, least_left
from autocompress.spec import SearchSpec


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a model is, embeddings and head included, tied ones once.

    Args:
        linear_bits: Of the searched linear layers: codes, scales, zero points and masks.
    """

    parameters: int
    bytes: int
    linear_bits: float


@dataclass(frozen=True, slots=True)
class DenseModel:
    """What limits and reports are told relative to.

    Args:
        number_bits: Of a number in the model's own format.
        linear_weights: In the searched linear layers.
    """

    size: ModelSize
    number_bits: int
    linear_weights: int


def measure_dense(shaped: ShapedModel) -> DenseModel:
    """Return the size of the untouched model; leaves it dense."""
    shaped.apply_dense()
    tied = shaped.model.config.tie_word_embeddings
    tensors = [
        tensor
        for name, tensor in shaped.model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    ]
    weights = sum(group.weights for site in shaped.space.sites for group in site.groups)
    bits = 8 * shaped.model.dtype.itemsize
    return DenseModel(
        ModelSize(
            sum(tensor.numel() for tensor in tensors),
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            weights * bits,
        ),
        bits,
        weights,
    )


def stored_limits(spec: SearchSpec, space: SearchSpace, dense: DenseModel) -> tuple[Limit, ...]:
    """Return the limits of all targets but speed.

    Raises:
        SpecError: If the dense model meets a target already.
        UnreachableTarget: If no candidate of the space meets it.
    """
    limits = []
    bits = dense.number_bits
    if spec.target_bytes is not None:
        in_sites = sizes.stored_bytes(space, bits, 0).dense
        cost = sizes.stored_bytes(space, bits, dense.size.bytes - round(in_sites))
        most = spec.target_bytes.of(dense.size.bytes)
        limits.append(_checked(cost, most, "target_bytes", lambda n: f"{n:,.0f} bytes"))
    if spec.target_bits is not None:
        cost = _bits(spec, space, dense)
        limits.append(
            _checked(cost, spec.target_bits, "target_bits", lambda n: f"{n:.3f} bits a weight")
        )
    if spec.target_params is not None:
        in_sites = sizes.parameters(space, 0).dense
        cost = sizes.parameters(space, dense.size.parameters - round(in_sites))
        most = spec.target_params.of(dense.size.parameters)
        limits.append(_checked(cost, most, "target_params", lambda n: f"{n:,.0f} parameters"))
    return tuple(limits)


def targets_of(spec: SearchSpec, dense: DenseModel) -> tuple[Target, ...]:
    """Return what was asked, as a report says it; parameters as the share that remains."""
    found = []
    if spec.target_speedup is not None:
        found.append(Target("speedup", spec.target_speedup))
    if spec.target_bytes is not None:
        found.append(Target("bytes", spec.target_bytes.of(dense.size.bytes)))
    if spec.target_bits is not None:
        found.append(Target("bits", spec.target_bits))
    if spec.target_params is not None:
        share = spec.target_params.of(dense.size.parameters) / dense.size.parameters
        found.append(Target("params", share))
    return tuple(found)


def is_met(
    target: Target,
    spec: SearchSpec,
    written: ModelSize,
    nominal_bits: float,
    dense: DenseModel,
    speedup: float,
) -> bool:
    """Whether a target holds of what was written and measured.

    Args:
        nominal_bits: Of codes, a searched weight of the dense model.
    """
    # What is promised in bits is a mean: the last digit of a sum must not decide.
    found = {
        "speedup": -speedup,
        "bytes": float(written.bytes),
        "bits": {
            "nominal": nominal_bits,
            "stored": written.linear_bits / dense.linear_weights,
            "whole": 8 * written.bytes / dense.size.parameters,
        }[spec.counted_bits],
        "params": written.parameters / dense.size.parameters,
    }[target.kind]
    most = -target.value if target.kind == "speedup" else target.value * (1 + 1e-9)
    return found <= most


def _bits(spec: SearchSpec, space: SearchSpace, dense: DenseModel) -> AdditiveCost:
    """Return the cost that `counted_bits` names, in bits a weight."""
    if spec.counted_bits == "nominal":
        return sizes.nominal_bits(space, dense.number_bits)
    if spec.counted_bits == "stored":
        whole = sizes.linear_bytes(space, dense.number_bits)
        return _scaled(whole, 8 / dense.linear_weights)
    in_sites = sizes.stored_bytes(space, dense.number_bits, 0).dense
    whole = sizes.stored_bytes(space, dense.number_bits, dense.size.bytes - round(in_sites))
    return _scaled(whole, 8 / dense.size.parameters)


def _scaled(cost: AdditiveCost, factor: float) -> AdditiveCost:
    sites = tuple(tuple(factor * value for value in own) for own in cost.sites)
    return AdditiveCost(factor * cost.fixed, sites)


def _checked(cost: AdditiveCost, most: float, name: str, told: Callable[[float], str]) -> Limit:
    if most >= cost.dense:
        raise SpecError(
            f"`{name} < dense` must hold, but got {told(most)}, and the dense model has "
            f"{told(cost.dense)}."
        )
    least = least_left(cost)
    if most < least:
        raise UnreachableTarget(
            f"No candidate reaches {told(most)}: the smallest of this space has {told(least)}. "
            "Add depth, width, bits or sparsity to --space, or raise the target."
        )
    return Limit(cost, most)
