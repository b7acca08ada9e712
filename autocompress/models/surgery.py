"""Gives a loaded model the choices of a candidate and takes them back; tensors really shrink.

Dense tensors are kept once and shared: a choice costs only the tensors that differ.
"""

from collections import OrderedDict
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
    SkippingLayer,
    let_layers_skip,
    number_caches,
)
from autocompress.models.streaming import Checkpoint, Streamer
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

    Args:
        cache_bytes: Of narrowed tensors kept on the model's device; the least recently used go.
        streamed: Where the layers' dense tensors come from if they were not loaded, and how many
            bytes of them may be on the device. Such a model is run site by site, each set right
            before; it cannot be run or saved as a whole.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        space: SearchSpace,
        levels: LevelSource,
        cache_bytes: int = 2**30,
        streamed: tuple[Checkpoint, int] | None = None,
    ) -> None:
        self.model = model
        self.space = space
        self.architecture: Architecture = read_architecture(model.config)
        self._levels = levels
        self.layers: list[SkippingLayer] = let_layers_skip(model.model.layers)
        self._parts = [_Parts(cast("_DenseLayer", layer)) for layer in self.layers]
        self._now = [Choice(site.units, site.units) for site in space.sites]
        self._cache = _TensorCache(cache_bytes)
        self._streamer: Streamer | None = None
        if streamed is not None:
            modules = [self._parts[site.layer].modules(site) for site in space.sites]
            self._streamer = Streamer(streamed[0], modules, model.device, model.dtype, streamed[1])

    @property
    def is_streamed(self) -> bool:
        """Whether dense tensors come and go."""
        return self._streamer is not None

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What the sites are set to now."""
        return tuple(self._now)

    def apply(self, choices: Sequence[Choice]) -> None:
        """Set every site; only the sites that change are touched."""
        for index, choice in enumerate(choices):
            self.set(index, choice)
        number_caches(self.layers)

    def apply_dense(self) -> None:
        """Set every site back to the dense model's own tensors."""
        self.apply([Choice(site.units, site.units) for site in self.space.sites])

    def set(self, index: int, choice: Choice) -> None:
        """Set one site of the space; a KV cache needs `apply` before it counts right again."""
        site = self.space.sites[index]
        layer, parts = self.layers[site.layer], self._parts[site.layer]
        is_fresh = False
        if self._streamer is not None and not choice.is_dropped:
            is_fresh = self._streamer.bring(index)
        if self._now[index] == choice and not is_fresh:
            return
        if site.kind is SiteKind.ATTENTION:
            layer.self_attn = None if choice.is_dropped else parts.attention
            layer.input_layernorm = None if choice.is_dropped else parts.attention_norm
        else:
            layer.mlp = None if choice.is_dropped else parts.mlp
            layer.post_attention_layernorm = None if choice.is_dropped else parts.mlp_norm
        linears = parts.linears(site.kind)
        if is_fresh:
            for linear in linears:
                linear.take_dense()
        if choice.is_dense:
            for linear in linears:
                linear.restore()
        elif not choice.is_dropped:
            for linear, tensors in zip(linears, self._narrowed(index, choice), strict=True):
                linear.put(tensors)
        self._now[index] = choice

    def output_projection(self, index: int) -> nn.Linear:
        """Return the linear layer that a site ends with, as it is set now."""
        site = self.space.sites[index]
        return self._parts[site.layer].linears(site.kind)[-1].linear

    def _narrowed(self, index: int, choice: Choice) -> "_Narrowed":
        """Return the tensors of a width: of the input projections, then of the output's."""
        known = self._cache.get(index, choice)
        if known is not None:
            return known
        site = self.space.sites[index]
        *inputs, output = self._parts[site.layer].linears(site.kind)
        level = self._levels.level(site, choice)
        made = (
            *(part.rows_of(level.kept, part.rows // choice.total) for part in inputs),
            output.with_weight(level.output),
        )
        self._cache.add(index, choice, made)
        return made


_Tensors = tuple[nn.Parameter, nn.Parameter | None]
_Narrowed = tuple[_Tensors, ...]


class _TensorCache:
    """Narrowed tensors by site and choice, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[tuple[int, Choice], _Narrowed] = OrderedDict()

    def get(self, index: int, choice: Choice) -> _Narrowed | None:
        key = (index, choice)
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def add(self, index: int, choice: Choice, tensors: _Narrowed) -> None:
        self._kept[index, choice] = tensors
        self._bytes += _bytes(tensors)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.popitem(last=False)[1])


def _bytes(tensors: _Narrowed) -> int:
    return sum(t.numel() * t.element_size() for pair in tensors for t in pair if t is not None)


class _LinearPart:
    """A linear layer with its dense tensors."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear
        self.take_dense()

    def take_dense(self) -> None:
        """Keep the tensors that the layer has now as its dense ones."""
        self._weight: nn.Parameter = cast(nn.Parameter, self.linear.weight)
        self._bias: nn.Parameter | None = self.linear.bias

    @property
    def rows(self) -> int:
        """Output features of the dense layer."""
        return self._weight.shape[0]

    def restore(self) -> None:
        """Put the dense tensors back."""
        self.put((self._weight, self._bias))

    def put(self, tensors: _Tensors) -> None:
        """Let the layer compute with these tensors."""
        weight, bias = tensors
        self.linear.weight = weight
        self.linear.register_parameter("bias", bias)
        self.linear.out_features, self.linear.in_features = weight.shape

    def rows_of(self, units: Tensor, size: int) -> _Tensors:
        """Return the dense tensors' output rows of some units of `size` rows each."""
        offsets = torch.arange(size, device=units.device)
        rows = (units[:, None] * size + offsets).flatten().to(self._weight.device)
        bias = None if self._bias is None else _parameter(self._bias[rows])
        return _parameter(self._weight[rows]), bias

    def with_weight(self, weight: Tensor) -> _Tensors:
        """Return a compensated weight with the dense bias."""
        return _parameter(weight.to(self._weight)), self._bias


def _parameter(tensor: Tensor) -> nn.Parameter:
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

    def linears(self, kind: SiteKind) -> "list[_LinearPart]":
        """Return the linear layers of one of the layer's sites, the output projection last."""
        if kind is SiteKind.ATTENTION:
            return [*self.attention_inputs, self.attention_output]
        return [*self.mlp_inputs, self.mlp_output]

    def modules(self, site: Site) -> dict[str, nn.Module]:
        """Return the modules of one of the layer's sites by their names in a checkpoint."""
        layer = f"model.layers.{site.layer}"
        if site.kind is SiteKind.ATTENTION:
            return {
                f"{layer}.self_attn": cast(nn.Module, self.attention),
                f"{layer}.input_layernorm": self.attention_norm,
            }
        return {
            f"{layer}.mlp": cast(nn.Module, self.mlp),
            f"{layer}.post_attention_layernorm": self.mlp_norm,
        }
