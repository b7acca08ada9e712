"""Who proposes tokens to a model that checks them: the text so far, a draft model, or both."""

from torch import Tensor
from transformers import Cache, PreTrainedModel

from autocompress.models.generation_settings import Settings
from autocompress.models.kv_cache import uniform_cache
from autocompress.models.speculation import (
    Choosing,
    Proposal,
    Proposer,
    Scores,
    crop,
    read,
)
from autocompress.spaces.decoding import Decoding
from autocompress.spaces.settings import DENSE_CACHE


class Lookup:
    """Proposes what followed the text's last tokens where they last stood before.

    Args:
        n_tokens: Proposed at a time, fewer only where the tokens stood nowhere: then none.
        ngram: How many last tokens must have stood there; fewer are tried where they did not.
        shortest: How few are tried.
    """

    def __init__(self, n_tokens: int, ngram: int, shortest: int = 1) -> None:
        self._shortest = shortest
        self._n_tokens = n_tokens
        # For each length, where what follows these tokens begins, at their latest place.
        self._places: list[dict[tuple[int, ...], int]] = [{} for _ in range(ngram)]
        self._read = 1

    def propose(self, text: list[int], most: int) -> Proposal:
        """Return what stood there before, going round where that reaches the text's end."""
        # An n-gram at the very end has no place yet: nothing follows it.
        for end in range(self._read, len(text)):
            for length, places in enumerate(self._places, 1):
                if length <= end:
                    places[tuple(text[end - length : end])] = end
        self._read = max(self._read, len(text))
        for length in range(min(len(self._places), len(text)), self._shortest - 1, -1):
            place = self._places[length - 1].get(tuple(text[-length:]))
            if place is not None:
                return Proposal(_going_round(text, place, min(self._n_tokens, most)))
        return Proposal([])


def _going_round(text: list[int], place: int, n_tokens: int) -> list[int]:
    """Return the tokens from a place on, as if each that is taken stood behind the text."""
    period = len(text) - place
    return [text[place + offset % period] for offset in range(n_tokens)]


class DraftModel:
    """Proposes what a smaller model of the same vocabulary would say.

    It chooses as the model does, by the same processors and with numbers of the same generator.

    Args:
        n_tokens: Proposed at a time, at first.
        length: `fixed`; `adaptive`, 2 more after all were held and 1 fewer after one fell, as
            transformers' heuristic has it, but at least 1 and at most twice as many as at first
            and 4; `threshold`, until the draft gives its own token less than the threshold.
        threshold: Of probability.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        choosing: Choosing,
        n_tokens: int,
        length: str = "fixed",
        threshold: float = 0.0,
    ) -> None:
        self.cache: Cache = uniform_cache(model, DENSE_CACHE)
        self._model = model
        self._choosing = choosing
        self._n_tokens = n_tokens
        self._most = 2 * n_tokens + 4
        self._adapts = length == "adaptive"
        self._threshold = threshold if length == "threshold" else 0.0
        self._last: list[int] = []
        self._before = 0

    def propose(self, text: list[int], most: int) -> Proposal:
        """Return what the model says after a text."""
        self._settle(text)
        tokens, drawn = list[int](), list[Tensor]()
        unread = text[self.cache.get_seq_length() :]
        for _ in range(min(self._n_tokens, most)):
            logits = read(self._model, unread, self.cache, 1)
            scores = self._choosing.scores(text + tokens, [], logits)
            token, probabilities = scores.choose(0)
            tokens.append(token)
            unread = [token]
            if probabilities is not None:
                drawn.append(probabilities)
            # The unsure token is proposed as well. Whether it is must not depend on what was
            # drawn: else the model's own draw, which takes its place, would not be corrected for
            # it, and the distribution would change.
            if self._threshold and self._is_unsure(scores, token, probabilities):
                break
        self._last, self._before = tokens, len(text)
        return Proposal(tokens, drawn if self._choosing.generator is not None else None)

    def _is_unsure(self, scores: Scores, token: int, probabilities: Tensor | None) -> bool:
        known = scores.probabilities(0) if probabilities is None else probabilities
        return float(known[token]) < self._threshold

    def _settle(self, text: list[int]) -> None:
        """Forget what was not held of the last proposal, and learn from it."""
        # The text's last token is the model's own, and still to be read, even where it is the one
        # that was proposed.
        checked = min(len(self._last), len(text) - 1 - self._before)
        held = 0
        while held < checked and text[self._before + held] == self._last[held]:
            held += 1
        crop(self.cache, self._before + held)
        if self._adapts and self._last:
            more = 2 if held == len(self._last) else -1
            self._n_tokens = max(1, min(self._most, self._n_tokens + more))


class LookupFirst:
    """Proposes what a lookup finds, and where it finds nothing what a draft model says.

    Text that repeats itself costs the draft model no step; it reads it when it is asked next.
    """

    def __init__(self, lookup: Lookup, draft: DraftModel) -> None:
        self._lookup = lookup
        self._draft = draft

    @property
    def cache(self) -> Cache:
        """The draft model's."""
        return self._draft.cache

    def propose(self, text: list[int], most: int) -> Proposal:
        """Return what the text so far says, or else the draft model."""
        found = self._lookup.propose(text, most)
        return found if found.tokens else self._draft.propose(text, most)


def make_proposer(
    decoding: Decoding, choosing: Choosing, draft: PreTrainedModel | None
) -> Proposer | None:
    """Return who proposes tokens of one text by a decoding; None where nobody does.

    Args:
        draft: The model that proposes, where one does: of what layers is the caller's business.
    """
    own = Settings(decoding)
    kind, n_tokens = own.text("draft"), own.whole("draft_tokens")
    ngram = own.whole("draft_ngram")
    if kind == "lookup":
        return Lookup(n_tokens, ngram)
    if kind == "none" or draft is None:
        return None
    length, threshold = own.text("draft_length"), own.number("draft_threshold")
    model = DraftModel(draft, choosing, n_tokens, length, threshold)
    if kind == "both":
        return LookupFirst(Lookup(own.whole("draft_copied"), ngram, shortest=ngram), model)
    return model
