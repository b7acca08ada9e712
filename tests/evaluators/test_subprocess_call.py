"""A call to a fresh process: the answer comes back, and a failure is told in one line."""

import json
import os
import sys
from pathlib import Path

import pytest

from autocompress.errors import EngineError
from autocompress.evaluators.subprocess_call import call_module

MODULE = """
import os, sys
from autocompress.errors import SpecError
from autocompress.evaluators.subprocess_call import answer_call

def serve(request):
    print("a library's greeting")
    match request["wish"]:
        case "refuse":
            raise SpecError("It does not want to.")
        case "break":
            raise ZeroDivisionError("division by zero")
        case "die":
            os._exit(3)
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
