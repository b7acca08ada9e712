"""What every test stands on: no network, tiny models, and no deadlines that a busy machine misses."""

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.tiny_models import TinyModels

# Set before transformers is imported, and inherited by the workers that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("autocompress", deadline=None)
settings.load_profile("autocompress")


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
