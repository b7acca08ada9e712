"""Scores of stored weights: worse for fewer bits, and what their formulas say."""

import pytest
import torch
from torch import nn

from autocompress.evaluators.weight_scorers import fisher_error, outlier_shares, weight_error
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import GeneKind, SearchSpace
from autocompress.spaces.making import Weights
from tests.tiny_models import LAYERS, PlainSlices, TinyModels, tiny_space, token_ids

IDS = token_ids(6, 12)


def coded(family: str, *, width: bool = False) -> SearchSpace:
    return tiny_space(
        family, depth=False, width=width, weights=Weights(bits=(8, 4, 2), group_size=0)
    )


def shaped(
    tiny_models: TinyModels, family: str, *, width: bool = False
) -> tuple[ShapedModel, PlainSlices]:
    model = tiny_models.load(family)
    levels = PlainSlices(model)
    return ShapedModel(model, coded(family, width=width), levels), levels


def test_fewer_bits_score_worse(tiny_models: TinyModels, family: str) -> None:
    own, levels = shaped(tiny_models, family)

    for scores in (weight_error(own, levels), fisher_error(own, levels, IDS)):
        assert len(scores) == 4 * LAYERS
        assert all(row[0] == 0 for row in scores)
        assert all(row == sorted(row) and row[1] > 0 for row in scores)


def test_genes_of_other_kinds_score_nothing(tiny_models: TinyModels) -> None:
    own, levels = shaped(tiny_models, "llama", width=True)

    scores = weight_error(own, levels)

    for gene, row in zip(own.space.genes, scores, strict=True):
        assert any(row) == (gene.kind is GeneKind.BITS)


def test_the_fisher_error_is_the_sum_of_squares_that_it_says(tiny_models: TinyModels) -> None:
    own, levels = shaped(tiny_models, "llama")
    model = tiny_models.load("llama")
    linear = model.model.layers[1].mlp.down_proj
    seen: dict[str, torch.Tensor] = {}

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen["x"] = inputs[0].detach()
        output.retain_grad()
        seen["y"] = output

    linear.register_forward_hook(keep)
    expected = 0.0
    for batch in IDS.split(4):
        embedded = model.get_input_embeddings()(batch).detach().requires_grad_()
        logits = model(inputs_embeds=embedded, use_cache=False).logits
        nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        ).backward()
        changed = (linear.weight * 4).round() / 4 - linear.weight
        gradient = seen["y"].grad
        assert gradient is not None
        expected += float((gradient * (seen["x"] @ changed.T)).square().sum())

    scores = fisher_error(own, levels, IDS)

    # Sums of thousands of products in single precision.
    assert scores[4 + 3][3] == pytest.approx(expected / IDS.numel(), rel=1e-3)


def test_scoring_leaves_the_model_dense_and_without_hooks(tiny_models: TinyModels) -> None:
    own, levels = shaped(tiny_models, "llama")

    fisher_error(own, levels, IDS)
    outlier_shares(own, IDS, (5.0,))

    assert all(choice.is_dense for choice in own.choices)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in own.model.modules())
    assert all(parameter.grad is None for parameter in own.model.parameters())


def test_outliers_fall_with_the_multiple_and_follow_the_inputs(tiny_models: TinyModels) -> None:
    own, _ = shaped(tiny_models, "llama")
    plain = outlier_shares(own, IDS, (2.0, 3.0))
    with torch.no_grad():
        own.linears(3)[-1].weight[0, :4] *= 1000

    skewed = outlier_shares(own, IDS, (2.0,))

    assert all(a >= b for a, b in zip(plain[2.0], plain[3.0], strict=True))
    assert len(plain[2.0]) == LAYERS
    assert skewed[2.0][1] < plain[2.0][1]
    assert skewed[2.0][0] == plain[2.0][0]
