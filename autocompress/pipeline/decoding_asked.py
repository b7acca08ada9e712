"""What a decoding is searched for: read of flags, and held against the model."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autocompress.errors import SpecError
from autocompress.search.racing import Objective, Rules
from autocompress.spaces.decoding import PARAMETERS, UNTUNED, DecodingSpace, Value
from autocompress.spec import read_values
from autocompress.spec_values import count, milliseconds, number, seconds, size, whole

GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "speculation": (
        "draft",
        "draft_tokens",
        "draft_ngram",
        "draft_copied",
        "draft_layers",
        "draft_length",
        "draft_threshold",
    ),
    "sampling": (
        "do_sample",
        "temperature",
        "entropy_temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
    ),
    "best-of": ("best_of", "selector"),
    "beams": ("num_beams", "length_penalty"),
    "cache": ("cache", "cache_bits"),
    "batch": ("batch",),
    "length": ("max_new_tokens", "stop"),
}
"""What may be tuned together; a parameter may be named by itself, and `compiled` too."""


def _seconds(value: object) -> float:
    text = str(value).strip()
    if text[-1:].isdigit():
        # The objective is called `seconds`, and targets of a search are told in milliseconds.
        raise ValueError(f"a time with its unit must hold: write {text}s or {text}ms")
    return milliseconds(text) / 1000


_ANY: Final = number(0, 1e15)
LIMITS: Final[Mapping[str, Callable[[object], float]]] = {
    "quality": number(0, 1),
    "seconds": _seconds,
    "tokens-per-second": _ANY,
    "first-token": _seconds,
    "quality-per-second": _ANY,
    "cost": _ANY,
    "memory": size,
}
"""What may be limited, as people say it, and what reads it."""

_COUNT: Final = whole(1, 1_000_000)
_SHARE: Final = number(0, 1)
NUMBERS: Final[Mapping[str, Callable[[object], float]]] = {
    "max_new_tokens": _COUNT,
    "draft_tokens": _COUNT,
    "draft_ngram": _COUNT,
    "draft_copied": _COUNT,
    "draft_layers": _COUNT,
    "draft_threshold": _SHARE,
    "temperature": number(0, 1000),
    "entropy_temperature": number(0, 1000, with_low=True),
    "top_k": whole(0, 1_000_000),
    "top_p": _SHARE,
    "min_p": number(0, 1, with_low=True),
    "typical_p": _SHARE,
    "repetition_penalty": number(0, 1000),
    "best_of": _COUNT,
    "num_beams": _COUNT,
    "length_penalty": number(-1000, 1000),
    "batch": _COUNT,
}
"""What may be fixed beyond its menu, and what reads it."""

_OF_SPEC: Final = ("device", "dtype", "seed", "timing_processes")
"""What a spec says of a search for a compressed model too."""

USUAL: Final = ("speculation", "sampling", "best-of", "beams", "cache", "batch")
WAYS: Final = ("tpe", "random", "grid")
MOST_CELLS: Final = 10_000
"""Of a grid: all are laid out before any is measured."""


@dataclass(frozen=True, slots=True)
class DecodeAsked:
    """What a decoding is searched for.

    Args:
        model: A folder or name on the hub; `draft` and `against` are too: what may propose tokens
            for it, and what quality is held against instead of the untuned model.
        tasks: As `read_tasks` takes them; None takes the shipped ones.
        tuned: Groups and single parameters that are searched.
        fixed: Values of parameters, tuned and untuned alike.
        items: That a search reads at most; validation reads as many, and the report four times as
            many if there are.
        timing_processes: That share the report's items, so that intervals of times hold what
            processes differ by.
        max_tokens: That all candidates of the search may generate; None sets no limit.
    """

    model: str
    draft: str | None
    against: str | None
    tasks: str | None
    rules: Rules
    tuned: tuple[str, ...]
    fixed: Mapping[str, Value]
    strategy: str
    trials: int
    items: int
    max_tokens: int | None
    budget_seconds: float | None
    prunes: bool
    device: str
    dtype: str
    seed: int
    trust_remote_code: bool
    allow_python: bool
    address: str | None
    at_once: int
    timing_processes: int

    def to_json(self) -> dict[str, object]:
        """Return all of it as plain values: what a study keeps of it."""
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "rules"
        }
        rules = dataclasses.asdict(self.rules)
        return {
            **plain,
            "tuned": list(self.tuned),
            "fixed": dict(self.fixed),
            **rules,
            "objectives": [own.value for own in self.rules.objectives],
        }


def decode_asked(given: Mapping[str, object]) -> DecodeAsked:
    """Check what a decoding is to be searched for; None is not given.

    Raises:
        SpecError: If something of it cannot be meant; all offenders are named.
    """
    values = {name: value for name, value in given.items() if value is not None}
    problems: list[str] = []
    found: dict[str, object] = {}
    readers = {
        "objective": _objectives,
        "quality_drop": number(-1, 1),
        "limits": _limits,
        "tune": _tuned,
        "fix": _fixed,
        "strategy": _strategy,
        "trials": whole(1, 100_000),
        "items": whole(8, 100_000),
        "max_tokens": count(),
        "budget": seconds,
        "at_once": whole(1, 1000),
    }
    for name, read in readers.items():
        if name in values:
            try:
                found[name] = read(values[name])
            except ValueError as error:
                problems.append(f"{name.replace('_', '-')}: {error}.")
    if problems:
        raise SpecError(" ".join(problems))
    reading = read_values({name: given.get(name) for name in _OF_SPEC})
    rules = Rules(
        found.get("objective", (Objective.QUALITY_PER_SECOND,)),  # type: ignore[arg-type]
        found.get("quality_drop"),  # type: ignore[arg-type]
        found.get("limits", {}),  # type: ignore[arg-type]
    )
    return DecodeAsked(
        model=str(given["model"]),
        draft=_text(given.get("draft")),
        against=_text(given.get("against")),
        tasks=_text(given.get("tasks")),
        rules=rules,
        tuned=found.get("tune", USUAL),  # type: ignore[arg-type]
        fixed=found.get("fix", {}),  # type: ignore[arg-type]
        strategy=str(found.get("strategy", "tpe")),
        trials=found.get("trials", 40),  # type: ignore[arg-type]
        items=found.get("items", 64),  # type: ignore[arg-type]
        max_tokens=found.get("max_tokens"),  # type: ignore[arg-type]
        budget_seconds=found.get("budget"),  # type: ignore[arg-type]
        prunes=not given.get("no_pruning"),
        trust_remote_code=bool(given.get("trust_remote_code")),
        allow_python=bool(given.get("allow_python")),
        address=_text(given.get("address")),
        at_once=found.get("at_once", 1),  # type: ignore[arg-type]
        **reading,  # type: ignore[arg-type]
    )


def space_of(asked: DecodeAsked, layers: int) -> DecodingSpace:
    """Return what is searched, for a model of so many layers.

    Raises:
        SpecError: If nothing is left to tune, or what is fixed or tuned acts nowhere.
    """
    tuned = {name for own in asked.tuned for name in GROUPS.get(own, (own,))}
    menus: dict[str, Sequence[Value]] = {
        own.name: own.menu if own.name in tuned else own.menu[:1] for own in PARAMETERS
    }
    fewer = tuple(n for n in menus["draft_layers"] if int(n) < layers)
    drafts = {"none", "lookup"}
    if asked.draft is not None:
        drafts |= {"model", "both"}
    if fewer:
        drafts |= {"exit", "skip"}
        menus["draft_layers"] = fewer
    menus["draft"] = tuple(own for own in menus["draft"] if own in drafts)
    _check_fixed_draft(asked, drafts, layers)
    menus |= {name: (value,) for name, value in asked.fixed.items()}
    space = DecodingSpace(PARAMETERS).only(menus)
    if len(space) < 2:
        raise SpecError("`two decodings at least` must hold of what is tuned, but got one.")
    _check_acting(asked, space)
    if asked.strategy == "grid" and len(space) > MOST_CELLS:
        raise SpecError(
            f"`decodings <= {MOST_CELLS}` must hold of a grid, but got {len(space)}. Name fewer "
            "parameters to --tune."
        )
    return space


def _check_fixed_draft(asked: DecodeAsked, drafts: set[str], layers: int) -> None:
    """Make sure that what is fixed of a draft can be had.

    Raises:
        SpecError: If it cannot.
    """
    draft, n_layers = asked.fixed.get("draft"), int(asked.fixed.get("draft_layers", 0))
    if draft is not None and draft not in drafts:
        without = "" if asked.draft else ", without a model to draft for it (--draft)"
        raise SpecError(
            f"fix: draft must be one of {', '.join(sorted(drafts))} for this model{without}, but "
            f"got {draft}."
        )
    if n_layers and n_layers >= layers:
        raise SpecError(
            f"fix: `draft_layers < {layers}` must hold, the model's, but got {n_layers}."
        )


def _check_acting(asked: DecodeAsked, space: DecodingSpace) -> None:
    """Make sure that whatever is fixed or tuned by its name acts somewhere in the space.

    Raises:
        SpecError: If something does not; all offenders are named, with what they need.
    """
    needed = {name for own in space.parameters for name in own.needs}
    # What nothing needs lets no other act: one value of each stands for all. That leaves hundreds
    # of decodings at most.
    few = space.only(
        {own.name: own.menu[:1] for own in space.parameters if own.name not in needed}
    )
    acting = {name for own in few.all() for name in few.values(own)}
    # Of what is tuned where nobody says what, a part may well be idle.
    tuned = () if asked.tuned == USUAL else asked.tuned
    groups = [GROUPS.get(own, (own,)) for own in tuned]
    idle = [("fix", name) for name in asked.fixed if name not in acting]
    idle += [("tune", group[0]) for group in groups if not acting & {*group}]
    needs = {own.name: own.needs for own in space.parameters}
    problems = []
    for flag, name in idle:
        wanted = " and ".join(
            f"{other} is {' or '.join(map(str, held))}" for other, held in needs[name].items()
        )
        problems.append(f"{flag}: {name} acts only where {wanted}, which never holds here.")
    if problems:
        raise SpecError(" ".join(problems))


def _objectives(value: object) -> tuple[Objective, ...]:
    names = [own.strip() for own in str(value).split(",")]
    known = [own.value for own in Objective]
    if not 1 <= len(set(names)) == len(names) <= 2 or not set(names) <= set(known):
        raise ValueError(f"one or two of {', '.join(known)} must hold, but got {value}")
    return tuple(Objective(own) for own in names)


def _limits(value: object) -> dict[Objective, float]:
    """Read `seconds=80ms,tokens-per-second=200`: the least of a quality or a rate, else the most.

    Returns:
        The most of each objective's ratio.
    """
    found: dict[Objective, float] = {}
    for part in str(value).split(","):
        name, _, text = part.strip().partition("=")
        if name not in LIMITS or not text:
            raise ValueError(f"name=value of {', '.join(LIMITS)} must hold, but got {part!r}")
        try:
            found[Objective(name)] = Objective(name).shown(LIMITS[name](text))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return found


def _tuned(value: object) -> tuple[str, ...]:
    names = tuple(own.strip() for own in str(value).split(","))
    known = (*GROUPS, *UNTUNED)
    unknown = [own for own in names if own not in known]
    if unknown:
        raise ValueError(f"{', '.join(GROUPS)} or single parameters must hold, but got {value}")
    return names


def _fixed(value: object) -> dict[str, Value]:
    """Read `stop=line,max_new_tokens=24`; numbers beyond the menus are taken too."""
    found: dict[str, Value] = {}
    for part in str(value).split(","):
        name, _, text = part.strip().partition("=")
        if name not in UNTUNED or not text:
            raise ValueError(f"name=value of a parameter of decoding must hold, but got {part!r}")
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Value:
    usual = UNTUNED[name]
    if isinstance(usual, bool):
        if text not in ("True", "False", "true", "false"):
            raise ValueError(f"{name} must be true or false, but got {text!r}")
        return text in ("True", "true")
    if name in NUMBERS:
        try:
            return NUMBERS[name](text)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    menu = {str(own): own for own in next(own.menu for own in PARAMETERS if own.name == name)}
    if text not in menu:
        raise ValueError(f"{name} must be one of {', '.join(menu)}, but got {text}")
    return menu[text]


def _strategy(value: object) -> str:
    if value not in WAYS:
        raise ValueError(f"one of {', '.join(WAYS)} must hold, but got {value}")
    return str(value)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
