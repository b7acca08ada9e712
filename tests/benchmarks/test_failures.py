"""A sample of the suite that kills drivers, workers and the database: nothing differs."""

import pytest

from benchmarks.failures import run
from benchmarks.postgres_server import binaries


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    binaries() is None,
    reason="PostgreSQL's server is not installed here: none can be stopped and started",
)
def test_what_is_killed_ends_as_what_is_not() -> None:
    result = run(failures=4, each=4, tokens=20_000, seed=3)

    assert result["differences"] == 0, result["rows"]
    assert isinstance(result["failures"], int)
    assert result["failures"] >= 4
    assert result["shards"] != 0
