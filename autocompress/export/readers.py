"""Reads what files of this and of other tools say of a model's layers.

What a file does not name is dense. Nothing is guessed: a file that does not say what it means, or
means something that it does not say, is refused with the reason.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from autocompress.errors import SpecError
from autocompress.export.tool_recipes import GGUF_NAMES
from autocompress.spaces.base import SiteKind
from autocompress.spaces.settings import WeightSetting

_EVOPRESS: Final[Mapping[str, tuple[SiteKind, ...]]] = {
    "none": (),
    "attn": (SiteKind.ATTENTION,),
    "mlp": (SiteKind.MLP,),
    "attn+mlp": (SiteKind.ATTENTION, SiteKind.MLP),
}
"""What a line of its depth search says of a block: what is gone."""
_LEVEL: Final = re.compile(r"(?:.*\.)?layers\.(\d+)\.((?:self_attn|mlp)\.\w+)\s*:\s*(-?\d+)")
_NARROWED: Final = {
    "self_attn.o_proj": (SiteKind.ATTENTION, "cols_removed_attn"),
    "mlp.down_proj": (SiteKind.MLP, "cols_removed_mlp"),
}
"""The linear layers whose columns DarwinLM takes, and its flag with the numbers of each level."""
_TYPE: Final = re.compile(r"([^\s=]+)=(\w+)")
_PLAIN_TYPES: Final = ("f16", "bf16", "f32")
_BLOCKS: Final[Mapping[tuple[int, int | None, str], str]] = {
    (8, None, "channel"): "fp8",
    (4, 32, "group"): "mxfp4",
    (4, 16, "tensor_group"): "nvfp4",
}
"""By bits, group size and strategy, what compressed-tensors tells as floating point."""


_METRIC: Final[Mapping[tuple[str, int], str]] = {
    ("W", 0): "abs(W)",
    ("X", 0): "square(X)",
    ("G", 0): "G",
    ("sqr", 1): "square({})",
    ("pow", 1): "square({})",
    ("neg", 1): "(-{})",
    ("abs", 1): "abs({})",
    ("log", 1): "log({})",
    ("exp", 1): "exp({})",
    ("sqrt", 1): "sqrt({})",
    ("skp", 1): "{}",
    ("mms", 1): "minmax({})",
    ("tanh", 1): "tanh({})",
    ("zsn", 1): "normalize({})",
    ("add", 2): "({} + {})",
    ("sub", 2): "({} - {})",
    ("mul", 2): "({} * {})",
    ("div", 2): "({} / norm({}))",
}
"""What the names in its trees, of so many arguments, are in a formula."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a file says.

    Args:
        form: Of the file, in words.
        sites: What is done to sub-blocks, by layer and kind, as a `Choice` is written.
        linears: What is done to linear layers, by layer and name in it: a setting as text, bits
            such as `4`, or a level of EvoPress's sparsity such as `-2`.
        removed: Columns that sub-blocks lose of what they write out, by layer and kind.
    """

    form: str
    sites: Mapping[tuple[int, SiteKind], str] = field(default_factory=dict)
    linears: Mapping[tuple[int, str], str] = field(default_factory=dict)
    removed: Mapping[tuple[int, SiteKind], int] = field(default_factory=dict)


def read_told(path: Path, n_layers: int) -> Told:
    """Read a recipe of this tool, or what EvoPress, DarwinLM or another tool writes.

    DarwinLM's levels mean numbers of columns that its users choose: what is read is YAML that
    names the file of levels, beside it, as `darwinlm`, with the lists that `struct_prune.py` was
    given, `cols_removed_attn` and `cols_removed_mlp`.

    Args:
        n_layers: Of the model that it is meant for.

    Raises:
        SpecError: If it cannot be read, or does not say what it means for such a model.
    """
    text = _text(path)
    lines = _lines(text)
    forms: Sequence[tuple[re.Pattern[str], Callable[[Sequence[str]], Told]]] = (
        (re.compile("|".join(map(re.escape, _EVOPRESS))), _evopress_depth),
        (_LEVEL, _evopress_levels),
        (_TYPE, lambda some: _tensor_types(some, n_layers)),
    )
    try:
        for pattern, read in forms:
            if lines and all(pattern.fullmatch(line) for line in lines):
                return _checked(read(lines), n_layers)
        return _checked(_structured(yaml.safe_load(text), path.parent, n_layers), n_layers)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{path}: {' '.join(str(error).split()).rstrip('.')}.") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read {path}: {getattr(error, 'strerror', error)}.") from error


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _checked(told: Told, n_layers: int) -> Told:
    layers = {layer for layer, _ in (*told.sites, *told.linears, *told.removed)}
    beyond = sorted(layer for layer in layers if not 0 <= layer < n_layers)
    if beyond:
        raise ValueError(f"it names layer {beyond[0]}, and the model has {n_layers}")
    return told


def _evopress_depth(lines: Sequence[str]) -> Told:
    return Told(
        "what EvoPress drops",
        {(layer, kind): "drop" for layer, line in enumerate(lines) for kind in _EVOPRESS[line]},
    )


def _evopress_levels(lines: Sequence[str]) -> Told:
    found = {
        (int(match[1]), match[2]): match[3] for match in map(_LEVEL.fullmatch, lines) if match
    }
    return Told("EvoPress's levels", linears=found)


def _darwinlm(said: Mapping[str, Any], folder: Path) -> Told:
    """Read levels of DarwinLM, each a number of removed columns that its user chose."""
    lists = {flag: said.get(flag) for _, flag in _NARROWED.values()}
    for flag, columns in lists.items():
        if not isinstance(columns, list) or not all(type(n) is int and n >= 0 for n in columns):
            raise ValueError(
                f"`{flag}` must list the columns that each level removes, as struct_prune.py was "
                f"given them, but got {columns!r}"
            )
    found = {}
    for line in _lines(_text(folder / str(said["darwinlm"]))):
        match = _LEVEL.fullmatch(line)
        if not match or match[2] not in _NARROWED:
            raise ValueError(
                f"a line of DarwinLM names {' or '.join(_NARROWED)} and a level, but got {line!r}"
            )
        kind, flag = _NARROWED[match[2]]
        columns, level = lists[flag] or [], int(match[3])
        if not 0 <= level < len(columns):
            raise ValueError(f"`{flag}` lists {len(columns)} levels, but {line!r} is another")
        found[int(match[1]), kind] = columns[level]
    return Told("DarwinLM's levels", removed=found)


def _tensor_types(lines: Sequence[str], n_layers: int) -> Told:
    """Read llama-quantize's types: a tensor takes that of the first pattern found in its name."""
    rules = [(re.compile(pattern), kind.lower()) for pattern, kind in map(_rule, lines)]
    found = {}
    for layer in range(n_layers):
        for ours, theirs in GGUF_NAMES.items():
            tensor = f"blk.{layer}.{theirs}.weight"
            kind = next((kind for pattern, kind in rules if pattern.search(tensor)), None)
            if kind is not None and kind not in _PLAIN_TYPES:
                found[layer, ours] = kind
    return Told("types of llama-quantize", linears=found)


def _rule(line: str) -> tuple[str, str]:
    pattern, _, kind = line.rpartition("=")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern} is no regular expression: {error}") from error
    return pattern, kind


def _structured(read: object, folder: Path, n_layers: int) -> Told:
    """Read what is YAML, or JSON; what it names lies in the folder."""
    if not isinstance(read, dict):
        raise ValueError(
            "it is no recipe, no lines of none, attn, mlp or attn+mlp, none of `layer: level` or "
            "`pattern=type`, and no config of compressed-tensors"
        )
    if {"data", "left", "right"} <= read.keys():
        raise ValueError("a tree of Pruner-Zero is a metric and no model: give it to --pruner")
    if "darwinlm" in read:
        return _darwinlm(read, folder)
    if "layers" in read:
        return _recipe(read["layers"])
    quantization = read.get("quantization_config", read)
    if isinstance(quantization, dict) and "config_groups" in quantization:
        return _compressed_tensors(quantization, read.get("num_hidden_layers"), n_layers)
    raise ValueError("it has neither `layers` nor `config_groups`, nor `darwinlm`")


def _recipe(layers: object) -> Told:
    if not isinstance(layers, dict) or not all(isinstance(own, dict) for own in layers.values()):
        raise ValueError("`layers` must hold a mapping for each layer")
    return Told(
        "a recipe",
        {
            (int(layer), SiteKind(kind)): str(text)
            for layer, own in layers.items()
            for kind, text in own.items()
        },
    )


def _compressed_tensors(config: Mapping[str, Any], left: object, n_layers: int) -> Told:
    if left is not None and left != n_layers:
        raise ValueError(
            f"its model has {left} layers and this one {n_layers}: it does not say which are gone"
        )
    names = [(layer, name) for layer in range(n_layers) for name in GGUF_NAMES]
    ignored = config.get("ignore") or []
    found = {}
    for group in config["config_groups"].values():
        if group.get("input_activations"):
            raise ValueError("it quantizes activations, which are not searched here")
        setting = _setting(group["weights"])
        for layer, name in names:
            if _names(group["targets"], layer, name) and not _names(ignored, layer, name):
                found[layer, name] = setting
    return Told("a config of compressed-tensors", linears=found)


def _setting(weights: Mapping[str, Any]) -> str:
    """Return what compressed-tensors says of weights as a setting's text."""
    bits, size, strategy = weights["num_bits"], weights.get("group_size"), weights["strategy"]
    if weights["type"] == "float":
        named = _BLOCKS.get((bits, size, strategy))
        if named is None:
            raise ValueError(f"floating point of {bits} bits by {strategy} is not known here")
        return named
    if strategy not in ("group", "channel"):
        raise ValueError(f"scales by {strategy} are not known here")
    return str(WeightSetting(bits, size if strategy == "group" else None, weights["symmetric"]))


def _names(targets: Iterable[str], layer: int, name: str) -> bool:
    """Whether any of compressed-tensors' targets is a linear layer."""
    whole = f"model.layers.{layer}.{name}"
    return any(
        bool(re.match(own[3:], whole)) if own.startswith("re:") else own in ("Linear", whole)
        for own in targets
    )


def read_metric(path: Path) -> str:
    """Return the formula that a tree of Pruner-Zero (arXiv:2406.02924) stands for, for `pruner`.

    There a weight's magnitude is W, X the square of its column's norm, and what divides does so
    by its norm.

    Raises:
        SpecError: If it cannot be read, or holds an operator that no formula here has.
    """
    text = _text(path)
    try:
        return _formula(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path} is no tree of Pruner-Zero for a formula: {error}.") from error


def _formula(node: object) -> str:
    if not isinstance(node, dict) or not isinstance(node.get("data"), str):
        raise ValueError("every node must hold `data`, `left` and `right`")
    name, arguments = node["data"], [node[k] for k in ("left", "right") if node.get(k)]
    pattern = _METRIC.get((name, len(arguments)))
    if pattern is None:
        known = ", ".join(sorted({known for known, _ in _METRIC}))
        raise ValueError(f"{name!r} of {len(arguments)} is not known. Known: {known}")
    return pattern.format(*map(_formula, arguments))
