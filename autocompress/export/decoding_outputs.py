"""A decoding in the words of engines: vLLM, llama.cpp, and a script for transformers."""

import json
from collections.abc import Mapping
from typing import Final

from autocompress.models.generation_settings import to_generation_config
from autocompress.spaces.decoding import UNTUNED, Decoding, Value

VLLM: Final[Mapping[str, str]] = {
    "max_new_tokens": "max_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
}
LLAMA_CPP: Final[Mapping[str, str]] = {
    "max_new_tokens": "--predict",
    "temperature": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical",
    "repetition_penalty": "--repeat-penalty",
    "batch": "--parallel",
}
CACHE_TYPES: Final = {8: "q8_0", 4: "q4_0"}


def decoding_outputs(
    decoding: Decoding, end_of_text: tuple[int, ...], model: str, draft: str | None
) -> dict[str, str]:
    """Return what engines are told, as texts of files by name.

    Args:
        decoding: The values that act.
        model: As the script loads it; `draft` too.
    """
    config = to_generation_config(decoding, end_of_text)
    return {
        "generation_config.json": config.to_json_string(use_diff=True),
        "vllm.json": _json(vllm(decoding, draft)),
        "llama-cpp.json": _json(llama_cpp(decoding, draft)),
        "decode.py": script(decoding, model, draft),
    }


def vllm(decoding: Decoding, draft: str | None) -> dict[str, object]:
    """Return vLLM's sampling parameters, flags of `vllm serve`, and what has no counterpart."""
    acting = {name: value for name, value in decoding.items() if name in VLLM}
    sampling: dict[str, object] = {VLLM[name]: value for name, value in acting.items()}
    if not decoding.get("do_sample"):
        sampling["temperature"] = 0.0
    elif sampling.get("top_k") == 0:
        sampling["top_k"] = -1
    said = {*VLLM, "do_sample", "draft", "batch"}
    flags: list[str] = []
    if decoding.get("stop") == "line":
        sampling["stop"] = ["\n"]
        said.add("stop")
    if int(decoding.get("best_of", 1)) > 1:
        sampling["n"] = decoding["best_of"]
    if "batch" in decoding:
        flags += ["--max-num-seqs", str(decoding["batch"])]
    kind = decoding.get("draft", "none")
    if kind == "lookup":
        said |= {"draft_tokens", "draft_ngram"}
        flags += [
            "--speculative-config",
            json.dumps(
                {
                    "method": "ngram",
                    "num_speculative_tokens": decoding["draft_tokens"],
                    "prompt_lookup_max": decoding["draft_ngram"],
                    "prompt_lookup_min": 1,
                }
            ),
        ]
    elif kind == "model":
        said.add("draft_tokens")
        flags += [
            "--speculative-config",
            json.dumps(
                {
                    "method": "draft_model",
                    "model": draft,
                    "num_speculative_tokens": decoding["draft_tokens"],
                }
            ),
        ]
    elif kind != "none":
        said.discard("draft")
    return {
        "sampling_parameters": sampling,
        "flags": flags,
        "no_counterpart": _left(decoding, said),
        "measured": "not with vLLM",
    }


def llama_cpp(decoding: Decoding, draft: str | None) -> dict[str, object]:
    """Return flags of `llama-server`, and what has no counterpart."""
    flags: list[str] = []
    for name, flag in LLAMA_CPP.items():
        if name in decoding:
            flags += [flag, str(decoding[name])]
    if not decoding.get("do_sample"):
        flags += ["--temp", "0"]
    said = {*LLAMA_CPP, "do_sample", "draft"}
    if "repetition_penalty" in decoding and decoding["repetition_penalty"] != 1.0:
        # Of the whole text, as transformers counts.
        flags += ["--repeat-last-n", "-1"]
    bits = int(decoding.get("cache_bits", 16))
    if bits in CACHE_TYPES:
        said.add("cache_bits")
        flags += ["--cache-type-k", CACHE_TYPES[bits], "--cache-type-v", CACHE_TYPES[bits]]
    kind = decoding.get("draft", "none")
    if kind in ("lookup", "model", "both"):
        said.add("draft_tokens")
        flags += ["--draft-max", str(decoding["draft_tokens"])]
    if kind in ("lookup", "both"):
        flags += ["--spec-type", "ngram-simple"]
    if kind in ("model", "both"):
        flags += ["--model-draft", f"{draft} as a GGUF file"]
        if decoding.get("draft_length") == "threshold":
            said |= {"draft_length", "draft_threshold"}
            flags += ["--draft-p-min", str(decoding["draft_threshold"])]
    elif kind not in ("none", "lookup"):
        said.discard("draft")
    return {
        "flags": flags,
        "no_counterpart": _left(decoding, said),
        "measured": "not with llama.cpp",
    }


def script(decoding: Decoding, model: str, draft: str | None) -> str:
    """Return a Python script that answers its arguments so."""
    uses_draft = decoding.get("draft") in ("model", "both")
    plain = {name: value for name, value in decoding.items() if value != UNTUNED[name]}
    load_draft = f"load_checkpoint(Path({draft!r}), device, 'auto')" if uses_draft else "None"
    return f'''"""Answers prompts as `autocompress decode` found best: python decode.py PROMPT"""

import sys
from pathlib import Path

import torch

from autocompress.evaluators.decoder import Decoder
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.models.loading import load_tokenizer

DECODING = {plain!r}

folder = Path({model!r})
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = load_checkpoint(folder, device, "auto")
draft = {load_draft}
decoder = Decoder(model, load_tokenizer(folder), draft)
prompts = sys.argv[1:]
for answer in decoder.answer(prompts, DECODING, list(range(len(prompts)))):
    print(answer.text)
    print(f"{{answer.said / answer.seconds:.1f}} tokens a second", file=sys.stderr)
'''


def _left(decoding: Decoding, said: set[str]) -> dict[str, Value]:
    """Return what acts, was tuned, and could not be said."""
    return {
        name: value
        for name, value in decoding.items()
        if name not in said and value != UNTUNED[name]
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
