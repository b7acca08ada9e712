"""Turns times of whole configurations into what each choice of a site costs.

A row is a distinct change of one kind of site, or of whole layers: all of that kind take it at
once, with the dense model timed beside them, and the difference is shared out. Medians of ratios
to the neighbouring dense runs, so that a machine whose speed drifts does not move the rows.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scipy.optimize import isotonic_regression

from autocompress.evaluators.latency_rows import (
    NO_LAYER,
    Profile,
    Row,
    Sample,
    Spent,
    changed_group,
    median_spent,
)
from autocompress.evaluators.subprocess_call import Progress
from autocompress.spaces.base import Bundle, Choice, SearchSpace, Site, SiteKind
from autocompress.spaces.settings import DENSE
from autocompress.trial import Genotype

PRECISE = 0.02
"""Half of the 95 % interval of a change's time, as a share of the dense model's."""
APART = 0.1
"""Of two times of one configuration, when both are measured again."""
MOST_TIMES = 3

Key = tuple[SiteKind, Choice]


@dataclass(frozen=True, slots=True)
class Ratios:
    """The reference's time, and for each configuration its ratios to the runs of it beside.

    The reference is a model whose sites are all dense: the dense model, or where candidates store
    embedding and head otherwise, what they begin with.

    Args:
        pairs: For each configuration as many as there were rounds.
    """

    dense: Spent
    pairs: list[list[Spent]]


class Stopwatch(Protocol):
    """Times whole configurations beside the reference; nothing else may compute meanwhile."""

    def runs(self, site: Site, change: Choice) -> bool:
        """Whether one linear group's setting runs on a kernel of its own.

        Args:
            change: The whole site with that group alone in a setting.
        """

    @property
    def rounds(self) -> int:
        """How often a change has to be timed; a whole configuration a third as often, twice."""

    def ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> Ratios:
        """Time configurations, each given by the choices of all sites, `rounds` times."""


@dataclass(frozen=True, slots=True)
class _Saving:
    """What one site saves by a change, and the 95 % interval of its decode milliseconds."""

    spent: Spent
    interval: tuple[float, float]


_NOTHING = _Saving(Spent(0.0, 0.0), (0.0, 0.0))


def measure_profile(
    stopwatch: Stopwatch, space: SearchSpace, rounds: int, seed: int, progress: Progress
) -> Profile:
    """Measure every distinct change `rounds` times, or more where they differ much.

    A setting without a kernel is decoded, and takes as long as dense: it is not timed.
    """
    changed = {
        (site.kind, change): site
        for site, choice in space.site_choices()
        for change in choice.settings_apart
    }
    kernels = {key: stopwatch.runs(site, key[1]) for key, site in changed.items()}
    shapes = {
        (site.kind, choice.shape)
        for site, choice in space.site_choices()
        if not choice.shape.is_dense
    }
    if space.whole_layers:
        shapes = {(SiteKind.LAYER, NO_LAYER)}
    keys = sorted(
        shapes | {key for key, has_kernel in kernels.items() if has_kernel},
        key=lambda key: (key[0], key[1].kept, str(key[1])),
    )
    plans = [_replicate(space, *key) for key in keys]
    found = _settled(stopwatch, [plan for plan, _ in plans], rounds, seed, progress, _is_imprecise)
    savings = {
        key: _saving(found.dense, pairs, n_sites)
        for key, pairs, (_, n_sites) in zip(keys, found.pairs, plans, strict=True)
    }
    if any(kernels.values()):
        savings |= {key: _NOTHING for key, has_kernel in kernels.items() if not has_kernel}
    return _profile(space, found.dense, savings)


def measure_samples(
    stopwatch: Stopwatch,
    space: SearchSpace,
    candidates: Sequence[Genotype],
    reference: Spent,
    rounds: int,
    seed: int,
    progress: Progress,
) -> list[Sample]:
    """Measure whole configurations, each twice over; again those that then differ much.

    Args:
        reference: What the profile has the model take that changes are timed beside. Times are
            told as if it took that here: a machine whose speed has changed since must not change
            a candidate's speedup.
    """
    plans = [
        tuple(
            _as_run(stopwatch, site, choice)
            for site, choice in zip(space.sites, space.choices(genotype), strict=True)
        )
        for genotype in candidates
    ]
    measured = _settled(stopwatch, plans, 2 * rounds, seed, progress, _disagree)
    result = []
    for plan, pairs in zip(plans, measured.pairs, strict=True):
        once, again = (
            Spent(reference.prefill * ratio.prefill, reference.decode * ratio.decode)
            for ratio in _twice(pairs)
        )
        result.append(Sample(plan, once, again))
    return result


def _settled(
    stopwatch: Stopwatch,
    plans: Sequence[Sequence[Choice]],
    rounds: int,
    seed: int,
    progress: Progress,
    is_vague: Callable[[Sequence[Spent]], bool],
) -> Ratios:
    """Time configurations, again as often those whose ratios are vague, at most three times."""
    found = stopwatch.ratios(plans, rounds, seed, progress)
    for again in range(1, MOST_TIMES):
        vague = [index for index, pairs in enumerate(found.pairs) if is_vague(pairs)]
        if not vague:
            break
        more = stopwatch.ratios([plans[i] for i in vague], rounds, seed + again, progress)
        for index, pairs in zip(vague, more.pairs, strict=True):
            found.pairs[index] += pairs
    return found


def _is_imprecise(pairs: Sequence[Spent]) -> bool:
    return half_interval([pair.decode for pair in pairs]) > PRECISE


def _disagree(pairs: Sequence[Spent]) -> bool:
    """Whether a configuration that was timed twice took another time."""
    once, again = _twice(pairs)
    return max(abs(once.prefill / again.prefill - 1), abs(once.decode / again.decode - 1)) > APART


def _twice(pairs: Sequence[Spent]) -> tuple[Spent, Spent]:
    """Return what every other run says, and what the rest does."""
    return median_spent(pairs[0::2]), median_spent(pairs[1::2])


def half_interval(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the median of some measurements.

    From their median absolute deviation, so that a run that was disturbed counts once; as for
    normal ones, whose median has pi / 2 times the variance of their mean.
    """
    middle = statistics.median(values)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in values)
    return 1.96 * math.sqrt(math.pi / 2 / len(values)) * deviation


def _as_run(stopwatch: Stopwatch, site: Site, choice: Choice) -> Choice:
    """Return a choice with all that has no kernel dense, and every cache."""
    apart = {changed_group(change): change for change in choice.settings_apart}
    weights = tuple(
        setting if group in apart and stopwatch.runs(site, apart[group]) else DENSE
        for group, setting in enumerate(choice.weights)
    )
    some = any(not setting.is_dense for setting in weights)
    return Choice(choice.kept, choice.total, weights if some else ())


def _saving(dense: Spent, pairs: Sequence[Spent], n_sites: int) -> _Saving:
    decode = [dense.decode * (1 - pair.decode) / n_sites for pair in pairs]
    prefill = [dense.prefill * (1 - pair.prefill) / n_sites for pair in pairs]
    half = half_interval(decode)
    middle = statistics.median(decode)
    return _Saving(Spent(statistics.median(prefill), middle), (middle - half, middle + half))


def _replicate(space: SearchSpace, kind: SiteKind, choice: Choice) -> tuple[list[Choice], int]:
    """Return the choices that set all sites of a kind to one choice, and how many those are.

    One attention always stays, since a model without a KV cache is another program.
    """
    chosen = [Choice(site.units, site.units) for site in space.sites]
    if kind is SiteKind.LAYER:
        kept = len(space.bundles[0].sites)
        chosen[kept:] = [Choice(0, site.units) for site in space.sites[kept:]]
        return chosen, len(space.bundles) - 1
    sites = [i for i, site in enumerate(space.sites) if site.kind is kind]
    if kind is SiteKind.ATTENTION and choice.is_dropped:
        sites = sites[1:]
    for i in sites:
        chosen[i] = choice
    return chosen, len(sites)


def _profile(space: SearchSpace, dense: Spent, savings: Mapping[Key, _Saving]) -> Profile:
    """Turn savings into costs: what a site saves when dropped is what it costs when dense.

    Costs of shapes are made monotone by isotonic regression: fewer units never cost more. Where
    the space drops nothing, the most that a width, or each group's fastest setting, saves stands
    for the drop: only differences matter to the search. Where layers are dropped as a whole, the
    rows of sites are there for their differences; what they take is in the layer's.
    """
    rows: list[Row] = []
    fixed_prefill, fixed_decode = dense.prefill, dense.decode
    all_coded = Spent(0.0, 0.0)
    for kind in SiteKind:
        own = {choice: saving for (k, choice), saving in savings.items() if k is kind}
        alike: list[Site | Bundle] = [site for site in space.sites if site.kind is kind]
        if kind is SiteKind.LAYER:
            alike = [bundle for bundle in space.bundles if bundle.kind is kind]
        if not own or not alike:
            continue
        smoothed = _smoothed({c: saving for c, saving in own.items() if not c.is_whole})
        settings = {c: saving for c, saving in own.items() if c.is_whole}
        whole = Choice(alike[0].units, alike[0].units)
        coded = _all_groups(_by_group(settings))
        ends = [
            (saving.spent, shape.kept / shape.total)
            for shape, saving in {whole: _NOTHING, **smoothed}.items()
        ]
        if kind is SiteKind.LAYER:
            ends.append((all_coded, 0.0))
        most = Spent(
            max(s.prefill + share * coded.prefill for s, share in ends),
            max(s.decode + share * coded.decode for s, share in ends),
        )
        for choice, saving in {whole: _NOTHING, **smoothed, **settings}.items():
            low, high = saving.interval
            left = Spent(most.prefill - saving.spent.prefill, most.decode - saving.spent.decode)
            rows.append(Row(kind, choice, left, (most.decode - high, most.decode - low)))
        if space.whole_layers and kind is not SiteKind.LAYER:
            all_coded = Spent(all_coded.prefill + most.prefill, all_coded.decode + most.decode)
            continue
        fixed_prefill -= len(alike) * most.prefill
        fixed_decode -= len(alike) * most.decode
    return Profile(dense, Spent(max(fixed_prefill, 0.0), max(fixed_decode, 0.0)), tuple(rows))


def _all_groups(by_group: Sequence[Sequence[_Saving]]) -> Spent:
    """Return what all groups together save at most."""
    return Spent(
        sum(max(s.spent.prefill for s in group) for group in by_group),
        sum(max(s.spent.decode for s in group) for group in by_group),
    )


def _by_group(settings: Mapping[Choice, _Saving]) -> list[list[_Saving]]:
    """Return the savings of each linear group's settings; leaving it dense saves nothing."""
    groups: dict[int | None, list[_Saving]] = {}
    for choice, saving in settings.items():
        groups.setdefault(changed_group(choice), [_NOTHING]).append(saving)
    return list(groups.values())


def _smoothed(shapes: Mapping[Choice, _Saving]) -> dict[Choice, _Saving]:
    """Return the savings of shapes, monotone in units; the intervals stay."""
    choices = sorted(shapes, key=lambda choice: -choice.kept)
    prefill = isotonic([0.0] + [shapes[c].spent.prefill for c in choices])[1:]
    decode = isotonic([0.0] + [shapes[c].spent.decode for c in choices])[1:]
    return {
        choice: _Saving(Spent(*spent), shapes[choice].interval)
        for choice, *spent in zip(choices, prefill, decode, strict=True)
    }


def isotonic(values: Sequence[float]) -> list[float]:
    """Return the non-decreasing sequence nearest to the values, from the first one on.

    The first value (dense saves nothing) is exact and stays.
    """
    from_first = [max(value, values[0]) for value in values[1:]]
    if not from_first:
        return list(values)
    return [values[0], *(float(v) for v in isotonic_regression(from_first).x)]
