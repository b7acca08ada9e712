"""Calls a module of this package in a fresh process: JSON on its standard input and output."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Final

import torch

from autocompress.errors import AutocompressError

Progress = Callable[[int, int], None]
"""Is told how much is done, of how much."""

SILENT_SECONDS: Final = 6 * 3600.0
"""Without a line, after which a process is taken to hang.

To load a large model may take hours, and so may one run of a long workload on a CPU.
"""
_ADVANCE: Final = "autocompress advances "
_GOES_ON: Final = "autocompress goes on\n"


def nobody(_done: int, _total: int) -> None:
    """Tell nobody."""


def call_module(
    module: str,
    request: Mapping[str, object],
    failure: type[AutocompressError],
    complaint: str,
    progress: Progress = nobody,
) -> str:
    """Run `python -m module` on a request; return its answer, still as JSON.

    Of what it prints only the last line is the answer: libraries may print before. The process is
    killed if this one is interrupted, or if it says nothing for `SILENT_SECONDS`.

    Args:
        module: One that ends in `answer_call`.
        failure: What to raise, with `complaint` and then the process's own last words.
        progress: Is told what the process tells by `advance`.
    """
    command = [sys.executable, "-W", "ignore", "-m", module]
    # On a GPU that process finds no room where this one keeps what it has freed.
    torch.cuda.empty_cache()
    answer = ""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as words:
        with (
            handed(json.dumps(request)) as asked,
            subprocess.Popen(
                command,
                stdin=asked,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                errors="replace",
            ) as process,
        ):
            try:
                for line in while_heard(process, SILENT_SECONDS):
                    if line.startswith(_ADVANCE):
                        done, total = line.removeprefix(_ADVANCE).split()
                        progress(int(done), int(total))
                    elif line != _GOES_ON:
                        answer = line
            except TimeoutError:
                process.kill()
                raise failure(
                    f"{complaint}: it said nothing for {SILENT_SECONDS:g} seconds and was stopped."
                ) from None
            except BaseException:
                process.kill()
                raise
        words.seek(0)
        said = words.read().strip().splitlines()
    if process.returncode != 0:
        cause = said[-1:] or [f"exit code {process.returncode}"]
        raise failure(f"{complaint}: {cause[0]}")
    return answer


def answer_call(serve: Callable[[dict[str, object]], object]) -> int:
    """Read a request, answer it; return the exit status: 2, and one line to stderr, if it fails.

    Args:
        serve: Returns what `json` can write.
    """
    try:
        answer = serve(json.load(sys.stdin))
    except AutocompressError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


def advance(done: int, total: int) -> None:
    """Tell the caller of this process how far it has come."""
    sys.stdout.write(f"{_ADVANCE}{done} {total}\n")
    sys.stdout.flush()


def go_on() -> None:
    """Tell the caller of this process that it does not hang."""
    sys.stdout.write(_GOES_ON)
    sys.stdout.flush()


@contextlib.contextmanager
def handed(text: str) -> Iterator[IO[str]]:
    """Return a file that a process may read a text from.

    Through a pipe, one that hangs before it reads would hold up who writes.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write(text)
        file.seek(0)
        yield file


def while_heard(process: "subprocess.Popen[str]", seconds: float) -> Iterator[str]:
    """Pass on the lines of a process as they come, and wait for its end.

    Raises:
        TimeoutError: If no line comes for so long, or after the last one no end.
    """
    read: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        # Who stops listening closes what is read here.
        with contextlib.suppress(ValueError):
            for line in process.stdout or ():
                read.put(line)
        read.put(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        while (line := read.get(timeout=seconds)) is not None:
            yield line
        process.wait(seconds)
    except (queue.Empty, subprocess.TimeoutExpired):
        raise TimeoutError from None
