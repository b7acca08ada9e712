"""Levels for timing alone: of every width the first units, with nothing compensated."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from autocompress.models.surgery import Level
from autocompress.spaces.base import Choice, Site, SiteKind


class FirstUnits:
    """What a kernel multiplies at a width does not change how long it takes."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._outputs: dict[tuple[int, SiteKind], Tensor] = {}
        for number, layer in enumerate(model.model.layers):
            self._outputs[number, SiteKind.ATTENTION] = layer.self_attn.o_proj.weight
            self._outputs[number, SiteKind.MLP] = layer.mlp.down_proj.weight

    def level(self, site: Site, choice: Choice) -> Level:
        """Keep the first columns of the output projection."""
        output = self._outputs[site.layer, site.kind]
        columns = output.shape[1] * choice.kept // choice.total
        return Level(torch.arange(choice.kept), output[:, :columns].contiguous())

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        """Refuse: there are widths alone."""
        raise NotImplementedError(f"{site} {choice} {group}")
