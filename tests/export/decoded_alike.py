"""What tests share that hold an engine's answers by a decoding against those of this one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import PreTrainedModel

from autocompress.evaluators.decoder import Answer
from autocompress.models.loading import load_tokenizer
from autocompress.spaces.decoding import PARAMETERS, Decoding, DecodingSpace

# vLLM has no attention for the heads of tiny models.
REFERENCE: Final = Path(__file__).parents[2] / "examples" / "reference-model"
PROMPTS: Final = (
    "import os\nimport sys\n",
    "class A:\n    def __init__(self, x):\n        self.x = x\n        self",
    "    for name in names:\n        if name",
    "try:\n    import json\nexcept",
    "        raise ValueError(",
)


def drawn() -> list[Decoding]:
    """Return decodings of every kind of draft, sampled and not, with all else drawn."""
    rng = np.random.default_rng(0)
    found: list[Decoding] = [{}]
    for draft in ("none", "lookup", "model", "both", "exit"):
        for do_sample in (False, True):
            space = DecodingSpace(PARAMETERS).only({"draft": (draft,), "do_sample": (do_sample,)})
            found += [space.values(space.draw(rng)) for _ in range(20)]
    return found


@torch.inference_mode()
def margin(
    model: PreTrainedModel, prompt: str, own: Answer, text: str, tokens: Sequence[int]
) -> float:
    """Return how far apart in logits the first tokens are in which two answers differ.

    0 where the texts are the same.
    """
    if own.text == text:
        return 0.0
    pairs = enumerate(zip(own.token_ids, tokens, strict=False))
    place, (left, right) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
    ids = load_tokenizer(REFERENCE)(prompt)["input_ids"]
    logits = model(torch.tensor([[*ids, *own.token_ids[:place]]])).logits[0, -1]
    return abs(float(logits[left] - logits[right]))
