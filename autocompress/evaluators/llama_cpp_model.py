"""One GGUF file opened by llama.cpp: token ids in, logits out, with its own KV cache."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autocompress.errors import EngineError
from autocompress.operators.ggml_blocks import llama_cpp_package

ERROR_LEVEL = 4


class LlamaCppModel:
    """A GGUF file with a KV cache for some sequences of one length.

    Args:
        length: Tokens of a sequence at most.
        sequences: At a time.

    Raises:
        EngineError: If llama.cpp is absent or does not open the file.
    """

    def __init__(self, file: Path, length: int, sequences: int = 1, threads: int = 1) -> None:
        self._api = llama_cpp_package()
        api = self._api
        listener, self._words = _listener()
        api.llama_log_set(listener, None)
        api.llama_backend_init()
        how = api.llama_model_default_params()
        how.n_gpu_layers = 0
        # Compiled by gcc, its AMX kernels load a tile configuration that was optimized away, and
        # die (llama.cpp pull request 26954). Kernels for repacked weights go with them.
        how.use_extra_bufts = False
        self._model = api.llama_model_load_from_file(str(file).encode(), how)
        if not self._model:
            raise EngineError(f"llama.cpp does not open {file}: {self._last_words()}")
        size = api.llama_context_default_params()
        size.n_ctx = -(-length // 256) * 256 * sequences
        size.n_batch = size.n_ubatch = length * sequences
        size.n_seq_max = sequences
        size.n_threads = size.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, size)
        if not self._context:
            raise EngineError(f"llama.cpp does not run {file}: {self._last_words()}")
        self._memory = api.llama_get_memory(self._context)
        vocabulary = api.llama_model_get_vocab(self._model)
        self.vocabulary = int(api.llama_vocab_n_tokens(vocabulary))
        self._batch = api.llama_batch_init(length * sequences, 0, 1)
        self._position = 0

    def close(self) -> None:
        """Free what it holds."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def use_threads(self, threads: int) -> None:
        """Run on so many threads from now on."""
        self._api.llama_set_n_threads(self._context, threads, threads)

    def forget(self) -> None:
        """Empty the KV cache."""
        self._api.llama_memory_clear(self._memory, False)
        self._position = 0

    def read(self, ids: np.ndarray, *, every: bool) -> np.ndarray:
        """Run (B, T) token ids after what was read before; return logits, float32.

        Args:
            every: Of every token, (B, T, V); else of each sequence's last, (B, V). A view of
                llama.cpp's own memory, until the next call.
        """
        n_sequences, length = ids.shape
        n = n_sequences * length
        batch = self._batch
        batch.n_tokens = n
        wanted = np.ones((n_sequences, length), dtype=np.int8)
        if not every:
            wanted[:, :-1] = 0
        positions = np.arange(self._position, self._position + length, dtype=np.int32)
        _fill(batch.token, ids.astype(np.int32).reshape(-1))
        _fill(batch.pos, np.tile(positions, n_sequences))
        _fill(batch.n_seq_id, np.ones(n, dtype=np.int32))
        _fill(batch.logits, wanted.reshape(-1))
        for place in range(n):
            batch.seq_id[place][0] = place // length
        status = self._api.llama_decode(self._context, batch)
        if status:
            raise EngineError(f"llama.cpp did not run (status {status}): {self._last_words()}")
        self._position += length
        rows = n if every else n_sequences
        pointer = self._api.llama_get_logits(self._context)
        logits = np.ctypeslib.as_array(pointer, shape=(rows, self.vocabulary))
        return logits.reshape(n_sequences, -1, self.vocabulary) if every else logits

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, nothing added."""
        raw = text.encode()
        room = (ctypes.c_int32 * (len(raw) + 8))()
        vocabulary = self._api.llama_model_get_vocab(self._model)
        n = self._api.llama_tokenize(vocabulary, raw, len(raw), room, len(room), False, False)
        return list(room[:n])

    def _last_words(self) -> str:
        return " ".join(filter(None, self._words[-2:])) or "it gives no reason"


class LlamaCppPredictor:
    """A GGUF file that reads text.

    Args:
        length: Tokens of a sequence at most.
    """

    def __init__(self, file: Path, length: int) -> None:
        self._model = LlamaCppModel(file, length, threads=torch.get_num_threads())

    def logits(self, ids: np.ndarray) -> Tensor:
        """Return what follows each of (T,) token ids but the last: (T - 1, V) float32."""
        if ids.max() >= self._model.vocabulary:
            raise EngineError(
                f"`token id < {self._model.vocabulary}`, the file's vocabulary, must hold, but "
                f"got {ids.max()}."
            )
        self._model.forget()
        return torch.from_numpy(self._model.read(ids[None, :-1], every=True)[0].copy())


@contextlib.contextmanager
def opened(file: Path, length: int, sequences: int = 1) -> Iterator[LlamaCppModel]:
    """Open a file and free what it holds at the end."""
    with contextlib.closing(LlamaCppModel(file, length, sequences)) as model:
        yield model


@functools.cache
def _listener() -> tuple[Any, list[str]]:
    """Return what llama.cpp tells its log to, and the errors that it has told.

    One for the process: ctypes frees a callback that nobody holds, llama.cpp would call into it.
    """
    words: list[str] = []

    def listen(level: int, text: bytes, _: object) -> None:
        if level >= ERROR_LEVEL:
            words.append(text.decode(errors="replace").strip())

    return llama_cpp_package().llama_log_callback(listen), words


def _fill(place: Any, values: np.ndarray) -> None:
    np.ctypeslib.as_array(place, shape=values.shape)[:] = values
