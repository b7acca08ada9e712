"""How databases are opened: files, folders, versions, and what is said when it fails."""

import contextlib
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory

from autocompress.errors import StoreError
from autocompress.store.base import Event, StudyState
from autocompress.store.database import (
    POSTGRES_CONNECTION,
    connection_options,
    migration_config,
    open_database,
    reading,
    writing,
)
from autocompress.store.study_store import create_study, list_studies, open_study
from autocompress.trial import Fidelity, Measurement, Split

ROOT = Path(__file__).parents[2]
VERSIONS = str(ROOT / "autocompress" / "store" / "migrations")


def test_the_migrations_make_the_tables_that_the_code_reads(url: str) -> None:
    engine = open_database(url)

    with writing(engine) as connection:
        command.check(migration_config(connection))
    engine.dispose()


SCHEMAS = Path(__file__).parent / "schemas"
REVISIONS = [revision.revision for revision in ScriptDirectory(VERSIONS).walk_revisions()]


def test_every_revision_is_kept_as_it_was() -> None:
    kept = {file.name for file in SCHEMAS.iterdir()}

    assert {f"{own}.{kind}.sql" for own in REVISIONS for kind in ("sqlite", "postgresql")} <= kept


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_database_of_a_past_schema_is_brought_up_to_date(url: str, revision: str) -> None:
    engine = sa.create_engine(url)
    dump = (SCHEMAS / f"{revision}.{engine.dialect.name}.sql").read_text(encoding="utf-8")
    with contextlib.closing(engine.raw_connection()) as connection:
        if isinstance(connection.driver_connection, sqlite3.Connection):
            connection.driver_connection.executescript(dump)
        else:
            connection.cursor().execute(dump)
            connection.commit()
    engine.dispose()

    with contextlib.closing(open_study(url, "old")) as store:
        row, measured, events = store.row(), store.measurements(), store.events()
        winner, best = store.document("winner"), store.best(2)
        store.add_event(Event("resumed", {}))
    create_study(url, "new", {}).close()
    current = open_database(url)
    with writing(current) as connection:
        command.check(migration_config(connection))
    current.dispose()

    assert (row.state, row.report) == (StudyState.FINISHED, {"met": True})
    (((genotype, fidelity), record),) = measured.items()
    assert (genotype.levels, fidelity) == ((0, 3, 1), Fidelity(Split.SEARCH, 0, 0, 2))
    assert record.measurement == Measurement((0.1, 0.2), (2.5, 2.6), 127)
    assert events == [Event("stop", {"phase": 0})]
    assert winner == {"levels": [0, 3, 1]}
    assert [(own.genotype, own.sequences) for own in best] == [(genotype, 2)]
    assert best[0].loss == pytest.approx(0.15)
    assert [own.name for own in list_studies(url)] == ["new", "old"]


def test_the_tables_of_others_are_left_alone(url: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(sa.text("INSERT INTO alembic_version VALUES ('v3.0.0')"))
    create_study(url, "first", {}).close()

    with open_database(url).begin() as connection:
        command.check(migration_config(connection))
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        names = sa.inspect(connection).get_table_names()
    connection.engine.dispose()
    engine.dispose()

    assert version == "v3.0.0"
    assert sorted(names) == [
        "ac_alembic_version",
        "ac_answers",
        "ac_document",
        "ac_event",
        "ac_measurement",
        "ac_profile",
        "ac_run",
        "ac_schedule",
        "ac_study",
        "ac_trial",
        "alembic_version",
    ]


def test_the_last_revision_can_be_taken_back(url: str) -> None:
    engine = open_database(url)

    with writing(engine) as connection:
        command.downgrade(migration_config(connection), "base")
        names = sa.inspect(connection).get_table_names()
    engine.dispose()

    assert names == ["ac_alembic_version"]


def test_opening_says_nothing(
    url: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    open_database(url).dispose()

    assert (capfd.readouterr(), caplog.text) == (("", ""), "")


def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/deep/down/studies.db"

    create_study(url, "first", {}).close()

    assert [row.name for row in list_studies(url)] == ["first"]


def test_a_file_is_opened_for_many_readers_and_a_waiting_writer(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/studies.db")
    pragmas = ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")

    with reading(engine) as connection:
        found = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas]
    engine.dispose()

    assert found == ["wal", 1, 30000, 1]


def test_what_fails_halfway_leaves_no_trace(url: str) -> None:
    store = create_study(url, "first", {})
    engine = open_database(url)

    def rename() -> None:
        with writing(engine) as connection:
            connection.execute(sa.text("UPDATE ac_study SET name = 'renamed'"))
            connection.execute(sa.text("SELECT * FROM nowhere"))

    with pytest.raises(StoreError, match=r"^Cannot use .*nowhere"):
        rename()
    engine.dispose()

    assert store.row().name == "first"
    store.close()


def test_asking_makes_no_file(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "studies.db"

    studies = list_studies(f"sqlite:///{file}")
    with pytest.raises(StoreError) as caught:
        open_study(f"sqlite:///{file}", "first")

    assert studies == []
    assert str(caught.value) == f"Unknown study 'first': sqlite:///{file} holds no study."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"x"])
def test_a_file_that_is_no_database_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "studies.db"
    file.write_bytes(content)

    with pytest.raises(StoreError) as caught:
        open_study(f"sqlite:///{file}", "first")

    assert str(caught.value) == f"Cannot use sqlite:///{file}: file is not a database."
    assert file.read_bytes() == content


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        create_study(f"sqlite:///{tmp_path}", "first", {})

    assert str(caught.value) == f"Cannot use sqlite:///{tmp_path}: unable to open database file."


def test_a_file_in_place_of_the_folder_is_answered_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")

    with pytest.raises(StoreError) as caught:
        create_study(f"sqlite:///{tmp_path}/taken/studies.db", "first", {})

    assert str(caught.value) == (
        f"Cannot make the folder of sqlite:///{tmp_path}/taken/studies.db: File exists. "
        "Choose another --storage."
    )


def test_a_newer_database_is_refused(url: str) -> None:
    engine = open_database(url)
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE ac_alembic_version SET version_num = '9999'"))
    engine.dispose()

    with pytest.raises(StoreError, match="was written by a newer autocompress; run that version"):
        open_study(url, "first")


# Port 9 is closed everywhere ("discard"), so the refusal is at once and without a network.
@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://root:hunter2@127.0.0.1:9/test",
        "postgresql+psycopg://root@127.0.0.1:9/test?password=hunter2",
        "postgresql+psycopg://root:hunter2@127.0.0.1:port/test",
        "postgresql+psycopg://root:hunter2@127.0.0.1:9/test?bogus=hunter2",
        "mysql://root:hunter2@127.0.0.1:9/test",
        "root:hunter2@127.0.0.1",
        "postgresql+hunter://root:hunter2@127.0.0.1:9/test",
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        list_studies(url)

    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("studies.db", "The database URL cannot be read; write it as sqlite:///FILE or "),
        ("mysql://host/test", "Unknown database 'mysql'; write its URL as sqlite:///FILE or "),
    ],
)
def test_a_url_of_no_known_database_is_answered_with_the_form(url: str, text: str) -> None:
    with pytest.raises(StoreError) as caught:
        create_study(url, "first", {})

    assert str(caught.value) == f"{text}postgresql+psycopg://USER@HOST/DATABASE."


def test_a_url_says_itself_when_a_lost_host_is_given_up() -> None:
    plain, own = "postgresql+psycopg://root@host/test", "?connect_timeout=3&keepalives_idle=5"

    assert connection_options(plain) == POSTGRES_CONNECTION
    assert set(POSTGRES_CONNECTION) - set(connection_options(plain + own)) == {
        "connect_timeout",
        "keepalives_idle",
    }
    # Another driver, or none, has no word for them.
    assert connection_options("postgresql+pg8000://root@host/test") == {}
    assert connection_options("sqlite:///studies.db") == {}


CREATE = """
import sys
from autocompress.store.study_store import create_study
print("ready", flush=True)
sys.stdin.readline()
create_study(sys.argv[1], sys.argv[2], {}).close()
"""


def test_processes_may_open_an_empty_database_at_the_same_moment(url: str) -> None:
    names = ["first", "second", "third"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE, url, name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in names
    ]

    # All have imported what they need before the first may go.
    ready = [process.stdout.readline() for process in processes if process.stdout is not None]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate()[0] for process in processes]

    assert (ready, said) == (["ready\n"] * 3, ["", "", ""])
    assert sorted(row.name for row in list_studies(url)) == sorted(names)


WRITE = """
import sys, itertools
from autocompress.store.base import Record
from autocompress.store.study_store import open_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
store = open_study(sys.argv[1], "first")
for number in itertools.count():
    genotype = Genotype(tuple(number.to_bytes(4, "big")))
    shard = Fidelity(Split.SEARCH, 0, 0, 2)
    store.record([Record(genotype, shard, Measurement((0.1, number), (1.0, 2.0), 7), None, 0.1)])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_no_committed_record(url: str) -> None:
    store = create_study(url, "first", {})
    process = subprocess.Popen(
        [sys.executable, "-c", WRITE, url], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )

    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    process.kill()
    committed = 50 + len(process.communicate()[0].splitlines())
    found = list(store.measurements().values())
    store.close()

    # The one more may have been committed but not yet announced.
    assert len(found) in (committed, committed + 1)
    losses = [record.measurement.kl for record in found if record.measurement is not None]
    assert losses == [(0.1, float(number)) for number in range(len(found))]


def test_a_file_survives_a_plain_reader(tmp_path: Path) -> None:
    store = create_study(f"sqlite:///{tmp_path}/studies.db", "first", {"seed": 1})

    reader = sqlite3.connect(tmp_path / "studies.db")
    found = reader.execute("SELECT name, state, spec FROM ac_study").fetchall()
    reader.close()
    store.close()

    assert found == [("first", "running", '{"seed": 1}')]
