"""The latency model on times that are additive by construction, where its error must vanish."""

import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.evaluators.latency_model import (
    MOST_FINALISTS,
    LatencyTable,
    LatencyTables,
    conformal,
    fit,
)
from autocompress.evaluators.latency_rows import Profile, Row, Sample, Spent
from autocompress.evaluators.profile import isotonic
from autocompress.evaluators.stored_latency import read_tables
from autocompress.spaces.base import SearchSpace, SiteKind
from autocompress.spaces.making import make_space
from autocompress.store.base import Json
from autocompress.trial import Genotype
from autocompress.workload import Mix, Phase, Workload

WORKLOAD = Workload(1, 64, 33)
MIX = Mix(((1.0, WORKLOAD),))
SPACE = make_space(4, 2, 256, depth=True, width=True, ffn_step=64)
ATTENTION = {2: 3.0, 1: 2.0, 0: 0.0}
MLP = {256: 8.0, 192: 6.5, 128: 4.5, 64: 2.5, 0: 0.0}
FIXED = Spent(5.0, 1.0)


def spent(kind: SiteKind, kept: int) -> Spent:
    """Return what a site costs by construction; decoding is not proportional to the prefill."""
    cost = ATTENTION[kept] if kind is SiteKind.ATTENTION else MLP[kept]
    return Spent(cost, 0.1 * cost + 0.01 * (kept > 0))


def total(space: SearchSpace, entries: tuple[int, ...], scales: tuple[float, ...]) -> Spent:
    """Return what a configuration costs by construction."""
    parts = [(FIXED, scales[0])]
    for site, menu, entry in zip(space.sites, space.menus, entries, strict=True):
        scale = scales[1 if site.kind is SiteKind.ATTENTION else 2]
        parts.append((spent(site.kind, menu[entry].choices[0].kept), scale))
    return Spent(
        sum(scale * part.prefill for part, scale in parts),
        sum(scale * part.decode for part, scale in parts),
    )


def profile_of(space: SearchSpace, scales: tuple[float, ...]) -> Profile:
    rows = {
        (site.kind, entry.choices[0]): Row(
            site.kind,
            entry.choices[0],
            spent(site.kind, entry.choices[0].kept),
            (0.0, spent(site.kind, entry.choices[0].kept).decode),
        )
        for site, menu in zip(space.sites, space.menus, strict=True)
        for entry in menu
    }
    return Profile(total(space, (0,) * len(space.sites), scales), FIXED, tuple(rows.values()))


def samples_of(space: SearchSpace, scales: tuple[float, ...], n: int = 24) -> list[Sample]:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        entries = tuple(int(rng.integers(len(menu))) for menu in space.menus)
        took = total(space, entries, scales)
        choices = tuple(menu[e].choices[0] for menu, e in zip(space.menus, entries, strict=True))
        found.append(Sample(choices, took, took))
    return found


def changed(change: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return what is written of a table, otherwise in some of its fields."""
    table = {**single(SPACE).to_json(), **change}
    return {"workload": str(MIX), "tables": [table]}


def table_of(
    space: SearchSpace, scales: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> LatencyTables:
    return LatencyTables(MIX, (single(space, scales),))


def single(
    space: SearchSpace,
    scales: tuple[float, float, float] = (1.0, 1.0, 1.0),
    workload: Workload = WORKLOAD,
) -> LatencyTable:
    return LatencyTable(
        engine="torch",
        engine_version="2.13",
        hardware="a machine",
        threads=2,
        workload=workload,
        profile=profile_of(space, scales),
        samples=tuple(samples_of(space, scales)),
        scales=scales,
    )


@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (1.2, 0.9, 1.1), (0.5, 1.5, 0.8)])
def test_exact_samples_give_the_scales_that_made_them(
    scales: tuple[float, float, float],
) -> None:
    profile, samples = profile_of(SPACE, scales), samples_of(SPACE, scales)

    assert fit(profile, samples, WORKLOAD, SPACE) == pytest.approx(scales, rel=1e-6)


def test_held_out_samples_are_not_read() -> None:
    samples = samples_of(SPACE, (1.0, 1.0, 1.0))
    wrong = [
        Sample(s.choices, Spent(1e6, 1e6), Spent(1e6, 1e6)) if i % 3 == 2 else s
        for i, s in enumerate(samples)
    ]
    profile = profile_of(SPACE, (1.0, 1.0, 1.0))

    assert fit(profile, wrong, WORKLOAD, SPACE) == fit(profile, samples, WORKLOAD, SPACE)


def test_what_noise_hides_is_expected_as_it_was_timed() -> None:
    """Where measuring twice differs wildly, the samples say nothing of any part."""
    rng = np.random.default_rng(0)
    noisy = [
        Sample(s.choices, Spent(*(f * np.asarray([s.spent.prefill, s.spent.decode]))), s.again)
        for s, f in zip(
            samples_of(SPACE, (1.0, 2.0, 1.0)), rng.choice([0.01, 100.0], 24), strict=True
        )
    ]

    found = fit(profile_of(SPACE, (1.0, 1.0, 1.0)), noisy, WORKLOAD, SPACE)

    assert found == pytest.approx((1.0, 1.0, 1.0), abs=0.05)


def test_scales_are_never_negative() -> None:
    # Attention that speeds the model up cannot be.
    scales = (1.0, -0.5, 1.0)

    found = fit(profile_of(SPACE, scales), samples_of(SPACE, scales), WORKLOAD, SPACE)

    assert found[1] == 0.0
    assert min(found) >= 0.0


def test_exact_samples_leave_no_error() -> None:
    check = table_of(SPACE, (1.2, 0.9, 1.1)).check(SPACE)

    assert check.mape == pytest.approx(0.0, abs=1e-9)
    assert check.half_width == pytest.approx(0.0, abs=1e-9)
    assert check.rank_correlation == pytest.approx(1.0)
    assert check.repeat_error == 0.0
    assert len(check.points) == 8
    assert all(predicted == pytest.approx(measured) for predicted, measured in check.points)


def test_the_check_reads_the_held_out_third_only() -> None:
    table = single(SPACE)
    samples = [
        Sample(s.choices, Spent(2 * s.spent.prefill, 2 * s.spent.decode), s.again)
        if i % 3 == 2
        else s
        for i, s in enumerate(table.samples)
    ]
    slow = LatencyTables(MIX, (dataclasses.replace(table, samples=tuple(samples)),))

    check = slow.check(SPACE)

    # The mean of once and twice as long is 1.5 times as long: predictions are 1/3 too low.
    assert check.mape == pytest.approx(1 / 3)
    assert check.half_width == pytest.approx(1 / 3)


def test_costs_are_those_of_the_workload() -> None:
    cost = table_of(SPACE, (1.2, 0.9, 1.1)).cost(SPACE)
    rng = np.random.default_rng(1)

    for _ in range(20):
        entries = tuple(int(rng.integers(len(menu))) for menu in SPACE.menus)
        expected = total(SPACE, entries, (1.2, 0.9, 1.1)).workload(WORKLOAD)
        assert cost.of(entries) == pytest.approx(expected)


def test_a_workload_pays_for_all_but_the_first_token() -> None:
    assert Spent(10.0, 2.0).workload(Workload(1, 8, 1)) == 10.0
    assert Spent(10.0, 2.0).workload(Workload(1, 8, 5)) == 18.0


@given(st.lists(st.floats(0.0, 1.0), min_size=9, max_size=60))
def test_nine_of_ten_errors_stay_within_the_conformal_one(errors: list[float]) -> None:
    bound = conformal(errors)

    assert bound in errors
    assert sum(error <= bound for error in errors) >= math.ceil(0.9 * len(errors))
    assert conformal(sorted(errors, reverse=True)) == bound


def test_the_conformal_error_is_the_ranked_one() -> None:
    errors = [i / 100 for i in range(1, 20)]

    # The 18th of 19: ceil(20 * 0.9).
    assert conformal(errors) == 0.18
    assert conformal([0.1, 0.3, 0.2]) == 0.3


@st.composite
def winners(draw: st.DrawFn) -> Genotype:
    return Genotype(tuple(draw(st.integers(0, len(g.settings) - 1)) for g in SPACE.genes))


@given(winners(), st.floats(0.7, 1.4), st.integers(0, 3))
def test_a_measured_winner_draws_its_prediction_near(
    winner: Genotype, wrong: float, n: int
) -> None:
    tables = table_of(SPACE)
    entries = SPACE.entries(winner)
    dense = tables.tables[0].profile.dense.workload(WORKLOAD)
    measured = wrong * tables.cost(SPACE).of(entries)

    refitted = tables.refitted([(winner, [measured / dense])] * n, SPACE)

    before, after = (abs(own.cost(SPACE).of(entries) - measured) for own in (tables, refitted))
    assert after <= before * (1 + 1e-9) + 1e-6
    assert refitted.tables[0].samples == tables.tables[0].samples
    assert len(refitted.tables[0].finalists) == n


def test_of_many_winners_the_last_are_kept() -> None:
    tables = table_of(SPACE)
    many = [(SPACE.dense, [1 + i / 100]) for i in range(MOST_FINALISTS + 5)]

    (table,) = tables.refitted(many, SPACE).tables

    kept = [sample.spent.prefill for sample in table.finalists]
    assert kept == [(1 + i / 100) * table.profile.dense.prefill for i in range(5, len(many))]


def test_json_gives_the_table_back() -> None:
    fitted = table_of(SPACE, (1.2, 0.9, 1.1))
    table = fitted.refitted([(SPACE.dense, [0.9])], SPACE)

    written: Mapping[str, Json] = json.loads(json.dumps(table.to_json()))

    assert read_tables(written, SPACE) == table


def with_another_dense(tables: LatencyTables, ratio: Spent) -> LatencyTables:
    """Return tables of changes that were timed beside what takes another time than dense."""
    own = [
        dataclasses.replace(table, profile=table.profile.beside(ratio), embeddings="q6_k")
        for table in tables.tables
    ]
    return dataclasses.replace(tables, tables=tuple(own))


def test_what_candidates_begin_with_is_not_taken_for_the_dense_model() -> None:
    plain = table_of(SPACE, (1.2, 0.9, 1.1))
    slower = with_another_dense(plain, Spent(1.5, 1.25))
    start = plain.tables[0].profile.dense

    before, after = plain.cost(SPACE), slower.cost(SPACE)

    assert after.start == before.dense
    assert after.menus == before.menus
    share = Spent(1.5 * start.prefill, 1.25 * start.decode).workload(WORKLOAD)
    share /= start.workload(WORKLOAD)
    assert after.dense == pytest.approx(share * before.dense)
    assert [one.scales for one in slower.refitted([], SPACE).tables] == [
        one.scales for one in plain.refitted([], SPACE).tables
    ]
    # Speedups are over the dense model, predicted and measured ones alike; the error stays.
    assert slower.check(SPACE).mape == plain.check(SPACE).mape
    wanted = share * np.asarray(plain.check(SPACE).points)
    assert np.asarray(slower.check(SPACE).points) == pytest.approx(wanted)


def test_winners_are_fed_back_as_shares_of_the_dense_model() -> None:
    slower = with_another_dense(table_of(SPACE), Spent(2.0, 2.0))

    (table,) = slower.refitted([(SPACE.dense, [0.5])], SPACE).tables

    assert table.finalists[0].spent == table.profile.reference
    assert table.scales == pytest.approx((1.0, 1.0, 1.0))


def test_json_tells_what_candidates_begin_with() -> None:
    tables = with_another_dense(table_of(SPACE), Spent(1.5, 1.25))

    written: Mapping[str, Json] = json.loads(json.dumps(tables.to_json()))

    assert read_tables(written, SPACE) == tables


def test_tables_of_earlier_versions_are_read() -> None:
    known = single(SPACE).to_json()
    table = {key: value for key, value in known.items() if key not in ("start", "embeddings")}

    assert read_tables({"workload": str(MIX), "tables": [table]}, SPACE) == table_of(SPACE)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (
            make_space(3, 2, 256, depth=True, width=True, ffn_step=64),
            "is of another model: `6 sites` must hold, but its samples have 8.",
        ),
        (
            make_space(4, 4, 256, depth=True, width=True, ffn_step=64),
            "lacks attention dense, attention drop, attention width 1/4, ",
        ),
        (
            make_space(4, 2, 320, depth=True, width=True, ffn_step=64),
            "lacks mlp dense, mlp drop, ",
        ),
        (
            make_space(4, 2, 256, depth=True, width=True, ffn_step=32),
            "lacks mlp width 160/256, mlp width 32/256, mlp width 96/256.",
        ),
    ],
    ids=["layers", "groups", "columns", "steps"],
)
def test_a_table_of_another_space_is_refused(other: SearchSpace, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_tables(table_of(SPACE).to_json(), other)

    assert "latency table" in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workload": "64"}, "`BxP+G`, whole numbers from 1, "),
        ({"threads": "two"}, "invalid literal"),
        ({"rows": 3}, "a list must hold, but got 3"),
        ({"rows": [3]}, "a mapping must hold, but got 3"),
        ({"scales": [1.0, 1.0]}, "not enough values to unpack"),
        ({"scales": [1.0, -1.0, 1.0]}, "a time of at least 0 must hold, but got -1.0"),
        ({"dense": {"prefill": 1.0}}, "'decode'"),
        ({"dense": {"prefill": math.nan, "decode": 1.0}}, "at least 0 must hold, but got nan"),
        ({"dense": {"prefill": True, "decode": 1.0}}, "at least 0 must hold, but got True"),
    ],
)
def test_a_broken_table_is_refused(change: Mapping[str, Json], reason: str) -> None:
    with pytest.raises(SpecError, match=r"^Not a latency table: ") as caught:
        read_tables(changed(change), SPACE)

    assert reason in str(caught.value)


def test_a_missing_field_is_named() -> None:
    table = {k: v for k, v in single(SPACE).to_json().items() if k != "engine"}

    with pytest.raises(SpecError, match=r"Not a latency table: 'engine'\."):
        read_tables({"workload": str(MIX), "tables": [table]}, SPACE)


SEVERAL = Mix.parse("3*1x64+33,1*decode:8x64+33")


def several() -> LatencyTables:
    """Return tables of two workloads; the second is of machines half as fast."""
    slower = (2.0, 2.0, 2.0)
    tables = (single(SPACE), single(SPACE, slower, SEVERAL.workloads[1]))
    return LatencyTables(SEVERAL, tables)


def test_a_mean_request_is_made_of_shares() -> None:
    tables, entries = several(), (1, 2, 0, 3, 0, 1, 2, 0)
    whole = total(SPACE, entries, (1.0, 1.0, 1.0))

    expected = 0.75 * (whole.prefill + 32 * whole.decode) + 0.25 * 2 * whole.decode
    assert tables.cost(SPACE).of(entries) == pytest.approx(expected)
    check = tables.check(SPACE)
    assert check.mape == pytest.approx(0.0, abs=1e-9)
    assert check.rank_correlation == pytest.approx(1.0)


def test_json_gives_several_tables_back() -> None:
    written = json.loads(json.dumps(several().to_json()))

    assert read_tables(written, SPACE) == several()


def test_every_workload_needs_its_table() -> None:
    with pytest.raises(SpecError, match="there must be one for each workload"):
        read_tables({**table_of(SPACE).to_json(), "workload": str(SEVERAL)}, SPACE)


def test_what_counts_is_the_phase() -> None:
    spent = Spent(10.0, 2.0)

    assert spent.workload(Workload(1, 8, 5, Phase.PREFILL)) == 10.0
    assert spent.workload(Workload(1, 8, 5, Phase.DECODE)) == 2.0


# Savings as they are measured: dense saves nothing.
VALUES = st.lists(st.floats(-100.0, 100.0), min_size=1, max_size=12).map(lambda v: [0.0, *v])


@given(VALUES)
def test_isotonic_never_falls_and_keeps_the_first(values: list[float]) -> None:
    found = isotonic(values)

    assert len(found) == len(values)
    assert found[0] == values[0]
    assert found == sorted(found)


@given(VALUES)
def test_isotonic_is_idempotent(values: list[float]) -> None:
    once = isotonic(values)

    # Means of equal numbers may differ in the last digit.
    assert isotonic(once) == pytest.approx(once, rel=1e-12, abs=1e-12)


@given(VALUES)
def test_isotonic_leaves_what_never_falls(values: list[float]) -> None:
    rising = sorted(map(abs, values))

    assert isotonic(rising) == pytest.approx(rising, rel=1e-12, abs=1e-12)


def test_isotonic_shares_a_fall_out() -> None:
    assert isotonic([0.0, 3.0, 1.0, 5.0]) == [0.0, 2.0, 2.0, 5.0]
    assert isotonic([0.0, -3.0, 1.0]) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("depth", [True, False])
def test_a_table_is_refused_by_a_space_that_lacks_its_choices(depth: bool) -> None:
    part = make_space(4, 2, 256, depth=depth, width=not depth, ffn_step=64)

    with pytest.raises(SpecError, match="of another space"):
        read_tables(table_of(SPACE).to_json(), part)


def test_a_table_without_samples_is_refused() -> None:
    with pytest.raises(SpecError, match="samples"):
        read_tables(changed({"samples": []}), SPACE)
