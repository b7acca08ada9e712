"""What the page tells of fronts against evolutions, and what an unfinished run leaves untold."""

from pathlib import Path

import pytest

from benchmarks import pareto_page
from benchmarks.pareto import Row, summary


def row(seed: int, ratio: float, tokens: int = 900) -> Row:
    front = {
        "kl": [0.3, 0.1],
        "shares": [0.5, 0.8],
        "hypervolume": 0.5 * ratio,
        "ratio": ratio,
        "ratio_interval": [ratio - 0.01, ratio + 0.01],
        "kl_at_targets": [0.1, 0.3],
        "ratio_at_targets": 0.99,
    }
    return {
        "max_tokens": 1000,
        "seed": seed,
        "evolve": {
            "1.25": {"tokens": 1000, "hardware": "a GPU"},
            "2": {"tokens": 1000, "hardware": "a CPU" if seed else "a GPU"},
        },
        "fronts": {"pareto": {"tokens": tokens, "hardware": "a CPU"}},
        "hardware": "a CPU",
        "number_format": "float32",
        "sequences": 256,
        "compared": {
            "evolve_kl": [0.2, 0.3],
            "evolve_hypervolume": 0.5,
            "fronts": {"pareto": front},
        },
    }


UNFINISHED: Row = {"max_tokens": 1000, "seed": 7, "evolve": {}, "fronts": {}}
RESULT = {
    "speedups": [1.25, 2.0],
    "reference": {"cost": 1.0, "kl": 2.0},
    "rows": [row(0, 1.02), row(1, 1.04), UNFINISHED],
}


def test_a_summary_holds_the_worst_seed_and_the_most_tokens() -> None:
    found = summary([row(0, 1.02), row(1, 1.04, tokens=1000), row(2, 0.99)])["pareto"]

    assert found == {
        "seeds": 3,
        "ratio": pytest.approx(1.02),
        "least_ratio": pytest.approx(0.99),
        "share_of_tokens": pytest.approx(0.5),
    }


def test_the_page_tells_finished_seeds_alone() -> None:
    told = pareto_page.section(RESULT)

    assert "| 1,000 | 0 | pareto |" in told
    assert "1.0200 [1.0100, 1.0300]" in told
    # KL halved at one of two targets, the same at the other.
    assert "0.707, 1.000" in told
    assert "| 7 |" not in told


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    pareto_page.draw(RESULT, tmp_path / "pareto.png")

    assert (tmp_path / "pareto.png").stat().st_size > 0
