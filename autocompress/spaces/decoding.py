"""How a model is decoded, as a space: parameters with menus, some of which act beside others only.

A decoding is a `Genotype` here as a compressed model is one elsewhere: one level per parameter,
0 where nobody tuned it, and 0 too for a parameter that does not act, so that decodings that do the
same are equal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from autocompress.errors import SpecError
from autocompress.trial import Genotype

Value = bool | int | float | str
Decoding = Mapping[str, Value]
"""The value of each parameter that acts, by name; one that lacks is at its `UNTUNED`."""

ENTROPY_BASE: Final = 0.8
"""N of `temperature * N ** (entropy_temperature / entropy)` (EDT, arXiv:2403.14541)."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One decision of how text is generated.

    Args:
        menu: What it may be; first what a model does that nobody tuned.
        needs: What earlier parameters must be for this one to act: all of them, one of each menu.
    """

    name: str
    menu: tuple[Value, ...]
    needs: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def acts(self, values: Decoding) -> bool:
        """Whether it does anything beside the values of the parameters that act before it."""
        return all(name in values and values[name] in held for name, held in self.needs.items())

    @property
    def is_ordered(self) -> bool:
        """Whether it is a number, of which near ones are alike."""
        return not any(isinstance(value, bool | str) for value in self.menu)

    @property
    def in_order(self) -> tuple[Value, ...]:
        """Its menu from the least on."""
        return tuple(sorted(self.menu))


NO_DRAFT: Final = {"draft": ("none",)}
ANY_DRAFT: Final = {"draft": ("lookup", "model", "both", "exit", "skip")}
MODEL_DRAFT: Final = {"draft": ("model", "both", "exit", "skip")}
SAMPLED: Final = {"do_sample": (True,)}

PARAMETERS: Final = (
    Parameter("max_new_tokens", (64, 16, 32, 128)),
    # Where an answer ends before its tokens do: nowhere, at a line's end, or where it turns round.
    Parameter("stop", ("none", "line", "repeat")),
    # Who proposes tokens that the model only checks: nobody, the text so far, a smaller model, the
    # text where its last tokens stood before and else that model, the model's first layers, or
    # some of its layers spread over all.
    Parameter("draft", ("none", "lookup", "model", "both", "exit", "skip")),
    Parameter("draft_tokens", (4, 1, 2, 3, 6, 8, 12), ANY_DRAFT),
    Parameter("draft_ngram", (2, 1, 3, 4), {"draft": ("lookup", "both")}),
    Parameter("draft_copied", (8, 4, 12), {"draft": ("both",)}),
    Parameter("draft_layers", (2, 1, 3, 4, 6), {"draft": ("exit", "skip")}),
    # How many are proposed: so many, more after all held and fewer after one fell (adaptive), or
    # so many as long as the draft is as sure of each (threshold).
    Parameter("draft_length", ("fixed", "adaptive", "threshold"), MODEL_DRAFT),
    Parameter("draft_threshold", (0.4, 0.2, 0.6, 0.8), {"draft_length": ("threshold",)}),
    Parameter("do_sample", (False, True)),
    Parameter("temperature", (1.0, 0.2, 0.4, 0.6, 0.8, 1.2), SAMPLED),
    Parameter("entropy_temperature", (0.0, 0.1, 0.3, 0.6, 1.0), SAMPLED),
    Parameter("top_k", (0, 5, 20, 50), SAMPLED),
    Parameter("top_p", (1.0, 0.95, 0.9, 0.8, 0.6), SAMPLED),
    Parameter("min_p", (0.0, 0.02, 0.05, 0.1, 0.2), SAMPLED),
    Parameter("typical_p", (1.0, 0.95, 0.9, 0.5, 0.2), SAMPLED),
    Parameter("repetition_penalty", (1.0, 1.02, 1.05, 1.1, 1.2)),
    Parameter("best_of", (1, 2, 4, 8), {**SAMPLED, **NO_DRAFT}),
    Parameter("selector", ("likelihood", "majority"), {"best_of": (2, 4, 8)}),
    Parameter("num_beams", (1, 2, 4), {"do_sample": (False,), **NO_DRAFT}),
    Parameter("length_penalty", (1.0, 0.5, 0.0, 2.0), {"num_beams": (2, 4)}),
    Parameter("cache", ("dynamic", "static"), NO_DRAFT),
    Parameter("cache_bits", (16, 8, 4), {"cache": ("dynamic",)}),
    Parameter("compiled", (False, True), {"cache": ("static",)}),
    Parameter("batch", (1, 2, 4, 8), NO_DRAFT),
)
UNTUNED: Final[Decoding] = {parameter.name: parameter.menu[0] for parameter in PARAMETERS}


class DecodingSpace:
    """Decodings over some parameters, those that others need before them.

    Raises:
        SpecError: If a parameter is there twice, has no menu, or needs what does not precede it.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        known: dict[str, Parameter] = {}
        for parameter in parameters:
            lacking = sorted(parameter.needs.keys() - known.keys())
            if lacking:
                raise SpecError(
                    f"{parameter.name} needs {', '.join(lacking)}, which is not tuned."
                )
            if parameter.name in known or not parameter.menu:
                raise SpecError(f"{parameter.name}: a parameter is there once, and has a menu.")
            known[parameter.name] = parameter
        self.parameters = tuple(parameters)

    def __len__(self) -> int:
        """Return how many different decodings there are."""
        return self._count({}, 0)

    def values(self, genotype: Genotype) -> dict[str, Value]:
        """Return what acts, by name."""
        found: dict[str, Value] = {}
        for parameter, level in zip(self.parameters, genotype.levels, strict=True):
            if parameter.acts(found):
                found[parameter.name] = parameter.menu[level]
        return found

    def genotype(self, values: Decoding) -> Genotype:
        """Return the decoding of some values; what is not said is untuned.

        Raises:
            SpecError: If a parameter is unknown, does not act, or has no such value.
        """
        unknown = sorted(values.keys() - {parameter.name for parameter in self.parameters})
        if unknown:
            raise SpecError(f"{', '.join(unknown)}: no parameter that is tuned here.")
        levels, found = [], dict[str, Value]()
        for parameter in self.parameters:
            acts = parameter.acts(found)
            value = values.get(parameter.name, parameter.menu[0])
            # Of equal values of two kinds, as 1 and True, one alone is meant.
            held = [own for own in parameter.menu if own == value and type(own) is type(value)]
            if not held or (parameter.name in values and not acts):
                menu = ", ".join(map(str, parameter.menu)) if acts else "nothing beside the others"
                raise SpecError(f"{parameter.name} may be {menu}, but got {value}.")
            levels.append(parameter.menu.index(held[0]) if acts else 0)
            if acts:
                found[parameter.name] = held[0]
        return Genotype(tuple(levels))

    def canonical(self, genotype: Genotype) -> Genotype:
        """Return the same decoding with level 0 wherever a parameter does not act."""
        return self.genotype(self.values(genotype))

    def draw(self, rng: np.random.Generator) -> Genotype:
        """Return a decoding each of whose parameters that act was drawn from its menu evenly."""
        drawn = (int(rng.integers(len(parameter.menu))) for parameter in self.parameters)
        return self.canonical(Genotype(tuple(drawn)))

    def neighbour(self, genotype: Genotype, rng: np.random.Generator) -> Genotype:
        """Return the decoding with one parameter that acts at another value of its menu.

        What acts from then on is untuned at first. A space of one decoding has no other.
        """
        acting = self.values(genotype)
        free = [
            at
            for at, own in enumerate(self.parameters)
            if own.name in acting and len(own.menu) > 1
        ]
        if not free:
            return genotype
        at = free[int(rng.integers(len(free)))]
        levels = list(genotype.levels)
        # Any level but the present one, each as likely.
        levels[at] = (levels[at] + 1 + int(rng.integers(len(self.parameters[at].menu) - 1))) % len(
            self.parameters[at].menu
        )
        return self.canonical(Genotype(tuple(levels)))

    def all(self) -> Iterator[Genotype]:
        """Yield every decoding once, the last parameter's levels changing fastest."""
        yield from map(self.genotype, self._continued({}, 0))

    def only(self, menus: Mapping[str, Sequence[Value]]) -> "DecodingSpace":
        """Return the space in which some parameters have other menus; one of one value is fixed.

        Raises:
            SpecError: If a parameter is unknown.
        """
        unknown = sorted(menus.keys() - {parameter.name for parameter in self.parameters})
        if unknown:
            raise SpecError(f"{', '.join(unknown)}: no parameter of decoding.")
        return DecodingSpace(
            [
                Parameter(own.name, tuple(menus.get(own.name, own.menu)), own.needs)
                for own in self.parameters
            ]
        )

    def _continued(self, values: dict[str, Value], first: int) -> Iterator[dict[str, Value]]:
        if first == len(self.parameters):
            yield values
            return
        parameter = self.parameters[first]
        if not parameter.acts(values):
            yield from self._continued(values, first + 1)
            return
        for value in parameter.menu:
            yield from self._continued({**values, parameter.name: value}, first + 1)

    def _count(self, values: dict[str, Value], first: int) -> int:
        """Return how many decodings there are beside the values of the first parameters."""
        if first == len(self.parameters):
            return 1
        parameter = self.parameters[first]
        if not parameter.acts(values):
            return self._count(values, first + 1)
        later = self.parameters[first + 1 :]
        if not any(parameter.name in other.needs for other in later):
            return len(parameter.menu) * self._count(values, first + 1)
        branches = ({**values, parameter.name: value} for value in parameter.menu)
        return sum(self._count(branch, first + 1) for branch in branches)


def to_text(decoding: Decoding) -> str:
    """Return what differs from the untuned: `draft=lookup draft_tokens=8`, or `untuned`."""
    said = [f"{name}={value}" for name, value in decoding.items() if value != UNTUNED[name]]
    return " ".join(said) or "untuned"
