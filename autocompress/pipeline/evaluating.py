"""Judges any checkpoint: what it loses, how large it is, and how fast it runs, with intervals."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from autocompress.errors import SpecError
from autocompress.evaluators.base import Latency
from autocompress.evaluators.text_loss import Reading, measure_checkpoint
from autocompress.evaluators.torch_engine import TorchEngine
from autocompress.export.checkpoint import stored_numbers, stored_tensor_bytes
from autocompress.export.evaluation import Comparison, Estimate, Evaluation, Judged, Speed
from autocompress.models import loading, text
from autocompress.pipeline.conclusion import versions
from autocompress.pipeline.latency import REPEATS, hardware, median_interval
from autocompress.pipeline.observer import Observer
from autocompress.spec import Workload
from autocompress.trial import Measurement, Split

CONFIDENCE = 0.95
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be judged, and on what.

    Args:
        path: A model folder, or its name on the hub.
        against: The model that it was made of, alike; None compares with nothing.
        calibration: A text file, of which the part is read that searches report on; None takes
            the built-in sample.
        sequences: Read at most, of `context` tokens each.
        teacher_tokens: The likeliest tokens kept of each of the other's predictions.
    """

    path: str
    against: str | None
    calibration: str | None
    sequences: int
    context: int
    teacher_tokens: int
    workload: Workload
    device: str
    dtype: str
    seed: int
    trust_remote_code: bool


def evaluate(asked: Asked, observer: Observer) -> Evaluation:
    """Measure a checkpoint, each model in processes of their own.

    Raises:
        AutocompressError: Whatever cannot be found, read or run.
    """
    device = loading.pick_device(asked.device)
    folder = loading.resolve(asked.path)
    against = None if asked.against is None else loading.resolve(asked.against)
    sequences = _sequences(asked, folder, against)
    observer.stage("loss on text")
    reading = Reading(str(device), asked.dtype, asked.teacher_tokens, asked.trust_remote_code)
    own, dense = measure_checkpoint(folder, against, sequences, reading, observer.advance)
    observer.stage("latency")
    engine = TorchEngine(str(device), asked.dtype, 0, asked.trust_remote_code)
    folders = [folder] if against is None else [folder, against]
    timed = engine.latency(folders, asked.workload, REPEATS, observer.advance)
    name = f"{engine.name} {engine.version}"

    def judged(path: str, folder: Path, measured: Measurement, latency: Latency) -> Judged:
        size = stored_tensor_bytes(folder)
        return Judged(path, name, size, _perplexity(measured), _milliseconds(latency, asked.seed))

    other, comparison = None, None
    if asked.against is not None and against is not None and dense is not None:
        other = judged(asked.against, against, dense, timed[1])
        comparison = Comparison(
            kl=_divergence(own),
            perplexity_ratio=_exp(_mean(np.asarray(own.nll) - np.asarray(dense.nll))),
            bits=8 * stored_tensor_bytes(folder) / stored_numbers(against),
            speedup=_speedup(timed[1], timed[0], asked.seed),
        )
    return Evaluation(
        model=judged(asked.path, folder, own, timed[0]),
        against=other,
        comparison=comparison,
        hardware=hardware(device, timed[0].threads),
        workload=str(asked.workload),
        repeats=REPEATS,
        text=asked.calibration or "the built-in sample",
        sequences=len(sequences),
        context=asked.context,
        versions=versions(),
        seed=asked.seed,
    )


def _sequences(asked: Asked, folder: Path, against: Path | None) -> np.ndarray:
    """Return the (sequences, T) token ids that both read.

    Raises:
        SpecError: If the two read the text as other tokens.
    """
    documents = text.read_documents(asked.calibration)
    tokenizer = loading.load_tokenizer(against or folder, asked.trust_remote_code)
    if against is not None and any((folder / name).is_file() for name in TOKENIZER_FILES):
        own = loading.load_tokenizer(folder, asked.trust_remote_code)
        if text.token_ids(own, documents) != text.token_ids(tokenizer, documents):
            raise SpecError(
                f"{asked.path} and {asked.against} read the text as different tokens: their "
                "losses do not compare."
            )
    rows = text.make_sequences(tokenizer, documents, asked.context)[Split.REPORT]
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
    """Return the mean of a loss over sequences with its t-interval."""
    mean = float(values.mean())
    if not values.std() > 0:
        return Estimate(mean, (mean, mean))
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Estimate(mean, (float(interval.low), float(interval.high)))


def _exp(estimate: Estimate) -> Estimate:
    low, high = estimate.interval
    return Estimate(math.exp(estimate.value), (math.exp(low), math.exp(high)))


def _milliseconds(latency: Latency, seed: int) -> Speed:
    def median(times: tuple[float, ...]) -> Estimate:
        return Estimate(*median_interval(np.asarray(times), seed))

    token = median(latency.decode) if any(latency.decode) else None
    return Speed(median(latency.prefill), token, median(latency.total))


def _speedup(before: Latency, after: Latency, seed: int) -> Speed:
    """Return how many times faster the second is, in pairs of runs in turn."""

    def ratio(first: tuple[float, ...], second: tuple[float, ...]) -> Estimate:
        return Estimate(*median_interval(np.asarray(first) / np.asarray(second), seed))

    token = ratio(before.decode, after.decode) if any(after.decode) else None
    return Speed(ratio(before.prefill, after.prefill), token, ratio(before.total, after.total))
