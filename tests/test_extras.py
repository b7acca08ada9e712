"""What is installed without extras is enough for a search: their packages are imported late."""

import subprocess
import sys

import pytest

EXTRAS = (
    *("cmaes", "compressed_tensors", "evotorch", "fastapi", "gguf", "llama_cpp", "lm_eval"),
    *("optuna", "optuna_dashboard", "peft", "plotly", "prometheus_client", "psycopg", "ray"),
    "uvicorn",
)


@pytest.mark.parametrize("module", ["cli.commands", "pipeline.study", "pipeline.evaluating"])
def test_a_command_begins_where_no_extra_is_installed(module: str) -> None:
    program = (
        f"import sys\nfor name in {EXTRAS!r}:\n    sys.modules[name] = None\n"
        f"import autocompress.{module}"
    )

    command = [sys.executable, "-c", program]
    found = subprocess.run(command, check=False, capture_output=True, text=True)

    assert found.returncode == 0, found.stderr
