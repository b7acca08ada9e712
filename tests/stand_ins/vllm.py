"""Plays vLLM where it is not installed: what the driver calls of it, answered by transformers.

Its arguments are those of vLLM's own classes. It takes no time beyond what transformers takes, so
what is measured of it says nothing of vLLM; tests that want vLLM itself are marked slow.
"""

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

__version__ = "0.0.0+stand.in"
platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type="cpu"))
# A module without a folder has no other modules.
sys.modules["vllm.platforms"] = platforms  # type: ignore[assignment]


class SamplingParams:
    """How a request is answered: greedily."""

    def __init__(
        self,
        *,
        temperature: float,
        max_tokens: int,
        ignore_eos: bool,
        detokenize: bool,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
    ) -> None:
        assert temperature == 0.0
        assert ignore_eos
        assert not detokenize
        self.max_tokens = max_tokens
        self.wants = {"logprobs": logprobs is not None, "prompt": prompt_logprobs is not None}


class LLM:
    """A checkpoint that transformers has opened."""

    def __init__(
        self,
        *,
        model: str,
        dtype: str,
        trust_remote_code: bool,
        max_model_len: int,
        enable_prefix_caching: bool,
        skip_tokenizer_init: bool,
        gpu_memory_utilization: float = 0.9,
        kv_cache_memory_bytes: int | None = None,
    ) -> None:
        assert not enable_prefix_caching
        assert skip_tokenizer_init
        assert 0 < gpu_memory_utilization <= 1
        assert kv_cache_memory_bytes is None or kv_cache_memory_bytes > 0
        self._longest = max_model_len
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, trust_remote_code=trust_remote_code
        )
        core = SimpleNamespace(shutdown=lambda: None)
        self.llm_engine = SimpleNamespace(engine_core=core)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        sampling_params: SamplingParams,
        *,
        use_tqdm: bool,
    ) -> list[SimpleNamespace]:
        """Answer each prompt by itself."""
        assert not use_tqdm
        return [self._answer(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _answer(self, prompt: list[int], how: SamplingParams) -> SimpleNamespace:
        assert len(prompt) + how.max_tokens <= self._longest
        ids = torch.tensor([prompt])
        whole = self._model.generate(
            ids, max_new_tokens=how.max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        log_probabilities = self._model(whole).logits.float().log_softmax(-1)[0]
        answer = whole[0, len(prompt) :].tolist()
        steps = _told(log_probabilities[len(prompt) - 1 : -1], answer)
        read = _told(log_probabilities[: len(prompt) - 1], prompt[1:])
        output = SimpleNamespace(
            token_ids=answer, logprobs=steps if how.wants["logprobs"] else None
        )
        return SimpleNamespace(
            outputs=[output],
            prompt_token_ids=prompt,
            prompt_logprobs=[None, *read] if how.wants["prompt"] else None,
        )


def _told(rows: Tensor, tokens: Sequence[int]) -> list[dict[int, SimpleNamespace]]:
    """Return the log-probabilities of tokens as vLLM tells them."""
    return [
        {token: SimpleNamespace(logprob=float(row[token]))}
        for row, token in zip(rows, tokens, strict=True)
    ]
