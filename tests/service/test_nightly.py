"""Schedules for real: a cron expression fires, a search runs, and what is better is deployed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import yaml

from autocompress.service.promotion import current
from autocompress.store.base import Json
from autocompress.store.schedules import RunState, open_schedules
from autocompress.store.study_store import list_studies
from tests.tiny_models import make_config, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Service:
    """A folder with a schedule of a tiny model, and the commands on it."""

    folder: Path

    @property
    def storage(self) -> str:
        return f"sqlite:///{self.folder}/studies.db"

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "autocompress", "schedule", *arguments]
        return subprocess.Popen(
            [*command, f"--storage={self.storage}"],
            env=os.environ | {"AUTOCOMPRESS_CACHE": str(self.folder / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        told = process.communicate(timeout=400)
        assert process.returncode == status, told
        return told

    def listed(self) -> dict[str, Json]:
        listed: dict[str, Json] = json.loads(self.run("list", "--json")[0])
        return listed

    def wait(self, n_runs: int, state: RunState, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        with open_schedules(self.storage) as store:
            own = store.named("tiny")
            while [run.state for run in store.runs(own.id)][n_runs - 1 : n_runs] != [state]:
                assert time.monotonic() < deadline, store.runs(own.id)
                time.sleep(0.2)


@pytest.fixture
def service(tmp_path: Path, calibration: Path) -> Service:
    write_model(tmp_path / "model", make_config())
    spec = {
        "model": str(tmp_path / "model"),
        "target_params": "90%",
        "space": ["depth"],
        "workload": "1x8+4",
        "calibration": str(calibration),
        "context": 16,
        "max_tokens": 20000,
        "timing_processes": 2,
        "workers": 2,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    return Service(tmp_path)


def add(service: Service, cron: str, *more: str) -> str:
    output = f"--output={service.folder / 'deployed'}"
    return service.run("add", str(service.folder / "tiny.yaml"), f"--cron={cron}", output, *more)[
        0
    ]


def test_a_schedule_fires_deploys_and_survives_its_schedulers_death(service: Service) -> None:
    told = service.folder / "told.jsonl"
    said = add(service, "* * * * *", f"--hook=tee -a {told}")
    assert "next at " in said

    scheduler = service.start("start")
    service.wait(1, RunState.FINISHED, 240)
    deployed = current(service.folder / "deployed")
    service.wait(2, RunState.RUNNING, 120)
    time.sleep(4)
    children = psutil.Process(scheduler.pid).children(recursive=True)
    scheduler.send_signal(signal.SIGKILL)
    scheduler.communicate()
    psutil.wait_procs(children, timeout=20)
    assert not [child for child in children if child.is_running()]
    second = service.start("start")
    service.wait(2, RunState.FINISHED, 240)
    second.send_signal(signal.SIGINT)
    _, errors = second.communicate(timeout=60)

    assert second.returncode == 130, errors
    assert deployed is not None
    verify = [sys.executable, "-m", "autocompress", "verify", str(deployed)]
    assert subprocess.run(verify, check=False).returncode == 0
    runs = service.listed()["runs"]
    assert isinstance(runs, list)
    verdicts = [run["verdict"] for run in runs[:2]]
    assert verdicts[0]["outcome"] == "PROMOTED"
    assert verdicts[0]["reasons"] == ["nothing was deployed before"]
    # Nothing changed: the search begins with what is deployed and finds nothing better.
    assert verdicts[1]["outcome"] == "KEPT"
    assert "no improvement beyond the interval" in verdicts[1]["reasons"][-1]
    assert verdicts[1]["replaced"] == deployed.name
    names = [verdict["study"] for verdict in verdicts]
    assert len(set(names)) == 2
    assert {row.name for row in list_studies(service.storage)} >= {*names}
    heard = [line for line in told.read_text("utf-8").replace("}{", "}\n{").splitlines() if line]
    assert [json.loads(line)["outcome"] for line in heard][:2] == ["PROMOTED", "KEPT"]


def test_a_broken_deployment_is_replaced_and_taken_back(service: Service) -> None:
    add(service, "0 2 1 1 *")
    output = service.folder / "deployed"
    service.run("run", "tiny")
    first = current(output)
    assert first is not None
    (first / "model" / "model.safetensors").write_bytes(b"gone")

    time.sleep(1.1)
    service.run("run", "tiny")

    second = current(output)
    assert second is not None
    assert second != first
    verdict = json.loads((second / "verdict.json").read_text("utf-8"))
    assert verdict["outcome"] == "PROMOTED"
    assert "the deployed model does not load" in verdict["reasons"][0]
    back, _ = service.run("rollback", "tiny")
    assert back.strip() == str(first)
    assert current(output) == first


def test_what_cannot_be_meant_leaves_nothing(service: Service) -> None:
    for flags, reason in (
        (("--cron=tonight",), "is no cron expression"),
        (("--cron=0 2 * * *", "--zone=Mars"), "Unknown time zone 'Mars'"),
        (("--cron=0 2 * * *", "--keep=0"), "`--keep >= 1` must hold"),
        (("--cron=0 2 * * *", "--webhook=file:///etc/passwd"), "http or https"),
        (("--cron=0 2 * * *", "--name=../x"), "must be a plain name"),
    ):
        _, errors = service.run("add", str(service.folder / "tiny.yaml"), *flags, status=2)
        assert reason in errors
        assert errors.count("\n") == 1

    assert service.run("list")[0] == ""
    assert "Unknown schedule 'tiny'" in service.run("run", "tiny", status=2)[1]
