"""Evolution on what candidates lose after a short training: what winners are picked for.

DarwinLM (section 2 of its search, "training-aware"): of each generation's offspring many get a
short training and few a longer one, and those that lose least afterwards are the next parents.
Departures: it begins where an evolution on the candidates as they are ends, not at one even
candidate; offspring are screened by the surrogate, fitted to what trained candidates lost; a
candidate is trained once for a rung, the parent too, so that no luck of a training decides twice.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from autocompress.search.base import Batch, Standing, Task
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.single_changes import Losses
from autocompress.search.steps import Rung
from autocompress.trial import Genotype, Trial

PARENTS = 6
"""Finalists of the evolution before, that are trained beside a few others."""
RANDOM_PARENTS = 2


@dataclass(frozen=True, slots=True)
class DarwinSettings:
    """How the generations that train spend their tokens.

    Args:
        rungs: Cheapest first; tokens to train on must grow and survivors must not.
    """

    rungs: tuple[Rung, ...]
    generations: int
    offspring: int = 8


class DarwinStrategy:
    """An evolution on candidates as they are, then one on trained candidates.

    Args:
        before: How the first one goes.
        start: Losses of single changes, of any scale, known beforehand; None measures them.
    """

    def __init__(
        self,
        task: Task,
        before: EvolveSettings,
        settings: DarwinSettings,
        start: Losses | None = None,
    ) -> None:
        self._task = task
        self._settings = settings
        self._untrained = EvolveStrategy(task, before, start)
        self._trained: EvolveStrategy | None = None
        self._go_on()

    def ask(self) -> Batch | None:
        """Return the next batch, or None when the search is over."""
        return self._now.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the batch just asked and go on to the next."""
        self._now.tell(trials)
        self._go_on()

    def standing(self) -> Standing:
        """Return where the search stands; losses are of trained candidates once there are any."""
        first = self._untrained.standing()
        if self._trained is None:
            return dataclasses.replace(
                first, generations=first.generations + self._settings.generations
            )
        second = self._trained.standing()
        standing = second if second.best is not None else first
        return dataclasses.replace(
            standing,
            generation=first.generation + second.generation,
            generations=first.generation + second.generations,
            tokens=first.tokens + second.tokens,
        )

    @property
    def stopped_because(self) -> str:
        """Why the search is over."""
        return self._now.stopped_because

    def finalists(self, n: int) -> list[Genotype]:
        """Return the candidates that lost least after their training, as far as there are any."""
        return self._now.finalists(n) or self._untrained.finalists(n)

    @property
    def _now(self) -> EvolveStrategy:
        return self._trained or self._untrained

    def _go_on(self) -> None:
        """Begin with the trained candidates once the evolution before is done."""
        if self._trained is not None or self._untrained.ask() is not None:
            return
        done = self._untrained.standing()
        if self._untrained.is_out_of_budget:
            return
        most, stop = self._task.max_tokens, self._task.stop
        task = dataclasses.replace(
            self._task,
            max_tokens=None if most is None else max(0, most - done.tokens),
            # Ends are recorded by generation: the second evolution's count on.
            stop=lambda generation: stop(done.generation + generation),
            extra=(*self._untrained.finalists(PARENTS), *self._task.extra),
            tokens_of_rules=0,
        )
        settings = EvolveSettings(
            offspring=self._settings.offspring,
            rungs=self._settings.rungs,
            elites=PARENTS,
            random_parents=RANDOM_PARENTS,
            generations=self._settings.generations,
            # One draw for all: on another, all elites would be trained again.
            epoch=self._settings.generations,
        )
        self._trained = EvolveStrategy(task, settings, self._untrained.losses)
