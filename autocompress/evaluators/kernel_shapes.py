"""A shaped model whose linear layers multiply with packed weights, as its checkpoint's would."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import nn

from autocompress.models.architecture import LINEAR_NAMES
from autocompress.models.packed_kernels import has_kernel
from autocompress.models.packed_linear import PackedLinear
from autocompress.models.surgery import ShapedModel
from autocompress.operators.grids import FULL_RANGE
from autocompress.operators.packed import pack
from autocompress.operators.round_to_nearest import fit_grid
from autocompress.spaces.base import Choice, Site
from autocompress.spaces.settings import WeightSetting

PACKED_BYTES = 2**32


class _Key(NamedTuple):
    site: int
    name: str
    kept: int
    setting: WeightSetting


class KernelShapes:
    """Takes one configuration after another; where a setting has a kernel, weights run on it.

    Weights are rounded to the nearest codes: no kernel's time depends on their values.

    Args:
        reads_codes: Whether what is deployed is multiplied as codes; or else decoded when loaded.
        packed_bytes: Of packed weights kept; the least recently used go.
    """

    def __init__(
        self,
        shaped: ShapedModel,
        *,
        reads_codes: bool = True,
        packed_bytes: int = PACKED_BYTES,
    ) -> None:
        self.shaped = shaped
        self._reads_codes = reads_codes
        self._limit = packed_bytes
        self._held = 0
        self._packed: OrderedDict[_Key, PackedLinear] = OrderedDict()
        self._replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def runs(self, site: Site, change: Choice) -> bool:
        """Whether all linear layers of the one group that a change sets have a kernel."""
        model = self.shaped.model
        return self._reads_codes and not settings_without_kernel(
            [site], [change], model.device, model.dtype
        )

    def apply(self, choices: Sequence[Choice]) -> None:
        """Set every site: its shape, then the weights of groups whose setting has a kernel."""
        for parent, attribute, plain in self._replaced:
            setattr(parent, attribute, plain)
        self._replaced.clear()
        self.shaped.apply([choice.shape for choice in choices])
        for index, choice in enumerate(choices):
            if choice.is_dropped:
                continue
            for name, setting in _set_linears(self.shaped.space.sites[index], choice):
                self._put(_Key(index, name, choice.kept, setting))

    def _put(self, key: _Key) -> None:
        layer = self.shaped.layers[self.shaped.space.sites[key.site].layer]
        place, _, attribute = key.name.rpartition(".")
        parent = cast(nn.Module, layer).get_submodule(place)
        plain = cast(nn.Linear, getattr(parent, attribute))
        shape = plain.out_features, plain.in_features
        if has_kernel(str(key.setting), shape, plain.weight.device, plain.weight.dtype):
            self._replaced.append((parent, attribute, plain))
            setattr(parent, attribute, self._made(key, plain))

    def _made(self, key: _Key, plain: nn.Linear) -> PackedLinear:
        """Return a linear layer's weights packed."""
        if key in self._packed:
            self._packed.move_to_end(key)
            return self._packed[key]
        weight = plain.weight.detach()
        grid = fit_grid(
            weight, key.setting, torch.ones(weight.shape[1], device=weight.device), FULL_RANGE
        )
        packed = pack(weight, key.setting, grid)
        made = PackedLinear(packed.shape, str(key.setting), packed.tensors, plain.bias)
        self._packed[key] = made = made.to(weight.dtype)
        # The codes as they are stored and as the kernel reads them.
        self._held += 2 * packed.bytes
        while self._held > self._limit and len(self._packed) > 1:
            gone = self._packed.popitem(last=False)[1]
            self._held -= 2 * sum(buffer.nbytes for buffer in gone.buffers())
        return made


def settings_without_kernel(
    sites: Sequence[Site],
    choices: Sequence[Choice],
    device: torch.device,
    number_format: torch.dtype,
) -> list[str]:
    """Return the settings of a configuration that torch has to decode somewhere, sorted."""
    found = set()
    for site, choice in zip(sites, choices, strict=True):
        for group, setting in zip(site.groups, choice.weights, strict=bool(choice.weights)):
            columns = group.shape(choice.kept, choice.total)[1]
            for rows in group.rows:
                own = rows if group.narrows_columns else rows * choice.kept // choice.total
                if not setting.is_dense and not has_kernel(
                    str(setting), (own, columns), device, number_format
                ):
                    found.add(str(setting))
    return sorted(found)


def _set_linears(site: Site, choice: Choice) -> Iterator[tuple[str, WeightSetting]]:
    """Yield the names, within their layer, of a site's linear layers that are not dense."""
    names = iter(LINEAR_NAMES[site.kind])
    for group, setting in zip(site.groups, choice.weights, strict=bool(choice.weights)):
        for name in [next(names) for _ in group.linears]:
            if not setting.is_dense:
                yield name, setting
