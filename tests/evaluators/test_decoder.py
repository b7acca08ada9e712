import math
import statistics
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autocompress.errors import EvaluationError
from autocompress.evaluators.candidates import mean_log_likelihood, most_frequent, most_likely
from autocompress.evaluators.compiled_layers import has_compiler
from autocompress.evaluators.decoder import Answer, Decoder
from autocompress.models.loading import load_model, load_tokenizer
from autocompress.spaces.decoding import Decoding, Value
from tests.tiny_models import CPU, TinyModels, generate, logits_of, make_config, write_model

PROMPTS = (
    "def write(folder):",
    "return",
    "class TinyModels:\n    root: Path\n",
    "import torch\nfrom",
)
SEEDS = (1, 2, 3, 4)
SHORT = {"max_new_tokens": 16}
SAMPLED = {**SHORT, "do_sample": True}


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> PreTrainedModel:
    return load_model(tiny_llama, CPU)


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_llama)


@pytest.fixture(scope="module")
def decoder(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Decoder:
    return Decoder(model, tokenizer, draft=model)


def answers(decoder: Decoder, decoding: Decoding) -> list[Answer]:
    return decoder.answer(PROMPTS, decoding, SEEDS)


def tokens(decoder: Decoder, decoding: Decoding) -> list[tuple[int, ...]]:
    return [answer.token_ids for answer in answers(decoder, decoding)]


def mean_likelihood(model: PreTrainedModel, prompt: list[int], answer: Answer) -> float:
    """Return the mean log-likelihood of an answer's tokens, read anew."""
    whole = torch.tensor([prompt + list(answer.token_ids)])
    logits = logits_of(model, whole)[0, len(prompt) - 1 : -1]
    return mean_log_likelihood(answer.token_ids, list(logits))


def test_untuned_answers_are_what_transformers_generates(
    decoder: Decoder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]

    answer = answers(decoder, SHORT)[0]

    whole = generate(model, prompt, 16)[0, prompt.shape[1] :].tolist()
    assert list(answer.token_ids) == whole
    assert answer.text == tokenizer.decode(whole)
    assert (answer.tokens, answer.said) == (16, 16)


@pytest.mark.parametrize(
    "decoding",
    [
        {"batch": 2},
        {"batch": 4},
        {"batch": 4, "repetition_penalty": 1.2},
        {"cache": "static"},
        {"cache": "static", "batch": 2},
        {"draft": "lookup", "draft_ngram": 1},
        {"draft": "lookup", "repetition_penalty": 1.1},
        {"draft": "model", "draft_length": "adaptive"},
        {"draft": "both", "draft_ngram": 1, "repetition_penalty": 1.1},
        {"draft": "exit", "draft_layers": 1, "repetition_penalty": 1.2},
        {"draft": "skip", "draft_length": "threshold"},
    ],
    ids=str,
)
def test_what_only_saves_time_changes_no_greedy_answer(
    decoder: Decoder, decoding: Decoding
) -> None:
    penalty = {"repetition_penalty": decoding.get("repetition_penalty", 1.0)}

    assert tokens(decoder, {**SHORT, **decoding}) == tokens(decoder, {**SHORT, **penalty})


@pytest.mark.skipif(
    not has_compiler(torch.device("cpu")), reason="there is no g++ to compile with"
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, on import
def test_compiling_changes_no_answer_and_is_in_no_answers_time(decoder: Decoder) -> None:
    static: dict[str, Value] = {**SHORT, "cache": "static"}

    first, *others = answers(decoder, {**static, "compiled": True})

    assert [own.token_ids for own in (first, *others)] == tokens(decoder, static)
    # Compiling takes many times as long as all answers together.
    assert first.seconds < 1 + sum(own.seconds for own in others)


@pytest.mark.parametrize(
    "decoding",
    [
        {},
        {"best_of": 4},
        {"best_of": 4, "selector": "majority"},
        {"batch": 2, "top_k": 20, "entropy_temperature": 0.3},
        {"draft": "lookup", "draft_ngram": 1},
        {"draft": "exit", "draft_layers": 1, "top_p": 0.9},
    ],
    ids=str,
)
def test_drawn_answers_are_their_seeds_alone(decoder: Decoder, decoding: Decoding) -> None:
    sampled = {**SAMPLED, **decoding}
    first = tokens(decoder, sampled)

    torch.manual_seed(99)
    again = tokens(decoder, sampled)
    others = [
        answer.token_ids
        for answer in decoder.answer(PROMPTS, sampled, [seed + 10 for seed in SEEDS])
    ]

    assert again == first
    assert others != first


def test_a_draft_of_the_models_own_layers_holds_no_further_weights(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tiny_llama: Path
) -> None:
    decoder = Decoder(model, tokenizer, draft=load_model(tiny_llama, CPU))
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))

    weights = {
        draft: decoder.answer(PROMPTS[:1], {**SHORT, "draft": draft}, [1])[0].weight_bytes
        for draft in ("none", "lookup", "exit", "model")
    }

    assert weights == {"none": held, "lookup": held, "exit": held, "model": 2 * held}


def test_drawing_leaves_the_global_random_numbers_alone(decoder: Decoder) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()

    answers(decoder, SAMPLED)

    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_likeliest_candidate_is_given(
    decoder: Decoder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    def likelihood(best_of: int, seed: int) -> float:
        answer = decoder.answer(PROMPTS[:1], {**SAMPLED, "best_of": best_of}, [seed])[0]
        return mean_likelihood(model, tokenizer(PROMPTS[0])["input_ids"], answer)

    alone, best = (
        statistics.mean(likelihood(best_of, seed) for seed in range(6)) for best_of in (1, 8)
    )

    assert best > alone


def test_the_majority_is_given_and_the_likelier_one_of_a_tie() -> None:
    texts = ["seven", "nine", "Nine.", "seven", "ten"]

    assert most_frequent(texts, [-2.0, -3.0, -2.5, -1.0, 0.0]) == 3
    assert most_likely(texts, [-2.0, -3.0, -2.5, -1.0, 0.0]) == 4


def test_all_that_was_generated_is_counted(decoder: Decoder) -> None:
    candidates = answers(decoder, {**SAMPLED, "best_of": 4})[0]
    beams = answers(decoder, {**SHORT, "num_beams": 2})[0]

    assert (candidates.tokens, candidates.said) == (4 * 16, 16)
    assert (beams.tokens, beams.said) == (2 * 16, 16)
    assert candidates.first_seconds == candidates.seconds
    assert beams.first_seconds == beams.seconds


def test_beams_find_a_likelier_answer_than_the_greedy_one(
    decoder: Decoder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    greedy, beams = (
        sum(
            mean_likelihood(model, tokenizer(prompt)["input_ids"], answer)
            for prompt, answer in zip(PROMPTS, answers(decoder, decoding), strict=True)
        )
        for decoding in (SHORT, {**SHORT, "num_beams": 4})
    )

    assert beams > greedy


def test_fewer_bits_hold_the_same_answer_in_fewer_bytes(decoder: Decoder) -> None:
    held = [
        answers(decoder, {"max_new_tokens": 64, "cache_bits": bits})[0].cache_bytes
        for bits in (16, 8, 4)
    ]

    assert held[0] > held[1] > held[2]


def test_the_bytes_of_a_cache_are_its_keys_and_values(
    decoder: Decoder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    config = model.config
    seen = len(tokenizer(PROMPTS[0])["input_ids"]) + 16 - 1
    token = 2 * config.num_hidden_layers * config.num_key_value_heads * 4 * 4

    plain = answers(decoder, SHORT)[0]
    lookup = answers(decoder, {**SHORT, "draft": "lookup"})[0]

    assert plain.cache_bytes == lookup.cache_bytes == seen * token


def test_the_first_token_is_there_before_the_last(decoder: Decoder) -> None:
    for decoding in ({}, {"draft": "lookup"}, {"do_sample": True}):
        answer = answers(decoder, {**SHORT, **decoding})[0]

        assert 0 < answer.first_seconds < answer.seconds


@pytest.fixture(scope="module")
def babbler(tiny_llama: Path, tokenizer: PreTrainedTokenizerBase) -> Decoder:
    """Return one whose tokens follow from the last alone, so that they soon go round."""
    model = load_model(tiny_llama, CPU)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    own = Decoder(model, tokenizer, draft=model)
    fifth = own.answer(PROMPTS[:1], SHORT, [0])[0].token_ids[4]
    hidden = model.model.norm(model.get_input_embeddings()(torch.tensor(fifth)))
    newline = tokenizer("\n")["input_ids"][0]
    model.lm_head.weight[newline] = hidden / 4
    return own


@pytest.mark.parametrize("stop", ["line", "repeat"])
@pytest.mark.parametrize("draft", ["lookup", "exit", "model"])
def test_a_stop_rule_ends_answers_at_the_same_place_by_either_loop(
    babbler: Decoder, stop: str, draft: str
) -> None:
    decoding: dict[str, Value] = {"max_new_tokens": 96, "stop": stop}

    plain = answers(babbler, {**decoding, "batch": 4})
    other = answers(babbler, {**decoding, "draft": draft, "draft_tokens": 8})

    assert [own.text for own in other] == [own.text for own in plain]
    assert [own.tokens for own in other] == [own.tokens for own in plain]
    assert min(own.tokens for own in plain) < 96


def test_a_prompt_too_long_for_its_answer_loses_its_front(decoder: Decoder) -> None:
    long = "self" * 200
    short = decoder.answer([long], {**SHORT, "draft": "lookup"}, [0])[0]

    assert short.said == 16
    assert decoder.answer([long], SHORT, [0])[0].token_ids == short.token_ids


def test_an_answer_longer_than_the_model_is_refused(decoder: Decoder) -> None:
    with pytest.raises(EvaluationError, match="128 positions: too few for an answer of 128"):
        decoder.answer(PROMPTS[:1], {"max_new_tokens": 128}, [0])


def test_an_empty_prompt_is_answered(decoder: Decoder) -> None:
    first, second = (
        decoder.answer([""], {**SHORT, **own}, [0])[0] for own in ({}, {"draft": "lookup"})
    )

    assert first.token_ids == second.token_ids


def test_a_choice_is_as_likely_as_its_tokens(
    decoder: Decoder, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    prompt, choices = "def write(", ["folder", "self, folder", "x"]
    start = len(tokenizer(prompt)["input_ids"])

    found = decoder.choose([prompt], [choices])[0]

    for choice, likelihood in zip(choices, found, strict=True):
        ids = tokenizer(prompt + choice)["input_ids"]
        logs = logits_of(model, torch.tensor([ids]))[0].log_softmax(-1)
        by_token = [logs[place - 1, ids[place]].item() for place in range(start, len(ids))]
        # Sums of float32 in another order.
        assert likelihood == pytest.approx(sum(by_token), abs=1e-3)


def test_all_next_tokens_together_are_certain(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase
) -> None:
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]

    found = decoder.choose(["x = "], [letters])[0]

    assert 0 < sum(map(math.exp, found)) < 1


def test_choices_are_scored_alone_or_together(decoder: Decoder) -> None:
    choices = ["folder", "self", "x"]

    together = decoder.choose(["def write("], [choices])[0]
    alone = [decoder.choose(["def write("], [[choice]])[0][0] for choice in choices]

    assert together == pytest.approx(alone, abs=1e-3)


def test_a_draft_that_was_not_given_is_asked_for(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(EvaluationError, match="needs a draft model, and none was given"):
        Decoder(model, tokenizer).answer(["x"], {"draft": "model"}, [0])


def test_a_draft_of_another_vocabulary_is_refused(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    config = make_config()
    config.vocab_size = 64
    write_model(tmp_path / "other", config)
    other = Decoder(model, tokenizer, draft=load_model(tmp_path / "other", CPU))

    with pytest.raises(EvaluationError, match="vocabulary of 320 tokens, but got 64"):
        other.answer(["x"], {"draft": "model"}, [0])


@pytest.mark.parametrize(
    ("decoding", "message"),
    [
        ({"draft": "lookup", "batch": 2}, "one text at a time"),
        ({"draft": "exit", "draft_layers": 6}, "1 to 3 of the model's layers, but got 6"),
        ({"beams": 2}, "beams: no parameter of decoding"),
        ({"best_of": 2}, "cannot be decoded so"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    decoder: Decoder, decoding: Decoding, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        answers(decoder, decoding)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("draft", ["none", "lookup", "skip"])
def test_every_family_is_decoded(family: str, draft: str, tiny_models: TinyModels) -> None:
    own = Decoder(tiny_models.load(family), load_tokenizer(tiny_models.folder(family)))

    found = own.answer(PROMPTS[:1], {**SHORT, "draft": draft}, [0])[0]

    assert found.token_ids == own.answer(PROMPTS[:1], SHORT, [0])[0].token_ids
