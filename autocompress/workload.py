"""What latency is measured on: one kind of request, or several with their shares."""

import enum
import re
from dataclasses import dataclass
from typing import Final

_PART: Final = re.compile(r"(?:([\d.e+-]+)\*)?(?:(prefill|decode):?)?(?:(\d+)x(\d+)\+(\d+))?")


class Phase(enum.StrEnum):
    """What of a request counts."""

    WHOLE = "whole"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request: `batch` sequences of `prompt` + `generated` tokens each.

    Args:
        phase: The time of all of it counts, or that until the first token, or of a further one.
    """

    batch: int = 1
    prompt: int = 128
    generated: int = 64
    phase: Phase = Phase.WHOLE

    def __post_init__(self) -> None:
        if self.phase is Phase.DECODE and self.generated < 2:
            raise ValueError(f"`generated >= 2` must hold, but got {self}: no token is further")

    def time(self, prefill: float, decode: float) -> float:
        """Return what counts, of the time until the first token and that of a further one."""
        match self.phase:
            case Phase.PREFILL:
                return prefill
            case Phase.DECODE:
                return decode
            case Phase.WHOLE:
                return prefill + (self.generated - 1) * decode

    @property
    def tokens(self) -> int:
        """What a throughput counts in the time that counts: generated ones, or of the phase."""
        match self.phase:
            case Phase.PREFILL:
                return self.batch * self.prompt
            case Phase.DECODE:
                return self.batch
            case Phase.WHOLE:
                return self.batch * self.generated

    def throughput(self, milliseconds: float) -> float:
        """Return the tokens a second that a time of what counts means."""
        return 1e3 * self.tokens / milliseconds

    def __str__(self) -> str:
        size = f"{self.batch}x{self.prompt}+{self.generated}"
        return size if self.phase is Phase.WHOLE else f"{self.phase}:{size}"


USUAL: Final = Workload()


@dataclass(frozen=True, slots=True)
class Mix:
    """Workloads with a weight each: how often such a request comes.

    Args:
        parts: At least one, none twice.
    """

    parts: tuple[tuple[float, Workload], ...] = ((1.0, USUAL),)

    @property
    def first(self) -> Workload:
        """The workload of the largest weight; of equal ones that named first."""
        return max(self.parts, key=lambda part: part[0])[1]

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All of them, in order."""
        return tuple(workload for _, workload in self.parts)

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of the requests that each has; they add up to 1."""
        whole = sum(weight for weight, _ in self.parts)
        return tuple(weight / whole for weight, _ in self.parts)

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return str(self.first)
        return ",".join(f"{_told(weight)}*{workload}" for weight, workload in self.parts)

    @classmethod
    def parse(cls, text: str) -> "Mix":
        """Read `BxP+G`, `prefill:BxP+G`, `decode`, or some with weights: `3*1x128+64,1*decode`.

        Raises:
            ValueError: If it is none of these.
        """
        parts = [_part(part.strip()) for part in text.split(",")]
        named = [workload for _, workload in parts]
        twice = next((w for w in named if named.count(w) > 1), None)
        if twice is not None:
            raise ValueError(f"every workload may be named once, but {twice} is named again")
        return cls(tuple(parts)) if len(parts) > 1 else cls(((1.0, named[0]),))


def _part(text: str) -> tuple[float, Workload]:
    match = _PART.fullmatch(text)
    if match is None or not any(match.groups()[1:]) or "0" in map(_plain, match.groups()[2:]):
        raise ValueError(
            "`BxP+G`, whole numbers from 1, alone or after `prefill:` or `decode:`, or several "
            f"with weights, such as `3*1x128+64,1*decode`, must hold, but got {text!r}"
        )
    try:
        weight = float(match[1] or 1)
    except ValueError:
        weight = 0.0
    if weight <= 0:
        raise ValueError(f"a weight above 0 must hold, but got {text!r}")
    phase = Phase(match[2]) if match[2] else Phase.WHOLE
    if match[3] is None:
        return weight, Workload(phase=phase)
    return weight, Workload(int(match[3]), int(match[4]), int(match[5]), phase)


def _told(weight: float) -> str:
    """Return the shortest text that is read as the same number."""
    return str(int(weight)) if weight.is_integer() else repr(weight)


def _plain(digits: str | None) -> str:
    """Return a number without leading zeros; nothing for nothing."""
    return "" if digits is None else digits.lstrip("0") or "0"


USUAL_MIX: Final = Mix()
