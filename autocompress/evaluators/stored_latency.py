"""Reads what latency models are stored as."""

import math
from collections.abc import Mapping, Sequence

from autocompress.errors import SpecError
from autocompress.evaluators.latency_model import LatencyModel, LatencyTable, LatencyTables
from autocompress.evaluators.latency_rows import Profile, Row, Sample, Spent
from autocompress.evaluators.roofline import Roofline
from autocompress.spaces.base import Choice, SearchSpace, SiteKind
from autocompress.spaces.settings import WeightSetting
from autocompress.spec_rules import USUAL_EMBEDDINGS
from autocompress.store.base import Json
from autocompress.workload import Mix


def read_latency(values: Mapping[str, Json], space: SearchSpace) -> LatencyModel:
    """Read what any latency model's `to_json` wrote.

    Raises:
        SpecError: If a field is missing or wrong, or it is of another space.
    """
    return Roofline.from_json(values) if "roofline" in values else read_tables(values, space)


def read_tables(values: Mapping[str, Json], space: SearchSpace) -> LatencyTables:
    """Read what `to_json` wrote.

    Raises:
        SpecError: If a field is missing or wrong, or a table is of another space.
    """
    try:
        found = LatencyTables(
            Mix.parse(str(values["workload"])),
            tuple(_table(_mapping(table)) for table in _list(values["tables"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SpecError(f"Not a latency table: {error}.") from error
    if tuple(table.workload for table in found.tables) != found.mix.workloads:
        raise SpecError("Not a latency table: there must be one for each workload.")
    samples = [[sample.choices for sample in table.samples] for table in found.tables]
    if any(own != samples[0] for own in samples):
        raise SpecError("Not a latency table: all workloads must have the same samples.")
    if len(samples[0]) < 3:
        raise SpecError("`3 or more samples` must hold, but the latency table has fewer.")
    if any(len(choices) != len(space.sites) for choices in samples[0]):
        raise SpecError(
            f"The latency table is of another model: `{len(space.sites)} sites` must hold, but "
            f"its samples have {len(samples[0][0])}."
        )
    found.check(space)
    return found


def _table(values: Mapping[str, Json]) -> LatencyTable:
    return LatencyTable(
        engine=str(values["engine"]),
        engine_version=str(values["engine_version"]),
        hardware=str(values["hardware"]),
        threads=int(str(values["threads"])),
        workload=Mix.parse(str(values["workload"])).first,
        profile=Profile(
            _spent(values["dense"]),
            _spent(values["fixed"]),
            tuple(_row(row) for row in _list(values["rows"])),
            # Tables of earlier versions know no other.
            None if values.get("start") is None else _spent(values["start"]),
        ),
        samples=tuple(_sample(row) for row in _list(values["samples"])),
        scales=_three(values["scales"]),
        finalists=tuple(_sample(row) for row in _list(values["finalists"])),
        embeddings=str(values.get("embeddings", USUAL_EMBEDDINGS)),
    )


def _list(value: Json) -> Sequence[Json]:
    if not isinstance(value, list):
        raise TypeError(f"a list must hold, but got {value!r}")
    return value


def _mapping(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a mapping must hold, but got {value!r}")
    return value


def _positive(value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"a time of at least 0 must hold, but got {value!r}")
    return float(value)


def _spent(value: Json) -> Spent:
    pair = _mapping(value)
    return Spent(_positive(pair["prefill"]), _positive(pair["decode"]))


def _row(value: Json) -> Row:
    row = _mapping(value)
    low, high = _list(row["decode_interval"])
    return Row(
        SiteKind(str(row["kind"])),
        _choice(row["choice"]),
        _spent(row["milliseconds"]),
        (float(str(low)), float(str(high))),
    )


def _sample(value: Json) -> Sample:
    row = _mapping(value)
    choices = tuple(map(_choice, _list(row["choices"])))
    sample = Sample(choices, _spent(row["spent"]), _spent(row["again"]))
    if min(sample.spent.prefill, sample.again.prefill) <= 0:
        raise ValueError("a sample must take more than 0 ms")
    return sample


def _choice(value: Json) -> Choice:
    units, *settings = str(value).split(" ")
    kept, total = map(int, units.split("/"))
    return Choice(kept, total, tuple(map(WeightSetting.parse, settings)))


def _three(value: Json) -> tuple[float, float, float]:
    first, second, third = (_positive(item) for item in _list(value))
    return first, second, third
