"""A search goes on until serving its winner holds no more than was asked."""

from pathlib import Path

import pytest

from autocompress.cli.observers import Lines
from autocompress.export.checkpoint import stored_tensor_bytes
from autocompress.pipeline.study import start
from autocompress.pipeline.torch_deployment import TorchDeployment
from autocompress.spec import from_mapping


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_winner_that_holds_more_than_reckoned_is_followed_by_a_smaller_one(
    tiny_llama: Path, calibration: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(self: TorchDeployment, path: Path) -> int:
        """Return more of candidates than of the dense model they were reckoned by."""
        return round(stored_tensor_bytes(path) * (1.0 if path == self.dense else 1.04))

    monkeypatch.setattr(TorchDeployment, "peak_memory", held)
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    spec = from_mapping(
        {
            "model": str(tiny_llama),
            "target_memory": "70%",
            "space": "depth,width",
            "workload": "1x8+4",
            "calibration": str(calibration),
            "context": 16,
            "max_tokens": 40000,
            "workers": 2,
        }
    )

    report = start(spec, f"sqlite:///{tmp_path}/s.db", "small", tmp_path / "out", Lines(False))

    assert report.met
    assert report.memory is not None
    assert report.memory.compressed <= 0.7 * report.memory.dense
    assert report.corrections
    for made in report.corrections:
        assert made.kind == "memory"
        assert made.measured > made.target_asked > made.target_used
        assert made.target_asked == pytest.approx(0.7 * report.memory.dense)
