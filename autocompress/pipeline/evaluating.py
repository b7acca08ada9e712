"""Judges any checkpoint: what it loses, how large it is, and how fast it runs, with intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.errors import EngineError, ModelError, SpecError
from autocompress.evaluators.base import Latency
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.export.evaluation import Comparison, Estimate, Evaluation, Judged, Speed
from autocompress.models import loading, text
from autocompress.pipeline.conclusion import versions
from autocompress.pipeline.intervals import mean_interval, process_interval
from autocompress.pipeline.latency import REPEATS, engine_device, hardware
from autocompress.pipeline.observer import Observer
from autocompress.pipeline.on_disk import OnDisk, open_model
from autocompress.pipeline.timing_turn import timing_turn
from autocompress.spec import TIMING_PROCESSES
from autocompress.trial import Measurement, Split
from autocompress.workload import Mix, Phase, Workload

Runs = Sequence[Latency]
"""Of one checkpoint, in each process."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be judged, and on what.

    Args:
        path: A model folder, its name on the hub, or a GGUF file.
        against: The model that it was made of, alike; None compares with nothing.
        calibration: A text file, of which the part is read that searches report on; None takes
            the built-in sample.
        sequences: Read at most, of `context` tokens each.
        teacher_tokens: The likeliest tokens kept of each of the other's predictions.
        by_vllm: Models are timed by vLLM; losses are those of torch in any case.
    """

    path: str
    against: str | None
    calibration: str | None
    sequences: int
    context: int
    teacher_tokens: int
    workload: Mix
    device: str
    dtype: str
    seed: int
    trust_remote_code: bool
    by_vllm: bool = False


def evaluate(asked: Asked, observer: Observer) -> Evaluation:
    """Measure a checkpoint, each model in processes of their own.

    Raises:
        AutocompressError: Whatever cannot be found, read or run.
    """
    device = loading.pick_device(asked.device)
    workload = _whole(asked.workload)

    def opened(named: str) -> OnDisk:
        return open_model(
            named, device, asked.dtype, asked.trust_remote_code, by_vllm=asked.by_vllm
        )

    model = opened(asked.path)
    against = None if asked.against is None else opened(asked.against)
    sequences = shared_sequences(asked, model, against)
    observer.stage("loss on text")
    own, dense = measure_checkpoint(
        model.path,
        None if against is None else against.path,
        sequences,
        Reading(str(device), asked.dtype, asked.teacher_tokens, asked.trust_remote_code),
        observer.advance,
    )
    observer.stage("latency")
    runs, runs_against = _timed(model, against, workload, observer)
    observer.stage("memory")

    def judged(path: str, found: OnDisk, measured: Measurement, runs: Runs) -> Judged:
        times = _milliseconds(runs)
        return Judged(
            path=path,
            engine=f"{found.engine.name} {found.engine.version}",
            bytes=found.bytes,
            perplexity=_perplexity(measured),
            milliseconds=times,
            tokens_a_second=_throughput(workload, times.workload),
            peak_memory=found.engine.peak_memory(found.path, workload),
        )

    other, comparison = None, None
    if asked.against and against is not None and dense is not None and runs_against is not None:
        other = judged(asked.against, against, dense, runs_against)
        is_timed_beside = model.engine.name == against.engine.name
        comparison = Comparison(
            kl=_divergence(own),
            perplexity_ratio=_exp(_mean(np.asarray(own.nll) - np.asarray(dense.nll))),
            bits=8 * model.bytes / against.numbers,
            speedup=_speedup(runs_against, runs) if is_timed_beside else None,
        )
    return Evaluation(
        model=judged(asked.path, model, own, runs),
        against=other,
        comparison=comparison,
        hardware=hardware(engine_device(model.engine.name, device), runs[0].threads),
        workload=str(workload),
        processes=TIMING_PROCESSES,
        repeats=REPEATS,
        text=asked.calibration or "the built-in sample",
        sequences=len(sequences),
        context=asked.context,
        versions=versions(),
        seed=asked.seed,
    )


def _whole(mix: Mix) -> Workload:
    """Return the only workload: all of its phases are told.

    Raises:
        SpecError: If there are several, or a phase of one.
    """
    if len(mix.parts) > 1 or mix.first.phase is not Phase.WHOLE:
        raise SpecError(f"`workload: BxP+G` must hold to judge a checkpoint, but got {mix}.")
    return mix.first


def _timed(
    model: OnDisk, against: OnDisk | None, workload: Workload, observer: Observer
) -> tuple[Runs, Runs | None]:
    """Time both in turn, or one after the other where they need two engines."""

    def runs(found: OnDisk, *paths: Path) -> list[Runs]:
        told: list[list[Latency]] = []
        with timing_turn(observer):
            for done in range(TIMING_PROCESSES):
                told.append(found.engine.latency(paths, workload, REPEATS))
                observer.advance(done + 1, TIMING_PROCESSES)
        return list(zip(*told, strict=True))

    if against is not None and against.engine.name == model.engine.name:
        own, other = runs(model, model.path, against.path)
        return own, other
    (own,) = runs(model, model.path)
    if against is None:
        return own, None
    (other,) = runs(against, against.path)
    return own, other


def shared_sequences(asked: Asked, model: OnDisk, against: OnDisk | None) -> np.ndarray:
    """Return the (sequences, T) token ids that both read.

    Raises:
        SpecError: If the two read the text as other tokens.
    """
    documents = text.read_documents(asked.calibration)
    first, second = (against or model), (model if against else None)
    vocabulary = first.vocabulary
    if vocabulary is None:
        raise ModelError(f"{first.path} has no tokenizer.")
    ids = vocabulary.encode(documents)
    own = None if second is None else second.vocabulary
    if own is not None and own.encode(documents) != ids:
        raise SpecError(
            f"{asked.path} and {asked.against} read the text as different tokens: their losses "
            "do not compare."
        )
    known = dict(zip(documents, ids, strict=True))
    cut = text.cut_sequences(
        lambda texts: [known[document] for document in texts],
        vocabulary.end_of_text,
        documents,
        asked.context,
    )
    rows = cut[Split.REPORT]
    order = text.draw_order(len(rows), Split.REPORT, 0, asked.seed)
    found: np.ndarray = rows[order[: asked.sequences]]
    return found


def _perplexity(measured: Measurement) -> Estimate:
    return _exp(_mean(np.asarray(measured.nll)))


def _divergence(measured: Measurement) -> Estimate:
    """Return the mean divergence; no interval reaches below that of equal models."""
    kl = _mean(np.asarray(measured.kl))
    return Estimate(kl.value, (max(kl.interval[0], 0.0), kl.interval[1]))


def _mean(values: np.ndarray) -> Estimate:
    return Estimate(float(values.mean()), mean_interval(values))


def _exp(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return Estimate(math.exp(estimate.value), (math.exp(low), math.exp(high)))


def _milliseconds(runs: Runs) -> Speed:
    return _speed(_phases(runs))


def _phases(runs: Runs) -> np.ndarray:
    """Return milliseconds of first token, further one, and all: (3, processes, repeats)."""
    told = [[own.prefill, own.decode, own.total] for own in runs]
    return np.asarray(told).swapaxes(0, 1)


def _speed(phases: np.ndarray) -> Speed:
    """Return the estimates of (3, processes, repeats); further tokens may be none, and all 0."""
    first, token, whole = (
        Estimate(*process_interval(np.median(own, 1))) if own.any() else None for own in phases
    )
    if first is None or whole is None:
        raise EngineError("The engine told no time of the workload.")
    return Speed(first, token, whole)


def _throughput(workload: Workload, milliseconds: Estimate) -> Estimate:
    """Return the generated tokens a second of all sequences together."""
    value, most, least = map(workload.throughput, (milliseconds.value, *milliseconds.interval))
    return Estimate(value, (least, most))


def _speedup(before: Runs, after: Runs) -> Speed:
    """Return how many times faster the second is, in pairs of runs in turn."""
    slow, fast = _phases(before), _phases(after)
    return _speed(np.divide(slow, fast, out=np.zeros_like(slow), where=fast > 0))
