"""The checked description of a search: flags and YAML become one `SearchSpec`."""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from autocompress.errors import SpecError

SPACES: Final = ("depth", "width")
ENGINES: Final = ("torch",)
STRATEGIES: Final = (
    "evolve",
    "evopress",
    "additive",
    "random",
    "uniform",
    "shortgpt",
    "cosine",
    "leave-one-out",
    "brute-force",
)
WARM_STARTS: Final = ("losses", "weights")
POOLS: Final = ("local", "ray")
DEVICES: Final = re.compile(r"auto|cpu|cuda(:\d+)?")
DTYPES: Final = ("auto", "bfloat16", "float32")


@dataclass(frozen=True, slots=True)
class Workload:
    """What latency is measured on: `batch` sequences of `prompt` + `generated` tokens each."""

    batch: int = 1
    prompt: int = 128
    generated: int = 64

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}+{self.generated}"

    @classmethod
    def parse(cls, text: str) -> "Workload":
        """Read `BxP+G`."""
        match = re.fullmatch(r"(\d+)x(\d+)\+(\d+)", text.strip())
        if match is None or 0 in map(int, match.groups()):
            raise ValueError(f"`BxP+G` with whole numbers from 1 must hold, but got {text!r}")
        return cls(*map(int, match.groups()))


@dataclass(frozen=True, slots=True)
class SearchSpec:
    """Everything a search depends on, beside the machine.

    A study is a function of this, its latency rows and its recorded events. Units:
    `budget_seconds` of wall time for the search loop, `max_tokens` summed over candidates;
    `context` is the length of a calibration sequence in tokens; `teacher_tokens` of the dense
    model's likeliest are kept of each prediction; a batch is cut into about `shards` parts, which
    decides what shares its computation, and how many workers can help. `weights_bytes` of the
    layers' weights are held by a worker, the others streamed; None holds all. `warm_start` is
    from measured losses of single changes, or from the weights alone. What the study `parent` has
    measured is not measured again.
    """

    model: str
    target_speedup: float
    space: tuple[str, ...] = SPACES
    engine: str = "torch"
    workload: Workload = Workload()
    device: str = "auto"
    dtype: str = "auto"
    calibration: str | None = None
    latency_table: str | None = None
    quality_floor: float = 1.3
    strategy: str = "evolve"
    budget_seconds: float | None = None
    max_tokens: int | None = None
    workers: int | None = None
    pool: str = "local"
    address: str | None = None
    context: int = 256
    teacher_tokens: int = 512
    shards: int = 16
    weights_bytes: int | None = None
    warm_start: str = "losses"
    seed: int = 0
    parent: str | None = None
    trust_remote_code: bool = False

    def to_json(self) -> dict[str, bool | int | float | str | list[str] | None]:
        """Return the form kept in the store; `from_mapping` reads it back."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {"workload": str(self.workload), "space": list(self.space)}


def from_mapping(values: Mapping[str, object]) -> SearchSpec:
    """Check every value and return the spec.

    Keys are the fields' names, with `-` or `_`. Values may be text, as flags and YAML give it.

    Raises:
        SpecError: One line that names all offenders at once.
    """
    given = {key.replace("-", "_"): value for key, value in values.items()}
    problems = [_unknown(key) for key in given if key not in _READERS]
    checked: dict[str, object] = {}
    for key, value in given.items():
        if key not in _READERS or value is None:
            continue
        try:
            checked[key] = _READERS[key](value)
        except ValueError as error:
            problems.append(f"{key}: {error}.")
    for key in ("model", "target_speedup"):
        if key not in checked and not any(p.startswith(f"{key}:") for p in problems):
            flag = "MODEL" if key == "model" else "--target-speedup"
            problems.append(f"{key}: missing; give {flag} or write it into autocompress.yaml.")
    if checked.get("address") is not None and checked.get("pool", "local") != "ray":
        problems.append("address: `pool: ray` must hold when an address is given.")
    if problems:
        raise SpecError(" ".join(problems))
    return SearchSpec(**checked)  # type: ignore[arg-type]  # each reader returns its field's type


def read_yaml(path: Path) -> dict[str, object]:
    """Read a spec file into a mapping of plain values.

    Raises:
        SpecError: If the file is missing, not YAML, or not a mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"Cannot read spec file {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise SpecError(f"{path} must hold a mapping of names to values.")
    return loaded


def parse_speedup(text: str) -> float:
    """Read a target such as `2x`.

    Raises:
        SpecError: If it is none.
    """
    try:
        return _number(1, 1000, suffix="x")(text)
    except ValueError as error:
        raise SpecError(f"target_speedup: {error}.") from error


def parse_seconds(value: object) -> float:
    """Read a duration: a number of seconds, or a text such as `90s`, `30m`, `1.5h`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
    if match is None or float(match[1]) == 0:
        raise ValueError(f"a duration such as 30m must hold, but got {value!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _unknown(key: str) -> str:
    known = sorted(_READERS)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"Unknown key {key!r}{hint} Known: {', '.join(known)}."


def _number(low: float, high: float, suffix: str = "") -> Callable[[object], float]:
    def read(value: object) -> float:
        text = str(value).strip().lower().removesuffix(suffix) if suffix else str(value).strip()
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"a number must hold, but got {value!r}") from None
        if isinstance(value, bool) or not low < number <= high:
            raise ValueError(f"`{low:g} < value <= {high:g}` must hold, but got {value}")
        return number

    return read


def _whole(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        text = str(value).strip().replace("_", "")
        if isinstance(value, bool) or re.fullmatch(r"[+-]?\d+", text) is None:
            raise ValueError(f"a whole number must hold, but got {value!r}")
        if not low <= int(text) <= high:
            raise ValueError(f"`{low} <= value <= {high}` must hold, but got {text}")
        return int(text)

    return read


def _bytes(value: object) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", str(value).strip().lower())
    if isinstance(value, bool) or match is None or float(match[1]) == 0:
        raise ValueError(f"a size such as 8GB must hold, but got {value!r}")
    return int(float(match[1]) * 1000 ** " kmgt".index(match[2] or " "))


def _one_of(names: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in names:
            near = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown {str(value)!r}{hint} Known: {', '.join(names)}")
        return str(value)

    return read


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a text must hold, but got {value!r}")
    return value


def _space(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"a list of spaces must hold, but got {value!r}")
    if [str(name).strip() for name in names] == ["auto"]:
        return SPACES
    picked = {_one_of(SPACES)(str(name).strip()) for name in names}
    return tuple(name for name in SPACES if name in picked)


def _workload(value: object) -> Workload:
    return Workload.parse(str(value))


def _device(value: object) -> str:
    if not isinstance(value, str) or DEVICES.fullmatch(value) is None:
        raise ValueError(f"`auto`, `cpu`, `cuda` or `cuda:N` must hold, but got {value!r}")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"true or false must hold, but got {value!r}")
    return value


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "model": _text,
    "target_speedup": _number(1, 1000, suffix="x"),
    "space": _space,
    "engine": _one_of(ENGINES),
    "workload": _workload,
    "device": _device,
    "dtype": _one_of(DTYPES),
    "calibration": _text,
    "latency_table": _text,
    "quality_floor": _number(1, 1e9),
    "strategy": _one_of(STRATEGIES),
    "budget_seconds": parse_seconds,
    "max_tokens": _whole(1, 10**15),
    "workers": _whole(1, 4096),
    "pool": _one_of(POOLS),
    "address": _text,
    "context": _whole(16, 1_000_000),
    "teacher_tokens": _whole(1, 10**9),
    "shards": _whole(1, 65_536),
    "weights_bytes": _bytes,
    "warm_start": _one_of(WARM_STARTS),
    "seed": _whole(0, 2**32 - 1),
    "parent": _text,
    "trust_remote_code": _flag,
}
