"""Optuna's dashboard, in a real browser, shows our studies and lets nobody change them."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import optuna
import pytest

from autocompress.errors import StoreError
from autocompress.models.architecture import read_architecture, shape_of
from autocompress.pipeline.shapes import space_of, to_document
from autocompress.pipeline.targets import DenseSize
from autocompress.service import dashboard
from autocompress.service.dashboard import Refresher, _keep_fresh, read_only
from autocompress.spec import from_mapping
from autocompress.store.base import Record, StudyState
from autocompress.store.mirror import Mirror, ShownStudy
from autocompress.store.study_store import create_study
from autocompress.trial import Fidelity, Measurement, Split
from tests.pipeline.test_joint import report as example_joint
from tests.tiny_models import make_config

CHROMIUM = shutil.which("chromium")
BROWSER = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=20000",
    "--window-size=1400,1600",
]


def studied(folder: Path) -> str:
    """Write a study of a tiny model, without its weights; return the database's URL."""
    url = f"sqlite:///{folder}/studies.db"
    spec = from_mapping({"model": "gone/model", "target_params": "90%", "space": ["depth"]})
    shape = shape_of(read_architecture(make_config("llama")))
    space = space_of(spec, shape)
    store = create_study(url, "shown-study", spec.to_json())
    store.save_document("shape", to_document(shape))
    size = DenseSize(parameters=100_000, bytes=400_000, number_bits=32, linear_weights=50_000)
    store.save_document("dense", size.to_document())
    for number in range(len(space.sites)):
        entries = [int(place <= number) for place in range(len(space.sites))]
        loss = 0.1 * (1 + number)
        measured = Measurement((loss, loss), (2.0, 2.0), 15)
        reading = Fidelity(Split.SEARCH, 0, 0, 2)
        store.record([Record(space.genotype(entries), reading, measured, None, 0.5)])
    store.close()
    return url


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Run `serve`; give its address."""
    command = [sys.executable, "-m", "autocompress", "serve", "--port=0"]
    command += [f"--storage={studied(folder)}", f"--artifacts={folder / 'artifacts'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 130
        process.stdout.close()


def answered(url: str, method: str = "GET") -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method)) as opened:
            return opened.status, opened.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_browser_finds_the_study_and_cannot_change_it(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    with served(tmp_path) as page:
        root = page.removesuffix("/dashboard")
        deadline = time.monotonic() + 60
        while not (studies := json.loads(answered(f"{root}/api/studies")[1])["study_summaries"]):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        refused = [answered(f"{root}/api/studies/1", method)[0] for method in ("DELETE", "PUT")]
        shown = None
        if CHROMIUM is not None:
            profile = f"--user-data-dir={tmp_path / 'browser'}"
            command = [CHROMIUM, *BROWSER, profile, f"--screenshot={picture}", "--dump-dom", page]
            shown = subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=200
            ).stdout

    assert [study["study_name"] for study in studies] == ["shown-study"]
    assert refused == [405, 405]
    if shown is None:
        pytest.skip("chromium is not installed here: the page itself was not opened")
    assert re.search(r"shown-study", shown)
    assert picture.stat().st_size > 10_000


def test_a_joint_search_shows_its_options_at_its_end(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    store = create_study(url, "both", {"kind": "joint"})
    mirror = Mirror(url, tmp_path / "artifacts")
    refresher = Refresher(url, mirror, tmp_path / "reports")
    refresher.refresh()
    before = mirror.version("both")
    own = example_joint(2.0)
    store.finish(StudyState.FINISHED, own.to_json())
    store.close()

    refresher.refresh()

    assert before is None
    trials = optuna.load_study(study_name="both", storage=mirror.storage).get_trials()
    assert [trial.user_attrs["speedup"] for trial in trials] == [
        option.speedup.value for option in own.options
    ]
    lost = [(1 / option.speedup.value, -option.quality_difference.value) for option in own.options]
    assert [tuple(trial.values) for trial in trials] == lost
    assert [trial.user_attrs["winner"] for trial in trials] == ["False", "True"]


def test_a_study_that_cannot_be_shown_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    for name in ("older", "newer"):
        store = create_study(url, name, {"kind": "joint"})
        store.finish(StudyState.FINISHED, example_joint(2.0).to_json())
        store.close()
    mirror = Mirror(url, tmp_path / "artifacts")
    refresher = Refresher(url, mirror, tmp_path / "reports")
    show = Mirror.show

    def fail(own: Mirror, shown: ShownStudy) -> int:
        if shown.name == "newer":
            raise KeyError("no record")
        return show(own, shown)

    with monkeypatch.context() as broken:
        broken.setattr(Mirror, "show", fail)
        refresher.refresh()
    shown_first = [mirror.version(name) is not None for name in ("older", "newer")]
    changed = refresher.refresh()

    assert (shown_first, changed) == ([True, False], 1)
    assert mirror.version("newer") is not None


@pytest.mark.parametrize("error", [KeyError("trial"), OSError("full"), StoreError("away")])
def test_what_fails_once_is_refreshed_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ended, calls = threading.Event(), iter([error])

    def refresh(_own: Refresher) -> int:
        for failure in calls:
            raise failure
        ended.set()
        return 0

    monkeypatch.setattr(dashboard, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(Refresher, "refresh", refresh)
    _keep_fresh(Refresher.__new__(Refresher), ended)

    assert ended.is_set()


@pytest.mark.parametrize(
    ("host", "method", "status"),
    [
        ("127.0.0.1:8080", "GET", "200 OK"),
        ("localhost:8080", "HEAD", "200 OK"),
        ("localhost:8080", "POST", "405 Method Not Allowed"),
        ("localhost:8080", "DELETE", "405 Method Not Allowed"),
        ("evil.example:8080", "GET", "403 Forbidden"),
        ("", "GET", "403 Forbidden"),
    ],
)
def test_strangers_and_changes_are_refused(host: str, method: str, status: str) -> None:
    told: list[str] = []

    def application(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"page"]

    def start_response(status: str, *_: object) -> object:
        told.append(status)
        return None

    environ = {"HTTP_HOST": host, "REQUEST_METHOD": method}
    body = b"".join(read_only(application)(environ, start_response))  # type: ignore[arg-type]

    assert told == [status]
    assert (body == b"page") == (status == "200 OK")
