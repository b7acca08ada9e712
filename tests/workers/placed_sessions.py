"""Sessions that tell where Ray has placed them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from autocompress.workers.base import Session
from tests.workers.toy_sessions import ToySession


@dataclass(frozen=True)
class PlacedFactory:
    """Makes toy sessions that have left a mark: node, GPUs by Ray and GPUs by CUDA."""

    marks: Path

    def __call__(self) -> Session:
        """Leave the mark and make one."""
        # Imported here: a process that a pool has yet to prepare for Ray imports this module too.
        import ray

        context = ray.get_runtime_context()
        place = {
            "node": context.get_node_id(),
            "gpus": context.get_accelerator_ids()["GPU"],
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        (self.marks / f"{os.getpid()}.place").write_text(json.dumps(place), encoding="utf-8")
        return ToySession(self.marks)
