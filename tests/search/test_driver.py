"""The driver over a real store: everything is recorded, nothing is measured twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.base import Batch
from autocompress.search.driver import SHARD_SEQUENCES, SearchDriver, cut_fidelity
from autocompress.search.evolve import EvolveSettings, EvolveStrategy, Rung
from autocompress.store.base import StudyStore
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Fidelity, Genotype, Split
from autocompress.workers.base import Shard
from tests.search.synthetic import SPACE, SynchronousPool, constraint_at, measure, run

LONG = Fidelity(Split.SEARCH, 2, 8, 70)
CANDIDATES = (
    SPACE.dense,
    SPACE.genotype((0, 1, 0, 0, 0, 0)),
    SPACE.genotype((2, 0, 0, 0, 1, 3)),
)
SETTINGS = EvolveSettings(
    offspring=6, rungs=(Rung(8, 3), Rung(40, 1)), random_parents=4, generations=4
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture
def store(url: str) -> Iterator[StudyStore]:
    store = create_study(url, "study", {})
    yield store
    store.close()


@pytest.fixture
def pool() -> SynchronousPool:
    return SynchronousPool()


def driver_of(pool: SynchronousPool, store: StudyStore) -> SearchDriver:
    return SearchDriver(pool, store, lambda done, total: None)


def strategy() -> EvolveStrategy:
    return EvolveStrategy(
        SPACE,
        constraint_at(2.0),
        SETTINGS,
        phase=0,
        seed=0,
        context=16,
        available=64,
        stop=lambda generation: None,
    )


def breaks_at_40(shard: Shard) -> bool:
    return shard.genotype == CANDIDATES[1] and shard.fidelity.first == 40


@given(st.integers(0, 500), st.integers(1, 500))
def test_shards_cover_a_reading_once(first: int, sequences: int) -> None:
    fidelity = Fidelity(Split.REPORT, 3, first, sequences)

    shards = cut_fidelity(fidelity)

    assert all(1 <= shard.sequences <= SHARD_SEQUENCES == 32 for shard in shards)
    assert all((shard.split, shard.draw) == (Split.REPORT, 3) for shard in shards)
    covered = [position for shard in shards for position in range(shard.first, shard.end)]
    assert covered == list(range(first, fidelity.end))


def test_trials_are_joined_in_the_order_asked(pool: SynchronousPool, store: StudyStore) -> None:
    trials = driver_of(pool, store).measure(Batch(CANDIDATES, LONG))

    assert [trial.genotype for trial in trials] == list(CANDIDATES)
    for trial in trials:
        assert trial.fidelity == LONG
        assert trial.error is None
        assert trial.measurement == measure(trial.genotype, LONG)


def test_every_shard_is_recorded(pool: SynchronousPool, store: StudyStore) -> None:
    driver = driver_of(pool, store)

    driver.measure(Batch(CANDIDATES, LONG))

    recorded = store.measurements()
    assert set(recorded) == {(shard.genotype, shard.fidelity) for shard in pool.asked}
    assert len(recorded) == len(pool.asked) == 3 * 3
    assert {shard.fidelity.sequences for shard in pool.asked} == {32, 6}
    for (genotype, fidelity), record in recorded.items():
        assert record.measurement == measure(genotype, fidelity)
    assert all(record.seconds >= 0 for record in recorded.values())
    assert driver.n_trials == 3
    assert driver.sequences == 3 * 70


def test_a_shard_is_recorded_when_it_arrives(pool: SynchronousPool, store: StudyStore) -> None:
    seen = []

    def on_shard(done: int, total: int) -> None:
        seen.append((done, total, len(store.measurements())))

    SearchDriver(pool, store, on_shard).measure(Batch(CANDIDATES, LONG))

    assert seen == [(n, 9, n) for n in range(1, 10)]


def test_nothing_is_measured_twice(pool: SynchronousPool, store: StudyStore) -> None:
    driver = driver_of(pool, store)
    first = driver.measure(Batch(CANDIDATES[:2], LONG))
    n_asked = len(pool.asked)

    second = driver.measure(Batch((*CANDIDATES, CANDIDATES[2]), LONG))

    assert second[:2] == first
    assert second[3] == second[2]
    assert {shard.genotype for shard in pool.asked[n_asked:]} == {CANDIDATES[2]}
    assert len(set(pool.asked)) == len(pool.asked)


def test_a_second_driver_asks_the_pool_for_nothing(pool: SynchronousPool, url: str) -> None:
    store = create_study(url, "study", {})
    first = driver_of(pool, store).measure(Batch(CANDIDATES, LONG))
    store.close()
    reopened = open_study(url, "study")
    resumed = SynchronousPool()

    driver = driver_of(resumed, reopened)
    second = driver.measure(Batch(CANDIDATES, LONG))
    reopened.close()

    assert second == first
    assert resumed.asked == []
    assert (driver.n_trials, driver.sequences) == (3, 210)


def test_a_search_runs_as_it_would_without_a_driver(
    pool: SynchronousPool, store: StudyStore
) -> None:
    alone, driven = strategy(), strategy()
    n_batches = len(run(alone))
    told: list[int] = []

    driver_of(pool, store).run(driven, lambda: told.append(1))

    assert driven.standing() == alone.standing()
    assert driven.finalists(6) == alone.finalists(6)
    assert len(told) == n_batches


def test_a_finished_search_is_replayed_from_the_store(
    pool: SynchronousPool, store: StudyStore
) -> None:
    first, second = strategy(), strategy()
    driver_of(pool, store).run(first, lambda: None)
    resumed = SynchronousPool()

    driver_of(resumed, store).run(second, lambda: None)

    assert resumed.asked == []
    assert second.standing() == first.standing()


def test_a_shard_that_fails_fails_its_trial_alone(store: StudyStore) -> None:
    pool = SynchronousPool(breaks_at_40)

    driver = driver_of(pool, store)
    trials = driver.measure(Batch(CANDIDATES, LONG))

    assert [trial.error for trial in trials] == [None, "shard at 40 broke", None]
    assert trials[1].measurement is None
    assert trials[1].loss == float("inf")
    failed = store.measurements()[CANDIDATES[1], Fidelity(Split.SEARCH, 2, 40, 32)]
    assert (failed.measurement, failed.error) == (None, "shard at 40 broke")


def test_a_new_driver_tries_only_what_failed_again(store: StudyStore) -> None:
    driver_of(SynchronousPool(breaks_at_40), store).measure(Batch(CANDIDATES, LONG))
    healed = SynchronousPool()

    trials = driver_of(healed, store).measure(Batch(CANDIDATES, LONG))

    assert healed.asked == [Shard(CANDIDATES[1], Fidelity(Split.SEARCH, 2, 40, 32))]
    assert trials[1].measurement == measure(CANDIDATES[1], LONG)
    record = store.measurements()[CANDIDATES[1], Fidelity(Split.SEARCH, 2, 40, 32)]
    assert record.error is None


def test_a_shorter_reading_that_shares_shards_is_not_measured(
    pool: SynchronousPool, store: StudyStore
) -> None:
    driver = driver_of(pool, store)
    driver.measure(Batch(CANDIDATES, LONG))
    n_asked = len(pool.asked)

    (trial,) = driver.measure(Batch(CANDIDATES[:1], Fidelity(Split.SEARCH, 2, 8, 64)))

    assert len(pool.asked) == n_asked
    assert trial.measurement == measure(CANDIDATES[0], Fidelity(Split.SEARCH, 2, 8, 64))


def test_an_empty_batch_has_no_trials(pool: SynchronousPool, store: StudyStore) -> None:
    assert driver_of(pool, store).measure(Batch((), LONG)) == []


def test_genotypes_that_differ_are_different_trials(
    pool: SynchronousPool, store: StudyStore
) -> None:
    driver = driver_of(pool, store)

    driver.measure(Batch(tuple(Genotype((n,) * 12) for n in (0, 1)), LONG))

    assert driver.n_trials == 2
