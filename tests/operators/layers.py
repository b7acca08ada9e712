"""Random layers with correlated inputs, and what a setting of one loses."""

import torch
from torch import Tensor

from autocompress.operators.base import Statistics
from autocompress.operators.packed import PackedWeight
from autocompress.spaces.settings import WeightSetting


def random_layer(
    rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Statistics]:
    """Return a (rows, columns) weight and the statistics of 4 · columns correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64)
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    x = plain @ (torch.eye(columns).double() + mixing / columns**0.5)
    weight = 0.05 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight.to(dtype), Statistics((x.T @ x / len(x)).float())


def output_error(found: Tensor, weight: Tensor, statistics: Statistics) -> float:
    """Return tr(Δ H Δᵀ): the mean squared output error over the calibration inputs."""
    difference = found.double() - weight.double()
    return float(torch.trace(difference @ statistics.hessian.double() @ difference.T))


def error_of(packed: PackedWeight, weight: Tensor, statistics: Statistics) -> float:
    return output_error(packed.decode(torch.float64), weight, statistics)


def settings(*texts: str) -> list[WeightSetting]:
    return [WeightSetting.parse(text) for text in texts]
