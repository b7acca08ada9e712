"""A decoding in the words of engines: vLLM, llama.cpp, and a script for transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from autocompress.models.endings import SPANS, TIMES
from autocompress.models.generation_settings import (
    Settings,
    end_of_text_of,
    to_generation_config,
)
from autocompress.models.loading import load_config
from autocompress.spaces.decoding import UNTUNED, Decoding, Value

VLLM_VERSION: Final = "vLLM 0.32.0"
LLAMA_CPP_VERSION: Final = "llama.cpp of llama-cpp-python 0.3.36"
"""Whose words these are: engines rename their flags."""

SAMPLED: Final[Mapping[str, str]] = {
    "temperature": "--temp",
    "top_k": "--top-k",
    "top_p": "--top-p",
    "min_p": "--min-p",
    "typical_p": "--typical",
}
"""Of llama.cpp, for a decoding that samples; each has a default there that does something."""
SAMPLERS: Final = "penalties;temperature;top_k;top_p;min_p;typ_p"
"""In transformers' order; by itself llama.cpp cuts first, and the temperature comes last."""
CACHE_TYPES: Final = {8: "q8_0", 4: "q4_0"}
DRAFT_FILE: Final = "draft.gguf"
LEADING_LINES: Final = (
    "There an answer ends at its first newline; here blank lines may stand before its first line."
)


def decoding_outputs(
    decoding: Decoding,
    folder: Path,
    draft: Path | None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> dict[str, str]:
    """Return what engines are told, as texts of files by name.

    Args:
        decoding: The values that act.
        folder: Of the model, as the script loads it; `draft` is its draft's.
        dtype: That the models were loaded in.
    """
    config = to_generation_config(decoding, end_of_text_of(folder, trust_remote_code))
    positions = int(load_config(folder, trust_remote_code).max_position_embeddings)
    named = None if draft is None else str(draft)
    return {
        "generation_config.json": config.to_json_string(use_diff=True),
        "vllm.json": _json(vllm(decoding, named)),
        "llama-cpp.json": _json(llama_cpp(decoding, named, positions)),
        "decode.py": script(decoding, str(folder), named, dtype, trust_remote_code),
    }


def vllm(decoding: Decoding, draft: str | None) -> dict[str, object]:
    """Return vLLM's sampling parameters, flags of `vllm serve`, and what has no counterpart."""
    own, notes = Settings(decoding), list[str]()
    speculative = _vllm_draft(own, draft)
    said = {"max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty"}
    said |= {"stop", "best_of", "batch"}
    sampling: dict[str, object] = {
        "max_tokens": own.whole("max_new_tokens"),
        "temperature": own.number("temperature") if own.is_on("do_sample") else 0.0,
        "repetition_penalty": own.number("repetition_penalty"),
    }
    if own.is_on("do_sample"):
        sampling |= {"top_k": own.whole("top_k"), "top_p": own.number("top_p")}
        if not speculative:
            said.add("min_p")
            sampling["min_p"] = own.number("min_p")
            if own.number("min_p") and own.number("top_p") < 1:
                notes.append("vLLM cuts by min_p before top_p, transformers after it.")
        elif own.number("min_p"):
            notes.append("vLLM refuses requests with min_p beside a draft.")
    if own.text("stop") == "line":
        sampling["stop"] = ["\n"]
        notes.append(LEADING_LINES)
    if own.text("stop") == "repeat":
        sampling["repetition_detection"] = {
            "min_pattern_size": SPANS[0],
            "max_pattern_size": SPANS[-1],
            "min_count": TIMES,
        }
        notes.append("In Python repetition_detection is a `RepetitionDetectionParams` of these.")
    if own.whole("best_of") > 1:
        sampling["n"] = own.whole("best_of")
    if own.whole("num_beams") > 1:
        notes.append("vLLM searches n beams where a request says `use_beam_search`.")
    if own.whole("cache_bits") < 16:
        nearest = f"int{own.whole('cache_bits')}_per_token_head"
        notes.append(f"`--kv-cache-dtype {nearest}` comes nearest, on GPUs alone.")
    flags = ["--max-num-seqs", str(own.whole("batch") * own.whole("best_of"))]
    if speculative:
        said |= {"draft", "draft_tokens"}
        if own.text("draft") == "lookup":
            said.add("draft_ngram")
        flags += ["--speculative-config", json.dumps(speculative)]
    return {
        "version": VLLM_VERSION,
        "sampling_parameters": sampling,
        "flags": flags,
        "no_counterpart": _left(decoding, said),
        "notes": notes,
        "measured": "not with vLLM",
    }


def llama_cpp(decoding: Decoding, draft: str | None, positions: int) -> dict[str, object]:
    """Return flags of `llama-server`, fields of requests, and what has no counterpart.

    Args:
        positions: Of the model: no text has more tokens.
    """
    own, notes = Settings(decoding), list[str]()
    said = {*SAMPLED, "max_new_tokens", "do_sample", "repetition_penalty"}
    said |= {"best_of", "batch", "cache_bits"}
    flags = ["--predict", str(own.whole("max_new_tokens"))]
    request: dict[str, object] = {}
    if own.is_on("do_sample"):
        values = {**UNTUNED, **decoding}
        flags += ["--samplers", SAMPLERS]
        flags += [text for name, flag in SAMPLED.items() for text in (flag, str(values[name]))]
    else:
        flags += ["--temp", "0"]
    if own.number("repetition_penalty") != 1:
        # Of the whole text, as transformers counts: by itself llama.cpp counts the last 64 tokens.
        flags += ["--repeat-penalty", str(own.number("repetition_penalty"))]
        flags += ["--repeat-last-n", str(positions)]
    if own.text("stop") == "line":
        said.add("stop")
        request["stop"] = ["\n"]
        notes.append(LEADING_LINES)
    if own.whole("best_of") > 1:
        request["n"] = own.whole("best_of")
    flags += ["--parallel", str(own.whole("batch") * own.whole("best_of"))]
    bits = own.whole("cache_bits")
    if bits in CACHE_TYPES:
        flags += ["--cache-type-k", CACHE_TYPES[bits], "--cache-type-v", CACHE_TYPES[bits]]
        notes.append("Such a cache needs heads of whole 32 columns.")
    kind = own.text("draft")
    types: list[str] = []
    if kind in ("lookup", "both"):
        said |= {"draft", "draft_tokens", "draft_copied"}
        n_tokens = own.whole("draft_tokens" if kind == "lookup" else "draft_copied")
        # It proposes nothing that is shorter than what it looks for.
        ngram = min(own.whole("draft_ngram"), n_tokens)
        if ngram == own.whole("draft_ngram"):
            said.add("draft_ngram")
        types.append("ngram-simple")
        flags += ["--spec-ngram-simple-size-n", str(ngram)]
        flags += ["--spec-ngram-simple-size-m", str(n_tokens)]
        notes.append(f"ngram-simple looks for the last {ngram} tokens, never for fewer.")
    if kind in ("model", "both"):
        said |= {"draft", "draft_tokens"}
        types.append("draft-simple")
        flags += ["--spec-draft-model", DRAFT_FILE]
        flags += ["--spec-draft-n-max", str(own.whole("draft_tokens"))]
        notes.append(f"{DRAFT_FILE} stands for {draft} as a GGUF file.")
        if own.text("draft_length") == "threshold":
            said |= {"draft_length", "draft_threshold"}
            flags += ["--spec-draft-p-min", str(own.number("draft_threshold"))]
    if types:
        # A draft model that no type asks for is loaded, and never used.
        flags += ["--spec-type", ",".join(types)]
    return {
        "version": LLAMA_CPP_VERSION,
        "flags": flags,
        "request": request,
        "no_counterpart": _left(decoding, said),
        "notes": notes,
        "measured": "not with llama.cpp",
    }


def _vllm_draft(own: Settings, draft: str | None) -> dict[str, object]:
    """Return vLLM's speculative config; of a draft that it does not know, nothing."""
    n_tokens = own.whole("draft_tokens")
    if own.text("draft") == "lookup":
        return {
            "method": "ngram",
            "num_speculative_tokens": n_tokens,
            "prompt_lookup_max": own.whole("draft_ngram"),
            "prompt_lookup_min": 1,
        }
    if own.text("draft") == "model":
        return {"method": "draft_model", "model": draft, "num_speculative_tokens": n_tokens}
    return {}


def script(
    decoding: Decoding,
    model: str,
    draft: str | None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> str:
    """Return a Python script that answers its arguments so, its models loaded as told."""
    uses_draft = decoding.get("draft") in ("model", "both")
    plain = {name: value for name, value in decoding.items() if value != UNTUNED[name]}
    load_draft = (
        f"load_checkpoint(Path({draft!r}), device, DTYPE, TRUST_REMOTE_CODE)"
        if uses_draft
        else "None"
    )
    return f'''"""Answers prompts as `autocompress decode` found best: python decode.py PROMPT"""

import sys
from pathlib import Path

import torch

from autocompress.evaluators.decoder import Decoder
from autocompress.evaluators.torch_engine import load_checkpoint
from autocompress.models.loading import load_tokenizer

DECODING = {plain!r}
DTYPE = {dtype!r}
TRUST_REMOTE_CODE = {trust_remote_code!r}

folder = Path({model!r})
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
model = load_checkpoint(folder, device, DTYPE, TRUST_REMOTE_CODE)
draft = {load_draft}
decoder = Decoder(model, load_tokenizer(folder, TRUST_REMOTE_CODE), draft)
prompts = sys.argv[1:]
for answer in decoder.answer(prompts, DECODING, list(range(len(prompts)))):
    print(answer.text)
    print(f"{{answer.said / answer.seconds:.1f}} tokens a second", file=sys.stderr)
'''


def _left(decoding: Decoding, said: set[str]) -> dict[str, Value]:
    """Return what acts, was tuned, and could not be said.

    An engine that is asked for several candidates returns all: none picks one by itself.
    """
    left = {
        name: value
        for name, value in decoding.items()
        if name not in said and value != UNTUNED[name]
    }
    own = Settings(decoding)
    return left | ({"selector": own.text("selector")} if own.whole("best_of") > 1 else {})


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
