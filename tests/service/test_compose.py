"""docker-compose.yml is what it says, and its commands serve a search."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.service.own_network import needs_own_network, needs_postgres, told_by
from tests.tiny_models import make_config, write_model

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
GPU_FILE = ROOT / "docker-compose.gpu.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
OF_GPUS: dict[str, Any] = yaml.safe_load(GPU_FILE.read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BESIDES = {"dev", "kubernetes", "llama-cpp", "lm-eval"}
"""What the image lacks: what is compiled, what the API refuses, what Kubernetes alone needs."""


@pytest.mark.parametrize("file", [FILE, GPU_FILE], ids=lambda file: file.name)
def test_the_file_is_of_composes_schema(file: Path) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]

    done = subprocess.run([*check, str(file)], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_is_nobody_special_and_says_whether_it_is_well(name: str) -> None:
    service = COMPOSE["services"][name]

    assert service["user"] not in ("root", "0")
    assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "privileged" not in service


def test_the_image_holds_what_a_submitted_search_may_ask_for() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (extras,) = re.findall(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.M)
    (of_kubernetes,) = re.findall(
        r"EXTRAS=(\S+)", (ROOT / "docs/kubernetes.md").read_text("utf-8")
    )

    wanted = {*known["optional-dependencies"]} - BESIDES
    assert {*extras.split(",")} == wanted
    assert {*of_kubernetes.split(",")} == wanted | {"kubernetes"}


def test_whoever_measures_reserves_gpus() -> None:
    reserved = {
        name: own["deploy"]["resources"]["reservations"]["devices"]
        for name, own in OF_GPUS.items()
        if "deploy" in own
    }
    args = OF_GPUS["ray-head"]["build"]["args"]
    (torch,) = re.findall(r"^ARG (\w+)=cpu$", DOCKERFILE, re.M)

    assert {*OF_GPUS} == {*reserved, "ray-head"} <= {*COMPOSE["services"]}
    assert {*reserved} == {"ray-worker", "api", "scheduler"}
    wanted = [{"driver": "nvidia", "count": "${GPUS:-1}", "capabilities": ["gpu"]}]
    assert all(devices == wanted for devices in reserved.values())
    # One image serves all, and one service builds it.
    assert [name for name, own in COMPOSE["services"].items() if "build" in own] == ["ray-head"]
    assert args == {torch: "cuda"}


def test_a_worker_with_gpus_is_begun_as_one_without() -> None:
    plain, own = (services["ray-worker"] for services in (COMPOSE["services"], OF_GPUS))

    other = {*own["command"]} - {*plain["command"]}
    assert other == {"--num-cpus=${GPUS:-1}", "--num-gpus=${GPUS:-1}"}
    assert {*plain["command"]} - {*own["command"]} == {"--num-cpus=${WORKER_CPUS:-2}"}
    # All of a machine's GPUs are one node's: two would count each of them twice.
    assert own["deploy"]["replicas"] == 1


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
