"""The gate of GGUF files: llama.cpp must find in one what was searched.

`python -m autocompress.export.gguf_gate` is the process in which it looks: a request as JSON on
standard input, the findings as JSON on standard output.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from safetensors import safe_open

from autocompress.evaluators.llama_cpp_engine import LlamaCppEngine
from autocompress.evaluators.llama_cpp_model import opened
from autocompress.evaluators.subprocess_call import answer_call
from autocompress.export.checkpoint import Artifact
from autocompress.export.gate import ANSWER_TOKENS, Findings, GateReport, ask
from autocompress.export.gguf_file import read_gguf

# llama.cpp rounds what a quantized matrix is multiplied with to 8 bits, in every layer anew.
TOLERANCE: Final = 0.1


def check(artifact: Artifact, reference: Path) -> GateReport:
    """Open a GGUF file in a fresh process and hold it against the searched candidate.

    Args:
        reference: What `gate.write_reference` kept of the candidate.

    Raises:
        GateError: If llama.cpp does not open or run it.
    """
    request = {"file": str(artifact.path), "reference": str(reference)}
    engine = LlamaCppEngine()
    module = "autocompress.export.gguf_gate"
    return ask(module, request, artifact, engine.name, engine.version)


def examine(file: Path, reference: Path) -> Findings:
    """Open a file and look at what it does; runs in the gate's own process."""
    with safe_open(reference, framework="pt") as kept:
        prompt = kept.get_tensor("prompt").numpy()  # (1, T)
        expected: np.ndarray = kept.get_tensor("logits").numpy()  # (1, T, V)
    with opened(file, prompt.shape[1] + ANSWER_TOKENS) as model:
        logits = model.read(prompt, every=True).copy()
        answer, with_cache = [int(logits[0, -1].argmax())], [logits[0, -1]]
        while len(answer) < ANSWER_TOKENS:
            last = np.asarray([answer[-1:]])
            with_cache.append(model.read(last, every=True)[0, -1].copy())
            answer.append(int(with_cache[-1].argmax()))
        model.forget()
        whole = np.concatenate([prompt, [answer[:-1]]], axis=1)
        without = model.read(whole, every=True)[0, prompt.shape[1] - 1 :]
        difference = float(np.abs(np.stack(with_cache) - without).max())
    return Findings(
        # Of what was published only some positions are kept.
        largest_difference=float(np.abs(logits[:, -expected.shape[1] :] - expected).max()),
        cache_difference=difference,
        tolerance=TOLERANCE * float(np.abs(expected).max()),
        tensor_bytes=read_gguf(file).bytes,
        answer=tuple(answer),
    )


def serve(request: dict[str, object]) -> dict[str, object]:
    """Answer one request: examine the file that it names."""
    return asdict(examine(Path(str(request["file"])), Path(str(request["reference"]))))


if __name__ == "__main__":
    sys.exit(answer_call(serve))
