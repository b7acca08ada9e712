"""The command that a report tells repeats its search."""

from types import SimpleNamespace
from typing import cast

import pytest

from autocompress.pipeline.conclusion import command
from autocompress.pipeline.prepared import Prepared
from autocompress.spec import from_mapping


@pytest.mark.parametrize("trusted", [True, False])
def test_a_search_that_ran_code_of_the_model_is_repeated_with_it(trusted: bool) -> None:
    spec = from_mapping({"model": "m", "target_speedup": 2, "trust_remote_code": trusted})

    told = command(cast("Prepared", SimpleNamespace(spec=spec)))

    assert ("--trust-remote-code" in told.split()) == trusted
