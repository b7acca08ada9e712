"""Gives a loaded model the choices of a candidate and takes them back; tensors really shrink.

Dense tensors are kept once and shared: a choice costs only the tensors that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autocompress.models.architecture import Architecture, read_architecture
from autocompress.models.ends import Ends, EndWeights
from autocompress.models.linear_parts import (
    Block,
    Changed,
    DenseLayer,
    Key,
    LayerParts,
    TensorCache,
    blocks_of,
    rows_of,
)
from autocompress.models.modeling_autocompress import (
    SkippingLayer,
    let_layers_skip,
    number_caches,
)
from autocompress.models.streaming import Checkpoint, Streamer
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.settings import DENSE, WeightSetting

CPU_CACHE_BYTES: Final = 2**30
# The rest is for what is measured and built: activations, teachers, Hessians and their factors.
GPU_CACHE_PART: Final = 4


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
    """Where built widths, and weights stored otherwise, come from."""

    def level(self, site: Site, choice: Choice) -> Level:
        """Return the built width of a choice."""

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        """Return what one of the site's linear groups computes with in its setting of a choice.

        Of a group that loses columns with the width, those that the choice keeps are there; of
        any other all rows are, (rows, columns).
        """


class ShapedModel:
    """A causal LM whose sites can be set to any choice, again and again.

    Owns the model: its layers are turned into ones whose sub-blocks may be absent.

    Args:
        cache_bytes: Of changed tensors kept on the model's device; None is 1 GiB on a CPU, and on
            a GPU a quarter of what is free.
        streamed: Where the layers' dense tensors come from if they were not loaded, and how many
            bytes of them may be on the device. Such a model is run site by site, each set right
            before; it cannot be run or saved as a whole.
        ends: What candidates compute with in place of token embedding and head; None leaves them
            the dense ones.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        space: SearchSpace,
        levels: LevelSource,
        cache_bytes: int | None = None,
        streamed: tuple[Checkpoint, int] | None = None,
        ends: EndWeights | None = None,
    ) -> None:
        self.model = model
        self.space = space
        self.architecture: Architecture = read_architecture(model.config)
        self._levels = levels
        self._ends = Ends(model, ends)
        self.layers: list[SkippingLayer] = let_layers_skip(model.model.layers)
        self._parts = [LayerParts(cast("DenseLayer", layer)) for layer in self.layers]
        self._now = [Choice(site.units, site.units) for site in space.sites]
        held = 0 if streamed is None else streamed[1]
        self._cache_bytes = _room(model.device, held) if cache_bytes is None else cache_bytes
        self._cache = TensorCache(self._cache_bytes)
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
        """Make a candidate of the model: set every site, only those that change are touched.

        Its token embedding and head are those of candidates, also where all sites are dense.
        """
        for index, choice in enumerate(choices):
            self.set(index, choice)
        number_caches(self.layers)
        self.put_stored_ends()

    def apply_dense(self) -> None:
        """Go back to the dense model's own tensors, token embedding and head among them."""
        self.apply([Choice(site.units, site.units) for site in self.space.sites])
        self.put_dense_ends()

    def put_dense_ends(self) -> None:
        """Let token embedding and head be the dense model's; the sites stay as they are set."""
        self._ends.put_dense()

    def put_stored_ends(self) -> None:
        """Let token embedding and head be those of candidates; the sites stay as they are set."""
        self._ends.put_stored()

    def forget(self) -> None:
        """Go back to dense and drop what was changed: levels are others from now on."""
        self.apply_dense()
        self._cache = TensorCache(self._cache_bytes)

    def set(self, index: int, choice: Choice) -> None:
        """Set one site of the space; a KV cache needs `apply` before it counts right again.

        Whose token embedding and head it then runs between is told by `put_dense_ends` and
        `put_stored_ends`.
        """
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
        if not choice.is_dropped:
            for block in blocks_of(site, linears):
                self._set_block(index, choice, block)
        self._now[index] = choice

    def linears(self, index: int) -> list[nn.Linear]:
        """Return the linear layers of a site as they are set now, the output projection last."""
        site = self.space.sites[index]
        return [part.linear for part in self._parts[site.layer].linears(site.kind)]

    def _set_block(self, index: int, choice: Choice, block: Block) -> None:
        """Let the linear layers of a block compute as a choice wants them to."""
        setting = choice.weights[block.group] if choice.weights else DENSE
        if choice.is_whole and setting.is_dense:
            for linear in block.linears:
                linear.restore()
            return
        key = Key(index, block.group, choice.kept, setting)
        made = self._cache.get(key)
        if made is None:
            made = self._made(self.space.sites[index], choice, block, setting)
            self._cache.add(key, made)
        for linear, tensors in zip(block.linears, made, strict=True):
            linear.put(tensors)

    def _made(self, site: Site, choice: Choice, block: Block, setting: WeightSetting) -> Changed:
        """Return the tensors of the linear layers of a block."""
        if block.is_output:
            (output,) = block.linears
            if setting.is_dense:
                return (output.with_weight(self._levels.level(site, choice).output),)
            return (output.with_weight(self._levels.weight(site, choice, block.group)),)
        if setting.is_dense:
            made = [linear.dense for linear in block.linears]
        else:
            whole = self._levels.weight(site, choice, block.group)
            parts = whole.split([linear.rows for linear in block.linears])
            pairs = zip(block.linears, parts, strict=True)
            made = [linear.with_weight(part) for linear, part in pairs]
        if choice.is_whole:
            return tuple(made)
        kept = self._levels.level(site, choice).kept
        return tuple(rows_of(tensors, kept, choice.total) for tensors in made)


def _room(device: torch.device, held: int) -> int:
    """Return how many bytes of changed tensors are kept on a device.

    Args:
        held: Bytes that dense tensors are going to take, of those that are free.
    """
    if device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, free - held) // GPU_CACHE_PART
