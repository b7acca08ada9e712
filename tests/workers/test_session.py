"""What a worker says of a model that it cannot build levels of."""

from pathlib import Path

import pytest
import torch

from autocompress.errors import EvaluationError
from autocompress.models import loading
from autocompress.pipeline.prepared import prepare
from autocompress.spec import from_mapping
from autocompress.workers.base import BuildJob


def test_a_layer_whose_numbers_are_not_finite_is_named(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    given = {"model": str(tiny_llama), "target_bits": 4, "space": "bits"}
    prepared = prepare(from_mapping({**given, "calibration": str(calibration), "context": 32}))
    session = prepared.session_plan(loading.fingerprint(prepared.folder))()
    with torch.no_grad():
        # As an activation that overflows float16 behind it would be.
        session._shaped.model.model.layers[1].post_attention_layernorm.weight.fill_(torch.inf)

    session.build(BuildJob((0,)))
    with pytest.raises(EvaluationError, match=r"^The levels of layer 1 mlp .*--dtype float32"):
        session.build(BuildJob((1,)))
