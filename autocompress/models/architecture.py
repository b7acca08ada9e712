"""The architecture families that can be compressed, and the shape of their layers."""

from collections.abc import Mapping
from dataclasses import dataclass

from transformers import PreTrainedConfig

from autocompress.errors import ModelError

HETEROGENEOUS_CLASS: Mapping[str, str] = {
    "llama": "AutocompressLlamaForCausalLM",
    "mistral": "AutocompressMistralForCausalLM",
    "qwen2": "AutocompressQwen2ForCausalLM",
    "qwen3": "AutocompressQwen3ForCausalLM",
}
"""Family, by `model_type`, to the class of `modeling_autocompress.py` whose layers may differ."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The shape of a Llama-family model; all layers alike."""

    family: str
    n_layers: int
    hidden: int
    query_heads: int
    kv_groups: int
    head_size: int
    ffn_columns: int
    vocabulary: int

    @property
    def queries_per_group(self) -> int:
        """Query heads that share one KV head."""
        return self.query_heads // self.kv_groups


def read_architecture(config: PreTrainedConfig) -> Architecture:
    """Return the shape of a model from its config.

    Raises:
        ModelError: If the family is unknown or the layers are not alike.
    """
    family = getattr(config, "model_type", None)
    if not isinstance(family, str) or family not in HETEROGENEOUS_CLASS:
        known = ", ".join(sorted(HETEROGENEOUS_CLASS))
        raise ModelError(f"Unknown architecture {family!r}. Known: {known}.")
    if config.is_heterogeneous:
        raise ModelError("The model is already heterogeneous: give the dense one.")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if len(kinds) > 1:
        raise ModelError(
            f"All layers must have one kind of attention, but got {', '.join(sorted(kinds))}."
        )
    heads = config.num_attention_heads
    return Architecture(
        family=family,
        n_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        query_heads=heads,
        kv_groups=getattr(config, "num_key_value_heads", None) or heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        ffn_columns=config.intermediate_size,
        vocabulary=config.vocab_size,
    )
