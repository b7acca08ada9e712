"""How likely a model finds texts that begin alike."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from autocompress.models.kv_cache import uniform_cache
from autocompress.spaces.settings import DENSE_CACHE


def common_length(first: Sequence[int], *others: Sequence[int]) -> int:
    """Return with how many equal tokens all texts begin."""
    shared = 0
    for tokens in zip(first, *others, strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    return shared


@torch.inference_mode()
def log_likelihoods(
    model: PreTrainedModel, prefix: Sequence[int], rests: Sequence[Sequence[int]]
) -> list[float]:
    """Return the log-likelihood, in nats, of each rest after a prefix that is read once.

    Args:
        prefix: At least one token.
        rests: Of any lengths; an empty one is certain.
    """
    longest = max(map(len, rests), default=0)
    if longest == 0:
        return [0.0 for _ in rests]
    padded = torch.tensor(
        [[*rest, *[0] * (longest - len(rest))] for rest in rests], device=model.device
    )  # (rests, T)
    cache = uniform_cache(model, DENSE_CACHE)
    start = torch.tensor([list(prefix)], device=model.device)
    outputs = model(start, past_key_values=cache, use_cache=True, logits_to_keep=1)
    logits = outputs.logits.expand(len(rests), -1, -1)
    if longest > 1:
        cache.batch_repeat_interleave(len(rests))
        # What pads a rest stands behind it, where no token of it looks.
        later = model(padded[:, :-1], past_key_values=cache, use_cache=True).logits
        logits = torch.cat([logits, later], 1)  # (rests, T, V)
    logs = logits.float().log_softmax(-1).gather(-1, padded[..., None])[..., 0].double()
    return [float(row[: len(rest)].sum()) for row, rest in zip(logs, rests, strict=True)]
