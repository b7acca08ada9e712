"""Gathered gradients against the model's own, sequence by sequence."""

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import EvaluationError, SpecError
from autocompress.models.streaming import Checkpoint
from autocompress.models.surgery import ShapedModel
from autocompress.operators.gradients import gather_gradients
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import WeightSetting
from tests.tiny_models import CPU, PlainSlices, TinyModels, tiny_space, token_ids

SPACE = tiny_space(width=False, weights=Weights(sparsities=(WeightSetting(sparsity=0.5),)))


def shaped(tiny_models: TinyModels, family: str = "llama") -> ShapedModel:
    model = tiny_models.load(family)
    return ShapedModel(model, SPACE, PlainSlices(model))


def mean_loss(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(ids[None], use_cache=False).logits[0]
    return nn.functional.cross_entropy(logits[:-1], ids[1:])


def test_gradients_are_pruner_zeros_of_the_models_own_loss(
    tiny_models: TinyModels, family: str
) -> None:
    ids = token_ids(3, 10)
    model = tiny_models.load(family)
    expected = []
    for layer in (0, 2):
        weight = model.model.layers[layer].mlp.down_proj.weight.requires_grad_(True)
        squares = torch.zeros_like(weight)
        for sequence in ids:
            (own,) = torch.autograd.grad(mean_loss(model, sequence), weight)
            squares += (100 * own).square()
        expected.append((squares * 128 / 3).sqrt())

    found = gather_gradients(shaped(tiny_models, family), [1, 5], ids)

    assert [len(own) for own in found.values()] == [3, 3]
    for own, gradient in zip(found.values(), expected, strict=True):
        # Sums in another order, in single precision.
        torch.testing.assert_close(own[-1], gradient, rtol=1e-4, atol=1e-5)


def test_twice_the_same_text_says_the_same(tiny_models: TinyModels) -> None:
    ids = token_ids(2, 10)
    model = shaped(tiny_models)

    once = gather_gradients(model, [0], ids)[0]
    twice = gather_gradients(model, [0], torch.cat([ids, ids]))[0]

    for first, second in zip(once, twice, strict=True):
        torch.testing.assert_close(first, second)


def test_gathering_leaves_the_model_as_it_was(tiny_models: TinyModels) -> None:
    model = shaped(tiny_models)

    gather_gradients(model, range(6), token_ids(1, 8))

    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert all(parameter.grad is None for parameter in model.model.parameters())


def test_a_streamed_model_is_refused(tiny_models: TinyModels) -> None:
    from autocompress.models.loading import load_model

    folder = tiny_models.folder()
    model = load_model(folder, CPU, with_layers=False)
    streamed = ShapedModel(
        model,
        SPACE,
        PlainSlices(tiny_models.load()),
        streamed=(Checkpoint(folder), 2**20),
    )

    with pytest.raises(SpecError, match="A model that is streamed has no gradients"):
        gather_gradients(streamed, [0], token_ids(1, 8))


def test_gradients_that_are_no_numbers_are_told_by_layer(tiny_models: TinyModels) -> None:
    model = shaped(tiny_models)
    model.model.model.norm.weight.data.fill_(float("inf"))

    with pytest.raises(EvaluationError, match="must hold for a formula of G, but layers 0, 2 "):
        gather_gradients(model, [1, 4], token_ids(1, 8))
