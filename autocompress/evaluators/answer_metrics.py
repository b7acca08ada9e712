"""What an answer is worth, from 0 to 1."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from autocompress.errors import SpecError
from autocompress.evaluators import python_runner, user_metric
from autocompress.evaluators.task_item import METRICS, USER_METRIC, Item

_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)
_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_NOT_A_TOKEN: Final = re.compile(r"[^a-z0-9]+")


def score(item: Item, answer: str) -> float:
    """Return the best that an answer is worth beside any of an item's references.

    Microseconds, but for `pass` and a user's function, which run Python. One answer alone is worth
    to `pass@K` what it is to `pass`.

    Raises:
        SpecError: If the metric reads no answer, as `choice`, or is unknown.
        EvaluationError: If a user's function fails.
    """
    answer = until(answer, item.stop)
    if item.metric in _BESIDE_ONE:
        beside = _BESIDE_ONE[item.metric]
        return max((beside(answer, reference) for reference in item.references), default=0.0)
    if item.tries:
        program = answer if item.whole else item.prompt + answer
        return float(python_runner.passes(program, item.tests))
    if item.metric.startswith(USER_METRIC):
        return user_metric.score_by(item.metric, answer, item.references)
    if item.metric == "choice":
        raise SpecError("Metric 'choice' reads likelihoods of choices, not an answer.")
    raise SpecError(f"Unknown metric {item.metric!r}. Known: {', '.join(METRICS)}.")


def score_of_candidates(item: Item, candidates: Sequence[str], answer: str) -> float:
    """Return what an answer is worth that was picked from candidates.

    `pass@K` reads all of them instead: how likely one of K is right, drawn from them; of fewer
    than K, whether any is. Equal ones are run once.
    """
    if item.tries < 2:
        return score(item, answer)
    known = {own: score(item, own) for own in dict.fromkeys(candidates)}
    right = round(sum(known[own] for own in candidates))
    return pass_at_k(len(candidates), right, min(item.tries, len(candidates)))


def score_of_choice(item: Item, likelihoods: Sequence[float]) -> float:
    """Return whether the first of the likeliest choices is the right one.

    Args:
        likelihoods: Of each of the item's choices, in their order.
    """
    likeliest = max(range(len(item.choices)), key=likelihoods.__getitem__)
    return float(item.choices[likeliest] in item.references)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return how likely one of k answers is right, drawn from n of which c are, unbiased.

    Eq. 1 of arXiv:2107.03374: 1 - C(n - c, k) / C(n, k).

    Raises:
        SpecError: Unless `0 <= c <= n` and `1 <= k <= n`.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise SpecError(
            f"`0 <= c <= n` and `1 <= k <= n` must hold, but got n = {n}, c = {c}, k = {k}."
        )
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def until(answer: str, stop: Sequence[str]) -> str:
    """Return an answer up to the first of what ends it."""
    found = (answer.find(end) for end in stop)
    return answer[: min((place for place in found if place >= 0), default=len(answer))]


def first_line(answer: str) -> str:
    """Return the first line, without whitespace at its ends.

    Some tokenizers leave out a space at the start of what they decode.
    """
    return answer.partition("\n")[0].strip()


def normalized(answer: str) -> str:
    """Return an answer without case, punctuation, articles and further whitespace.

    As SQuAD's own program has it (arXiv:1606.05250).
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact(answer: str, reference: str) -> float:
    """Whether they are equal but for whitespace at their ends."""
    return float(answer.strip() == reference.strip())


def line(answer: str, reference: str) -> float:
    """Whether the first lines are equal but for whitespace at their ends."""
    return float(first_line(answer) == first_line(reference))


def match(answer: str, reference: str) -> float:
    """Whether they are equal once `normalized`."""
    return float(normalized(answer) == normalized(reference))


def f1(answer: str, reference: str) -> float:
    """Return the F1 of the tokens, each counted as often as both have it (SQuAD).

    Of two that are without any token it is 1, as in SQuAD 2.0 (arXiv:1806.03822).
    """
    ours, theirs = normalized(answer).split(), normalized(reference).split()
    if not (ours and theirs):
        return float(ours == theirs)
    return _harmonic_mean((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L's F-measure, as the package `rouge-score` has it without stemming.

    Tokens are runs of ASCII letters and digits in lower case; precision and recall are the longest
    common subsequence's share of either. Where one has no token it is 0.
    """
    ours = _NOT_A_TOKEN.sub(" ", answer.lower()).split()
    theirs = _NOT_A_TOKEN.sub(" ", reference.lower()).split()
    return _harmonic_mean(common_subsequence(ours, theirs), len(ours), len(theirs))


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence.

    A row of the usual table is one integer: bit i is 0 where the length grows with the i-th token
    of `first` (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
    """
    places: dict[str, int] = {}
    for place, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << place
    everywhere = (1 << len(first)) - 1
    row = everywhere
    for token in second:
        same = row & places.get(token, 0)
        row = ((row + same) | (row - same)) & everywhere
    return len(first) - row.bit_count()


def _harmonic_mean(common: int, ours: int, theirs: int) -> float:
    """Return `2 p r / (p + r)` of precision `common / ours` and recall `common / theirs`."""
    return 2 * common / (ours + theirs) if common else 0.0


_BESIDE_ONE: Final[Mapping[str, Callable[[str, str], float]]] = {
    "exact": exact,
    "f1": f1,
    "line": line,
    "match": match,
    "rouge-l": rouge_l,
}
