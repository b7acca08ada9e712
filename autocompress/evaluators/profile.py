"""Measures what each choice of a site costs in a running stack on the torch engine.

A row is a distinct (kind, units kept): all sites of that kind are set to it at once, with the
dense model timed beside it, and the difference is shared out. Medians of ratios to the
neighbouring dense run, so that a machine whose speed drifts does not move the rows.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from autocompress.evaluators.latency_rows import Profile, Row, Sample, Spent
from autocompress.evaluators.subprocess_call import Progress
from autocompress.evaluators.timing import Timing, make_prompt, run
from autocompress.models.surgery import ShapedModel
from autocompress.spaces.base import Choice, SearchSpace, SiteKind
from autocompress.spec import Workload
from autocompress.trial import Genotype

DECODE_STEPS = 16


class Profiler:
    """Times configurations of one loaded model; nothing else may compute meanwhile."""

    def __init__(self, shaped: ShapedModel, workload: Workload) -> None:
        self._shaped = shaped
        self._workload = workload
        self._prompt = make_prompt(shaped.model, workload)
        # Decoding is timed half-way through the generated tokens: a cached token costs its share.
        extra = max(0, (workload.generated - DECODE_STEPS) // 2)
        self._longer = make_prompt(shaped.model, workload, extra)
        self._steps = min(DECODE_STEPS, workload.generated)

    def profile(self, rounds: int, seed: int, progress: Progress) -> Profile:
        """Measure every distinct (kind, units kept), `rounds` times in shuffled order."""
        space = self._shaped.space
        keys = sorted(
            {
                (site.kind, entry.choice.shape)
                for site, menu in zip(space.sites, space.menus, strict=True)
                for entry in menu
                if not entry.choice.is_whole
            }
        )
        plans = {key: _replicate(space, *key) for key in keys}
        ratios = self._ratios([plan for plan, _ in plans.values()], rounds, seed, progress)
        dense = ratios.dense
        savings: dict[tuple[SiteKind, Choice], tuple[Spent, tuple[float, float]]] = {}
        for key, pairs in zip(keys, ratios.pairs, strict=True):
            n_sites = plans[key][1]
            decode = [dense.decode * (1 - pair.decode) / n_sites for pair in pairs]
            prefill = [dense.prefill * (1 - pair.prefill) / n_sites for pair in pairs]
            half = 2.0 * statistics.stdev(decode) / len(decode) ** 0.5 if len(decode) > 1 else 0.0
            middle = statistics.median(decode)
            savings[key] = (
                Spent(statistics.median(prefill), middle),
                (middle - half, middle + half),
            )
        return _rows(space, dense, savings)

    def samples(
        self, candidates: Sequence[Genotype], rounds: int, seed: int, progress: Progress
    ) -> list[Sample]:
        """Measure whole configurations, each twice over."""
        space = self._shaped.space
        plans = [space.choices(genotype) for genotype in candidates]
        measured = self._ratios(plans, 2 * rounds, seed, progress)
        result = []
        for plan, pairs in zip(plans, measured.pairs, strict=True):
            halves = [
                Spent(
                    measured.dense.prefill * statistics.median(p.prefill for p in part),
                    measured.dense.decode * statistics.median(p.decode for p in part),
                )
                for part in (pairs[0::2], pairs[1::2])
            ]
            result.append(Sample(tuple(c.kept for c in plan), halves[0], halves[1]))
        return result

    def _ratios(
        self, plans: Sequence[Sequence[Choice]], rounds: int, seed: int, progress: Progress
    ) -> "_Ratios":
        rng = np.random.default_rng([seed, 7])
        dense_runs: list[Spent] = []
        pairs: list[list[Spent]] = [[] for _ in plans]
        self._time_dense()
        before = self._time_dense()
        done = 0
        for _ in range(rounds):
            for index in rng.permutation(len(plans)):
                own = self._time(plans[index])
                after = self._time_dense()
                beside = Spent(
                    (before.prefill + after.prefill) / 2, (before.decode + after.decode) / 2
                )
                dense_runs.append(beside)
                pairs[index].append(
                    Spent(own.prefill / beside.prefill, own.decode / beside.decode)
                )
                before = after
                done += 1
                progress(done, rounds * len(plans))
        dense = Spent(
            statistics.median(r.prefill for r in dense_runs),
            statistics.median(r.decode for r in dense_runs),
        )
        self._shaped.apply_dense()
        return _Ratios(dense, pairs)

    def _time_dense(self) -> Spent:
        return self._time([Choice(site.units, site.units) for site in self._shaped.space.sites])

    def _time(self, choices: Sequence[Choice]) -> Spent:
        self._shaped.apply(choices)
        prefill = run(self._shaped.model, self._prompt, 1).prefill
        steps: Timing = run(self._shaped.model, self._longer, self._steps + 1)
        return Spent(prefill, steps.decode)


@dataclass(frozen=True, slots=True)
class _Ratios:
    """The dense model's time, and for each plan its ratios to the dense runs beside it."""

    dense: Spent
    pairs: list[list[Spent]]


def _replicate(space: SearchSpace, kind: SiteKind, choice: Choice) -> tuple[list[Choice], int]:
    """Return the choices that set all sites of a kind to one choice, and how many those are.

    One attention always stays, since a model without a KV cache is another program.
    """
    sites = [i for i, site in enumerate(space.sites) if site.kind is kind]
    if kind is SiteKind.ATTENTION and choice.is_dropped:
        sites = sites[1:]
    chosen = [Choice(site.units, site.units) for site in space.sites]
    for i in sites:
        chosen[i] = choice
    return chosen, len(sites)


def _rows(
    space: SearchSpace,
    dense: Spent,
    savings: dict[tuple[SiteKind, Choice], tuple[Spent, tuple[float, float]]],
) -> Profile:
    """Turn savings into costs: what a site saves when dropped is what it costs when dense.

    Costs are made monotone by isotonic regression: fewer units never cost more. Where the space
    drops nothing, the narrowest width stands for the drop: only differences matter to the search.
    """
    rows: list[Row] = []
    fixed_prefill, fixed_decode = dense.prefill, dense.decode
    for kind in SiteKind:
        choices = sorted((c for k, c in savings if k is kind), key=lambda c: -c.kept)
        n_sites = sum(site.kind is kind for site in space.sites)
        if not choices or not n_sites:
            continue
        prefill = isotonic([0.0] + [savings[kind, c][0].prefill for c in choices])
        decode = isotonic([0.0] + [savings[kind, c][0].decode for c in choices])
        units = choices[0].total
        for i, choice in enumerate([Choice(units, units), *choices]):
            low, high = (0.0, 0.0) if i == 0 else savings[kind, choice][1]
            rows.append(
                Row(
                    kind,
                    choice,
                    Spent(prefill[-1] - prefill[i], decode[-1] - decode[i]),
                    (decode[-1] - high, decode[-1] - low),
                )
            )
        fixed_prefill -= n_sites * prefill[-1]
        fixed_decode -= n_sites * decode[-1]
    return Profile(dense, Spent(max(fixed_prefill, 0.0), max(fixed_decode, 0.0)), tuple(rows))


def isotonic(values: Sequence[float]) -> list[float]:
    """Return the non-decreasing sequence nearest to the values, from the first one on.

    The first value (dense saves nothing) is exact and stays.
    """
    from_first = [max(value, values[0]) for value in values[1:]]
    return [values[0], *(float(v) for v in isotonic_regression(from_first).x)]
