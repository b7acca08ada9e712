"""Calls a module of this package in a fresh process: JSON on its standard input and output."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Final

from autocompress.errors import AutocompressError

Progress = Callable[[int, int], None]
"""Is told how much is done, of how much."""

_ADVANCE: Final = "autocompress advances "


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
    killed if this one is interrupted.

    Args:
        module: One that ends in `answer_call`.
        failure: What to raise, with `complaint` and then the process's own last words.
        progress: Is told what the process tells by `advance`.
    """
    command = [sys.executable, "-W", "ignore", "-m", module]
    answer = ""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as words,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True
        ) as process,
    ):
        try:
            _hand(process, request)
            for line in process.stdout or ():
                if line.startswith(_ADVANCE):
                    done, total = line.removeprefix(_ADVANCE).split()
                    progress(int(done), int(total))
                else:
                    answer = line
            process.wait()
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


def _hand(process: "subprocess.Popen[str]", request: Mapping[str, object]) -> None:
    """Write a request to a process; one that ended before says why itself."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            json.dump(request, process.stdin)
