"""Llama-family models whose layers differ: sub-blocks dropped or narrowed, weights packed.

This file needs those that it imports from here alone: copies of all lie beside the weights of an
exported checkpoint, and `AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`
builds the model from `per_layer_config` in its `config.json` (transformers defines the field, its
models ignore it).
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

# Relative, so that the copy beside an exported checkpoint finds the copy there.
from .packed_linear import PackedLinear  # noqa: TID252
from .packed_weights import STORED, empty  # noqa: TID252


class Attention(Protocol):
    """The attention of these families."""

    config: PreTrainedConfig
    layer_idx: int
    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear
    o_proj: nn.Linear

    def __init__(self, config: PreTrainedConfig, layer_idx: int) -> None: ...


class Mlp(Protocol):
    """The MLP of these families."""

    gate_proj: nn.Linear
    up_proj: nn.Linear
    down_proj: nn.Linear

    def __init__(self, config: PreTrainedConfig) -> None: ...


class SkippingLayer(Protocol):
    """A decoder layer that runs the sub-blocks it has; an absent one's norm is absent too."""

    self_attn: Attention | None
    input_layernorm: nn.Module | None
    mlp: Mlp | None
    post_attention_layernorm: nn.Module | None

    def add_attention(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        """Return the residual stream, (B, T, hidden), after the attention."""

    def add_mlp(self, hidden_states: Tensor) -> Tensor:
        """Return the residual stream, (B, T, hidden), after the MLP."""


def _skipping(base: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of a decoder layer that runs only the sub-blocks it still has."""

    class Layer(base):  # type: ignore[misc, valid-type]
        def forward(
            self,
            hidden_states: Tensor,  # (B, T, hidden)
            attention_mask: Tensor | None = None,
            position_ids: Tensor | None = None,
            past_key_values: object | None = None,
            use_cache: bool | None = False,
            position_embeddings: tuple[Tensor, Tensor] | None = None,
            **kwargs: object,
        ) -> Tensor:
            hidden_states = self.add_attention(
                hidden_states,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                position_embeddings=position_embeddings,
                **kwargs,
            )
            return self.add_mlp(hidden_states)

        def add_attention(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
            if self.self_attn is None:
                return hidden_states
            normed = self.input_layernorm(hidden_states)
            attended, _ = self.self_attn(hidden_states=normed, **kwargs)
            added: Tensor = hidden_states + attended
            return added

        def add_mlp(self, hidden_states: Tensor) -> Tensor:
            if self.mlp is None:
                return hidden_states
            added: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
            return added

    Layer.__name__ = Layer.__qualname__ = f"Skipping{base.__name__}"
    return Layer


SKIPPING_LAYERS: Mapping[type[nn.Module], type[nn.Module]] = {
    base: _skipping(base)
    for base in (LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer, Qwen3DecoderLayer)
}


def let_layers_skip(layers: nn.ModuleList) -> list[SkippingLayer]:
    """Turn stock decoder layers, in place, into ones whose sub-blocks may be None; return them."""
    for layer in layers:
        layer.__class__ = SKIPPING_LAYERS[type(layer)]
    return cast("list[SkippingLayer]", list(layers))


def number_caches(layers: Sequence[SkippingLayer]) -> None:
    """Give the attentions that are left numbers from 0, as a KV cache counts its layers.

    The cache reports the length of its first layer: it must be one that is really filled.
    """
    left = [layer.self_attn for layer in layers if layer.self_attn is not None]
    for index, attention in enumerate(left):
        attention.layer_idx = index


def shape_layers(layers: nn.ModuleList, config: PreTrainedConfig) -> None:
    """Give each layer what `config.per_layer_config` names: sub-blocks, widths, packed weights."""
    skipping = let_layers_skip(layers)
    for index, layer in enumerate(skipping):
        attention, mlp = layer.self_attn, layer.mlp
        own = config.per_layer_config[index]
        skip = getattr(own, "skip", [])
        if attention is None or "attention" in skip:
            layer.self_attn = layer.input_layernorm = None
        else:
            layer.self_attn = type(attention)(own, index)
            layer.self_attn.config = attention.config
        if mlp is None or "mlp" in skip:
            layer.mlp = layer.post_attention_layernorm = None
        else:
            layer.mlp = type(mlp)(own)
        pack_linears(cast(nn.Module, layer), own)
    number_caches(skipping)


def pack_linears(layer: nn.Module, config: PreTrainedConfig) -> None:
    """Replace the linear layers whose settings `config.weights` names by packed ones.

    `config.packed_tensors` tells the number formats and shapes of their tensors, still empty.
    """
    modules = dict(layer.named_modules())
    for name, setting in getattr(config, "weights", {}).items():
        plain = cast(nn.Linear, modules[name])
        described = {kind: config.packed_tensors.get(f"{name}.{kind}") for kind in STORED}
        tensors = {kind: empty(text) for kind, text in described.items() if text is not None}
        shape = plain.out_features, plain.in_features
        place, _, attribute = name.rpartition(".")
        packed = PackedLinear(shape, setting, tensors, plain.bias)
        setattr(modules[place], attribute, packed)


def _heterogeneous(base: type[nn.Module], name: str) -> type[nn.Module]:
    """Return the causal LM of a family, built layer by layer."""

    class Model(base):  # type: ignore[misc, valid-type]
        def __init__(self, config: PreTrainedConfig) -> None:
            homogeneous = copy.deepcopy(config)
            homogeneous.per_layer_config = None
            super().__init__(homogeneous)
            shape_layers(self.model.layers, config)
            self.config = config

    Model.__name__ = Model.__qualname__ = name
    return Model


class Block(dict[str, Any]):
    """What a layer's sub-block is, as engines read it: keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error


class AutocompressDeciLMConfig(LlamaConfig):
    """The config of a DeciLM (Nemotron-NAS): Llama's, and what each layer has of it.

    vLLM and SGLang have the architecture built in and read `block_configs`, layer by layer
    `attention` and `ffn`, each absent if its `no_op` is true.
    """

    model_type = "nemotron-nas"

    def __post_init__(self, **kwargs: Any) -> None:
        blocks = kwargs.pop("block_configs", None) or []
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        self.block_configs = [
            Block({kind: Block(own) for kind, own in block.items()}) for block in blocks
        ]


class AutocompressDeciLMForCausalLM(LlamaForCausalLM):
    """A DeciLM whose layers are Llama's, as far as they are there."""

    config_class = AutocompressDeciLMConfig

    def __init__(self, config: AutocompressDeciLMConfig) -> None:
        super().__init__(config)
        layers = let_layers_skip(self.model.layers)
        for layer, block in zip(layers, config.block_configs, strict=True):
            if block.attention.no_op:
                layer.self_attn = layer.input_layernorm = None
            if block.ffn.no_op:
                layer.mlp = layer.post_attention_layernorm = None
        number_caches(layers)


AutocompressLlamaForCausalLM = _heterogeneous(LlamaForCausalLM, "AutocompressLlamaForCausalLM")
AutocompressMistralForCausalLM = _heterogeneous(
    MistralForCausalLM, "AutocompressMistralForCausalLM"
)
AutocompressQwen2ForCausalLM = _heterogeneous(Qwen2ForCausalLM, "AutocompressQwen2ForCausalLM")
AutocompressQwen3ForCausalLM = _heterogeneous(Qwen3ForCausalLM, "AutocompressQwen3ForCausalLM")
