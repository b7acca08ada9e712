"""What a nightly run makes of what it finds, its search and its measurements set aside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocompress.service import nightly, promotion
from autocompress.service.promotion import HISTORY, Deployed, current, promote, roll_back
from autocompress.store.base import Json
from autocompress.store.schedules import Run, RunState, Schedule

SCHEDULE = Schedule(1, "s", "0 2 * * *", "UTC", {}, {}, "2026-11-01T00:00:00+00:00")
RUN = Run(1, 1, "2026-11-04T02:00:00+00:00", RunState.RUNNING, "a", "", "", None, None)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for number in (1, 2):
        own = tmp_path / HISTORY / f"s-2026110{number}-020000"
        own.mkdir(parents=True)
        replaced = None if number == 1 else "s-20261101-020000"
        promotion.keep_verdict(own, {"outcome": "PROMOTED", "replaced": replaced})
        promote(tmp_path, own)
    return tmp_path


def verdict(
    output: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[Path], object]
) -> dict[str, Json]:
    """Return the verdict of a run that finds a better model, while something else is done."""

    def search(*_: object) -> tuple[None, None]:
        (output / HISTORY / nightly.study_name(SCHEDULE, RUN)).mkdir()
        meanwhile(output)
        return None, None

    monkeypatch.setattr(nightly, "_spec_of", lambda *_: None)
    monkeypatch.setattr(nightly, "_facts", lambda *_: {})
    monkeypatch.setattr(nightly, "_measured_again", lambda *_: Deployed("its files changed"))
    monkeypatch.setattr(nightly, "_search", search)
    nothing: Any = None
    return nightly._verdict("", nothing, SCHEDULE, RUN, output, 1, nothing)


def test_a_better_model_is_promoted(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = verdict(output, monkeypatch, lambda _: None)

    assert (told["outcome"], told["deleted"]) == ("PROMOTED", ["s-20261101-020000"])
    assert current(output) == output / HISTORY / "s-20261104-020000"


def test_what_was_rolled_back_meanwhile_stays_so(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = verdict(output, monkeypatch, roll_back)

    assert told["outcome"] == "KEPT"
    assert "rolled back meanwhile: s-20261102-020000 was deployed" in str(told["reasons"])
    assert current(output) == output / HISTORY / "s-20261101-020000"
