"""Holds what vLLM is told of decodings against vLLM itself, by whose interpreter it is run.

Knows nothing of autocompress. A request comes as JSON on standard input: outputs that are read
without a model, and engines with what is asked of each. The answer goes as JSON into the file that
the only argument names.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams  # type: ignore[import-not-found]
from vllm.entrypoints.launchers.cli_args import make_arg_parser  # type: ignore[import-not-found]
from vllm.entrypoints.openai.completion.protocol import (  # type: ignore[import-not-found]
    CompletionRequest,
)
from vllm.exceptions import VLLMValidationError  # type: ignore[import-not-found]
from vllm.sampling_params import RepetitionDetectionParams  # type: ignore[import-not-found]
from vllm.utils.argparse_utils import FlexibleArgumentParser  # type: ignore[import-not-found]

REPEATS = "repetition_detection"


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    told = {
        "read": [_read(own) for own in request["outputs"]],
        "takes_min_p_beside_a_draft": _takes_min_p_beside_a_draft(),
        "answered": [_answered(request["model"], own) for own in request["engines"]],
    }
    Path(sys.argv[1]).write_text(json.dumps(told), encoding="utf-8")


def _sampling(given: dict[str, Any]) -> Any:
    repeats = {REPEATS: RepetitionDetectionParams(**given[REPEATS])} if REPEATS in given else {}
    return SamplingParams(**{**given, **repeats})


def _flags(given: list[str]) -> Any:
    """Return what `vllm serve` makes of its flags."""
    parser = make_arg_parser(FlexibleArgumentParser(exit_on_error=False))
    return parser.parse_args(["model", *given])


def _plain(sampling: Any, name: str) -> Any:
    value = getattr(sampling, name)
    if isinstance(value, RepetitionDetectionParams):
        return {field: getattr(value, field) for field in vars(value)}
    return value


def _read(output: dict[str, Any]) -> dict[str, Any]:
    """Return the values that vLLM holds of an output, in Python and in a request."""
    given = output["sampling_parameters"]
    sampling = _sampling(given)
    request = CompletionRequest(model="model", prompt="a", **given)
    asked = request.to_sampling_params(request.max_tokens, {})
    arguments = _flags(output["flags"])
    speculative = arguments.speculative_config
    sampling._validate_spec_decode(speculative)
    return {
        "sampling": {name: _plain(sampling, name) for name in given},
        "request": {name: _plain(asked, name) for name in given},
        "max_num_seqs": arguments.max_num_seqs,
        "speculative": speculative,
    }


def _takes_min_p_beside_a_draft() -> bool:
    try:
        SamplingParams(min_p=0.1)._validate_spec_decode({"method": "ngram"})
    except VLLMValidationError:
        return False
    return True


def _answered(model: str, asked: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """Start vLLM with flags; return a text of each prompt for each sampling."""
    arguments = _flags(asked["flags"])
    engine = LLM(
        model=model,
        # Of texts with almost equal continuations both sides are to take the same.
        dtype="float32",
        max_model_len=256,
        max_num_seqs=arguments.max_num_seqs,
        speculative_config=arguments.speculative_config,
        enable_prefix_caching=False,
        enforce_eager=True,
        kv_cache_memory_bytes=2**27,
    )
    found = [
        [
            {"text": told.outputs[0].text, "tokens": list(told.outputs[0].token_ids)}
            for told in engine.generate(asked["prompts"], _sampling(given), use_tqdm=False)
        ]
        for given in asked["sampling"]
    ]
    engine.llm_engine.engine_core.shutdown()
    del engine
    gc.collect()
    return found


if __name__ == "__main__":
    main()
