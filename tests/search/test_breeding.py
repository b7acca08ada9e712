"""EvoTorch's algorithms breed what the space holds, by the seed alone, and leave no trace."""

import importlib.util
import itertools
import logging

import numpy as np
import pytest
import torch

from autocompress.errors import SpecError
from autocompress.search import breeding
from autocompress.search.axes import Axes
from autocompress.search.base import Task
from autocompress.search.breeding import Breeder, Ground
from autocompress.search.surrogate import Observation, Surrogate
from autocompress.trial import Genotype
from tests.search.synthetic import SPACE, constraint_at, loss_of

LOSSES = [
    [loss_of(SPACE.genotype([0] * i + [entry] + [0] * (5 - i))) for entry in range(len(menu))]
    for i, menu in enumerate(SPACE.menus)
]
PARENTS = np.asarray(
    [
        SPACE.genotype(own).levels
        for own in itertools.product((0, 1), (0, 2), (0, 1), (0,), (0,), (0, 1))
    ]
)[1:]
every_breeder = pytest.mark.parametrize(
    "breed", [breeding.by_nsga2, breeding.by_map_elites, breeding.by_snes]
)


@pytest.fixture(scope="module")
def ground() -> Ground:
    observed = [
        Observation(tuple(levels), (0, 4), float(np.log(loss_of(Genotype(tuple(levels))))), 1e-4)
        for levels in PARENTS.tolist()
    ]
    surrogate = Surrogate(SPACE, LOSSES, observed)
    axes = Axes(Task(constraint_at(2.0), 0, 16, 64))
    return Ground(SPACE, axes, surrogate, surrogate.constant((0, 4)), LOSSES)


@every_breeder
def test_what_is_bred_is_of_the_space(breed: Breeder, ground: Ground) -> None:
    bred = breed(ground, PARENTS, np.random.default_rng(0))

    candidates = {Genotype(tuple(levels)) for levels in bred.tolist()}
    assert all(SPACE.canonical(genotype) == genotype for genotype in candidates)
    assert len(candidates) > len(PARENTS)


@every_breeder
def test_breeding_follows_from_the_seed(breed: Breeder, ground: Ground) -> None:
    first = breed(ground, PARENTS, np.random.default_rng(3))
    torch.manual_seed(99)
    second = breed(ground, PARENTS, np.random.default_rng(3))

    assert np.array_equal(first, second)


@every_breeder
def test_breeding_leaves_torch_as_it_was(
    breed: Breeder, ground: Ground, capfd: pytest.CaptureFixture[str]
) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()

    breed(ground, PARENTS, np.random.default_rng(0))

    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("evotorch").level == logging.WARNING


@every_breeder
def test_what_is_bred_is_expected_to_be_better_than_its_parents(
    breed: Breeder, ground: Ground
) -> None:
    bred = breed(ground, PARENTS, np.random.default_rng(0))

    def mean_loss(levels: np.ndarray) -> float:
        return ground.axes.mean_loss(ground.axes.shares(levels), ground.expect(levels))

    assert mean_loss(np.vstack([PARENTS, bred])) < mean_loss(PARENTS)


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(
        SpecError, match=r"^strategy: .* `pip install 'autocompress\[pareto\]'`\.$"
    ):
        breeding.check_package()
