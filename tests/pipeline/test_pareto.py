"""The Pareto front of real studies in a real database, of a tiny model without its weights."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.export.pareto import Axis
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.pareto import ENOUGH, competes_from, read_all, read_front, usual_least
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.targets import DenseSize
from autocompress.spaces.making import ModelShape, make_space
from autocompress.spaces.pareto import dominates
from autocompress.spec import SearchSpec, from_mapping
from autocompress.store.base import Record, StudyState
from autocompress.store.study_store import SqlStudyStore, create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from autocompress.workload import Mix
from tests.tiny_models import FFN_COLUMNS, KV_GROUPS, LAYERS, make_config

SPACE = make_space(LAYERS, KV_GROUPS, FFN_COLUMNS, depth=True, width=True)


def candidate(*entries: int) -> Genotype:
    """Return the candidate whose first sites take these entries, and whose others are dense."""
    return SPACE.genotype([*entries, *[0] * (len(SPACE.sites) - len(entries))])


def record(
    genotype: Genotype,
    kl: Sequence[float],
    *,
    draw: int = 0,
    first: int = 0,
    split: Split = Split.SEARCH,
) -> Record:
    """Return what a driver records of one shard."""
    fidelity = Fidelity(split, draw, first, len(kl))
    return Record(genotype, fidelity, Measurement(tuple(kl), tuple(kl), 15), None, 0.1)


SLOW_GOOD = candidate(1)
FAST_BAD = candidate(4, 1)
DOMINATED = candidate(0, 0, 1)  # The same site as `SLOW_GOOD`'s in another layer.


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def shape() -> ModelShape:
    return shape_of(read_architecture(make_config("llama")))


DENSE = DenseSize(parameters=100_000, bytes=400_000, number_bits=32, linear_weights=50_000)


@pytest.fixture
def study(storage: str, tiny_table: Path, shape: ModelShape) -> Iterator[SqlStudyStore]:
    """Return a running study that has its latency table and no measurement."""
    spec = SearchSpec("gone/model", 2.0, space=("depth", "width"), workload=Mix.parse("1x8+4"))
    store = create_study(storage, "mine", spec.to_json())
    store.save_document("shape", to_document(shape))
    store.save_document("dense", DENSE.to_document())
    store.save_document("latency", json.loads(tiny_table.read_text("utf-8")))
    yield store
    store.close()


def test_the_front_holds_what_none_dominates(study: SqlStudyStore, storage: str) -> None:
    study.record(
        [
            record(SLOW_GOOD, [0.1, 0.3]),
            record(FAST_BAD, [0.8, 0.8]),
            record(DOMINATED, [0.4, 0.4]),
        ]
    )

    front = read_front(storage, "mine")

    assert [member.genotype for member in front.members] == [SLOW_GOOD.key, FAST_BAD.key]
    assert [place.genotype for place in front.dominated] == [DOMINATED.key]
    assert front.members[0].value == front.dominated[0].value
    slow, fast = front.members
    assert not dominates((1 / slow.value, slow.kl), (1 / fast.value, fast.kl))
    assert 1.0 < slow.value < fast.value


def test_a_member_says_what_was_read_and_done(study: SqlStudyStore, storage: str) -> None:
    mixed = candidate(1, 1)
    study.record([record(mixed, [0.1, 0.2]), record(mixed, [0.6], draw=1)])

    (member,) = read_front(storage, "mine").members

    assert member.kl == pytest.approx(0.3)
    assert member.kl_stderr == pytest.approx(0.152753, abs=1e-6)
    assert (member.sequences, member.draws) == (3, (0, 1))
    assert member.levels == mixed.levels
    assert member.changed["drop"] == {"attention": 0, "mlp": 1}
    assert member.changed["narrow"] == {"attention": 1, "mlp": 0}
    assert not any(member.changed["quantize"].values())


@pytest.mark.parametrize("state", list(StudyState))
def test_a_study_in_any_state_has_a_front(
    study: SqlStudyStore, storage: str, state: StudyState
) -> None:
    study.record([record(SLOW_GOOD, [0.1])])
    study.finish(state, None)

    front = read_front(storage, "mine")

    assert front.state == state.value
    assert len(front.members) == 1


def test_candidates_read_too_little_do_not_compete(study: SqlStudyStore, storage: str) -> None:
    study.record([record(SLOW_GOOD, [0.1, 0.1]), record(DOMINATED, [0.01])])

    strict, lax = (read_front(storage, "mine", least_sequences=n) for n in (2, 1))

    assert [member.genotype for member in strict.members] == [SLOW_GOOD.key]
    assert [place.genotype for place in strict.too_little_read] == [DOMINATED.key]
    assert [member.genotype for member in lax.members] == [DOMINATED.key]


def test_only_the_search_text_counts_and_each_sequence_once() -> None:
    failure = Record(SLOW_GOOD, Fidelity(Split.SEARCH, 0, 2, 1), None, "out of memory", 0.1)
    records = [
        record(SLOW_GOOD, [0.1, 0.2]),
        record(SLOW_GOOD, [0.2, 0.6], first=1),
        record(SLOW_GOOD, [9.0], split=Split.REPORT),
        failure,
        record(FAST_BAD, [9.0], split=Split.SELECTION),
    ]

    readings = read_all(records)

    assert [(r.genotype, r.measurement.kl) for r in readings] == [(SLOW_GOOD, (0.1, 0.2, 0.6))]


@given(st.permutations([record(SLOW_GOOD, [0.1, 0.2]), record(SLOW_GOOD, [0.3], draw=1),
                        record(FAST_BAD, [0.7]), record(FAST_BAD, [0.9], first=1)]))  # fmt: skip
def test_readings_do_not_depend_on_the_order_of_records(records: list[Record]) -> None:
    assert read_all(records) == read_all(
        sorted(records, key=lambda r: (r.genotype.levels, r.fidelity))
    )


@given(st.lists(st.integers(1, 300), min_size=1))
def test_the_usual_least_is_the_most_that_leaves_ten(sequences: list[int]) -> None:
    least = usual_least(sequences)

    enough = min(ENOUGH, len(sequences))
    assert sum(n >= least for n in sequences) >= enough
    assert sum(n > least for n in sequences) < enough


def test_the_members_of_a_searched_front_compete_whatever_else_was_read_further() -> None:
    lone = [record(SLOW_GOOD, [0.1] * 16), record(DOMINATED, [0.3] * 15)]
    baselines = [record(candidate(own, 1), [0.5] * 32) for own in range(5)]
    readings = read_all([*lone, *baselines] * 2)

    spec = SearchSpec("gone/model", 2.0, strategy="pareto")

    assert competes_from(spec, readings) == 16
    assert competes_from(spec, read_all(lone[1:])) == 15
    assert competes_from(SearchSpec("gone/model", 2.0), readings) == 15


@pytest.mark.parametrize("least", [0, -3])
def test_fewer_than_one_sequence_is_refused(storage: str, least: int) -> None:
    with pytest.raises(SpecError, match=rf"^`--sequences >= 1` must hold, but got {least}\.$"):
        read_front(storage, "mine", least_sequences=least)


def test_more_sequences_than_anybody_read_are_refused(study: SqlStudyStore, storage: str) -> None:
    study.record([record(SLOW_GOOD, [0.1, 0.2])])

    with pytest.raises(SpecError, match=r"^`--sequences <= 2` must hold, .* but got 3\.$"):
        read_front(storage, "mine", least_sequences=3)


def test_a_study_without_a_latency_table_says_how_to_go_on(
    storage: str, shape: ModelShape
) -> None:
    spec = from_mapping({"model": "folder", "target_speedup": 2})
    with contextlib.closing(create_study(storage, "new", spec.to_json())) as store:
        with pytest.raises(SpecError, match="has not come to its model's size yet"):
            read_front(storage, "new")
        store.save_document("shape", to_document(shape))
        store.save_document("dense", DENSE.to_document())

    with pytest.raises(
        SpecError, match="'new' is running and has not come to a latency table yet"
    ):
        read_front(storage, "new")


@pytest.mark.parametrize(
    ("by", "most"),
    [("bytes", 400_000), ("bits", 8), ("params", 100_000)],
)
def test_a_study_without_a_speedup_has_fronts_of_sizes(
    storage: str, shape: ModelShape, by: str, most: float
) -> None:
    spec = from_mapping({"model": "folder", "target_bits": 3, "bits": "8,4", "group_size": 0})
    space = space_of(spec, shape)
    some, all_ = ([level] * len(space.genes) for level in (1, 2))
    with contextlib.closing(create_study(storage, "small", spec.to_json())) as store:
        store.save_document("shape", to_document(shape))
        store.save_document("dense", DENSE.to_document())
        store.record([record(Genotype(tuple(some)), [0.1]), record(Genotype(tuple(all_)), [0.3])])

    front = read_front(storage, "small", by)

    assert [member.kl for member in front.members] == ([0.1] if by == "params" else [0.1, 0.3])
    values = [member.value for member in front.members]
    assert values == sorted(values, reverse=True)
    assert all(value <= most for value in values)
    assert front.members[0].changed["quantize"] == {"attention": LAYERS, "mlp": LAYERS}
    assert read_front(storage, "small").axis is Axis.BITS
    with pytest.raises(SpecError, match="'small' has no latency table, for its target is no spe"):
        read_front(storage, "small", "speedup")


def test_a_study_without_a_measurement_says_how_to_go_on(
    study: SqlStudyStore, storage: str
) -> None:
    with pytest.raises(SpecError, match=r"a measured candidate yet; .*`autocompress resume mine`"):
        read_front(storage, "mine")
