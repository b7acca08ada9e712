"""Reads text with transformers' own models."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.models.loading import in_fast_numbers


class TorchPredictor:
    """A checkpoint's own forward pass, without a KV cache, in the numbers that searches use.

    Args:
        trust_remote_code: Beside our own modeling files, which are always run.
    """

    def __init__(
        self, folder: Path, device: torch.device, dtype: str, trust_remote_code: bool
    ) -> None:
        model = load_checkpoint(folder, device, dtype, trust_remote_code)
        self._model = in_fast_numbers(model, dtype)

    @torch.inference_mode()
    def logits(self, ids: np.ndarray) -> Tensor:
        """Return what follows each of (T,) token ids but the last: (T - 1, V) float32."""
        batch = torch.from_numpy(ids[None, :-1]).long().to(self._model.device)
        logits: Tensor = self._model(batch, use_cache=False).logits[0]
        return logits.float()
