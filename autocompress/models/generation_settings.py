"""A decoding in the words of transformers: its `GenerationConfig` and its logits processors."""

from collections.abc import Sequence
from pathlib import Path

from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from autocompress.models.entropy_temperature import EntropyTemperature
from autocompress.models.loading import load_config
from autocompress.spaces.decoding import UNTUNED, Decoding, Value

SCHEDULES = {"fixed": "constant", "threshold": "constant", "adaptive": "heuristic_transient"}
"""How transformers calls a draft's rules of length."""


class Settings:
    """The values of a decoding, each of its kind; what it does not name is untuned."""

    def __init__(self, decoding: Decoding) -> None:
        self._values: dict[str, Value] = {**UNTUNED, **decoding}

    def whole(self, name: str) -> int:
        """Return a number without fractions."""
        return int(self._values[name])

    def number(self, name: str) -> float:
        """Return a number."""
        return float(self._values[name])

    def text(self, name: str) -> str:
        """Return a word."""
        return str(self._values[name])

    def is_on(self, name: str) -> bool:
        """Whether something is switched on."""
        return bool(self._values[name])


def end_of_text_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that end a text: those of the model's own generation config first."""
    own = getattr(model.generation_config, "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    found = [*named, tokenizer.eos_token_id]
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))


def end_of_text_of(folder: Path, trust_remote_code: bool = False) -> tuple[int, ...]:
    """Return the tokens that end a text of the model in a folder, without its weights."""
    try:
        own = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        own = load_config(folder, trust_remote_code).eos_token_id
    named = own if isinstance(own, list) else [own]
    return tuple(dict.fromkeys(int(token) for token in named if token is not None))


def to_generation_config(decoding: Decoding, end_of_text: Sequence[int]) -> GenerationConfig:
    """Return what transformers' `generate` is told, as `generation_config.json` holds it.

    Transformers has no words for `stop`, `entropy_temperature`, `selector`, `cache_bits` (its own
    quantized cache is another one) and `batch`, nor for a draft that is a model or skips layers:
    such a draft's lengths are said, not that text is looked up first; the draft is an argument of
    `generate`.
    """
    own = Settings(decoding)
    said: dict[str, object] = {
        "max_new_tokens": own.whole("max_new_tokens"),
        "do_sample": own.is_on("do_sample"),
        "num_beams": own.whole("num_beams"),
        "num_return_sequences": own.whole("best_of"),
        "repetition_penalty": own.number("repetition_penalty"),
        "use_cache": True,
        "eos_token_id": list(end_of_text) or None,
        "pad_token_id": end_of_text[0] if end_of_text else 0,
    }
    if own.is_on("do_sample"):
        said |= {
            "temperature": own.number("temperature"),
            "top_k": own.whole("top_k"),
            "top_p": own.number("top_p"),
            "typical_p": own.number("typical_p"),
        }
        # Transformers filters by any that is said: 0 too, which takes time and nothing away.
        if own.number("min_p"):
            said["min_p"] = own.number("min_p")
    if own.whole("num_beams") > 1:
        said["length_penalty"] = own.number("length_penalty")
    if own.text("cache") == "static":
        said["cache_implementation"] = "static"
        # A static cache has transformers compile on an accelerator, unless it is told not to.
        said["disable_compile"] = not own.is_on("compiled")
    return GenerationConfig(**said, **_draft(own))


def _draft(own: Settings) -> dict[str, object]:
    """Return what is said of a draft."""
    draft, tokens = own.text("draft"), own.whole("draft_tokens")
    if draft == "none":
        return {}
    if draft == "lookup":
        ngram = own.whole("draft_ngram")
        return {"prompt_lookup_num_tokens": tokens, "max_matching_ngram_size": ngram}
    length = own.text("draft_length")
    said: dict[str, object] = {
        "num_assistant_tokens": tokens,
        "num_assistant_tokens_schedule": SCHEDULES[length],
        "assistant_confidence_threshold": (
            own.number("draft_threshold") if length == "threshold" else 0.0
        ),
    }
    if draft == "exit":
        said["assistant_early_exit"] = own.whole("draft_layers")
    return said


def logits_processors(decoding: Decoding) -> LogitsProcessorList:
    """Return what `generate` does to logits, (B, V), for a decoding, and in its order."""
    own = Settings(decoding)
    found: list[LogitsProcessor] = []
    if own.number("repetition_penalty") != 1:
        found.append(RepetitionPenaltyLogitsProcessor(own.number("repetition_penalty")))
    found += custom_processors(decoding)
    if not own.is_on("do_sample"):
        return LogitsProcessorList(found)
    if own.number("temperature") != 1:
        found.append(TemperatureLogitsWarper(own.number("temperature")))
    if own.whole("top_k"):
        found.append(TopKLogitsWarper(own.whole("top_k")))
    if own.number("top_p") < 1:
        found.append(TopPLogitsWarper(own.number("top_p")))
    if own.number("min_p"):
        found.append(MinPLogitsWarper(own.number("min_p")))
    if own.number("typical_p") < 1:
        found.append(TypicalLogitsWarper(own.number("typical_p")))
    return LogitsProcessorList(found)


def custom_processors(decoding: Decoding) -> LogitsProcessorList:
    """Return the processors that `generate` has to be given: it puts them before temperature."""
    own = Settings(decoding)
    strength = own.number("entropy_temperature") if own.is_on("do_sample") else 0.0
    return LogitsProcessorList([EntropyTemperature(strength)] if strength else [])
