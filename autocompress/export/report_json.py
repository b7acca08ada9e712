"""Turns nested frozen dataclasses into JSON values and back; every number is finite."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

from autocompress.errors import ExportError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
T = TypeVar("T")
PLAIN = (bool, int, float, str)


def to_plain(value: object) -> Json:
    """Return dataclasses as mappings and tuples as lists.

    Raises:
        ExportError: If a number is not finite; all offenders are named.
    """
    problems: list[str] = []
    plain = _plain(value, "", problems)
    _refuse(problems)
    return plain


def from_plain(kind: type[T], value: object) -> T:
    """Read what `to_plain` wrote; keys that `kind` does not know are left out.

    Raises:
        ExportError: If a field is missing, of another type or not finite; all offenders are named.
    """
    problems: list[str] = []
    read = _read(kind, value, "", problems)
    _refuse(problems)
    return typing.cast(T, read)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ExportError(f"A report's fields must hold finite values: {'; '.join(problems)}.")


def _plain(value: object, where: str, problems: list[str]) -> Json:
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {n: _plain(getattr(value, n), f"{where}.{n}", problems) for n in names}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}.{k}", problems) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v, f"{where}[{i}]", problems) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{where[1:]} is {value}")
        return None
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    problems.append(f"{where[1:]} is of type {type(value).__name__}")
    return None


def _read(kind: object, value: object, where: str, problems: list[str]) -> object:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None or (type(value) in args and type(value) in PLAIN):
            return value
        return _read(next(a for a in args if a is not types.NoneType), value, where, problems)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return _read_fields(kind, value, where, problems)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_read(k, v, f"{where}[{i}]", problems) for i, (k, v) in pairs)
    if origin is Mapping and isinstance(value, Mapping):
        return {str(k): _read(args[1], v, f"{where}.{k}", problems) for k, v in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif isinstance(kind, type) and type(value) is kind:
        return value
    problems.append(f"{where[1:] or 'report'} is {str(value)[:40]!r}")
    return None


def _read_fields(
    kind: type, value: Mapping[str, object], where: str, problems: list[str]
) -> object:
    hints = typing.get_type_hints(kind)
    arguments: dict[str, object] = {}
    before = len(problems)
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name in value:
            inner = f"{where}.{field.name}"
            arguments[field.name] = _read(hints[field.name], value[field.name], inner, problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{where}.{field.name}"[1:] + " is missing")
    # A half-read value must not reach a constructor that computes with it.
    return kind(**arguments) if len(problems) == before else None
