"""OWL: layers with more outliers keep more of their weights (arXiv:2310.05175)."""

from collections.abc import Sequence

from torch import Tensor

from autocompress.errors import SpecError


def outlier_share(scores: Tensor, multiple: float = 5.0) -> float:
    """Return the share of entries above `multiple` times the mean (section 3, equation 2).

    Args:
        scores: |W|·‖X‖₂ of a layer's weights, any shape.
    """
    return float((scores > multiple * scores.mean()).float().mean())


def owl_sparsities(
    shares: Sequence[float], sizes: Sequence[int], sparsity: float, spread: float = 0.08
) -> tuple[float, ...]:
    """Return the sparsity of every layer; their mean, weighted by size, is `sparsity`.

    Shares of outliers are brought to [0, 2·spread] and taken from the sparsity, which thus strays
    by at most 2·spread from the mean.

    Args:
        shares: `outlier_share` of every layer.
        sizes: Weights of every layer.

    Raises:
        SpecError: If a sparsity would leave [0, 1].
    """
    least, most = min(shares), max(shares)
    width = most - least
    offsets = [2 * spread * (share - least) / width if width else 0.0 for share in shares]
    total = sum(sizes)
    mean = sum(offset * size for offset, size in zip(offsets, sizes, strict=True)) / total
    found = tuple(sparsity - (offset - mean) for offset in offsets)
    if not 0 <= min(found) <= max(found) <= 1:
        raise SpecError(
            f"`0 <= sparsity <= 1` must hold of every layer, but got {min(found):.3f} to "
            f"{max(found):.3f}. Take a spread below {spread:g}."
        )
    return found
