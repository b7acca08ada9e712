"""Profiles on a clock that is arithmetic: what every change costs must come out exactly."""

from collections.abc import Collection, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import SpecError
from autocompress.evaluators.latency_model import LatencyTable, LatencyTables, fit
from autocompress.evaluators.latency_rows import Spent, changed_group
from autocompress.evaluators.profile import (
    Ratios,
    half_interval,
    measure_profile,
    measure_samples,
)
from autocompress.evaluators.stored_latency import read_tables
from autocompress.evaluators.subprocess_call import Progress, nobody
from autocompress.spaces.base import Choice, LinearGroup, SearchSpace, Site, SiteKind
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import GGUF_TYPES
from autocompress.trial import Genotype
from autocompress.workload import Mix, Workload

GROUPS = {
    SiteKind.ATTENTION: (
        LinearGroup("qkv", ("q", "k", "v"), (64, 32, 32), 64, False),
        LinearGroup("o", ("o",), (64,), 64, True),
    ),
    SiteKind.MLP: (LinearGroup("down", ("down",), (64,), 256, True),),
}
TYPES = ("q8_0", "q4_k", "q4_0", "q2_k")
STORED = make_space(
    4, 2, 256, depth=False, width=False, weights=Weights(blocks=TYPES), groups=GROUPS
)
SHAPES = make_space(4, 2, 256, depth=True, width=True)
JOINT = make_space(
    3,
    2,
    256,
    depth=True,
    width=True,
    ffn_step=128,
    weights=Weights(blocks=("q8_0", "q4_0", "q2_k")),
    groups=GROUPS,
)
JOINT_WIDTHS = make_space(
    3,
    2,
    256,
    depth=False,
    width=True,
    ffn_step=128,
    weights=Weights(blocks=("q4_0",)),
    groups=GROUPS,
)
LAYERS = make_space(
    4,
    2,
    256,
    depth=True,
    width=False,
    whole_layers=True,
    weights=Weights(blocks=("q8_0", "q4_0", "q2_k")),
    groups=GROUPS,
)
WORKLOAD = Workload(1, 64, 33)
FIXED = Spent(5.0, 1.0)


def costs(kind: SiteKind, choice: Choice, kernels: Collection[str]) -> Spent:
    """Return what a site costs by construction: one setting is slower than dense."""
    if choice.is_dropped:
        return Spent(0.0, 0.0)
    share = choice.kept / choice.total
    cost = (1.0 if kind is SiteKind.ATTENTION else 2.0) * (0.2 + 0.8 * share)
    for index, setting in enumerate(choice.weights):
        if setting.block is None or setting.block not in kernels:
            continue
        if setting.block == "q2_k":
            cost += 0.1 * share
        else:
            cost -= share * (0.1 + 0.05 * index) / GGUF_TYPES[setting.block].bits
    return Spent(3 * cost, 0.1 * cost)


class Arithmetic:
    """A clock that is right, on a machine that slows down all the time."""

    rounds = 6

    def __init__(self, space: SearchSpace, kernels: Collection[str]) -> None:
        self._kernels = kernels
        self.slower = 1.0
        self.drift = 1.0
        self._space = space

    def runs(self, site: Site, change: Choice) -> bool:
        assert change.is_whole
        assert len(change.weights) == len(site.groups)
        (own,) = (setting for setting in change.weights if not setting.is_dense)
        return own.block in self._kernels

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        whole = self._total([Choice(site.units, site.units) for site in self._space.sites])
        found = [self._total(plan) for plan in plans]
        ratios = [Spent(t.prefill / whole.prefill, t.decode / whole.decode) for t in found]
        self.slower *= self.drift
        dense = Spent(whole.prefill * self.slower, whole.decode * self.slower)
        return Ratios(dense, [[ratio] * rounds for ratio in ratios])

    def _total(self, plan: Sequence[Choice]) -> Spent:
        parts = [
            costs(s.kind, own, self._kernels)
            for s, own in zip(self._space.sites, plan, strict=True)
        ]
        return Spent(
            FIXED.prefill + sum(part.prefill for part in parts),
            FIXED.decode + sum(part.decode for part in parts),
        )


def table_on(space: SearchSpace, kernels: Collection[str], drift: float = 1.0) -> LatencyTable:
    stopwatch = Arithmetic(space, kernels)
    stopwatch.drift = drift
    profile = measure_profile(stopwatch, space, 6, 0, nobody)
    rng = np.random.default_rng(0)
    sizes = [len(gene.settings) for gene in space.genes]
    candidates = [Genotype(tuple(map(int, rng.integers(sizes)))) for _ in range(12)]
    samples = measure_samples(stopwatch, space, candidates, profile.dense, 2, 0, nobody)
    scales = fit(profile, samples, WORKLOAD, space)
    return LatencyTable(
        "an engine", "1", "arithmetic", 1, WORKLOAD, profile, tuple(samples), scales
    )


@pytest.mark.parametrize("drift", [1.0, 1.5, 0.8])
@pytest.mark.parametrize(
    ("space", "kernels"),
    [
        (STORED, TYPES),
        (SHAPES, ()),
        (JOINT, TYPES),
        (JOINT, ("q4_0",)),
        (JOINT, ()),
        (JOINT_WIDTHS, TYPES),
        (LAYERS, TYPES),
        (LAYERS, ()),
        (make_space(4, 2, 256, depth=True, width=False, whole_layers=True), ()),
    ],
)
def test_an_additive_machine_is_predicted_exactly(
    space: SearchSpace, kernels: Collection[str], drift: float
) -> None:
    """Also one that becomes slower or faster from one call to the next."""
    table = table_on(space, kernels, drift)
    tables = LatencyTables(Mix(((1.0, WORKLOAD),)), (table,))
    check, cost = tables.check(space), tables.cost(space)

    assert table.scales == pytest.approx((1.0, 1.0, 1.0))
    assert check.mape == pytest.approx(0.0, abs=1e-9)
    clock = Arithmetic(space, kernels)
    for number, menu in enumerate(space.menus):
        for entry, own in enumerate(menu):
            entries = [0] * len(space.menus)
            entries[number] = entry
            plan = space.choices(space.genotype(entries))
            ((ratio,),) = clock.ratios([plan], 1, 0, nobody).pairs
            time = Spent(
                ratio.prefill * table.profile.dense.prefill,
                ratio.decode * table.profile.dense.decode,
            )
            assert cost.of(entries) == pytest.approx(time.workload(WORKLOAD)), own


def test_a_row_is_one_change_of_one_kind() -> None:
    rows = table_on(STORED, TYPES).profile.rows

    changed = [(row.kind, changed_group(row.choice)) for row in rows]
    assert {pair: changed.count(pair) for pair in changed} == {
        (SiteKind.ATTENTION, None): 1,
        (SiteKind.ATTENTION, 0): 2,  # 64 columns are no block of the k-quants
        (SiteKind.ATTENTION, 1): 2,
        (SiteKind.MLP, None): 1,
        (SiteKind.MLP, 0): 4,
    }


def test_whole_layers_are_timed_as_such_and_their_settings_by_site() -> None:
    rows = table_on(LAYERS, TYPES).profile.rows

    changed = [(row.kind, changed_group(row.choice)) for row in rows]
    assert {pair: changed.count(pair) for pair in changed} == {
        (SiteKind.ATTENTION, None): 1,
        (SiteKind.ATTENTION, 0): 2,
        (SiteKind.ATTENTION, 1): 2,
        (SiteKind.MLP, None): 1,
        (SiteKind.MLP, 0): 3,
        (SiteKind.LAYER, None): 2,
    }


def test_without_kernels_settings_are_not_timed() -> None:
    space = make_space(
        4, 2, 256, depth=True, width=False, weights=Weights(bits=(4, 2)), groups=GROUPS
    )

    rows = table_on(space, ()).profile.rows

    assert len(rows) == 4

    assert all(not row.choice.weights for row in rows)


@pytest.mark.parametrize("space", [STORED, LAYERS])
def test_json_gives_settings_back(space: SearchSpace) -> None:
    tables = LatencyTables(Mix(((1.0, WORKLOAD),)), (table_on(space, TYPES),))

    assert read_tables(tables.to_json(), space) == tables


def test_a_table_of_sub_blocks_says_nothing_of_whole_layers() -> None:
    tables = LatencyTables(Mix(((1.0, WORKLOAD),)), (table_on(JOINT, TYPES),))

    with pytest.raises(SpecError, match="lacks layer dense, layer drop"):
        tables.cost(LAYERS)


class Disturbed(Arithmetic):
    """A clock that is right but for one kind of change, which it times differently each time."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, ())
        self.asked: list[int] = []
        self._rng = np.random.default_rng(0)

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        found = super().ratios(plans, rounds, seed, progress)
        self.asked.append(len(plans))
        for plan, pairs in zip(plans, found.pairs, strict=True):
            if any(choice.is_dropped for choice in plan):
                pairs[:] = [
                    Spent(p.prefill, p.decode * self._rng.uniform(0.8, 1.2)) for p in pairs
                ]
        return found


def test_a_change_that_is_not_known_well_is_timed_again() -> None:
    clock = Disturbed(SHAPES)

    profile = measure_profile(clock, SHAPES, 6, 0, nobody)

    shapes = {(row.kind, row.choice) for row in profile.rows if not row.choice.is_dense}
    dropped = sum(choice.is_dropped for _, choice in shapes)
    assert clock.asked == [len(shapes), dropped, dropped]


class Interrupted(Arithmetic):
    """A clock that is right but for one run of the second configuration."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, ())
        self.asked: list[int] = []

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        found = super().ratios(plans, rounds, seed, progress)
        if not self.asked:
            first = found.pairs[1][0]
            found.pairs[1][0] = Spent(2 * first.prefill, first.decode)
        self.asked.append(len(plans))
        return found


def test_a_configuration_whose_two_times_differ_is_timed_again() -> None:
    dense = Spent(100.0, 10.0)
    drawn = [Genotype((level,) * len(SHAPES.genes)) for level in (0, 1, 1)]
    clock = Interrupted(SHAPES)

    _, disturbed, same = measure_samples(clock, SHAPES, drawn, dense, 1, 0, nobody)
    quiet = measure_samples(Arithmetic(SHAPES, ()), SHAPES, drawn, dense, 1, 0, nobody)

    # After a run more on each side the disturbed one is one of two, after two it is one of three.
    assert clock.asked == [3, 1, 1]
    assert disturbed == same == quiet[1]


@given(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=30), st.floats(5.0, 50.0))
def test_one_disturbed_run_does_not_widen_an_interval_much(
    values: list[float], disturbed: float
) -> None:
    ordinary = [1.0 + 0.01 * (i % 5) for i in range(21)]

    assert half_interval([*ordinary, disturbed]) < 2 * half_interval(ordinary)
    assert half_interval(values) >= 0.0
    assert half_interval([values[0]] * 5) == 0.0
