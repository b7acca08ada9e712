"""What every test stands on: no network, tiny models, and no deadlines for busy machines."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from autocompress import spec_rules

# A shell that starts the tests in the background has them ignore Ctrl-C, and all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from tests.tiny_models import TinyModels

# Set before transformers is imported, and inherited by the workers that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("autocompress", deadline=None)
settings.load_profile("autocompress")


STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let CI end in time on a slow machine."""
    parser.addoption("--slow-seconds", type=float, help="begin no slow test later than that")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with another file each day where time is short: else the last ones would never run."""
    if config.getoption("--slow-seconds") is None or not items:
        return
    files = list(dict.fromkeys(item.path for item in items))
    first = int(time.time() // 86_400) % len(files)
    order = {file: place for place, file in enumerate(files[first:] + files[:first])}
    items.sort(key=lambda item: order[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test that would begin too late."""
    limit = item.config.getoption("--slow-seconds")
    is_late = limit is not None and time.monotonic() - STARTED > limit
    if is_late and item.get_closest_marker("slow") is not None:
        pytest.skip(f"{limit:g} seconds for slow tests are over; `make test-slow` has no limit")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Share no cache with other runs of the tests, which would take turns in timing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def no_gpu_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `auto` choose the same spaces on every machine; who tests a GPU names it."""
    monkeypatch.setattr(spec_rules, "GPU_DRIVERS", ())


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> "TinyModels":
    """Write tiny models into one folder for all tests."""
    # Torch takes seconds to import, and half of the rooms do without it.
    from tests.tiny_models import TinyModels

    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3"])
def family(request: pytest.FixtureRequest) -> str:
    """Name every family in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_llama(tiny_models: "TinyModels") -> Path:
    """Name the folder of a tiny Llama."""
    return tiny_models.folder("llama")


@pytest.fixture(scope="session")
def tiny_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a latency table of the tiny models, for a short workload."""
    from autocompress.spaces.making import make_space
    from autocompress.workload import Workload
    from tests.synthetic_tables import write_table
    from tests.tiny_models import FFN_COLUMNS, KV_GROUPS, LAYERS

    space = make_space(LAYERS, KV_GROUPS, FFN_COLUMNS, depth=True, width=True)
    path = tmp_path_factory.mktemp("tables") / "table.json"
    return write_table(path, space, Workload(1, 8, 4))


@pytest.fixture(scope="session")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a text long enough for a search with short sequences."""
    from autocompress.models.sample_text import module_files

    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(module_files(("heapq", "textwrap"))[0].read_text("utf-8"), encoding="utf-8")
    return path
