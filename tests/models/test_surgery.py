"""The laws of surgery: what a choice does to a model, and that it can be taken back."""

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from autocompress.models.ends import dense_ends
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SUB_BLOCKS, Choice, Site, SiteKind
from autocompress.spaces.making import Weights
from autocompress.spaces.settings import DENSE, WeightSetting
from tests.tiny_models import (
    FFN_COLUMNS,
    KV_GROUPS,
    LAYERS,
    PlainSlices,
    TinyModels,
    dense_choices,
    generate,
    is_tied,
    kept_units,
    logits_of,
    one_change,
    output_weights,
    tiny_space,
    token_ids,
    with_changes,
)

SPACE = tiny_space()
IDS = token_ids(2, 12)
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
# Leaving out products that are zero lets a matrix product add the others in another order. A logit
# here is about 1: twenty roundings of 2**-24 in float32, and some of 2**-8 in bfloat16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.06}

CODED = Weights(bits=(4, 2), group_size=0)
FOUR_BITS, TWO_BITS = (WeightSetting(bits=bits) for bits in (4, 2))

both_dtypes = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


def shape(model: PreTrainedModel) -> ShapedModel:
    return ShapedModel(model, SPACE, PlainSlices(model))


def silence(module: nn.Module) -> None:
    """Let a sub-block of a stock model put out zeros."""

    def zero(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, Tensor):
            return torch.zeros_like(output)
        return (torch.zeros_like(output[0]), *output[1:])

    module.register_forward_hook(zero)


def mask(model: PreTrainedModel, layer: int, kind: SiteKind, choice: Choice) -> None:
    """Cut the units that `PlainSlices` removes off the output, leaving all tensors as large."""
    weight = dict(output_weights(model))[layer, kind]
    gone = torch.ones(choice.total, dtype=torch.bool)
    gone[kept_units(choice)] = False
    weight[:, gone.repeat_interleave(weight.shape[1] // choice.total)] = 0.0


@both_dtypes
def test_level_0_is_bit_identical_to_the_untouched_model(
    tiny_models: TinyModels, family: str, dtype: torch.dtype
) -> None:
    untouched = logits_of(tiny_models.load(family, dtype=dtype), IDS)

    shaped = shape(tiny_models.load(family, dtype=dtype))
    shaped.apply(SPACE.choices(SPACE.dense))

    assert torch.equal(logits_of(shaped.model, IDS), untouched)


@both_dtypes
def test_dense_after_any_choice_is_bit_identical_to_the_untouched_model(
    tiny_models: TinyModels, family: str, dtype: torch.dtype
) -> None:
    untouched = tiny_models.load(family, dtype=dtype).state_dict()
    expected = logits_of(tiny_models.load(family, dtype=dtype), IDS)
    shaped = shape(tiny_models.load(family, dtype=dtype))

    for n_left in (0, 1, 2, 3):
        shaped.apply([menu[-1 - n_left].choices[0] for menu in SPACE.menus])
        shaped.apply_dense()

    restored = shaped.model.state_dict()
    assert restored.keys() == untouched.keys()
    assert all(torch.equal(restored[name], untouched[name]) for name in untouched)
    assert torch.equal(logits_of(shaped.model, IDS), expected)
    assert list(shaped.choices) == dense_choices(SPACE)


def test_a_choice_does_not_depend_on_what_was_applied_before(
    tiny_models: TinyModels, family: str
) -> None:
    shaped = shape(tiny_models.load(family))
    wanted = with_changes(SPACE, {(0, ATTENTION): 0, (1, ATTENTION): 2, (1, MLP): 24, (2, MLP): 0})
    shaped.apply(wanted)
    expected = logits_of(shaped.model, IDS)

    shaped.apply(with_changes(SPACE, {(0, MLP): 0, (1, ATTENTION): 0, (1, MLP): 8, (2, MLP): 8}))
    shaped.apply(with_changes(SPACE, {(1, ATTENTION): 3, (1, MLP): 0}))
    shaped.apply(wanted)

    assert torch.equal(logits_of(shaped.model, IDS), expected)


@pytest.mark.parametrize("tied", [False, True])
def test_candidates_have_the_ends_that_they_store_and_the_dense_model_its_own(
    tiny_models: TinyModels, family: str, tied: bool
) -> None:
    untouched = tiny_models.load(family, tied=tied)
    halved = tiny_models.load(family, tied=tied)
    ends = {name: own / 2 for name, own in dense_ends(halved).items()}
    with torch.no_grad():
        for name, weight in ends.items():
            halved.get_parameter(name).copy_(weight)
    model = tiny_models.load(family, tied=tied)
    shaped = ShapedModel(model, SPACE, PlainSlices(model), ends=ends)
    drop = one_change(SPACE, 1, MLP, 0)

    at_first = logits_of(shaped.model, IDS)
    shaped.apply(dense_choices(SPACE))
    start = logits_of(shaped.model, IDS)
    shaped.apply(drop)
    dropped = logits_of(shaped.model, IDS)
    shaped.apply_dense()

    assert torch.equal(at_first, logits_of(untouched, IDS))
    assert torch.equal(logits_of(shaped.model, IDS), at_first)
    assert torch.equal(start, logits_of(halved, IDS))
    assert not torch.equal(start, at_first)
    other = shape(halved)
    other.apply(drop)
    assert torch.equal(dropped, logits_of(other.model, IDS))
    assert len(ends) == (1 if tied else 2)
    assert is_tied(shaped.model) == tied


@both_dtypes
@pytest.mark.parametrize("kind", SUB_BLOCKS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_dropped_site_adds_nothing(
    tiny_models: TinyModels, family: str, layer: int, kind: SiteKind, dtype: torch.dtype
) -> None:
    reference = tiny_models.load(family, dtype=dtype)
    block = reference.model.layers[layer]
    silence(block.self_attn if kind is ATTENTION else block.mlp)

    shaped = shape(tiny_models.load(family, dtype=dtype))
    shaped.apply(one_change(SPACE, layer, kind, 0))

    assert torch.equal(logits_of(shaped.model, IDS), logits_of(reference, IDS))


@both_dtypes
@pytest.mark.parametrize(
    ("kind", "choice"),
    [(ATTENTION, Choice(3, 4)), (ATTENTION, Choice(1, 4)), (MLP, Choice(24, 48))],
    ids=["three groups", "one group", "half the columns"],
)
def test_a_plain_width_equals_masked_units(
    tiny_models: TinyModels, family: str, kind: SiteKind, choice: Choice, dtype: torch.dtype
) -> None:
    reference = tiny_models.load(family, dtype=dtype)
    mask(reference, 1, kind, choice)

    shaped = shape(tiny_models.load(family, dtype=dtype))
    shaped.apply(one_change(SPACE, 1, kind, choice.kept))

    torch.testing.assert_close(
        logits_of(shaped.model, IDS),
        logits_of(reference, IDS),
        rtol=0.0,
        atol=TOLERANCES[dtype],
    )


def test_widths_change_the_predictions(tiny_models: TinyModels, family: str) -> None:
    shaped = shape(tiny_models.load(family))
    dense = logits_of(shaped.model, IDS)

    shaped.apply(one_change(SPACE, 1, MLP, 24))
    narrow = logits_of(shaped.model, IDS)
    shaped.apply(one_change(SPACE, 1, ATTENTION, 2))
    fewer_groups = logits_of(shaped.model, IDS)

    # The laws above would hold of a site without any effect; these have one.
    assert (narrow - dense).abs().max() > 1e-3
    assert (fewer_groups - dense).abs().max() > 1e-3


def test_tensors_really_shrink(tiny_models: TinyModels, family: str) -> None:
    shaped = shape(tiny_models.load(family))
    shaped.apply(
        with_changes(SPACE, {(0, ATTENTION): 0, (0, MLP): 0, (1, ATTENTION): 1, (1, MLP): 24})
    )
    first, second, third = shaped.model.model.layers

    assert list(first.parameters()) == []
    for linear in (second.self_attn.q_proj, second.self_attn.k_proj, second.self_attn.v_proj):
        assert linear.weight.shape == (linear.out_features, linear.in_features)
    wide, narrow = third.self_attn, second.self_attn
    assert narrow.q_proj.weight.numel() * 4 == wide.q_proj.weight.numel()
    assert narrow.k_proj.weight.numel() * 4 == wide.k_proj.weight.numel()
    assert narrow.v_proj.weight.numel() * 4 == wide.v_proj.weight.numel()
    assert narrow.o_proj.weight.numel() * 4 == wide.o_proj.weight.numel()
    assert second.mlp.gate_proj.weight.shape == second.mlp.up_proj.weight.shape == (24, 32)
    assert second.mlp.down_proj.weight.shape == (32, 24)


def test_biases_follow_their_rows(tiny_models: TinyModels) -> None:
    model = tiny_models.load("qwen2")
    dense = model.model.layers[1].self_attn.k_proj.bias.clone()
    shaped = shape(model)

    shaped.apply(one_change(SPACE, 1, ATTENTION, 2))

    kept = shaped.model.model.layers[1].self_attn.k_proj.bias
    assert torch.equal(kept, dense.view(4, 4)[kept_units(Choice(2, 4))].flatten())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {(0, ATTENTION): 0},
        {(1, ATTENTION): 0},
        {(0, ATTENTION): 0, (1, ATTENTION): 0, (2, MLP): 0},
        {(layer, ATTENTION): 0 for layer in range(LAYERS)},
        {(0, ATTENTION): 0, (1, ATTENTION): 1, (2, ATTENTION): 3, (1, MLP): 8},
    ],
    ids=["dense", "first", "middle", "first two", "all", "widths"],
)
def test_a_kv_cache_changes_no_prediction(
    tiny_models: TinyModels, family: str, changes: dict[tuple[int, SiteKind], int]
) -> None:
    shaped = shape(tiny_models.load(family))
    shaped.apply(with_changes(SPACE, changes))
    cache = DynamicCache(config=shaped.model.config)

    with torch.inference_mode():
        parts = [
            shaped.model(part, past_key_values=cache, use_cache=True).logits
            for part in (IDS[:, :5], *IDS[:, 5:].split(1, dim=1))
        ]

    torch.testing.assert_close(
        torch.cat(parts, dim=1),
        logits_of(shaped.model, IDS),
        rtol=0.0,
        atol=TOLERANCES[torch.float32],
    )


def test_generation_is_greedy_without_the_first_attention(
    tiny_models: TinyModels, family: str
) -> None:
    shaped = shape(tiny_models.load(family))
    shaped.apply(one_change(SPACE, 0, ATTENTION, 0))

    whole = generate(shaped.model, IDS[:1, :5], 6)

    without_cache = logits_of(shaped.model, whole[:, :-1]).argmax(-1)
    assert torch.equal(whole[0, 5:], without_cache[0, 4:])


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Round as `PlainSlices` does."""
    found: Tensor = (weight * 2**bits).round() / 2**bits
    return found


def test_weights_stored_otherwise_are_put_in_place(tiny_models: TinyModels, family: str) -> None:
    reference = tiny_models.load(family)
    attention, mlp = reference.model.layers[1].self_attn, reference.model.layers[1].mlp
    for linear, bits in (
        (attention.q_proj, 4),
        (attention.k_proj, 4),
        (attention.v_proj, 4),
        (attention.o_proj, 2),
        (mlp.down_proj, 4),
    ):
        linear.weight.copy_(rounded(linear.weight, bits))
    model = tiny_models.load(family)
    space = tiny_space(family, weights=CODED)
    shaped = ShapedModel(model, space, PlainSlices(model))
    choices = dense_choices(space)
    choices[2] = Choice(KV_GROUPS, KV_GROUPS, (FOUR_BITS, TWO_BITS))
    choices[3] = Choice(FFN_COLUMNS, FFN_COLUMNS, (DENSE, FOUR_BITS))

    shaped.apply(choices)

    assert torch.equal(logits_of(shaped.model, IDS), logits_of(reference, IDS))


def test_a_narrow_site_keeps_the_rows_of_its_units_and_the_rounded_output(
    tiny_models: TinyModels, family: str
) -> None:
    model = tiny_models.load(family)
    space = tiny_space(family, weights=CODED)
    levels = PlainSlices(model)
    shaped = ShapedModel(model, space, levels)
    plain, coded = Choice(24, 48), Choice(24, 48, (FOUR_BITS, TWO_BITS))
    dense = [linear.weight.clone() for linear in shaped.linears(3)]

    shaped.set(3, coded)

    gate, up, down = (linear.weight for linear in shaped.linears(3))
    kept = kept_units(plain)
    assert torch.equal(gate, rounded(dense[0], 4)[kept])
    assert torch.equal(up, rounded(dense[1], 4)[kept])
    assert torch.equal(down, rounded(levels.level(space.sites[3], plain).output, 2))


def test_dense_after_any_stored_weights_is_the_untouched_model(
    tiny_models: TinyModels, family: str
) -> None:
    untouched = tiny_models.load(family).state_dict()
    model = tiny_models.load(family)
    space = tiny_space(family, weights=CODED)
    shaped = ShapedModel(model, space, PlainSlices(model))

    for entry in (1, 5, 9):
        shaped.apply([menu[entry].choices[0] for menu in space.menus])
        shaped.apply_dense()

    restored = shaped.model.state_dict()
    assert all(torch.equal(restored[name], untouched[name]) for name in untouched)


def test_changed_tensors_are_kept_up_to_a_number_of_bytes(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    space = tiny_space(weights=CODED)
    asked = []

    class Counting(PlainSlices):
        def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
            asked.append((site.layer, site.kind, group, choice.weights[group].bits))
            return super().weight(site, choice, group)

    shaped = ShapedModel(model, space, Counting(model))
    for bits in (FOUR_BITS, TWO_BITS, FOUR_BITS, TWO_BITS):
        shaped.set(0, Choice(KV_GROUPS, KV_GROUPS, (bits, FOUR_BITS)))

    assert asked == [(0, ATTENTION, 0, 4), (0, ATTENTION, 1, 4), (0, ATTENTION, 0, 2)]
