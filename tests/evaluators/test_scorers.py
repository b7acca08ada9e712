"""Scores by rule against direct sums, angles known beforehand, and what no rule may depend on."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from autocompress.errors import EvaluationError
from autocompress.evaluators.scorers import Window, block_influence, weight_error, window_cosine
from autocompress.models.surgery import Level
from autocompress.spaces.base import Choice, SearchSpace, Site, SiteKind
from tests.tiny_models import (
    FFN_COLUMNS,
    LAYERS,
    VOCABULARY,
    PlainSlices,
    TinyModels,
    kept_units,
    tiny_space,
    token_ids,
)

SPACE = tiny_space()
ReadsText = Callable[[PreTrainedModel, SearchSpace, Tensor], object]
ATTENTION, MLP = SiteKind.ATTENTION, SiteKind.MLP
# Not a multiple of the four sequences that are run together.
IDS = token_ids(6, 10)
# Rounding of single precision on scores of 1e-3 and more, in sums taken in another order.
ROUNDING = 1e-4
spaces = pytest.mark.parametrize(
    "space",
    [SPACE, tiny_space(width=False), tiny_space(depth=False)],
    ids=["both", "depth", "width"],
)
turning_layers = pytest.mark.parametrize("layer", range(LAYERS))


@dataclass(frozen=True)
class Walk:
    """What a model adds to its residual stream, caught where it is computed, in double."""

    embedded: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)

    def points(self) -> list[Tensor]:
        """Return the stream before each sub-block and behind the last, (B, T, hidden) each."""
        stream = self.embedded[0]
        points = [stream]
        for part in self.added:
            stream = stream + part
            points.append(stream)
        return points


@torch.inference_mode()
def walk(model: PreTrainedModel, ids: Tensor) -> Walk:
    caught = Walk()
    inner = model.model
    handles = [
        inner.embed_tokens.register_forward_hook(
            lambda _module, _inputs, output: caught.embedded.append(output.double())
        )
    ]
    for layer in inner.layers:
        handles += [
            layer.self_attn.register_forward_hook(
                lambda _module, _inputs, output: caught.added.append(output[0].double())
            ),
            layer.mlp.register_forward_hook(
                lambda _module, _inputs, output: caught.added.append(output.double())
            ),
        ]
    inner(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return caught


@torch.no_grad()
def turn_once(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """Let only one MLP add to the stream, at a right angle and as long: the stream turns by 45°.

    Every token is embedded as 100 e₀, which the norm makes √32 e₀; one column of the MLP is 1
    there, so its activation is silu(1), and the output projection makes it 100 e₁.
    """
    embedding = model.model.embed_tokens.weight
    embedding.zero_()
    embedding[:, 0] = 100.0
    for block in model.model.layers:
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    block = model.model.layers[layer]
    block.post_attention_layernorm.weight.fill_(1.0)
    for linear in (block.mlp.gate_proj, block.mlp.up_proj):
        linear.weight[0, 0] = 1 / math.sqrt(32)
    block.mlp.down_proj.weight[1, 0] = 100.0 * (1 + math.exp(-1))
    return model


@torch.no_grad()
def poison(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    model.model.layers[layer].mlp.down_proj.weight[0, 0] = math.nan
    return model


def half_turns(before: Tensor, after: Tensor) -> float:
    """Return the mean angle of (B, hidden) by the formula of the paper."""
    cosines = functional.cosine_similarity(before, after, dim=-1)
    return float(cosines.arccos().mean()) / math.pi


def drops(space: SearchSpace, scores: list[list[float]]) -> dict[tuple[int, SiteKind], float]:
    return {
        (site.layer, site.kind): of_menu[-1]
        for site, of_menu in zip(space.sites, scores, strict=True)
    }


class NothingBuilt:
    """A level database without levels."""

    def level(self, site: Site, choice: Choice) -> Level:
        raise EvaluationError(f"Level {choice} of layer {site.layer} {site.kind} was never built.")

    def weight(self, site: Site, choice: Choice, group: int) -> Tensor:
        raise EvaluationError(f"{site.groups[group].name} in {choice} was never built.")


def weights_of_units(model: PreTrainedModel, site: Site) -> Tensor:
    """Return all weights of a site by unit, (units, weights of one), in double."""
    block = model.model.layers[site.layer]
    part = block.self_attn if site.kind is ATTENTION else block.mlp
    outputs = {"o_proj", "down_proj"}
    weights = [
        linear.weight.detach().T if name in outputs else linear.weight.detach()
        for name, linear in part.named_children()
        if isinstance(linear, torch.nn.Linear)
    ]
    return torch.cat([weight.reshape(site.units, -1) for weight in weights], 1).double()


def keep_site(space: SearchSpace, layer: int, kind: SiteKind) -> SearchSpace:
    """Return the space without the genes of one site."""
    keep = (layer, kind)
    sites = [
        replace(site, genes=()) if (site.layer, site.kind) == keep else site
        for site in space.sites
    ]
    return SearchSpace(tuple(sites))


@spaces
def test_scores_have_the_shape_of_the_menus(tiny_models: TinyModels, space: SearchSpace) -> None:
    model = tiny_models.load()

    for scores in (
        block_influence(model, space, IDS),
        weight_error(model, space, PlainSlices(model)),
    ):
        assert [len(of_menu) for of_menu in scores] == [len(menu) for menu in space.menus]


@spaces
def test_dense_scores_nothing_and_narrower_never_less(
    tiny_models: TinyModels, family: str, space: SearchSpace
) -> None:
    model = tiny_models.load(family)

    for scores in (
        block_influence(model, space, IDS),
        # The slices keep the first units of one order, so the wider holds the narrower.
        weight_error(model, space, PlainSlices(model)),
    ):
        for of_menu in scores:
            assert of_menu[0] == 0.0
            assert of_menu == sorted(of_menu)
            assert of_menu[-1] > 0.0


def test_influence_equals_a_direct_mean(tiny_models: TinyModels, family: str) -> None:
    points = walk(tiny_models.load(family), IDS).points()
    turns = [
        1 - functional.cosine_similarity(before, after, dim=-1).mean().item()
        for before, after in itertools.pairwise(points)
    ]

    found = drops(SPACE, block_influence(tiny_models.load(family), SPACE, IDS))

    for layer in range(LAYERS):
        assert found[layer, ATTENTION] == pytest.approx(turns[2 * layer], rel=ROUNDING)
        assert found[layer, MLP] == pytest.approx(turns[2 * layer + 1], rel=ROUNDING)


@turning_layers
def test_influence_of_a_turn_by_45_degrees(tiny_models: TinyModels, layer: int) -> None:
    model = turn_once(tiny_models.load(), layer)

    found = drops(SPACE, block_influence(model, SPACE, IDS))

    assert found.pop((layer, MLP)) == pytest.approx(1 - math.sqrt(0.5), rel=ROUNDING)
    assert set(found.values()) == {0.0}


def test_whole_layers_are_scored_by_the_stream_before_and_after_them(
    tiny_models: TinyModels,
) -> None:
    """As ShortGPT has it."""
    model = tiny_models.load()
    space = tiny_space(width=False, whole_layers=True)
    streams = model.model(IDS, use_cache=False, output_hidden_states=True).hidden_states

    scores = block_influence(model, space, IDS)

    for layer, (before, after) in enumerate(itertools.pairwise(streams[:LAYERS])):
        similar = torch.cosine_similarity(before.double(), after.double(), dim=-1).mean()
        assert scores[layer] == pytest.approx([0.0, 1 - float(similar)], rel=1e-4)


def test_a_whole_layer_takes_the_weights_of_its_sites(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    levels = PlainSlices(model)

    by_site = weight_error(model, tiny_space(width=False), levels)
    by_layer = weight_error(model, tiny_space(width=False, whole_layers=True), levels)

    drops = [scores[-1] for scores in by_site]
    assert [scores[-1] for scores in by_layer] == pytest.approx(
        [attention + mlp for attention, mlp in zip(drops[::2], drops[1::2], strict=True)]
    )


def test_a_width_is_charged_its_share_of_the_drop(tiny_models: TinyModels) -> None:
    scores = block_influence(tiny_models.load(), SPACE, IDS)

    for menu, of_menu in zip(SPACE.menus, scores, strict=True):
        shares = [score / of_menu[-1] for score in of_menu]
        assert shares == pytest.approx(
            [1 - entry.choices[0].kept / menu[0].choices[0].kept for entry in menu]
        )


def test_a_width_is_charged_alike_where_nothing_can_be_dropped(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    both = block_influence(model, SPACE, IDS)
    width = block_influence(model, tiny_space(depth=False), IDS)

    assert width == [of_menu[:-1] for of_menu in both]


def test_influence_leaves_out_sites_that_the_space_lacks(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    backwards = SearchSpace(SPACE.sites[:0:-1])

    scores = block_influence(model, backwards, IDS)

    assert scores == block_influence(model, SPACE, IDS)[:0:-1]


@pytest.mark.parametrize("n", [1, 3, 5])
def test_influence_does_not_depend_on_the_batches(tiny_models: TinyModels, n: int) -> None:
    model = tiny_models.load()

    whole = drops(SPACE, block_influence(model, SPACE, IDS))
    parts = [drops(SPACE, block_influence(model, SPACE, part)) for part in (IDS[:n], IDS[n:])]

    for site, score in whole.items():
        mean = (n * parts[0][site] + (len(IDS) - n) * parts[1][site]) / len(IDS)
        assert score == pytest.approx(mean, rel=ROUNDING)


def test_influence_does_not_depend_on_the_order_of_sequences(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    forwards = drops(SPACE, block_influence(model, SPACE, IDS))
    backwards = drops(SPACE, block_influence(model, SPACE, IDS.flip(0)))

    assert backwards == pytest.approx(forwards, rel=ROUNDING)


def test_a_site_that_adds_nothing_has_no_influence(tiny_models: TinyModels, family: str) -> None:
    model = tiny_models.load(family)
    torch.nn.init.zeros_(model.model.layers[1].self_attn.o_proj.weight)
    torch.nn.init.zeros_(model.model.layers[2].mlp.down_proj.weight)

    found = drops(SPACE, block_influence(model, SPACE, IDS))

    assert [site for site, score in found.items() if score == 0.0] == [(1, ATTENTION), (2, MLP)]


def test_half_precision_scores_nearly_the_same(tiny_models: TinyModels) -> None:
    full = drops(SPACE, block_influence(tiny_models.load(), SPACE, IDS))

    half = drops(SPACE, block_influence(tiny_models.load(dtype=torch.bfloat16), SPACE, IDS))

    # Streams carry 8 bits; a mean over 60 tokens evens some of their rounding out.
    assert half == pytest.approx(full, rel=0.1)


def test_windows_equal_a_direct_search(tiny_models: TinyModels, family: str) -> None:
    inputs = [stream[:, -1] for stream in walk(tiny_models.load(family), IDS).points()[::2]]

    found = window_cosine(tiny_models.load(family), SPACE, IDS)

    assert [window.n_layers for window in found] == list(range(1, LAYERS))
    for window in found:
        pairs = zip(inputs, inputs[window.n_layers :], strict=False)
        distances = [half_turns(before, after) for before, after in pairs]
        assert window.start == distances.index(min(distances))
        assert window.distance == pytest.approx(min(distances), rel=ROUNDING)


@turning_layers
def test_windows_avoid_the_layer_that_turns_the_stream(
    tiny_models: TinyModels, layer: int
) -> None:
    model = turn_once(tiny_models.load(), layer)

    one, two = window_cosine(model, SPACE, IDS)

    assert one == Window(1, [1, 0, 0][layer], 0.0)
    assert (two.n_layers, two.start) == (2, [1, 0, 0][layer])
    # Two layers of three cannot go without the middle one.
    assert two.distance == pytest.approx([0.0, 0.25, 0.0][layer], rel=ROUNDING)


def test_windows_hold_only_layers_that_can_be_dropped_whole(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    middle_kept = window_cosine(model, keep_site(SPACE, 1, MLP), IDS)
    first_kept = window_cosine(model, keep_site(SPACE, 0, ATTENTION), IDS)
    only_widths = window_cosine(model, tiny_space(depth=False), IDS)

    assert [window.n_layers for window in middle_kept] == [1]
    assert middle_kept[0].start in {0, 2}
    assert first_kept[1].n_layers == 2
    assert first_kept[1].start == 1
    assert only_widths == []


def test_windows_of_one_layer_equal_the_plain_distance(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    streams = [stream[:, -1] for stream in walk(model, IDS).points()[::2]]

    for layer in range(LAYERS):
        space = SPACE
        for other in set(range(LAYERS)) - {layer}:
            space = keep_site(space, other, MLP)
        (window,) = window_cosine(model, space, IDS)

        assert (window.n_layers, window.start) == (1, layer)
        plain = half_turns(streams[layer], streams[layer + 1])
        assert window.distance == pytest.approx(plain, rel=ROUNDING)


def test_windows_read_only_the_last_token_of_a_sequence(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    for block in model.model.layers:
        # Without attention no token knows of the others.
        torch.nn.init.zeros_(block.self_attn.o_proj.weight)

    whole = window_cosine(model, SPACE, IDS)
    last = window_cosine(model, SPACE, IDS[:, -1:])

    assert [(w.n_layers, w.start) for w in whole] == [(w.n_layers, w.start) for w in last]
    assert [w.distance for w in whole] == pytest.approx([w.distance for w in last], rel=ROUNDING)


def test_windows_do_not_depend_on_the_batches(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    forwards = window_cosine(model, SPACE, IDS)
    backwards = window_cosine(model, SPACE, IDS.flip(0))

    assert [w.start for w in forwards] == [w.start for w in backwards]
    assert [w.distance for w in forwards] == pytest.approx(
        [w.distance for w in backwards], rel=ROUNDING
    )


def test_weight_error_equals_a_direct_sum(tiny_models: TinyModels, family: str) -> None:
    model = tiny_models.load(family)

    scores = weight_error(model, SPACE, PlainSlices(model))

    parameters = sum(tensor.numel() for tensor in model.parameters())
    for site, menu, of_menu in zip(SPACE.sites, SPACE.menus, scores, strict=True):
        units = weights_of_units(model, site)
        total = float(units.square().sum())
        for entry, score in zip(menu, of_menu, strict=True):
            kept = float(units[kept_units(entry.choices[0]).long()].square().sum())
            direct = (1 - kept / total) * units.numel() / parameters
            assert score == pytest.approx(direct, rel=ROUNDING, abs=1e-9)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_drop_scores_the_parameters_that_it_takes(tiny_models: TinyModels, tied: bool) -> None:
    model = tiny_models.load(tied=tied)
    # Embedding and head, which are one if tied; layers with two norms; the final norm.
    attention, mlp = 2 * 32 * 32 + 2 * 32 * 16, 3 * 32 * FFN_COLUMNS
    embeddings = (1 if tied else 2) * VOCABULARY * 32
    parameters = embeddings + LAYERS * (attention + mlp + 2 * 32) + 32

    found = drops(SPACE, weight_error(model, SPACE, PlainSlices(model)))

    for layer in range(LAYERS):
        assert found[layer, ATTENTION] == pytest.approx(attention / parameters, rel=ROUNDING)
        assert found[layer, MLP] == pytest.approx(mlp / parameters, rel=ROUNDING)


def test_weight_error_does_not_depend_on_the_scale_of_a_site(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    before = weight_error(model, SPACE, PlainSlices(model))

    for linear in model.model.layers[1].mlp.children():
        if isinstance(linear, torch.nn.Linear):
            linear.weight = torch.nn.Parameter(8.0 * linear.weight.detach())
    after = weight_error(model, SPACE, PlainSlices(model))

    # A power of two rounds nothing.
    assert after == before


def test_units_that_are_zero_go_for_nothing(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    mlp = model.model.layers[0].mlp
    narrow = next(entry.choices[0] for entry in SPACE.menus[1] if entry.choices[0].kept == 16)
    gone = torch.ones(FFN_COLUMNS, dtype=torch.bool)
    gone[kept_units(narrow)] = False
    with torch.no_grad():
        mlp.gate_proj.weight[gone] = 0.0
        mlp.up_proj.weight[gone] = 0.0
        mlp.down_proj.weight[:, gone] = 0.0

    scores = weight_error(model, SPACE, PlainSlices(model))[1]

    for entry, score in zip(SPACE.menus[1], scores, strict=True):
        assert (score == 0.0) == (entry.choices[0].kept >= 16)


def test_a_site_of_zeros_goes_for_nothing(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    for parameter in model.model.layers[1].mlp.parameters():
        torch.nn.init.zeros_(parameter)

    scores = weight_error(model, SPACE, PlainSlices(model))

    assert set(scores[3]) == {0.0}
    assert scores[2][-1] > 0.0


def test_weight_error_asks_for_widths_only(tiny_models: TinyModels) -> None:
    model = tiny_models.load()

    scores = weight_error(model, tiny_space(width=False), NothingBuilt())

    assert {len(of_menu) for of_menu in scores} == {2}
    with pytest.raises(EvaluationError, match="Level width 3/4 of layer 0 attention"):
        weight_error(model, SPACE, NothingBuilt())


def test_scores_that_are_not_finite_are_an_error_by_name(tiny_models: TinyModels) -> None:
    model = poison(tiny_models.load(), 2)
    expected = "^`score is finite` must hold, but got nan for layer 2 mlp; try --dtype float32.$"

    with pytest.raises(EvaluationError, match=expected):
        block_influence(model, SPACE, IDS)
    with pytest.raises(EvaluationError, match=expected):
        weight_error(model, SPACE, PlainSlices(model))
    with pytest.raises(EvaluationError, match="but got nan for layers 2 to 2; try"):
        window_cosine(model, SPACE, IDS)


@pytest.mark.parametrize("score", [block_influence, window_cosine])
def test_scoring_leaves_no_hook_behind(tiny_models: TinyModels, score: ReadsText) -> None:
    model = tiny_models.load()

    score(model, SPACE, IDS)
    with pytest.raises(IndexError):
        score(model, SPACE, IDS + VOCABULARY)

    assert not any(module._forward_pre_hooks for module in model.modules())
