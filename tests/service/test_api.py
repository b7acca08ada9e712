"""The HTTP API: what it answers, whom it refuses, and that no request can break it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok

from autocompress.service.api import BURST, MOST_BODY, Service, _Allowance, make_app
from autocompress.service.jobs import QUEUE, WAITING, Jobs, read_events
from autocompress.service.search_process import search_command
from autocompress.service.web_page import PAGE, POLICY
from autocompress.spec import from_mapping
from autocompress.store.base import Record, StudyState, TrialLoss
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Genotype, Measurement, Split
from tests.tiny_models import make_config, write_model

TOKEN = "a-token-of-enough-letters"
SPEC = {"model": "model", "target_params": "90%", "space": "depth"}
JOINT = {"model": "model", "target_speedup": "2x", "space": "depth,decoding"}


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "model").mkdir()
    (tmp_path / "secret").write_text("hidden words", encoding="utf-8")
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "model").rename(root / "model")
    return Service(f"sqlite:///{tmp_path}/studies.db", tmp_path / "out", root)


@pytest.fixture
def jobs(service: Service) -> Iterator[Jobs]:
    own = Jobs(service.storage, service.folder)  # never started: what is submitted waits
    yield own
    own.stop()


@pytest.fixture
def client(service: Service, jobs: Jobs) -> Iterator[TestClient]:
    with TestClient(make_app(service, jobs), base_url="http://localhost") as own:
        yield own


def finished(service: Service, name: str = "done") -> None:
    store = create_study(service.storage, name, {"model": "m"})
    store.finish(StudyState.FINISHED, {"met": True, "verdict": "usable"})
    store.close()


def test_what_is_submitted_waits_and_is_found(client: TestClient, jobs: Jobs) -> None:
    answer = client.post("/v1/studies", json={"name": "first", "spec": SPEC})

    assert answer.status_code == 201
    assert client.get("/v1/studies").json() == [{"name": "first", "state": "waiting"}]
    assert client.get("/v1/studies/first").json() == {"name": "first", "state": "waiting"}
    assert jobs.waiting == ["first"]
    again = client.post("/v1/studies", json={"name": "first", "spec": SPEC})
    assert (again.status_code, "exists already" in again.json()["error"]) == (409, True)
    assert client.post("/v1/studies/first/cancel").json()["state"] == "cancelled"
    assert client.get("/v1/studies").json() == []
    assert client.post("/v1/studies/first/cancel").status_code == 404


def test_the_best_of_a_study_are_told(client: TestClient, service: Service) -> None:
    store = create_study(service.storage, "going", {"model": "m"})
    for level, loss in ((1, 0.5), (2, 0.25)):
        measured = Measurement((loss,), (2.0,), 8)
        reading = Fidelity(Split.SEARCH, 0, 0, 1)
        genotype = Genotype((level,))
        told = TrialLoss(genotype, 1, loss)
        store.record([Record(genotype, reading, measured, None, 0.1)], [told])
    store.close()

    told = client.get("/v1/studies/going/best", params={"n": 1}).json()

    assert [(own["levels"], own["sequences"], own["kl"]) for own in told] == [([2], 1, 0.25)]
    assert client.get("/v1/studies/going/best", params={"n": 0}).status_code == 422
    client.post("/v1/studies", json={"name": "next", "spec": SPEC})
    assert client.get("/v1/studies/next/best").json() == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "studies/nowhere"),
        ("GET", "studies/nowhere/best"),
        ("GET", "studies/nowhere/report"),
        ("POST", "studies/nowhere/resume"),
        ("POST", "studies/nowhere/cancel"),
        ("DELETE", "schedules/nowhere"),
    ],
)
def test_what_is_unknown_is_not_found(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, f"/v1/{path}")

    assert answer.status_code == 404
    assert "'nowhere'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "studies"), ("POST", "studies/first/resume"), ("GET", "schedules")],
)
def test_a_database_that_is_away_may_come_back(
    service: Service, jobs: Jobs, method: str, path: str
) -> None:
    # Port 9 is closed everywhere.
    storage = "postgresql+psycopg://root@127.0.0.1:9/test"
    gone = Service(storage, service.folder, service.root)
    with TestClient(make_app(gone, jobs), base_url="http://localhost") as client:
        answer = client.request(method, f"/v1/{path}")

    assert answer.status_code == 503
    assert "Connection refused" in answer.json()["error"]


def test_a_finished_study_has_a_report_and_files(client: TestClient, service: Service) -> None:
    finished(service)
    folder = service.folder / "done" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")

    assert client.get("/v1/studies/done").json()["met"] is True
    assert client.get("/v1/studies/done/report").json() == {"met": True, "verdict": "usable"}
    listed = client.get("/v1/studies/done/artifacts").json()
    assert listed == [{"path": "model/config.json", "bytes": 2}]
    file = client.get("/v1/studies/done/artifacts/model/config.json")
    assert (file.content, file.headers["content-type"]) == (b"{}", "application/octet-stream")
    assert "attachment" in file.headers["content-disposition"]
    assert client.post("/v1/studies/done/resume").status_code == 409


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "model/../../../secret",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "link",
        "model%00",
        "x" * 5000,
    ],
)
def test_no_path_leads_out_of_the_folder(client: TestClient, service: Service, path: str) -> None:
    finished(service)
    folder = service.folder / "done"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(service.root.parent / "secret")

    answer = client.get(f"/v1/studies/done/artifacts/{path}")

    assert answer.status_code in (404, 422)
    assert b"hidden words" not in answer.content


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (SPEC | {"model": "/etc"}, "model: no file of"),
        (SPEC | {"model": "../model"}, "model: no file of"),
        (SPEC | {"calibration": "../secret"}, "calibration: no file of"),
        (SPEC | {"calibration": "model"}, "calibration: no file of"),
        (SPEC | {"start": "/etc/passwd"}, "start: no file of"),
        (
            SPEC | {"target_speedup": 2, "latency_table": "nowhere.json"},
            "latency_table: no file of",
        ),
        (JOINT | {"tasks": "/etc/passwd"}, "tasks: no file of"),
        (JOINT | {"tasks": "../secret"}, "tasks: no file of"),
        (JOINT | {"tasks": "nowhere"}, "tasks: no file of"),
        (JOINT | {"tasks": "lm-eval:hellaswag"}, "tasks: a request names files of"),
        (JOINT | {"allow_python": True}, "`allow_python` is not taken from requests"),
        (SPEC | {"trust_remote_code": True}, "is not taken from requests"),
        (SPEC | {"trust-remote-code": True}, "is not taken from requests"),
        (SPEC | {"model": "~/model"}, "model: no file of"),
        (SPEC | {"model": "examples/reference-model"}, "model: no file of"),
        (SPEC | {"model": "a\0b"}, "model: no file of"),
        (SPEC | {"model": "m" * 5000 + "/" + "m"}, "model: no file of"),
        (SPEC | {"pruner": "/tmp/X/tree.json"}, "pruner: a request gives a formula"),
        (SPEC | {"pool": "ray", "address": "10.0.0.1:6379"}, "address: a request joins"),
        (SPEC | {"pruner": "__import__('os').system('true')"}, "pruner"),
        (SPEC | {"nonsense": 1}, "nonsense"),
        ({"model": "model"}, "target: missing"),
        (SPEC | {"storage": "sqlite:////tmp/x"}, "storage"),
    ],
)
def test_a_hostile_spec_is_refused_before_any_work(
    client: TestClient, jobs: Jobs, spec: dict[str, Any], reason: str
) -> None:
    answer = client.post("/v1/studies", json={"name": "bad", "spec": spec})

    assert answer.status_code == 400
    assert reason in answer.json()["error"]
    assert jobs.waiting == []


@pytest.mark.parametrize("tasks", ["tasks", "tasks/own.jsonl"])
def test_tasks_are_a_file_or_a_folder_of_the_root(
    client: TestClient, service: Service, jobs: Jobs, tasks: str
) -> None:
    (service.root / "tasks").mkdir()
    (service.root / "tasks" / "own.jsonl").touch()

    answer = client.post("/v1/studies", json={"name": "own", "spec": JOINT | {"tasks": tasks}})

    assert answer.status_code == 201
    assert waiting(service, "own")["tasks"] == str(service.root / tasks)
    assert jobs.waiting == ["own"]


def waiting(service: Service, name: str) -> dict[str, Any]:
    """Return the settings that a search waits with."""
    file = service.folder / QUEUE / f"{name}{WAITING}"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


@pytest.mark.parametrize(
    "name",
    ["../x", ".hidden", "a/b", "<script>alert(1)</script>", "x'; DROP TABLE ac_study;--", ""],
)
def test_a_name_that_is_none_is_refused(client: TestClient, name: str) -> None:
    assert client.post("/v1/studies", json={"name": name, "spec": SPEC}).status_code == 422


def test_a_body_is_small_whatever_it_says_of_itself(client: TestClient) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(MOST_BODY // 1024 + 1):
            yield b" " * 1024

    answer = client.post("/v1/studies", content=parts())
    bomb = client.post(
        "/v1/studies",
        content=b"a: &a [x, x]\nb: &b [*a, *a]\n",
        headers={"Content-Type": "application/yaml"},
    )

    assert answer.status_code == 413
    assert bomb.status_code == 422


def test_a_page_of_another_host_is_refused(client: TestClient, jobs: Jobs) -> None:
    client.post("/v1/studies", json={"name": "first", "spec": SPEC})

    foreign = client.post("/v1/studies/first/cancel", headers={"Origin": "https://evil.example"})

    assert foreign.status_code == 403
    assert jobs.waiting == ["first"]
    own = client.post("/v1/studies/first/cancel", headers={"Origin": "http://127.0.0.1:8090"})
    assert own.status_code == 200


def test_another_host_is_refused(client: TestClient) -> None:
    answer = client.get("/v1/studies", headers={"Host": "evil.example"})

    assert (answer.status_code, answer.json()) == (
        403,
        {"error": "This is no host of this service."},
    )


@pytest.mark.parametrize("given", ["", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "é"])
def test_without_the_token_nothing_is_told(service: Service, jobs: Jobs, given: str) -> None:
    guarded = Service(service.storage, service.folder, service.root, TOKEN)
    with TestClient(make_app(guarded, jobs)) as client:
        refused = client.get("/v1/studies", headers={b"Authorization": given.encode()})
        allowed = client.get("/v1/studies", headers={"Authorization": f"Bearer {TOKEN}"})
        health, page = client.get("/v1/health"), client.get("/")

    assert refused.status_code == 401
    assert allowed.status_code == 200
    assert health.status_code == 200
    # It holds nothing but the form that asks for the token.
    assert page.text == PAGE


def test_who_asks_too_often_waits(client: TestClient) -> None:
    answers = [client.get("/v1/health").status_code for _ in range(int(BURST) + 60)]

    assert answers[0] == 200
    assert 429 in answers


@given(st.lists(st.floats(0, 2), max_size=300))
def test_nobody_gets_more_than_the_burst_and_its_refill(pauses: list[float]) -> None:
    allowance, now, granted = _Allowance(), 0.0, 0
    for pause in pauses:
        now += pause
        granted += allowance.take("a", now)

    assert granted <= BURST + 20 * now + 1


def test_the_page_shows_nothing_but_text_and_loads_nothing(client: TestClient) -> None:
    answer = client.get("/")

    assert answer.text == PAGE
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "innerHTML" not in PAGE
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org)", PAGE)


def test_prometheus_is_told_of_studies(client: TestClient, service: Service) -> None:
    finished(service)
    client.post("/v1/studies", json={"name": "next", "spec": SPEC})

    told = client.get("/metrics").text

    assert 'autocompress_studies{state="finished"} 1.0' in told
    assert "autocompress_searches_waiting 1.0" in told


def test_schedules_are_added_listed_and_removed(client: TestClient) -> None:
    asked = {"name": "nightly", "spec": SPEC, "cron": "0 2 * * *", "zone": "Europe/Berlin"}

    assert client.post("/v1/schedules", json=asked).status_code == 201
    assert client.post("/v1/schedules", json=asked).status_code == 409
    assert client.post("/v1/schedules", json=asked | {"cron": "x"}).status_code == 400
    joint = client.post("/v1/schedules", json=asked | {"name": "joint", "spec": JOINT})
    assert "a schedule searches for compressed models alone" in joint.json()["error"]
    (listed,) = client.get("/v1/schedules").json()
    assert (listed["name"], listed["cron"], listed["runs"]) == ("nightly", "0 2 * * *", [])
    assert client.delete("/v1/schedules/nightly").status_code == 200
    assert client.get("/v1/schedules").json() == []


def test_what_is_resumed_tells_anew(jobs: Jobs, service: Service) -> None:
    jobs.events("first").write_text('{"event": "end"}\n', encoding="utf-8")

    jobs.resume("first")

    assert jobs.waiting == ["first"]
    assert read_events(jobs.events("first"), 0) == ([], 0)


def test_a_joint_study_goes_on_by_the_search_that_began_it(jobs: Jobs, service: Service) -> None:
    spec = from_mapping(JOINT)
    create_study(service.storage, "own", {"kind": "joint", **spec.to_json()}).close()
    create_study(service.storage, "plain", from_mapping(SPEC).to_json()).close()
    file, output = service.root / "spec.json", service.folder

    jobs.resume("own")

    assert from_mapping(waiting(service, "own")) == spec
    assert "search" in search_command(service.storage, "own", file, output)
    assert "resume" in search_command(service.storage, "plain", file, output)


def test_events_come_whole_and_once(tmp_path: Path) -> None:
    file = tmp_path / "events"
    assert read_events(file, 0) == ([], 0)
    file.write_bytes(b'{"event": "a"}\nTraceback\n{"event":')

    first, place = read_events(file, 0)
    with file.open("ab") as opened:
        opened.write(b' "b"}\n')
    second, end = read_events(file, place)

    assert first == [{"event": "a"}, {"event": "said", "text": "Traceback"}]
    assert second == [{"event": "b"}]
    assert read_events(file, end) == ([], end)


def test_one_process_runs_the_searches_of_a_folder(service: Service, jobs: Jobs) -> None:
    with pytest.raises(Exception, match="Another process runs the searches"):
        Jobs(service.storage, service.folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_request_of_its_description_breaks_it(
    service: Service, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(service, jobs)
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app, headers={"Host": "localhost"})
    sent = 0
    monkeypatch.setattr(_Allowance, "take", lambda *_: True)

    for found in schema.get_all_operations():
        assert isinstance(found, Ok)

        @given(case=found.ok().as_strategy())
        @settings(
            max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        def never_breaks(case: Any) -> None:
            nonlocal sent
            sent += 1
            if case.path.endswith("/events"):
                return  # a stream: it ends when its search does
            answer = case.call(headers={"Host": "localhost"})
            assert answer.status_code < 500, (case.method, case.path, answer.text)

        never_breaks()

    assert sent > 300


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `api` on a folder; give its address."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "autocompress", "api", "--port=0", f"--root={folder}"),
            *(f"--storage=sqlite:///{folder}/studies.db", f"--output={folder / 'out'}"),
        ],
        env=os.environ | {"AUTOCOMPRESS_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().rstrip("/")
    finally:
        process.terminate()
        process.wait(timeout=60)
        process.stdout.close()


def asked(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as opened:
        return json.loads(opened.read())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_goes_on_when_the_service_comes_back(tmp_path: Path, calibration: Path) -> None:
    write_model(tmp_path / "model", make_config())
    (tmp_path / "text.txt").write_bytes(calibration.read_bytes())
    spec = SPEC | {
        "workload": "1x8+4",
        "calibration": "text.txt",
        "context": 16,
        "max_tokens": 20000,
        "timing_processes": 2,
        "workers": 2,
    }
    with served(tmp_path) as url:
        asked(f"{url}/v1/studies", {"name": "first", "spec": spec})
        deadline = time.monotonic() + 120
        while asked(f"{url}/v1/studies/first").get("trials", 0) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)

    with served(tmp_path) as url:
        deadline = time.monotonic() + 300
        while asked(f"{url}/v1/studies/first")["state"] != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with urllib.request.urlopen(f"{url}/v1/studies/first/events", timeout=60) as stream:
            told = stream.read().decode()
        files = {file["path"] for file in asked(f"{url}/v1/studies/first/artifacts")}
        report = asked(f"{url}/v1/studies/first/report")

    assert report["met"] is True
    assert {"report.html", "model/model.safetensors", "recipe.yaml"} <= files
    assert "event: generation" in told
    assert told.rstrip().splitlines()[-2] == "event: end"
