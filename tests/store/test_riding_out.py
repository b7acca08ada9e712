"""A database that goes away comes back to a store that has lost nothing and doubled nothing."""

import contextlib
import itertools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from autocompress.errors import DatabaseAway, StoreError
from autocompress.store import riding_out, study_store
from autocompress.store.base import Event, Record, StudyState
from autocompress.store.database import writing
from autocompress.store.profiles import find_profile, save_profile
from autocompress.store.study_store import SqlStudyStore, create_study, open_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from benchmarks.postgres_server import PostgresServer, binaries

pytestmark = pytest.mark.skipif(
    binaries() is None,
    reason="PostgreSQL's server is not installed here: none can be stopped and started",
)


def shard(level: int) -> Record:
    fidelity = Fidelity(Split.SEARCH, 0, 0, 2)
    return Record(Genotype((level,)), fidelity, Measurement((0.1, 0.2), (2.5, 2.6), 8), None, 0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        own = PostgresServer(Path(folder) / "server")
        yield own
        own.stop()


@pytest.fixture
def store(server: PostgresServer) -> Iterator[SqlStudyStore]:
    own = create_study(server.url, f"study-{os.urandom(4).hex()}", {})
    yield own
    own.close()


@contextlib.contextmanager
def away(server: PostgresServer, seconds: float) -> Iterator[None]:
    """Stop the server, and have it come back while the block runs."""
    server.stop()

    def come_back() -> None:
        time.sleep(seconds)
        server.start()

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_what_is_done_while_the_server_restarts_is_done_once(
    server: PostgresServer, store: SqlStudyStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.record([shard(1)])

    with away(server, 0.6):
        store.record([shard(1), shard(2)])
    with away(server, 0.1):
        store.add_event(Event("stop", {"phase": 0}))
    with away(server, 0.1):
        save_profile(server.url, {"engine": "torch"}, {"rows": 3})
    with away(server, 0.1):
        found = find_profile(server.url, {"engine": "torch"})
    with away(server, 0.1):
        store.save_document("winner", {"levels": [1]})
    with away(server, 0.1):
        store.finish(StudyState.FINISHED, {"met": True})
    with away(server, 0.1):
        measured = store.measurements()

    assert [genotype.levels for genotype, _ in measured] == [(1,), (2,)]
    assert store.events() == [Event("stop", {"phase": 0})]
    assert found is not None
    assert found.payload == {"rows": 3}
    assert store.document("winner") == {"levels": [1]}
    assert store.row().state is StudyState.FINISHED
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("Cannot use postgresql+psycopg://root@127.0.0.1")
    assert said[0].endswith("Trying again for 300 s.")
    assert said[1].startswith("The database is back after")


def test_a_writer_in_mid_transaction_rides_out_its_connection(
    server: PostgresServer, store: SqlStudyStore
) -> None:
    engine = sa.create_engine(server.url)
    ended = threading.Event()

    def end_connections() -> None:
        # Of all but this one, again and again, as a server does that is short of memory.
        with engine.connect() as connection:
            while not ended.wait(0.01):
                connection.execute(
                    sa.text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                    )
                )
                connection.commit()
                ended.wait(0.15)

    thread = threading.Thread(target=end_connections)
    thread.start()
    try:
        for number in range(60):
            store.record([shard(number)])
            store.add_event(Event("step", {"number": number}))
    finally:
        ended.set()
        thread.join()
        engine.dispose()

    assert len(store.measurements()) == 60
    assert [event.payload["number"] for event in store.events()] == list(range(60))


@pytest.mark.parametrize("same", [True, False])
def test_an_answer_lost_on_its_way_back_doubles_no_event(
    server: PostgresServer,
    store: SqlStudyStore,
    monkeypatch: pytest.MonkeyPatch,
    same: bool,
) -> None:
    event = Event("stop", {"phase": 0})
    calls = itertools.count()
    store.add_event(event if same else Event("other", {}))

    @contextlib.contextmanager
    def committed_unheard(engine: sa.Engine) -> Iterator[sa.Connection]:
        with writing(engine) as connection:
            yield connection
        if next(calls) == 0:
            raise DatabaseAway("the answer was lost.")

    monkeypatch.setattr(study_store, "writing", committed_unheard)
    store.add_event(event)

    assert next(calls) == 2
    assert [own.kind for own in store.events()] == ["stop" if same else "other", "stop"]


def test_patience_ends_in_one_line_that_says_how_to_go_on(
    server: PostgresServer, store: SqlStudyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(riding_out, "PATIENCE_SECONDS", 0.5)

    server.stop()
    try:
        with pytest.raises(DatabaseAway) as caught:
            store.record([shard(1)])
    finally:
        server.start()

    assert "did not come back within 0.5 s" in str(caught.value)
    assert "`autocompress resume` goes on from there" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_opening_waits_for_nobody(server: PostgresServer) -> None:
    server.stop()
    try:
        started = time.monotonic()
        with pytest.raises(StoreError, match="Connection refused"):
            open_study(server.url, "any")
        waited = time.monotonic() - started
    finally:
        server.start()

    assert waited < 5


def test_a_refused_statement_is_no_lost_connection(
    server: PostgresServer, store: SqlStudyStore
) -> None:
    engine = sa.create_engine(server.url)

    with pytest.raises(StoreError) as caught, writing(engine) as connection:
        connection.execute(sa.text("SELECT * FROM nowhere"))
    engine.dispose()

    assert not isinstance(caught.value, DatabaseAway)
