"""Gathered Hessians against direct sums over the inputs of every output projection."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autocompress.models.surgery import ShapedModel
from autocompress.operators.statistics import gather
from autocompress.spaces.base import SiteKind
from tests.tiny_models import (
    LAYERS,
    PlainSlices,
    TinyModels,
    output_weights,
    tiny_space,
    token_ids,
    with_changes,
)

Inputs = list[Tensor]


def shaped(model: PreTrainedModel) -> ShapedModel:
    return ShapedModel(model, tiny_space(), PlainSlices(model))


def keeper(kept: Inputs) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].flatten(0, 1).double())

    return keep


def test_hessians_equal_a_direct_sum(tiny_models: TinyModels, family: str) -> None:
    # Not a multiple of the four sequences that are run together.
    ids = token_ids(6, 10)
    model = tiny_models.load(family)
    inputs: dict[tuple[int, SiteKind], Inputs] = {site: [] for site, _ in output_weights(model)}
    for layer, block in enumerate(model.model.layers):
        block.self_attn.o_proj.register_forward_pre_hook(keeper(inputs[layer, SiteKind.ATTENTION]))
        block.mlp.down_proj.register_forward_pre_hook(keeper(inputs[layer, SiteKind.MLP]))
    for sequence in ids:
        model.model(sequence[None], use_cache=False)

    found = gather(shaped(tiny_models.load(family)), range(LAYERS), ids)

    assert found.keys() == inputs.keys()
    for site, statistics in found.items():
        x = torch.cat(inputs[site])  # (tokens, columns)
        expected = x.T @ x / ids.numel()
        # Sums of 60 products in single precision.
        torch.testing.assert_close(statistics.hessian.double(), expected, rtol=1e-4, atol=1e-5)


def test_only_the_layers_asked_for_are_gathered(tiny_models: TinyModels) -> None:
    found = gather(shaped(tiny_models.load()), [1], token_ids(2, 8))

    assert set(found) == {(1, SiteKind.ATTENTION), (1, SiteKind.MLP)}
    assert found[1, SiteKind.ATTENTION].hessian.shape == (32, 32)
    assert found[1, SiteKind.MLP].hessian.shape == (48, 48)


def test_hessians_are_single_precision_for_any_model(tiny_models: TinyModels) -> None:
    found = gather(shaped(tiny_models.load(dtype=torch.bfloat16)), [0], token_ids(2, 8))

    assert {statistics.hessian.dtype for statistics in found.values()} == {torch.float32}


def test_gathering_leaves_no_hook_behind(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    gather(shaped(model), range(LAYERS), token_ids(2, 8))

    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_the_model_was_set_to_does_not_matter(tiny_models: TinyModels) -> None:
    ids = token_ids(6, 10)
    model = shaped(tiny_models.load())
    before = gather(model, [2], ids)
    model.apply(with_changes(model.space, {(0, SiteKind.MLP): 8, (2, SiteKind.ATTENTION): 0}))

    after = gather(model, [2], ids)

    for site, statistics in before.items():
        assert torch.equal(after[site].hessian, statistics.hessian)
