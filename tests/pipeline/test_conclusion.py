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


@pytest.mark.parametrize("space", ["bits", "depth,bits"])
@pytest.mark.parametrize("start", [None, "losses", "weights"])
def test_a_search_is_repeated_from_where_it_began(space: str, start: str | None) -> None:
    given = {"model": "m", "target_bits": 4, "space": space}
    spec = from_mapping(given if start is None else {**given, "warm_start": start})

    told = command(cast("Prepared", SimpleNamespace(spec=spec))).split()

    _, _, flag = " ".join(told).partition("--warm-start ")
    again = {**given, "warm_start": flag.split()[0]} if flag else given
    assert from_mapping(again).warm_start == spec.warm_start
    assert bool(flag) == (spec.warm_start != from_mapping(given).warm_start)
