"""The driver over a real store: everything is recorded, nothing is measured twice."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.search.base import Batch, Task
from autocompress.search.driver import SearchDriver
from autocompress.search.evolve import EvolveSettings, EvolveStrategy
from autocompress.search.shards import Cut, cut
from autocompress.search.steps import Rung
from autocompress.store.base import StudyStore
from autocompress.store.study_store import create_study, open_study
from autocompress.trial import Fidelity, Genotype, Split, Trial
from autocompress.workers.base import Shard
from tests.search.synthetic import SPACE, SynchronousPool, constraint_at, measure, run

LONG = Fidelity(Split.SEARCH, 2, 0, 70)
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
    return EvolveStrategy(Task(constraint_at(2.0), 0, 16, 64), SETTINGS)


def measure_all(driver: SearchDriver, batches: Sequence[Batch]) -> list[list[Trial]]:
    return [driver.measure(batch) for batch in batches]


def breaks_at_40(shard: Shard) -> bool:
    return CANDIDATES[1] in shard.genotypes and shard.fidelity.first <= 40 < shard.fidelity.end


POPULATIONS = st.lists(
    st.tuples(*(st.integers(0, len(menu) - 1) for menu in SPACE.menus)).map(SPACE.genotype),
    min_size=1,
    max_size=60,
)
CUTS = st.builds(Cut, st.integers(1, 40), st.integers(1, 4))


@given(POPULATIONS, st.integers(0, 50), st.integers(1, 50), CUTS)
def test_shards_cover_a_reading_once(
    population: list[Genotype], first: int, sequences: int, how: Cut
) -> None:
    shards = cut(population, Fidelity(Split.REPORT, 3, first, sequences), how)

    assert all((s.fidelity.split, s.fidelity.draw) == (Split.REPORT, 3) for s in shards)
    covered = [
        (genotype, position)
        for shard in shards
        for genotype in shard.genotypes
        for position in range(shard.fidelity.first, shard.fidelity.end)
    ]
    assert len(covered) == len(set(covered)) == len(set(population)) * sequences
    assert {position for _, position in covered} == set(range(first, first + sequences))


@given(POPULATIONS, st.integers(1, 50), CUTS)
def test_siblings_stay_together(population: list[Genotype], sequences: int, how: Cut) -> None:
    shards = cut(population, Fidelity(Split.REPORT, 3, 0, sequences), how)

    at_first = [shard.genotypes for shard in shards if shard.fidelity.first == 0]
    dealt = [genotype for genotypes in at_first for genotype in genotypes]
    assert dealt == sorted(set(population), key=lambda genotype: genotype.levels)


@given(POPULATIONS, st.integers(1, 50), CUTS)
def test_no_candidate_is_trained_in_two_shards(
    population: list[Genotype], sequences: int, how: Cut
) -> None:
    fidelity = Fidelity(Split.SEARCH, 3, 0, sequences, trained=512)

    shards = cut(population, fidelity, how)

    assert len(shards) <= how.shards
    assert all(shard.fidelity == fidelity for shard in shards)
    dealt = [genotype for shard in shards for genotype in shard.genotypes]
    assert sorted(dealt, key=lambda own: own.levels) == dealt
    assert len(dealt) == len(set(population))


@given(POPULATIONS, st.integers(8, 50))
def test_a_large_batch_is_cut_into_as_many_equal_shards_as_asked(
    population: list[Genotype], sequences: int
) -> None:
    shards = cut(population, Fidelity(Split.REPORT, 3, 0, sequences), Cut(8))

    sizes = [len(shard.genotypes) * shard.fidelity.sequences for shard in shards]
    assert len(shards) <= 8
    # Whole sequences: nine of one candidate take two rounds on eight workers.
    assert max(sizes) <= 2 * sum(sizes) / 8


@given(POPULATIONS, st.integers(1, 50), CUTS)
def test_shards_are_as_long_as_asked_where_the_reading_is(
    population: list[Genotype], sequences: int, how: Cut
) -> None:
    shards = cut(population, Fidelity(Split.REPORT, 3, 0, sequences), how)

    assert min(s.fidelity.sequences for s in shards) >= min(how.least_sequences, sequences)


@pytest.mark.parametrize(("candidates", "sequences"), [(32, 24), (128, 8), (16, 4), (2, 64)])
def test_usual_rungs_give_each_of_16_workers_as_much(candidates: int, sequences: int) -> None:
    genotypes = [Genotype((i // 12, i % 12)) for i in range(candidates)]

    shards = cut(genotypes, Fidelity(Split.SEARCH, 0, 0, sequences), Cut(16, 2))

    sizes = {len(shard.genotypes) * shard.fidelity.sequences for shard in shards}
    assert sizes == {candidates * sequences // 16}


@given(POPULATIONS, st.integers(1, 30), st.integers(0, 30))
def test_the_store_is_told_what_trials_lose_on_all_that_was_read(
    population: list[Genotype], first: int, more: int
) -> None:
    short, other = Fidelity(Split.SEARCH, 0, 0, first), Fidelity(Split.SEARCH, 1, 0, 3)
    long, unread = Fidelity(Split.SEARCH, 0, 0, first + more), Fidelity(Split.REPORT, 0, 0, 2)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/studies.db"
        with contextlib.closing(create_study(url, "study", {})) as store:
            driver = driver_of(SynchronousPool(), store)
            driver.measure(Batch(tuple(population), short))
        # A driver that goes on sums on.
        with contextlib.closing(open_study(url, "study")) as store:
            driver = driver_of(SynchronousPool(), store)
            driver.measure(Batch(tuple(population), short))
            for reading in (other, long, unread):
                driver.measure(Batch(tuple(population[:3]), reading))
            best = {own.genotype: own for own in store.best(100)}

    assert set(best) == set(population)
    for genotype, own in best.items():
        readings = [long, other] if genotype in population[:3] else [short]
        measured = [measure(genotype, reading) for reading in readings]
        losses = [loss for one in measured for loss in one.kl]
        assert own.sequences == len(losses)
        assert own.loss == pytest.approx(sum(losses) / len(losses))


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
    assert set(recorded) == {(g, shard.fidelity) for shard in pool.asked for g in shard.genotypes}
    assert len(recorded) == 3 * len(pool.asked) == 3 * 14
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

    assert seen == [(n, 14, 3 * n) for n in range(1, 15)]


def test_nothing_is_measured_twice(pool: SynchronousPool, store: StudyStore) -> None:
    driver = driver_of(pool, store)
    first = driver.measure(Batch(CANDIDATES[:2], LONG))
    n_asked = len(pool.asked)

    second = driver.measure(Batch((*CANDIDATES, CANDIDATES[2]), LONG))

    assert second[:2] == first
    assert second[3] == second[2]
    assert {shard.genotypes for shard in pool.asked[n_asked:]} == {(CANDIDATES[2],)}
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


def test_a_candidate_that_fails_fails_alone(store: StudyStore) -> None:
    pool = SynchronousPool(breaks_at_40)

    driver = driver_of(pool, store)
    trials = driver.measure(Batch(CANDIDATES, LONG))

    assert [trial.error for trial in trials] == [None, "the shard broke", None]
    assert trials[0].measurement == measure(CANDIDATES[0], LONG)
    assert trials[1].measurement is None
    assert trials[1].loss == float("inf")
    failed = store.measurements()[CANDIDATES[1], Fidelity(Split.SEARCH, 2, 40, 5)]
    assert (failed.measurement, failed.error) == (None, "the shard broke")


def test_what_failed_is_not_asked_for_again(store: StudyStore) -> None:
    pool = SynchronousPool(breaks_at_40)
    driver = driver_of(pool, store)
    driver.measure(Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 0, 48)))
    n_asked = len(pool.asked)

    trials = driver.measure(Batch(CANDIDATES, LONG))

    assert [trial.error for trial in trials] == [None, "the shard broke", None]
    assert not any(CANDIDATES[1] in shard.genotypes for shard in pool.asked[n_asked:])


def test_a_new_driver_tries_only_what_failed_again(store: StudyStore) -> None:
    driver_of(SynchronousPool(breaks_at_40), store).measure(Batch(CANDIDATES, LONG))
    healed = SynchronousPool()

    trials = driver_of(healed, store).measure(Batch(CANDIDATES, LONG))

    (again,) = healed.asked
    assert again.fidelity == Fidelity(Split.SEARCH, 2, 40, 5)
    assert trials[1].measurement == measure(CANDIDATES[1], LONG)
    record = store.measurements()[CANDIDATES[1], Fidelity(Split.SEARCH, 2, 40, 5)]
    assert record.error is None


@given(st.integers(0, 60))
def test_a_driver_killed_anywhere_asks_for_the_same_shards(n_done: int) -> None:
    batches = [
        Batch(CANDIDATES[:1], LONG),
        Batch(CANDIDATES, LONG),
        Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 0, 100)),
    ]
    whole, cut_short, resumed = SynchronousPool(), SynchronousPool(), SynchronousPool()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = create_study(f"sqlite:///{folder}/a.db", "study", {})
        expected = measure_all(driver_of(whole, undisturbed), batches)
        undisturbed.close()
        killed = create_study(f"sqlite:///{folder}/b.db", "study", {})
        cut_short.patience = n_done
        with contextlib.suppress(KeyboardInterrupt):
            measure_all(driver_of(cut_short, killed), batches)
        found = measure_all(driver_of(resumed, killed), batches)
        recorded = set(killed.measurements())
        killed.close()

    assert found == expected
    assert sorted(cut_short.asked + resumed.asked, key=repr) == sorted(whole.asked, key=repr)
    assert recorded == {(g, shard.fidelity) for shard in whole.asked for g in shard.genotypes}


def test_a_longer_reading_reads_on(pool: SynchronousPool, store: StudyStore) -> None:
    driver = driver_of(pool, store)
    driver.measure(Batch(CANDIDATES[:2], Fidelity(Split.SEARCH, 2, 0, 8)))
    n_asked = len(pool.asked)

    trials = driver.measure(Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 0, 12)))

    read = {
        (genotype, position)
        for shard in pool.asked[n_asked:]
        for genotype in shard.genotypes
        for position in range(shard.fidelity.first, shard.fidelity.end)
    }
    assert read == {(g, n) for g in CANDIDATES[:2] for n in range(8, 12)} | {
        (CANDIDATES[2], n) for n in range(12)
    }
    assert [t.measurement for t in trials] == [
        measure(g, Fidelity(Split.SEARCH, 2, 0, 12)) for g in CANDIDATES
    ]


def test_a_candidate_that_is_trained_is_measured_anew(
    pool: SynchronousPool, store: StudyStore
) -> None:
    driver = driver_of(pool, store)
    as_it_is = Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 0, 8))
    trained = Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 0, 8, trained=512))

    driver.measure(as_it_is)
    asked = len(pool.asked)
    driver.measure(trained)
    again = len(pool.asked)
    driver.measure(as_it_is)
    driver.measure(trained)

    assert asked < again == len(pool.asked)
    assert driver.trained == 512 * len(CANDIDATES)
    assert driver.sequences == 2 * 8 * len(CANDIDATES)
    # What a trained candidate loses is no candidate's as it is.
    assert {own.sequences for own in store.best(9)} == {8}


def test_a_shorter_reading_is_not_measured(pool: SynchronousPool, store: StudyStore) -> None:
    driver = driver_of(pool, store)
    driver.measure(Batch(CANDIDATES, LONG))
    n_asked = len(pool.asked)

    (trial,) = driver.measure(Batch(CANDIDATES[:1], Fidelity(Split.SEARCH, 2, 0, 64)))

    assert len(pool.asked) == n_asked
    assert trial.measurement == measure(CANDIDATES[0], Fidelity(Split.SEARCH, 2, 0, 64))


def test_a_batch_reads_from_the_first_sequence_on() -> None:
    with pytest.raises(ValueError, match="from the first sequence on"):
        Batch(CANDIDATES, Fidelity(Split.SEARCH, 2, 8, 8))


def test_a_loss_that_is_no_number_fails_its_candidate(store: StudyStore) -> None:
    pool = SynchronousPool(nonsense=CANDIDATES[1])

    trials = driver_of(pool, store).measure(Batch(CANDIDATES, LONG))

    assert [trial.measurement is None for trial in trials] == [False, True, False]
    assert str(trials[1].error).endswith("try --dtype float32.")
    # The others are not read again: the one is, by itself, so that its cause can be told.
    for one in (CANDIDATES[0], CANDIDATES[2]):
        read = [s.fidelity.sequences for s in pool.asked if one in s.genotypes]
        assert sum(read) == LONG.sequences
    assert any(shard.genotypes == (CANDIDATES[1],) for shard in pool.asked)


def test_an_empty_batch_has_no_trials(pool: SynchronousPool, store: StudyStore) -> None:
    assert driver_of(pool, store).measure(Batch((), LONG)) == []


def test_genotypes_that_differ_are_different_trials(
    pool: SynchronousPool, store: StudyStore
) -> None:
    driver = driver_of(pool, store)

    driver.measure(Batch(tuple(Genotype((n,) * 12) for n in (0, 1)), LONG))

    assert driver.n_trials == 2


def test_what_was_inherited_is_not_measured_again(pool: SynchronousPool, url: str) -> None:
    parent = create_study(url, "parent", {})
    driver_of(pool, parent).measure(Batch(CANDIDATES[:2], Fidelity(Split.SEARCH, 2, 0, 30)))
    records = list(parent.measurements().values())
    parent.close()
    store = create_study(url, "child", {})
    own = SynchronousPool()
    driver = SearchDriver(own, store, lambda done, total: None, inherited=records)

    trials = driver.measure(Batch(CANDIDATES, LONG))

    read = [
        (genotype, position)
        for shard in own.asked
        for genotype in shard.genotypes
        for position in range(shard.fidelity.first, shard.fidelity.end)
    ]
    assert len(read) == len(set(read)) == 2 * 40 + 70
    assert driver.sequences == len(read)
    assert [trial.measurement for trial in trials] == [measure(g, LONG) for g in CANDIDATES]
    store.close()
