"""A call to a fresh process: the answer comes back, and a failure is told in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from autocompress.errors import EngineError
from autocompress.evaluators import subprocess_call
from autocompress.evaluators.subprocess_call import call_module

MODULE = """
import os, sys, time
from autocompress.errors import SpecError
from autocompress.evaluators.subprocess_call import advance, answer_call, go_on

def serve(request):
    print("a library's greeting")
    match request["wish"]:
        case "refuse":
            raise SpecError("It does not want to.")
        case "break":
            raise ZeroDivisionError("division by zero")
        case "die":
            os._exit(3)
        case "be long":
            for done in range(3):
                advance(done + 1, 3)
        case "be slow":
            for _ in range(5):
                time.sleep(2)
                go_on()
        case "not end":
            os.close(1)
            time.sleep(600)
        case "wait":
            advance(0, 1)
            time.sleep(600)
    return {"process": os.getpid(), "request": request}

sys.exit(answer_call(serve))
"""


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a module that fresh processes find; return its name."""
    (tmp_path / "served_module.py").write_text(MODULE, encoding="utf-8")
    found = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    monkeypatch.setenv("PYTHONPATH", found)
    return "served_module"


def test_the_answer_is_that_of_another_process(served: str) -> None:
    request = {"wish": "answer", "paths": ["a b", "ü"], "repeats": 2}

    answer = json.loads(call_module(served, request, EngineError, "It did not run"))

    assert answer["request"] == request
    assert answer["process"] != os.getpid()


@pytest.mark.parametrize(
    ("wish", "cause"),
    [
        ("refuse", "It does not want to."),
        ("break", "ZeroDivisionError: division by zero"),
        ("die", "exit code 3"),
    ],
)
def test_a_failure_is_told_in_its_last_words(served: str, wish: str, cause: str) -> None:
    with pytest.raises(EngineError) as raised:
        call_module(served, {"wish": wish}, EngineError, "It did not run")

    assert str(raised.value) == f"It did not run: {cause}"


def test_progress_is_told_while_the_process_works(served: str) -> None:
    told: list[tuple[int, int]] = []

    call_module(
        served,
        {"wish": "be long"},
        EngineError,
        "It did not run",
        lambda done, total: told.append((done, total)),
    )

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_interruption_ends_the_process(served: str) -> None:
    def interrupt(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    before = psutil.Process().children()

    with pytest.raises(KeyboardInterrupt):
        call_module(served, {"wish": "wait"}, EngineError, "It did not run", interrupt)

    assert psutil.Process().children() == before


@pytest.mark.parametrize("wish", ["wait", "not end"])
def test_one_that_says_nothing_is_stopped(
    served: str, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    monkeypatch.setattr(subprocess_call, "SILENT_SECONDS", 4)

    with pytest.raises(EngineError, match="It did not run: it said nothing for 4 seconds"):
        call_module(served, {"wish": wish}, EngineError, "It did not run")


def test_one_that_never_reads_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, served: str
) -> None:
    (tmp_path / "deaf_module.py").write_text("import time\ntime.sleep(600)", encoding="utf-8")
    monkeypatch.setattr(subprocess_call, "SILENT_SECONDS", 1)

    with pytest.raises(EngineError, match="it said nothing for 1 seconds"):
        call_module("deaf_module", {"wish": served * 2**20}, EngineError, "It did not run")


def test_one_that_goes_on_is_heard(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess_call, "SILENT_SECONDS", 8)

    answer = json.loads(call_module(served, {"wish": "be slow"}, EngineError, "It did not run"))

    assert answer["request"] == {"wish": "be slow"}


def test_memory_that_is_kept_for_later_is_given_back_before_another_process_wants_it(
    served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    start = subprocess.Popen

    def started(*asked: Any, **how: Any) -> Any:
        order.append("started")
        return start(*asked, **how)

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: order.append("emptied"))
    monkeypatch.setattr(subprocess, "Popen", started)

    call_module(served, {"wish": "answer"}, EngineError, "It did not run")

    assert order == ["emptied", "started"]
