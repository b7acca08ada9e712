"""Latency tables made by arithmetic: additive to the last digit, no clock in them."""

import json
from pathlib import Path

import numpy as np

from autocompress.evaluators.latency_model import LatencyTable, LatencyTables
from autocompress.evaluators.latency_rows import Profile, Row, Sample, Spent
from autocompress.spaces.base import SearchSpace
from autocompress.spaces.cost import under
from autocompress.spaces.moves import Moves
from autocompress.trial import Genotype
from autocompress.workload import Mix, Workload


def make_table(space: SearchSpace, workload: Workload) -> LatencyTables:
    """Return a table in which a site costs a start-up and its units."""
    rows = []
    for site, menu in zip(space.sites[:2], space.menus[:2], strict=True):
        for entry in menu:
            share = entry.choices[0].kept / entry.choices[0].total
            decode = 0.0 if entry.choices[0].is_dropped else 0.1 + 0.1 * share
            rows.append(
                Row(site.kind, entry.choices[0], Spent(3 * decode, decode), (decode, decode))
            )
    fixed = Spent(0.3, 0.1)
    n_sites = len(space.sites)
    dense = Spent(fixed.prefill + 0.6 * n_sites, fixed.decode + 0.2 * n_sites)
    profile = Profile(dense, fixed, tuple(rows))
    bare = LatencyTable("torch", "0", "arithmetic", 1, workload, profile, (), (1.0, 1.0, 1.0))
    cost = bare.cost(space)
    rng = np.random.default_rng(0)
    samples = []
    for speedup in (1.2, 1.4, 1.6, 1.8, 2.0, 2.2):
        constraint = under(space, cost, cost.dense / speedup)
        drawn = Moves(constraint, constraint.useful_levels()).random(1, rng)[0]
        genotype = Genotype(tuple(drawn.tolist()))
        share = cost.of(space.entries(genotype)) / cost.dense
        spent = Spent(dense.prefill * share, dense.decode * share)
        shapes = tuple(choice.shape for choice in space.choices(genotype))
        samples.append(Sample(shapes, spent, spent))
    table = LatencyTable(
        "torch", "0", "arithmetic", 1, workload, profile, tuple(samples), (1.0, 1.0, 1.0)
    )
    return LatencyTables(Mix(((1.0, workload),)), (table,))


def write_table(path: Path, space: SearchSpace, workload: Workload) -> Path:
    """Write a table as `autocompress profile --output` does."""
    path.write_text(json.dumps(make_table(space, workload).to_json()), encoding="utf-8")
    return path
