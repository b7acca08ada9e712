"""Measuring alone: who waits for room is told, and nothing is waited for without an end."""

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from autocompress.errors import EngineError
from autocompress.workers import tune_alone
from autocompress.workers.tune import Share, Values, in_ray, share_of
from autocompress.workers.tune_alone import measuring_alone


@pytest.fixture(scope="module", autouse=True)
def running_ray() -> Iterator[None]:
    """Start Ray once for all tests."""
    with in_ray(None):
        yield


@pytest.fixture
def holder() -> Iterator[Any]:
    """Hold all CPUs of the cluster, as another driver does."""
    import ray

    class Holding:
        def is_there(self) -> None:
            """Answer."""

    remote: Any = ray.remote(Holding)
    own = remote.options(num_cpus=share_of(1).cpus).remote()
    ray.get(own.is_there.remote())
    yield own
    ray.kill(own)


@dataclass(frozen=True)
class Toy:
    """Makes what measures: nothing, for ever, or which items they are."""

    wish: str = ""

    def __call__(self, share: Share) -> "Toy":
        assert share.cpus >= 1
        if self.wish == "break":
            raise ValueError("it does not\nload")
        return self

    def measure(self, values: Values, first: int, end: int) -> Mapping[str, Any]:
        if self.wish == "hang":
            threading.Event().wait()
        return {"items": list(range(first, end)), **values}


def test_parts_come_in_order_and_are_told() -> None:
    told: list[int] = []
    waits: list[str] = []

    with measuring_alone(Toy(), None, waits.append) as alone:
        parts = alone.measure({"one": 1}, (2, 4, 5), told.append)

    assert parts == [{"items": [2, 3], "one": 1}, {"items": [4], "one": 1}]
    assert told == [2, 3]
    assert not waits


def test_who_waits_for_room_is_told_once(holder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    told: list[str] = []

    def waits(what: str) -> None:
        told.append(what)
        ray.kill(holder)

    monkeypatch.setattr(tune_alone, "TELL_SECONDS", 1)

    with measuring_alone(Toy(), None, waits) as alone:
        parts = alone.measure({}, (0, 1), lambda _: None)

    assert parts == [{"items": [0]}]
    assert told == [f"{share_of(1).cpus} CPUs of one node of the Ray cluster, which others hold"]


@pytest.mark.usefixtures("holder")
def test_room_is_not_waited_for_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune_alone, "TELL_SECONDS", 0.5)
    monkeypatch.setattr(tune_alone, "ROOM_SECONDS", 0.5)

    with (
        pytest.raises(EngineError, match="CPUs free for "),
        measuring_alone(Toy(), None, lambda _: None),
    ):
        pass


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("hang", "^What measures gave no answer for 1 seconds and was stopped.$"),
        ("break", "^Nothing could be measured: it does not load.$"),
    ],
)
def test_what_gives_no_part_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, wish: str, words: str
) -> None:
    monkeypatch.setattr(tune_alone, "PART_SECONDS", {"hang": 1}.get(wish, 100))

    with (
        measuring_alone(Toy(wish), None, lambda _: None) as alone,
        pytest.raises(EngineError, match=words),
    ):
        alone.measure({}, (0, 1), lambda _: None)
