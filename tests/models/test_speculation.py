from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from autocompress.models.drafts import first_layers, spread_layers
from autocompress.models.generation_settings import logits_processors
from autocompress.models.kv_cache import uniform_cache
from autocompress.models.proposers import DraftModel, Lookup, LookupFirst
from autocompress.models.speculation import Choosing, Proposal, Proposer, Spoken, read, speak
from autocompress.spaces.decoding import Decoding
from autocompress.spaces.settings import DENSE_CACHE
from tests.tiny_models import TinyModels, generate

N_TOKENS = 24
Making = Callable[[PreTrainedModel, Choosing, int], Proposer]


def never(_answer: list[int]) -> bool:
    return False


def alike(model: PreTrainedModel) -> PreTrainedModel:
    """Return a draft that agrees with its model about half of the time."""
    return first_layers(model, 2)


MAKINGS: Mapping[str, Making] = {
    "lookup of one": lambda _model, _choosing, tokens: Lookup(tokens, 1),
    "lookup of three": lambda _model, _choosing, tokens: Lookup(tokens, 3),
    "lookup first": lambda model, choosing, tokens: LookupFirst(
        Lookup(4, 1), DraftModel(first_layers(model, 1), choosing, tokens)
    ),
    "exit": lambda model, choosing, tokens: DraftModel(alike(model), choosing, tokens),
    "skip, adaptive": lambda model, choosing, tokens: DraftModel(
        spread_layers(model, 2), choosing, tokens, "adaptive"
    ),
    "exit, threshold": lambda model, choosing, tokens: DraftModel(
        alike(model), choosing, tokens, "threshold", 0.3
    ),
    "itself": DraftModel,
    "itself, adaptive": lambda model, choosing, tokens: DraftModel(
        model, choosing, tokens, "adaptive"
    ),
}
PROPOSERS = pytest.mark.parametrize("making", MAKINGS.values(), ids=MAKINGS)
PROMPTS = st.lists(st.integers(0, 319), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def model(tiny_models: TinyModels) -> PreTrainedModel:
    return tiny_models.load()


def dense_layers(cache: Cache) -> list[DynamicLayer]:
    return cast("list[DynamicLayer]", cache.layers)


def greedy(decoding: Decoding | None = None) -> Choosing:
    return Choosing(logits_processors(decoding or {}), None)


def said(
    model: PreTrainedModel,
    prompt: list[int],
    choosing: Choosing,
    proposer: Proposer | None = None,
    is_over: Callable[[list[int]], bool] = never,
) -> Spoken:
    return speak(model, prompt, N_TOKENS, choosing, is_over, proposer)


@given(prompt=PROMPTS)
@settings(max_examples=10)
def test_the_loop_alone_says_what_transformers_generates(
    model: PreTrainedModel, prompt: list[int]
) -> None:
    spoken = said(model, prompt, greedy())

    whole = generate(model, torch.tensor([prompt]), N_TOKENS)[0].tolist()
    assert prompt + spoken.tokens == whole


@PROPOSERS
@pytest.mark.parametrize("decoding", [{}, {"repetition_penalty": 1.2}], ids=["plain", "penalty"])
@given(prompt=PROMPTS, draft_tokens=st.integers(1, 12))
@settings(max_examples=4)
def test_greedy_answers_are_those_without_a_proposer(
    model: PreTrainedModel,
    making: Making,
    decoding: Decoding,
    prompt: list[int],
    draft_tokens: int,
) -> None:
    choosing = greedy(decoding)

    spoken = said(model, prompt, choosing, making(model, choosing, draft_tokens))

    assert spoken.tokens == said(model, prompt, choosing).tokens


@PROPOSERS
@given(prompt=PROMPTS, draft_tokens=st.integers(1, 8))
@settings(max_examples=4)
def test_caches_are_left_as_a_fresh_pass_fills_them(
    model: PreTrainedModel, making: Making, prompt: list[int], draft_tokens: int
) -> None:
    choosing = greedy()
    proposer = making(model, choosing, draft_tokens)
    fresh = uniform_cache(model, DENSE_CACHE)

    spoken = said(model, prompt, choosing, proposer)
    with torch.inference_mode():
        read(model, (prompt + spoken.tokens)[:-1], fresh, 1)

    # Sums of float32 in another order.
    both = zip(dense_layers(spoken.cache), dense_layers(fresh), strict=True)
    for own, other in both:
        torch.testing.assert_close(own.keys, other.keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own.values, other.values, atol=1e-4, rtol=1e-4)


def test_a_draft_that_is_the_model_is_never_rejected(model: PreTrainedModel) -> None:
    choosing = greedy()

    spoken = said(model, [5, 6, 7], choosing, DraftModel(model, choosing, 4))

    # One token comes with the prompt, and one with each round of four.
    assert spoken.accepted == spoken.proposed == N_TOKENS - 1 - 5


def test_an_ending_within_a_round_cuts_the_answer_there(model: PreTrainedModel) -> None:
    choosing = greedy()
    whole = said(model, [5, 6, 7], choosing).tokens

    spoken = said(
        model,
        [5, 6, 7],
        choosing,
        DraftModel(model, choosing, 8),
        lambda answer: len(answer) == 5,
    )

    assert spoken.tokens == whole[:5]
    assert spoken.cache.get_seq_length() == 3 + 5 - 1


def test_lookup_goes_on_as_the_text_did_at_the_latest_place() -> None:
    text = [1, 2, 3, 9, 1, 2, 4, 8, 1, 2]

    assert Lookup(3, 2).propose(text, 9) == Proposal([4, 8, 1])


def test_lookup_falls_back_to_fewer_tokens() -> None:
    assert Lookup(2, 3).propose([7, 5, 6, 3, 4, 5], 9) == Proposal([6, 3])


def test_lookup_proposes_nothing_of_what_never_stood_there() -> None:
    assert Lookup(4, 2).propose([1, 2, 3], 9) == Proposal([])


def test_lookup_goes_round_a_pattern_that_reaches_the_texts_end() -> None:
    assert Lookup(5, 2).propose([1, 2, 3, 1, 2], 9) == Proposal([3, 1, 2, 3, 1])


def test_lookup_learns_what_was_said_since() -> None:
    lookup = Lookup(2, 1)
    lookup.propose([1, 2, 1], 9)

    assert lookup.propose([1, 2, 1, 3, 1], 9) == Proposal([3, 1])


def test_proposals_are_no_longer_than_asked_for() -> None:
    assert Lookup(8, 1).propose([1, 2, 1], 3) == Proposal([2, 1, 2])


def test_a_draft_model_is_asked_only_where_the_last_tokens_are_new(
    model: PreTrainedModel,
) -> None:
    draft = DraftModel(alike(model), Choosing(logits_processors({}), None), 2)
    proposer = LookupFirst(Lookup(4, 2, shortest=2), draft)

    assert proposer.propose([5, 6, 7, 5, 6], 9) == Proposal([7, 5, 6, 7])
    assert draft.cache.get_seq_length() == 0
    assert len(proposer.propose([5, 6, 7, 5, 7], 9).tokens) == 2
    assert draft.cache.get_seq_length() > 0


def lengths(model: PreTrainedModel, is_held: bool, rounds: int) -> list[int]:
    """Return how many tokens an adaptive draft of 2 proposes, all held or none."""
    draft = DraftModel(model, greedy(), 2, "adaptive")
    text, found = [5, 6, 7], list[int]()
    for _ in range(rounds):
        tokens = draft.propose(text, 100).tokens
        found.append(len(tokens))
        text = text + tokens + [0] if is_held else [*text, (tokens[0] + 1) % 320]
    return found


def test_adaptive_drafts_grow_by_two_while_all_is_held(model: PreTrainedModel) -> None:
    assert lengths(model, True, 6) == [2, 4, 6, 8, 8, 8]


def test_adaptive_drafts_shrink_by_one_to_one_token(model: PreTrainedModel) -> None:
    assert lengths(model, False, 4) == [2, 1, 1, 1]


@pytest.mark.parametrize(("threshold", "expected"), [(1e-6, 6), (1.0, 1)])
def test_a_draft_stops_behind_a_token_it_is_unsure_of(
    model: PreTrainedModel, threshold: float, expected: int
) -> None:
    draft = DraftModel(model, greedy(), 6, "threshold", threshold)

    assert len(draft.propose([5, 6, 7], 100).tokens) == expected
