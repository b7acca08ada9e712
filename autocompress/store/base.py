"""What the rest of the project may ask of a study store; each call is one transaction."""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from autocompress.trial import Fidelity, Genotype, Measurement, Split

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


class StudyState(enum.StrEnum):
    """How far a study has come."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study as the store knows it; `spec` is the checked spec, `report` the final report."""

    name: str
    state: StudyState
    created_at: str
    spec: Mapping[str, Json]
    n_trials: int
    report: Mapping[str, Json] | None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the clock or a measurement decided, to be replayed and not decided again."""

    kind: str
    payload: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Record:
    """One measured shard: a genotype at a fidelity, and its measurement or the error that came."""

    genotype: Genotype
    fidelity: Fidelity
    measurement: Measurement | None
    error: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """What a decoding made of items of a split, as plain data, or the error that came."""

    genotype: Genotype
    split: Split
    first: int
    items: int
    payload: Mapping[str, Json] | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class TrialLoss:
    """What a trial loses on the search text: the mean over all of it that was read."""

    genotype: Genotype
    sequences: int
    loss: float


class StudyStore(Protocol):
    """One study, open for its driver."""

    def row(self) -> StudyRow:
        """Return the study as stored."""

    def record(self, records: Sequence[Record], losses: Sequence[TrialLoss] = ()) -> None:
        """Add measured shards; a shard that is there already is left as it is (never doubled).

        Args:
            losses: What trials of these shards lose now, for `best`.
        """

    def measurements(self) -> dict[tuple[Genotype, Fidelity], Record]:
        """Return every shard recorded."""

    def record_answers(self, record: AnswerRecord) -> None:
        """Add what a decoding made of items; what is there already is left as it is."""

    def answers(self) -> list[AnswerRecord]:
        """Return all that decodings made of items, in the order it was added."""

    def best(self, n: int) -> list[TrialLoss]:
        """Return n trials: those that were read furthest first, and of these the least losses."""

    def save_document(self, name: str, payload: Mapping[str, Json]) -> None:
        """Keep a named JSON document (the latency table, say), replacing an earlier one."""

    def document(self, name: str) -> Mapping[str, Json] | None:
        """Return a named document, or None."""

    def add_event(self, event: Event) -> None:
        """Append an event."""

    def events(self) -> list[Event]:
        """Return all events in the order they were added."""

    def finish(self, state: StudyState, report: Mapping[str, Json] | None) -> None:
        """Set the final state and report."""

    def discard(self) -> None:
        """Delete the study and all that belongs to it: a refused search leaves nothing."""

    def close(self) -> None:
        """Release the connection."""
