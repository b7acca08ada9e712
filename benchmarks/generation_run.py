"""Measures one generation in one session, part by part: what a fresh process is given to run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from autocompress.trial import Fidelity, Genotype, Measurement
from autocompress.workers.base import BuildJob, Shard
from autocompress.workers.session import ModelSession, SessionPlan
from benchmarks.fresh_process import peak_bytes
from benchmarks.generation import count_sub_blocks
from benchmarks.stopwatch import count_sequences, synchronized, watch


def build_levels(plan: SessionPlan, layers: Sequence[int]) -> dict[str, object]:
    """Build the levels of some layers."""
    started = synchronized()
    built = plan().build(BuildJob(tuple(layers)))
    return {"levels": built, "seconds": synchronized() - started, "bytes": _size(plan.levels)}


def measure_generation(
    plan: SessionPlan, generation: Sequence[Genotype], fidelity: Fidelity
) -> dict[str, Any]:
    """Load the model and measure a generation twice: part by part, then by one clock.

    The dense model goes first: it is the teacher of all, and its seconds are not the generation's.
    With widths a third pass, again part by part, finds their tensors on the device already.
    """
    started = synchronized()
    session = plan()
    loaded = synchronized()
    loaded_peak = peak_bytes()
    session.measure(Shard((plan.space.dense,), fidelity))
    taught = synchronized()
    shard = Shard(tuple(generation), fidelity)
    with count_sequences() as counted:
        measured, first = _parts(session, plan, shard)
    before = synchronized()
    again = session.measure(shard)
    seconds = synchronized() - before
    length = plan.sequences[fidelity.split].shape[1]
    tokens = len(generation) * fidelity.sequences * length
    alone = count_sub_blocks(plan.space, generation)[1] * fidelity.sequences
    result: dict[str, Any] = {
        "load_seconds": loaded - started,
        "loaded_peak_bytes": loaded_peak,
        "dense_seconds": taught - loaded,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "sub_blocks": alone,
        "saved": 1 - sum(counted) / alone,
        "parts": first,
        "repeats": measured == again,
        "kl": [measurement.kl for measurement in measured],
        "nll": [measurement.nll for measurement in measured],
    }
    if any(units not in (0, gene.units[0]) for gene in plan.space.genes for units in gene.units):
        result["parts_again"] = _parts(session, plan, shard)[1]
    if torch.cuda.is_initialized():
        result["device_peak_bytes"] = torch.cuda.max_memory_allocated()
    return result


def _parts(
    session: ModelSession, plan: SessionPlan, shard: Shard
) -> tuple[tuple[Measurement, ...], dict[str, dict[str, float]]]:
    """Return the measurements, and seconds and share of each part and of all the rest."""
    started = synchronized()
    with watch(plan.space) as seconds:
        measured = session.measure(shard)
    whole = synchronized() - started
    seconds["rest"] = whole - sum(seconds.values())
    return measured, {
        part: {"seconds": spent, "share": spent / whole} for part, spent in seconds.items()
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())
