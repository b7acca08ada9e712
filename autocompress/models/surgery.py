"""Gives a loaded model the choices of a candidate and takes them back; tensors really shrink.

Dense tensors are kept once and shared: a choice costs only the tensors that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autocompress.models.architecture import Architecture, read_architecture
from autocompress.models.modeling_autocompress import (
    Attention,
    Mlp,
    let_layers_skip,
    number_caches,
)
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind


@dataclass(frozen=True, slots=True)
class Level:
    """One built width of a site.

    Args:
        kept: (kept,) ids of the units that stay, ascending: KV groups or FFN columns.
        output: (hidden, columns kept) weight of the output projection, compensated.
    """

    kept: Tensor
    output: Tensor


class LevelSource(Protocol):
    """Where built widths come from."""

    def level(self, site: Site, choice: Choice) -> Level:
        """Return one built width of a site."""


class ShapedModel:
    """A causal LM whose sites can be set to any choice, again and again.

    Owns the model: its layers are turned into ones whose sub-blocks may be absent.
    """

    def __init__(self, model: PreTrainedModel, space: SearchSpace, levels: LevelSource) -> None:
        self.model = model
        self.space = space
        self.architecture: Architecture = read_architecture(model.config)
        self._levels = levels
        self._layers = let_layers_skip(model.model.layers)
        self._parts = [_Parts(cast("_DenseLayer", layer)) for layer in self._layers]
        self._now = tuple(Choice(site.units, site.units) for site in space.sites)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What the sites are set to now."""
        return self._now

    def apply(self, choices: Sequence[Choice]) -> None:
        """Set every site; only the sites that change are touched."""
        for site, old, new in zip(self.space.sites, self._now, choices, strict=True):
            if old != new:
                self._set(site, new)
        self._now = tuple(choices)
        number_caches(self._layers)

    def apply_dense(self) -> None:
        """Set every site back to the dense model's own tensors."""
        self.apply([Choice(site.units, site.units) for site in self.space.sites])

    def _set(self, site: Site, choice: Choice) -> None:
        layer, parts = self._layers[site.layer], self._parts[site.layer]
        if site.kind is SiteKind.ATTENTION:
            layer.self_attn = None if choice.is_dropped else parts.attention
            layer.input_layernorm = None if choice.is_dropped else parts.attention_norm
            inputs, output = parts.attention_inputs, parts.attention_output
        else:
            layer.mlp = None if choice.is_dropped else parts.mlp
            layer.post_attention_layernorm = None if choice.is_dropped else parts.mlp_norm
            inputs, output = parts.mlp_inputs, parts.mlp_output
        if choice.is_dropped:
            return
        if choice.is_dense:
            for part in (*inputs, output):
                part.restore()
            return
        level = self._levels.level(site, choice)
        for part in inputs:
            part.keep_rows(level.kept, part.rows // choice.total)
        output.set_weight(level.output)


class _LinearPart:
    """A linear layer with its dense tensors."""

    def __init__(self, linear: nn.Linear) -> None:
        self._linear = linear
        self._weight = linear.weight
        self._bias: nn.Parameter | None = linear.bias

    @property
    def rows(self) -> int:
        """Output features of the dense layer."""
        return self._weight.shape[0]

    def restore(self) -> None:
        """Put the dense tensors back."""
        self._put(self._weight, self._bias)

    def keep_rows(self, units: Tensor, size: int) -> None:
        """Keep the output rows of some units of `size` rows each."""
        offsets = torch.arange(size, device=units.device)
        rows = (units[:, None] * size + offsets).flatten().to(self._weight.device)
        bias = None if self._bias is None else self._bias[rows]
        self._put(self._weight[rows], bias)

    def set_weight(self, weight: Tensor) -> None:
        """Replace the weight by a compensated one; the bias stays."""
        self._put(weight.to(self._weight), self._bias)

    def _put(self, weight: Tensor, bias: Tensor | None) -> None:
        self._linear.weight = _parameter(weight)
        self._linear.register_parameter("bias", None if bias is None else _parameter(bias))
        self._linear.out_features, self._linear.in_features = weight.shape


def _parameter(tensor: Tensor) -> nn.Parameter:
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor, requires_grad=False)


class _DenseLayer(Protocol):
    """A decoder layer from which nothing is absent."""

    self_attn: Attention
    input_layernorm: nn.Module
    mlp: Mlp
    post_attention_layernorm: nn.Module


class _Parts:
    """The modules of one dense layer, held while they are absent from it."""

    def __init__(self, layer: _DenseLayer) -> None:
        self.attention = attention = layer.self_attn
        self.attention_norm = layer.input_layernorm
        self.mlp = mlp = layer.mlp
        self.mlp_norm = layer.post_attention_layernorm
        self.attention_inputs = [
            _LinearPart(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        self.attention_output = _LinearPart(attention.o_proj)
        self.mlp_inputs = [_LinearPart(part) for part in (mlp.gate_proj, mlp.up_proj)]
        self.mlp_output = _LinearPart(mlp.down_proj)
