"""Gathered Hessians against direct sums over the inputs of every output projection."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from autocompress.models.ends import dense_ends
from autocompress.models.surgery import ShapedModel
from autocompress.operators.levels import stored_as
from autocompress.operators.statistics import dense, gather
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import WeightSetting
from tests.built_levels import open_levels
from tests.tiny_models import (
    LAYERS,
    PlainSlices,
    TinyModels,
    dense_choices,
    tiny_space,
    token_ids,
    with_changes,
)

Inputs = list[Tensor]


SITES = range(2 * LAYERS)
CODED = tiny_space(weights=Weights(bits=(4,), group_size=8))


def shaped(model: PreTrainedModel, space: SearchSpace | None = None) -> ShapedModel:
    return ShapedModel(model, space or tiny_space(), PlainSlices(model))


def keeper(kept: Inputs) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def keep(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].flatten(0, 1).double())

    return keep


def test_statistics_are_those_of_the_dense_ends(tiny_models: TinyModels) -> None:
    ids = token_ids(6, 10)
    model = tiny_models.load()
    ends = {name: own / 2 for name, own in dense_ends(model).items()}
    halved = ShapedModel(model, CODED, PlainSlices(model), ends=ends)
    halved.apply(dense_choices(CODED))

    found = dict(gather(halved, SITES, ids))

    for site, expected in gather(shaped(tiny_models.load(), CODED), SITES, ids):
        assert torch.equal(found[site].output.hessian, expected.output.hessian)


def test_hessians_equal_a_direct_sum(tiny_models: TinyModels, family: str) -> None:
    # Not a multiple of the four sequences that are run together.
    ids = token_ids(6, 10)
    model = tiny_models.load(family)
    inputs: list[Inputs] = [[] for _ in SITES]
    outputs: list[Inputs] = [[] for _ in SITES]
    for layer, block in enumerate(model.model.layers):
        block.self_attn.q_proj.register_forward_pre_hook(keeper(inputs[2 * layer]))
        block.self_attn.o_proj.register_forward_pre_hook(keeper(outputs[2 * layer]))
        block.mlp.up_proj.register_forward_pre_hook(keeper(inputs[2 * layer + 1]))
        block.mlp.down_proj.register_forward_pre_hook(keeper(outputs[2 * layer + 1]))
    for sequence in ids:
        model.model(sequence[None], use_cache=False)

    found = dict(gather(shaped(tiny_models.load(family), CODED), SITES, ids))

    assert list(found) == list(SITES)
    for site, statistics in found.items():
        for own, kept in ((statistics.inputs, inputs[site]), (statistics.output, outputs[site])):
            x = torch.cat(kept)  # (tokens, columns)
            expected = x.T @ x / ids.numel()
            assert own is not None
            # Sums of 60 products in single precision.
            torch.testing.assert_close(own.hessian.double(), expected, rtol=1e-4, atol=1e-5)


def test_only_the_sites_asked_for_are_gathered(tiny_models: TinyModels) -> None:
    found = dict(gather(shaped(tiny_models.load()), [2, 3], token_ids(2, 8)))

    assert list(found) == [2, 3]
    assert found[2].output.hessian.shape == (32, 32)
    assert found[3].output.hessian.shape == (48, 48)


def test_inputs_are_not_gathered_where_no_weight_is_stored_otherwise(
    tiny_models: TinyModels,
) -> None:
    found = dict(gather(shaped(tiny_models.load()), SITES, token_ids(2, 8)))

    assert all(statistics.inputs is None for statistics in found.values())


def test_hessians_are_single_precision_for_any_model(tiny_models: TinyModels) -> None:
    model = tiny_models.load(dtype=torch.bfloat16)
    found = dict(gather(shaped(model), [0], token_ids(2, 8)))

    assert found[0].output.hessian.dtype is torch.float32


def test_gathering_leaves_no_hook_behind(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    list(gather(shaped(model, CODED), SITES, token_ids(2, 8)))

    assert not any(module._forward_pre_hooks for module in model.modules())


def test_upstream_error_is_that_of_the_layers_as_they_are_stored(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    ids = token_ids(6, 10)
    levels = open_levels(tmp_path)
    model = ShapedModel(tiny_models.load(), CODED, levels)
    sites = CODED.sites
    stored = [stored_as(site, WeightSetting(bits=4)) for site in sites]

    def upstream(site: Site) -> Choice:
        return stored[sites.index(site)]

    found = {}
    for index, statistics in gather(model, SITES, ids, upstream):
        weights = [linear.weight for linear in model.linears(index)]
        levels.build(sites[index], weights, statistics)
        found[index] = statistics

    assert all(str(setting) == "w4g8" for choice in stored for setting in choice.weights)
    for site in SITES:
        model.apply([*stored[:site], *map(dense, sites[site:])])
        inputs: Inputs = []
        hook = model.linears(site)[-1].register_forward_pre_hook(keeper(inputs))
        with torch.no_grad():
            model.model.model(ids, use_cache=False)
        hook.remove()
        x = torch.cat(inputs)
        torch.testing.assert_close(
            found[site].output.hessian.double(), x.T @ x / ids.numel(), rtol=1e-4, atol=1e-5
        )


def test_what_the_model_was_set_to_does_not_matter(tiny_models: TinyModels) -> None:
    ids = token_ids(6, 10)
    model = shaped(tiny_models.load())
    before = dict(gather(model, [4, 5], ids))
    model.apply(with_changes(model.space, {(0, SiteKind.MLP): 8, (2, SiteKind.ATTENTION): 0}))

    after = dict(gather(model, [4, 5], ids))

    for site, statistics in before.items():
        assert torch.equal(after[site].output.hessian, statistics.output.hessian)
