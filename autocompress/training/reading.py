"""Reads what a model loses against the dense one, as a search measures its candidates."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from autocompress.evaluators.teacher import mean_losses, summarize
from autocompress.training.distillation import fast_numbers
from autocompress.trial import Measurement

Logits = Callable[[Tensor], Tensor]
"""Token ids, (T), to float32 logits of what follows each but the last, (T - 1, V)."""


def logits_of(model: nn.Module, *, is_fast: bool = True) -> Logits:
    """Return how a model predicts.

    Args:
        is_fast: Whether float32 parameters are multiplied in bfloat16, as in a training.
    """
    device = next(model.parameters()).device

    def predict(ids: Tensor) -> Tensor:
        with fast_numbers(device, is_fast=is_fast):
            logits: Tensor = model(ids[None, :-1].to(device), use_cache=False).logits[0]
        return logits.float()

    return predict


@torch.inference_mode()
def read(ours: Logits, dense: Logits | None, rows: Iterable[np.ndarray], k: int) -> Measurement:
    """Return what a model loses on sequences of one length.

    Args:
        dense: None where the model is the dense one itself.
        rows: Each (T) token ids.
        k: Likeliest tokens kept of each prediction of the dense model.
    """
    kl, nll, length = [], [], 0
    for row in rows:
        ids = torch.from_numpy(row).long()
        logits = ours(ids)
        theirs = logits if dense is None else dense(ids)
        found = mean_losses(summarize(theirs, k), logits, ids[1:].to(logits.device))
        kl.append(found[0])
        nll.append(found[1])
        length = len(row)
    return Measurement(tuple(kl), tuple(nll), length - 1)
