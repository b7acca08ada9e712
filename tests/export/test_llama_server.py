"""llama-server itself takes what it is told of a decoding, and says what the decoding says.

The server is found on the PATH; nothing in this project installs it.
"""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import pytest

from autocompress.evaluators.decoder import Decoder
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.export.decoding_outputs import DRAFT_FILE, SAMPLERS, llama_cpp
from autocompress.export.gguf_file import write_gguf
from autocompress.models.loading import load_tokenizer
from autocompress.spaces.decoding import UNTUNED, Decoding
from tests.export.decoded_alike import PROMPTS, REFERENCE, margin
from tests.tiny_models import CPU

COMMAND: Final = shutil.which("llama-server")
pytest.importorskip("gguf", reason="needs the extra llama-cpp, which writes GGUF files")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(COMMAND is None, reason="llama-server is not on the PATH"),
]

POSITIONS: Final = 1024
TIE: Final = 0.1
"""By how much less likely, in logits, a token may be that one side takes and the other does not:
llama.cpp multiplies by float16 what is in float32 here."""
GREEDY: Final[Mapping[str, Decoding]] = {
    "plain": {"max_new_tokens": 40},
    "line": {"max_new_tokens": 24, "stop": "line"},
    "penalty": {"max_new_tokens": 40, "repetition_penalty": 1.1},
    "batch": {"max_new_tokens": 40, "batch": 4},
    "lookup": {"max_new_tokens": 40, "draft": "lookup", "draft_tokens": 4, "draft_ngram": 2},
    "short lookup": {
        "max_new_tokens": 40,
        "draft": "lookup",
        "draft_tokens": 1,
        "draft_ngram": 4,
    },
    "model": {"max_new_tokens": 40, "draft": "model", "draft_tokens": 3},
    "unsure": {
        "max_new_tokens": 40,
        "draft": "model",
        "draft_tokens": 6,
        "draft_length": "threshold",
        "draft_threshold": 0.6,
    },
    "both": {"max_new_tokens": 40, "draft": "both", "draft_tokens": 3, "draft_copied": 4},
}
SAMPLED: Final[Decoding] = {
    "max_new_tokens": 12,
    "do_sample": True,
    "temperature": 0.8,
    "top_k": 20,
    "top_p": 0.95,
    "min_p": 0.05,
    "typical_p": 0.9,
    "repetition_penalty": 1.05,
    "best_of": 2,
}

Ask = Callable[[str], Any]
Serve = Callable[[Decoding], AbstractContextManager[Ask]]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Return what starts a server by a decoding, and yields what asks it."""
    file = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(REFERENCE, file)

    @contextlib.contextmanager
    def started(decoding: Decoding) -> Iterator[Ask]:
        told = llama_cpp(decoding, str(REFERENCE), POSITIONS)
        flags = [str(file) if own == DRAFT_FILE else own for own in as_texts(told["flags"])]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(COMMAND), "--model", str(file), "--port", str(port), "--threads", "1"]
        with (file.with_suffix(".log")).open("w", encoding="utf-8") as log:
            process = subprocess.Popen([*command, *flags], stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process)
            yield lambda prompt: post(
                f"http://127.0.0.1:{port}/completion",
                {"prompt": prompt, "return_tokens": True, **as_fields(told["request"])},
            )
        finally:
            process.terminate()
            process.wait()

    return started


@pytest.mark.parametrize("name", GREEDY)
def test_the_server_says_what_the_decoding_says(serve: Serve, name: str) -> None:
    model = load_checkpoint(REFERENCE, CPU, "float32")
    decoder = Decoder(model, load_tokenizer(REFERENCE), model)

    answers = decoder.answer(PROMPTS, GREEDY[name], list(range(len(PROMPTS))))
    with serve(GREEDY[name]) as ask:
        found = [ask(prompt) for prompt in PROMPTS]

    pairs = zip(PROMPTS, answers, found, strict=True)
    assert max(margin(model, *own[:2], own[2]["content"], own[2]["tokens"]) for own in pairs) < TIE


@pytest.mark.parametrize("name", ["lookup", "short lookup", "model", "unsure", "both"])
def test_drafts_are_held(serve: Serve, name: str) -> None:
    with serve(GREEDY[name]) as ask:
        timings = ask("import os\nimport sys\n" * 3)["timings"]

    assert 0 < timings["draft_n_accepted"] <= timings["draft_n"]


def test_a_server_that_samples_keeps_every_value(serve: Serve) -> None:
    with serve(SAMPLED) as ask:
        found = ask(PROMPTS[0])

    assert len(found) == 2
    kept = found[0]["generation_settings"]
    assert kept["samplers"] == SAMPLERS.split(";")
    assert (kept["n_predict"], kept["repeat_last_n"]) == (12, POSITIONS)
    assert kept["repeat_penalty"] == pytest.approx(1.05)
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
        assert kept[name] == pytest.approx(SAMPLED[name])


def test_untuned_sampling_cuts_nothing(serve: Serve) -> None:
    with serve({"do_sample": True, "max_new_tokens": 4}) as ask:
        kept = ask(PROMPTS[0])["generation_settings"]

    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p"):
        assert kept[name] == UNTUNED[name]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_cache_of_few_bits_is_taken(serve: Serve, bits: int) -> None:
    with serve({"cache_bits": bits, "max_new_tokens": 8}) as ask:
        assert ask(PROMPTS[0])["tokens_predicted"] == 8


def as_texts(flags: object) -> list[str]:
    assert isinstance(flags, list)
    return [str(own) for own in flags]


def as_fields(request: object) -> dict[str, object]:
    assert isinstance(request, dict)
    return request


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server is ready, or has ended."""
    while process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(address, timeout=60).close()
            return
        time.sleep(0.1)
    raise AssertionError(f"llama-server ended with {process.returncode}")


def post(address: str, fields: Mapping[str, object]) -> Any:
    request = urllib.request.Request(
        address,
        json.dumps(fields).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())
