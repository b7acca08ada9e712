"""Models that propose tokens for another one and are made of its own modules.

Nothing is copied but the Python objects around the tensors: attentions must know another place in
a KV cache of fewer layers, and the model that they come from must not.
"""

import copy
from collections.abc import Sequence
from typing import TypeVar, cast

from torch import nn
from transformers import PreTrainedModel

from autocompress.errors import ModelError
from autocompress.models.modeling_autocompress import SkippingLayer, number_caches

M = TypeVar("M")


def first_layers(model: PreTrainedModel, n_layers: int) -> PreTrainedModel:
    """Return the model that exits after its first layers, with the same norm and head.

    Raises:
        ModelError: If there are not so many layers, or none of them has an attention.
    """
    return _of_layers(model, n_layers, range(n_layers))


def spread_layers(model: PreTrainedModel, n_layers: int) -> PreTrainedModel:
    """Return the model of some layers spread evenly over all; first and last are among two.

    Raises:
        ModelError: If there are not so many layers, or none of them has an attention.
    """
    last = len(model.model.layers) - 1
    gaps = max(1, n_layers - 1)
    return _of_layers(model, n_layers, [round(place * last / gaps) for place in range(n_layers)])


def _of_layers(model: PreTrainedModel, n_layers: int, places: Sequence[int]) -> PreTrainedModel:
    """Return a model of some layers of another one, in their order, sharing its modules."""
    layers = cast("Sequence[SkippingLayer]", model.model.layers)
    if not 1 <= n_layers <= len(layers):
        raise ModelError(
            f"A draft may have 1 to {len(layers)} of the model's layers, but got {n_layers}."
        )
    chosen = [_twin(layers[place]) for place in places]
    for layer in chosen:
        if layer.self_attn is not None:
            layer.self_attn = _twin(layer.self_attn)
    if all(layer.self_attn is None for layer in chosen):
        # Positions come from the KV cache's length, and nothing would fill one.
        raise ModelError(
            f"None of the {n_layers} layers of this draft has an attention left; take more."
        )
    number_caches(chosen)
    # A stock model runs as many of its layers as its config says.
    config = copy.copy(model.config)
    config.num_hidden_layers = n_layers
    types = getattr(config, "layer_types", None)
    if types is not None:
        config.layer_types = [types[place] for place in places]
    draft, inner = _twin(model), _twin(model.model)
    inner.layers = nn.ModuleList(cast("list[nn.Module]", chosen))
    draft.model = inner
    draft.config = inner.config = config
    return draft


def _twin(module: M) -> M:
    """Return another module with the same tensors and submodules, which may be given others."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module.__dict__["_modules"])
    return twin
