"""That a proposer changes no distribution: against the exact one of a model of five tokens."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import pytest
import torch
from scipy.stats import chisquare
from torch import LongTensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from autocompress.models.generation_settings import logits_processors
from autocompress.models.proposers import DraftModel, Lookup, LookupFirst
from autocompress.models.speculation import Choosing, Proposal, Proposer, speak
from autocompress.spaces.decoding import Decoding
from tests.models.test_speculation import never

VOCABULARY = 5
N_TOKENS = 4
DRAWS = 500
PROMPT = [0, 1, 2, 0, 1]
UNLIKELY = 1e-4
Making = Callable[[PreTrainedModel, Choosing], Proposer]
Exact = Mapping[tuple[int, ...], float]


def small_model(seed: int) -> PreTrainedModel:
    """Return a model of few tokens that is neither sure of any nor undecided."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    model.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        if "norm" not in name:
            tensor.normal_(0, 0.5, generator=generator)
    return model


MODEL, DRAFT = small_model(1), small_model(2)


def exact(decoding: Decoding) -> Exact:
    """Return the probability of every answer."""
    processors = logits_processors(decoding)
    found: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(N_TOKENS):
        answers = list(found)
        ids = torch.tensor([PROMPT + list(answer) for answer in answers])
        with torch.inference_mode():
            logits = MODEL(ids, use_cache=False).logits[:, -1]
            scores = processors(cast("LongTensor", ids), logits)
        rows = scores.softmax(-1).double().tolist()
        found = {
            (*answer, token): found[answer] * probability
            for answer, row in zip(answers, rows, strict=True)
            for token, probability in enumerate(row)
            if probability
        }
    return found


def p_value(making: Making | None, decoding: Decoding) -> float:
    """Return how probable answers as far from the exact distribution are, drawn from it."""
    generator = torch.Generator().manual_seed(3)
    choosing = Choosing(logits_processors(decoding), generator)
    counts = Counter(
        tuple(
            speak(
                MODEL,
                PROMPT,
                N_TOKENS,
                choosing,
                never,
                None if making is None else making(DRAFT, choosing),
            ).tokens
        )
        for _ in range(DRAWS)
    )
    expected = exact(decoding)
    # Cells of fewer than 5 expected draws are counted as one: the statistic needs as many.
    large = [answer for answer, probability in expected.items() if probability * DRAWS >= 5]
    observed = [counts[answer] for answer in large]
    predicted = [expected[answer] * DRAWS for answer in large]
    tested = chisquare([*observed, DRAWS - sum(observed)], [*predicted, DRAWS - sum(predicted)])
    return float(tested.pvalue)


class Liar:
    """Claims that what it drew was impossible, whereupon everything is accepted."""

    def __init__(self, draft: PreTrainedModel, choosing: Choosing) -> None:
        self._honest = DraftModel(draft, choosing, 2)

    def propose(self, text: list[int], most: int) -> Proposal:
        proposal = self._honest.propose(text, most)
        claimed = [torch.zeros_like(row) for row in proposal.probabilities or []]
        return Proposal(proposal.tokens, claimed)


class Coward:
    """Takes the last token back where it is unsure of it."""

    def __init__(self, draft: PreTrainedModel, choosing: Choosing) -> None:
        self._honest = DraftModel(draft, choosing, 2, "threshold", 0.5)

    def propose(self, text: list[int], most: int) -> Proposal:
        proposal = self._honest.propose(text, most)
        rows = proposal.probabilities or []
        sure = [float(row[token]) >= 0.5 for token, row in zip(proposal.tokens, rows, strict=True)]
        kept = len(list(itertools.takewhile(bool, sure)))
        return Proposal(proposal.tokens[:kept], rows[:kept])


PENALTY = {"do_sample": True, "repetition_penalty": 1.2, "temperature": 0.8}
FILTERS = {
    "do_sample": True,
    "temperature": 0.8,
    "entropy_temperature": 0.3,
    "top_k": 4,
    "top_p": 0.95,
}


@pytest.mark.parametrize(
    ("making", "decoding"),
    [
        (None, {"do_sample": True}),
        (lambda _draft, _choosing: Lookup(2, 1), {"do_sample": True}),
        (lambda draft, choosing: DraftModel(draft, choosing, 2), {"do_sample": True}),
        (
            lambda draft, choosing: LookupFirst(Lookup(2, 1), DraftModel(draft, choosing, 2)),
            {"do_sample": True},
        ),
        (lambda draft, choosing: DraftModel(draft, choosing, 2), FILTERS),
        (lambda draft, choosing: DraftModel(draft, choosing, 2), PENALTY),
        (
            lambda draft, choosing: DraftModel(draft, choosing, 2, "threshold", 0.5),
            {"do_sample": True},
        ),
        (lambda draft, choosing: DraftModel(draft, choosing, 2, "adaptive"), {"do_sample": True}),
    ],
    ids=[
        "alone",
        "lookup",
        "draft",
        "lookup first",
        "draft, filters",
        "draft, penalty",
        "draft, threshold",
        "draft, adaptive",
    ],
)
def test_drawn_answers_have_the_models_own_distribution(
    making: Making | None, decoding: Decoding
) -> None:
    assert p_value(making, decoding) > UNLIKELY


@pytest.mark.parametrize("making", [Liar, Coward])
def test_a_rule_that_changes_the_distribution_is_found_out(making: Making) -> None:
    assert p_value(making, {"do_sample": True}) < UNLIKELY
