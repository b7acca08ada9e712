"""Latency profiles in SQL, shared by all studies of a database: measured once, used again."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from autocompress.store import schema
from autocompress.store.base import Json
from autocompress.store.database import INSERTS, open_database, reading, sqlite_file, writing
from autocompress.store.plain_json import plain
from autocompress.store.riding_out import ridden_out
from autocompress.store.rows import now


@dataclass(frozen=True, slots=True)
class StoredProfile:
    """What was measured, and when: ISO 8601 in UTC."""

    measured_at: str
    payload: Mapping[str, Json]


@ridden_out
def save_profile(
    url: str,
    about: Mapping[str, str],
    payload: Mapping[str, Json],
    measured_at: str | None = None,
) -> None:
    """Keep a profile in the place of an earlier one of the same things.

    Args:
        about: All that it depends on, by name: engine, version, hardware, workload.
        measured_at: ISO 8601 in UTC; None takes the present time.

    Raises:
        StoreError: If the database cannot be opened.
    """
    row = {
        "key": _key(about),
        "about": plain("about", about),
        "measured_at": measured_at or now(),
        "payload": plain("profile", payload),
    }
    with _opened(url) as engine:
        add = INSERTS[engine.dialect.name](schema.profile)
        changed = {name: add.excluded[name] for name in ("measured_at", "payload")}
        with writing(engine) as connection:
            connection.execute(
                add.on_conflict_do_update(index_elements=["key"], set_=changed), row
            )


@ridden_out
def find_profile(url: str, about: Mapping[str, str]) -> StoredProfile | None:
    """Return what was measured last of the same things; None, and no new file, if nothing was.

    Raises:
        StoreError: If the database cannot be opened.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():
        return None
    table = schema.profile
    query = sa.select(table.c.measured_at, table.c.payload).where(table.c.key == _key(about))
    with _opened(url) as engine, reading(engine) as connection:
        row = connection.execute(query).one_or_none()
    return None if row is None else StoredProfile(row.measured_at, row.payload)


@contextlib.contextmanager
def _opened(url: str) -> Iterator[sa.Engine]:
    engine = open_database(url)
    try:
        yield engine
    finally:
        engine.dispose()


def _key(about: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
