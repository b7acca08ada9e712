"""Who is told how a search goes; `cli` draws it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

Figure = bool | int | float | str | None

Values = Mapping[str, Figure | Sequence[Mapping[str, Figure]]]
"""The figures of an event; one that is told of several things has a row for each."""


class Observer(Protocol):
    """Somebody who watches a search."""

    def stage(self, name: str) -> None:
        """Say that a stage begins."""

    def advance(self, done: int, total: int) -> None:
        """Say how far the present stage has come; `total` 0 is unknown."""

    def tell(self, kind: str, values: Values) -> None:
        """Say something that happened, with its figures."""


def waiting(observer: Observer) -> Callable[[str], None]:
    """Return what tells an observer what is waited for."""
    return lambda what: observer.tell("waiting", {"what": what})
