"""What a contest's page is made from."""

import pytest

from benchmarks.contest import Row, summary


def row(seed: int, reached: int | None, kl: float) -> Row:
    return {
        "case": "3",
        "seed": seed,
        "evolve": [{"tokens": 400, "kl": kl}],
        "evopress": [{"tokens": 1000, "kl": 0.5}],
        "tokens_to_evopress_final": reached,
    }


def test_a_run_that_never_got_there_counts_as_infinitely_long() -> None:
    most = summary([row(0, 100, 0.5), row(1, None, 0.6), row(2, 300, 0.5)], "evopress")
    few = summary([row(0, 100, 0.5), row(1, None, 0.6), row(2, None, 0.5)], "evopress")

    assert most["3"]["share_of_tokens"] == pytest.approx(0.3)
    assert few["3"]["share_of_tokens"] is None
    assert most["3"]["worst_final_kl_to_evopress"] == pytest.approx(1.2)
