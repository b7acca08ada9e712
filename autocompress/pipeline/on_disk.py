"""What lies at a path that a user names: a model, its size, and the engine that runs it."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from autocompress.errors import ModelError
from autocompress.evaluators.base import Engine
from autocompress.evaluators.gguf_tokens import gguf_token_ids
from autocompress.evaluators.llama_cpp_engine import LlamaCppEngine
from autocompress.evaluators.text_loss import GGUF
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.evaluators.vllm_engine import VllmEngine
from autocompress.export.checkpoint import stored_numbers, stored_tensor_bytes
from autocompress.export.gguf_file import read_gguf
from autocompress.models import loading, text

_PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How a model reads text.

    Args:
        encode: Returns the token ids of each document, nothing added.
        end_of_text: The id of the token between documents, if there is one.
    """

    encode: Callable[[Sequence[str]], list[list[int]]]
    end_of_text: int | None


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A model on disk.

    Args:
        bytes: Of its tensors.
        numbers: That its tensors hold; of packed ones, what they are packed in.
        vocabulary: None where no tokenizer lies beside it.
    """

    path: Path
    engine: Engine
    bytes: int
    numbers: int
    vocabulary: Vocabulary | None


def open_model(
    named: str,
    device: torch.device,
    dtype: str,
    trust_remote_code: bool,
    *,
    by_vllm: bool = False,
    compiled: bool = False,
) -> OnDisk:
    """Return what a GGUF file, a folder or a name on the hub stands for; load no weights.

    Args:
        by_vllm: vLLM runs it, and not torch.
        compiled: Of torch, whether it compiles the model's layers.

    Raises:
        ModelError: If there is none, or it is broken.
    """
    if named.endswith(GGUF) and by_vllm:
        raise ModelError(f"vLLM reads no GGUF files, but got {named}.")
    if named.endswith(GGUF):
        file = Path(named).expanduser()
        if not file.is_file():
            raise ModelError(f"No file at {named}.")
        if _PART.search(file.name):
            raise ModelError(
                f"{named} is a part of a model: join the parts by `llama-gguf-split --merge`."
            )
        stored = read_gguf(file)
        vocabulary = Vocabulary(functools.partial(gguf_token_ids, file), stored.end_of_text)
        return OnDisk(file, LlamaCppEngine(), stored.bytes, stored.numbers, vocabulary)
    folder = loading.resolve(named)
    engine: Engine = TorchEngine(str(device), dtype, 0, trust_remote_code, compiled)
    if by_vllm:
        engine = VllmEngine(str(device), dtype, trust_remote_code)
    return OnDisk(
        folder,
        engine,
        stored_tensor_bytes(folder),
        stored_numbers(folder),
        _vocabulary(folder, trust_remote_code),
    )


def _vocabulary(folder: Path, trust_remote_code: bool) -> Vocabulary | None:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    tokenizer = loading.load_tokenizer(folder, trust_remote_code)
    return Vocabulary(functools.partial(text.token_ids, tokenizer), tokenizer.eos_token_id)
