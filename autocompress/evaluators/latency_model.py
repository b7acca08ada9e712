"""Predicts the latency of any candidate from a profile, and states its own error.

Additive over sites plus a fixed part; the three parts (fixed, attention, MLP) are scaled by a
regression on whole random configurations, and held-out ones give the error.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import nnls
from scipy.stats import spearmanr

from autocompress.errors import SpecError
from autocompress.evaluators.latency_rows import NO_LAYER, WHOLE_LAYER, Profile, Sample, Spent
from autocompress.spaces.base import Bundle, Choice, MenuEntry, SearchSpace, Site, SiteKind
from autocompress.spaces.cost import AdditiveCost, mixed
from autocompress.spaces.settings import WeightSetting
from autocompress.spec_rules import USUAL_EMBEDDINGS
from autocompress.store.base import Json
from autocompress.trial import Genotype
from autocompress.workload import Mix, Workload

CONFIDENCE = 0.9
# Standard deviation of a scale around 1, before anything is measured.
SPREAD = 0.3
MOST_FINALISTS = 20
RESOLUTION = 0.01
"""Of what the dearest bundle takes: what a measured table tells two entries apart by."""


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """What one workload costs: a profile with its corrections, and whole configurations.

    Args:
        embeddings: In which type candidates store token embedding and head.
        threads: CPU threads that everything was timed at.
        samples: Every third is held out from the regression.
        scales: Factors of the fixed part, of attention sites and of MLP sites.
        finalists: What searches ended with, as timed end to end: of the two times of each both
            are the same.
    """

    engine: str
    engine_version: str
    hardware: str
    threads: int
    workload: Workload
    profile: Profile
    samples: tuple[Sample, ...]
    scales: tuple[float, float, float]
    finalists: tuple[Sample, ...] = ()
    embeddings: str = USUAL_EMBEDDINGS

    def cost(self, space: SearchSpace) -> AdditiveCost:
        """Return the milliseconds of the workload for the entries of a space.

        Raises:
            SpecError: If the table lacks a choice of the space.
        """
        cost = _cost(self.profile, self.workload, space, self.scales)
        return dataclasses.replace(cost, resolution=RESOLUTION * cost.dearest)

    def to_json(self) -> dict[str, Json]:
        """Return the form that is stored, exported and imported."""
        return {
            "engine": self.engine,
            "engine_version": self.engine_version,
            "hardware": self.hardware,
            "threads": self.threads,
            "workload": str(self.workload),
            "embeddings": self.embeddings,
            "dense": _pair(self.profile.dense),
            "start": None if self.profile.start is None else _pair(self.profile.start),
            "fixed": _pair(self.profile.fixed),
            "rows": [
                {
                    "kind": row.kind.value,
                    "choice": choice_text(row.choice),
                    "milliseconds": _pair(row.spent),
                    "decode_interval": list(row.interval),
                }
                for row in self.profile.rows
            ],
            "samples": list(map(_plain, self.samples)),
            "finalists": list(map(_plain, self.finalists)),
            "scales": list(self.scales),
        }

    def refitted(self, finalists: Sequence[Sample], space: SearchSpace) -> "LatencyTable":
        """Return the table fitted to more finalists too; of too many the first are forgotten."""
        known = (*self.finalists, *finalists)[-MOST_FINALISTS:]
        scales = fit(self.profile, self.samples, self.workload, space, known)
        return dataclasses.replace(self, scales=scales, finalists=known)


class LatencyModel(Protocol):
    """What a search knows of time."""

    @property
    def engine(self) -> str:
        """What runs the model, with its version."""

    @property
    def hardware(self) -> str:
        """What it runs on, in words."""

    @property
    def mix(self) -> Mix:
        """The requests whose mean time it tells."""

    def cost(self, space: SearchSpace) -> AdditiveCost:
        """Return the milliseconds of a mean request for the entries of a space.

        Raises:
            SpecError: If it does not know a choice of the space.
        """

    def check(self, space: SearchSpace) -> "Check | None":
        """Return its error on measured configurations; None if none was measured."""

    def to_json(self) -> dict[str, Json]:
        """Return the form that is stored, exported and imported."""


@dataclass(frozen=True, slots=True)
class LatencyTables:
    """The tables of all workloads of a mix: all a search knows of time.

    Args:
        tables: One for each workload, of one engine, measured on the same whole configurations.
    """

    mix: Mix
    tables: tuple[LatencyTable, ...]

    @property
    def first(self) -> LatencyTable:
        """One of them: what all have in common is told by any."""
        return self.tables[0]

    @property
    def engine(self) -> str:
        """What ran the model, with its version."""
        return f"{self.first.engine} {self.first.engine_version}"

    @property
    def hardware(self) -> str:
        """What it ran on, in words."""
        return self.first.hardware

    def cost(self, space: SearchSpace) -> AdditiveCost:
        """Return the milliseconds of a mean request for the entries of a space.

        Raises:
            SpecError: If a table lacks a choice of the space.
        """
        costs = [table.cost(space) for table in self.tables]
        return mixed(list(zip(self.mix.shares, costs, strict=True)))

    def refitted(
        self, finalists: Sequence[tuple[Genotype, Sequence[float]]], space: SearchSpace
    ) -> "LatencyTables":
        """Return the tables with what winners were measured at fed back.

        Args:
            finalists: Each with its time over the dense model's, for every workload.
        """
        tables = []
        for index, table in enumerate(self.tables):
            samples = []
            for genotype, shares in finalists:
                chosen = space.choices(genotype)
                choices = chosen if table.profile.runs_settings else tuple(c.shape for c in chosen)
                dense, share = table.profile.dense, shares[index]
                spent = Spent(share * dense.prefill, share * dense.decode)
                samples.append(Sample(choices, spent, spent))
            tables.append(table.refitted(samples, space))
        return dataclasses.replace(self, tables=tuple(tables))

    def check(self, space: SearchSpace) -> "Check":
        """Return the prediction's error on the held-out configurations."""
        cost = self.cost(space)
        samples = list(zip(*(table.samples for table in self.tables), strict=True))
        held_out = samples[2::3]
        predicted = [cost.of(own) for own in entries_of(space, [first for first, *_ in held_out])]
        measured = [self._time([(s.spent, s.again) for s in several]) for several in held_out]
        errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
        twice = [
            abs(
                self._time([(s.spent,) for s in several])
                / self._time([(s.again,) for s in several])
                - 1
            )
            for several in samples
        ]
        inside = [
            error <= conformal([*errors[:i], *errors[i + 1 :]]) for i, error in enumerate(errors)
        ]
        dense = self._time([(table.profile.dense,) for table in self.tables])
        return Check(
            mape=float(np.mean(errors)),
            rank_correlation=float(spearmanr(predicted, measured).statistic),
            coverage=float(np.mean(inside)),
            half_width=conformal(errors),
            repeat_error=float(np.median(twice)),
            points=tuple(
                (cost.dense / p, dense / m) for p, m in zip(predicted, measured, strict=True)
            ),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the form that is stored, exported and imported."""
        return {
            "workload": str(self.mix),
            "tables": [table.to_json() for table in self.tables],
        }

    def _time(self, spent: Sequence[Sequence[Spent]]) -> float:
        """Return the mean time of a request; of each workload the times it was measured at."""
        return sum(
            share * statistics.fmean(own.workload(workload) for own in times)
            for share, workload, times in zip(
                self.mix.shares, self.mix.workloads, spent, strict=True
            )
        )


@dataclass(frozen=True, slots=True)
class Check:
    """How well the model predicts configurations that it was not fitted on.

    Args:
        mape: Mean absolute error as a fraction.
        coverage: Share of held-out errors inside the interval that the other ones give.
        half_width: Half-width of the 90 % conformal interval, as a fraction of the prediction.
        repeat_error: Median difference of measuring the same configuration twice, as a fraction.
        points: (predicted, measured) speedup of each held-out configuration.
    """

    mape: float
    rank_correlation: float
    coverage: float
    half_width: float
    repeat_error: float
    points: tuple[tuple[float, float], ...]

    def around(self, speedup: float) -> tuple[float, float]:
        """Return the 90 % interval of a predicted speedup."""
        return speedup * (1 - self.half_width), speedup * (1 + self.half_width)


def conformal(errors: Sequence[float]) -> float:
    """Return the error that a new one stays within with 90 % confidence (split conformal)."""
    rank = math.ceil((len(errors) + 1) * CONFIDENCE)
    return sorted(errors)[min(rank, len(errors)) - 1]


def fit(
    profile: Profile,
    samples: Sequence[Sample],
    workload: Workload,
    space: SearchSpace,
    finalists: Sequence[Sample] = (),
) -> tuple[float, float, float]:
    """Return the likeliest scales, given the samples and finalists; held-out ones are not read.

    Least relative error, with every scale expected near 1 as far as measuring twice differs
    (ridge regression): of parts that the samples hardly tell apart, none takes all.
    """
    plain = _cost(profile, workload, space, (1.0, 1.0, 1.0))
    rows = []
    fitted = [s for i, s in enumerate(samples) if i % 3 != 2]
    # What changes were timed beside is known best: it counts as often as all other configurations
    # together.
    whole = tuple(Choice(site.units, site.units) for site in space.sites)
    start = Sample(whole, profile.reference, profile.reference)
    once = [(sample, 1.0) for sample in (*fitted, *finalists)]
    weighted = [*once, (start, math.sqrt(len(fitted)))]
    of_samples = entries_of(space, [sample for sample, _ in weighted])
    for (sample, weight), entries in zip(weighted, of_samples, strict=True):
        parts = [plain.fixed, 0.0, 0.0]
        for bundle, costs, entry in zip(space.bundles, plain.menus, entries, strict=True):
            parts[_part(bundle)] += costs[entry]
        time = _mean(sample, workload)
        rows.append([weight * part / time for part in parts] + [weight])
    twice = [_again(sample, workload) for sample in fitted]
    noise = math.sqrt(statistics.fmean(error**2 for error in twice)) / 2
    rows += [[noise / SPREAD * (i == j) for j in (0, 1, 2, i)] for i in range(3)]
    matrix = np.asarray(rows)
    found, _ = nnls(matrix[:, :3], matrix[:, 3])
    # Of a part that no configuration has, nothing is known.
    scales = np.where(matrix[:, :3].any(axis=0), found, 1.0)
    return float(scales[0]), float(scales[1]), float(scales[2])


def entries_of(space: SearchSpace, samples: Sequence[Sample]) -> list[tuple[int, ...]]:
    """Return the menu entries of measured configurations.

    Raises:
        SpecError: If the space lacks one of their choices.
    """
    known: dict[int, dict[object, int]] = {}
    for menu in space.menus:
        if id(menu) not in known:
            own = known[id(menu)] = {}
            for index, several in enumerate(menu):
                own.setdefault(_as_timed(several.choices), index)
    found = []
    for sample in samples:
        left = list(sample.choices)
        entries = []
        for bundle, menu in zip(space.bundles, space.menus, strict=True):
            choices, left = left[: len(bundle.sites)], left[len(bundle.sites) :]
            entry = known[id(menu)].get(_as_timed(choices))
            if entry is None:
                told = " and ".join(map(choice_text, choices))
                raise SpecError(
                    f"The latency table is of another space: {bundle} cannot be {told}."
                )
            entries.append(entry)
        found.append(tuple(entries))
    return found


def _as_timed(choices: Sequence[Choice]) -> tuple[tuple[Choice, tuple[WeightSetting, ...]], ...]:
    """Return what an engine runs of some sites: shapes and how weights are stored, no caches."""
    return tuple((choice.shape, choice.weights) for choice in choices)


def _cost(
    profile: Profile, workload: Workload, space: SearchSpace, scales: tuple[float, float, float]
) -> AdditiveCost:
    known = {(row.kind, row.choice): row.spent.workload(workload) for row in profile.rows}
    missing = sorted(f"{kind} {choice}" for kind, choice in _needed(profile, space) - known.keys())
    if missing:
        raise SpecError(f"The latency table lacks {', '.join(missing)}.")

    def changed(site: Site, choice: Choice) -> float:
        """Return what a site's settings add; what a kernel saves goes with the weights left."""
        if not profile.runs_settings:
            return 0.0
        whole = known[site.kind, Choice(site.units, site.units)] if choice.weights else 0.0
        differences = (known[site.kind, own] - whole for own in choice.settings_apart)
        return choice.kept / choice.total * sum(differences)

    def of(bundle: Bundle, entry: MenuEntry) -> float:
        (first, *_), pairs = entry.choices, zip(bundle.sites, entry.choices, strict=True)
        shape = first.shape
        if bundle.kind is SiteKind.LAYER:
            shape = NO_LAYER if entry.is_dropped else WHOLE_LAYER
        return known[bundle.kind, shape] + sum(changed(*pair) for pair in pairs)

    made: dict[object, tuple[float, ...]] = {}
    menus = []
    for bundle, menu in zip(space.bundles, space.menus, strict=True):
        key = bundle.kind, id(menu)
        if key not in made:
            scale = scales[_part(bundle)]
            made[key] = tuple(scale * of(bundle, entry) for entry in menu)
        menus.append(made[key])
    cost = AdditiveCost(scales[0] * profile.fixed.workload(workload), tuple(menus))
    if profile.start is None:
        return cost
    ratio = profile.dense.workload(workload) / profile.start.workload(workload)
    return dataclasses.replace(cost, dense_fixed=cost.fixed + (ratio - 1) * cost.start)


def _needed(profile: Profile, space: SearchSpace) -> set[tuple[SiteKind, Choice]]:
    """Return the rows that a space's costs are made of.

    Of an engine without kernels for settings only shapes were timed: what is stored otherwise
    takes as long there as dense.
    """
    needed = set()
    for site, choice in space.site_choices():
        if not space.whole_layers:
            needed.add((site.kind, choice.shape))
        if profile.runs_settings and choice.weights:
            whole = Choice(site.units, site.units)
            needed |= {(site.kind, own) for own in (whole, *choice.settings_apart)}
    if space.whole_layers:
        needed |= {(SiteKind.LAYER, WHOLE_LAYER), (SiteKind.LAYER, NO_LAYER)}
    return needed


def _part(bundle: Bundle) -> int:
    """Return which scale is a bundle's: whole layers have the first, and none has the second."""
    return 2 if bundle.kind is SiteKind.MLP else 1


def _mean(sample: Sample, workload: Workload) -> float:
    return (sample.spent.workload(workload) + sample.again.workload(workload)) / 2


def _again(sample: Sample, workload: Workload) -> float:
    """Return by what share measuring twice differs."""
    return abs(sample.spent.workload(workload) / sample.again.workload(workload) - 1)


def _plain(sample: Sample) -> dict[str, Json]:
    return {
        "choices": [choice_text(choice) for choice in sample.choices],
        "spent": _pair(sample.spent),
        "again": _pair(sample.again),
    }


def _pair(spent: Spent) -> dict[str, Json]:
    return {"prefill": spent.prefill, "decode": spent.decode}


def choice_text(choice: Choice) -> str:
    """Return units kept of all, then the setting of each linear group: `4/4 q4_k dense`."""
    return " ".join([f"{choice.kept}/{choice.total}", *map(str, choice.weights)])
