"""How a model in training was held against the dense one; loads no torch, for reports tell it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Validation:
    """How far the student was from the dense model, on text that no step read.

    Args:
        tokens: Trained on before.
        kl: Nats a token.
    """

    tokens: int
    kl: float
