"""Tells a model whose layers lack sub-blocks as a DeciLM (Nemotron-NAS).

vLLM and SGLang have the architecture built in: layers of Llama's kind, each with the sub-blocks
that its entry of `block_configs` leaves it. transformers builds it from the modeling files that
lie beside the weights.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from transformers import PreTrainedConfig

from autocompress.errors import ExportError
from autocompress.models.modeling_autocompress import (
    AutocompressDeciLMConfig,
    AutocompressDeciLMForCausalLM,
)
from autocompress.spaces.base import Choice, SiteKind

ARCHITECTURE: Final = "DeciLMForCausalLM"
"""What engines know it by."""
FAMILIES: Final = ("llama", "mistral")
"""Whose layers are of Llama's kind."""
_OWN: Final = ("model_type", "architectures", "transformers_version", "layer_types")
"""Of the dense config, what a DeciLM says otherwise or not at all."""


def check_family(config: PreTrainedConfig) -> None:
    """Make sure that a model's layers are of Llama's kind.

    Raises:
        ExportError: If they are not.
    """
    if config.model_type not in FAMILIES:
        raise ExportError(
            f"DeciLM has layers of {' or '.join(FAMILIES)} alone, but the model is a "
            f"{config.model_type}: take --format compressed-tensors, or hf."
        )
    if getattr(config, "sliding_window", None):
        raise ExportError(
            f"DeciLM's attention sees all tokens, but the model's {config.sliding_window}: take "
            "--format hf."
        )


def check_first(layers: Sequence[Mapping[SiteKind, Choice]]) -> None:
    """Make sure that engines can run what is left.

    vLLM's layers expect an attention before the first MLP: that of 0.32 fails without.

    Raises:
        ExportError: If the first layer has none.
    """
    if layers[0][SiteKind.ATTENTION].is_dropped:
        raise ExportError(
            "The first layer that is left of a DeciLM must have its attention: vLLM does not run "
            "it without."
        )


def decilm_config(
    config: PreTrainedConfig, layers: Sequence[Mapping[SiteKind, Choice]]
) -> AutocompressDeciLMConfig:
    """Return the config of a DeciLM.

    Args:
        config: Of the model with the layers that are left, as its family tells it.
        layers: What is left of each.
    """
    attention = {
        "n_heads_in_group": config.num_attention_heads // config.num_key_value_heads,
        "replace_with_linear": False,
    }
    mlp = {
        "intermediate_size": config.intermediate_size,
        "hidden_act": config.hidden_act,
        "replace_with_linear": False,
    }
    said = {name: value for name, value in config.to_dict().items() if name not in _OWN}
    said["block_configs"] = [
        {
            "attention": {"no_op": layer[SiteKind.ATTENTION].is_dropped, **attention},
            "ffn": {"no_op": layer[SiteKind.MLP].is_dropped, **mlp},
        }
        for layer in layers
    ]
    own = AutocompressDeciLMConfig.from_dict(said)
    own.architectures = [ARCHITECTURE]
    own.auto_map = {
        auto: f"modeling_autocompress.{name.__name__}"
        for auto, name in (
            ("AutoConfig", AutocompressDeciLMConfig),
            ("AutoModelForCausalLM", AutocompressDeciLMForCausalLM),
        )
    }
    return own
