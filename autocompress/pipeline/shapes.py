"""Makes the space that a spec asks for, of a model's shape; keeps the shape as plain values.

Loads no torch: a study's space is made again in a moment.
"""

from collections.abc import Mapping, Sequence

from autocompress.spaces.base import LinearGroup, SearchSpace, SiteKind
from autocompress.spaces.making import ModelShape, Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.spec import SearchSpec
from autocompress.store.base import Json


def space_of(spec: SearchSpec, shape: ModelShape) -> SearchSpace:
    """Return the space that a spec asks for of a model's shape.

    Raises:
        SpecError: If a group size, a block or a pattern does not divide the model's layers, or a
            menu gets too long.
    """
    is_coded, is_sparse = "bits" in spec.space, "sparsity" in spec.space
    bits = spec.bits if is_coded else ()
    named = [WeightSetting.parse(name) for name in bits if not name.isdigit()]
    weights = Weights(
        bits=tuple(int(name) for name in bits if name.isdigit()),
        group_size=spec.group_size,
        symmetric=spec.symmetric,
        settings=tuple(setting for setting in named if setting.block is None),
        blocks=tuple(setting.block for setting in named if setting.block is not None),
        sparsities=tuple(WeightSetting.parse(f"s{n}") for n in spec.sparsities if is_sparse),
        sparsity_step=spec.sparsity_step,
        cache_bits=tuple(int(bits) for bits in spec.kv_bits if "kv" in spec.space),
    )
    return make_space(
        shape.n_layers,
        shape.kv_groups,
        shape.ffn_columns,
        depth="depth" in spec.space,
        width="width" in spec.space,
        whole_layers=spec.whole_layers,
        keeps_first_attention=spec.format == "decilm",
        weights=weights,
        groups=shape.groups,
        other_parameters=shape.other_parameters,
    )


def setting_of(name: str) -> WeightSetting | None:
    """Return what one of a spec's `bits` or `sparsities` says, without groups; None for dense."""
    if name == "dense":
        return None
    if name.isdigit():
        return WeightSetting(bits=int(name))
    return WeightSetting.parse(name if name.isalnum() else f"s{name}")


def to_document(shape: ModelShape) -> Mapping[str, Json]:
    """Return a shape as plain values, to be kept with a study."""
    return {
        "n_layers": shape.n_layers,
        "kv_groups": shape.kv_groups,
        "ffn_columns": shape.ffn_columns,
        "groups": {
            kind.value: [
                {
                    "name": group.name,
                    "linears": list(group.linears),
                    "rows": list(group.rows),
                    "columns": group.columns,
                    "narrows_columns": group.narrows_columns,
                    "has_bias": group.has_bias,
                }
                for group in groups
            ]
            for kind, groups in shape.groups.items()
        },
        "other_parameters": {kind.value: n for kind, n in shape.other_parameters.items()},
    }


def from_document(document: Mapping[str, Json]) -> ModelShape:
    """Read what `to_document` wrote."""
    groups, other = _mapping(document["groups"]), _mapping(document["other_parameters"])
    return ModelShape(
        _whole(document["n_layers"]),
        _whole(document["kv_groups"]),
        _whole(document["ffn_columns"]),
        {SiteKind(kind): tuple(map(_group, _list(own))) for kind, own in groups.items()},
        {SiteKind(kind): _whole(n) for kind, n in other.items()},
    )


def _group(value: Json) -> LinearGroup:
    own = _mapping(value)
    return LinearGroup(
        str(own["name"]),
        tuple(map(str, _list(own["linears"]))),
        tuple(map(_whole, _list(own["rows"]))),
        _whole(own["columns"]),
        bool(own["narrows_columns"]),
        bool(own["has_bias"]),
    )


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Json) -> Sequence[Json]:
    return value if isinstance(value, list) else []


def _whole(value: Json) -> int:
    return int(str(value))
