"""The linear layers of decoder layers, with their dense tensors and what stands in for them."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from autocompress.models.modeling_autocompress import Attention, Mlp
from autocompress.spaces.base import Site, SiteKind
from autocompress.spaces.settings import WeightSetting


@dataclass(frozen=True, slots=True)
class Block:
    """Linear layers of a site that read the same inputs.

    Args:
        group: Their position among the site's linear groups, or among its blocks without any.
        is_output: Whether a width takes their columns.
    """

    group: int
    linears: tuple["LinearPart", ...]
    is_output: bool


def blocks_of(site: Site, linears: Sequence["LinearPart"]) -> list[Block]:
    """Return the blocks of a site's linear layers, in the order of its groups."""
    if not site.groups:
        return [Block(0, tuple(linears[:-1]), False), Block(1, tuple(linears[-1:]), True)]
    blocks, start = [], 0
    for index, group in enumerate(site.groups):
        own = tuple(linears[start : start + len(group.linears)])
        blocks.append(Block(index, own, group.narrows_columns))
        start += len(own)
    return blocks


Tensors = tuple[nn.Parameter, nn.Parameter | None]
Changed = tuple[Tensors, ...]


class Key(NamedTuple):
    """What the changed tensors of a block depend on."""

    site: int
    group: int
    kept: int
    setting: WeightSetting


@dataclass(slots=True)
class _Kept:
    """Tensors with the walk in which they were used last."""

    tensors: Changed
    walk: int


class TensorCache:
    """Changed tensors of blocks, up to a number of bytes; the newest stay, however large.

    Walks go through the sites in order, again and again. Where more is used than fits, keeping
    what was used last would keep nothing until the next walk comes by: what it needs last is what
    the walk has just passed, and that goes. What two walks have not used goes before.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        """In the order of their last use."""
        self._walk = 0
        self._site = 0

    def get(self, key: Key) -> Changed | None:
        """Return known tensors."""
        if key.site < self._site:
            self._walk += 1
        self._site = key.site
        found = self._kept.get(key)
        if found is None:
            return None
        found.walk = self._walk
        self._kept.move_to_end(key)
        return found.tensors

    def add(self, key: Key, tensors: Changed) -> None:
        """Keep the tensors of a key that was just asked for in vain."""
        self._kept[key] = _Kept(tensors, self._walk)
        self._bytes += _bytes(tensors)
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= _bytes(self._kept.pop(self._least_wanted(key)).tensors)

    def _least_wanted(self, newest: Key) -> Key:
        """Return what is wanted last of all: other levels of the newest one's site may be next."""
        oldest = next(iter(self._kept))
        if self._kept[oldest].walk < self._walk - 1:
            return oldest
        return next((key for key in reversed(self._kept) if key.site != newest.site), oldest)


def _bytes(tensors: Changed) -> int:
    return sum(t.numel() * t.element_size() for pair in tensors for t in pair if t is not None)


class LinearPart:
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
        self.put(self.dense)

    def put(self, tensors: Tensors) -> None:
        """Let the layer compute with these tensors."""
        weight, bias = tensors
        self.linear.weight = weight
        self.linear.register_parameter("bias", bias)
        self.linear.out_features, self.linear.in_features = weight.shape

    @property
    def dense(self) -> Tensors:
        """The dense tensors."""
        return self._weight, self._bias

    def with_weight(self, weight: Tensor) -> Tensors:
        """Return another weight with the dense bias."""
        return _parameter(weight.to(self._weight)), self._bias


def rows_of(tensors: Tensors, units: Tensor, total: int) -> Tensors:
    """Return the output rows of some units of all."""
    weight, bias = tensors
    rows = places_of(units, len(weight) // total).to(weight.device)
    return _parameter(weight[rows]), None if bias is None else _parameter(bias[rows])


def places_of(units: Tensor, size: int) -> Tensor:
    """Return the rows, or columns, of some units of `size` each, which lie side by side."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class DenseLayer(Protocol):
    """A decoder layer from which nothing is absent."""

    self_attn: Attention
    input_layernorm: nn.Module
    mlp: Mlp
    post_attention_layernorm: nn.Module


class LayerParts:
    """The modules of one dense layer, held while they are absent from it."""

    def __init__(self, layer: DenseLayer) -> None:
        self.attention = attention = layer.self_attn
        self.attention_norm = layer.input_layernorm
        self.mlp = mlp = layer.mlp
        self.mlp_norm = layer.post_attention_layernorm
        self.attention_inputs = [
            LinearPart(part) for part in (attention.q_proj, attention.k_proj, attention.v_proj)
        ]
        self.attention_output = LinearPart(attention.o_proj)
        self.mlp_inputs = [LinearPart(part) for part in (mlp.gate_proj, mlp.up_proj)]
        self.mlp_output = LinearPart(mlp.down_proj)

    def linears(self, kind: SiteKind) -> "list[LinearPart]":
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
