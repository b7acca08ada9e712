"""A temperature that follows how sure the model is of its next token (EDT, arXiv:2403.14541)."""

import torch
from torch import Tensor
from transformers import LogitsProcessor

from autocompress.spaces.decoding import ENTROPY_BASE


class EntropyTemperature(LogitsProcessor):
    """Divides logits by `ENTROPY_BASE ** (strength / entropy)`, entropy in nats.

    The base is below 1: the surer the model, the colder, and greedy where it is certain. The paper
    multiplies by a fixed temperature; a `TemperatureLogitsWarper` behind this one does that, so
    that the entropy is the model's own.

    Args:
        strength: The paper's theta, above 0.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def __call__(self, _input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the logits, (B, V), over the temperature; the highest of a row becomes 0."""
        logs = scores.log_softmax(-1)
        # A token that is ruled out has no share in the entropy: 0 times minus infinity is none.
        entropy = -(logs.exp() * logs).nan_to_num(0.0).sum(-1, keepdim=True)
        tiniest = torch.finfo(scores.dtype).tiny
        temperature = ENTROPY_BASE ** (self.strength / entropy.clamp(min=tiniest))
        # Counted from the highest, no logit overflows however cold it is.
        return (scores - scores.amax(-1, keepdim=True)) / temperature.clamp(min=tiniest)
