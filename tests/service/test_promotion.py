"""What is deployed changes only for a measured improvement, and can be taken back."""

import contextlib
import dataclasses
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ExportError, SpecError
from autocompress.service import nightly, promotion
from autocompress.service.nightly import _begun_at
from autocompress.service.promotion import (
    CURRENT,
    HISTORY,
    Candidate,
    Deployed,
    Outcome,
    clear_history,
    current,
    decide,
    keep_verdict,
    locked,
    promote,
    roll_back,
    unless_changed,
)
from autocompress.spec import from_mapping
from autocompress.trial import Measurement

KL = (0.20, 0.24, 0.22, 0.19, 0.25, 0.21)


def losing(shift: float, wobble: float = 0.0) -> Measurement:
    kl = tuple(kl + shift + wobble * (-1) ** n for n, kl in enumerate(KL))
    return Measurement(kl, kl, 16)


SOUND = Deployed(None, (0.18, 0.26), (1.95, 2.1), losing(0.0), (1.97, 2.08), 1.9)


def beside(new: Measurement, faster: tuple[float, float] | None = (0.98, 1.02)) -> Candidate:
    return Candidate(None, new, losing(0.0), faster)


def test_the_first_model_that_meets_its_target_is_deployed() -> None:
    assert decide(None, Candidate(None)).outcome is Outcome.PROMOTED
    assert decide(None, Candidate("the winner misses the target")).outcome is Outcome.KEPT


def test_a_smaller_loss_beyond_the_interval_is_an_improvement() -> None:
    better = decide(SOUND, beside(losing(-0.01, 0.001)))
    same = decide(SOUND, beside(losing(-0.001, 0.05)))
    worse = decide(SOUND, beside(losing(0.01, 0.001), faster=(1.2, 1.3)))

    assert [own.outcome for own in (better, same, worse)] == ["PROMOTED", "KEPT", "KEPT"]
    assert "the new model loses less: KL minus the deployed model's: [-0.0" in better.reasons[0]
    assert "no improvement beyond the interval" in same.reasons[0]
    assert "the new model loses more" in worse.reasons[0]


def test_as_good_and_faster_is_an_improvement() -> None:
    verdict = decide(SOUND, beside(losing(0.0, 0.05), faster=(1.05, 1.1)))

    assert verdict.outcome is Outcome.PROMOTED
    assert "[1.050, 1.100] times as fast" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("deployed", "complaint"),
    [
        (Deployed("its files changed"), "does not load: its files changed"),
        (
            Deployed(None, (0.18, 0.26), (1.95, 2.1), losing(0.0), (1.7, 1.8), 1.9),
            "misses the target of 1.90x: it measures [1.700x, 1.800x]",
        ),
        (
            Deployed(None, (0.18, 0.26), (2.3, 2.4), losing(0.0), (2.0, 2.1), 1.9),
            "measures [2.000x, 2.100x], published with [2.300x, 2.400x]",
        ),
        (
            Deployed(None, None, None, losing(0.0), (1.2, 1.3), None, (21.0, 22.0), 20.0),
            "misses the target of its latency: it measures [1.200x, 1.300x] ([21.000 ms, 22.000",
        ),
        (
            Deployed(None, (0.08, 0.1), (1.95, 2.1), losing(0.0), (1.97, 2.08), 1.9),
            "published with [0.080, 0.100]",
        ),
    ],
)
def test_a_deployed_model_that_does_not_keep_its_promise_has_regressed(
    deployed: Deployed, complaint: str
) -> None:
    verdict = decide(deployed, Candidate("the search ended without a model"))

    assert verdict.outcome is Outcome.REGRESSED
    assert complaint in verdict.reasons[0]
    assert verdict.reasons[-1] == "the search ended without a model"


def test_what_misses_the_target_now_is_replaced_by_what_meets_it() -> None:
    slow = Deployed(None, (0.18, 0.26), (1.95, 2.1), losing(0.0), (1.7, 1.8), 1.9)

    assert decide(slow, beside(losing(0.05))).outcome is Outcome.PROMOTED


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20))
def test_no_model_replaces_itself_or_is_replaced_by_what_it_replaced(
    pairs: list[tuple[float, float]],
) -> None:
    ours, theirs = zip(*pairs, strict=True)
    first, second = Measurement(ours, ours, 4), Measurement(theirs, theirs, 4)

    def wins(new: Measurement, old: Measurement) -> bool:
        sound = Deployed(None, None, None, old, None, None)
        return decide(sound, Candidate(None, new, old)).outcome is Outcome.PROMOTED

    assert not wins(first, first)
    assert not (wins(first, second) and wins(second, first))


def folder(output: Path, name: str, replaced: str | None) -> Path:
    path = output / HISTORY / name
    path.mkdir(parents=True)
    keep_verdict(path, {"outcome": "PROMOTED", "replaced": replaced})
    return path


def test_a_link_leads_to_what_is_deployed_and_back(tmp_path: Path) -> None:
    first, second = folder(tmp_path, "s-1", None), folder(tmp_path, "s-2", "s-1")
    assert current(tmp_path) is None

    promote(tmp_path, first)
    promote(tmp_path, second)

    assert current(tmp_path) == second
    assert (tmp_path / CURRENT).readlink() == Path(HISTORY) / "s-2"
    assert roll_back(tmp_path) == first
    assert current(tmp_path) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURRENT, HISTORY]
    with pytest.raises(SpecError, match=r"Nothing was deployed in .* before s-1"):
        roll_back(tmp_path)


def test_nothing_is_promoted_over_what_was_deployed_meanwhile(tmp_path: Path) -> None:
    first, second = tmp_path / "s-1", tmp_path / "s-2"
    better = decide(SOUND, beside(losing(-0.01, 0.001)))

    kept = unless_changed(better, second, first)

    assert (kept.outcome, kept.reasons[:-1]) == (Outcome.KEPT, better.reasons)
    assert kept.reasons[-1] == (
        "rolled back meanwhile: s-2 was deployed when the run began, now s-1 is"
    )
    assert unless_changed(better, second, second) == better
    assert unless_changed(better, second, None).outcome is Outcome.KEPT
    assert unless_changed(kept, second, second) == kept


def test_one_run_at_a_time_changes_what_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "PATIENCE_SECONDS", 0.0)
    with locked(tmp_path / "out") as output, pytest.raises(ExportError) as caught, locked(output):
        pass
    with locked(tmp_path / "out"):
        pass

    assert "Another run works on" in str(caught.value)


def test_a_run_that_is_ending_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "LOOK_SECONDS", 0.01)
    ending = contextlib.ExitStack()
    ending.enter_context(locked(tmp_path))
    threading.Timer(0.2, ending.close).start()

    with locked(tmp_path) as output:
        assert output == tmp_path


def test_what_fails_under_the_lock_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"text\.txt"), locked(tmp_path):
        (tmp_path / "text.txt").read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ExportError, match=r"Cannot write .*/file: File exists"):
        locked(tmp_path / "file").__enter__()


def test_nothing_deployed_cannot_be_rolled_back(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="Nothing is deployed"):
        roll_back(tmp_path)


def test_the_history_keeps_the_newest_what_is_deployed_and_what_it_replaced(
    tmp_path: Path,
) -> None:
    for number in range(1, 8):
        folder(tmp_path, f"s-{number}", f"s-{number - 1}" if number > 1 else None)
    promote(tmp_path, tmp_path / HISTORY / "s-3")

    gone = clear_history(tmp_path, keep=2)

    assert gone == ["s-1", "s-4", "s-5"]
    left = sorted(path.name for path in (tmp_path / HISTORY).iterdir())
    assert left == ["s-2", "s-3", "s-6", "s-7"]
    assert roll_back(tmp_path).name == "s-2"


@pytest.mark.parametrize(
    ("strategy", "start"), [("evolve", "deployed/recipe.yaml"), ("evopress", None)]
)
def test_a_night_begins_with_what_is_deployed_where_its_strategy_can(
    strategy: str, start: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nightly, "prepare", lambda _: None)
    spec = from_mapping({"model": "m", "target_speedup": 2, "strategy": strategy})

    assert _begun_at(spec, Path("deployed")) == dataclasses.replace(spec, start=start)
