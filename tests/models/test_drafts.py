from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from autocompress.errors import ModelError
from autocompress.models.drafts import first_layers, spread_layers
from autocompress.models.kv_cache import uniform_cache
from autocompress.models.loading import load_model
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import SiteKind
from autocompress.spaces.settings import DENSE_CACHE
from tests.tiny_models import (
    CPU,
    LAYERS,
    PlainSlices,
    TinyModels,
    generate,
    logits_of,
    tiny_space,
    token_ids,
    with_changes,
)

Making = Callable[[PreTrainedModel, int], PreTrainedModel]
WAYS = pytest.mark.parametrize("make", [first_layers, spread_layers])


def shaped(folder: Path, dropped: list[tuple[int, SiteKind]]) -> PreTrainedModel:
    """Return a model some of whose sub-blocks are gone."""
    model = load_model(folder, CPU)
    space = tiny_space()
    ShapedModel(model, space, PlainSlices(model)).apply(
        with_changes(space, dict.fromkeys(dropped, 0))
    )
    return model


@WAYS
def test_a_draft_of_all_layers_is_the_model(
    make: Making, family: str, tiny_models: TinyModels
) -> None:
    model = tiny_models.load(family)
    ids = token_ids(2, 12)

    draft = make(model, LAYERS)

    assert torch.equal(logits_of(draft, ids), logits_of(model, ids))


def test_a_draft_takes_the_layers_it_says(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    weights = [layer.mlp.up_proj.weight for layer in model.model.layers]

    first = [layer.mlp.up_proj.weight for layer in first_layers(model, 2).model.layers]
    spread = [layer.mlp.up_proj.weight for layer in spread_layers(model, 2).model.layers]

    assert [own.data_ptr() for own in first] == [own.data_ptr() for own in weights[:2]]
    assert [own.data_ptr() for own in spread] == [weights[0].data_ptr(), weights[2].data_ptr()]


@WAYS
def test_a_draft_shares_every_tensor(make: Making, family: str, tiny_models: TinyModels) -> None:
    model = tiny_models.load(family)
    whole = {parameter.data_ptr() for parameter in model.parameters()}

    draft = make(model, 2)

    assert {parameter.data_ptr() for parameter in draft.parameters()} <= whole


@WAYS
def test_a_draft_leaves_its_model_as_it_was(
    make: Making, family: str, tiny_models: TinyModels
) -> None:
    model = tiny_models.load(family)
    prompt = token_ids(1, 9)
    before = generate(model, prompt, 8)
    modules = list(model.modules())

    draft = make(model, 1)
    logits_of(draft, prompt)

    assert list(model.modules()) == modules
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(LAYERS))
    assert model.config.num_hidden_layers == LAYERS
    assert torch.equal(generate(model, prompt, 8), before)


@WAYS
def test_a_draft_decodes_with_a_cache_of_its_own_layers(
    make: Making, family: str, tiny_models: TinyModels
) -> None:
    draft = make(tiny_models.load(family), 2)
    ids = token_ids(1, 12)
    cache = uniform_cache(draft, DENSE_CACHE)

    with torch.inference_mode():
        steps = [draft(ids[:, [place]], past_key_values=cache).logits for place in range(12)]

    assert len(cache.layers) == 2
    # Sums of float32 in another order.
    torch.testing.assert_close(torch.cat(steps, 1), logits_of(draft, ids), atol=1e-4, rtol=1e-4)


@WAYS
def test_a_draft_of_a_compressed_model_counts_the_attentions_it_has(
    make: Making, tiny_llama: Path
) -> None:
    model = shaped(tiny_llama, [(0, SiteKind.ATTENTION), (1, SiteKind.MLP)])
    draft = make(model, LAYERS)
    ids = token_ids(1, 12)
    cache = uniform_cache(draft, DENSE_CACHE)

    with torch.inference_mode():
        steps = [draft(ids[:, [place]], past_key_values=cache).logits for place in range(12)]

    assert len(cache.layers) == LAYERS - 1
    torch.testing.assert_close(torch.cat(steps, 1), logits_of(model, ids), atol=1e-4, rtol=1e-4)


def test_a_draft_needs_an_attention(tiny_llama: Path) -> None:
    model = shaped(tiny_llama, [(0, SiteKind.ATTENTION)])

    with pytest.raises(ModelError, match="None of the 1 layers of this draft has an attention"):
        first_layers(model, 1)


@WAYS
@pytest.mark.parametrize("n_layers", [0, LAYERS + 1])
def test_a_draft_has_no_more_layers_than_the_model(
    make: Making, n_layers: int, tiny_models: TinyModels
) -> None:
    with pytest.raises(ModelError, match=f"1 to {LAYERS} of the model's layers, but got"):
        make(tiny_models.load(), n_layers)
