"""Picks what a person looks at of a study, from its store alone, for the dashboard's mirror."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import yaml

from autocompress.export.checkpoint import layer_texts
from autocompress.export.figures import FIGURES, available, write_png
from autocompress.export.render import write_report, write_texts
from autocompress.export.report import Report
from autocompress.export.report_markdown import to_markdown
from autocompress.pipeline.pareto import Reading, competes_from, read_all
from autocompress.pipeline.stored_study import StoredStudy, latency_of
from autocompress.pipeline.targets import needed_speedup, stored_cost, stored_limits
from autocompress.spaces import sizes
from autocompress.spaces.base import SUB_BLOCKS, Choice, GeneKind, SearchSpace, Site, SiteKind
from autocompress.spaces.cost import AdditiveCost, Constraint, Limit
from autocompress.spaces.pareto import pareto_front
from autocompress.spaces.settings import WeightSetting
from autocompress.store.mirror import Parameter, ShownStudy, ShownTrial
from autocompress.trial import Genotype, Split

MOST_NOTES: Final = 20
"""Of trials: the dashboard reads the notes of all with every page."""


RUNG: Final = "won a rung"


def shown_study(
    known: StoredStudy, winner: Genotype | None, most: int, folder: Path
) -> ShownStudy:
    """Return the winner, the finalists, the Pareto front and what won a rung.

    In the order in which they were first measured.

    Args:
        most: Trials at most; of those that won a rung, the ones that were read furthest.
        folder: Takes the files that can be fetched.
    """
    spec, space, dense = known.spec, known.space, known.dense
    stored = stored_cost("bytes", "nominal", space, dense, spec.format)
    cost, named = stored, "bytes"
    limits = stored_limits(spec, space, dense)
    if known.latency is not None:
        cost, named = latency_of(known).cost(space), "milliseconds, predicted"
        speedup = needed_speedup(spec, cost)
        if speedup is not None:
            limits = (Limit(cost, cost.dense / speedup), *limits)
    readings = read_all(known.records)
    roles = _roles(known, readings, space, cost, winner)
    when = {record.genotype: -place for place, record in enumerate(reversed(known.records))}
    kept = sorted(_kept(readings, roles, most), key=lambda reading: when[reading.genotype])
    constraint = Constraint(space, limits) if limits else None
    seconds: dict[Genotype, float] = {}
    for record in known.records:
        seconds[record.genotype] = seconds.get(record.genotype, 0.0) + record.seconds
    noted = [reading.genotype for reading in kept if reading.genotype in roles][:MOST_NOTES]
    trials = []
    for reading in kept:
        genotype = reading.genotype
        entries = space.entries(genotype)
        choices = space.choices(genotype)
        trials.append(
            ShownTrial(
                genotype.key,
                summary(space, choices, dense.number_bits),
                (reading.measurement.loss, cost.of(entries)),
                constraint.violation_of(entries) if constraint is not None else 0.0,
                {
                    "stage": roles.get(genotype, RUNG),
                    "sequences": reading.sequences,
                    "perplexity": reading.measurement.perplexity,
                    "bytes": stored.of(entries),
                    "speedup": cost.dense / cost.of(entries),
                    "seconds": seconds[genotype],
                },
                _note(space, choices) if genotype in noted else "",
            )
        )
    report = None if known.row.report is None else Report.from_json(known.row.report)
    return ShownStudy(
        known.row.name,
        f"{known.row.created_at} {known.row.state}",
        ("KL, nats a token", named),
        {
            "model": spec.model,
            "state": known.row.state.value,
            "strategy": spec.strategy,
            "space": ", ".join(spec.space),
            "engine": spec.engine,
            "created": known.row.created_at,
            "candidates": known.row.n_trials,
        },
        trials,
        _study_note(known) if report is None else to_markdown(report),
        {} if report is None else _files(report, space, winner, known.row.name, folder),
    )


def summary(
    space: SearchSpace, choices: Sequence[Choice], dense_bits: int
) -> dict[str, Parameter]:
    """Return the few numbers that say most of a candidate, of what the space varies alone."""
    pairs = list(zip(space.sites, choices, strict=True))
    kinds = {gene.kind for gene in space.genes}
    drops = any(choice.is_dropped for menu in space.menus for choice in menu[-1].choices)
    found: dict[str, Parameter] = {}
    for kind in SUB_BLOCKS:
        own = [(site, choice) for site, choice in pairs if site.kind is kind]
        left = [(site, choice) for site, choice in own if not choice.is_dropped]
        if drops:
            gone = len(own) - len(left)
            found[f"{kind} dropped"] = Parameter(gone, len(own), is_count=True)
        if GeneKind.WIDTH in kinds and any(len(_widths(site)) > 0 for site, _ in own):
            shares = [choice.kept / choice.total for _, choice in left]
            found[f"{kind} kept"] = Parameter(_mean(shares), 1.0)
        if GeneKind.BITS in kinds:
            found[f"{kind} bits"] = Parameter(
                _weighted(left, lambda setting: setting.nominal_bits(dense_bits)), dense_bits
            )
    if GeneKind.SPARSITY in kinds:
        found["sparsity"] = Parameter(_weighted(pairs, lambda setting: setting.sparsity), 1.0)
    if GeneKind.CACHE in kinds:
        caches = [
            choice.cache.bits or dense_bits
            for site, choice in pairs
            if site.kind is SiteKind.ATTENTION and not choice.is_dropped
        ]
        found["KV cache bits"] = Parameter(_mean(caches), dense_bits)
    return found


def _widths(site: Site) -> Sequence[object]:
    """Return the widths beside whole and dropped that a site may have."""
    return [
        kept
        for gene in site.genes
        if gene.kind is GeneKind.WIDTH
        for kept in gene.settings
        if kept not in (0, site.units)
    ]


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _weighted(pairs: Sequence[tuple[Site, Choice]], of: Callable[[WeightSetting], float]) -> float:
    """Return the mean over all weights that are left of something that settings say."""
    parts = [
        (of(setting), math.prod(shape))
        for site, choice in pairs
        for setting, shape in sizes.matrices(site, choice)
    ]
    weights = sum(n for _, n in parts)
    return math.fsum(value * n for value, n in parts) / weights if weights else 0.0


def _roles(
    known: StoredStudy,
    readings: Sequence[Reading],
    space: SearchSpace,
    cost: AdditiveCost,
    winner: Genotype | None,
) -> Mapping[Genotype, str]:
    """Return what makes candidates worth a look; of several reasons the first."""
    roles: dict[Genotype, str] = {} if winner is None else {winner: "winner"}
    for record in known.records:
        if record.fidelity.split is Split.SELECTION and record.error is None:
            roles.setdefault(record.genotype, "finalist")
    if readings:
        least = competes_from(known.spec, readings)
        competing = [reading for reading in readings if reading.sequences >= least]
        points = [(cost.of(space.entries(r.genotype)), r.measurement.loss) for r in competing]
        for place in pareto_front(points):
            roles.setdefault(competing[place].genotype, "Pareto front")
    return roles


def _kept(
    readings: Sequence[Reading], roles: Mapping[Genotype, str], most: int
) -> Sequence[Reading]:
    """Return those with a role, then those that won a rung: the ones that were read further."""
    read = [reading.sequences for reading in readings]
    least, furthest = min(read, default=0), max(read, default=0)
    chosen = [reading for reading in readings if reading.genotype in roles]
    others = [
        reading
        for reading in readings
        if reading.genotype not in roles
        and (reading.sequences > least or reading.sequences == furthest)
    ]
    others.sort(key=lambda r: (-r.sequences, r.measurement.loss, r.genotype.levels))
    order = ["winner", "finalist", "Pareto front"]
    chosen.sort(key=lambda r: (order.index(roles[r.genotype]), r.measurement.loss))
    return [*chosen, *others][:most]


def _note(space: SearchSpace, choices: Sequence[Choice]) -> str:
    """Return what is done to each layer, as a table."""
    rows = [
        f"| {site.layer} | {site.kind} | {choice} |"
        for site, choice in zip(space.sites, choices, strict=True)
        if not choice.is_dense
    ]
    return "\n".join(["| layer | sub-block | what is done |", "| --- | --- | --- |", *rows])


def _study_note(known: StoredStudy) -> str:
    row = known.row
    return (
        f"`{row.state}`; {row.n_trials} candidates measured. The report comes with the end; "
        f"`autocompress resume {row.name}` goes on with a study that was stopped."
    )


def _files(
    report: Report, space: SearchSpace, winner: Genotype | None, study: str, folder: Path
) -> Mapping[str, Path]:
    """Write what can be fetched of a finished study."""
    write_report(report, folder)
    names = ["report.html", "report.json"]
    for figure in available(report):
        write_png(FIGURES[figure](report), folder / f"{figure}.png")
        names.append(f"{figure}.png")
    if winner is not None:
        layers = layer_texts(space, space.choices(winner))
        recipe: Mapping[str, object] = {"study": study, "model": report.model, "layers": layers}
        write_texts({"recipe.yaml": yaml.safe_dump(recipe, sort_keys=False)}, folder)
        names.append("recipe.yaml")
    return {name: folder / name for name in names}
