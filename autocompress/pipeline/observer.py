"""Who is told how a search goes; `cli` draws it."""

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Somebody who watches a search."""

    def stage(self, name: str) -> None:
        """Say that a stage begins."""

    def advance(self, done: int, total: int) -> None:
        """Say how far the present stage has come; `total` 0 is unknown."""

    def tell(self, kind: str, values: Mapping[str, bool | int | float | str | None]) -> None:
        """Say something that happened, with its figures."""
