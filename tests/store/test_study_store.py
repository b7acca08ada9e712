"""The contract of `StudyStore`, for every database."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autocompress.errors import StoreError
from autocompress.store.base import Event, Json, Record, StudyState, StudyStore, TrialLoss
from autocompress.store.study_store import create_study, list_studies, open_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split

# One database serves all examples of a law: a study for each keeps them apart. No deadline, since
# the disk belongs to others too.
LAW = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STUDY_NUMBER = itertools.count()

# NUL and halves of characters are no text to PostgreSQL.
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
LOSSES = st.floats(allow_nan=False)
FIDELITIES = st.builds(
    Fidelity,
    st.sampled_from(Split),
    st.integers(0, 3),
    st.integers(0, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.sampled_from([0, 1, 2**31 - 1]),
)
MEASUREMENTS = st.builds(
    lambda pairs, tokens: Measurement(
        tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs), tokens
    ),
    st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=5),
    st.integers(1, 2**31 - 1),
)
GENOTYPES = st.builds(Genotype, st.lists(st.integers(0, 255), max_size=8).map(tuple))
TRIAL_LOSSES = st.builds(TrialLoss, GENOTYPES, st.integers(2, 2**31 - 1), st.floats(0, 1e9))
SECONDS = st.floats(0, 1e9)
RECORDS = st.one_of(
    st.builds(Record, GENOTYPES, FIDELITIES, MEASUREMENTS, st.none(), SECONDS),
    st.builds(Record, GENOTYPES, FIDELITIES, st.none(), TEXT, SECONDS),
)
SHARDS = st.lists(RECORDS, max_size=8, unique_by=lambda record: (record.genotype, record.fidelity))
PAYLOADS: st.SearchStrategy[dict[str, Json]] = st.dictionaries(
    TEXT,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)

SHARD = Record(
    genotype=Genotype((0, 3, 1)),
    fidelity=Fidelity(Split.SEARCH, 0, 0, 2),
    measurement=Measurement((0.1, 0.2), (2.5, 2.6), 127),
    error=None,
    seconds=0.25,
)
FAILED = dataclasses.replace(SHARD, measurement=None, error="RuntimeError: out of memory")


def new_study(url: str) -> StudyStore:
    return create_study(url, f"law-{next(STUDY_NUMBER)}", {})


@pytest.fixture
def store(url: str) -> Iterator[StudyStore]:
    store = create_study(url, "first", {"seed": 1, "space": ["bits", "depth"]})
    yield store
    store.close()


def test_a_new_study_is_running_and_empty(store: StudyStore) -> None:
    row = store.row()

    assert (row.name, row.state, row.n_trials) == ("first", StudyState.RUNNING, 0)
    assert (row.spec, row.report) == ({"seed": 1, "space": ["bits", "depth"]}, None)
    assert row.created_at.endswith("+00:00")
    assert (store.measurements(), store.events(), store.document("latency")) == ({}, [], None)


@LAW
@given(records=SHARDS)
def test_record_then_measurements_is_identity(url: str, records: list[Record]) -> None:
    store = new_study(url)

    store.record(records)
    found = store.measurements()
    store.close()

    assert found == {(record.genotype, record.fidelity): record for record in records}


@LAW
@given(records=SHARDS)
def test_recording_twice_doubles_nothing(url: str, records: list[Record]) -> None:
    store = new_study(url)

    store.record(records)
    store.record([*records, *records])
    found, n_trials = store.measurements(), store.row().n_trials
    store.close()

    assert list(found.values()) == records
    assert n_trials == len({record.genotype for record in records})


@LAW
@given(st.lists(TRIAL_LOSSES, unique_by=lambda own: own.genotype, max_size=8), st.integers(0, 9))
def test_the_best_are_those_read_furthest_with_the_least_losses(
    url: str, losses: list[TrialLoss], n: int
) -> None:
    store = new_study(url)
    for own in losses:
        record = dataclasses.replace(SHARD, genotype=own.genotype)
        # What was known earlier, and is told again, changes nothing.
        earlier = dataclasses.replace(own, sequences=own.sequences - 1, loss=0.5)
        for known in (earlier, own, earlier):
            store.record([record], [known])
    store.record([dataclasses.replace(FAILED, genotype=Genotype((9, 9)))])

    found = store.best(n)
    store.close()

    order = sorted(losses, key=lambda own: (-own.sequences, own.loss))[:n]
    assert [(own.sequences, own.loss) for own in found] == [
        (own.sequences, own.loss) for own in order
    ]
    assert set(found) <= set(losses)


def test_a_loss_comes_back_to_the_last_bit(store: StudyStore) -> None:
    losses = (math.nan, math.inf, -0.0, 5e-324, 0.1 + 0.2)
    measurement = Measurement(losses, losses, 1)

    store.record([dataclasses.replace(SHARD, measurement=measurement)])
    (found,) = store.measurements().values()

    assert repr(found.measurement) == repr(measurement)


def test_a_measurement_is_never_replaced(store: StudyStore) -> None:
    other = dataclasses.replace(SHARD, measurement=Measurement((9.0, 9.0), (9.0, 9.0), 127))
    store.record([SHARD])

    store.record([other])
    store.record([FAILED])

    assert list(store.measurements().values()) == [SHARD]


def test_a_measurement_heals_an_error(store: StudyStore) -> None:
    store.record([FAILED])
    before = list(store.measurements().values())

    store.record([SHARD])

    assert (before, list(store.measurements().values())) == ([FAILED], [SHARD])


def test_fidelities_of_one_genotype_are_one_trial(store: StudyStore) -> None:
    longer = dataclasses.replace(SHARD, fidelity=Fidelity(Split.SEARCH, 0, 0, 8))

    store.record([SHARD, longer])

    assert (store.row().n_trials, len(store.measurements())) == (1, 2)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (dataclasses.replace(SHARD, measurement=None), "neither"),
        (dataclasses.replace(SHARD, error="late"), "both"),
    ],
)
def test_a_record_without_one_outcome_leaves_no_trace(
    store: StudyStore, record: Record, found: str
) -> None:
    other = dataclasses.replace(SHARD, genotype=Genotype((7,)))

    with pytest.raises(StoreError, match=rf"of genotype {record.genotype.key} holds {found}\.$"):
        store.record([other, record])

    assert (store.measurements(), store.row().n_trials) == ({}, 0)


def test_an_error_text_may_quote_anything(store: StudyStore) -> None:
    store.record([dataclasses.replace(FAILED, error="bad \0 and \ud800 ö")])

    (found,) = store.measurements().values()

    assert found.error == "bad \\0 and \\ud800 ö"


def test_a_payload_may_quote_anything(store: StudyStore) -> None:
    payload: dict[str, Json] = {"bad \0": ["half \ud800", {"whole": "ö"}]}
    kept: dict[str, Json] = {"bad \\0": ["half \\ud800", {"whole": "ö"}]}

    store.save_document("answers", payload)
    store.add_event(Event("stopped", payload))
    store.finish(StudyState.FINISHED, payload)

    assert store.document("answers") == kept
    assert store.events() == [Event("stopped", kept)]
    assert store.row().report == kept


@LAW
@given(payloads=st.lists(PAYLOADS, max_size=5))
def test_events_keep_their_order(url: str, payloads: list[dict[str, Json]]) -> None:
    store = new_study(url)
    events = [Event(f"kind {number % 2}", payload) for number, payload in enumerate(payloads)]

    for event in events:
        store.add_event(event)
    found = store.events()
    store.close()

    assert found == events


@LAW
@given(first=PAYLOADS, second=PAYLOADS)
def test_a_document_replaces_the_earlier_one(
    url: str, first: dict[str, Json], second: dict[str, Json]
) -> None:
    store = new_study(url)

    store.save_document("other", first)
    store.save_document("latency", first)
    store.save_document("latency", second)
    found = (store.document("latency"), store.document("other"))
    store.close()

    assert found == (second, first)


def test_finish_keeps_the_report(store: StudyStore) -> None:
    store.finish(StudyState.FINISHED, {"speedup": 2.1, "interval": (2.0, 2.2)})

    assert store.row().state is StudyState.FINISHED
    assert store.row().report == {"speedup": 2.1, "interval": [2.0, 2.2]}


def test_a_finished_study_can_run_again(store: StudyStore) -> None:
    store.finish(StudyState.FAILED, {"why": "no candidate"})

    store.finish(StudyState.RUNNING, None)

    assert (store.row().state, store.row().report) == (StudyState.RUNNING, None)


def test_a_report_that_is_not_finite_json_is_refused_by_name(store: StudyStore) -> None:
    report: dict[str, Json] = {"loss": {"kl": math.nan}, "interval": [1.0, -math.inf], "met": True}

    with pytest.raises(StoreError) as caught:
        store.finish(StudyState.FINISHED, report)

    assert str(caught.value) == (
        "`report is finite JSON` must hold, but got report.loss.kl = nan, "
        "report.interval[1] = -inf. Write null where there is no number."
    )
    assert (store.row().state, store.row().report) == (StudyState.RUNNING, None)


def test_a_study_is_found_again_with_all_it_holds(url: str, store: StudyStore) -> None:
    store.record([SHARD])
    store.add_event(Event("stopped", {"because": "budget"}))
    store.save_document("latency", {"rows": [1.5]})

    again = open_study(url, "first")

    assert again.row() == store.row()
    assert again.measurements() == {(SHARD.genotype, SHARD.fidelity): SHARD}
    assert again.events() == [Event("stopped", {"because": "budget"})]
    assert again.document("latency") == {"rows": [1.5]}
    again.close()


def test_studies_are_kept_apart(url: str, store: StudyStore) -> None:
    other = create_study(url, "second", {})

    other.record([SHARD])
    other.add_event(Event("stopped", {}))
    other.save_document("latency", {})
    other.close()

    assert (store.measurements(), store.events(), store.document("latency")) == ({}, [], None)
    assert store.row().n_trials == 0


def test_studies_are_listed_newest_first(url: str, store: StudyStore) -> None:
    create_study(url, "second", {}).close()
    store.record([SHARD])

    rows = list_studies(url)

    assert [(row.name, row.n_trials) for row in rows] == [("second", 0), ("first", 1)]


def test_a_taken_name_is_answered_with_the_way_out(url: str, store: StudyStore) -> None:
    with pytest.raises(StoreError) as caught:
        create_study(url, "first", {})

    text = str(caught.value)
    assert text.startswith("Study 'first' exists already in ")
    assert text.endswith("continue it with `autocompress resume first` or choose another --study.")
    assert len(list_studies(url)) == 1


def test_an_unknown_study_is_answered_with_the_nearest_and_the_list(
    url: str, store: StudyStore
) -> None:
    create_study(url, "second", {}).close()

    with pytest.raises(StoreError) as caught:
        open_study(url, "frist")

    text = str(caught.value)
    assert text.startswith("Unknown study 'frist'; did you mean 'first'? Known in ")
    assert text.endswith(": second, first.")
