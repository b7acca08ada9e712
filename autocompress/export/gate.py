"""The gate: a checkpoint counts only when a fresh process finds in it what was searched.

`python -m autocompress.export.gate` is that process: a request as JSON on standard input, the
findings as JSON on standard output.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from torch import Tensor

from autocompress.errors import ExportError, GateError
from autocompress.evaluators.subprocess_call import answer_call, call_module
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.export.checkpoint import Artifact, changed_files, stored_tensor_bytes
from autocompress.models.generation import generate
from autocompress.models.saving import save_whole
from autocompress.models.surgery import ShapedModel

ANSWER_TOKENS = 24
# Largest allowed difference of a logit, as a share of the largest logit. Sums of a few hundred
# products in bf16 (8 bits) differ by about 2**-7 when they are added in another order.
TOLERANCE: Mapping[torch.dtype, float] = {
    torch.bfloat16: 0.03,
    torch.float16: 0.01,
    torch.float32: 1e-4,
}
REFERENCE = "reference.safetensors"


@dataclass(frozen=True, slots=True)
class Findings:
    """What the gate's process saw.

    Args:
        largest_difference: Of any logit to the searched candidate's; None where an engine tells
            no logits.
        cache_difference: Of any logit generated with a KV cache to the one without.
        tolerance: What both may be at most.
        answer: Token ids generated after the prompt.
    """

    largest_difference: float | None
    cache_difference: float
    tolerance: float
    tensor_bytes: int
    answer: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict on an artifact, with its findings.

    Args:
        engine: What opened it.
        changed: Files that are not as they were written, in words.
    """

    findings: Findings
    bytes_match: bool
    engine: str
    engine_version: str
    changed: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty if the artifact passed."""
        found = self.findings
        failures = []
        apart = found.largest_difference
        if apart is not None and not apart <= found.tolerance:
            failures.append(
                f"logits differ from the searched candidate's by {apart:.3g}, "
                f"allowed {found.tolerance:.3g}"
            )
        if not found.cache_difference <= found.tolerance:
            failures.append(
                f"generation with a KV cache differs by {found.cache_difference:.3g}, allowed "
                f"{found.tolerance:.3g}"
            )
        if not self.bytes_match:
            failures.append(
                f"the files hold {found.tensor_bytes:,} bytes of tensors, not as built"
            )
        failures += self.changed
        if not found.answer:
            failures.append("it generated nothing")
        return failures

    @property
    def passed(self) -> bool:
        """Whether the artifact is what was searched."""
        return not self.failures


@torch.inference_mode()
def write_reference(shaped: ShapedModel, prompt: Tensor, folder: Path) -> Path:
    """Keep the searched candidate's logits on a prompt of shape (1, T) for the gate to compare.

    They are those without a KV cache, whatever setting the candidate has for one: no engine is
    credited with it, and the gate generates with a dense cache.

    Raises:
        ExportError: If the folder cannot be written.
    """
    file = folder / REFERENCE
    logits = shaped.model(prompt.to(shaped.model.device), use_cache=False).logits
    tensors = {"prompt": prompt.cpu(), "logits": logits.float().cpu().contiguous()}
    save_whole(file, tensors, ExportError)
    return file


def check(artifact: Artifact, reference: Path, device: str) -> GateReport:
    """Load an artifact in a fresh process and hold it against the searched candidate.

    Raises:
        GateError: If the process could not load or run it.
    """
    request = {"folder": str(artifact.folder), "reference": str(reference), "device": device}
    version = f"{transformers.__version__} on torch {torch.__version__}"
    return ask("autocompress.export.gate", request, artifact, "transformers", version)


def ask(
    module: str, request: Mapping[str, object], artifact: Artifact, engine: str, version: str
) -> GateReport:
    """Have a gate's own process examine an artifact, and hold what it found against it.

    Args:
        module: The gate, which answers with its `Findings`.
        version: Of the engine.

    Raises:
        GateError: If the process could not load or run it.
    """
    found = json.loads(call_module(module, request, GateError, f"{artifact.path} does not load"))
    findings = Findings(**{**found, "answer": tuple(found["answer"])})
    same_bytes = findings.tensor_bytes == artifact.tensor_bytes
    return GateReport(findings, same_bytes, engine, version, tuple(changed_files(artifact)))


@torch.inference_mode()
def examine(folder: Path, reference: Path, device: torch.device) -> Findings:
    """Load a checkpoint and look at what it does; runs in the gate's own process."""
    with safe_open(reference, framework="pt") as file:
        prompt, expected = file.get_tensor("prompt").to(device), file.get_tensor("logits")
    model = load_checkpoint(folder, device, "auto")
    logits = model(prompt, use_cache=False).logits.float().cpu()  # (1, T, V)
    # Of what was published only some positions are kept.
    logits = logits[:, -expected.shape[1] :]
    whole, raw = generate(model, prompt, ANSWER_TOKENS)  # (1, T + answer), (1, answer, V)
    with_cache = raw.float()
    without = model(whole[:, :-1], use_cache=False).logits[:, prompt.shape[1] - 1 :].float()
    return Findings(
        largest_difference=float((logits - expected).abs().max()),
        cache_difference=float((with_cache - without).abs().max()),
        tolerance=TOLERANCE[model.dtype] * float(expected.abs().max()),
        tensor_bytes=stored_tensor_bytes(folder),
        answer=tuple(int(i) for i in whole[0, prompt.shape[1] :]),
    )


def serve(request: dict[str, object]) -> dict[str, object]:
    """Answer one request: examine the checkpoint that it names."""
    findings = examine(
        Path(str(request["folder"])),
        Path(str(request["reference"])),
        torch.device(str(request["device"])),
    )
    return asdict(findings)


if __name__ == "__main__":
    sys.exit(answer_call(serve))
