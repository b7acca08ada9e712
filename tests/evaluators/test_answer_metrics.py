"""The laws of scores, and the answers that are known."""

import itertools
import timeit
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import EvaluationError, SpecError
from autocompress.evaluators.answer_metrics import (
    common_subsequence,
    exact,
    f1,
    first_line,
    line,
    match,
    normalized,
    pass_at_k,
    rouge_l,
    score,
    score_of_candidates,
    score_of_choice,
    until,
)
from autocompress.evaluators.task_item import Item

CHEAP = ["exact", "f1", "line", "match", "rouge-l"]
# Few words, so that answers share some; and what normalisation is about.
words = st.sampled_from(["cat", "Cat", "the", "mat!", "sat", "a", "–", "é", " ", "\n"])
texts = st.one_of(st.lists(words, max_size=12).map(" ".join), st.text(max_size=20))
worded = texts.map(lambda text: f"word {text}")
tokens = st.lists(st.sampled_from("abcd"), max_size=7)


@given(st.sampled_from(CHEAP), texts, st.lists(texts, max_size=3))
def test_a_score_is_from_0_to_1_and_the_best_of_any_reference(
    metric: str, answer: str, references: list[str]
) -> None:
    worth = score(Item("", tuple(references), metric=metric), answer)

    alone = [score(Item("", (one,), metric=metric), answer) for one in references]
    assert 0 <= worth <= 1
    assert worth == max(alone, default=0)


@given(st.sampled_from(CHEAP), worded)
def test_a_reference_itself_is_worth_1(metric: str, answer: str) -> None:
    assert score(Item("", ("other", answer), metric=metric), answer) == 1


@given(texts, texts)
def test_a_stricter_metric_is_never_worth_more(answer: str, reference: str) -> None:
    assert exact(answer, reference) <= match(answer, reference) <= f1(answer, reference)


@given(texts, texts)
def test_precision_and_recall_change_places_when_answer_and_reference_do(
    answer: str, reference: str
) -> None:
    assert f1(answer, reference) == f1(reference, answer)
    assert rouge_l(answer, reference) == rouge_l(reference, answer)


@given(tokens, tokens)
def test_the_common_subsequence_is_the_longest_of_all(first: list[str], second: list[str]) -> None:
    def subsequences(whole: list[str]) -> set[tuple[str, ...]]:
        sizes = range(len(whole) + 1)
        return {found for size in sizes for found in itertools.combinations(whole, size)}

    longest = max(map(len, subsequences(first) & subsequences(second)))

    assert common_subsequence(first, second) == longest


def test_rouge_l_is_as_reckoned_by_hand() -> None:
    # "police killed the gunman" of Lin (2004): of 4 tokens 3 and 2 are in order.
    reference = "police killed the gunman"

    assert rouge_l("Police kill the gunman.", reference) == 3 / 4
    assert rouge_l("the gunman kill police", reference) == 2 / 4
    # Precision 2/2, recall 2/4.
    assert rouge_l("police gunman", reference) == pytest.approx(2 / 3)
    assert rouge_l("", reference) == rouge_l("?", "?") == 0


def test_f1_counts_a_token_as_often_as_both_have_it() -> None:
    # "cat" twice and "sat" once of 4 and 3 tokens: precision 3/4, recall 3/3.
    assert f1("The cat, cat sat there", "a cat sat: cat") == pytest.approx(6 / 7)
    assert f1("dog", "cat") == f1("", "cat") == 0
    assert f1("the", "") == 1


@pytest.mark.parametrize(
    ("metric", "answer", "worth"),
    [
        ("exact", " New York\n", 1),
        ("exact", "new york", 0),
        ("match", "the new  york!", 1),
        ("match", "Newark", 0),
        ("line", "New York   \nand more", 1),
        ("line", "  New York", 1),
        ("line", "New York City", 0),
        ("line", "\nNew York", 0),
    ],
)
def test_each_metric_leaves_out_what_it_says(metric: str, answer: str, worth: float) -> None:
    assert score(Item("", ("New York",), metric=metric), answer) == worth


def test_articles_and_punctuation_go_but_not_within_words() -> None:
    assert normalized("The theatre -- an  Old, one; isn't") == "theatre old one isnt"


@given(texts, st.lists(st.text(min_size=1, max_size=2), max_size=3))
def test_an_answer_is_read_up_to_the_first_of_what_ends_it(answer: str, stop: list[str]) -> None:
    read = until(answer, stop)

    assert answer.startswith(read)
    assert not any(end in read for end in stop)
    assert read == answer or any(answer[len(read) :].startswith(end) for end in stop)


def test_what_follows_the_end_is_not_scored() -> None:
    item = Item("Q: ", ("Paris",), metric="exact", stop=("\n", "Q:"))

    assert score(item, " Paris\nQ: And of Spain?") == 1
    assert first_line("Paris \nQ:") == "Paris"
    assert line("Paris\n", "Paris") == 1


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_draws_with_a_right_answer(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))

    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("n", "c", "k"), [(0, 0, 1), (3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_of_what_cannot_be_drawn_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(SpecError, match=f"must hold, but got n = {n}, c = {c}, k = {k}"):
        pass_at_k(n, c, k)


def test_the_first_of_the_likeliest_choices_is_taken() -> None:
    item = Item("", ("b",), choices=("a", "b", "c"), metric="choice")

    assert score_of_choice(item, [-3.0, -1.0, -2.0]) == 1
    assert score_of_choice(item, [-1.0, -3.0, -2.0]) == 0
    assert score_of_choice(item, [-1.0, -1.0, -2.0]) == 0


def test_pass_at_k_of_many_answers_is_exact() -> None:
    assert pass_at_k(10_000, 1, 100) == pytest.approx(0.01, rel=1e-12)


def test_a_program_is_the_prompt_and_the_answer_unless_the_answer_is_whole() -> None:
    prompt, body, tests = "def add(x):\n", "    return x + 1\nassert False", "assert add(1) == 2"
    continued = Item(prompt, (), tests=tests, metric="pass", stop=("\nassert",))
    whole = Item("Write add.", (), tests=tests, metric="pass", whole=True)

    assert [score(continued, own) for own in (body, "    return x")] == [1, 0]
    assert score(whole, "def add(x): return 1 + x") == 1
    assert score(whole, body) == 0


RIGHT, WRONG = "    return x + 1", "    return x"


@pytest.mark.parametrize(
    ("metric", "candidates", "worth"),
    [
        ("pass", [WRONG, RIGHT], 0.0),  # what was picked
        ("pass@1", [WRONG, RIGHT], 0.0),
        ("pass@2", [WRONG, WRONG, RIGHT, WRONG], 0.5),
        ("pass@2", [WRONG], 0.0),
        ("pass@9", [WRONG, RIGHT], 1.0),
    ],
)
def test_pass_at_k_reads_all_candidates(metric: str, candidates: list[str], worth: float) -> None:
    item = Item("def add(x):\n", (), tests="assert add(1) == 2", metric=metric)

    assert score_of_candidates(item, candidates, candidates[0]) == worth


@pytest.mark.parametrize("metric", ["pass@0", "pass@", "pass@1.5", "pass@99999", "pass@-1"])
def test_pass_at_what_cannot_be_drawn_is_unknown(metric: str) -> None:
    with pytest.raises(SpecError, match="Unknown metric 'pass@"):
        score(Item("", (), tests="pass", metric=metric), "")


def test_a_users_function_scores_once_it_returns_a_number_from_0_to_1(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "def share(answer, references): return references.count(answer) / len(references)\n"
        "def length(answer, references): return len(answer)\n"
        "def nothing(answer, references): return float('nan')\n"
        "def fails(answer, references): raise KeyError(answer)\n"
    )

    def worth(function: str, answer: str) -> float:
        return score(Item("", ("a", "b"), metric=f"python:{file}:{function}"), answer)

    assert worth("share", "a") == 0.5
    assert worth("length", "a") == 1
    with pytest.raises(EvaluationError, match=r"`0 <= score <= 1` .*:length, but got 2"):
        worth("length", "ab")
    with pytest.raises(EvaluationError, match="but got nan"):
        worth("nothing", "a")
    with pytest.raises(EvaluationError, match=r"own.py:fails failed: KeyError: 'a'"):
        worth("fails", "a")


@pytest.mark.parametrize(
    ("metric", "why"),
    [("choice", "reads likelihoods"), ("bleu", "Unknown metric 'bleu'. Known: choice, exact")],
)
def test_a_metric_that_reads_no_answer_is_refused(metric: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        score(Item("", ("a",), choices=("a", "b"), metric=metric), "a")


@pytest.mark.parametrize("metric", CHEAP)
def test_scoring_costs_microseconds(metric: str) -> None:
    answer = " ".join(f"word{n % 17}" for n in range(40))
    item = Item("", (answer[::-1],), metric=metric)

    seconds = min(timeit.repeat(lambda: score(item, answer), number=50, repeat=5)) / 50

    # 20 and less on an idle machine; the best of five is near that on a busy one.
    assert seconds < 500e-6
