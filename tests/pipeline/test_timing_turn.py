"""Who times has the machine's turn, and whoever else wants to time waits for it."""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest
import torch

from autocompress.evaluators.base import Latency
from autocompress.evaluators.latency_model import LatencyTables
from autocompress.pipeline import comparing, evaluating, profiling, study
from autocompress.pipeline.observer import Observer, Values
from autocompress.pipeline.timing_turn import timing_turn, turn_file, turn_here
from autocompress.store.profiles import StoredProfile
from autocompress.workload import Mix, Workload


class Watching:
    """An observer that remembers what it is told, and then lets go of what is waited for."""

    def __init__(self, let_go: Callable[[], None] = lambda: None) -> None:
        self.told: list[tuple[str, Values]] = []
        self._let_go = let_go

    def stage(self, name: str) -> None: ...
    def advance(self, done: int, total: int) -> None: ...
    def tell(self, kind: str, values: Values) -> None:
        self.told.append((kind, values))
        self._let_go()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take turns with no other test."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def other() -> Iterator[IO[str]]:
    """Open the file as another process does."""
    turn_file().parent.mkdir()
    with turn_file().open("a") as file:
        yield file


def is_taken() -> bool:
    """Whether somebody times: another opening of the file cannot lock it then."""
    with turn_file().open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_turn_is_waited_for_and_that_is_told_once(other: IO[str]) -> None:
    watching = Watching(lambda: fcntl.flock(other, fcntl.LOCK_UN))
    fcntl.flock(other, fcntl.LOCK_EX)

    with timing_turn(watching):
        assert is_taken()

    assert watching.told == [("waiting", {"what": "another process of this machine, which times"})]
    assert not is_taken()


def test_a_turn_within_a_turn_ends_with_the_outer_one() -> None:
    watching = Watching()

    with timing_turn(watching):
        with timing_turn(watching):
            assert is_taken()
        assert is_taken()

    assert not is_taken()
    assert not watching.told


def test_what_fails_gives_its_turn_back() -> None:
    with pytest.raises(ZeroDivisionError), timing_turn(Watching()):
        raise ZeroDivisionError

    assert not is_taken()


def test_without_a_cache_nobody_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "file" / "cache"))
    watching = Watching()

    with timing_turn(watching):
        assert not turn_file().exists()

    assert not watching.told


def test_a_cluster_deals_out_its_cores_itself(other: IO[str]) -> None:
    fcntl.flock(other, fcntl.LOCK_EX)

    with turn_here("10.0.0.1:6379", Watching()):
        pass


class Timed:
    """Stands for whatever times, and remembers whether it had the turn."""

    threads = 1

    def __init__(self) -> None:
        self.had_turn: list[bool] = []

    def engine(self, table: object) -> "Timed":
        self.had_turn.append(is_taken())
        return self

    def measure_tables(self, observer: Observer) -> LatencyTables:
        self.had_turn.append(is_taken())
        return cast("LatencyTables", SimpleNamespace(to_json=dict))

    def measure(self, *_: object, **__: object) -> Any:
        self.had_turn.append(is_taken())

    def latency(self, paths: Sequence[Path], *_: object) -> list[Latency]:
        self.had_turn.append(is_taken())
        return [Latency((1.0,), (1.0,), (1.0,), 1) for _ in paths]


def opened(timed: Timed) -> Any:
    """Return a model on disk that is timed."""
    return SimpleNamespace(path=Path("model"), engine=timed)


def test_a_profile_is_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed()
    monkeypatch.setattr(profiling, "save_profile", lambda *_: None)
    monkeypatch.setattr(profiling, "about", lambda *_: {})

    profiling.Profiles("").measure(cast("Any", None), cast("Any", timed), Watching())

    assert timed.had_turn == [True]


def test_a_profile_that_was_measured_while_it_was_waited_for_is_not_measured_again(
    other: IO[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed()
    known: list[StoredProfile] = []

    def let_go() -> None:
        known.append(StoredProfile("now", {}))
        fcntl.flock(other, fcntl.LOCK_UN)

    monkeypatch.setattr(profiling, "find_profile", lambda *_: next(iter(known), None))
    monkeypatch.setattr(profiling, "read_tables", lambda payload, _: payload)
    fcntl.flock(other, fcntl.LOCK_EX)
    arguments: Any = (
        SimpleNamespace(space=None),
        timed,
        SimpleNamespace(add_event=lambda _: None),
        SimpleNamespace(latency=None),
        Watching(let_go),
    )

    found: object = profiling.Profiles("")._tables({}, *arguments)

    assert found == {}
    assert not timed.had_turn


def test_winners_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed()
    monkeypatch.setattr(study, "measure_speedup", timed.measure)
    spec = SimpleNamespace(workload=Mix(), timing_processes=1, engine="torch", address=None)
    pool: Any = None
    prepared: Any = SimpleNamespace(spec=spec, device=torch.device("cpu"), imported=None)
    deployment: Any = SimpleNamespace(
        engine=timed.engine, dense=Path("dense"), export=lambda _: SimpleNamespace(path=Path("a"))
    )

    _, measure = study._clock(prepared, deployment, None, None, pool, Watching())
    assert measure is not None
    measure(cast("Any", None))

    assert timed.had_turn == [True, True]


def test_published_models_are_compared_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = Timed()
    same = opened(SimpleNamespace(name="torch"))  # type: ignore[arg-type]
    monkeypatch.setattr(comparing, "measure_speedup", timed.measure)
    monkeypatch.setattr(comparing, "_opened", lambda *_: same)
    spec: Any = SimpleNamespace(workload=Mix(), timing_processes=1)

    comparing.speedup_between(spec, "before", "after", Watching())

    assert timed.had_turn == [True]


def test_a_checkpoint_is_judged_in_turn() -> None:
    timed = Timed()

    evaluating._timed(opened(timed), None, Workload(), Watching())

    assert set(timed.had_turn) == {True}
