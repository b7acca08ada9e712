"""What a search for a decoding works on: models found, items dealt out, a space."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autocompress.evaluators.tasks import Item
from autocompress.pipeline.decoding_asked import DecodeAsked
from autocompress.pipeline.intervals import cuts
from autocompress.pipeline.observer import Observer, waiting
from autocompress.pipeline.timing_turn import turn_here
from autocompress.search.racing import Answered, joined
from autocompress.spaces.decoding import DecodingSpace
from autocompress.trial import Genotype, Split
from autocompress.workers.decoding_session import (
    CONTENDERS,
    Contender,
    DecodingFactory,
    Drafted,
)
from autocompress.workers.tune_alone import Alone, Part, measuring_alone

CHUNK: Final = 8
"""Items between two looks at how far a measurement has come."""
UNREAD: Final = (Split.SELECTION, Split.REPORT)
"""What no search reads."""
OTHER: Final = 1
"""Which of the models what is held against is, where there is one."""


@dataclass(frozen=True, slots=True)
class OpenedDecoding:
    """What a search for a decoding works on.

    Args:
        folder: Of the model; `draft` proposes tokens for it, `other` is what it is held against.
        items: That ask for an answer, by split; none reads what another does.
        choices: That the report reads beside its items; they share no source with the others.
    """

    asked: DecodeAsked
    folder: Path
    draft: Path | None
    other: Path | None
    device: str
    space: DecodingSpace
    items: Mapping[Split, tuple[Item, ...]]
    choices: tuple[Item, ...]

    @property
    def untuned(self) -> Genotype:
        """The decoding that nobody tuned, but for what is fixed."""
        return Genotype((0,) * len(self.space.parameters))

    @property
    def against(self) -> Contender:
        """What is held against: the untuned decoding, of the other model where there is one."""
        values = self.space.values(self.untuned)
        if self.other is None:
            return Contender(values)
        # The other model has no draft of its own.
        plain = {name: own for name, own in values.items() if not name.startswith("draft")}
        return Contender(plain, OTHER)

    @property
    def unread(self) -> Mapping[Split, tuple[int, int]]:
        """Where the items of `UNREAD` lie among those of its factory: the first, and how many."""
        sizes = [len(self.items[split]) for split in UNREAD]
        return {split: (sum(sizes[:at]), sizes[at]) for at, split in enumerate(UNREAD)}

    def factory(self, *splits: Split) -> DecodingFactory:
        """Return what loads the models to answer the items of splits, one split after another."""
        models = [Drafted(self.folder, self.draft)]
        if self.other is not None:
            models.append(Drafted(self.other))
        return DecodingFactory(
            tuple(models),
            tuple(item for split in splits for item in self.items[split]),
            self.device,
            self.asked.dtype,
            self.asked.trust_remote_code,
            self.asked.seed,
            self.choices if Split.REPORT in splits else (),
        )


def looks(first: int, n: int) -> tuple[int, ...]:
    """Return where n items from the first on are cut into chunks, both ends among them."""
    return (*range(first, first + n, CHUNK), first + n)


@contextlib.contextmanager
def one_process(
    factory: DecodingFactory, address: str | None, observer: Observer
) -> Iterator[Alone]:
    """Start a process that answers items, in this machine's turn to time, and end it."""
    with (
        turn_here(address, observer),
        measuring_alone(factory, address, waiting(observer)) as alone,
    ):
        yield alone


def in_turn(
    alone: Alone,
    contenders: Sequence[Contender],
    first: int,
    n: int,
    told: Callable[[int], None],
) -> list[list[Part]]:
    """Have contenders answer n items from the first on in turn; return the parts of each.

    Args:
        told: Is told how many of them are answered.
    """
    parts = alone.measure({CONTENDERS: contenders}, looks(first, n), told)
    return [[part[CONTENDERS][at] for part in parts] for at in range(len(contenders))]


def in_processes(
    factory: DecodingFactory,
    asked: DecodeAsked,
    contenders: Sequence[Contender],
    span: tuple[int, int],
    observer: Observer,
) -> list[list[Part]]:
    """Have contenders answer items in turn, a share of them in each of several processes.

    Two runs of the same code differ by what their processes share out of caches and memory, which
    no number of items within one shows.

    Args:
        span: The first of the factory's items, and how many.
    """
    first, n = span
    found: list[list[Part]] = [[] for _ in contenders]
    for start, end in itertools.pairwise(cuts(n, asked.timing_processes)):

        def told(done: int, before: int = start) -> None:
            observer.advance(before + done, n)

        with one_process(factory, asked.address, observer) as alone:
            parts = in_turn(alone, contenders, first + start, end - start, told)
        for own, added in zip(found, parts, strict=True):
            own += added
    return found


def answered(parts: Sequence[Part]) -> Answered:
    """Return what a contender made of all its parts' items."""
    return joined([Answered.from_json(part) for part in parts])


def answer_search_items(
    opened: OpenedDecoding, contender: Contender, observer: Observer
) -> Answered:
    """Have one contender answer all that a search reads, in a process of its own."""
    n = len(opened.items[Split.SEARCH])
    with one_process(opened.factory(Split.SEARCH), opened.asked.address, observer) as alone:
        (parts,) = in_turn(alone, [contender], 0, n, lambda done: observer.advance(done, n))
    return answered(parts)
