"""What a program that a model wrote may do, and what ends it."""

import os
import select
from pathlib import Path

import pytest

from autocompress.evaluators.python_runner import Limits, passes

SHORT = Limits(seconds=1)
INCREMENT = "def add(x):\n    return x + 1\n"


def test_a_program_passes_whose_tests_do() -> None:
    assert passes(INCREMENT, "assert add(1) == 2")
    assert passes("import numpy", "assert numpy.ones(3).sum() == 3")


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (INCREMENT, "assert add(1) == 3"),
        (INCREMENT, "assert sub(1) == 0"),
        ("def add(x:", "pass"),
        ("\0", "pass"),
        ("half = '\ud800'", "pass"),
        ("raise KeyboardInterrupt", "pass"),
    ],
)
def test_a_program_fails_that_does_not_run_or_whose_tests_fail(program: str, tests: str) -> None:
    assert not passes(program, tests)


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "import sys; sys.exit(0)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "def f(): f()\nimport sys; sys.setrecursionlimit(10**9); f()",
    ],
)
def test_who_ends_before_the_tests_fails(program: str) -> None:
    assert not passes(program, "assert False", SHORT)


WRITES_TO_ALL_THAT_IS_OPEN = """\
import os
for descriptor in range(3, 64):
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "while True: print('x' * 10_000)",
        "import sys\nwhile True: sys.stderr.write('x' * 10_000)",
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
        WRITES_TO_ALL_THAT_IS_OPEN,
    ],
    ids=["loops", "prints", "complains", "sleeps", "writes"],
)
@pytest.mark.timeout(20)
def test_who_does_not_end_is_ended(program: str) -> None:
    assert not passes(program, "", SHORT)


def test_memory_is_limited() -> None:
    half_full = "held = bytearray(500_000_000)"

    assert passes(half_full)
    assert not passes(half_full, "", Limits(memory_bytes=300_000_000))


def test_no_byte_is_written_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "written"

    assert not passes(f"with open({str(file)!r}, 'w') as file: file.write('more')")
    assert not passes("with open('here', 'w') as file: file.write('more')")
    assert file.read_text() == ""


def test_a_program_sees_an_empty_folder_and_no_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN_OF_THE_USER", "secret")

    assert passes("import os", "assert not os.listdir() and 'TOKEN_OF_THE_USER' not in os.environ")
    assert passes("import sys", "assert sys.stdin.read() == ''")


@pytest.mark.timeout(30)
def test_nothing_that_a_program_starts_outlives_it(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    # Where the limit on processes holds no child starts; to root it does not apply.
    program = (
        "import os, time\n"
        "try:\n"
        "    for _ in range(4): os.fork()\n"
        f"finally: held = os.open({str(fifo)!r}, os.O_WRONLY)\n"
        "os.write(held, b'x')\n"
        "time.sleep(60)\n"
    )
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    assert not passes(program, "", SHORT)

    with os.fdopen(reader, "rb", buffering=0) as told:
        # The end of the file is there once no process holds the other end.
        while select.select([told], [], [], 10)[0] and told.read(64):
            pass
        assert told.read(64) == b""
