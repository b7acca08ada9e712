"""How a database is opened, brought up to date and written to, with its failures in our words."""

import contextlib
import io
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from autocompress.errors import DatabaseAway, StoreError

# Longer than any transaction of a search, shorter than the patience of who waits for an answer.
LOCK_SECONDS = 30.0
# Any number will do, as long as it is the same for all who migrate one PostgreSQL database.
MIGRATION_LOCK = 0x61635F
SQLITE_HEADER_BYTES = 100
# A host that is lost without a word is given up within a minute or so. Left alone, libpq waits a
# quarter of an hour for a sign that what it sent arrived, and two hours for an answer to that.
POSTGRES_CONNECTION = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}
# SQLAlchemy spells "insert unless it is there" anew for each database.
INSERTS: dict[str, Callable[[sa.Table], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
FORMS = "sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE"


def open_database(url: str) -> sa.Engine:
    """Return an engine on the database at `url`, made or brought up to date where needed.

    Processes that open an empty database at the same moment wait for the one that migrates it.

    Raises:
        StoreError: If it cannot be reached, is no database, or is of a newer autocompress.
    """
    engine = _engine(url)
    try:
        _migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def masked(url: str | sa.URL) -> str:
    """Return a URL that may be printed: no password, and no options, which may hold one too.

    Raises:
        StoreError: If it is no URL of a database that we know.
    """
    return _parsed(url).set(query={}).render_as_string(hide_password=True)


def connection_options(url: str | sa.URL) -> dict[str, int]:
    """Return what a connection is made with, beside what its URL says itself.

    Raises:
        StoreError: If it is no URL of a database that we know.
    """
    parsed = _parsed(url)
    own = POSTGRES_CONNECTION if parsed.get_driver_name().startswith("psycopg") else {}
    return {name: value for name, value in own.items() if name not in parsed.query}


def sqlite_file(url: str) -> Path | None:
    """Return the file that a SQLite URL names; None for another database or one in memory."""
    parsed = _parsed(url)
    name = parsed.database or ":memory:"
    is_file = parsed.get_backend_name() == "sqlite" and not name.startswith((":memory:", "file:"))
    return Path(name) if is_file else None


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that sees one state of the database and waits for no writer."""
    with _failures(engine.url), engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Open a transaction that is committed at the end, or leaves no trace if anything fails."""
    with _failures(engine.url), engine.execution_options(is_writing=True).begin() as connection:
        yield connection


def migration_config(connection: sa.Connection) -> Config:
    """Return what Alembic must know to run our revisions on a connection, without a word."""
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", "autocompress.store:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _parsed(url: str | sa.URL) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # Neither the text nor the cause is shown: what cannot be parsed may still hold a password.
        raise StoreError(f"The database URL cannot be read; write it as {FORMS}.") from None
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        name = parsed.get_backend_name()
        raise StoreError(f"Unknown database {name!r}; write its URL as {FORMS}.")
    return parsed


def _engine(url: str) -> sa.Engine:
    file = sqlite_file(url)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            # SQLite takes what is shorter than its header for empty, and would write over it.
            if file.is_file() and 0 < file.stat().st_size < SQLITE_HEADER_BYTES:
                raise StoreError(f"Cannot use {masked(url)}: file is not a database.")
        # The ping finds a connection that the server dropped while candidates were measured.
        engine = sa.create_engine(
            _parsed(url), pool_pre_ping=True, connect_args=connection_options(url)
        )
    except OSError as error:
        raise StoreError(
            f"Cannot make the folder of {masked(url)}: {error.strerror}. Choose another --storage."
        ) from error
    except ModuleNotFoundError as error:
        raise StoreError(
            f"Cannot open {masked(url)}: {error.name} is not installed. "
            "Run `pip install 'autocompress[postgres]'`."
        ) from error
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"Cannot open {masked(url)}: {_reason(error)}.") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    # Python's driver would begin transactions where it likes, after the first read.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={LOCK_SECONDS * 1000:.0f}")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            # Only here SQLite does not wait, so the first two to open a file would collide.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A reader that turns writer is refused at once if another wrote between; so ask at the start.
    is_writing = connection.get_execution_options().get("is_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")


def _migrate(engine: sa.Engine) -> None:
    # Only an outdated database is locked, so `status` never waits for a running search.
    with reading(engine) as connection:
        config = migration_config(connection)
        head = ScriptDirectory.from_config(config).get_current_head()
        options = {"version_table": "ac_alembic_version"}
        if MigrationContext.configure(connection, opts=options).get_current_revision() == head:
            return
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        try:
            command.upgrade(migration_config(connection), "head")
        except CommandError as error:
            raise StoreError(
                f"{masked(engine.url)} was written by a newer autocompress; "
                "run that version, or choose another --storage."
            ) from error


@contextlib.contextmanager
def _failures(url: sa.URL) -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        reason = _reason(error)
        if url.password:
            reason = reason.replace(str(url.password), "***")
        # A file has no server that could come back.
        is_away = url.get_backend_name() != "sqlite" and _is_away(error)
        kind = DatabaseAway if is_away else StoreError
        raise kind(f"Cannot use {masked(url)}: {reason}.") from error


def _is_away(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether a connection was lost, or none could be made: a statement had no part in it."""
    if not isinstance(error, sa.exc.DBAPIError):
        return False
    is_refused = isinstance(error, sa.exc.OperationalError) and error.statement is None
    return error.connection_invalidated or is_refused


def _reason(error: sa.exc.SQLAlchemyError) -> str:
    # The driver's first line says what happened; SQLAlchemy adds the statement and a web address.
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0].rstrip(".")
