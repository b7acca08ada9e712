"""Writes a tokenizer into a GGUF file as llama.cpp reads it.

Of tokens, only what `tokenizer.json` says of byte-level BPE; llama.cpp knows how to cut text into
words by the name of a family, found here by the pattern that the tokenizer itself cuts with.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from autocompress.errors import ExportError
from autocompress.operators.ggml_blocks import gguf_package

_LLAMA3: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2: Final = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_PATTERNS: Final[Mapping[str, str]] = {_LLAMA3: "llama-bpe", _QWEN2: "qwen2"}


def write_vocabulary(writer: Any, source: Path, size: int) -> None:
    """Write the tokens, their kinds and merges, the special ones and the chat template.

    Args:
        size: Rows of the embedding; what the tokenizer lacks of them is filled up, unused.

    Raises:
        ExportError: If the tokenizer is none that can be told.
    """
    try:
        told = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        model = told["model"]
        vocabulary: dict[str, int] = dict(model["vocab"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{source} has no tokenizer.json that GGUF can be told.") from error
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        raise ExportError(
            f"The tokenizer of {source} is no byte-level BPE: others are not written to GGUF."
        )
    added = {int(token["id"]): token for token in told.get("added_tokens", [])}
    vocabulary |= {str(token["content"]): number for number, token in added.items()}
    by_id = {number: text for text, number in vocabulary.items()}
    if by_id and max(by_id) >= size:
        raise ExportError(
            f"`tokens <= {size}`, the rows of the embedding, must hold, but got {max(by_id) + 1}."
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_family(told.get("pre_tokenizer") or {}, source))
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types([_kind(i, by_id, added) for i in range(size)])
    writer.add_token_merges([_merge(pair) for pair in model["merges"]])
    _write_special(writer, source, size)


def _family(pre_tokenizer: Mapping[str, Any], source: Path) -> str:
    """Return the name under which llama.cpp cuts text like a tokenizer."""
    parts = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = [part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split"]
    if not patterns and any(p.get("type") == "ByteLevel" and p.get("use_regex") for p in parts):
        return "gpt-2"
    if len(patterns) == 1 and patterns[0] in _PATTERNS:
        return _PATTERNS[patterns[0]]
    raise ExportError(
        f"llama.cpp's name for the way {source}'s tokenizer cuts words is not known."
    )


def _kind(number: int, by_id: Mapping[int, str], added: Mapping[int, Any]) -> int:
    """Return GGUF's number for a kind of token: 1 usual, 3 control, 4 added, 5 unused."""
    if number not in by_id:
        return 5
    if number not in added:
        return 1
    return 3 if added[number].get("special") else 4


def _merge(pair: str | Sequence[str]) -> str:
    return pair if isinstance(pair, str) else " ".join(pair)


def _write_special(writer: Any, source: Path, size: int) -> None:
    """Write the special tokens, which of them begin and end a text, and the chat template."""
    try:
        special = gguf_package().SpecialVocab(source, load_merges=False, n_vocab=size)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ExportError(
            f"The special tokens of {source} cannot be told in GGUF: {error}."
        ) from error
    # llama.cpp begins texts of some families with a token unless a file says that it must not.
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)
