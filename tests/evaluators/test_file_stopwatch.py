"""Files are written, timed in turn with the dense one, compared with it and taken away."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from autocompress.evaluators.base import Latency
from autocompress.evaluators.file_stopwatch import DECODE_STEPS, FileStopwatch, Turns
from autocompress.evaluators.subprocess_call import Progress, nobody
from autocompress.spaces.base import Choice
from autocompress.workload import Workload

SPEED = 3.0


class Reader:
    """An engine that takes as long as a file says, and longer with every repeat."""

    def __init__(self, speed: float = SPEED) -> None:
        self.calls: list[tuple[int, Workload]] = []
        self._speed = speed

    def latency(
        self,
        checkpoints: Sequence[Path],
        workload: Workload,
        repeats: int,
        progress: Progress = nobody,
    ) -> list[Latency]:
        self.calls.append((len(checkpoints), workload))
        found = []
        for path in checkpoints:
            took = float(path.read_text("utf-8"))
            drift = [took * (1 + repeat) for repeat in range(repeats)]
            decode = tuple(time / self._speed for time in drift)
            found.append(Latency(tuple(drift), decode, tuple(drift), 1))
        return found


def write(choices: Sequence[Choice], file: Path) -> None:
    file.write_text(str(10 * choices[0].kept), encoding="utf-8")


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    file = tmp_path / "dense.gguf"
    file.write_text("100", encoding="utf-8")
    return file


@pytest.mark.parametrize("n", [1, 2, 5, 70])
@pytest.mark.parametrize("turns", [Turns(), Turns(most_bytes=12, between=5)])
def test_ratios_are_those_to_the_dense_file(dense: Path, n: int, turns: Turns) -> None:
    engine = Reader()
    stopwatch = FileStopwatch(engine, dense, write, Workload(2, 8, 64), dense.parent, turns)
    told: list[tuple[int, int]] = []

    found = stopwatch.ratios(
        [[Choice(kept, 99)] for kept in range(1, n + 1)],
        3,
        0,
        lambda *progress: told.append(progress),
    )

    for number, pairs in enumerate(found.pairs, 1):
        assert [pair.prefill for pair in pairs] == pytest.approx([number / 10] * 3)
        assert [pair.decode for pair in pairs] == pytest.approx([number / 10] * 3)
    assert found.dense.prefill == SPEED * found.dense.decode == 200.0
    assert told[-1] == (3 * n, 3 * n)
    assert list(dense.parent.iterdir()) == [dense]
    # Three bytes a file: those of four are there at a time, of which one is the dense one.
    assert all(size <= 3 + 2 for size, _ in engine.calls) or turns.most_bytes > 12
    assert sum(size for size, _ in engine.calls) > n * (1 + 1 / turns.between)


def test_another_file_is_timed_beside_the_reference(dense: Path) -> None:
    engine = Reader()
    other = dense.with_name("other.gguf")
    other.write_text("150", encoding="utf-8")

    found = FileStopwatch(engine, dense, write, Workload(2, 8, 64), dense.parent).beside(other, 5)

    assert found.prefill == pytest.approx(1.5)
    assert found.decode == pytest.approx(1.5)
    assert engine.calls == [(3, Workload(2, 8, DECODE_STEPS + 1))]


def test_a_request_of_one_token_takes_no_time_for_further_ones(dense: Path) -> None:
    stopwatch = FileStopwatch(Reader(math.inf), dense, write, Workload(2, 8, 1), dense.parent)

    found = stopwatch.ratios([[Choice(5, 99)]], 3, 0, nobody)

    assert found.dense.decode == 0.0
    assert [(pair.prefill, pair.decode) for pair in found.pairs[0]] == [(0.5, 1.0)] * 3


def test_few_tokens_stand_for_many(dense: Path) -> None:
    engine = Reader()

    for generated in (64, 5):
        workload = Workload(2, 8, generated)
        FileStopwatch(engine, dense, write, workload, dense.parent).ratios(
            [[Choice(1, 2)]], 1, 0, nobody
        )

    used = [workload for _, workload in engine.calls]
    assert used == [Workload(2, 8, DECODE_STEPS + 1), Workload(2, 8, 5)]
