"""Has the engine tell what serving holds, once in a study: what was measured is recorded."""

import dataclasses

from autocompress.pipeline.deployment import Deployment
from autocompress.pipeline.targets import DenseSize
from autocompress.store.base import StudyStore
from autocompress.trial import Genotype


def dense_size(deployment: Deployment, store: StudyStore, *, with_memory: bool) -> DenseSize:
    """Return the size of the untouched model and record it.

    Args:
        with_memory: Let the engine run it, too; one that was recorded is not run again.
    """
    recorded = store.document("dense")
    size = deployment.size() if recorded is None else DenseSize.from_document(recorded)
    if with_memory and size.peak_memory is None:
        size = dataclasses.replace(size, peak_memory=deployment.peak_memory(deployment.dense))
    store.save_document("dense", size.to_document())
    return size


def winner_memory(deployment: Deployment, store: StudyStore, winner: Genotype) -> int | None:
    """Return what serving a winner holds at most, and record it; None if the system is silent."""
    recorded = store.document("memory")
    if recorded is not None and recorded["genotype"] == winner.key:
        return int(str(recorded["bytes"]))
    held = deployment.peak_memory(deployment.export(winner).path)
    if held is not None:
        store.save_document("memory", {"genotype": winner.key, "bytes": held})
    return held
