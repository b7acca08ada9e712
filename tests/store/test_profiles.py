"""Latency profiles are found again by all that they depend on, and replaced when measured anew."""

from pathlib import Path

from autocompress.store.profiles import find_profile, save_profile
from autocompress.store.study_store import create_study, list_studies

ABOUT = {"engine": "torch", "engine_version": "2.13", "hardware": "a machine"}


def test_a_profile_is_found_by_what_it_is_about(url: str) -> None:
    save_profile(url, ABOUT, {"rows": [1.5, None]})

    found = find_profile(url, dict(reversed(ABOUT.items())))

    assert found is not None
    assert found.payload == {"rows": [1.5, None]}
    assert found.measured_at.startswith("20")
    for name in ABOUT:
        assert find_profile(url, ABOUT | {name: "other"}) is None


def test_a_later_one_takes_its_place(url: str) -> None:
    save_profile(url, ABOUT, {"rows": 1})
    first = find_profile(url, ABOUT)
    save_profile(url, ABOUT, {"rows": 2})

    found = find_profile(url, ABOUT)

    assert found is not None
    assert first is not None
    assert found.payload == {"rows": 2}
    assert found.measured_at >= first.measured_at


def test_it_outlives_the_study_that_measured_it(url: str) -> None:
    study = create_study(url, "first", {})
    save_profile(url, ABOUT, {})
    study.discard()
    study.close()

    assert find_profile(url, ABOUT) is not None
    assert list_studies(url) == []


def test_asking_makes_no_file(tmp_path: Path) -> None:
    assert find_profile(f"sqlite:///{tmp_path}/studies.db", ABOUT) is None
    assert list(tmp_path.iterdir()) == []
