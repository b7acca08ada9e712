"""Which weights stay: those of the highest scores, by matrix, by row or by pattern."""

import torch
from torch import Tensor

from autocompress.spaces.settings import WeightSetting


def mask_in_matrix(scores: Tensor, setting: WeightSetting) -> Tensor:
    """Return a (rows, columns) mask of the weights that stay: the best of the whole matrix."""
    if setting.pattern is not None:
        return mask_by_pattern(scores, *setting.pattern)
    return highest(scores.flatten(), setting.stored_weights(*scores.shape)).view(scores.shape)


def mask_in_rows(scores: Tensor, setting: WeightSetting) -> Tensor:
    """Return a (rows, columns) mask of the weights that stay: the best of every row.

    Rows keep equally many; what does not divide is one more in each of the first rows.
    """
    if setting.pattern is not None:
        return mask_by_pattern(scores, *setting.pattern)
    rows, columns = scores.shape
    each, more = divmod(setting.stored_weights(rows, columns), rows)
    return torch.cat([_best(scores[:more], each + 1), _best(scores[more:], each)])


def _best(scores: Tensor, n: int) -> Tensor:
    """Return a mask of the n highest of every row; of equal scores the first ones stay.

    To sort whole rows takes four times as long as to find the least score that stays.
    """
    if not n or not len(scores):
        return torch.zeros_like(scores, dtype=torch.bool)
    least = scores.topk(n, dim=1, sorted=False).values.amin(dim=1, keepdim=True)  # (rows, 1)
    above, equal = scores > least, scores == least
    lacking = n - above.sum(dim=1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=1) <= lacking))


def mask_by_pattern(scores: Tensor, n: int, m: int) -> Tensor:
    """Return a (rows, columns) mask: of m weights side by side in a row the best n stay."""
    groups = scores.reshape(-1, m)
    best = groups.topk(n, dim=1).indices
    mask = torch.zeros(groups.shape, dtype=torch.bool, device=scores.device)
    return mask.scatter_(1, best, True).view(scores.shape)


def highest(scores: Tensor, n: int) -> Tensor:
    """Return a mask of the n highest of (entries,) scores."""
    mask = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    mask[scores.topk(n, sorted=False).indices] = True
    return mask
