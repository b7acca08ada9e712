"""docker-compose.yml is what it says, and its commands serve a search."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.service.own_network import needs_own_network, needs_postgres, told_by
from tests.tiny_models import make_config, write_model

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_the_file_is_of_composes_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*check, str(FILE)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_nobody_special_and_says_whether_it_is_well(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["user"] not in ("root", "0")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "privileged" not in service


def test_no_secret_is_in_the_file() -> None:
    text = FILE.read_text(encoding="utf-8")

    assert set(COMPOSE["secrets"]) == {"db-password", "api-token", "ray-token"}
    assert all(set(own) == {"file"} for own in COMPOSE["secrets"].values())
    assert not re.search(r"(?i)(password|token|secret)\s*[:=]\s*(?!token$)[\w.]{6,}$", text, re.M)
    assert "://autocompress:" not in text
    ignored = (ROOT / ".gitignore").read_text("utf-8"), (ROOT / ".dockerignore").read_text("utf-8")
    assert all("secrets" in own for own in ignored)


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_postgres
@needs_own_network
def test_the_commands_of_the_containers_serve_a_search(tmp_path: Path, calibration: Path) -> None:
    write_model(tmp_path / "models" / "model", make_config())

    told = told_by("compose_machine.py", tmp_path / "models", calibration)

    assert told["met"] is True
    assert told["refused"] == 401
    assert told["shown"] == ["first"]
    assert {"report.html", "model/model.safetensors"} <= {*told["files"]}
