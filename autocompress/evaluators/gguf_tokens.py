"""Reads text into token ids as a GGUF file's own vocabulary does.

`python -m autocompress.evaluators.gguf_tokens` is the process of its own in which llama.cpp opens
the file: a broken one may end it.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from autocompress.errors import ModelError
from autocompress.evaluators.llama_cpp_model import opened
from autocompress.evaluators.subprocess_call import answer_call, call_module


def gguf_token_ids(file: Path, documents: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each document, nothing added.

    Raises:
        ModelError: If llama.cpp does not open the file.
    """
    request = {"file": str(file), "documents": list(documents)}
    answer = call_module(
        "autocompress.evaluators.gguf_tokens", request, ModelError, f"Cannot read {file}"
    )
    found: list[list[int]] = json.loads(answer)
    return found


def serve(request: dict[str, object]) -> list[list[int]]:
    """Answer one request: read each document."""
    with opened(Path(str(request["file"])), length=1) as model:
        return [model.tokenize(str(text)) for text in _items(request["documents"])]


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


if __name__ == "__main__":
    sys.exit(answer_call(serve))
