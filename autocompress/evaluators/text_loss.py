"""What checkpoints on disk lose on text, and how far one is from another's predictions.

`python -m autocompress.evaluators.text_loss` is the process of its own in which they are read.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import EvaluationError
from autocompress.evaluators.base import Predictor
from autocompress.evaluators.llama_cpp_model import LlamaCppPredictor
from autocompress.evaluators.subprocess_call import Progress, advance, answer_call, call_module
from autocompress.evaluators.teacher import Teacher, mean_losses, summarize
from autocompress.evaluators.torch_predictor import TorchPredictor
from autocompress.trial import Measurement

GGUF = ".gguf"


@dataclass(frozen=True, slots=True)
class Reading:
    """How checkpoints are read.

    Args:
        device: Of the torch engine.
        teacher_tokens: k: the likeliest tokens kept of each prediction of the dense model.
    """

    device: str
    dtype: str
    teacher_tokens: int
    trust_remote_code: bool


def measure_checkpoint(
    path: Path, dense: Path | None, sequences: np.ndarray, how: Reading, progress: Progress
) -> tuple[Measurement, Measurement | None]:
    """Measure a checkpoint, and the dense one that it is held against, in a fresh process.

    Without one, divergences are 0.

    Args:
        sequences: (sequences, T) token ids.

    Raises:
        EvaluationError: If one of them does not load, reads other tokens, or loses what is no
            finite number.
    """
    request = {
        "path": str(path),
        "dense": None if dense is None else str(dense),
        "sequences": sequences.tolist(),
        "device": how.device,
        "dtype": how.dtype,
        "teacher_tokens": how.teacher_tokens,
        "trust_remote_code": how.trust_remote_code,
    }
    answer = call_module(
        "autocompress.evaluators.text_loss", request, EvaluationError, "Not measured", progress
    )
    found = json.loads(answer)
    nothing = [0.0] * len(sequences)

    def measured(kl: list[float], nll: list[float]) -> Measurement:
        return Measurement(tuple(kl), tuple(nll), sequences.shape[1] - 1)

    own = measured(found["kl"], found["nll"])
    return own, None if dense is None else measured(nothing, found["dense_nll"])


def serve(request: dict[str, object]) -> dict[str, list[float]]:
    """Answer one request: read the text with the dense model, then with the other."""
    how = Reading(
        str(request["device"]),
        str(request["dtype"]),
        int(str(request["teacher_tokens"])),
        request["trust_remote_code"] is True,
    )
    sequences = np.asarray(request["sequences"], dtype=np.int64)
    n = len(sequences)
    teachers: list[Teacher] = []
    found: dict[str, list[float]] = {"kl": [], "nll": [], "dense_nll": []}
    n_tokens = 0
    if request["dense"] is not None:
        # Of two models that fill the memory each, one at a time.
        dense = open_predictor(Path(str(request["dense"])), sequences.shape[1], how)
        for number, ids in enumerate(sequences):
            advance(number, 2 * n)
            logits = dense.logits(ids)
            n_tokens = logits.shape[-1]
            teachers.append(summarize(logits, how.teacher_tokens))
            found["dense_nll"].append(_means(teachers[-1], logits, ids)[1])
        del dense
    other = open_predictor(Path(str(request["path"])), sequences.shape[1], how)
    for number, ids in enumerate(sequences):
        advance(len(teachers) + number, len(teachers) + n)
        logits = other.logits(ids)
        if teachers and logits.shape[-1] != n_tokens:
            raise EvaluationError(
                f"`vocabulary = {n_tokens}` of the dense model must hold, but got "
                f"{logits.shape[-1]}."
            )
        teacher = teachers[number] if teachers else summarize(logits, 1)
        kl, nll = _means(teacher, logits, ids)
        found["kl"].append(kl)
        found["nll"].append(nll)
    wrong = [name for name, values in found.items() if not all(map(math.isfinite, values))]
    if wrong:
        raise EvaluationError(f"Of some sequences {' and '.join(wrong)} are no finite numbers.")
    return found


def open_predictor(path: Path, length: int, how: Reading) -> Predictor:
    """Open a model with the engine that its files are for: a folder with torch, else llama.cpp.

    Args:
        length: Tokens of a sequence at most.
    """
    if path.suffix == GGUF:
        return LlamaCppPredictor(path, length)
    return TorchPredictor(path, torch.device(how.device), how.dtype, how.trust_remote_code)


def _means(teacher: Teacher, logits: Tensor, ids: np.ndarray) -> tuple[float, float]:
    """Return the mean divergence and likelihood over a sequence, nats a token."""
    return mean_losses(teacher, logits, torch.from_numpy(ids[1:]).to(logits.device))


if __name__ == "__main__":
    sys.exit(answer_call(serve))
