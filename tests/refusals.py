"""What tests of commands that must be refused share."""

import pytest

from autocompress.cli import commands


def refusal(flags: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run what must be refused; return its one line."""
    capsys.readouterr()
    assert commands.main(flags) == 2
    line = capsys.readouterr().err
    assert line.startswith("autocompress: ")
    assert line.count("\n") == 1
    return line
