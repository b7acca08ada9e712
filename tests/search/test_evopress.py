"""EvoPress over bits and sparsity: its schedules, and what its mutations keep."""

import numpy as np
import pytest

from autocompress.search.base import Batch, Task
from autocompress.search.evolve import EvolveSettings
from autocompress.search.evopress import EvoPressSettings, Stage, Trade, evopress_settings
from autocompress.search.strategies import make_strategy
from autocompress.spaces.base import GeneKind
from autocompress.spaces.cost import under
from autocompress.spaces.making import Weights, make_space
from autocompress.spaces.settings import WeightSetting
from autocompress.spaces.sizes import nominal_bits
from autocompress.trial import Genotype, Measurement, Trial
from tests.spaces.problems import GROUPS, sparse_space

BITS = make_space(
    3, 1, 96, depth=False, width=False, weights=Weights(bits=(6, 5, 4, 3, 2)), groups=GROUPS
)
SPARSE = sparse_space(3, 8)
DEPTH = make_space(3, 1, 96, depth=True, width=False)


def task_of(bits: float) -> Task:
    return Task(under(BITS, nominal_bits(BITS, 16), bits), 0, 256, 600)


def run(name: str, task: Task, most_batches: int) -> list[Batch]:
    """Answer a strategy for some batches, by a loss that adds up over genes."""
    strategy = make_strategy(name, task, EvolveSettings())
    weights = np.random.default_rng(0).random(len(BITS.genes))
    batches: list[Batch] = []
    while len(batches) < most_batches and (batch := strategy.ask()) is not None:
        batches.append(batch)
        n = batch.fidelity.sequences
        losses = [float(weights @ np.exp2(np.asarray(g.levels))) for g in batch.candidates]
        strategy.tell(
            [
                Trial(g, batch.fidelity, Measurement((loss,) * n, (loss,) * n, 255))
                for g, loss in zip(batch.candidates, losses, strict=True)
            ]
        )
    return batches


@pytest.mark.parametrize(
    ("space", "fast", "expected"),
    [
        (DEPTH, False, EvoPressSettings()),
        (DEPTH, True, EvoPressSettings()),
        (
            BITS,
            False,
            EvoPressSettings(
                128, (Stage(2048, 16), Stage(16384, 4), Stage(131072, 1)), 64, 2048, 150
            ),
        ),
        (
            SPARSE,
            False,
            EvoPressSettings(
                64, (Stage(2048, 8), Stage(16384, 2), Stage(65536, 1)), 64, 2048, 400
            ),
        ),
        (BITS, True, EvoPressSettings(16, (Stage(512, 1), Stage(8192, 1)), 64, 2048, 400)),
        (SPARSE, True, EvoPressSettings(16, (Stage(512, 1), Stage(8192, 1)), 64, 2048, 400)),
    ],
    ids=["depth", "depth fast", "bits", "sparsity", "bits fast", "sparsity fast"],
)
def test_schedules_are_the_programs_own(
    space: object, fast: bool, expected: EvoPressSettings
) -> None:
    assert evopress_settings(space, fast=fast, trade=Trade.SIZE) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["evopress-fast", "evopress-fast-free"])
def test_every_candidate_meets_the_constraint(name: str) -> None:
    task = task_of(3.0)

    batches = run(name, task, 60)

    assert len(batches) == 60
    for batch in batches:
        assert all(task.constraint.violation(g) <= 0 for g in batch.candidates)


def test_groups_of_one_size_keep_their_share_of_the_bits() -> None:
    task = task_of(3.0)

    batches = run("evopress-fast", task, 60)

    shares = {
        tuple(sum(genotype.levels[kind::3]) for kind in range(3))
        for batch in batches
        for genotype in batch.candidates
    }
    assert shares == {(12, 12, 12)}


def test_zeros_move_between_sizes_where_levels_are_equal_counts() -> None:
    # EvoPress's own levels: a step up here and one down there keep the number of zeros.
    space = make_space(
        3,
        1,
        96,
        depth=False,
        width=False,
        weights=Weights(sparsities=(WeightSetting(sparsity=0.5),), sparsity_step=64),
        groups=GROUPS,
    )
    limit = under(space, nominal_bits(space, 16), 8.0)

    batches = run("evopress-fast", Task(limit, 0, 256, 600), 60)

    candidates = [genotype for batch in batches for genotype in batch.candidates]
    shares = {tuple(sum(own.levels[kind::3]) for kind in range(3)) for own in candidates}
    assert len(shares) > 5
    assert all(limit.violation(own) <= 0 for own in candidates)


def test_without_groups_bits_move_between_kinds() -> None:
    batches = run("evopress-fast-free", task_of(3.0), 60)

    shares = {
        tuple(sum(genotype.levels[kind::3]) for kind in range(3))
        for batch in batches
        for genotype in batch.candidates
    }
    assert len(shares) > 5


def test_it_begins_with_one_number_of_bits() -> None:
    first = run("evopress-fast", task_of(4.0), 1)[0]

    assert first.candidates == (Genotype((3,) * len(BITS.genes)),)
    assert BITS.genes[0].kind is GeneKind.BITS


def test_the_super_fast_schedule_spends_at_most_ten_million_tokens() -> None:
    settings = evopress_settings(BITS, fast=True, trade=Trade.SIZE)
    generation = sum(
        stage.tokens * n
        for stage, n in zip(settings.stages, (settings.offspring + 1, 2), strict=True)
    )

    assert generation * (settings.generations or 0) <= 10.1e6
