"""The shapes read from a config are those of the model's own tensors."""

import pytest
from transformers import PreTrainedModel

from autocompress.models.architecture import linear_groups, other_parameters, read_architecture
from autocompress.spaces.base import SiteKind
from autocompress.spaces.making import make_space
from autocompress.spaces.sizes import parameters
from autocompress.trial import Genotype
from tests.tiny_models import (
    FFN_COLUMNS,
    KV_GROUPS,
    LAYERS,
    TinyModels,
    group_weights,
    make_config,
)


def count(model: PreTrainedModel, part: str = "") -> int:
    """Return the numbers in the parameters whose name holds a text."""
    return sum(t.numel() for name, t in model.named_parameters() if part in name)


@pytest.mark.parametrize("fused", [True, False])
def test_a_space_counts_every_parameter_of_its_model(
    tiny_models: TinyModels, family: str, fused: bool
) -> None:
    model = tiny_models.load(family)
    architecture = read_architecture(model.config)
    space = make_space(
        LAYERS,
        KV_GROUPS,
        FFN_COLUMNS,
        depth=True,
        width=False,
        groups=linear_groups(architecture, fused=fused),
        other_parameters=other_parameters(architecture),
    )

    cost = parameters(space, count(model) - count(model, "layers."))

    without_first_mlp = space.entries(Genotype((0, 1, 0, 0, 0, 0)))
    gone = count(model, "layers.0.mlp") + count(model, "layers.0.post_attention_layernorm")
    assert cost.dense == count(model)
    assert cost.of(without_first_mlp) == count(model) - gone


def test_groups_have_the_shapes_of_the_models_matrices(
    tiny_models: TinyModels, family: str
) -> None:
    model = tiny_models.load(family)
    groups = linear_groups(read_architecture(model.config))

    for (_, kind), weights in group_weights(model):
        assert [(sum(g.rows), g.columns) for g in groups[kind]] == [w.shape for w in weights]
        assert [g.narrows_columns for g in groups[kind]] == [False, True]


def test_without_fusion_every_linear_layer_is_a_group_of_its_own() -> None:
    groups = linear_groups(read_architecture(make_config()), fused=False)

    assert [group.name for group in groups[SiteKind.ATTENTION]] == ["q", "k", "v", "o"]
    assert [group.name for group in groups[SiteKind.MLP]] == ["gate", "up", "down"]
