"""A KV cache in 8 or 4 bits: one pass sees what generation holds; it is as small as it says."""

import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from autocompress.errors import EngineError
from autocompress.models.cache_codes import encode_keys, encode_values, pack, unpack
from autocompress.models.cached_attention import cached_attention_arguments
from autocompress.models.generation import generate
from autocompress.models.kv_cache import QuantizedCacheLayer, held_bytes, make_cache
from autocompress.models.stepping import Stepper
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import Choice, SiteKind
from autocompress.spaces.settings import (
    CACHE_BITS,
    CACHE_GROUP,
    DENSE_CACHE,
    CacheSetting,
)
from tests.tiny_models import (
    LAYERS,
    VOCABULARY,
    PlainSlices,
    TinyModels,
    dense_choices,
    logits_of,
    tiny_space,
    token_ids,
    with_changes,
)

SPACE = tiny_space()
KV8, KV4 = CacheSetting(8), CacheSetting(4)
MIXED = (KV4, DENSE_CACHE, KV8)
# Eager attention takes its softmax in float32, whose last bits let a later layer's key be rounded
# to the next code. The first layer's keys and values depend on no attention.
FIRST = (KV4, DENSE_CACHE, DENSE_CACHE)
# A group is 32: none complete, one just complete, one token that reads codes, two and a rest.
LENGTHS = (5, 32, 33, 77)
# Many tokens at once and one by one add the same products in another order. In float64 a key is
# then off by some 2**-50, too little to be rounded to another code; in float32 some are, which
# moves logits by up to 0.003. Norms and these logits are float32: a logit is about 1, and some
# twenty roundings of 2**-24 are below this. To read codes one token too early moves one by 0.03.
ORDER_OF_SUMS = 1e-5

both_bits = pytest.mark.parametrize("bits", CACHE_BITS)


def load(tiny_models: TinyModels, family: str) -> PreTrainedModel:
    return tiny_models.load(family, dtype=torch.float64)


def shape(model: PreTrainedModel, choices: Sequence[Choice] | None = None) -> ShapedModel:
    shaped = ShapedModel(model, SPACE, PlainSlices(model))
    shaped.apply(choices or dense_choices(SPACE))
    return shaped


@torch.inference_mode()
def in_one_pass(shaped: ShapedModel, ids: Tensor, settings: Sequence[CacheSetting]) -> Tensor:
    """Return the logits of a pass over the sites, (B, T, V); a setting for each layer."""
    stepper = Stepper(shaped)
    states = stepper.embed(ids)
    for index, site in enumerate(SPACE.sites):
        states = stepper.run(index, states, settings[site.layer])
    return stepper.logits(stepper.finish(states))


@torch.inference_mode()
def in_chunks(
    model: PreTrainedModel, ids: Tensor, settings: Sequence[CacheSetting], tokens: int = 1
) -> Tensor:
    """Return the logits, (B, T, V), of feeding some tokens at a time to a real cache."""
    cache = make_cache(model, settings)
    chunks = [model(part, past_key_values=cache).logits for part in ids.split(tokens, 1)]
    return torch.cat(chunks, 1).float()


def random_states(length: int, head_size: int = 8, seed: int = 0) -> Tensor:
    """Return keys or values of 2 sequences and 3 heads, each channel with its own range."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn((2, 3, length, head_size), generator=generator)
    return states * torch.arange(1, head_size + 1) + 10


def filled_layer(bits: int, length: int) -> QuantizedCacheLayer:
    """Return a layer that holds so many tokens, added one by one."""
    layer = QuantizedCacheLayer(bits)
    for key, value in zip(
        random_states(length, seed=1).split(1, 2),
        random_states(length, seed=2).split(1, 2),
        strict=True,
    ):
        layer.update(key, value)
    return layer


# Codes.


@given(st.sampled_from(CACHE_BITS), st.integers(0, 2**32 - 1))
def test_codes_are_read_back_as_they_were_packed(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 2**bits, (1, 2, 3, CACHE_GROUP, 5), generator=generator).byte()

    packed = pack(codes, bits)

    assert packed.nbytes == codes.numel() * bits // 8
    assert torch.equal(unpack(packed, bits), codes)


@both_bits
def test_a_key_is_off_by_half_a_step_of_its_channel_at_most(bits: int) -> None:
    keys = random_states(2 * CACHE_GROUP)

    found = encode_keys(keys, bits).numbers(keys.dtype)

    groups = keys.unflatten(2, (2, CACHE_GROUP))
    steps = (groups.amax(3) - groups.amin(3)) / (2**bits - 1)
    # Scale and lowest number have 11 bits: they are off by 2**-11 of the channel's numbers.
    allowed = steps / 2 + groups.abs().amax(3) * 2**-10
    assert ((found - keys).unflatten(2, (2, CACHE_GROUP)).abs() <= allowed[:, :, :, None]).all()


@both_bits
@pytest.mark.parametrize(("head_size", "shared"), [(8, 8), (64, 32), (80, 80)])
def test_a_value_is_off_by_half_a_step_of_its_token_at_most(
    bits: int, head_size: int, shared: int
) -> None:
    values = random_states(CACHE_GROUP, head_size)

    found = encode_values(values, bits).numbers(values.dtype)

    groups = values.unflatten(3, (-1, shared))
    steps = (groups.amax(4) - groups.amin(4)) / (2**bits - 1)
    allowed = steps / 2 + groups.abs().amax(4) * 2**-10
    assert ((found - values).unflatten(3, (-1, shared)).abs() <= allowed[..., None]).all()


@both_bits
def test_numbers_that_are_all_equal_are_held_exactly(bits: int) -> None:
    keys = torch.full((1, 1, CACHE_GROUP, 4), -2.5)

    assert torch.equal(encode_keys(keys, bits).numbers(keys.dtype), keys)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e5])
def test_what_16_bits_cannot_hold_is_not_read_as_a_number(number: float) -> None:
    keys = torch.full((1, 1, CACHE_GROUP, 1), number)

    assert not encode_keys(keys, 4).numbers(keys.dtype).isfinite().any()


# The cache of one attention.


@both_bits
def test_the_token_that_completes_a_group_sees_it_in_full_and_the_next_one_in_codes(
    bits: int,
) -> None:
    keys, values = random_states(CACHE_GROUP + 1, seed=1), random_states(CACHE_GROUP + 1, seed=2)
    layer = QuantizedCacheLayer(bits)
    layer.update(keys[:, :, : CACHE_GROUP - 1], values[:, :, : CACHE_GROUP - 1])

    at_end = layer.update(keys[:, :, [-2]], values[:, :, [-2]])
    after = layer.update(keys[:, :, [-1]], values[:, :, [-1]])

    whole = keys[:, :, :CACHE_GROUP], values[:, :, :CACHE_GROUP]
    assert torch.equal(at_end[0], whole[0])
    assert torch.equal(at_end[1], whole[1])
    coded_keys = encode_keys(whole[0], bits).numbers(keys.dtype)
    coded_values = encode_values(whole[1], bits).numbers(values.dtype)
    assert torch.equal(after[0], torch.cat([coded_keys, keys[:, :, [-1]]], 2))
    assert torch.equal(after[1], torch.cat([coded_values, values[:, :, [-1]]], 2))


@both_bits
@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_held_does_not_depend_on_how_the_tokens_came(bits: int, length: int) -> None:
    one_by_one, at_once = filled_layer(bits, length), QuantizedCacheLayer(bits)
    at_once.update(random_states(length, seed=1), random_states(length, seed=2))
    more = random_states(1, seed=3)

    assert one_by_one.bytes == at_once.bytes
    assert one_by_one.get_seq_length() == at_once.get_seq_length() == length
    for first, second in zip(
        one_by_one.update(more, more), at_once.update(more, more), strict=True
    ):
        assert torch.equal(first, second)


@both_bits
@pytest.mark.parametrize("length", [31, 40])
def test_sequences_are_reordered_repeated_and_selected(bits: int, length: int) -> None:
    layer, more = filled_layer(bits, length), random_states(1, seed=3)
    before = filled_layer(bits, length).update(more, more)[0]

    layer.reorder_cache(torch.tensor([1, 0]))
    layer.batch_repeat_interleave(2)
    layer.batch_select_indices(torch.tensor([0, 3]))

    after = layer.update(more.flip(0), more.flip(0))[0]
    assert torch.equal(after, before.flip(0))


def test_a_layer_that_is_reset_starts_again() -> None:
    layer = filled_layer(4, 40)

    layer.reset()

    assert (layer.get_seq_length(), layer.bytes) == (0, 0)
    states = random_states(3)
    assert torch.equal(layer.update(states, states)[0], states)


def test_tokens_cannot_be_taken_back() -> None:
    message = "A KV cache of 4 bits cannot take back 2 tokens: their group is in codes."

    with pytest.raises(EngineError, match=re.escape(message)):
        filled_layer(4, 40).crop(-2)


def test_bits_without_codes_are_refused() -> None:
    message = "`bits` of a KV cache must be one of 8, 4, but got 3."

    with pytest.raises(EngineError, match=re.escape(message)):
        QuantizedCacheLayer(3)


@pytest.mark.parametrize("setting", [DENSE_CACHE, KV8, KV4], ids=str)
@pytest.mark.parametrize("head_size", [64, 80])
def test_a_long_text_takes_the_bytes_that_the_setting_says(
    tiny_models: TinyModels, setting: CacheSetting, head_size: int
) -> None:
    length = 256 * CACHE_GROUP + 15  # the half group that is not yet in codes
    states = random_states(length, head_size).bfloat16()
    cache = make_cache(tiny_models.load(), [setting] * LAYERS)

    for layer in range(LAYERS):
        cache.update(states, states, layer)

    said = 2 * LAYERS * length * setting.token_bits(3, head_size, dense_bits=16) / 8
    # The half group takes at most 16 bits where 4 are counted: 15 * 3 / 8192 is 0.6 %.
    assert held_bytes(cache) == pytest.approx(said, rel=0.01)


# The cache of a model.


@pytest.mark.parametrize("tokens", [16, CACHE_GROUP])
def test_a_prompt_in_chunks_that_end_with_groups_equals_token_by_token(
    tiny_models: TinyModels, family: str, tokens: int
) -> None:
    ids = token_ids(2, 77)
    model = load(tiny_models, family)

    found = in_chunks(model, ids, MIXED, tokens)

    wanted = in_chunks(model, ids, MIXED)
    torch.testing.assert_close(found, wanted, rtol=0, atol=ORDER_OF_SUMS)


def test_a_prompt_at_once_sees_itself_in_full_precision(
    tiny_models: TinyModels, family: str
) -> None:
    ids = token_ids(2, 77)
    model = load(tiny_models, family)

    at_once = in_chunks(model, ids, (KV4,) * LAYERS, tokens=77)

    torch.testing.assert_close(at_once, logits_of(model, ids).float(), rtol=0, atol=ORDER_OF_SUMS)
    coded = in_chunks(model, ids, (KV4,) * LAYERS)
    assert (at_once - coded)[:, CACHE_GROUP:].abs().max() > 100 * ORDER_OF_SUMS


def test_a_cache_of_dense_settings_is_bit_identical_to_the_usual_one(
    tiny_models: TinyModels, family: str
) -> None:
    ids = token_ids(2, 77)
    model = tiny_models.load(family)
    usual = DynamicCache(config=model.config)

    found = in_chunks(model, ids, (DENSE_CACHE,) * LAYERS)

    with torch.inference_mode():
        wanted = [model(part, past_key_values=usual).logits for part in ids.split(1, 1)]
    assert torch.equal(found, torch.cat(wanted, 1))


def test_generation_reads_its_prompt_as_token_by_token(
    tiny_models: TinyModels, family: str
) -> None:
    prompt = token_ids(2, 70)
    model = load(tiny_models, family)

    whole, raw = generate(model, prompt, 30, make_cache(model, MIXED))

    wanted = in_chunks(model, whole, MIXED)[:, 69:-1]
    torch.testing.assert_close(raw.float(), wanted, rtol=0, atol=ORDER_OF_SUMS)
    assert raw.shape == (2, 30, VOCABULARY)


def test_beams_are_searched(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    found = model.generate(  # type: ignore[operator]  # a mixin that mypy does not see
        token_ids(1, 40),
        past_key_values=make_cache(model, MIXED),
        max_new_tokens=30,
        num_beams=3,
        do_sample=False,
        pad_token_id=0,
    )

    assert found.shape == (1, 70)


def test_settings_for_attentions_that_are_not_there_are_refused(tiny_models: TinyModels) -> None:
    model = tiny_models.load()
    message = "A KV cache needs one setting for each of the 3 attentions that are left, but got 2."

    with pytest.raises(EngineError, match=re.escape(message)):
        make_cache(model, [KV4, KV8])


# One pass against generation.


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("settings", [(KV8,) * LAYERS, (KV4,) * LAYERS, MIXED], ids=str)
def test_one_pass_sees_what_generation_token_by_token_holds(
    tiny_models: TinyModels, family: str, settings: tuple[CacheSetting, ...], length: int
) -> None:
    ids = token_ids(2, length)
    shaped = shape(load(tiny_models, family))

    found = in_one_pass(shaped, ids, settings)

    wanted = in_chunks(shaped.model, ids, settings)
    torch.testing.assert_close(found, wanted, rtol=0, atol=ORDER_OF_SUMS)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_one_pass_equals_generation_with_each_attention(
    tiny_models: TinyModels, family: str, implementation: str
) -> None:
    ids = token_ids(2, 70)
    shaped = shape(load(tiny_models, family))
    shaped.model.set_attn_implementation(implementation)

    found = in_one_pass(shaped, ids, FIRST)

    wanted = in_chunks(shaped.model, ids, FIRST)
    torch.testing.assert_close(found, wanted, rtol=0, atol=ORDER_OF_SUMS)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_one_pass_equals_generation_through_a_sliding_window(
    tiny_models: TinyModels, implementation: str
) -> None:
    ids = token_ids(2, 70)
    model = load(tiny_models, "mistral")
    model.config.sliding_window = 40
    shaped = shape(model)
    model.set_attn_implementation(implementation)

    found = in_one_pass(shaped, ids, FIRST)

    torch.testing.assert_close(found, in_chunks(model, ids, FIRST), rtol=0, atol=ORDER_OF_SUMS)


def test_one_pass_equals_generation_of_a_model_without_some_attentions(
    tiny_models: TinyModels, family: str
) -> None:
    ids = token_ids(2, 70)
    attention = SiteKind.ATTENTION
    choices = with_changes(SPACE, {(0, attention): 0, (2, attention): 2})
    shaped = shape(load(tiny_models, family), choices)

    found = in_one_pass(shaped, ids, (DENSE_CACHE, KV4, KV8))

    wanted = in_chunks(shaped.model, ids, (KV4, KV8))
    torch.testing.assert_close(found, wanted, rtol=0, atol=ORDER_OF_SUMS)


def test_a_sequence_does_not_depend_on_the_others(tiny_models: TinyModels, family: str) -> None:
    ids = token_ids(3, 70)
    shaped = shape(load(tiny_models, family))

    together = in_one_pass(shaped, ids, MIXED)

    alone = torch.cat([in_one_pass(shaped, row, MIXED) for row in ids.split(1)])
    torch.testing.assert_close(together, alone, rtol=0, atol=ORDER_OF_SUMS)


def test_8_bits_are_nearer_to_dense_than_4(tiny_models: TinyModels, family: str) -> None:
    ids = token_ids(2, 77)
    shaped = shape(load(tiny_models, family))
    dense = logits_of(shaped.model, ids).float()

    errors = [
        (in_one_pass(shaped, ids, (setting,) * LAYERS) - dense).square().mean()
        for setting in (KV8, KV4)
    ]

    # A step is 17 times as large and these are squares: one such factor is to spare.
    assert 0 < 17 * errors[0] < errors[1]


def test_a_dense_setting_is_bit_identical_to_none(tiny_models: TinyModels, family: str) -> None:
    ids = token_ids(2, 77)
    shaped = shape(tiny_models.load(family))

    found = in_one_pass(shaped, ids, (DENSE_CACHE,) * LAYERS)

    assert torch.equal(found, logits_of(shaped.model, ids))


def test_up_to_a_group_an_attention_is_called_as_without_a_cache() -> None:
    context = {"position_embeddings": (torch.zeros(1, 32, 4),) * 2, "attention_mask": None}

    assert cached_attention_arguments(KV4, context) is context
