"""Runs the race of decodings: judges what comes in, and keeps it in the store."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from autocompress.pipeline.observer import Observer
from autocompress.search.decoding_proposals import FIRST_TRIALS, first_proposal, next_proposal
from autocompress.search.racing import Answered, Race, joined
from autocompress.spaces.decoding import DecodingSpace, Value, to_text
from autocompress.store.base import AnswerRecord, StudyStore
from autocompress.trial import Genotype, Split
from autocompress.workers.tune import Values
from autocompress.workers.tune_alone import Part
from autocompress.workers.tune_drawing import Known, Verdict

MISSED: Final = 1e6
"""Added to the scores of a decoding that misses a constraint: worse than any that meets them."""
TAKEN: Final = "race seconds"
"""What a race has taken by its last answer, in runs that were stopped too."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a race may spend.

    Args:
        tokens: That its candidates generate, in all; None sets no limit.
        seconds: On the clock, of this run and of those before it that were stopped.
    """

    tokens: int | None
    seconds: float | None


class Judging:
    """Judges trials by a race, and records them; a `Judge` of `race_trials`."""

    def __init__(
        self,
        space: DecodingSpace,
        race: Race,
        store: StudyStore,
        limits: Limits,
        observer: Observer,
        seed: int = 0,
    ) -> None:
        """Take up what the store holds: it is judged as it was when it came in."""
        self._space = space
        self.race = race
        self._store = store
        self._limits = limits
        self._observer = observer
        before = store.document(TAKEN) or {"seconds": 0.0}
        self._started = time.monotonic() - float(str(before["seconds"]))
        self._seed = seed
        self._proposed = 0
        self.tokens = 0
        self.failures: dict[Genotype, str] = {}
        self.read: dict[Genotype, Answered] = {}
        self._scores: dict[Genotype, tuple[float, ...]] = {}
        # Of what was begun and has not ended, where its recorded parts begin, and their items.
        self._begun: dict[Genotype, set[tuple[int, int]]] = {}
        self._replay(store.answers())

    @property
    def unfinished(self) -> list[Genotype]:
        """What an earlier run has begun and not ended: it goes on."""
        return list(self._begun)

    @property
    def is_over(self) -> bool:
        """Whether the tokens or the time that may be spent are spent."""
        return self.stopped_because is not None

    @property
    def seconds(self) -> float:
        """What this run has taken until now, and those before it until their last answers."""
        return time.monotonic() - self._started

    @property
    def stopped_because(self) -> str | None:
        """Why no more is measured."""
        if self._limits.tokens is not None and self.tokens >= self._limits.tokens:
            return f"{self._limits.tokens} tokens are generated"
        if self._limits.seconds is not None and self.seconds >= self._limits.seconds:
            return f"{self._limits.seconds:g} seconds are over"
        return None

    @property
    def known(self) -> list[Known]:
        """What has ended: for samplers to learn of, and not to be run again."""
        return [
            Known(self._space.values(genotype), scores)
            for genotype, scores in self._scores.items()
            if genotype not in self._begun
        ]

    def scores_of(self, values: Values) -> tuple[float, ...] | None:
        """Return the scores of what was measured before."""
        genotype = self._genotype(values)
        return None if genotype in self._begun else self._scores.get(genotype)

    def proposal(self) -> Values | None:
        """Return a decoding near what is known to be good; None for every other trial later on."""
        self._proposed += 1
        rng = np.random.default_rng([self._seed, len(self.read), self._proposed])
        if len(self.read) + len(self.failures) <= FIRST_TRIALS:
            found: Genotype | None = first_proposal(self._space, rng)
        elif self._proposed % 2:
            return None
        else:
            leaders = self.leaders() or self.best(1) or self.closest(1)
            found = next_proposal(self._space, self._ranked(), leaders, rng) if leaders else None
        if found is None or found in self.read:
            return None
        return self._space.values(found)

    def tell(self, values: Values, first: int, part: Part) -> Verdict:
        """Record what a decoding made of further items, and say whether it goes on.

        A trial begins at its first item, also one that goes on: what the store holds of it then
        counts as it was recorded and judged, and not as it was measured again.
        """
        genotype = self._genotype(values)
        n = len(part["scores"])
        if (first, n) in self._begun.get(genotype, ()):
            return Verdict(True, self._scores[genotype])
        self._begun.pop(genotype, None)
        self._store.record_answers(AnswerRecord(genotype, Split.SEARCH, first, n, part))
        self._store.save_document(TAKEN, {"seconds": self.seconds})
        verdict = self._take(genotype, part)
        if not verdict.goes_on:
            self._observer.tell(
                "decoding",
                {
                    "decoding": to_text(self._space.values(genotype)),
                    "items": len(self.read[genotype]),
                    "tokens": self.tokens,
                    **{
                        objective.value: objective.shown(objective.ratio(self.read[genotype]))
                        for objective in self.race.rules.objectives
                    },
                },
            )
        return verdict

    def fail(self, values: Values, error: str) -> None:
        """Record why a decoding could not be measured."""
        genotype = self._genotype(values)
        self.failures[genotype] = error
        self._begun.pop(genotype, None)
        self._store.record_answers(AnswerRecord(genotype, Split.SEARCH, 0, 0, None, error))
        self._observer.tell(
            "failed", {"decoding": to_text(self._space.values(genotype)), "error": error}
        )

    def best(self, n: int) -> list[Genotype]:
        """Return decodings that read all items and meet the constraints, the best first."""
        whole = [own for own, read in self.read.items() if len(read) >= self.race.items]
        return self._sorted(own for own in whole if self.race.violation(self.read[own]) <= 0)[:n]

    def closest(self, n: int) -> list[Genotype]:
        """Return the decodings that miss the constraints least, by what they read of the items."""
        missed = {own: self.race.violation(read) for own, read in self.read.items()}
        return sorted(missed, key=lambda own: (missed[own], own.levels))[:n]

    def leaders(self) -> list[Genotype]:
        """Return the decodings that none is as good as in all objectives, the best first."""
        return self._sorted(
            own
            for own, read in self.read.items()
            if any(read is leader for leader in self.race.leaders)
        )

    def _sorted(self, decodings: Iterable[Genotype]) -> list[Genotype]:
        """Return decodings by what is expected of them, in the first objective before others."""
        return sorted(decodings, key=lambda own: (self.race.expected(self.read[own]), own.levels))

    def _ranked(self) -> dict[Genotype, float]:
        """Return what decodings came to that keep the constraints; if none does, what they miss.

        Less is better. Of two objectives each is looked at in turn.
        """
        missed = {own: self.race.violation(read) for own, read in self.read.items()}
        at = self._proposed // 2 % len(self.race.rules.objectives)
        scores = {
            own: self.race.expected(read)[at]
            for own, read in self.read.items()
            if missed[own] <= 0
        }
        finite = {own: score for own, score in scores.items() if 0 < score < MISSED}
        return finite or {own: 1.0 + max(by, 0.0) for own, by in missed.items()}

    def _genotype(self, values: Values) -> Genotype:
        found: dict[str, Value] = dict(values)  # type: ignore[arg-type]
        return self._space.genotype(found)

    def _take(self, genotype: Genotype, part: Mapping[str, Any]) -> Verdict:
        answered = Answered.from_json(part)
        before = self.read.get(genotype)
        read = answered if before is None else joined([before, answered])
        self.read[genotype] = read
        self.failures.pop(genotype, None)
        self.tokens += int(answered.tokens.sum())
        goes_on = self.race.goes_on(read)
        missed = MISSED if self.race.violation(read) > 0 else 0.0
        scores = tuple(
            min(value, MISSED) + missed * (1 + max(self.race.violation(read), 0.0))
            for value in self.race.expected(read)
        )
        self._scores[genotype] = scores
        return Verdict(goes_on, scores)

    def _replay(self, records: Sequence[AnswerRecord]) -> None:
        goes_on: dict[Genotype, bool] = {}
        parts: dict[Genotype, set[tuple[int, int]]] = {}
        for record in records:
            if record.split is not Split.SEARCH:
                continue
            if record.payload is None:
                self.failures[record.genotype] = record.error or ""
            elif record.first == len(self.read.get(record.genotype, ())):
                goes_on[record.genotype] = self._take(record.genotype, record.payload).goes_on
                parts.setdefault(record.genotype, set()).add((record.first, record.items))
        self._begun = {own: parts[own] for own, is_open in goes_on.items() if is_open}
