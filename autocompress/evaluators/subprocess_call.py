"""Calls a module of this package in a fresh process: JSON on its standard input and output."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping

from autocompress.errors import AutocompressError


def call_module(
    module: str, request: Mapping[str, object], failure: type[AutocompressError], complaint: str
) -> str:
    """Run `python -m module` on a request; return its answer, still as JSON.

    Of what it prints only the last line is the answer: libraries may print before.

    Args:
        module: One that ends in `answer_call`.
        failure: What to raise, with `complaint` and then the process's own last words.
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        cause = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        raise failure(f"{complaint}: {cause[0]}")
    return done.stdout.splitlines()[-1]


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
