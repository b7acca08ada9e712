"""Reads single values of a spec, as flags and YAML give them; a wrong one is one clause."""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from autocompress.errors import SpecError


@dataclass(frozen=True, slots=True)
class Amount:
    """A size: so much, or so many percent of what the dense model has.

    Args:
        value: Bytes or parameters, or percent of them.
    """

    value: float
    is_percent: bool = False

    def of(self, dense: float) -> float:
        """Return the amount, given what the dense model has."""
        return self.value / 100 * dense if self.is_percent else self.value

    def __str__(self) -> str:
        return f"{self.value!r}%" if self.is_percent else f"{self.value:.0f}"


def check_plain_name(name: str) -> None:
    """Make sure that what `--name` says can be a file's name, and nothing else.

    Raises:
        SpecError: If it cannot.
    """
    if not name or "/" in name or name.startswith("."):
        raise SpecError(f"`--name` must be a plain name, but got {name!r}.")


def number(
    low: float, high: float, suffix: str = "", *, with_low: bool = False
) -> Callable[[object], float]:
    """Return what reads a number within (low, high], or [low, high], with or without a suffix."""
    below = "<=" if with_low else "<"

    def read(value: object) -> float:
        text = str(value).strip().lower().removesuffix(suffix) if suffix else str(value).strip()
        try:
            found = float(text)
        except ValueError:
            raise ValueError(f"a number must hold, but got {value!r}") from None
        is_within = low < found <= high or (with_low and found == low)
        if isinstance(value, bool) or not is_within:
            raise ValueError(f"`{low:g} {below} value <= {high:g}` must hold, but got {value}")
        return found

    return read


def whole(low: int, high: int) -> Callable[[object], int]:
    """Return what reads a whole number within [low, high]."""

    def read(value: object) -> int:
        text = str(value).strip().replace("_", "")
        if isinstance(value, bool) or re.fullmatch(r"[+-]?\d+", text) is None:
            raise ValueError(f"a whole number must hold, but got {value!r}")
        if not low <= int(text) <= high:
            raise ValueError(f"`{low} <= value <= {high}` must hold, but got {text}")
        return int(text)

    return read


def size(value: object) -> int:
    """Read `8GB`, `500k` or a plain number of bytes or parameters."""
    found = _thousands(value, "b?")
    if found is None or found < 1:
        raise ValueError(f"a size such as 8GB must hold, but got {value!r}")
    return int(found)


def count(low: int = 1, high: int = 10**15) -> Callable[[object], int]:
    """Return what reads `300k`, `2M` or a plain number of tokens within [low, high]."""

    def read(value: object) -> int:
        found = _thousands(value, "")
        if found is None or found.denominator > 1:
            raise ValueError(f"a number such as 300k must hold, but got {value!r}")
        if not low <= found <= high:
            raise ValueError(f"`{low} <= value <= {high}` must hold, but got {value}")
        return int(found)

    return read


def _thousands(value: object, unit: str) -> Fraction | None:
    """Return a number with its suffix, exactly; None for what is none."""
    text = str(value).strip().lower().replace("_", "")
    match = re.fullmatch(rf"([+-]?\d+(?:\.\d+)?)\s*([kmgt]?){unit}", text)
    if isinstance(value, bool) or match is None:
        return None
    factor: int = 1000 ** " kmgt".index(match[2] or " ")
    return Fraction(match[1]) * factor


def amount(value: object) -> Amount:
    """Read a size, or what remains of dense as `50%`."""
    if isinstance(value, Amount):
        return value
    text = str(value).strip()
    if not text.endswith("%"):
        try:
            return Amount(float(size(value)))
        except ValueError:
            raise ValueError(f"a size such as 8GB, or 50%, must hold, but got {value!r}") from None
    return Amount(number(0, 100)(text.removesuffix("%")), is_percent=True)


def seconds(value: object) -> float:
    """Read a duration: a number of seconds, or a text such as `90s`, `30m`, `1.5h`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"a duration such as 30m must hold, but got {value!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def milliseconds(value: object) -> float:
    """Read a time: a number of milliseconds, or a text such as `20ms`, `1.5s`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s)?", str(value).strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"a time such as 20ms must hold, but got {value!r}")
    return float(match[1]) * (1000 if match[2] == "s" else 1)


def one_of(names: Sequence[str]) -> Callable[[object], str]:
    """Return what reads one of some names; another is answered with the nearest and the list."""

    def read(value: object) -> str:
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown {str(value)!r}{hint} Known: {', '.join(names)}")
        return str(value)

    return read


def names(value: object, what: str) -> list[str]:
    """Read a list, or a text with commas."""
    found = value.split(",") if isinstance(value, str) else value
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = [found]
    if not isinstance(found, list | tuple) or not found:
        raise ValueError(f"a list of {what} must hold, but got {value!r}")
    return [str(name).strip() for name in found]


def text(value: object) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text must hold, but got {value!r}")
    return value


def flag(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"true or false must hold, but got {value!r}")
    return value
