"""Counts what is done in a shard, from its genotypes, and fits seconds to it from real shards."""

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from autocompress.evaluators.population import PopulationEvaluator
from autocompress.models.text import draw_order
from autocompress.pipeline.prepared import Prepared
from autocompress.spaces.base import Choice, SearchSpace, SiteKind
from autocompress.trial import Split
from autocompress.workers.base import Shard

NUMBER_BYTES = 2  # bfloat16
TEACHER_NUMBER_BYTES = 8  # an int32 token and a float32 logarithm


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model and its evaluator decides how a shard is walked.

    Args:
        streams: Residual streams of one sequence that are held at a time.
        teachers: Sequences of which a worker keeps the dense model's predictions.
        rows: Sequences of the search text; `seed` shuffles their draws.
    """

    space: SearchSpace
    streams: int
    sequences_at_once: int
    teachers: int
    rows: int
    seed: int


def shape_of(prepared: Prepared) -> Shape:
    """Return the numbers that `PopulationEvaluator` reckons from its limits."""
    limits, context = prepared.session_plan("").limits, prepared.spec.context
    stream = context * prepared.architecture.hidden * NUMBER_BYTES
    teacher = (context - 1) * (limits.teacher_tokens * TEACHER_NUMBER_BYTES + 4)
    return Shape(
        prepared.space,
        max(1, limits.states_bytes // (2 * stream)),
        max(1, limits.tokens_at_once // context),
        max(1, limits.teacher_bytes // teacher),
        len(prepared.sequences[Split.SEARCH]),
        prepared.spec.seed,
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """What is done in a shard.

    Args:
        attention: Sub-blocks really computed, times sequences; `attention_width` sums the shares
            of their units kept; alike for MLPs.
        swaps: Times that a site's weights are put in place.
        batches: Calls of a sub-block, each with some tokens at once.
        readings: Candidates times sequences: what goes through the head.
        copies: Streams copied past a dropped site, times sequences.
        teachers: Sequences on which the dense model's predictions are missing.
    """

    shards: float = 1
    attention: float = 0
    attention_width: float = 0
    mlp: float = 0
    mlp_width: float = 0
    swaps: float = 0
    batches: float = 0
    readings: float = 0
    copies: float = 0
    teachers: float = 0


def rows_of(shape: Shape, shard: Shard) -> tuple[tuple[Split, int], ...]:
    """Return the sequences that a shard reads, in their order."""
    fidelity = shard.fidelity
    order = draw_order(shape.rows, fidelity.split, fidelity.draw, shape.seed)
    return tuple((fidelity.split, int(row)) for row in order[fidelity.first : fidelity.end])


def count(shape: Shape, shard: Shard, teachers: int) -> Counts:
    """Count what the population evaluator does of a shard, as its walk does."""
    ordered = sorted(shard.genotypes, key=lambda genotype: genotype.levels)
    choices = [shape.space.choices(genotype) for genotype in ordered]
    at_once = min(len(choices), shape.streams)
    step = max(1, min(shape.streams // at_once, shape.sequences_at_once))
    n = shard.fidelity.sequences
    total = dict.fromkeys((f.name for f in dataclasses.fields(Counts)), 0.0)
    total |= {"shards": 1.0, "readings": float(n * len(choices)), "teachers": float(teachers)}
    for start in range(0, len(choices), at_once):
        part = choices[start : start + at_once]
        for first in range(0, n, step):
            _walk(shape, part, min(step, n - first), total)
    return Counts(**total)


def _walk(
    shape: Shape, population: Sequence[tuple[Choice, ...]], sequences: int, total: dict[str, float]
) -> None:
    per_batch = max(1, shape.sequences_at_once // sequences)
    history = [0] * len(population)
    for index, site in enumerate(shape.space.sites):
        groups: dict[Choice, set[int]] = {}
        numbers: dict[tuple[int, Choice], int] = {}
        for candidate, past in enumerate(history):
            choice = population[candidate][index]
            groups.setdefault(choice, set()).add(past)
            history[candidate] = numbers.setdefault((past, choice), len(numbers))
        kind = "attention" if site.kind is SiteKind.ATTENTION else "mlp"
        for choice, pasts in groups.items():
            if choice.is_dropped:
                total["copies"] += len(pasts) * sequences
                continue
            total[kind] += len(pasts) * sequences
            total[f"{kind}_width"] += len(pasts) * sequences * choice.kept / choice.total
            total["swaps"] += 1
            total["batches"] += math.ceil(len(pasts) / per_batch)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds for each count.

    Args:
        r2: Of shards that were held out, like the errors, which are relative.
        median_error: Of the shards, without sign.
        total_error: Of their sum.
    """

    seconds: Counts
    r2: float
    median_error: float
    total_error: float
    fitted: int
    held_out: int

    def of(self, counts: Counts) -> float:
        """Return the seconds of a shard."""
        return float(np.dot(dataclasses.astuple(self.seconds), dataclasses.astuple(counts)))


def timed(
    evaluator: PopulationEvaluator, shape: Shape, shards: Sequence[Shard]
) -> list[tuple[Counts, float]]:
    """Measure shards in this process and return what each did and its seconds of processor time.

    Processor time of one thread is wall time where nothing else runs, and hardly differs from it
    where something does.
    """
    read: set[tuple[Split, int]] = set()
    found = []
    for shard in shards:
        rows = rows_of(shape, shard)
        counts = count(shape, shard, len(set(rows) - read))
        started = time.process_time()
        evaluator.measure(shard.genotypes, shard.fidelity)
        found.append((counts, time.process_time() - started))
        read |= set(rows)
        if len(read) > shape.teachers:
            raise SystemExit(f"more than {shape.teachers} sequences are timed: lower --timed")
    return found


def fit(rows: Sequence[tuple[Counts, float]], rng: np.random.Generator) -> CostModel:
    """Fit by non-negative least squares on relative errors; every fourth shard is held out."""
    order = rng.permutation(len(rows))
    held, used = order[::4], np.setdiff1d(order, order[::4])
    counts = np.asarray([dataclasses.astuple(own) for own, _ in rows])
    seconds = np.asarray([own for _, own in rows])
    scale = np.maximum(counts[used].max(axis=0), 1.0)
    design = counts[used] / scale / seconds[used, None]
    weights = nnls(design, np.ones(len(used)))[0] / scale
    predicted = counts[held] @ weights
    residual = ((predicted - seconds[held]) ** 2).sum()
    spread = ((seconds[held] - seconds[held].mean()) ** 2).sum()
    return CostModel(
        Counts(*map(float, weights)),
        float(1 - residual / spread),
        float(np.median(np.abs(predicted / seconds[held] - 1))),
        float(predicted.sum() / seconds[held].sum() - 1),
        len(used),
        len(held),
    )
