"""Calibration text: documents, their split into three, and sequences of one length."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from autocompress.errors import TextError
from autocompress.models import sample_text
from autocompress.trial import Split

SHARES: Mapping[Split, float] = {Split.SEARCH: 0.4, Split.SELECTION: 0.2, Split.REPORT: 0.4}
FEWEST_SEQUENCES = 8
DOCUMENT_CHARACTERS = 4096


def read_documents(path: str | None) -> list[str]:
    """Return the documents of a text file, or of the built-in sample for None.

    JSON Lines (`.jsonl`) hold a document a line, in the field `text`. Other text is cut at blank
    lines into documents of at least 4,096 characters.

    Raises:
        TextError: If the file cannot be read or holds no text.
    """
    if path is None:
        return sample_text.read_documents()
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"Text {path} is not UTF-8: {error.reason}.") from error
    except OSError as error:
        raise TextError(f"Cannot read text {path}: {error.strerror}.") from error
    except (RuntimeError, ValueError) as error:  # an unknown `~user`, a NUL in the path
        raise TextError(f"Cannot read text {path!r}: {error}.") from error
    if not text.strip():
        raise TextError(f"Text {path} is empty.")
    return _json_documents(path, text) if path.endswith(".jsonl") else _plain_documents(text)


def split_documents(documents: Sequence[str]) -> dict[Split, list[str]]:
    """Deal the documents out, each to the split that lacks most of its share of characters.

    The order is that of their digests: it depends on the documents alone. Equal documents count
    once, or two splits would hold the same text.
    """
    ordered = sorted(set(documents), key=lambda text: hashlib.blake2b(text.encode()).digest())
    dealt: dict[Split, list[str]] = {split: [] for split in Split}
    sizes = dict.fromkeys(Split, 0)
    for document in ordered:
        split = min(Split, key=lambda split: sizes[split] / SHARES[split])
        dealt[split].append(document)
        sizes[split] += len(document)
    return dealt


def make_sequences(
    tokenizer: PreTrainedTokenizerBase, documents: Sequence[str], context: int
) -> dict[Split, np.ndarray]:
    """Return `cut_sequences` of documents that a tokenizer reads."""
    encode = functools.partial(token_ids, tokenizer)
    return cut_sequences(encode, tokenizer.eos_token_id, documents, context)


def cut_sequences(
    encode: Callable[[Sequence[str]], list[list[int]]],
    separator: int | None,
    documents: Sequence[str],
    context: int,
) -> dict[Split, np.ndarray]:
    """Return (sequences, context) int32 token ids for each split.

    A split's documents are joined by the separator and cut every `context` tokens; what is left
    over at the end is not used.

    Args:
        encode: Returns the token ids of each document.
        separator: The end-of-text token, if there is one.

    Raises:
        TextError: If a split holds fewer than 8 sequences.
    """
    result: dict[Split, np.ndarray] = {}
    for split, texts in split_documents(documents).items():
        stream: list[int] = []
        for ids in encode(texts):
            stream += ids if separator is None else [*ids, separator]
        n = len(stream) // context
        result[split] = np.asarray(stream[: n * context], dtype=np.int32).reshape(n, context)
    short = {
        split.value: len(rows) for split, rows in result.items() if len(rows) < FEWEST_SEQUENCES
    }
    if short:
        raise TextError(
            f"`sequences >= {FEWEST_SEQUENCES}` of {context} tokens must hold for each split of "
            f"the calibration text, but got {short}. Give more text or a smaller --context."
        )
    return result


def token_ids(tokenizer: PreTrainedTokenizerBase, documents: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each document, nothing added."""
    if not documents:
        return []
    encoded = tokenizer(list(documents), add_special_tokens=False, verbose=False)
    found: list[list[int]] = encoded["input_ids"]
    return found


def draw_order(n_sequences: int, split: Split, draw: int, seed: int) -> np.ndarray:
    """Return the order in which a draw reads a split's sequences."""
    ranks = {split: rank for rank, split in enumerate(Split)}
    rng = np.random.default_rng([seed, ranks[split], draw])
    return rng.permutation(n_sequences)


def fingerprint(sequences: Mapping[Split, np.ndarray]) -> str:
    """Return a digest of all sequences, which is another where they are cut otherwise."""
    digest = hashlib.blake2b(digest_size=16)
    for split in sorted(sequences):
        digest.update(f"{split} {sequences[split].shape}\n".encode())
        digest.update(sequences[split].tobytes())
    return digest.hexdigest()


def _json_documents(path: str, text: str) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise TextError(f"{path}:{number} is not JSON with a field `text`.") from error
        if not isinstance(document, str):
            raise TextError(f"{path}:{number}: `text` must hold text.")
        if not document.isascii() and any("\ud800" <= letter <= "\udfff" for letter in document):
            raise TextError(f"{path}:{number}: `text` holds half a character (a lone surrogate).")
        documents.append(document)
    return documents


def _plain_documents(text: str) -> list[str]:
    documents: list[str] = []
    current: list[str] = []
    size = 0
    for paragraph in text.split("\n\n"):
        current.append(paragraph)
        size += len(paragraph)
        if size >= DOCUMENT_CHARACTERS:
            documents.append("\n\n".join(current))
            current, size = [], 0
    if current:
        documents.append("\n\n".join(current))
    return documents
