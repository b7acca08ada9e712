"""What may go into a JSON column: text, finite numbers, booleans, null, lists and mappings."""

import math
from collections.abc import Iterator, Mapping
from typing import cast

from autocompress.errors import StoreError
from autocompress.store.base import Json
from autocompress.store.rows import storable


def plain(name: str, value: Mapping[str, Json]) -> dict[str, Json]:
    """Return a mapping as dicts and lists, the same for every database.

    Neither NaN nor infinity is JSON: PostgreSQL refuses them and other readers stumble. Texts are
    made storable: what a byte-level tokenizer decodes may hold a NUL, which JSONB refuses too.

    Raises:
        StoreError: Naming every place that holds something else.
    """
    offenders = list(_offenders(name, value))
    if offenders:
        raise StoreError(
            f"`{name} is finite JSON` must hold, but got {', '.join(offenders)}. "
            "Write null where there is no number."
        )
    return cast("dict[str, Json]", _copied(value))


def _offenders(place: str, value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"the key {key!r} in {place}"
            yield from _offenders(f"{place}.{key}", item)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _offenders(f"{place}[{index}]", item)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} = {value}"
    elif value is not None and not isinstance(value, bool | int | float | str):
        yield f"{place} of type {type(value).__name__}"


def _copied(value: object) -> object:
    if isinstance(value, Mapping):
        return {storable(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return storable(value) if isinstance(value, str) else value
