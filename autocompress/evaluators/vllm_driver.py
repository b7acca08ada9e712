"""Runs checkpoints in vLLM's own environment, one after another: times requests, or reads text.

A program by itself, for vLLM pins packages of its own: its interpreter runs this text, which knows
nothing of autocompress. A request comes as JSON on standard input; the answer, one of each
checkpoint, goes as JSON into the file that the only argument names, for vLLM's processes write
what they like elsewhere.

`vllm bench latency` would not do: it draws token ids up to 10,000 whatever the vocabulary, takes
most of the device's memory whoever else is there, and starts anew for each length.
"""

import gc
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

WARM_UPS = 3
TEXTS = 16
"""That are read at a time, so that it is heard that they are."""


def main() -> None:
    """Answer the request."""
    request = json.load(sys.stdin)
    wanted = {"latency": _time, "text": _read}[request["wanted"]]
    answers = []
    for number, (checkpoint, trusted) in enumerate(request["checkpoints"]):
        _say(f"advances {number}")
        model = _opened(checkpoint, trusted, request)
        answers.append(wanted(model, request))
        # What held the device's memory is a process of its own: the next needs it gone.
        model.llm_engine.engine_core.shutdown()
        del model
        gc.collect()
    Path(sys.argv[1]).write_text(json.dumps(answers), encoding="utf-8")


def _opened(checkpoint: str, trusted: bool, request: dict[str, Any]) -> Any:
    """Start vLLM on a checkpoint."""
    # The engine's own environment has it, and no other.
    from vllm import LLM  # type: ignore[import-not-found]

    return LLM(
        model=checkpoint,
        dtype=request["dtype"],
        trust_remote_code=trusted,
        max_model_len=request["most_tokens"],
        # A prompt that is asked again would not be read again.
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        **request["room"],
    )


def _time(model: Any, request: dict[str, Any]) -> dict[str, list[float]]:
    """Return milliseconds of batches that end with their first token, and of whole ones."""
    prompts, lengths = request["prompts"], sorted({1, request["generated"]})
    taken: dict[int, list[float]] = {length: [] for length in lengths}
    for repeat in range(WARM_UPS + request["repeats"]):
        for length in lengths:
            started = time.perf_counter()
            _generate(model, prompts, length)
            _say("is timed")
            if repeat >= WARM_UPS:
                taken[length].append((time.perf_counter() - started) * 1e3)
    return {"prefill": taken[1], "total": taken[request["generated"]]}


def _read(model: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the mean likelihood of sequences, and what follows a prompt.

    The answer's tokens are told with their log-probabilities twice: as they were generated, with a
    KV cache, and as they are read behind the prompt.
    """
    prompt = request["prompt"]
    (answered,) = _generate(model, [prompt], request["answer_tokens"], logprobs=0)
    own = answered.outputs[0]
    answer = [int(token) for token in own.token_ids]
    cached = [float(step[token].logprob) for step, token in zip(own.logprobs, answer, strict=True)]
    texts = [*request["sequences"], [*prompt, *answer]]
    # Of a text's first token there is no log-probability.
    told = []
    for first in range(0, len(texts), TEXTS):
        rows = _generate(model, texts[first : first + TEXTS], 1, prompt_logprobs=0)
        told += [row.prompt_logprobs[1:] for row in rows]
        _say("reads")
    read = [
        [float(step[token].logprob) for step, token in zip(steps, text[1:], strict=True)]
        for steps, text in zip(told, texts, strict=True)
    ]
    return {
        "nll": [-math.fsum(row) / len(row) for row in read[:-1]],
        "answer": answer,
        "cached": cached,
        "uncached": read[-1][-len(answer) :],
    }


def _say(words: str) -> None:
    """Tell the caller how far this is; one that hears nothing takes vLLM to hang."""
    sys.stdout.write(f"autocompress {words}\n")
    sys.stdout.flush()


def _generate(model: Any, prompts: list[list[int]], length: int, **wanted: int) -> list[Any]:
    from vllm import SamplingParams

    how = SamplingParams(
        temperature=0.0, max_tokens=length, ignore_eos=True, detokenize=False, **wanted
    )
    found: list[Any] = model.generate(
        [{"prompt_token_ids": ids} for ids in prompts], how, use_tqdm=False
    )
    return found


if __name__ == "__main__":
    main()
