"""A fresh database of every kind that is at hand, as a URL."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

POSTGRES = os.environ.get("AUTOCOMPRESS_TEST_POSTGRES", "")
KINDS = ["sqlite", "postgresql"] if POSTGRES else ["sqlite"]


def sqlite_url(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder}/studies.db"


def postgres_url(_folder: Path) -> Iterator[str]:
    schema = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(POSTGRES)
    with server.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
    url = sa.make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}"})
    yield url.render_as_string(hide_password=False)
    with server.begin() as connection:
        for own in (schema, f"{schema}_optuna"):
            connection.execute(sa.schema.DropSchema(own, cascade=True, if_exists=True))
    server.dispose()


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kinds = {"sqlite": sqlite_url, "postgresql": postgres_url}
    yield from kinds[request.param](tmp_path)
